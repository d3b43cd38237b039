//! The fleet's decisions, as one edge knows them: the same on all edges, in whatever order messages come in.
//!
//! Of each source there are two words: the operator's (a ban, or that what there was is lifted) and a ledger's (a ban). Of each the newest
//! stays, and a ledger's counts only where it is newer than the operator's. So what stays follows from which messages came, not from
//! their order, nor from how often each did; a property holds that. Two edges that trip at once have decided once. A lift is a
//! tombstone: an older ban can't come back, until the tombstone's end.
//!
//! The server keeps the same by the same rule. What got lost on the way is found when both are compared ([`Mirror::missing`]).

use std::collections::HashMap;
use std::sync::Arc;

use super::DECISIONS;
use super::message::{Record, Slot, Word};

/// The decisions, source by source.
#[derive(Clone, Debug, Default)]
pub struct Mirror {
    sources: HashMap<Box<str>, Words>,
}

/// What was said of a source.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Words {
    operator: Option<Held>,
    ledger: Option<Held>,
}

/// A word, as far as others are held against it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Held {
    at: i64,
    tie: u32,
    until: i64,
    /// Of a tombstone the message: whoever has it can say it again.
    lift: Option<Arc<[u8]>>,
}

/// The outcome of merging a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Merged {
    /// It is the last word about its source: it is to be followed.
    Follow,
    /// What is known is as new, or newer.
    Old,
    /// It has ended.
    Over,
    /// There is no room for one more source.
    Full,
}

impl Held {
    fn is_newer(&self, other: Option<&Self>) -> bool {
        other.is_none_or(|other| (self.at, self.tie) > (other.at, other.tie))
    }
}

impl Words {
    fn take(&mut self, slot: Slot, held: Held) -> Merged {
        let merged = match slot {
            Slot::Operator if held.is_newer(self.operator.as_ref()) => {
                self.operator = Some(held);
                Merged::Follow
            }
            Slot::Ledger if held.is_newer(self.ledger.as_ref()) => {
                self.ledger = Some(held);
                Merged::Follow
            }
            Slot::Operator | Slot::Ledger => Merged::Old,
        };
        // What the operator said later stands against it, for good.
        let word = self.operator.as_ref().map(|operator| operator.at);
        if self.ledger.as_ref().is_some_and(|ledger| word.is_some_and(|word| ledger.at <= word)) {
            self.ledger = None;
            if slot == Slot::Ledger {
                return Merged::Old;
            }
        }
        // While the operator's ban is in force, a newer one of a ledger waits behind it.
        let banned = self.operator.as_ref().is_some_and(|operator| operator.lift.is_none());
        if slot == Slot::Ledger && banned { Merged::Old } else { merged }
    }

    /// Forgets what has ended by `now`; whether anything is left.
    fn expire(&mut self, now: i64) -> bool {
        for word in [&mut self.operator, &mut self.ledger] {
            *word = word.take().filter(|held| held.until > now);
        }
        self.operator.is_some() || self.ledger.is_some()
    }

    /// Forgets all but a tombstone; whether there is one.
    fn keep_lift(&mut self) -> bool {
        self.ledger = None;
        self.operator = self.operator.take().filter(|held| held.lift.is_some());
        self.operator.is_some()
    }

    fn held(&self) -> impl Iterator<Item = &Held> {
        [&self.operator, &self.ledger].into_iter().flatten()
    }
}

impl Mirror {
    /// Takes note of `record`, whose message is `sealed` and breaks ties by `tie`, at `now`.
    pub fn merge(&mut self, record: &Record, sealed: &[u8], tie: u32, now: i64) -> Merged {
        let Some(slot) = record.slot() else { return Merged::Old };
        if record.until() <= now {
            return Merged::Over;
        }
        if self.sources.len() >= DECISIONS && !self.sources.contains_key(record.source()) {
            return Merged::Full;
        }
        let lift = matches!(record.word, Word::Lift { .. }).then(|| sealed.into());
        let held = Held { at: record.at, tie, until: record.until(), lift };
        self.sources.entry(record.source().into()).or_default().take(slot, held)
    }

    /// Whether what `source` did at `at` was forgiven since.
    pub fn is_forgiven(&self, source: &str, at: i64) -> bool {
        let lift =
            self.sources.get(source).and_then(|words| words.operator.as_ref()).filter(|word| word.lift.is_some());
        lift.is_some_and(|lift| at <= lift.at)
    }

