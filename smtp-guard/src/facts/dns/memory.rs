//! The memory of answers and failures, until they are too old. Time is passed in.
//!
//! It is bounded in bytes. When it is full, the least used answer is forgotten. The cache keeps apart what was asked for
//! once and what was asked for more often. So a spammer with a new domain for every message throws out his own domains
//! first.

use std::time::{Duration, Instant};

use quick_cache::sync::Cache;
use quick_cache::{DefaultHashBuilder, Lifecycle, Weighter};

use super::Failure;
use super::answer::{Answer, Question, Reading};

/// A day's TTL is a spammer's word like any other; a TTL of 0 must not make us ask for every recipient.
const FOUND: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(60 * 60));
/// Shorter: who repairs a domain wants mail to flow again.
const NONE: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(5 * 60));
const FAILED: Duration = Duration::from_secs(30);

/// Bytes that an entry takes besides name and answer, about.
const ENTRY: usize = 160;
/// Entries the table is made for; it grows if they are small.
const EXPECTED: usize = 4096;

#[derive(Debug)]
pub(super) struct Memory {
    entries: Cache<Question, Entry, Bytes, DefaultHashBuilder, Evictions>,
}

#[derive(Clone, Debug)]
struct Entry {
    outcome: Result<Answer, Failure>,
    until: Instant,
}

impl Memory {
    /// For at most `capacity` bytes.
    pub(super) fn new(capacity: u64) -> Self {
        let entries = Cache::with(EXPECTED, capacity, Bytes, DefaultHashBuilder::default(), Evictions);
        Self { entries }
    }

    /// The answer that is known at `now`.
    pub(super) fn recall(&self, question: &Question, now: Instant) -> Option<Result<Answer, Failure>> {
        self.entries.get(question).filter(|entry| now < entry.until).map(|entry| entry.outcome)
    }

    /// Keeps an outcome for as long as its zone wants, within bounds. True if something that was still good had to go.
    pub(super) fn keep(&self, question: Question, outcome: &Result<Reading, Failure>, now: Instant) -> bool {
        let (outcome, time) = match outcome {
            Ok(reading) => {
                let (least, most) = if reading.answer.is_negative() { NONE } else { FOUND };
                (Ok(reading.answer.clone()), reading.ttl.clamp(least, most))
            }
            Err(failure) => (Err(*failure), FAILED),
        };
        let mut evicted = Evicted::default();
        self.entries.insert_with_lifecycle(question, Entry { outcome, until: now + time }, &mut evicted);
        evicted.good_until.is_some_and(|until| now < until)
    }
}

#[derive(Clone, Debug)]
struct Bytes;

impl Weighter<Question, Entry> for Bytes {
    fn weight(&self, question: &Question, entry: &Entry) -> u64 {
        let answer = entry.outcome.as_ref().map_or(0, Answer::bytes);
        (ENTRY + question.name.len() + answer) as u64
    }
}

#[derive(Clone, Debug)]
struct Evictions;

#[derive(Debug, Default)]
struct Evicted {
    good_until: Option<Instant>,
}

impl Lifecycle<Question, Entry> for Evictions {
    type RequestState = Evicted;

    fn on_evict(&self, evicted: &mut Evicted, _: Question, entry: Entry) {
        evicted.good_until = evicted.good_until.max(Some(entry.until));
    }
}

#[cfg(test)]
mod tests;
