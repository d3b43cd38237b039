//! Stops asking servers that don't answer. Pure: time is passed in.
//!
//! One sign alone proves nothing: a resolver that works is silent while it waits for a client's dead zone. A spammer may have
//! as many dead zones as he likes. So silence in a row only makes the servers suspect. The very next look-up is a trial. Beside
//! it goes a question of ours that every resolver answers at once (`asker`). One answer of any kind clears the servers.
//! Look-ups that come meanwhile wait for it (`doubt`). So dead zones cost others the time of one answer. A dead server costs
//! one look-up a second.

use std::time::{Duration, Instant};

/// Look-ups in a row without an answer that make the servers suspect.
const ENOUGH: u32 = 8;
/// Time between two trials.
const PAUSE: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
pub(super) struct Breaker {
    silent_in_a_row: u32,
    /// When the next look-up may be tried; None while the servers are trusted.
    next_trial: Option<Instant>,
    /// A trial failed, so the silence is known to be the servers', and was told.
    told: bool,
}

/// Whether a look-up may go out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Admission {
    Free,
    /// Goes out to see whether a server answers. Nothing waits for its end, so it may be dropped.
    Trial,
    Denied,
}

impl Breaker {
    pub(super) fn admit(&mut self, now: Instant) -> Admission {
        match self.next_trial {
            None => Admission::Free,
            Some(next) if next <= now => {
                self.next_trial = Some(now + PAUSE);
                Admission::Trial
            }
            Some(_) => Admission::Denied,
        }
    }

    /// While the servers are suspected and nothing is known yet: how long it is at most until the next trial.
    pub(super) fn doubt(&self, now: Instant) -> Option<Duration> {
        self.next_trial.filter(|_| !self.told).map(|next| next.saturating_duration_since(now))
    }

    /// A server has answered, whatever it said. True if their silence had been told.
    pub(super) fn answered(&mut self) -> bool {
        std::mem::take(self).told
    }

    /// A look-up ended without an answer from any server. True if their silence is to be told now.
    pub(super) fn silent(&mut self, admission: Admission, now: Instant) -> bool {
        self.silent_in_a_row = self.silent_in_a_row.saturating_add(1);
        if self.silent_in_a_row < ENOUGH {
            return false;
        }
        self.next_trial.get_or_insert(now);
        admission == Admission::Trial && !std::mem::replace(&mut self.told, true)
    }
}

#[cfg(test)]
mod tests;
