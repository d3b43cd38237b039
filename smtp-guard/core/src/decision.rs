//! A ban as it is decided, kept and told: what ledger, store, observation and command line have in common.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use smtp_guard_ebpf::reason::Reason;

use crate::addr::Ipv6Prefix;
use crate::blocklist::Listing;
use crate::clock::{Both, Instant, WallTime};
use crate::key::{Key, Net, NoKey, Who};

/// Bans that are shown as the latest ones.
pub const LATEST: usize = 64;
/// Decisions of one [`Part`]: with long evidence ten megabytes of JSON.
pub const PART: usize = 2048;

/// A ban, as the guard holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ban {
    pub key: Key,
    pub reason: Reason,
    pub origin: Origin,
    pub made: WallTime,
    pub until: WallTime,
    /// How many bans of this key came before it without a pause; each doubles the length.
    pub repeat: u32,
    /// In the words of who made it. Those that came together share it.
    pub text: Arc<str>,
    /// The evidence, at most [`crate::ledger::EVIDENCE`] lines.
    pub evidence: Lines,
}

/// Lines of text in one piece of memory, which clones share: a guard holds a hundred thousand bans, each with some.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lines(Arc<str>);

impl Lines {
    /// The lines, in their order.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        // No line ends with its break: the last one would be followed by an empty one.
        let text = (!self.0.is_empty()).then(|| self.0.split('\n'));
        text.into_iter().flatten()
    }

    /// Each on its own.
    pub fn to_vec(&self) -> Vec<String> {
        self.iter().map(str::to_owned).collect()
    }
}

impl<T: AsRef<str>> FromIterator<T> for Lines {
    /// A break within a line becomes a space. Empty lines say nothing, and are left out.
    fn from_iter<I: IntoIterator<Item = T>>(lines: I) -> Self {
        let mut text = String::new();
        for line in lines {
            let line = line.as_ref();
            if !line.is_empty() {
                if !text.is_empty() {
                    text.push('\n');
                }
                text.extend(line.chars().map(|c| if c == '\n' { ' ' } else { c }));
            }
        }
        Self(text.into())
    }
}

/// The origin of a decision. As text `ledger`, `operator`, `operator:local`, `file:NAME` or `node:NAME`, as the store keeps it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The ledger, by its rule.
    Ledger,
    /// The operator, by `decisions add`.
    Operator,
    /// The operator, for this host alone: other guards aren't told.
    Local,
    /// A file of this name, by `decisions import`.
    File(Name),
    /// Another guard of this name.
    Node(Name),
}

/// The name of a file or a node: one line of at most [`Name::BYTES`] bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name(Arc<str>);

impl Name {
    pub const BYTES: usize = 128;

    /// `text` as a name: control characters and what is too much are left out.
    pub fn new(text: &str) -> Self {
        Self(one_line(text, Self::BYTES).into())
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// `text` on one line, and not more than `bytes` of it.
pub(crate) fn one_line(text: &str, bytes: usize) -> String {
    let line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    line[..line.floor_char_boundary(bytes)].trim().to_owned()
}

impl Origin {
    /// The kind of origin, as metrics, logs and JSON say it.
    pub const fn label(&self) -> &'static str {
        match self {
            Self::Ledger => "ledger",
            Self::Operator | Self::Local => "operator",
            Self::File(_) => "file",
            Self::Node(_) => "node",
        }
    }

    /// Whether the operator of this host decided it by hand.
    pub const fn is_operator(&self) -> bool {
        matches!(self, Self::Operator | Self::Local)
    }

    /// Which file or node.
    pub fn name(&self) -> Option<&str> {
        match self {
            Self::Ledger | Self::Operator | Self::Local => None,
            Self::File(name) | Self::Node(name) => Some(name.as_str()),
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())?;
        match self {
            Self::Ledger | Self::Operator => Ok(()),
            Self::Local => f.write_str(":local"),
            Self::File(name) | Self::Node(name) => write!(f, ":{}", name.as_str()),
        }
    }
}

impl FromStr for Origin {
    type Err = UnknownOrigin;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once(':') {
            None if text == Self::Ledger.label() => Ok(Self::Ledger),
            None if text == Self::Operator.label() => Ok(Self::Operator),
            Some(("operator", "local")) => Ok(Self::Local),
            Some(("file", name)) => Ok(Self::File(Name::new(name))),
            Some(("node", name)) => Ok(Self::Node(Name::new(name))),
            _ => Err(UnknownOrigin),
        }
    }
}

