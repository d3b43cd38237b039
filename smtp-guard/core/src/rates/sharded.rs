//! A bounded map of keys: silent keys make room. What has changed is told to the store.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::hash::Hash;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::shards::{SHARDS, Shards};

/// Keys that are looked at to find one that makes room.
const LOOK: usize = 16;

/// All keys with what belongs to them.
#[derive(Debug)]
pub(super) struct Sharded<K, V> {
    shards: Shards<Shard<K, V>>,
    max_of_shard: usize,
    evicted: AtomicU64,
}

#[derive(Debug)]
pub(super) struct Shard<K, V> {
    kept: HashMap<K, V>,
    /// Not yet told to the store.
    changed: HashSet<K>,
}

impl<K, V> Default for Shard<K, V> {
    fn default() -> Self {
        Self { kept: HashMap::new(), changed: HashSet::new() }
    }
}

impl<K: Clone + Eq + Hash, V> Sharded<K, V> {
    /// Room for `max` keys.
    pub(super) fn new(max: usize) -> Self {
        Self { shards: Shards::default(), max_of_shard: max.div_ceil(SHARDS).max(1), evicted: AtomicU64::new(0) }
    }

    /// Changes the value of `key` by `change`, which says whether the store has to know. A new one is put where there is
    /// none; of some that are looked at the one with the least `weight` makes room.
    pub(super) fn change<T, W: Ord>(
        &self,
        key: &K,
        weight: impl Fn(&mut V) -> W,
        change: impl FnOnce(&mut V) -> (T, bool),
    ) -> T
    where
        V: Default,
    {
        let mut shard = self.shards.of(key);
        if !shard.kept.contains_key(key) && shard.kept.len() >= self.max_of_shard {
            let looked = shard.kept.iter_mut().take(LOOK).map(|(key, value)| (key.clone(), weight(value)));
            if let Some((least, _)) = looked.min_by(|(_, a), (_, b)| a.cmp(b)) {
                shard.kept.remove(&least);
                self.evicted.fetch_add(1, Ordering::Relaxed);
            }
        }
        let (told, changed) = match shard.kept.entry(key.clone()) {
            Entry::Occupied(mut entry) => change(entry.get_mut()),
            Entry::Vacant(entry) => change(entry.insert(V::default())),
        };
        if changed {
            shard.changed.insert(key.clone());
        }
        told
    }

    /// The value of `key`, as it is.
    pub(super) fn get(&self, key: &K) -> Option<V>
    where
        V: Clone,
    {
        self.shards.of(key).kept.get(key).cloned()
    }

    /// Changes the value of `key` by `change`, where there is one.
    pub(super) fn amend(&self, key: &K, change: impl FnOnce(&mut V)) {
        let mut shard = self.shards.of(key);
        if let Some(value) = shard.kept.get_mut(key) {
            change(value);
            shard.changed.insert(key.clone());
        }
    }

    /// Forgets `key`, and lets the store forget it.
    pub(super) fn remove(&self, key: &K) -> Option<V> {
        let mut shard = self.shards.of(key);
        let removed = shard.kept.remove(key);
        if removed.is_some() {
            shard.changed.insert(key.clone());
        }
        removed
    }

    /// Restores the store's value of `key`: a value that is here already is newer, and nobody makes room for it.
    pub(super) fn restore(&self, key: K, value: V) {
        let mut shard = self.shards.of(&key);
        if shard.kept.len() < self.max_of_shard {
            shard.kept.entry(key).or_insert(value);
        }
    }

    /// At most `most` keys that changed since they were last told here, as `tell` says them; `None`: forgotten.
    pub(super) fn take_changed<T>(
        &self,
        most: usize,
        mut tell: impl FnMut(&mut V) -> Option<T>,
    ) -> Vec<(K, Option<T>)> {
        let mut told = Vec::new();
        for mut shard in self.shards.each() {
            let some: Vec<_> = shard.changed.iter().take(most - told.len()).cloned().collect();
            for key in some {
                shard.changed.remove(&key);
                let state = shard.kept.get_mut(&key).and_then(&mut tell);
                told.push((key, state));
            }
        }
        told
    }

    /// Calls `look` for each key, one shard at a time.
    pub(super) fn each(&self, mut look: impl FnMut(&K, &mut V)) {
        for mut shard in self.shards.each() {
            shard.kept.iter_mut().for_each(|(key, value)| look(key, value));
        }
    }

    /// How many keys made room since this was last asked.
    pub(super) fn take_evicted(&self) -> u64 {
        self.evicted.swap(0, Ordering::Relaxed)
    }
}
