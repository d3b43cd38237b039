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
//! strangers.

use std::collections::hash_map::RandomState;
use std::collections::{HashMap, HashSet};
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::addr::Source;
use crate::clock::{Both, Instant};
use crate::config::Config;
use crate::ledger::saved;

const SHARDS: usize = 64;
const SLICES: usize = 12;
/// Sources that are looked at to find one that makes room.
const LOOK: usize = 16;

/// TLS handshakes that one source may begin in a minute before each further one has to wait. Ten a second are more than a
/// large sender begins from one address, and cost a core a few ms; thousands would keep it busy.
const HANDSHAKES: u32 = 600;

/// The rates that a source is limited in.
#[derive(Debug)]
pub struct Counters {
    /// TLS handshakes in a minute; not kept over a restart.
    pub handshakes: Rates,
    /// In a minute.
    pub connections: Rates,
    /// In an hour.
    pub messages: Rates,
}

impl Counters {
    /// Nothing counted yet, with the limits of `config`.
    pub fn new(config: &Config) -> Self {
        let (limits, max) = (&config.limits, config.edge.max_sources as usize);
        Self {
            handshakes: Rates::new(HANDSHAKES, Duration::from_secs(60), max),
            connections: Rates::new(limits.connections_per_minute, Duration::from_secs(60), max),
            messages: Rates::new(limits.messages_per_hour, Duration::from_secs(3600), max),
        }
    }

    /// The limits of `config` from here on. What was counted stays.
    pub fn set_limits(&self, config: &Config) {
        self.connections.set_limit(config.limits.connections_per_minute);
        self.messages.set_limit(config.limits.messages_per_hour);
    }

    /// Each with the name that the store knows it by.
    pub fn named(&self) -> [(&'static str, &Rates); 2] {
        [("connections", &self.connections), ("messages", &self.messages)]
    }
}

/// Counts of all sources.
#[derive(Debug)]
pub struct Rates {
    shards: Vec<Mutex<Shard>>,
    hasher: RandomState,
    /// 0: no limit, and nothing is counted.
    limit: AtomicU32,
    slice_ns: u64,
    max_of_shard: usize,
}

#[derive(Debug, Default)]
struct Shard {
    counts: HashMap<Source, Count>,
    /// Not yet told to the store.
    changed: HashSet<Source>,
}

#[derive(Clone, Copy, Debug)]
struct Count {
    /// The slice of `slices[newest % SLICES]`, in slices since the boot of the machine.
    newest: u64,
    slices: [u32; SLICES],
}

/// Whether there was room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    Free,
    Full,
}

impl Rates {
    /// At most `limit` in `window`, of at most `max` sources.
    pub fn new(limit: u32, window: Duration, max: usize) -> Self {
        Self {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            hasher: RandomState::new(),
            limit: AtomicU32::new(limit),
            // One slice is the one that is being filled: the others together make the window.
            slice_ns: (u64::try_from(window.as_nanos()).unwrap_or(u64::MAX) / (SLICES as u64 - 1)).max(1),
            max_of_shard: max.div_ceil(SHARDS).max(1),
        }
    }

    /// At most `limit` from here on. What was counted stays.
    pub fn set_limit(&self, limit: u32) {
        self.limit.store(limit, Ordering::Relaxed);
    }

    fn limit(&self) -> u32 {
        self.limit.load(Ordering::Relaxed)
    }

    /// Counts one more of `source` at `now`, if there is room.
    pub fn count(&self, source: Source, now: Instant) -> Room {
        if self.limit() == 0 {
            return Room::Free;
        }
        let slice = now.as_ns() / self.slice_ns;
        let mut shard = self.shard(source);
        if !shard.counts.contains_key(&source) && shard.counts.len() >= self.max_of_shard {
            make_room(&mut shard.counts, slice);
        }
        let count = shard.counts.entry(source).or_insert(Count { newest: slice, slices: [0; SLICES] });
        count.slide(slice);
        if count.total() >= self.limit() {
            return Room::Full;
        }
        let place = &mut count.slices[(slice % SLICES as u64) as usize];
        *place = place.saturating_add(1);
        shard.changed.insert(source);
        Room::Free
    }

