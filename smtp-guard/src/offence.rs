//! What sessions tell the ledger. Reports go one way, through a bounded channel; sessions never hear back.

use std::hash::{DefaultHasher, Hasher};

use crate::addr::ClientAddr;
use crate::clock::Instant;
use smtp_guard_ebpf::reason::Reason;

/// One thing that a client did, with when and from where.
#[derive(Clone, Debug)]
pub struct Report {
    pub client: ClientAddr,
    pub at: Instant,
    pub conduct: Conduct,
}

/// What the ledger reckons with: the bad and, to judge a share, the good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Conduct {
    /// A recipient that exists.
    KnownRecipient { recipient: Digest },
    /// A recipient that doesn't exist: the recipient table or a recognised reply of the backend said so. `recipient` is
    /// the normalised address, as it is shown for evidence.
    UnknownRecipient { recipient: Box<str> },
    /// Recipients that exist, asked for and then given no message: the client gave the transaction up.
    Abandoned { recipients: Box<[Digest]> },
    /// A recipient that stands in `recipients.traps`.
    Trap { recipient: Box<str> },
    /// The backend took a message.
    MessageAccepted,
    /// Anything else that is counted against a client.
    Offence(Reason),
}

/// A recipient's normalised address in 64 bits, to count distinct ones.
///
/// SipHash without a secret, so that counts survive a restart. Two addresses with one digest take about 2^32 trials to
/// find, and are then two random strings: nothing to guess mailboxes with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest(u64);

impl Digest {
    /// Of `address`, which is normalised as [`crate::wire::address::Mailbox::key`] does.
    pub fn of(address: &str) -> Self {
        let mut hasher = DefaultHasher::new();
        hasher.write(address.as_bytes());
        Self(hasher.finish())
    }

    pub(crate) const fn from_number(number: u64) -> Self {
        Self(number)
    }

    pub(crate) const fn number(self) -> u64 {
        self.0
    }

    pub(crate) const fn trailing_zeros(self) -> u32 {
        self.0.trailing_zeros()
    }
}
