//! Messages between edges: the one codec, and the code under the fleet's key that each carries.
//!
//! ```text
//! "sgf" | version | kind | length of the body (u32, big endian) | body (JSON) | HMAC-SHA256 of all before and the fleet's name
//! ```
//! A message of another version isn't guessed at. Within a version a field may be added that readers do without: unknown fields are
//! skipped. Nothing is allocated for a message before its code is found right.

use hmac::{Hmac, Mac as _};
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use smtp_guard_ebpf::reason::Reason;

use super::BATCH;
use crate::decision::{Decision, Origin};
use crate::offence::{Conduct, Digest, Digests, Heard};

/// The version that is written and understood.
pub const VERSION: u8 = 1;
/// Bytes of a message.
pub const MESSAGE: usize = 128 << 10;
/// Bytes of the fleet's key, at least.
pub const KEY: usize = 32;

const MAGIC: &[u8; 3] = b"sgf";
const HEAD: usize = MAGIC.len() + 1 + 1 + 4;
const CODE: usize = 32;
/// Bytes of a name or of a source as text.
const WORD: usize = 128;
/// Bytes of the message of a lift, which is kept as it came.
const LIFT: usize = 1024;
/// Digests of one report.
const DIGESTS: usize = 256;
/// Times in which an edge says that others' decisions are void.
pub(super) const VOIDS: usize = 256;
/// Lines of evidence of a decision, and bytes of all its texts.
const LINES: usize = 32;
const TEXTS: usize = 16 << 10;

/// A message between edges.
#[derive(Clone, Debug, PartialEq)]
pub enum Message {
    Evidence(Batch),
    Record(Box<Record>),
    Status(Box<Status>),
    History(History),
}

/// A part of what an edge remembers of sources whose mail is accepted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct History {
    pub node: String,
    /// When it was said.
    pub at: i64,
    pub sources: Vec<Remembered>,
}

/// A source whose mail is accepted: its number, messages that have aged, all messages, and the minute of the last one since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remembered(pub u64, pub u32, pub u32, pub u32);

/// Reports of an edge.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Batch {
    pub node: String,
    /// The run of that edge: another one for each start.
    pub run: u64,
    /// The number of this batch in that run, from 1.
    pub number: u64,
    /// When it was sent.
    pub sent: i64,
    pub reports: Vec<Said>,
    /// Counts of sources and users.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub counts: Vec<Count>,
}

/// A count of a source, or of a user, in a while.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Count {
    #[serde(rename = "w")]
    pub who: Counted,
    #[serde(rename = "t")]
    pub at: i64,
    #[serde(rename = "m", default, skip_serializing_if = "is_zero")]
    pub messages: u32,
    /// Less than none: what was told before was given back.
    #[serde(rename = "r", default, skip_serializing_if = "is_none")]
    pub recipients: i32,
}

/// The source or user that a count is about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Counted {
    /// A source as text.
    #[serde(rename = "s")]
    Source(String),
    /// The digest of a user's name.
    #[serde(rename = "u")]
    User(u64),
}

fn is_zero(number: &u32) -> bool {
    *number == 0
}

fn is_none(number: &i32) -> bool {
    *number == 0
}

/// An edge's report about a source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Said {
    /// As [`crate::key::Key::text`] has it.
    #[serde(rename = "s")]
    pub source: String,
    #[serde(rename = "t")]
    pub at: i64,
    #[serde(rename = "w")]
    pub what: Deed,
}

/// A source's conduct. Addresses cross as digests under the fleet's key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Deed {
    Unknown {
        recipient: u64,
        returned: bool,
    },
    Abandoned(Vec<u64>),
    Undelivered(Vec<u64>),
    Trap {
        recipient: u64,
        sender: u64,
    },
    /// By the label of its reason.
    Offence(String),
    /// Recipients that exist, and messages that were accepted, in a while.
    Good {
        known: Vec<u64>,
        accepted: u32,
    },
}

/// A decision that all edges share, or that one is lifted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    pub node: String,
    /// When it was decided: what is newer wins.
    pub at: i64,
    pub word: Word,
    /// The edge upon whose reports it was decided, if it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upon: Option<String>,
}

