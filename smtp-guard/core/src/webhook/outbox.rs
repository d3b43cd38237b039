//! Events that wait for the receiver, and when it is tried.

use std::collections::VecDeque;
use std::time::Duration;

use super::answer::Fate;
use crate::clock::Instant;

/// Events that wait; further ones take the place of the oldest.
pub const QUEUE: usize = 4096;
/// Events of a request.
pub const BATCH: usize = 100;
/// How long an event waits for others that go with it.
pub const GATHER: Duration = Duration::from_millis(200);
/// Between two tries: after the first failure, and after many.
pub const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(300));

/// Events that are told together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch<T> {
    /// Counted from 1; the same at each try.
    pub number: u64,
    /// So many events before these are told to nobody.
    pub lost: u64,
    pub events: Vec<T>,
}

/// Events that wait, oldest first.
#[derive(Debug)]
pub struct Outbox<T> {
    /// Each with when it came.
    waiting: VecDeque<(Instant, T)>,
    /// The batch that was tried, or is being tried.
    under_way: Option<Batch<T>>,
    /// Events that the next batch says are missing.
    lost: u64,
    batches: u64,
    /// Requests in a row that failed.
    failures: u32,
    not_before: Instant,
    counts: Counts,
}

/// Counts since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Events that were taken.
    pub delivered: u64,
    /// Events that nobody will be told of.
    pub dropped: u64,
    /// Requests that were not taken.
    pub failures: u64,
}

impl<T> Default for Outbox<T> {
    fn default() -> Self {
        Self {
            waiting: VecDeque::new(),
            under_way: None,
            lost: 0,
            batches: 0,
            failures: 0,
            not_before: Instant::default(),
            counts: Counts::default(),
        }
    }
}

impl<T> Outbox<T> {
    /// An event happened; `false`: the oldest had to make room.
    pub fn push(&mut self, event: T, now: Instant) -> bool {
        let full = self.waiting.len() >= QUEUE;
        if full {
            self.waiting.pop_front();
            self.drop_events(1);
        }
        self.waiting.push_back((now, event));
        !full
    }

    /// So many events happened that nobody kept.
    pub fn missed(&mut self, events: u64) {
        self.drop_events(events);
    }

    /// When the receiver is to be tried; `None`: there is nothing to tell.
    pub fn due(&self) -> Option<Instant> {
        let ready = match (&self.under_way, self.waiting.front()) {
            (None, None) => return None,
            (None, Some((came, _))) if self.waiting.len() < BATCH => came.after(GATHER),
            _ => Instant::default(),
        };
        Some(ready.max(self.not_before))
    }

    /// Takes the batch that is told now: the same until it was answered. `None`: there is nothing to tell.
    pub fn take(&mut self) -> Option<&Batch<T>> {
        if self.under_way.is_none() && !self.waiting.is_empty() {
            self.batches += 1;
            let most = self.waiting.len().min(BATCH);
            let events = self.waiting.drain(..most).map(|(_, event)| event).collect();
            self.under_way = Some(Batch { number: self.batches, lost: std::mem::take(&mut self.lost), events });
        }
        self.under_way.as_ref()
    }

    /// Notes the fate of the request that told of the batch. `chance`: 0.0 to 1.0, so that many guards don't come back in one moment.
    pub fn answered(&mut self, fate: Fate, now: Instant, chance: f64) {
        match fate {
            Fate::Taken => {
                let events = self.under_way.take().map_or(0, |batch| batch.events.len());
                self.counts.delivered += events as u64;
                (self.failures, self.not_before) = (0, Instant::default());
            }
            Fate::Later(wish) => {
                self.failed();
                self.not_before = now.after(pause(self.failures, chance).max(wish));
            }
            Fate::Refused => {
                self.failed();
                if let Some(batch) = self.under_way.take() {
                    // What that one has told of is not known either.
                    self.lost += batch.lost;
                    self.drop_events(batch.events.len() as u64);
                }
                self.not_before = now.after(pause(self.failures, chance));
            }
        }
    }

    /// Another receiver, or the same after a change: it is tried at once.
    pub fn try_again(&mut self) {
        (self.failures, self.not_before) = (0, Instant::default());
    }

    /// Nobody is told any more; how many events that was.
    pub fn clear(&mut self) -> u64 {
        let events = self.waiting();
        self.waiting.clear();
        self.under_way = None;
        self.drop_events(events);
        self.lost = 0;
        self.try_again();
        events
    }

    /// Events that wait, those included that are under way.
    pub fn waiting(&self) -> u64 {
        (self.waiting.len() + self.under_way.as_ref().map_or(0, |batch| batch.events.len())) as u64
    }

    pub fn counts(&self) -> Counts {
        self.counts
    }

    fn failed(&mut self) {
        self.failures = self.failures.saturating_add(1);
        self.counts.failures += 1;
    }

    fn drop_events(&mut self, events: u64) {
        self.lost += events;
        self.counts.dropped += events;
    }
}

