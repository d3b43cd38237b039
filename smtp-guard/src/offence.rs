//! What sessions tell the ledger. Reports go one way, through a bounded channel; sessions never hear back.

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
    /// A recipient that exists. `recipient` is the normalised address, as for [`Conduct::UnknownRecipient`].
    KnownRecipient { recipient: Box<str> },
    /// A recipient that doesn't exist: the recipient table or a recognised reply of the backend said so.
    UnknownRecipient { recipient: Box<str> },
    /// A recipient that stands in `recipients.traps`.
    Trap { recipient: Box<str> },
    /// The backend took a message.
    MessageAccepted,
    /// Anything else that is counted against a client.
    Offence(Reason),
}
