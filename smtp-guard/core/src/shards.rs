//! Shards: the parts of one map, each behind a lock of its own.
//!
//! A caller that asks for a key waits only for one that changes a key of the same shard. The owner says what a shard holds, and
//! bounds it.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hash};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// How many there are of one map.
pub const SHARDS: usize = 64;

/// All shards of a map.
#[derive(Debug)]
pub struct Shards<S> {
    shards: [Mutex<S>; SHARDS],
    hasher: RandomState,
}

impl<S: Default> Default for Shards<S> {
    fn default() -> Self {
        Self { shards: std::array::from_fn(|_| Mutex::default()), hasher: RandomState::new() }
    }
}

impl<S> Shards<S> {
    /// The shard of `key`, for as long as the guard lives.
    pub fn of<K: Hash>(&self, key: &K) -> MutexGuard<'_, S> {
        self.at(self.hasher.hash_one(key) as usize)
    }

    /// One after the other, for who looks at one a call.
    pub fn at(&self, turn: usize) -> MutexGuard<'_, S> {
        // A panic elsewhere can't leave an entry half changed: each is put in its place whole.
        self.shards[turn % SHARDS].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All of them, each locked when it is its turn.
    pub fn each(&self) -> impl Iterator<Item = MutexGuard<'_, S>> {
        (0..SHARDS).map(|turn| self.at(turn))
    }
}
