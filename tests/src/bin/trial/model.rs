//! The parts of a trial: recipients, messages, sessions to come, and the sender profile that they belong to.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

pub(crate) const SECOND: Duration = Duration::from_secs(1);
pub(crate) const MINUTE: Duration = Duration::from_secs(60);
pub(crate) const HOUR: Duration = Duration::from_secs(3600);
pub(crate) const DAY: Duration = Duration::from_secs(24 * 3600);

/// An address in our domain. Numbers tell them apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Recipient {
    /// There is a mailbox.
    Mailbox(u32),
    /// There is one; its server says 450 for the first [`GREYLIST`] after it was asked first.
    Greylisted(u32),
    /// There is none.
    Nobody(u32),
    /// There is none, and somebody has chosen the name by its digest.
    Chosen(u32),
    /// There is one for [`PARTNER`]; whoever else asks is told that there is none.
    Closed(u32),
    /// In `recipients.traps`.
    Trap,
}

/// How long the backend holds a greylisted recipient off.
pub(crate) const GREYLIST: Duration = Duration::from_secs(300);
/// The domain that is guarded.
pub(crate) const DOMAIN: &str = "example.org";
/// A sender whose messages the backend refuses at the dot.
pub(crate) const SPAMMER: &str = "spam@client.example";

/// The sender of whom closed addresses take mail.
pub(crate) const PARTNER: &str = "partner@client.example";

/// The backend's answer to RCPT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    Exists,
    Unknown,
    NotNow,
}

impl Recipient {
    pub(crate) fn address(self) -> String {
        match self {
            Self::Mailbox(number) => format!("user{number}@{DOMAIN}"),
            Self::Greylisted(number) => format!("grey{number}@{DOMAIN}"),
            Self::Nobody(number) => format!("nobody{number}@{DOMAIN}"),
            Self::Chosen(number) => format!("chosen{number}@{DOMAIN}"),
            Self::Closed(number) => format!("closed{number}@{DOMAIN}"),
            Self::Trap => format!("trap@{DOMAIN}"),
        }
    }

    pub(crate) fn exists(self) -> bool {
        matches!(self, Self::Mailbox(_) | Self::Greylisted(_) | Self::Closed(_))
    }
}

/// One transaction.
#[derive(Clone, Debug)]
pub(crate) struct Mail {
    /// Without angle brackets; empty for a bounce.
    pub(crate) sender: &'static str,
    pub(crate) recipients: Vec<Recipient>,
    /// A message is sent to those that are accepted. Otherwise RSET follows, and being told 250 is all that is wanted.
    pub(crate) sends: bool,
    /// Whether it was put off before.
    pub(crate) late: bool,
}

/// A client's way with a message that was put off: a 4xx, a connection that was refused or lost.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Retry {
    pub(crate) after: Duration,
    pub(crate) times: u32,
}

/// One session that begins at `at` after the start of the trial.
#[derive(Clone, Debug)]
pub(crate) struct Visit {
    pub(crate) at: Duration,
    pub(crate) source: IpAddr,
    pub(crate) mails: Vec<Mail>,
    /// Between a reply and the next command.
    pub(crate) pace: Duration,
    /// Its user logs in.
    pub(crate) login: bool,
    /// RCPTs are sent without waiting for replies.
    pub(crate) pipelined: bool,
    pub(crate) retry: Retry,
    /// Its mail is wanted, and the source must not be banned.
    pub(crate) honest: bool,
}

/// The site behind the guard, and how the guard is set up.
#[derive(Clone, Debug)]
pub(crate) struct Site {
    /// How the backend says that a recipient is unknown; `{r}` is the recipient.
    pub(crate) says: &'static str,
    /// The domain is held for one of which the backend takes any recipient: its directory was away when it was asked.
    pub(crate) catch_all: bool,
    /// In `relay.networks`.
    pub(crate) own: Option<IpAddr>,
    /// `edge.max_sources`.
    pub(crate) max_sources: usize,
    /// Edges in front of it, to which connections come in turn.
    pub(crate) edges: usize,
    /// Whether they are a fleet.
    pub(crate) fleet: bool,
}

impl Default for Site {
    fn default() -> Self {
        Self {
            // In Postfix' words.
            says: "550 5.1.1 <{r}>: Recipient address rejected: User unknown in virtual mailbox table",
            catch_all: false,
            own: None,
            max_sources: 1_000_000,
            edges: 1,
            fleet: false,
        }
    }
}

/// A sender, or an attack.
#[derive(Clone, Debug)]
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    pub(crate) visits: Vec<Visit>,
    pub(crate) site: Site,
    /// Existing recipients below this number are no news to an attacker.
    pub(crate) known_below: u32,
    /// The start of the time that is reported.
    pub(crate) begins: Duration,
    /// Nothing happens later; honest mail that is still waiting is lost.
    pub(crate) ends: Duration,
    /// All of the attack comes from one source.
    pub(crate) single: bool,
}

impl Scenario {
    pub(crate) fn is_attack(&self) -> bool {
        self.visits.iter().any(|visit| !visit.honest)
    }
}

/// SplitMix64: the same traffic for the same seed, on every machine.
pub(crate) struct Random(u64);

impl Random {
    /// Traffic of `name` with `seed`: profiles don't depend on each other.
    pub(crate) fn new(seed: u64, name: &str) -> Self {
        let hash = name
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
        Self(hash ^ seed.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    pub(crate) fn below(&mut self, bound: u32) -> u32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        u32::try_from((mixed ^ (mixed >> 31)) % u64::from(bound.max(1))).unwrap_or(0)
    }

    pub(crate) fn percent(&mut self, percent: u32) -> bool {
        self.below(100) < percent
    }

    /// Some moment of `span`.
    pub(crate) fn within(&mut self, span: Duration) -> Duration {
        Duration::from_millis(u64::from(self.below(u32::try_from(span.as_millis()).unwrap_or(u32::MAX))))
    }

    /// `count` distinct recipients; each exists with `percent` in a hundred. The others' numbers are below `nobodies`.
    pub(crate) fn list(&mut self, count: u32, percent: u32) -> Vec<Recipient> {
        (0..count)
            .map(|n| if self.percent(percent) { Recipient::Mailbox(1000 + n) } else { Recipient::Nobody(1000 + n) })
            .collect()
    }
}

/// An address of the documentation's networks, and beyond: nobody's.
pub(crate) fn v4(network: u8, host: u32) -> IpAddr {
    let [_, high, low, last] = host.to_be_bytes();
    Ipv4Addr::new(10 + high, network.wrapping_add(low), low.wrapping_mul(7), last).into()
}

/// The first address of the `n`th /64 of a /48.
pub(crate) fn v6(n: u16) -> IpAddr {
    Ipv6Addr::new(0x2001, 0xdb8, 1, n, 0, 0, 0, 1).into()
}
