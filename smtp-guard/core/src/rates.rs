//! Rates of sources in a trailing time: connections in a minute, messages in an hour.
//!
//! # The count
//! A window is twelve slices ([`window`]). What happened counts for the whole window and up to one slice longer, never
//! shorter: in no trailing window is more let through than the limit. What is refused isn't counted, so that a sender who
//! keeps trying gets on as soon as there is room.
//!
//! # Bounds
//! At most `max` keys ([`sharded`]). When a new key finds no room, some keys are looked at. One that has been silent for a
//! window is forgotten, else the one with the lowest count. An active offender is not forgotten for strangers.
//!
//! Users who logged in are counted in [`accounts`], by the same means.

use std::hash::Hash;
use std::time::Duration;

use crate::addr::Source;
use crate::clock::{Both, Instant};
use crate::config::Config;

pub mod accounts;
mod sharded;
mod told;
mod window;

pub use crate::offence::Sum;
use accounts::Accounts;
use sharded::Sharded;
use told::Told;
use window::{Pace, Window};

/// TLS handshakes that one source may begin in a minute before each further one has to wait. Ten a second are more than a
/// large sender begins from one address, and cost a core a few ms; thousands would keep it busy.
pub const HANDSHAKES: u32 = 600;

/// The rates that sources and users are limited in.
#[derive(Debug)]
pub struct Counters {
    /// TLS handshakes in a minute; not kept over a restart.
    pub handshakes: Rates,
    /// In a minute.
    pub connections: Rates,
    /// In an hour.
    pub messages: Rates,
    /// The counts of users who have logged in.
    pub accounts: Accounts,
}

impl Counters {
    /// Nothing counted yet, of as many sources as `config` has room for.
    pub fn new(config: &Config) -> Self {
        let max = config.edge.max_sources as usize;
        Self {
            handshakes: Rates::new(Duration::from_secs(60), max),
            connections: Rates::new(Duration::from_secs(60), max),
            messages: Rates::new(Duration::from_secs(3600), max),
            accounts: Accounts::default(),
        }
    }

    /// Each with the name that the store knows it by.
    pub fn named(&self) -> [(&'static str, &Rates); 2] {
        [("connections", &self.connections), ("messages", &self.messages)]
    }
}

/// Counts of all sources, or of other keys.
#[derive(Debug)]
pub struct Rates<K = Source> {
    counts: Sharded<K, Window>,
    pace: Pace,
    told: Told<K>,
}

/// The answer whether there was room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    Free,
    Full,
}

/// The mode of a judgement: whether it counts what it lets through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tally {
    Count,
    /// Only looks: for `try`.
    Peek,
}

impl<K: Clone + Eq + Hash> Rates<K> {
    /// Counts events in `window`, of at most `max` keys.
    pub fn new(window: Duration, max: usize) -> Self {
        Self { counts: Sharded::new(max), pace: Pace::of(window), told: Told::default() }
    }

    /// Whether there is room for one more of `key` at `now`, where at most `limit` may be in a window; 0: any number, and nothing
    /// is counted. Counts it, unless `tally` only looks.
    pub fn judge(&self, key: K, limit: u32, now: Instant, tally: Tally) -> Room {
        if limit == 0 {
            return Room::Free;
        }
        if tally == Tally::Peek {
            return if self.view(key, now) >= limit { Room::Full } else { Room::Free };
        }
        let slice = self.pace.slice(now);
        let weight = |window: &mut Window| window.total(slice);
        let room = self.counts.change(&key, weight, |window| {
            if window.total(slice) >= limit {
                return (Room::Full, false);
            }
            window.add(slice);
            (Room::Free, true)
        });
        if room == Room::Free {
            self.told.note(&key, 1, 0);
        }
        room
    }

    /// Whether other guards are to be told what is counted here.
    pub fn share(&self, is_shared: bool) {
        self.told.set(is_shared);
    }

    /// Takes the sums that others are to be told, and how many counts found no room among it.
    pub fn take_told(&self) -> (Vec<(K, Sum)>, u64) {
        self.told.take()
    }

    /// Another guard has counted so many of `key` at `at`: they count here from `now` on.
    pub fn hear(&self, key: &K, messages: u32, at: Instant, now: Instant) {
        let (slice, now) = (self.pace.slice(at), self.pace.slice(now));
        self.counts.change(
            key,
            |window| window.total(now),
            |window| {
                window.total(now);
                window.add_past(slice, messages);
                ((), true)
            },
        );
    }

    /// How many are counted of `key` at `now`.
    pub fn view(&self, key: K, now: Instant) -> u32 {
        self.counts.get(&key).map_or(0, |mut window| window.total(self.pace.slice(now)))
    }