/// A decision of the fleet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Word {
    Ban(Decision),
    /// A tombstone: what was decided of `source` before it is void. It lasts until `until`.
    Lift {
        source: String,
        until: i64,
    },
}

/// How an edge is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    pub node: String,
    pub run: u64,
    pub version: String,
    pub at: i64,
    /// Its wall clock less the server's, in ms.
    pub offset: i64,
    /// The change of decisions that it has followed last.
    pub cursor: String,
    /// Edges that it doesn't listen to.
    pub muted: Vec<String>,
    /// Reports and decisions that wait for the server.
    pub kept: u64,
    /// Reports that were lost.
    pub lost: u64,
    /// When edges decided too much, as this one has found: what they decided then is void.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub void: Vec<Void>,
}

/// A time in which what an edge decided is void.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Void {
    pub node: String,
    /// Until before `until`.
    pub since: i64,
    pub until: i64,
}

/// Why a message is ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum Fault {
    #[error("it is not a message, or was cut off")]
    Form,
    #[error("it is of another version")]
    Version,
    #[error("it doesn't carry the code of this fleet's key")]
    Code,
    #[error("what it says is out of bounds")]
    Content,
    #[error("it was heard before, or is too old")]
    Repeated,
    #[error("it is from the future")]
    Future,
    #[error("its sender is muted")]
    Muted,
    #[error("another edge has this edge's name: give each its own `node` in [fleet]")]
    Name,
}

impl Fault {
    /// All of them, in their order.
    pub const ALL: [Self; 8] =
        [Self::Form, Self::Version, Self::Code, Self::Content, Self::Repeated, Self::Future, Self::Muted, Self::Name];

    /// As metrics and logs say it.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Form => "form",
            Self::Version => "version",
            Self::Code => "code",
            Self::Content => "content",
            Self::Repeated => "repeated",
            Self::Future => "future",
            Self::Muted => "muted",
            Self::Name => "name",
        }
    }
}

/// The fleet's key with its name: what makes messages, and tells those of others from what is none.
#[derive(Clone)]
pub struct Seal {
    hmac: Hmac<Sha256>,
    digests: Digests,
}

impl std::fmt::Debug for Seal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Seal")
    }
}

impl Seal {
    /// The seal of the fleet `name` with `key`; `None`: that key is too short.
    pub fn new(name: &str, key: &[u8]) -> Option<Self> {
        let key = key.trim_ascii();
        if key.len() < KEY {
            return None;
        }
        let mut secret = [0; 16];
        secret.copy_from_slice(&derived(key, name, b"addresses")?[..16]);
        // Another key for each purpose, and for each fleet.
        let hmac = Hmac::new_from_slice(&derived(key, name, b"messages")?).ok()?;
        Some(Self { hmac, digests: Digests::new(secret) })
    }

    /// The secret that all edges of the fleet digest addresses under.
    pub fn digests(&self) -> Digests {
        self.digests
    }

    /// `message` as bytes; `None`: it is longer than a message may be.
    pub fn seal(&self, message: &Message) -> Option<Vec<u8>> {
        let (kind, body) = match message {
            Message::Evidence(batch) => (b'e', serde_json::to_vec(batch)),
            Message::Record(record) => (b'd', serde_json::to_vec(record)),
            Message::Status(status) => (b's', serde_json::to_vec(status)),
            Message::History(history) => (b'h', serde_json::to_vec(history)),
        };
        let body = body.ok()?;
        let mut bytes = Vec::with_capacity(HEAD + body.len() + CODE);
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&[VERSION, kind]);
        bytes.extend_from_slice(&u32::try_from(body.len()).ok()?.to_be_bytes());
        bytes.extend_from_slice(&body);
        let code = self.hmac.clone().chain_update(&bytes).finalize().into_bytes();
        bytes.extend_from_slice(&code);
        (bytes.len() <= MESSAGE).then_some(bytes)
    }

    /// The message that `bytes` are.
    pub fn open(&self, bytes: &[u8]) -> Result<Message, Fault> {
        let head = bytes.get(..HEAD).filter(|head| head.starts_with(MAGIC)).ok_or(Fault::Form)?;
        let [_, _, _, version, kind, length @ ..] = head else { return Err(Fault::Form) };
        if *version != VERSION {
            return Err(Fault::Version);
        }
        let length = <[u8; 4]>::try_from(length).map(u32::from_be_bytes).map_err(|_| Fault::Form)? as usize;
        if bytes.len() > MESSAGE || bytes.len() != HEAD + CODE + length {
            return Err(Fault::Form);
        }
        let (said, code) = bytes.split_at(HEAD + length);
        self.hmac.clone().chain_update(said).verify_slice(code).map_err(|_| Fault::Code)?;
        let body = &said[HEAD..];
        let message = match kind {
            b'e' => serde_json::from_slice(body).map(Message::Evidence),
            b'd' => serde_json::from_slice(body).map(Message::Record),
            b's' => serde_json::from_slice(body).map(Message::Status),
            b'h' => serde_json::from_slice(body).map(Message::History),
            _ => return Err(Fault::Version),
        };
        let message = message.map_err(|_| Fault::Content)?;
        let is_long = matches!(&message, Message::Record(record) if matches!(record.word, Word::Lift { .. }))
            && bytes.len() > LIFT;
        if message.is_bounded() && !is_long { Ok(message) } else { Err(Fault::Content) }
    }
}

