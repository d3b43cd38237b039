//! The sources with the most dropped packets recently, in bounded memory: space-saving counters that fade.
//!
//! A packet's weight halves every [`HALF_LIFE`]. A source that isn't in the full table takes the place of the one with
//! the least weight, and inherits that weight. So a source that comes back again and again rises, however many others
//! come once. A source with more than one part in `max` of all weight is always in the table. Inherited weight is kept
//! apart and not shown, so a figure never says more than what was charged to its source.
//!
//! The order of the table needs no renewal as time goes by. A weight `w` of the moment `t` outranks another exactly if log2(w)
//! + t / half-life is greater, whenever one looks.
//!
//! # Bounds
//! `max` entries. An addition costs two steps in a tree of them.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use smtp_guard_ebpf::abi::Source;
use smtp_guard_ebpf::reason::Reason;

use crate::clock::Instant;

/// In which a packet's weight halves.
pub(super) const HALF_LIFE: Duration = Duration::from_secs(10);
/// An entry without packets for so long isn't shown, and begins again when it comes back.
pub(super) const QUIET: Duration = Duration::from_secs(60);
/// A pair gets a log line at most so often.
const LINE: Duration = Duration::from_secs(60);
/// A rate isn't reckoned over less: one packet is no flood.
const SHORTEST: Duration = Duration::from_secs(1);

/// The key of a count: a source, for one reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Key {
    pub(super) source: Source,
    pub(super) reason: Reason,
}

/// The counts of a pair.
#[derive(Clone, Copy, Debug)]
struct Entry {
    rank: Rank,
    /// Packets, faded, at the moment `last`; what was inherited is in it.
    weight: f64,
    inherited: f64,
    last: Instant,
    since: Instant,
    packets: u64,
    samples: u64,
    port: u16,
    line: Option<Instant>,
}

/// A weight and its moment as one number that orders entries. The bits of positive floats are in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Rank(u64);

impl Rank {
    fn of(weight: f64, at: Instant) -> Self {
        // No weight is below 1 when it is ranked, and no moment is before 0, so the sum is positive.
        let at = at.as_ns() as f64 / HALF_LIFE.as_nanos() as f64;
        Self((weight.max(1.0).log2() + at).to_bits())
    }
}

/// An entry as it is shown.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Top {
    pub(super) key: Key,
    /// Recent packets a second.
    pub(super) per_second: f64,
    /// Packets since `since`.
    pub(super) packets: u64,
    pub(super) samples: u64,
    pub(super) port: u16,
    pub(super) since: Instant,
    pub(super) last: Instant,
}

/// The outcome of an addition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Added {
    /// The pair had no log line within the last minute.
    pub(super) line_due: bool,
    /// The table was full: another pair was forgotten.
    pub(super) displaced: bool,
}

#[derive(Debug)]
pub(super) struct Table {
    max: usize,
    entries: HashMap<Key, Entry>,
    order: BTreeSet<(Rank, Key)>,
}

impl Table {
    /// An empty table of at most `max` pairs.
    pub(super) fn new(max: usize) -> Self {
        Self { max: max.max(1), entries: HashMap::new(), order: BTreeSet::new() }
    }

    /// Charges `packets` to `key` at `now`, which is never earlier than at the call before.
    pub(super) fn add(&mut self, key: Key, port: u16, packets: u64, now: Instant) -> Added {
        let packets = packets.max(1);
        let (mut entry, displaced) = match self.entries.get(&key) {
            Some(entry) => (entry.at(now), false),
            None => self.admit(now),
        };
        if let Some(entry) = self.entries.get(&key) {
            self.order.remove(&(entry.rank, key));
        }
        entry.weight += packets as f64;
        entry.rank = Rank::of(entry.weight, now);
        entry.packets = entry.packets.saturating_add(packets);
        entry.samples = entry.samples.saturating_add(1);
        entry.port = port;
        self.order.insert((entry.rank, key));
        self.entries.insert(key, entry);
        Added { line_due: entry.line.is_none_or(|line| now.since(line) >= LINE), displaced }
    }

    /// An entry for somebody new, who inherits from the least one where the table is full.
    fn admit(&mut self, now: Instant) -> (Entry, bool) {
        let full = self.entries.len() >= self.max;
        let least = if full { self.order.pop_first() } else { None };
        let least = least.and_then(|(_, key)| self.entries.remove(&key));
        let inherited = least.map_or(0.0, |entry| entry.at(now).weight);
        let entry = Entry {
            rank: Rank(0),
            weight: inherited,
            inherited,
            last: now,
            since: now,
            packets: 0,
            samples: 0,
            port: 0,
            line: None,
        };
        (entry, least.is_some())
    }

    /// `key` has its log line.
    pub(super) fn line_written(&mut self, key: Key, now: Instant) {
        if let Some(entry) = self.entries.get_mut(&key) {
            entry.line = Some(now);
        }
    }

    /// Those with the most packets a second at `now`, at most `count`. It holds twice as many at most, not all.
    pub(super) fn top(&self, count: usize, now: Instant) -> Vec<Top> {
        let best = |top: &mut Vec<Top>| {
            top.sort_by(|a, b| b.per_second.total_cmp(&a.per_second).then(a.key.cmp(&b.key)));
            top.truncate(count);
        };
        let mut top = Vec::new();
        for (key, entry) in self.entries.iter().filter(|(_, entry)| now.since(entry.last) < QUIET) {
            top.push(entry.shown(*key, now));
            if top.len() >= count.saturating_mul(2) {
                best(&mut top);
            }
        }
        best(&mut top);
        top
    }

    /// Pairs that it holds.
    #[cfg(test)]
    fn len(&self) -> usize {
        self.entries.len()
    }
}

impl Entry {
    /// The entry with its weights of `now`; begun again where it was quiet for long.
    fn at(&self, now: Instant) -> Self {
        let idle = now.since(self.last);
        let faded = 0.5f64.powf(idle.as_secs_f64() / HALF_LIFE.as_secs_f64());
        let (weight, inherited) = (self.weight * faded, self.inherited * faded);
        let entry = Self { weight, inherited, last: now, ..*self };
        if idle < QUIET {
            return entry;
        }
        // What it had of its own is over; its weight stays, so that it isn't the first to go.
        Self { inherited: weight, since: now, packets: 0, samples: 0, ..entry }
    }

    /// A constant rate r leaves a weight of r / λ · (1 - e^(-λ·age)), λ = ln 2 / half-life: solved for r.
    fn shown(&self, key: Key, now: Instant) -> Top {
        let Self { packets, samples, port, since, last, .. } = *self;
        let fading = std::f64::consts::LN_2 / HALF_LIFE.as_secs_f64();
        let age = now.since(since).max(SHORTEST).as_secs_f64();
        let faded = 0.5f64.powf(now.since(last).as_secs_f64() / HALF_LIFE.as_secs_f64());
        let own = (self.weight - self.inherited).max(0.0) * faded;
        let per_second = own * fading / -(-fading * age).exp_m1();
        Top { key, per_second, packets, samples, port, since, last }
    }
}

#[cfg(test)]
mod tests;
