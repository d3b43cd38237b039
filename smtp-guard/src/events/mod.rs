//! The event bus: the parts publish what happens, once, and subscribers read it.
//!
//! # Bounds
//! The last [`KEPT`] events are kept, numbered without a gap. A subscriber has a place in them and nothing else. So publishing
//! costs the same however many there are: one short lock, under which nobody waits, and a few small texts. A subscriber that
//! falls behind by more than what is kept loses the oldest events and is told how many. That is counted as a bound. Others lose
//! nothing.
//!
//! # What isn't here
//! Counts and log lines stay with the publisher: a count must be there when the answer is, and a log line before it. Both have
//! bounds of their own.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::clock::WallTime;

mod event;

pub use event::{Event, What, Word};

/// The version of events in JSON, and of all answers of the command line. It grows where a field goes or comes to mean something else.
pub const VERSION: u32 = 2;
/// Events that are kept for subscribers.
pub const KEPT: usize = 1024;
/// Events that a subscriber takes at once.
pub const BATCH: usize = 64;

/// Where events are published. Clones are the same bus.
#[derive(Clone)]
pub struct Bus(Arc<Inner>);

struct Inner {
    kept: Mutex<VecDeque<Arc<Event>>>,
    most: usize,
    /// The number of the latest event; 0: there was none.
    last: watch::Sender<u64>,
    counts: Box<dyn Fn(&What) + Send + Sync>,
    lost: Box<dyn Fn() + Send + Sync>,
}

/// Events that a subscriber takes together.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// Events before these that it came too late for.
    pub lost: u64,
    pub events: Vec<Arc<Event>>,
}

/// A place among the events.
#[derive(Debug)]
pub struct Subscriber {
    bus: Bus,
    /// The number of the last event that was taken.
    taken: u64,
    news: watch::Receiver<u64>,
}

impl Bus {
    /// A bus that has `counts` look at each event, and whose subscribers tell `lost` each time that they have lost events.
    pub fn new(counts: impl Fn(&What) + Send + Sync + 'static, lost: impl Fn() + Send + Sync + 'static) -> Self {
        Self::keeping(KEPT, counts, lost)
    }

    fn keeping(
        most: usize,
        counts: impl Fn(&What) + Send + Sync + 'static,
        lost: impl Fn() + Send + Sync + 'static,
    ) -> Self {
        let (last, _) = watch::channel(0);
        Self(Arc::new(Inner { kept: Mutex::default(), most, last, counts: Box::new(counts), lost: Box::new(lost) }))
    }

    /// Tells all subscribers that `what` happened `at` this moment. Never waits for any of them; it is counted when this returns.
    pub fn publish(&self, at: WallTime, what: What) {
        (self.0.counts)(&what);
        let mut kept = self.kept();
        let number = *self.0.last.borrow() + 1;
        if kept.len() == self.0.most {
            kept.pop_front();
        }
        kept.push_back(Arc::new(Event { number, at, what }));
        // Under the lock, so that numbers and events agree.
        self.0.last.send_replace(number);
    }

    /// A subscriber that has had all events up to number `after`, as far as they are kept.
    pub fn subscribe_after(&self, after: u64) -> Subscriber {
        let news = self.0.last.subscribe();
        // A number that doesn't exist yet is of an earlier guard.
        let taken = if after > *news.borrow() { 0 } else { after };
        Subscriber { bus: self.clone(), taken, news }
    }

    /// A subscriber that begins with the last `most` events.
    pub fn subscribe(&self, most: u64) -> Subscriber {
        let kept = self.kept();
        let most = most.min(kept.len() as u64);
        let last = *self.0.last.borrow();
        drop(kept);
        self.subscribe_after(last.saturating_sub(most))
    }

    /// The last `most` events, the latest first.
    pub fn latest(&self, most: usize) -> Vec<Arc<Event>> {
        self.kept().iter().rev().take(most).cloned().collect()
    }

    /// The number of the latest event; 0: there was none.
    pub fn last(&self) -> u64 {
        *self.0.last.borrow()
    }

    fn kept(&self) -> MutexGuard<'_, VecDeque<Arc<Event>>> {
        // A panic elsewhere can't leave it half changed.
        self.0.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Bus {
    /// Where nobody counts what happens, nor what is lost.
    fn default() -> Self {
        Self::new(|_| {}, || {})
    }
}

impl fmt::Debug for Bus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bus").finish_non_exhaustive()
    }
}

impl Subscriber {
    /// The next events, at most [`BATCH`]; empty where there are none now.
    pub fn take(&mut self) -> Batch {
        let kept = self.bus.kept();
        let first = kept.front().map_or(self.taken + 1, |event| event.number);
        let lost = first.saturating_sub(self.taken + 1);
        let next = self.taken + 1 + lost;
        let skip = usize::try_from(next - first).unwrap_or(usize::MAX);
        let events: Vec<_> = kept.iter().skip(skip).take(BATCH).cloned().collect();
        drop(kept);
        self.taken = next - 1 + events.len() as u64;
        if lost > 0 {
            (self.bus.0.lost)();
        }
        Batch { lost, events }
    }