/// A key of its own for `purpose`.
fn derived(key: &[u8], name: &str, purpose: &[u8]) -> Option<[u8; 32]> {
    let hmac = Hmac::<Sha256>::new_from_slice(key).ok()?;
    let parts = [b"smtp-guard fleet\0", purpose, b"\0", name.as_bytes()];
    Some(parts.into_iter().fold(hmac, |hmac, part: &[u8]| hmac.chain_update(part)).finalize().into_bytes().into())
}

/// The tie-break between two records of the same moment: a number that follows from all of a sealed message.
pub fn tie(sealed: &[u8]) -> u32 {
    let last = sealed.last_chunk::<4>().copied().unwrap_or_default();
    u32::from_be_bytes(last)
}

impl Message {
    fn is_bounded(&self) -> bool {
        let word = |text: &str| !text.is_empty() && text.len() <= WORD && !text.chars().any(char::is_control);
        match self {
            Self::Evidence(batch) => {
                word(&batch.node)
                    && batch.reports.len() <= BATCH
                    && batch.reports.iter().all(|said| word(&said.source) && said.what.is_bounded())
                    && batch.counts.len() <= BATCH
                    && batch.counts.iter().all(|count| match &count.who {
                        Counted::Source(source) => word(source),
                        Counted::User(_) => true,
                    })
            }
            Self::Record(record) => {
                let bounded = match &record.word {
                    Word::Lift { .. } => true,
                    Word::Ban(ban) => {
                        let texts = ban.text.len() + ban.evidence.iter().map(String::len).sum::<usize>();
                        ban.evidence.len() <= LINES
                            && texts <= TEXTS
                            && ban.reason.len() <= WORD
                            && record.slot().is_some()
                    }
                };
                let upon = record.upon.as_deref().is_none_or(word);
                word(&record.node) && upon && word(record.source()) && record.until() > record.at && bounded
            }
            Self::History(history) => word(&history.node) && history.sources.len() <= super::PART,
            Self::Status(status) => {
                word(&status.node)
                    && status.version.len() <= WORD
                    && status.cursor.len() <= WORD
                    && status.muted.len() <= super::NODES
                    && status.muted.iter().all(|node| word(node))
                    && status.void.len() <= VOIDS
                    && status.void.iter().all(|void| word(&void.node))
            }
        }
    }
}

/// The author of a record: of each author there is one record for a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Slot {
    /// The operator's: a ban, or that what there was is lifted.
    Operator,
    /// A ledger's ban.
    Ledger,
}

impl Slot {
    /// As the server has it.
    pub const fn letter(self) -> &'static str {
        match self {
            Self::Operator => "o",
            Self::Ledger => "l",
        }
    }
}

impl Record {
    /// The source or network that it is about, as text.
    pub fn source(&self) -> &str {
        match &self.word {
            Word::Ban(ban) => &ban.source,
            Word::Lift { source, .. } => source,
        }
    }

    /// When it no longer counts.
    pub fn until(&self) -> i64 {
        match &self.word {
            Word::Ban(ban) => ban.until.as_ms(),
            Word::Lift { until, .. } => *until,
        }
    }

