//! `[checks]`, `[[dnsbl]]` and `[dns]`: what is asked about a client and its sender, and of whom.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::time::Duration;

use serde::{Serialize, Serializer};
use toml::Spanned;

use super::choices::Mode;
use super::judge::{Judge, domain_fault};
use super::raw::{List, list};
use super::value::{RawEntry, Value};
use super::{Checks, Config};

/// The least answer that can mean "listed" (RFC 5782 section 5).
const FIRST: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
/// Port of DNS.
const DNS_PORT: u16 = 53;
/// Block lists that are asked about one client.
const ZONES: usize = 16;
/// Bytes of a list's name, which stands in replies, log and metrics.
const NAME: usize = 64;
/// The weight of a list that has none of its own; no list can be given this one.
const UNWEIGHED: u32 = 0;
/// Letters and digits of a zone's first label above which it is taken for a key. Keys have 25 and more.
const KEY: usize = 20;

/// A block list in DNS.
#[derive(Clone, PartialEq)]
pub struct Dnsbl {
    /// Lower case, without a final dot. It may hold a secret key, so it is shown only if it is the name as well.
    pub zone: String,
    /// The list's name in refusals, log, metrics and `status`: `name`, or the zone without a key in it.
    pub name: String,
    /// Without one, `dnsbl_threshold`: it reaches it alone.
    pub weight: u32,
    /// Answers that mean "listed"; empty: every one that isn't an error code of the list's.
    pub replies: Vec<RangeInclusive<Ipv4Addr>>,
}

impl Dnsbl {
    /// The text that `config show` writes in place of a zone that isn't to be seen. `check` refuses it, so that nobody takes it for
    /// a zone.
    const HIDDEN: &str = "(not shown)";
}

impl Serialize for Dnsbl {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Shown<'a> {
            zone: &'a str,
            name: &'a str,
            weight: u32,
            replies: Vec<String>,
        }
        let Self { zone, name, weight, replies } = self;
        let zone = if zone == name { zone } else { Self::HIDDEN };
        let replies = replies.iter().map(|range| format!("{}-{}", range.start(), range.end())).collect();
        Shown { zone, name, weight: *weight, replies }.serialize(out)
    }
}

impl fmt::Debug for Dnsbl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { zone: _, name, weight, replies } = self;
        let mut all = f.debug_struct("Dnsbl");
        all.field("name", name).field("weight", weight).field("replies", replies).finish_non_exhaustive()
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

impl Value for Vec<Dnsbl> {
    type Raw = Vec<Spanned<RawEntry<Dnsbl>>>;

    fn judge(_: &str, raw: &Self::Raw, judge: &mut Judge) -> Self {
        dnsbl(raw, judge)
    }

    fn show<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        self.serialize(out)
    }
}

/// Lists without a weight get that of the threshold.
pub(super) fn weigh(config: &mut Config) {
    for list in config.dnsbl.iter_mut().filter(|list| list.weight == UNWEIGHED) {
        list.weight = config.checks.dnsbl_threshold;
    }
}

fn dnsbl(raw: &[Spanned<RawEntry<Dnsbl>>], judge: &mut Judge) -> Vec<Dnsbl> {
    let mut zones: Vec<Dnsbl> = Vec::with_capacity(raw.len());
    for entry in raw {
        let table = entry.get_ref();
        let weight = table.weight.as_ref().map_or(UNWEIGHED, |_| judge.number("dnsbl.weight", &table.weight));
        let replies = list(&table.replies).filter_map(|reply| range(reply, judge)).collect();
        let Some(text) = &table.zone else {
            if judge.whole {
                judge.missing(Some(entry.span()), "[[dnsbl]] without zone", "add zone = \"bl.example.net\"");
            }
            continue;
        };
        let Some((zone, name)) = zone_and_name(text, table.name.as_ref(), judge) else { continue };
        // A line with a key in it isn't shown.
        let span = table.name.as_ref().map_or_else(|| text.span(), Spanned::span);
        if zones.iter().any(|other| other.zone == zone) {
            judge.wrong(span, format!("dnsbl.zone {name} is named twice"), "", "remove one of the two");
        } else if zones.iter().any(|other| other.name == name) {
            let help = "write another name = \"...\" for one of the two";
            judge.wrong(span, format!("dnsbl.name {name} is given twice"), "", help);
        } else if zones.len() == ZONES {
            let help = "each of them is asked about every client: keep the best ones";
            judge.wrong(text.span(), format!("more than {ZONES} block lists"), "", help);
        } else {
            zones.push(Dnsbl { zone, name, weight, replies });
        }
    }
    zones
}

