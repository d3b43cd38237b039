//! The decisions in force, by whom they are about.
//!
//! A tree, not a hash map: it is told in parts, and grows without being copied whole. Each ban is on its own, so that nodes that
//! are half full waste little.

use std::collections::BTreeMap;
use std::ops::Bound;

use crate::decision::Ban;
use crate::key::Key;

/// All decisions in force.
#[derive(Debug, Default)]
pub(super) struct InForce(BTreeMap<Key, Box<Ban>>);

impl InForce {
    pub(super) fn get(&self, key: &Key) -> Option<&Ban> {
        self.0.get(key).map(|ban| &**ban)
    }

    pub(super) fn contains_key(&self, key: &Key) -> bool {
        self.0.contains_key(key)
    }

    /// In place of what there is about the same.
    pub(super) fn insert(&mut self, ban: Ban) {
        self.0.insert(ban.key.clone(), Box::new(ban));
    }

    pub(super) fn remove(&mut self, key: &Key) -> Option<Ban> {
        self.0.remove(key).map(|ban| *ban)
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = &Key> {
        self.0.keys()
    }

    /// By their keys.
    pub(super) fn values(&self) -> impl Iterator<Item = &Ban> {
        self.0.values().map(|ban| &**ban)
    }

    pub(super) fn values_mut(&mut self) -> impl Iterator<Item = &mut Ban> {
        self.0.values_mut().map(|ban| &mut **ban)
    }

    /// By their keys, those behind `after`.
    pub(super) fn behind(&self, after: Option<&Key>) -> impl Iterator<Item = &Ban> {
        let after = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.0.range::<Key, _>((after, Bound::Unbounded)).map(|(_, ban)| &**ban)
    }
}
