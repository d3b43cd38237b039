//! Counting distinct things in a sliding window, in bounded memory.
//!
//! Exact up to [`CAPACITY`] distinct hashes in the window. Beyond that it keeps a sample (Gibbons: those whose hash ends
//! in `level` zero bits) and multiplies; the error is then about `1/sqrt(CAPACITY / 2)`, 12 %. A big sender with a
//! hundred thousand recipients costs no more than a small one, and its share of unknown ones stays right.

use std::collections::HashMap;
use std::time::Duration;

use crate::clock::Instant;

/// Hashes that are kept.
const CAPACITY: usize = 128;

/// A set of distinct hashes, each with when it was last seen.
#[derive(Debug, Default)]
pub(super) struct Distinct {
    seen: HashMap<u64, Instant>,
    /// A hash is kept if it ends in so many zero bits.
    level: u32,
}

impl Distinct {
    /// Takes note of `hash` at `now`; `true` if it wasn't known.
    pub(super) fn insert(&mut self, hash: u64, now: Instant) -> bool {
        if hash.trailing_zeros() < self.level {
            return false;
        }
        let new = self.seen.insert(hash, now).is_none();
        while self.seen.len() > CAPACITY {
            self.level += 1;
            let level = self.level;
            self.seen.retain(|hash, _| hash.trailing_zeros() >= level);
        }
        new
    }

    /// Forgets what was last seen more than `window` before `now`.
    pub(super) fn expire(&mut self, now: Instant, window: Duration) {
        self.seen.retain(|_, at| now.since(*at) < window);
        if self.seen.is_empty() {
            self.level = 0;
        }
    }

    /// How many distinct ones there are.
    pub(super) fn count(&self) -> u32 {
        u32::try_from((self.seen.len() as u64) << self.level.min(32)).unwrap_or(u32::MAX)
    }

    /// When the oldest was last seen.
    pub(super) fn oldest(&self) -> Option<Instant> {
        self.seen.values().min().copied()
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use std::hash::{BuildHasher, RandomState};

    use super::*;

    #[test]
    fn exact_while_it_fits_and_near_beyond() {
        let hasher = RandomState::new();
        for (distinct, error) in [(0u64, 0), (10, 0), (128, 0), (1000, 500), (100_000, 50_000)] {
            let mut set = Distinct::default();
            for n in 0..distinct {
                for _ in 0..3 {
                    set.insert(hasher.hash_one(n), Instant::from_ns(n));
                }
            }
            let off = u64::from(set.count()).abs_diff(distinct);
            assert!(off <= error, "{distinct} counted as {}", set.count());
            assert!(set.seen.len() <= CAPACITY);
        }
    }

    #[test]
    fn the_window_slides() {
        let mut set = Distinct::default();
        let second = |n: u64| Instant::from_ns(n * 1_000_000_000);
        set.insert(1, second(0));
        set.insert(2, second(5));
        set.insert(1, second(8));
        set.expire(second(15), Duration::from_secs(10));
        assert_eq!(set.count(), 1, "2 was last seen 10 s ago, 1 later");
        set.expire(second(18), Duration::from_secs(10));
        assert_eq!(set.count(), 0);
    }
}