/// The user who asks over the admin socket: the one that the peer runs as, as far as the kernel says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Operator {
    pub uid: Option<u32>,
    /// He asks it of this host alone: the fleet isn't told.
    pub local: bool,
}

impl fmt::Display for Operator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.uid {
            Some(uid) => write!(f, "operator (uid {uid})"),
            None => f.write_str("operator"),
        }
    }
}

/// No text of an [`Origin`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no origin of a decision has this name")]
pub struct UnknownOrigin;

impl Ban {
    /// Whether this decision stays where `origin` decides about the same until `until`. The operator's last word stands against all
    /// others; among others, whatever lasts longer.
    pub fn stays(&self, origin: &Origin, until: WallTime) -> bool {
        match (self.origin.is_operator(), origin.is_operator()) {
            (_, true) => false,
            (true, false) => true,
            (false, false) => self.until >= until,
        }
    }
}

/// The weight of a ban that another guard caused, against that guard: whoever causes too many of a kind is mad.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weight {
    /// It has changed nothing here.
    Nothing,
    /// Mail of the source was accepted before.
    Friend,
    /// Nobody has told anything bad of the source, or an operator has decided it.
    Unseen,
    /// The source did something bad, as this guard has seen or was told.
    Seen,
}

/// The reason why a question has no answer, or a decision was refused.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    #[error("the ledger does not answer: {0}")]
    Unavailable(&'static str),
    #[error("{ip} is exempt: take it off the exempt list first, which always wins")]
    Exempt { ip: IpAddr },
    #[error(transparent)]
    NoKey(#[from] NoKey),
    #[error(
        "{who} is not blocked, since {objection}: give the networks beside that instead, or take it out of the configuration first"
    )]
    Protected { who: Who, objection: String },
    #[error("there is no room for more than {most} networks: lift others first, or have them in a [[blocklist]]")]
    NoRoom { most: usize },
    #[error(
        "there is no room for more than {most} sources (edge.max_sources): lift others first, or have them in a [[blocklist]]"
    )]
    NoRoomForSources { most: usize },
    #[error("{ip} is blocked as a part of {net}; to lift that: smtp-guard decisions delete {net}")]
    Within { ip: IpAddr, net: Net },
    #[error("as many users are held as can be: release one first")]
    TooManyHolds,
    #[error("{0:?} is not a position among decisions")]
    NoPlace(String),
}

/// A ban, as the command line and the API show it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decision {
    /// `192.0.2.1`, `2001:db8::/64` or, of a network, `192.0.2.0/24`.
    pub source: String,
    /// Label of the [`Reason`].
    pub reason: String,
    pub text: String,
    /// `ledger`, `operator`, `file` or `node`.
    pub origin: String,
    /// Which file or node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin_name: Option<String>,
    pub made: WallTime,
    pub until: WallTime,
    pub repeat: u32,
    pub evidence: Vec<String>,
}

impl Decision {
    /// A deferral of `source`, a source or a network as text, until `until`.
    pub fn deferral(source: String, both: &Both, until: Instant) -> Self {
        Self {
            source,
            reason: Reason::Deferred.label().to_owned(),
            text: Reason::Deferred.text().to_owned(),
            origin: Origin::Ledger.label().to_owned(),
            origin_name: None,
            made: both.wall,
            until: both.wall_at(until),
            repeat: 0,
            evidence: Vec::new(),
        }
    }

    /// `ban` with its key as text under `prefix`.
    pub fn of(ban: &Ban, prefix: Ipv6Prefix) -> Self {
        Self {
            source: ban.key.text(prefix),
            reason: ban.reason.label().to_owned(),
            text: ban.text.to_string(),
            origin: ban.origin.label().to_owned(),
            origin_name: ban.origin.name().map(str::to_owned),
            made: ban.made,
            until: ban.until,
            repeat: ban.repeat,
            evidence: ban.evidence.to_vec(),
        }
    }
}

impl Decision {
    /// The author of the decision, in words: `ledger`, `operator`, `file drop.txt` or `node mx2`.
    pub fn by(&self) -> String {
        match &self.origin_name {
            Some(name) => format!("{} {name}", self.origin),
            None => self.origin.clone(),
        }
    }
}

/// A part of the decisions in force: by their keys, bans before deferrals. What changes between two parts may be missing, or there
/// already; nothing else is missing, and nothing is there twice.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    pub decisions: Vec<Decision>,
    /// The place that the next part comes after; `None`: this is the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// `parts` together: bans, then deferrals, each that ends sooner before each that ends later.
pub fn join(parts: Vec<Decision>) -> Vec<Decision> {
    let mut all = parts;
    // Stable: those that end together stay in the order of their keys.
    all.sort_by_key(|decision| (decision.reason == Reason::Deferred.label(), decision.until));
    all
}

