//! Counts, to the store and back.

use std::time::Duration;

use super::Keeper;
use crate::bound::Bound;
use crate::clock::{Both, WallTime};
use crate::key::Key;
use crate::store::Change;

/// How often what is counted is handed to the store: this much of it a crash costs.
pub(super) const WRITE: Duration = Duration::from_secs(10);
/// Changed sources that are handed over at once: with four kinds of them less than the store's queue holds.
const CHANGES: usize = 12_288;
/// How long to wait for room in the store's queue when the guard stops.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long the store keeps what is counted of a source that is silent.
const MEMORY: Duration = Duration::from_secs(31 * 24 * 3600);
/// How long the wall clock must have gone on evenly before anything is forgotten by it.
const SETTLED: Duration = Duration::from_secs(3600);
/// The ledger's entries, in the store.
const LEDGER: &str = "ledger";
/// The kind of a user's counts in the store.
const USER: &str = "user";

impl Keeper {
    /// Takes back what an earlier guard counted.
    pub(super) fn restore_counter(&mut self, kind: &str, key: Key, state: &str, both: &Both) {
        match key {
            Key::Source(source) if kind == LEDGER => {
                self.ledger.restore(source, state, both);
                self.marks.history(source, self.ledger.is_familiar(source));
            }
            Key::Source(source) => {
                if let Some((_, rates)) = self.counters.named().into_iter().find(|(name, _)| *name == kind) {
                    rates.restore(source, state, both);
                }
            }
            Key::User(user) => self.counters.accounts.restore(user, state, both),
            // A source of a guard whose sources were wider.
            Key::Network(_) => {}
        }
    }

    /// Hands what has changed to the store, as far as there is room, and lets it forget what is too old.
    pub(super) fn write_counters_now(&mut self, both: &Both) {
        self.write_counters(both, CHANGES, Duration::ZERO);
        let ago = |age: Duration| {
            let ms = i64::try_from(age.as_millis()).unwrap_or(i64::MAX);
            WallTime::from_ms(both.wall.as_ms().saturating_sub(ms))
        };
        // A clock that is wrong for a moment must not make everything old.
        if self.wall.since(both.instant) >= SETTLED {
            self.over.clear();
            // Purging is idle work: when the queue is full the next time does it.
            let decisions = ago(self.snapshot.config().harvest.ban_max);
            let purge = Change::Purge { decisions, counters: ago(MEMORY) };
            let _ = self.store.hand_over(vec![purge], Duration::ZERO);
        }
    }

    /// Hands at most `most` of each kind of what has changed to the store, waiting for room at most `patience`.
    /// `false`: nothing has changed.
    fn write_counters(&mut self, both: &Both, most: usize, patience: Duration) -> bool {
        let ledger = self.ledger.take_changed(most, both).into_iter();
        let mut changes: Vec<_> = ledger.map(|(source, state)| (LEDGER, Key::Source(source), state)).collect();
        for (kind, rates) in self.counters.named() {
            let changed = rates.take_changed(most, both);
            changes.extend(changed.into_iter().map(|(source, state)| (kind, Key::Source(source), state)));
        }
        let users = self.counters.accounts.take_changed(most, both).into_iter();
        changes.extend(users.map(|(user, state)| (USER, Key::User(user), state)));
        let some = !changes.is_empty();
        for (kind, key, state) in changes {
            let change = Change::Count { kind: kind.into(), key, state, at: both.wall };
            if self.store.hand_over(vec![change], patience).is_err() {
                // Lost is only what a crash before the next change of this source would cost.
                self.meter.bound_reached(Bound::StoreCounters);
            }
        }
        some
    }

    /// Hands everything that has changed to the store: the guard stops. Waits for the disk.
    pub(in crate::feedback) fn close(mut self) {
        let both = crate::clock::both();
        while self.write_counters(&both, CHANGES, PATIENCE) {}
    }
}
