//! The judgement whether a client may send one more message, or begin one more TLS handshake.

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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::config::Config;

    #[test]
    fn a_source_may_send_so_many_messages_and_a_look_takes_none() {
        for limit in [0, 1, 3] {
            let mut config = Config::builtin();
            config.limits.messages_per_hour = limit;
            let counters = Counters::new(&config);
            let snapshot = Snapshot::new(Arc::new(config), None);
            let judged = |tally| {
                let judged = message(&snapshot, &counters, Source::v4(1), None, Instant::from_ns(1), tally);
                judged.map_err(|over| (over.reason, over.first))
            };
            for _ in 0..limit {
                assert_eq!([Tally::Peek, Tally::Count].map(judged), [Ok(()); 2], "{limit}");
            }
            let beyond = if limit == 0 { Ok(()) } else { Err((Reason::MessageRate, false)) };
            assert_eq!([Tally::Peek, Tally::Count].map(judged), [beyond; 2], "{limit}");
        }
    }
}
