//! `[checks]`, `[[dnsbl]]` and `[dns]`: what is asked about a client and its sender, and of whom.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::time::Duration;

use serde::Serialize;
use toml::Spanned;

use super::check::{SECOND, list};
use super::choices::{Granted, Mode};
use super::raw;
use super::show;
use super::values::Judge;

/// Port of DNS.
const DNS_PORT: u16 = 53;
/// Block lists that are asked about one client.
const ZONES: usize = 16;
/// The longest greeting delay: clients wait five minutes (RFC 5321 4.5.3.2.1), and honest ones not much less.
const GREETING: Duration = Duration::from_secs(60);

/// What is checked of clients that are strangers: not exempt, not in `relay.networks`, not logged in.
#[derive(Clone, Debug, Serialize)]
pub struct Checks {
    /// The sender's domain has MX, A or AAAA.
    pub sender_domain: Mode,
    /// The client has a reverse DNS entry ...
    pub ptr: Mode,
    /// ... that points back to it.
    pub ptr_forward: Mode,
    /// The client speaks before the greeting.
    pub early_talker: Mode,
    /// Before the greeting, for sources without accepted mail so far.
    #[serde(serialize_with = "show::duration")]
    pub greeting_delay: Duration,
    /// The client's address is in block lists whose weights reach `dnsbl_threshold`.
    pub dnsbl: Mode,
    pub dnsbl_threshold: u32,
    /// Whose bare LF in message data comes out as CRLF. For anybody else it is a flaw, and the message is refused.
    pub bare_newline: Granted,
    /// Who may ask for notices of delivery (RFC 3461 NOTIFY=SUCCESS): a stranger's go to whomever the sender names.
    pub success_notices: Granted,
}

/// A block list in DNS.
#[derive(Clone, Debug, Serialize)]
pub struct Dnsbl {
    /// Lower case, without a final dot.
    pub zone: String,
    /// Without one, `dnsbl_threshold`: it reaches it alone.
    pub weight: u32,
    /// Answers that mean "listed"; empty: every one that isn't an error code of the list's.
    #[serde(serialize_with = "show::ranges")]
    pub replies: Vec<RangeInclusive<Ipv4Addr>>,
}

/// Who is asked.
#[derive(Clone, Debug, Serialize)]
pub struct Dns {
    /// Empty: the system's.
    #[serde(serialize_with = "show::resolvers")]
    pub servers: Vec<SocketAddr>,
    /// For all look-ups of one decision together.
    #[serde(serialize_with = "show::duration")]
    pub timeout: Duration,
}

impl Default for Checks {
    fn default() -> Self {
        Self {
            sender_domain: Mode::Enforce,
            ptr: Mode::Observe,
            ptr_forward: Mode::Off,
            early_talker: Mode::Enforce,
            greeting_delay: 6 * SECOND,
            dnsbl: Mode::Enforce,
            dnsbl_threshold: 2,
            bare_newline: Granted::Own,
            success_notices: Granted::Own,
        }
    }
}

impl Checks {
    /// Nothing is checked and nobody waits: for a first try on the own machine.
    pub fn none() -> Self {
        Self {
            sender_domain: Mode::Off,
            ptr: Mode::Off,
            early_talker: Mode::Off,
            greeting_delay: Duration::ZERO,
            ..Self::default()
        }
    }
}

impl Default for Dns {
    fn default() -> Self {
        Self { servers: Vec::new(), timeout: 5 * SECOND }
    }
}

