//! How often a source did something in a trailing time: connections in a minute, messages in an hour.
//!
//! # The count
//! A window is twelve slices. What happened counts for the whole window and up to one slice longer, never shorter: in no
//! trailing window is more let through than the limit. What is refused isn't counted, so that a sender who keeps trying
//! gets on as soon as there is room.
//!
//! # Bounds
//! At most `max` sources. When there is no room for one more, one that has been silent for a window makes room, and where
//! there is none, of some that are looked at the one with the lowest count: an active offender is not forgotten for
//! strangers. Counts begin anew with the guard.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::addr::Source;
use crate::clock::Instant;

const SHARDS: usize = 64;
const SLICES: usize = 12;
/// Sources that are looked at to find one that makes room.
const LOOK: usize = 16;

/// Counts of all sources.
#[derive(Debug)]
pub(super) struct Rates {
    shards: Vec<Mutex<HashMap<Source, Count>>>,
    hasher: RandomState,
    /// 0: no limit, and nothing is counted.
    limit: u32,
    slice_ns: u64,
    max_of_shard: usize,
}

#[derive(Clone, Copy, Debug)]
struct Count {
    /// The slice of `slices[newest % SLICES]`, in slices since the boot of the machine.
    newest: u64,
    slices: [u32; SLICES],
}

/// Whether there was room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Room {
    Free,
    Full,
}

impl Rates {
    /// At most `limit` in `window`, of at most `max` sources.
    pub(super) fn new(limit: u32, window: Duration, max: usize) -> Self {
        Self {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            hasher: RandomState::new(),
            limit,
            // One slice is the one that is being filled: the others together make the window.
            slice_ns: (u64::try_from(window.as_nanos()).unwrap_or(u64::MAX) / (SLICES as u64 - 1)).max(1),
            max_of_shard: max.div_ceil(SHARDS).max(1),
        }
    }

    /// Counts one more of `source` at `now`, if there is room.
    pub(super) fn count(&self, source: Source, now: Instant) -> Room {
        if self.limit == 0 {
            return Room::Free;
        }
        let slice = now.as_ns() / self.slice_ns;
        let index = self.hasher.hash_one(source) as usize % SHARDS;
        // A panic elsewhere can't leave a count half changed.
        let mut shard = self.shards[index].lock().unwrap_or_else(PoisonError::into_inner);
        if !shard.contains_key(&source) && shard.len() >= self.max_of_shard {
            make_room(&mut shard, slice);
        }
        let count = shard.entry(source).or_insert(Count { newest: slice, slices: [0; SLICES] });
        count.slide(slice);
        if count.total() >= self.limit {
            return Room::Full;
        }
        let place = &mut count.slices[(slice % SLICES as u64) as usize];
        *place = place.saturating_add(1);
        Room::Free
    }
}

/// Removes one source; see the head of this file.
fn make_room(shard: &mut HashMap<Source, Count>, slice: u64) {
    let looked = shard.iter_mut().take(LOOK).map(|(source, count)| {
        count.slide(slice);
        (*source, count.total())
    });
    if let Some((source, _)) = looked.min_by_key(|(_, total)| *total) {
        shard.remove(&source);
    }
}

impl Count {
    /// Empties the slices that have passed. A clock that goes back changes nothing.
    fn slide(&mut self, slice: u64) {
        let passed = slice.saturating_sub(self.newest).min(SLICES as u64);
        for step in 1..=passed {
            self.slices[((slice - passed + step) % SLICES as u64) as usize] = 0;
        }
        self.newest = self.newest.max(slice);
    }

    fn total(&self) -> u32 {
        self.slices.iter().fold(0, |sum, count| sum.saturating_add(*count))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    fn at(seconds: u64) -> Instant {
        Instant::from_ns(seconds * 1_000_000_000)
    }

    /// How many of the events at `seconds` find room.
    fn check(limit: u32, seconds: impl IntoIterator<Item = u64>, free: usize) {
        let rates = Rates::new(limit, Duration::from_secs(3600), 1000);
        let found = seconds.into_iter().filter(|s| rates.count(Source::v4(1), at(*s)) == Room::Free).count();
        assert_eq!(found, free);
    }

    #[test]
    fn the_limit_holds_and_ends() {
        check(0, 0..10_000, 10_000);
        check(5, [0; 20], 5);
        check(5, (0..20).map(|n| n * 60), 5);
        check(5, (0..20).map(|n| n * 3600), 20);
        // Room again as soon as a slice has passed, whatever was refused in between.
        check(5, (0..5).chain(10..3000).chain([3600 + 328; 3]), 8);
    }

    #[test]
    fn an_active_source_is_not_forgotten_for_strangers() {
        let max = SHARDS * 32;
        let rates = Rates::new(3, Duration::from_secs(3600), max);
        let offender = Source::v4(1);
        for _ in 0..3 {
            assert_eq!(rates.count(offender, at(0)), Room::Free);
        }
        for stranger in 2..20_000 {
            rates.count(Source::v4(stranger), at(1));
        }
        assert_eq!(rates.count(offender, at(1)), Room::Full);
        let known: usize = rates.shards.iter().map(|shard| shard.lock().unwrap().len()).sum();
        assert!(known <= max, "{known}");
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn no_trailing_window_has_more_than_the_limit(
            limit in 1u32..20, steps in prop::collection::vec(0u64..900, 1..200),
        ) {
            let rates = Rates::new(limit, Duration::from_secs(3600), 1000);
            let (mut now, mut taken) = (0, VecDeque::new());
            for step in steps {
                now += step;
                if rates.count(Source::v4(1), at(now)) == Room::Free {
                    taken.push_back(now);
                }
                while taken.front().is_some_and(|first| first + 3600 <= now) {
                    taken.pop_front();
                }
                prop_assert!(taken.len() <= limit as usize);
            }
        }
    }
}
