//! Reports of sessions to the ledger. They go one way, through a bounded channel; sessions never hear back.

use siphasher::sip::SipHasher13;

use crate::addr::{ClientAddr, Source};
use crate::clock::Instant;
use smtp_guard_ebpf::reason::Reason;

/// One thing that a client did, with when and from where.
#[derive(Clone, Debug)]
pub struct Report {
    pub client: ClientAddr,
    pub at: Instant,
    pub conduct: Conduct,
}

/// Conduct that the ledger reckons with: the bad and, to judge a share, the good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Conduct {
    /// A recipient that exists.
    KnownRecipient { recipient: Digest },
    /// A recipient that doesn't exist: the recipient table or a recognised reply of the backend said so. `recipient` is
    /// the normalised address, as it is shown for evidence. `returned`: asked for a notification (`<>`), which others can
    /// provoke by forging our name as the sender.
    UnknownRecipient { recipient: Box<str>, returned: bool },
    /// An unknown recipient of which only the digest is known: another edge of the fleet was asked for it.
    UnknownDigest { recipient: Digest, returned: bool },
    /// Recipients that exist, asked for and then given no message: the client gave the transaction up, or its message was
    /// refused for good.
    Abandoned { recipients: Box<[Digest]> },
    /// Recipients that exist and whose message was not taken for now: they speak neither for the source nor against it.
    Undelivered { recipients: Box<[Digest]> },
    /// A recipient that stands in `recipients.traps`, on behalf of `sender`.
    Trap { recipient: Box<str>, sender: Digest },
    /// The backend took a message.
    MessageAccepted,
    /// Anything else that is counted against a client.
    Offence(Reason),
}

/// Another guard's report about a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard {
    /// One thing that the source did there.
    Conduct(Conduct),
    /// The good of a while: recipients that exist, and messages that were accepted. Digests count as others only where both guards
    /// have one secret.
    Sums { known: Box<[Digest]>, accepted: u32 },
}

/// A source whose mail was accepted, as guards tell each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Friend {
    pub source: Source,
    /// Messages that count for its history, and all messages.
    pub aged: u32,
    pub accepted: u32,
    /// When the last one was accepted.
    pub latest: Instant,
}

/// Messages and recipients since others were told last. Recipients may be given back later than they were told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sum {
    pub messages: u32,
    pub recipients: i32,
}

macro_rules! reports {
    ($($name:ident = $label:literal;)+) => {
        /// Kinds of reports, as metrics tell them apart.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum ReportKind { $($name,)+ }

        impl ReportKind {
            /// The labels of all kinds, in the order of their numbers.
            pub const LABELS: &'static [&'static str] = &[$($label,)+];

            /// The label in metrics.
            pub const fn label(self) -> &'static str {
                match self { $(Self::$name => $label,)+ }
            }
        }
    };
}

reports! {
    Abandoned = "abandoned";
    AuthFailure = "auth_failure";
    EarlyTalker = "early_talker";
    JunkCommands = "junk_commands";
    KnownRecipient = "known_recipient";
    MessageAccepted = "message_accepted";
    NonSmtp = "non_smtp";
    Other = "other";
    Pipelining = "pipelining";
    Protocol = "protocol";
    Smuggling = "smuggling";
    Trap = "trap";
    Undelivered = "undelivered";
    UnknownRecipient = "unknown_recipient";
}

impl Conduct {
    /// The kind of report.
    pub const fn kind(&self) -> ReportKind {
        match self {
            Self::KnownRecipient { .. } => ReportKind::KnownRecipient,
            Self::UnknownRecipient { .. } | Self::UnknownDigest { .. } | Self::Offence(Reason::UnknownRecipient) => {
                ReportKind::UnknownRecipient
            }
            Self::Abandoned { .. } => ReportKind::Abandoned,
            Self::Undelivered { .. } => ReportKind::Undelivered,
            Self::Trap { .. } => ReportKind::Trap,
            Self::MessageAccepted => ReportKind::MessageAccepted,
            Self::Offence(Reason::AuthFailures) => ReportKind::AuthFailure,
            Self::Offence(Reason::EarlyTalker) => ReportKind::EarlyTalker,
            Self::Offence(Reason::JunkCommands) => ReportKind::JunkCommands,
            Self::Offence(Reason::NonSmtp) => ReportKind::NonSmtp,
            Self::Offence(Reason::Pipelining) => ReportKind::Pipelining,
            Self::Offence(Reason::Protocol) => ReportKind::Protocol,
            Self::Offence(Reason::Smuggling) => ReportKind::Smuggling,
            Self::Offence(_) => ReportKind::Other,
        }
    }
}

/// The secret of an installation, under which addresses are digested: who doesn't know it can't choose addresses by their
/// digests. It is kept, so that counts survive a restart. The default is for tests.
#[derive(Clone, Copy, Default)]
pub struct Digests([u8; 16]);

impl std::fmt::Debug for Digests {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Digests")
    }
}

impl Digests {
    /// Under `secret`.
    pub const fn new(secret: [u8; 16]) -> Self {
        Self(secret)
    }

    /// The digest of `address`, which is normalised as [`crate::wire::address::Mailbox::key`] does.
    pub fn of(&self, address: &str) -> Digest {
        Digest(SipHasher13::new_with_key(&self.0).hash(address.as_bytes()))
    }
}

/// A recipient's normalised address in 64 bits, to count distinct ones: keyed SipHash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest(u64);

impl Digest {
    /// The digest of `address` under the secret of tests.
    pub fn of(address: &str) -> Self {
        Digests::default().of(address)
    }

    /// The digest of this number, as guards of one secret tell each other.
    pub const fn from_number(number: u64) -> Self {
        Self(number)
    }

    /// The number that it is.
    pub const fn number(self) -> u64 {
        self.0
    }

    /// As it is shown where the address isn't known.
    pub fn name(self) -> String {
        format!("#{:016x}", self.0)
    }

    /// The number that a digest is sampled by.
    pub const fn trailing_zeros(self) -> u32 {
        self.0.trailing_zeros()
    }
}