/// A decision to be put in force together with others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    pub who: Who,
    /// How long; `None`: it never ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds: Option<u64>,
    /// Why, in place of what is said of all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
}

/// The result of importing many decisions.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Imported {
    /// In force now, each key once.
    pub added: usize,
    /// Those that a decision in force outlasts, which stays.
    pub outlasted: usize,
    /// Entries by their place among all, from 0, and why.
    pub refused: Vec<(usize, String)>,
}

/// An answer about something that was changed, and whether the change is on disk: what is can't be lost by a crash.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept<T> {
    #[serde(flatten)]
    pub what: T,
    pub saved: bool,
    /// Edges of the fleet that haven't confirmed it, where somebody waited for that.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unconfirmed: Vec<String>,
}

/// The ledger's knowledge of a source.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LedgerView {
    /// Distinct unknown recipients in the window.
    pub unknown_recipients: u32,
    /// Unknown recipients after what accepted mail forgives; a harvest is judged by these.
    pub unforgiven: u32,
    /// Distinct recipients that were sent to, or may still be.
    pub known_recipients: u32,
    /// Distinct recipients that were asked for without a message.
    pub probed_recipients: u32,
    /// Unforgiven ones among unforgiven and known, 0.0 to 1.0.
    pub share: f64,
    /// Messages accepted since the ledger knows the source, of the last months.
    pub accepted: u32,
    /// A history of accepted mail: the source is deferred where others are banned.
    pub trusted: bool,
    /// The moment of the oldest that is counted; `None`: nothing in the window is.
    pub window_started: Option<WallTime>,
    /// Some of the unknown recipients.
    pub sample: Vec<String>,
    /// Failed logins in `auth.failure_window`.
    pub failed_logins: u32,
    /// Bans and deferrals that make the next one longer.
    pub trips: u32,
    /// Those of its network.
    pub neighbours: Option<NetworkView>,
}

/// A source that offended lately, and how near it is to a ban.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Suspect {
    pub source: String,
    /// As in [`LedgerView`].
    pub unforgiven: u32,
    pub known_recipients: u32,
    pub share: f64,
    pub failed_logins: u32,
    pub accepted: u32,
    /// Other things that it did, by their labels.
    pub offences: Vec<String>,
}

/// The ledger's knowledge of a source's network.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NetworkView {
    /// `192.0.2.0/24` or `2001:db8::/48`.
    pub network: String,
    pub unforgiven: u32,
    pub known_recipients: u32,
    /// Sources of it that named unknown recipients.
    pub sources: usize,
}

/// A count against its limit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CountView {
    /// Name of the limit in the configuration.
    pub name: String,
    pub count: u64,
    /// `None`: there is none.
    pub limit: Option<u64>,
}

/// All that is known of an address.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Explanation {
    pub source: String,
    pub exempt: bool,
    /// Stands in `relay.networks`.
    pub may_relay: bool,
    /// Its mail was accepted before: no greeting delay.
    pub familiar: bool,
    pub decision: Option<Decision>,
    /// Decisions about networks that hold it, the narrowest first.
    #[serde(default)]
    pub networks: Vec<Decision>,
    /// Block lists that have it.
    pub listed: Vec<Listing>,
    /// The end of its deferral: until then it hears 4xx at RCPT.
    pub deferred_until: Option<WallTime>,
    /// The deferral itself, of the source or of its network.
    #[serde(default)]
    pub deferral: Option<Decision>,
    pub ledger: Option<LedgerView>,
    pub counts: Vec<CountView>,
    /// Established connections as the kernel plane counts them; `None` without one.
    pub connections: Option<u64>,
    /// The kernel plane's verdict on a connection from it; `None` where none filters.
    #[serde(default)]
    pub kernel: Option<KernelView>,
    pub notes: Vec<String>,
}

