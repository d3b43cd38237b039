//! The judgement who may send one more message, or begin one more TLS handshake.

use smtp_guard_ebpf::reason::Reason;

use super::Tally;
use crate::addr::Source;
use crate::clock::Instant;
use crate::key::User;
use crate::ledger::networks::Network;
use crate::rates::accounts::Over;
use crate::rates::{Counters, HANDSHAKES, Room};
use crate::snapshot::Snapshot;

/// Whether one more message may come from `source` at `now`, and of the user who has logged in there from a network; counted for
/// both, or for neither.
pub fn message(
    snapshot: &Snapshot,
    counters: &Counters,
    source: Source,
    user: Option<(&User, Network)>,
    now: Instant,
    tally: Tally,
) -> Result<(), Over> {
    let of_source = || source_message(snapshot, counters, source, now, tally);
    match user {
        Some((user, network)) => {
            counters.accounts.message(&snapshot.config().limits, user, network, now, tally, of_source)
        }
        None if of_source() == Room::Full => Err(Over { reason: Reason::MessageRate, first: false }),
        None => Ok(()),
    }
}

/// The part of [`message`] that is about the source alone.
pub fn source_message(snapshot: &Snapshot, counters: &Counters, source: Source, now: Instant, tally: Tally) -> Room {
    counters.messages.judge(source, snapshot.config().limits.messages_per_hour, now, tally)
}

/// Counts one more TLS handshake of `source`. `Full`: it has begun too many in a minute, and the next ones wait.
pub fn handshake(counters: &Counters, source: Source, now: Instant) -> Room {
    counters.handshakes.judge(source, HANDSHAKES, now, Tally::Count)
}
