//! Sums that other guards are to be told: for each key, what came since they were told last.
//!
//! # Bounds
//! [`MOST`] keys; what finds no room is counted, and others hear nothing of it. Nothing is kept while nobody is to be told.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::offence::Sum;
use crate::shards::{SHARDS, Shards};

/// Keys that are summed up at once.
const MOST: usize = 65_536;

/// Sums by key.
#[derive(Debug)]
pub(super) struct Told<K> {
    is_on: AtomicBool,
    sums: Shards<HashMap<K, Sum>>,
    lost: AtomicU64,
}

impl<K> Default for Told<K> {
    fn default() -> Self {
        Self { is_on: AtomicBool::new(false), sums: Shards::default(), lost: AtomicU64::new(0) }
    }
}

impl<K: Clone + Eq + Hash> Told<K> {
    /// Whether there is anybody to be told.
    pub(super) fn set(&self, is_on: bool) {
        self.is_on.store(is_on, Ordering::Relaxed);
    }

    /// So many more of `key`.
    pub(super) fn note(&self, key: &K, messages: u32, recipients: i32) {
        if !self.is_on.load(Ordering::Relaxed) {
            return;
        }
        let mut shard = self.sums.of(key);
        if shard.len() >= MOST / SHARDS && !shard.contains_key(key) {
            self.lost.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let sum = shard.entry(key.clone()).or_default();
        sum.messages = sum.messages.saturating_add(messages);
        sum.recipients = sum.recipients.saturating_add(recipients);
    }

    /// All sums, which are no longer here; and how many found no room.
    pub(super) fn take(&self) -> (Vec<(K, Sum)>, u64) {
        let sums = self.sums.each().flat_map(|mut shard| std::mem::take(&mut *shard));
        let sums = sums.filter(|(_, sum)| *sum != Sum::default()).collect();
        (sums, self.lost.swap(0, Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_told_once_and_only_where_somebody_hears() {
        let told = Told::default();
        told.note(&1, 1, 0);
        assert_eq!(told.take(), (vec![], 0));
        told.set(true);
        for (key, messages, recipients) in [(1, 1, 0), (2, 0, 1), (1, 1, 3), (2, 0, -1)] {
            told.note(&key, messages, recipients);
        }
        assert_eq!(told.take(), (vec![(1, Sum { messages: 2, recipients: 3 })], 0));
        // Told already, and given back.
        told.note(&1, 0, -1);
        assert_eq!(told.take(), (vec![(1, Sum { messages: 0, recipients: -1 })], 0));
        (0..MOST * 2).for_each(|key| told.note(&key, 1, 0));
        let (sums, lost) = told.take();
        assert!(sums.len() <= MOST && sums.len() as u64 + lost == 2 * MOST as u64);
    }
}