/// The kernel plane's view of an address, as its maps are now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelView {
    /// Label of the reason why it drops them; `None`: it lets them pass.
    pub drop_reason: Option<String>,
    /// Its packets pass only because the exempt list has the address.
    pub exempt: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::Source;

    fn ban(origin: &str, until: i64) -> Ban {
        Ban {
            key: Source::v4(1).into(),
            reason: Reason::Harvest,
            origin: origin.parse().unwrap(),
            made: WallTime::from_ms(0),
            until: WallTime::from_ms(until),
            repeat: 0,
            text: Arc::default(),
            evidence: Lines::default(),
        }
    }

    #[test]
    fn lines_are_kept_in_one_piece_and_none_is_two() {
        for (lines, expected) in [
            (&[][..], &[][..]),
            (&["a"], &["a"]),
            (&["a", "", "b c"], &["a", "b c"]),
            (&["a\nb", "c"], &["a b", "c"]),
            (&["\n"], &[" "]),
        ] {
            let kept: Lines = lines.iter().collect();
            assert_eq!(kept.to_vec(), expected);
            assert_eq!(kept.iter().collect::<Lines>(), kept);
        }
    }

    /// Who has decided about a source after `decisions` came in their order, and until when.
    #[track_caller]
    fn check(decisions: &[(&str, i64)], expected: (&str, i64)) {
        let mut held: Option<Ban> = None;
        for (origin, until) in decisions {
            let new = ban(origin, *until);
            held = held.filter(|held| held.stays(&new.origin, new.until)).or(Some(new));
        }
        let held = held.unwrap();
        assert_eq!((held.origin.to_string().as_str(), held.until.as_ms()), expected, "{decisions:?}");
    }

    #[test]
    fn the_operator_stands_over_all_and_among_others_the_longer_end() {
        let others = ["ledger", "file:drop.txt", "node:mx2"];
        for other in others {
            check(&[("operator", 5), (other, 9)], ("operator", 5));
            check(&[("operator", i64::MAX), (other, 9)], ("operator", i64::MAX));
            check(&[(other, 9), ("operator", 5)], ("operator", 5));
            for first in others {
                check(&[(first, 5), (other, 9)], (other, 9));
                check(&[(first, 9), (other, 5)], (first, 9));
                check(&[(first, 9), (other, 9)], (first, 9));
            }
        }
        check(&[("operator", 9), ("operator", 5)], ("operator", 5));
        check(&[("ledger", 5), ("node:mx2", 9), ("operator", 3), ("file:drop.txt", i64::MAX)], ("operator", 3));
    }

    #[test]
    fn parts_are_joined_by_their_ends_and_deferrals_come_last() {
        let prefix = Ipv6Prefix::default();
        let at = Both { instant: Instant::default(), wall: WallTime::from_ms(0) };
        let deferral = |source: &str, seconds: u64| {
            Decision::deferral(source.to_owned(), &at, Instant::from_ns(seconds * 1_000_000_000))
        };
        let of =
            |key: u32, until: i64| Decision::of(&Ban { key: Source::v4(key).into(), ..ban("ledger", until) }, prefix);
        let parts = vec![of(1, 9), of(2, 5), of(3, i64::MAX), of(4, 5), deferral("0.0.0.5", 2), deferral("0.0.0.6", 1)];
        let joined: Vec<_> = join(parts).into_iter().map(|decision| decision.source).collect();
        assert_eq!(joined, ["0.0.0.2", "0.0.0.4", "0.0.0.1", "0.0.0.3", "0.0.0.6", "0.0.0.5"]);
    }

    #[test]
    fn an_origin_is_its_text() {
        let long = "x".repeat(1000);
        for (text, again) in [
            ("ledger", Some("ledger")),
            ("operator", Some("operator")),
            ("file:drop.txt", Some("file:drop.txt")),
            ("node:mx2.example.org:8025", Some("node:mx2.example.org:8025")),
            ("file:", Some("file:")),
            ("file:two\nlines ", Some("file:two lines")),
            (&format!("node:{long}"), Some(&*format!("node:{}", &long[..Name::BYTES]))),
            ("", None),
            ("file", None),
            ("node", None),
            ("Operator", None),
            ("operator:x", None),
            ("ledger:", None),
        ] {
            let origin = text.parse::<Origin>();
            assert_eq!(origin.as_ref().ok().map(ToString::to_string).as_deref(), again, "{text}");
            if let Ok(origin) = origin {
                assert_eq!(origin.to_string().parse(), Ok(origin));
            }
        }
    }

    #[test]
    fn who_decided_is_said_in_words() {
        for (origin, name, by) in [
            ("ledger", None, "ledger"),
            ("operator", None, "operator"),
            ("operator:local", None, "operator"),
            ("file:drop.txt", Some("drop.txt"), "file drop.txt"),
            ("node:mx2", Some("mx2"), "node mx2"),
        ] {
            let ban = ban(origin, 0);
            assert_eq!((ban.origin.name(), Decision::of(&ban, Ipv6Prefix::default()).by().as_str()), (name, by));
        }
        for (uid, said) in [(Some(1000), "operator (uid 1000)"), (None, "operator")] {
            assert_eq!(Operator { uid, local: true }.to_string(), said);
        }
    }
}