    /// The author; `None`: the decision is none that edges share.
    pub fn slot(&self) -> Option<Slot> {
        match &self.word {
            Word::Lift { .. } => Some(Slot::Operator),
            Word::Ban(ban) if ban.origin == Origin::Operator.label() => Some(Slot::Operator),
            Word::Ban(ban) if ban.origin == Origin::Ledger.label() => Some(Slot::Ledger),
            Word::Ban(_) => None,
        }
    }
}

impl Deed {
    /// The part of `conduct` that crosses at once; `None`: it crosses as a part of a sum.
    pub fn of(conduct: &Conduct, digests: &Digests) -> Option<Self> {
        let numbers = |list: &[Digest]| list.iter().take(DIGESTS).map(|digest| digest.number()).collect();
        Some(match conduct {
            Conduct::KnownRecipient { .. } | Conduct::MessageAccepted => return None,
            Conduct::UnknownRecipient { recipient, returned } => {
                Self::Unknown { recipient: digests.of(recipient).number(), returned: *returned }
            }
            Conduct::UnknownDigest { recipient, returned } => {
                Self::Unknown { recipient: recipient.number(), returned: *returned }
            }
            Conduct::Abandoned { recipients } => Self::Abandoned(numbers(recipients)),
            Conduct::Undelivered { recipients } => Self::Undelivered(numbers(recipients)),
            Conduct::Trap { recipient, sender } => {
                Self::Trap { recipient: digests.of(recipient).number(), sender: sender.number() }
            }
            Conduct::Offence(reason) => Self::Offence(reason.label().to_owned()),
        })
    }

    /// The report for the ledger; `None`: an offence that isn't known here.
    pub fn heard(self) -> Option<Heard> {
        let digest = Digest::from_number;
        let digests = |numbers: Vec<u64>| numbers.into_iter().map(digest).collect();
        Some(Heard::Conduct(match self {
            Self::Good { known, accepted } => return Some(Heard::Sums { known: digests(known), accepted }),
            Self::Unknown { recipient, returned } => Conduct::UnknownDigest { recipient: digest(recipient), returned },
            Self::Abandoned(numbers) => Conduct::Abandoned { recipients: digests(numbers) },
            Self::Undelivered(numbers) => Conduct::Undelivered { recipients: digests(numbers) },
            Self::Trap { recipient, sender } => {
                Conduct::Trap { recipient: digest(recipient).name().into(), sender: digest(sender) }
            }
            Self::Offence(label) => Conduct::Offence(Reason::from_label(&label)?),
        }))
    }