    /// At most `most` counts that changed since they were last told here, as the store keeps them; `None`: over.
    pub fn take_changed(&self, most: usize, both: &Both) -> Vec<(K, Option<String>)> {
        let now = self.pace.slice(both.instant);
        self.counts.take_changed(most, |window| {
            let counts = window.total(now) > 0;
            counts.then(|| serde_json::to_string(&window.saved(self.pace, both)).unwrap_or_default())
        })
    }

    /// Takes back what [`Self::take_changed`] gave.
    pub fn restore(&self, key: K, text: &str, both: &Both) {
        let saved = serde_json::from_str(text).ok();
        if let Some(window) = saved.and_then(|saved| Window::read(saved, self.pace, both)) {
            self.counts.restore(key, window);
        }
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
        let rates = Rates::new(Duration::from_secs(3600), 1000);
        let found = seconds
            .into_iter()
            .filter(|s| rates.judge(Source::v4(1), limit, at(*s), Tally::Count) == Room::Free)
            .count();
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
        let max = crate::shards::SHARDS * 32;
        let rates = Rates::new(Duration::from_secs(3600), max);
        let offender = Source::v4(1);
        for _ in 0..3 {
            assert_eq!(rates.judge(offender, 3, at(0), Tally::Count), Room::Free);
        }
        for stranger in 2..20_000 {
            rates.judge(Source::v4(stranger), 3, at(1), Tally::Count);
        }
        assert_eq!(rates.judge(offender, 3, at(1), Tally::Peek), Room::Full);
        let mut known = 0;
        rates.counts.each(|_, _| known += 1);
        assert!(known <= max, "{known}");
        assert_eq!(rates.counts.take_evicted(), 19_999 - known as u64);
    }

    /// How many more find room where others have counted some, each at a second.
    #[track_caller]
    fn check_heard(limit: u32, heard: &[(u32, u64)], now: u64, free: usize) {
        let rates = Rates::new(Duration::from_secs(3600), 1000);
        rates.share(true);
        for (messages, second) in heard {
            rates.hear(&Source::v4(1), *messages, at(*second), at(now));
        }
        let judge = |_: &usize| rates.judge(Source::v4(1), limit, at(now), Tally::Count) == Room::Free;
        let found = (0..2 * limit as usize).filter(judge).count();
        assert_eq!(found, free, "{heard:?}");
        let told = rates.take_told().0.iter().map(|(_, sum)| sum.messages as usize).sum::<usize>();
        assert_eq!(told, free, "what was heard isn't told on");
    }

    #[test]
    fn what_others_have_counted_counts_here_for_as_long() {
        check_heard(10, &[], 10_000, 10);
        check_heard(10, &[(6, 10_000)], 10_000, 4);
        check_heard(10, &[(6, 9_000), (3, 9_990)], 10_000, 1);
        check_heard(10, &[(6, 5_000), (3, 9_990)], 10_000, 7);
        check_heard(10, &[(u32::MAX, 9_999), (u32::MAX, 9_999)], 10_000, 0);
        // A clock that is ahead.
        check_heard(10, &[(6, 20_000)], 10_000, 10);
    }

    #[test]
    fn counts_survive_a_restart() {
        let before = Rates::new(Duration::from_secs(3600), 1000);
        for seconds in [1000, 1400, 2000, 4000, 4001] {
            before.judge(Source::v4(1), 5, at(seconds), Tally::Count);
        }
        let both = Both { instant: at(4100), wall: crate::clock::WallTime::from_ms(1_000_000) };
        let saved = before.take_changed(10, &both);
        assert_eq!(saved.len(), 1);
        assert!(before.take_changed(10, &both).is_empty(), "told once");
        // The machine was booted again: the same wall time is another moment.
        let after = Rates::new(Duration::from_secs(3600), 1000);
        let both = Both { instant: at(50_000), wall: both.wall };
        for (source, text) in saved {
            after.restore(source, &text.unwrap(), &both);
        }
        assert_eq!(after.view(Source::v4(1), at(50_000)), 5);
        assert_eq!(after.judge(Source::v4(1), 5, at(50_000), Tally::Count), Room::Full);
        assert_eq!(after.view(Source::v4(1), at(50_000 + 4300)), 0);
        after.restore(Source::v4(2), "nonsense", &both);
        assert_eq!(after.view(Source::v4(2), at(50_000)), 0);
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn no_trailing_window_has_more_than_the_limit(
            limit in 1u32..20, steps in prop::collection::vec(0u64..900, 1..200),
        ) {
            let rates = Rates::new(Duration::from_secs(3600), 1000);
            let (mut now, mut taken) = (0, VecDeque::new());
            for step in steps {
                now += step;
                let told = rates.judge(Source::v4(1), limit, at(now), Tally::Peek);
                prop_assert_eq!(rates.judge(Source::v4(1), limit, at(now), Tally::Count), told, "who looks is told the same");
                if told == Room::Free {
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
