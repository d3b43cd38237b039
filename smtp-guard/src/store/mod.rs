//! Decisions and counters that survive a restart.
//!
//! A sequence of [`Change`]s is saved. The next start finds a shorter sequence that comes to the same: one
//! [`Change::Save`] for each decision that is kept, one [`Change::Count`] for each counter. The keeper of decisions knows
//! the trait [`Store`]; [`Sqlite`] is what the guard runs with.
//!
//! Nobody waits for the disk: changes are handed over. A change that finds no room is returned to the caller, who tries
//! again later.

use std::borrow::Cow;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;

use crate::clock::WallTime;
use crate::decision::Ban;
use crate::key::Key;
use crate::offence::Digests;

#[cfg(test)]
pub(crate) mod memory;
mod sqlite;
#[cfg(test)]
mod tests;

pub use sqlite::{QUEUE, Sqlite, StoreError};

/// Where decisions and counters are kept. Dropping it writes what was handed over.
pub trait Store: Send + 'static {
    /// Keeps `changes` in their order, all of them or none. Waits for room at most `patience`.
    fn hand_over(&self, changes: Vec<Change>, patience: Duration) -> Result<(), Full>;

    /// Resolves as soon as all that was handed over before is safe from a crash; with an error when there is no room, or no hope.
    fn written(&self) -> oneshot::Receiver<()>;

    /// The contents that were kept before, once they could be read since the last call: at the start, or late.
    fn take_found(&self) -> Option<Found>;

    /// How addresses are digested by this installation: what it counts stays comparable.
    fn digests(&self) -> Digests;
}

/// A change of what is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A decision, in place of an earlier one of the same key.
    Save(Box<Ban>),
    /// The decision about this key is forgotten.
    Remove(Key),
    /// The counts of `key`, in words of the part that counts, in place of an earlier state of the same kind. `None`: nothing is
    /// counted any more.
    Count { kind: Cow<'static, str>, key: Key, state: Option<String>, at: WallTime },
    /// Decisions that ended before this are forgotten, and counters that were written before that.
    Purge { decisions: WallTime, counters: WallTime },
}

/// The contents that were kept.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Decisions, also those that are over but not forgotten; then counters, the latest first.
    pub changes: Vec<Change>,
    /// Whether it is a new store: then the decisions in force have to be saved again.
    pub begun: bool,
}

/// There is no room, or nobody who writes: the caller keeps the changes and tries again.
#[derive(Debug, PartialEq, Eq)]
pub struct Full;

/// How a store is: what it holds for its owner, and what is wrong with it. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct State(Arc<Mutex<Held>>);

#[derive(Debug, Default)]
struct Held {
    found: Option<Found>,
    trouble: Option<String>,
    failures: u64,
}

impl State {
    /// Why nothing is written now; `None`: all is well.
    pub fn trouble(&self) -> Option<String> {
        self.held().trouble.clone()
    }

    /// Attempts to write that failed since the start.
    pub fn failures(&self) -> u64 {
        self.held().failures
    }

    /// How an attempt to write ended.
    fn attempted(&self, trouble: Option<String>) {
        let mut held = self.held();
        held.failures += u64::from(trouble.is_some());
        held.trouble = trouble;
    }

    fn take_found(&self) -> Option<Found> {
        self.held().found.take()
    }

    // A panic elsewhere can't leave it half changed.
    fn held(&self) -> MutexGuard<'_, Held> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