    /// Waits for the next events. Cancel safe.
    pub async fn next(&mut self) -> Batch {
        loop {
            self.news.mark_unchanged();
            let batch = self.take();
            if batch != Batch::default() {
                return batch;
            }
            // The sender lives in the bus that this holds.
            let _ = self.news.changed().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    fn what(n: u64) -> What {
        What::Imported { added: n, refused: 0, text: String::new() }
    }

    fn world(most: usize) -> (Bus, Arc<AtomicU64>) {
        let lost = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&lost);
        (Bus::keeping(most, |_| {}, move || _ = counted.fetch_add(1, Ordering::Relaxed)), lost)
    }

    fn publish(bus: &Bus, numbers: std::ops::RangeInclusive<u64>) {
        numbers.for_each(|n| bus.publish(WallTime::from_ms(0), what(n)));
    }

    /// All that `subscriber` can take now: how much it lost, and the numbers of the rest.
    fn drain(subscriber: &mut Subscriber) -> (u64, Vec<u64>) {
        let (mut lost, mut numbers) = (0, Vec::new());
        loop {
            let batch = subscriber.take();
            assert!(batch.events.len() <= BATCH);
            if batch == Batch::default() {
                return (lost, numbers);
            }
            lost += batch.lost;
            numbers.extend(batch.events.iter().map(|event| {
                assert_eq!(event.what, what(event.number));
                event.number
            }));
        }
    }

    /// A bus that keeps `most`: one subscriber takes after each event, another only after all `events`.
    #[track_caller]
    fn check(most: usize, events: u64, lost: u64) {
        let (bus, counted) = world(most);
        let (mut quick, mut slow) = (bus.subscribe(0), bus.subscribe(0));
        let mut seen = Vec::new();
        for n in 1..=events {
            publish(&bus, n..=n);
            let (none, numbers) = drain(&mut quick);
            assert_eq!(none, 0);
            seen.extend(numbers);
        }
        assert_eq!(seen, (1..=events).collect::<Vec<_>>(), "others get all");
        assert_eq!(drain(&mut slow), (lost, (lost + 1..=events).collect()), "{most} {events}");
        assert_eq!(counted.load(Ordering::Relaxed), u64::from(lost > 0), "counted once for each gap");
        assert_eq!(drain(&mut slow), (0, Vec::new()), "told once");
    }

    #[test]
    fn only_a_subscriber_that_is_too_slow_loses_and_that_is_counted() {
        for (most, events, lost) in [(4, 0, 0), (4, 1, 0), (4, 4, 0), (4, 5, 1), (4, 100, 96), (1, 3, 2)] {
            check(most, events, lost);
        }
        check(200, 200, 0);
        check(KEPT, 3 * KEPT as u64, 2 * KEPT as u64);
    }

    #[test]
    fn a_subscriber_goes_on_where_it_was() {
        let (bus, counted) = world(4);
        assert_eq!(drain(&mut bus.subscribe(10)), (0, Vec::new()));
        publish(&bus, 1..=6);
        for (after, expected) in
            [(0, (2, vec![3, 4, 5, 6])), (2, (0, vec![3, 4, 5, 6])), (5, (0, vec![6])), (6, (0, vec![]))]
        {
            assert_eq!(drain(&mut bus.subscribe_after(after)), expected, "{after}");
        }
        assert_eq!(drain(&mut bus.subscribe_after(7)), (2, vec![3, 4, 5, 6]), "a number of an earlier guard");
        assert_eq!(counted.load(Ordering::Relaxed), 2);
        for (most, expected) in [(0, vec![]), (2, vec![5, 6]), (100, vec![3, 4, 5, 6])] {
            let latest: Vec<_> = bus.latest(most as usize).iter().rev().map(|event| event.number).collect();
            assert_eq!(latest, expected, "{most}");
            assert_eq!(drain(&mut bus.subscribe(most)), (0, expected), "{most}");
        }
    }

    #[tokio::test]
    async fn whoever_waits_is_woken_and_gets_all() {
        let (bus, counted) = world(KEPT);
        let mut subscriber = bus.subscribe(0);
        let waiting = tokio::spawn(async move {
            let mut numbers = Vec::new();
            while numbers.len() < 500 {
                numbers.extend(subscriber.next().await.events.iter().map(|event| event.number));
            }
            numbers
        });
        let threads: Vec<_> = (0..5)
            .map(|_| {
                let bus = bus.clone();
                std::thread::spawn(move || (0..100).for_each(|n| bus.publish(WallTime::from_ms(0), what(n))))
            })
            .collect();
        assert_eq!(waiting.await.unwrap(), (1..=500).collect::<Vec<_>>());
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        assert_eq!(counted.load(Ordering::Relaxed), 0);
    }
}