    fn is_bounded(&self) -> bool {
        match self {
            Self::Abandoned(numbers) | Self::Undelivered(numbers) | Self::Good { known: numbers, .. } => {
                numbers.len() <= DIGESTS
            }
            Self::Offence(label) => label.len() <= WORD,
            Self::Unknown { .. } | Self::Trap { .. } => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::clock::WallTime;

    fn seal() -> Seal {
        Seal::new("edge", &[b'k'; KEY]).unwrap()
    }

    fn deed() -> impl Strategy<Value = Deed> {
        let numbers = || proptest::collection::vec(any::<u64>(), 0..5);
        prop_oneof![
            any::<(u64, bool)>().prop_map(|(recipient, returned)| Deed::Unknown { recipient, returned }),
            numbers().prop_map(Deed::Abandoned),
            numbers().prop_map(Deed::Undelivered),
            any::<(u64, u64)>().prop_map(|(recipient, sender)| Deed::Trap { recipient, sender }),
            "[a-z_]{1,20}".prop_map(Deed::Offence),
            (numbers(), any::<u32>()).prop_map(|(known, accepted)| Deed::Good { known, accepted }),
        ]
    }

    fn word() -> impl Strategy<Value = Word> {
        let ban = ("[0-9.]{7,15}", 1i64..1000, prop_oneof![Just("ledger"), Just("operator")], ".{0,40}", any::<u32>());
        prop_oneof![
            ("[0-9.]{7,15}", 1i64..1000).prop_map(|(source, until)| Word::Lift { source, until: 5000 + until }),
            ban.prop_map(|(source, until, origin, text, repeat)| Word::Ban(Decision {
                source,
                reason: "harvest".to_owned(),
                text: text.clone(),
                origin: origin.to_owned(),
                origin_name: None,
                made: WallTime::from_ms(0),
                until: WallTime::from_ms(5000 + until),
                repeat,
                evidence: vec![text],
            })),
        ]
    }

    fn message() -> impl Strategy<Value = Message> {
        let said = ("[0-9a-f:]{1,40}", any::<i64>(), deed()).prop_map(|(source, at, what)| Said { source, at, what });
        let reports = proptest::collection::vec(said, 0..20);
        let batch = ("[a-z0-9.-]{1,60}", any::<[u64; 2]>(), any::<i64>(), reports);
        let status = ("[a-z0-9.-]{1,60}", any::<[u64; 3]>(), any::<[i64; 2]>(), "[0-9]{1,13}-[0-9]{1,5}");
        let sources = proptest::collection::vec(any::<(u64, [u32; 3])>(), 0..20);
        let history = ("[a-z0-9.-]{1,60}", any::<i64>(), sources);
        prop_oneof![
            history.prop_map(|(node, at, sources)| {
                let sources =
                    sources.into_iter().map(|(source, [aged, all, last])| Remembered(source, aged, all, last));
                Message::History(History { node, at, sources: sources.collect() })
            }),
            batch.prop_map(|(node, [run, number], sent, reports)| {
                let who = [Counted::Source("192.0.2.1".to_owned()), Counted::User(run)];
                let count = |who| Count { who, at: sent, messages: number as u32, recipients: number as i32 % 5 };
                Message::Evidence(Batch { node, run, number, sent, reports, counts: who.map(count).into() })
            }),
            ("[a-z0-9.-]{1,60}", 0i64..5000, word()).prop_map(|(node, at, word)| Message::Record(Box::new(Record {
                node,
                at,
                word,
                upon: (at % 2 == 0).then(|| "mx9".to_owned()),
            }))),
            status.prop_map(|(node, [run, kept, lost], [at, offset], cursor)| {
                let (version, muted) = ("1.2.3".to_owned(), vec![node.clone()]);
                let void = vec![Void { node: node.clone(), since: at, until: offset }];
                Message::Status(Box::new(Status { node, run, version, at, offset, cursor, muted, kept, lost, void }))
            }),
        ]
    }

    proptest! {
        #[test]
        fn a_message_is_read_as_it_was_written(message in message()) {
            let bytes = seal().seal(&message).unwrap();
            prop_assert_eq!(seal().open(&bytes), Ok(message));
        }

        #[test]
        fn a_message_that_was_touched_is_none(message in message(), place: prop::sample::Index, bit in 0u8..8, cut: prop::sample::Index) {
            let bytes = seal().seal(&message).unwrap();
            let mut touched = bytes.clone();
            touched[place.index(bytes.len())] ^= 1 << bit;
            prop_assert!(seal().open(&touched).is_err());
            prop_assert!(seal().open(&bytes[..cut.index(bytes.len())]).is_err());
            for other in [Seal::new("edge2", &[b'k'; KEY]), Seal::new("edge", &[b'l'; KEY])] {
                prop_assert_eq!(other.unwrap().open(&bytes), Err(Fault::Code));
            }
        }

        #[test]
        fn junk_is_refused(junk: Vec<u8>, body: Vec<u8>) {
            prop_assert!(seal().open(&junk).is_err());
            let mut bytes = [MAGIC.as_slice(), &[VERSION, b'd'], &(body.len() as u32).to_be_bytes(), &body].concat();
            prop_assert_eq!(seal().open(&bytes), Err(Fault::Form));
            bytes.extend_from_slice(&[0; CODE]);
            prop_assert_eq!(seal().open(&bytes), Err(Fault::Code));
        }
    }

    /// What a message of this kind with this body is refused for, where its code is right.
    #[track_caller]
    fn check(version: u8, kind: u8, body: &str, expected: Fault) {
        let seal = seal();
        let length = u32::try_from(body.len()).unwrap().to_be_bytes();
        let mut bytes = [MAGIC.as_slice(), &[version, kind], &length, body.as_bytes()].concat();
        let code = seal.hmac.clone().chain_update(&bytes).finalize().into_bytes();
        bytes.extend_from_slice(&code);
        assert_eq!(seal.open(&bytes), Err(expected), "{body:.80}");
    }

    #[test]
    fn what_is_out_of_bounds_is_refused_whoever_says_it() {
        check(VERSION + 1, b'e', "{}", Fault::Version);
        check(VERSION, b'x', "{}", Fault::Version);
        check(VERSION, b'e', "{}", Fault::Content);
        check(VERSION, b'd', "[[[[", Fault::Content);
        let batch = |node: &str, reports: &str| {
            format!(r#"{{"node":"{node}","run":1,"number":1,"sent":0,"reports":[{reports}]}}"#)
        };
        let said = |source: &str, what: &str| format!(r#"{{"s":"{source}","t":0,"w":{what}}}"#);
        check(VERSION, b'e', &batch("", ""), Fault::Content);
        check(VERSION, b'e', &batch(&"x".repeat(WORD + 1), ""), Fault::Content);
        check(VERSION, b'e', &batch("a\\n", ""), Fault::Content);
        let one = said("192.0.2.1", r#"{"good":{"known":[],"accepted":1}}"#);
        check(VERSION, b'e', &batch("a", &vec![one; BATCH + 1].join(",")), Fault::Content);
        let many = format!(r#"{{"abandoned":[{}]}}"#, vec!["1"; DIGESTS + 1].join(","));
        check(VERSION, b'e', &batch("a", &said("192.0.2.1", &many)), Fault::Content);
        check(VERSION, b'e', &batch("a", &said("192.0.2.1", r#"{"else":1}"#)), Fault::Content);
        let lift = |source: &str, until: i64| {
            format!(r#"{{"node":"a","at":5,"word":{{"lift":{{"source":"{source}","until":{until}}}}}}}"#)
        };
        check(VERSION, b'd', &lift("", 9), Fault::Content);
        check(VERSION, b'd', &lift("192.0.2.1", 5), Fault::Content);
        check(VERSION, b'd', &(lift("192.0.2.1", 9) + &" ".repeat(LIFT)), Fault::Content);
        let ban = |origin: &str, line: &str| {
            format!(
                r#"{{"node":"a","at":5,"word":{{"ban":{{"source":"192.0.2.1","reason":"harvest","text":"","origin":"{origin}",
                "made":0,"until":9,"repeat":0,"evidence":["{line}"]}}}}}}"#
            )
        };
        check(VERSION, b'd', &ban("file", ""), Fault::Content);
        check(VERSION, b'd', &ban("ledger", &"x".repeat(TEXTS + 1)), Fault::Content);
        check(VERSION, b'e', &" ".repeat(MESSAGE), Fault::Form);
    }

    #[test]
    fn the_longest_part_of_a_history_has_room() {
        let sources = vec![Remembered(u64::MAX, u32::MAX, u32::MAX, u32::MAX); super::super::PART];
        let history = Message::History(History { node: "n".repeat(WORD), at: i64::MIN, sources });
        let sealed = seal().seal(&history).unwrap();
        assert_eq!(seal().open(&sealed), Ok(history));
        let some = |more: usize| {
            let sources = vec!["[1,2,3,4]"; super::super::PART + more].join(",");
            format!(r#"{{"node":"a","at":5,"sources":[{sources}]}}"#)
        };
        check(VERSION, b'h', &some(1), Fault::Content);
    }

    #[test]
    fn the_longest_words_of_a_lift_have_room() {
        let word = Word::Lift { source: "2".repeat(WORD), until: i64::MAX };
        let record = Record { node: "n".repeat(WORD), at: i64::MAX - 1, word, upon: None };
        let sealed = seal().seal(&Message::Record(Box::new(record.clone()))).unwrap();
        assert_eq!(seal().open(&sealed), Ok(Message::Record(Box::new(record))));
    }

    #[test]
    fn a_key_is_long_enough_and_may_end_with_a_line() {
        assert!(Seal::new("edge", &[b'k'; KEY - 1]).is_none());
        assert!(Seal::new("edge", b"  \n").is_none());
        let mut line = vec![b'k'; KEY];
        line.push(b'\n');
        let bytes = Seal::new("edge", &line).unwrap().seal(&Message::Evidence(Batch {
            node: "a".to_owned(),
            run: 1,
            number: 1,
            sent: 0,
            reports: Vec::new(),
            counts: Vec::new(),
        }));
        assert!(seal().open(&bytes.unwrap()).is_ok());
    }
}