    /// When the last word about `source` was said, and when it ends.
    pub fn last(&self, source: &str) -> Option<(i64, i64)> {
        self.sources.get(source)?.held().map(|held| (held.at, held.until)).max()
    }

    /// Forgets what has ended by `now`.
    pub fn expire(&mut self, now: i64) {
        self.sources.retain(|_, words| words.expire(now));
    }

    /// Forgets what is known of `sources`, but for tombstones.
    pub fn forget<'a>(&mut self, sources: impl IntoIterator<Item = &'a str>) {
        for source in sources {
            if self.sources.get_mut(source).is_some_and(|words| !words.keep_lift()) {
                self.sources.remove(source);
            }
        }
    }

    /// The messages of tombstones that last beyond `now`.
    pub fn lifts(&self, now: i64) -> Vec<Arc<[u8]>> {
        let lasting = |held: &&Held| held.until > now;
        self.sources.values().flat_map(Words::held).filter(lasting).filter_map(|held| held.lift.clone()).collect()
    }

    /// Forgets all but tombstones: the server has lost what it held, and whoever decided tells it again.
    pub fn keep_lifts(&mut self) {
        self.sources.retain(|_, words| words.keep_lift());
    }

    /// Sources about which something is decided.
    pub fn len(&self) -> usize {
        self.sources.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.sources.is_empty()
    }

    /// Those of `found`, which the server has with their ends, that are not known here with the same end.
    pub fn missing<'a>(&self, found: impl IntoIterator<Item = (&'a str, i64)>, now: i64) -> Vec<&'a str> {
        let known = |source: &str, end: i64| {
            let words = self.sources.get(source);
            words.is_some_and(|words| words.held().map(|held| held.until).max() >= Some(end))
        };
        found.into_iter().filter(|(source, end)| *end > now && !known(source, *end)).map(|(source, _)| source).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::clock::WallTime;
    use crate::decision::Decision;

    fn ban(source: &str, origin: &str, at: i64, until: i64) -> Record {
        let ban = Decision {
            source: source.to_owned(),
            reason: "harvest".to_owned(),
            text: String::new(),
            origin: origin.to_owned(),
            origin_name: None,
            made: WallTime::from_ms(at),
            until: WallTime::from_ms(until),
            repeat: 0,
            evidence: Vec::new(),
        };
        Record { node: "mx1".to_owned(), at, word: Word::Ban(ban), upon: None }
    }

    fn lift(source: &str, at: i64, until: i64) -> Record {
        Record { node: "mx1".to_owned(), at, word: Word::Lift { source: source.to_owned(), until }, upon: None }
    }

    /// What becomes of records about one source, each with its tie, at a moment.
    #[track_caller]
    fn check(records: &[(Record, u32, i64, Merged)]) {
        let mut mirror = Mirror::default();
        for (record, tie, now, expected) in records {
            mirror.expire(*now);
            assert_eq!(mirror.merge(record, b"m", *tie, *now), *expected, "{record:?} at {now}");
        }
    }

    #[test]
    fn the_newest_word_is_followed_and_the_operators_stands_over_older_ones() {
        use Merged::{Follow, Old, Over};
        let (ledger, operator) =
            (|at, until| ban("a", "ledger", at, until), |at, until| ban("a", "operator", at, until));
        let lift = |at, until| lift("a", at, until);
        check(&[(ledger(1, 9), 0, 1, Follow), (ledger(1, 9), 0, 1, Old), (ledger(2, 9), 0, 2, Follow)]);
        check(&[(ledger(1, 9), 1, 1, Follow), (ledger(1, 9), 0, 1, Old), (ledger(1, 9), 2, 1, Follow)]);
        check(&[(ledger(1, 9), 0, 9, Over)]);
        check(&[(ledger(1, 9), 0, 1, Follow), (lift(2, 9), 0, 2, Follow), (ledger(1, 9), 0, 3, Old)]);
        check(&[(lift(2, 9), 0, 2, Follow), (ledger(1, 99), 0, 3, Old), (ledger(3, 99), 0, 3, Follow)]);
        check(&[(lift(2, 9), 0, 2, Follow), (ledger(2, 99), 9, 3, Old)]);
        check(&[(operator(2, 9), 0, 2, Follow), (ledger(1, 99), 0, 3, Old), (ledger(4, 99), 0, 4, Old)]);
        check(&[(operator(2, 9), 0, 2, Follow), (lift(3, 9), 0, 3, Follow), (operator(2, 9), 0, 4, Old)]);
        check(&[(lift(3, 9), 0, 3, Follow), (operator(4, 9), 0, 4, Follow)]);
        // A tombstone that has ended stands against nothing.
        check(&[(lift(2, 9), 0, 2, Follow), (ledger(1, 99), 0, 9, Follow)]);
    }

    #[test]
    fn what_is_forgotten_is_followed_when_it_is_said_again_but_for_what_is_lifted() {
        let mut mirror = Mirror::default();
        let records = [ban("a", "operator", 1, 9), ban("b", "ledger", 1, 9), lift("c", 2, 9)];
        records.iter().for_each(|record| _ = mirror.merge(record, b"m", 0, 1));
        mirror.forget(["a", "b", "c", "d"]);
        let again = [ban("a", "ledger", 2, 9), ban("b", "ledger", 1, 9), ban("c", "ledger", 1, 9)];
        let merged = again.map(|record| mirror.merge(&record, b"m", 0, 2));
        assert_eq!(merged, [Merged::Follow, Merged::Follow, Merged::Old]);
    }

    #[test]
    fn what_was_done_before_a_lift_is_forgiven() {
        let mut mirror = Mirror::default();
        mirror.merge(&lift("a", 5, 9), b"m", 0, 5);
        mirror.merge(&ban("b", "operator", 5, 9), b"m", 0, 5);
        for (source, at, expected) in
            [("a", 4, true), ("a", 5, true), ("a", 6, false), ("b", 4, false), ("c", 4, false)]
        {
            assert_eq!(mirror.is_forgiven(source, at), expected, "{source} at {at}");
        }
        assert_eq!((mirror.lifts(5).len(), mirror.lifts(9).len()), (1, 0));
    }

    #[test]
    fn what_the_server_has_and_the_mirror_has_not_is_found() {
        let mut mirror = Mirror::default();
        mirror.merge(&ban("a", "ledger", 1, 9), b"m", 0, 1);
        mirror.merge(&lift("b", 1, 9), b"m", 0, 1);
        let found = [("a", 9), ("b", 10), ("c", 9), ("d", 5)];
        assert_eq!(mirror.missing(found, 5), ["b", "c"]);
        mirror.expire(9);
        assert!(mirror.is_empty());
    }

    fn record() -> impl Strategy<Value = (Record, u32)> {
        let times = (0i64..20, prop_oneof![Just(100i64), Just(200)]);
        (prop_oneof![Just("a"), Just("b")], 0u32..3, times, 0u32..3).prop_map(|(source, kind, (at, until), tie)| {
            let record = match kind {
                0 => lift(source, at, until),
                1 => ban(source, "operator", at, until),
                _ => ban(source, "ledger", at, until),
            };
            // Equal ties are equal messages.
            (record, tie * 6 + kind * 2 + u32::from(until == 200))
        })
    }

    fn merged<'a>(records: impl IntoIterator<Item = &'a (Record, u32)>) -> HashMap<Box<str>, Words> {
        let mut mirror = Mirror::default();
        records.into_iter().for_each(|(record, tie)| _ = mirror.merge(record, &tie.to_be_bytes(), *tie, 50));
        mirror.sources
    }

    proptest! {
        /// Two edges: each hears a part, in an order of its own and some of it again; then each hears what is left.
        #[test]
        fn any_order_loss_and_repetition_ends_in_the_same_state(
            records in proptest::collection::vec(record(), 0..40),
            (first, second) in (any::<prop::sample::Index>(), any::<prop::sample::Index>()),
            order in proptest::collection::vec(any::<prop::sample::Index>(), 0..80),
        ) {
            let expected = merged(&records);
            let mut reversed: Vec<_> = records.iter().rev().collect();
            prop_assert_eq!(&merged(reversed.iter().copied()), &expected);
            if !records.is_empty() {
                let random: Vec<_> = order.iter().map(|index| &records[index.index(records.len())]).collect();
                prop_assert_eq!(&merged(random.into_iter().chain(&records)), &expected);
                let (one, other) = (first.index(records.len()), second.index(records.len()));
                reversed.rotate_left(one);
                prop_assert_eq!(&merged(reversed.iter().copied().take(other).chain(&records)), &expected);
            }
        }
    }
}
