//! Effects of a decision: the one list that the program and the trial perform.
//!
//! An effect is data. Whoever performs it decides nothing: whom it is about, why and for how long stand in it. The effects of one
//! call are performed in their order, and of a ban the kernel's part comes first.

use std::time::Duration;

use smtp_guard_ebpf::reason::Reason;

use crate::addr::Source;
use crate::clock::Instant;
use crate::decision::{Ban, Origin};
use crate::key::Key;
use crate::ledger::networks::Network;
use crate::ledger::{Target, Verdict};
use crate::offence::Digest;

/// Something that is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// `key` is blocked in place of a ban that it has: in the kernel, in user space, then told and saved.
    Ban { key: Key, origin: Origin, text: String, grounds: Grounds },
    /// A ban that was made before goes on as it was, until `until`: in both planes, not told. `saved`: the store has it.
    Resume { ban: Box<Ban>, until: Instant, saved: bool },
    /// The ban of `key` ends in both planes, and what was saved of it is removed. Ledger and marks have forgotten it already.
    Lift { key: Key, why: Lifted },
    /// `whom` hears 4xx. The marks have it already: it is only told.
    Defer { whom: Deferred, grounds: Grounds },
}

/// The grounds of a decision: why, and for how long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grounds {
    pub reason: Reason,
    pub length: Duration,
    /// How many came before it without a pause.
    pub repeat: u32,
    /// At most [`crate::ledger::EVIDENCE`] lines.
    pub evidence: Vec<String>,
}

/// The clients who hear 4xx at RCPT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deferred {
    Source(Source),
    /// Newcomers from this network.
    Network(Network),
    /// This sender, where it comes by this source.
    Sender(Source, Digest),
}

/// The reason why a ban ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lifted {
    /// Its time is over.
    Over,
    /// The banned source is exempt now.
    Exempt,
    /// The operator said so.
    Operator,
    /// Another guard has lifted it.
    Node,
    /// A ban that lasts longer needed its room.
    Room,
}

impl Lifted {
    /// As it stands in JSON.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Over => "over",
            Self::Exempt => "exempt",
            Self::Operator => "operator",
            Self::Node => "node",
            Self::Room => "room",
        }
    }
}

impl From<Verdict> for Effect {
    fn from(verdict: Verdict) -> Self {
        let Verdict { target, reason, length, repeat, evidence } = verdict;
        let grounds = Grounds { reason, length, repeat, evidence };
        let defer = |whom, grounds| Self::Defer { whom, grounds };
        match target {
            Target::Ban(source) => {
                Self::Ban { key: source.into(), origin: Origin::Ledger, text: reason.text().to_owned(), grounds }
            }
            Target::Defer(source) => defer(Deferred::Source(source), grounds),
            Target::DeferNetwork(network) => defer(Deferred::Network(network), grounds),
            Target::DeferSender(source, sender) => defer(Deferred::Sender(source, sender), grounds),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn why_a_decision_ended_is_a_word() {
        let all = [Lifted::Over, Lifted::Exempt, Lifted::Operator, Lifted::Node, Lifted::Room];
        assert_eq!(all.map(Lifted::label), ["over", "exempt", "operator", "node", "room"]);
    }
}