/// How long is waited after so many failures in a row.
fn pause(failures: u32, chance: f64) -> Duration {
    let (first, longest) = PAUSES;
    let full = first.saturating_mul(1u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX)).min(longest);
    full.mul_f64(0.5 + 0.5 * chance.clamp(0.0, 1.0)).max(first)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(ms: u64) -> Instant {
        Instant::from_ns(ms * 1_000_000)
    }

    #[test]
    fn pauses_grow_and_differ() {
        for (failures, least, most) in [
            (1, 1000, 1000),
            (2, 1000, 2000),
            (3, 2000, 4000),
            (4, 4000, 8000),
            (9, 128_000, 256_000),
            (10, 150_000, 300_000),
            (33, 150_000, 300_000),
            (u32::MAX, 150_000, 300_000),
        ] {
            assert_eq!(pause(failures, 0.0).as_millis(), least, "{failures}");
            assert_eq!(pause(failures, 1.0).as_millis(), most, "{failures}");
        }
    }

    #[test]
    fn events_are_gathered_and_told_together() {
        let mut outbox = Outbox::default();
        assert_eq!((outbox.due(), outbox.take()), (None, None));
        assert!(outbox.push(1, at(5)) && outbox.push(2, at(100)));
        assert_eq!(outbox.due(), Some(at(205)), "the first waits for others");
        for n in 3..=BATCH as u64 + 1 {
            outbox.push(n, at(100));
        }
        assert_eq!(outbox.due(), Some(at(0)), "a full request waits for nobody");
        let first: Vec<_> = (1..=BATCH as u64).collect();
        assert_eq!(outbox.take(), Some(&Batch { number: 1, lost: 0, events: first.clone() }));
        outbox.answered(Fate::Later(Duration::ZERO), at(1000), 1.0);
        assert_eq!(outbox.due(), Some(at(2000)));
        assert_eq!(outbox.take(), Some(&Batch { number: 1, lost: 0, events: first }), "the same again");
        outbox.answered(Fate::Later(Duration::from_secs(60)), at(2000), 1.0);
        assert_eq!(outbox.due(), Some(at(62_000)), "the receiver's wish is longer");
        outbox.answered(Fate::Taken, at(62_000), 1.0);
        assert_eq!(outbox.due(), Some(at(300)));
        assert_eq!(outbox.take(), Some(&Batch { number: 2, lost: 0, events: vec![BATCH as u64 + 1] }));
        outbox.answered(Fate::Refused, at(70_000), 1.0);
        assert_eq!(outbox.due(), None);
        outbox.push(7, at(70_000));
        assert_eq!(outbox.due(), Some(at(71_000)), "after a refusal it isn't tried at once");
        assert_eq!(outbox.take(), Some(&Batch { number: 3, lost: 1, events: vec![7] }));
        assert_eq!(outbox.counts(), Counts { delivered: BATCH as u64, dropped: 1, failures: 3 });
        assert_eq!((outbox.clear(), outbox.due(), outbox.waiting()), (1, None, 0));
    }

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Push(u16),
        Missed(u8),
        Take,
        Answer(Fate),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let fate = prop_oneof![
            Just(Fate::Taken),
            (0u64..50).prop_map(|s| Fate::Later(Duration::from_secs(s))),
            Just(Fate::Refused)
        ];
        let step = prop_oneof![
            4 => (1u16..900).prop_map(Step::Push),
            1 => (1u8..9).prop_map(Step::Missed),
            4 => Just(Step::Take),
            4 => fate.prop_map(Step::Answer),
        ];
        proptest::collection::vec(step, 0..120)
    }

    proptest! {
        /// Whatever happens: nothing is told twice once it was taken, nothing out of its order, and each gap is told exactly.
        #[test]
        fn what_is_told_and_what_is_missing_is_all_there_was(steps in steps()) {
            let (mut outbox, mut next, mut clock) = (Outbox::default(), 0u64, 0u64);
            let (mut told, mut missing, mut missed) = (Vec::new(), 0, 0);
            let mut under_way: Option<Batch<u64>> = None;
            // At the end all is told.
            for step in steps.into_iter().chain([Step::Push(1)]).chain((0..100).flat_map(|_| [Step::Take, Step::Answer(Fate::Taken)])) {
                clock += 10;
                match step {
                    Step::Push(events) => (0..events).for_each(|_| {
                        outbox.push(next, at(clock));
                        next += 1;
                    }),
                    Step::Missed(events) => {
                        outbox.missed(events.into());
                        missed += u64::from(events);
                    }
                    Step::Take => {
                        let batch = outbox.take().cloned();
                        if let Some(before) = &under_way {
                            prop_assert_eq!(Some(before), batch.as_ref(), "it stays the same until it is answered");
                        }
                        prop_assert!(batch.as_ref().is_none_or(|b| (1..=BATCH).contains(&b.events.len())));
                        under_way = batch;
                    }
                    Step::Answer(fate) if under_way.is_some() => {
                        outbox.answered(fate, at(clock), 0.5);
                        let batch = under_way.clone();
                        if fate == Fate::Taken && let Some(batch) = batch {
                            told.extend(batch.events);
                            missing += batch.lost;
                        }
                        if !matches!(fate, Fate::Later(_)) {
                            under_way = None;
                        }
                    }
                    Step::Answer(_) => {}
                }
                prop_assert!(outbox.waiting() <= (QUEUE + BATCH) as u64);
                let Counts { delivered, dropped, .. } = outbox.counts();
                prop_assert_eq!(delivered + dropped + outbox.waiting(), next + missed);
            }
            prop_assert!(told.is_sorted_by(|a, b| a < b));
            prop_assert_eq!(told.len() as u64 + missing, next + missed, "each that wasn't told was said to be missing");
        }
    }
}