pub(super) fn checks(raw: &raw::Checks, judge: &mut Judge) -> Checks {
    let default = Checks::default();
    Checks {
        sender_domain: judge.choice("checks.sender_domain", &raw.sender_domain, &Mode::NAMES, default.sender_domain),
        ptr: judge.choice("checks.ptr", &raw.ptr, &Mode::NAMES, default.ptr),
        ptr_forward: judge.choice("checks.ptr_forward", &raw.ptr_forward, &Mode::NAMES, default.ptr_forward),
        early_talker: judge.choice("checks.early_talker", &raw.early_talker, &Mode::NAMES, default.early_talker),
        greeting_delay: judge.duration(
            "checks.greeting_delay",
            &raw.greeting_delay,
            Duration::ZERO..=GREETING,
            default.greeting_delay,
        ),
        dnsbl: judge.choice("checks.dnsbl", &raw.dnsbl, &Mode::NAMES, default.dnsbl),
        dnsbl_threshold: judge.number(
            "checks.dnsbl_threshold",
            &raw.dnsbl_threshold,
            1..=1_000_000,
            default.dnsbl_threshold,
        ),
        bare_newline: judge.choice("checks.bare_newline", &raw.bare_newline, &Granted::NAMES, default.bare_newline),
        success_notices: judge.choice(
            "checks.success_notices",
            &raw.success_notices,
            &Granted::NAMES,
            default.success_notices,
        ),
    }
}

pub(super) fn dnsbl(raw: &[Spanned<raw::Dnsbl>], threshold: u32, whole: bool, judge: &mut Judge) -> Vec<Dnsbl> {
    let mut zones: Vec<Dnsbl> = Vec::with_capacity(raw.len());
    for entry in raw {
        let table = entry.get_ref();
        let weight = judge.number("dnsbl.weight", &table.weight, 1..=1_000_000, threshold);
        let replies = list(&table.replies).filter_map(|reply| range(reply, judge)).collect();
        let Some(text) = &table.zone else {
            if whole {
                judge.missing(Some(entry.span()), "[[dnsbl]] without zone", "add zone = \"bl.example.net\"");
            }
            continue;
        };
        let Some(zone) = judge.domain("dnsbl.zone", text) else { continue };
        if zones.iter().any(|other| other.zone == zone) {
            judge.wrong(text.span(), format!("dnsbl.zone {zone} is named twice"), "", "remove one of the two");
        } else if zones.len() == ZONES {
            let help = "every one of them is asked about every client: keep the best";
            judge.wrong(text.span(), format!("more than {ZONES} block lists"), "", help);
        } else {
            zones.push(Dnsbl { zone, weight, replies });
        }
    }
    zones
}

pub(super) fn dns(raw: &raw::Dns, judge: &mut Judge) -> Dns {
    let default = Dns::default();
    let servers = list(&raw.servers).filter_map(|server| resolver(server, judge)).collect();
    // Less than a second to wait says nothing about a server.
    let range = 2 * SECOND..=60 * SECOND;
    Dns { servers, timeout: judge.duration("dns.timeout", &raw.timeout, range, default.timeout) }
}

/// `127.0.0.2` or `127.0.0.2-127.0.0.11`.
fn range(raw: &Spanned<String>, judge: &mut Judge) -> Option<RangeInclusive<Ipv4Addr>> {
    let text = raw.get_ref();
    let (low, high) = text.split_once('-').unwrap_or((text, text));
    let (low, high) = (low.trim().parse::<Ipv4Addr>(), high.trim().parse::<Ipv4Addr>());
    match (low, high) {
        (Ok(low), Ok(high)) if low.is_loopback() && high.is_loopback() && low <= high => Some(low..=high),
        _ => {
            let help = "write an answer or a range of them within 127.0.0.0/8: \"127.0.0.2-127.0.0.11\"";
            judge.wrong(raw.span(), format!("dnsbl.replies: {text:?} is no answer of a block list"), "", help);
            None
        }
    }
}

/// An address, with a port only where it isn't 53.
fn resolver(raw: &Spanned<String>, judge: &mut Judge) -> Option<SocketAddr> {
    let text = raw.get_ref();
    let address = text.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, DNS_PORT)).or_else(|_| text.parse());
    match address {
        Ok(address) if address.port() != 0 && !address.ip().is_unspecified() => Some(address),
        _ => {
            let help = "write an address: \"192.0.2.53\", or with a port \"[2001:db8::53]:5353\"";
            judge.wrong(raw.span(), format!("dns.servers: {text:?} is no name server's address"), "", help);
            None
        }
    }
}