    /// How many are counted of `source` at `now`, and the limit; `None` where there is none.
    pub fn view(&self, source: Source, now: Instant) -> Option<(u32, u32)> {
        if self.limit() == 0 {
            return None;
        }
        let mut count = self.shard(source).counts.get(&source).copied()?;
        count.slide(now.as_ns() / self.slice_ns);
        Some((count.total(), self.limit()))
    }

    /// At most `most` counts that changed since they were last told here, as the store keeps them; `None`: over.
    pub fn take_changed(&self, most: usize, both: &Both) -> Vec<(Source, Option<String>)> {
        let now = both.instant.as_ns() / self.slice_ns;
        let mut told = Vec::new();
        for shard in &self.shards {
            let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            let some: Vec<_> = shard.changed.iter().take(most - told.len()).copied().collect();
            for source in some {
                shard.changed.remove(&source);
                let mut count = shard.counts.get(&source).copied();
                count.iter_mut().for_each(|count| count.slide(now));
                told.push((source, count.filter(|count| count.total() > 0).map(|count| self.saved(count, both))));
            }
        }
        told
    }

    /// Takes back what [`Self::take_changed`] gave.
    pub fn restore(&self, source: Source, text: &str, both: &Both) {
        let Some((newest, slices)) = saved::read_slices::<SLICES>(text, both) else { return };
        // Rounded up: what happened counts a little longer, never shorter.
        let newest = newest.as_ns().div_ceil(self.slice_ns);
        let mut count = Count { newest, slices: [0; SLICES] };
        for (age, n) in slices.into_iter().rev().enumerate() {
            count.slices[(newest.wrapping_sub(age as u64) % SLICES as u64) as usize] = n;
        }
        let mut shard = self.shard(source);
        if self.limit() > 0 && shard.counts.len() < self.max_of_shard {
            shard.counts.entry(source).or_insert(count);
        }
    }

    fn saved(&self, count: Count, both: &Both) -> String {
        let oldest = count.newest + 1;
        let slices: [u32; SLICES] =
            std::array::from_fn(|place| count.slices[((oldest + place as u64) % SLICES as u64) as usize]);
        saved::write_slices(Instant::from_ns(count.newest * self.slice_ns), &slices, both)
    }

    fn shard(&self, source: Source) -> MutexGuard<'_, Shard> {
        let index = self.hasher.hash_one(source) as usize % SHARDS;
        // A panic elsewhere can't leave a count half changed.
        self.shards[index].lock().unwrap_or_else(PoisonError::into_inner)
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
        let known: usize = rates.shards.iter().map(|shard| shard.lock().unwrap().counts.len()).sum();
        assert!(known <= max, "{known}");
    }

    #[test]
    fn counts_survive_a_restart() {
        let before = Rates::new(5, Duration::from_secs(3600), 1000);
        for seconds in [1000, 1400, 2000, 4000, 4001] {
            before.count(Source::v4(1), at(seconds));
        }
        let both = Both { instant: at(4100), wall: crate::clock::WallTime::from_ms(1_000_000) };
        let saved = before.take_changed(10, &both);
        assert_eq!(saved.len(), 1);
        assert!(before.take_changed(10, &both).is_empty(), "told once");
        // The machine was booted anew: the same wall time is another moment.
        let after = Rates::new(5, Duration::from_secs(3600), 1000);
        let both = Both { instant: at(50_000), wall: both.wall };
        for (source, text) in saved {
            after.restore(source, &text.unwrap(), &both);
        }
        assert_eq!(after.view(Source::v4(1), at(50_000)), Some((5, 5)));
        assert_eq!(after.count(Source::v4(1), at(50_000)), Room::Full);
        assert_eq!(after.view(Source::v4(1), at(50_000 + 4300)), Some((0, 5)));
        after.restore(Source::v4(2), "nonsense", &both);
        assert_eq!(after.view(Source::v4(2), at(50_000)), None);
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