/// A list's zone, and what it is called where somebody can see it: its name, or its zone without a key.
fn zone_and_name(
    zone: &Spanned<String>,
    name: Option<&Spanned<String>>,
    judge: &mut Judge,
) -> Option<(String, String)> {
    if zone.get_ref() == Dnsbl::HIDDEN {
        let help = "`config show` doesn't show the zones of lists with a name: write the list's zone";
        judge.wrong(zone.span(), "dnsbl.zone isn't shown".to_owned(), "", help);
        return None;
    }
    let Some(raw) = name else {
        let zone = judge.domain("dnsbl.zone", zone)?;
        let shown = without_key(&zone);
        return Some((zone, shown));
    };
    let name = raw.get_ref();
    let is_good = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    if name.is_empty() || name.len() > NAME || !name.bytes().all(is_good) {
        let help = format!("write a word of at most {NAME} letters, digits, '.', '_' and '-': \"zen\"");
        judge.wrong(raw.span(), format!("dnsbl.name can't be {name:?}"), "", help);
        return None;
    }
    let text = zone.get_ref().strip_suffix('.').unwrap_or(zone.get_ref());
    if let Some(help) = domain_fault(text) {
        judge.wrong(raw.span(), format!("dnsbl.zone of {name} is not a domain name"), "", help);
        return None;
    }
    Some((text.to_ascii_lowercase(), name.clone()))
}

/// `zone` without its first label where that looks like a key.
fn without_key(zone: &str) -> String {
    match zone.split_once('.') {
        Some((first, rest)) if first.bytes().filter(u8::is_ascii_alphanumeric).count() > KEY => format!("*.{rest}"),
        _ => zone.to_owned(),
    }
}

pub(super) fn resolvers(_: &str, raw: &List, judge: &mut Judge) -> Vec<SocketAddr> {
    list(raw).filter_map(|server| resolver(server, judge)).collect()
}

/// `127.0.0.2` or `127.0.0.2-127.0.0.11`.
fn range(raw: &Spanned<String>, judge: &mut Judge) -> Option<RangeInclusive<Ipv4Addr>> {
    let text = raw.get_ref();
    let (low, high) = text.split_once('-').unwrap_or((text, text));
    let (low, high) = (low.trim().parse::<Ipv4Addr>(), high.trim().parse::<Ipv4Addr>());
    match (low, high) {
        (Ok(low), Ok(high)) if low.is_loopback() && high >= FIRST && high.is_loopback() && low <= high => {
            Some(low..=high)
        }
        _ => {
            let help =
                "write an answer or a range of them within 127.0.0.0/8, from 127.0.0.2 on: \"127.0.0.2-127.0.0.11\"";
            judge.wrong(raw.span(), format!("dnsbl.replies: {text:?} is not an answer of a DNS block list"), "", help);
            None
        }
    }
}

/// An address, with a port only where it isn't 53.
fn resolver(raw: &Spanned<String>, judge: &mut Judge) -> Option<SocketAddr> {
    if judge.has_no_port("dns.servers", raw) {
        return None;
    }
    let text = raw.get_ref();
    let address = text.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, DNS_PORT)).or_else(|_| text.parse());
    match address {
        Ok(address) if address.port() != 0 && !address.ip().is_unspecified() => Some(address),
        _ => {
            let help = "write an address: \"192.0.2.53\", or with a port \"[2001:db8::53]:5353\"";
            judge.wrong(raw.span(), format!("dns.servers: {text:?} is not the address of a name server"), "", help);
            None
        }
    }
}
