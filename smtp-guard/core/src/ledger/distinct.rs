//! Counting distinct things in a sliding window, in bounded memory.
//!
//! Exact up to [`CAPACITY`] distinct digests in the window. Beyond that it keeps a sample (Gibbons: those whose digest
//! ends in `level` zero bits) and multiplies; the error is then about `1/sqrt(CAPACITY / 2)`, 12 %. A big sender with a
//! hundred thousand recipients costs no more than a small one, and its share of unknown ones stays right.

use std::time::Duration;

use crate::clock::Instant;
use crate::offence::Digest;

/// Digests that are kept.
const CAPACITY: usize = 128;

/// A set of distinct digests, each with when it was last seen. Most sources with anything in one have one digest in it, which
/// takes no memory of its own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Distinct(Kept);

#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum Kept {
    #[default]
    None,
    One((Digest, Instant)),
    Many(Box<Many>),
}

/// A list, not a map: a look through 128 costs less than the report that asks for it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Many {
    seen: Vec<(Digest, Instant)>,
    /// A digest is kept if it ends in so many zero bits.
    level: u32,
    /// Times that one was noted that wasn't kept already: there can't be more distinct ones.
    noted: u32,
}

impl Distinct {
    /// Takes note of `digest` at `now`; `true` if it wasn't known.
    pub(super) fn insert(&mut self, digest: Digest, now: Instant) -> bool {
        match &mut self.0 {
            Kept::None => self.0 = Kept::One((digest, now)),
            Kept::One((known, at)) if *known == digest => {
                *at = now.max(*at);
                return false;
            }
            Kept::One(first) => {
                let seen = vec![*first, (digest, now)];
                self.0 = Kept::Many(Box::new(Many { seen, level: 0, noted: 2 }));
            }
            Kept::Many(many) => return many.insert(digest, now),
        }
        true
    }

    /// Whether `digest` is kept.
    pub(super) fn contains(&self, digest: Digest) -> bool {
        self.seen().iter().any(|(known, _)| *known == digest)
    }

    /// Takes `digest` out; `true` if it was in.
    pub(super) fn remove(&mut self, digest: Digest) -> bool {
        let Some(index) = self.seen().iter().position(|(known, _)| *known == digest) else { return false };
        match &mut self.0 {
            Kept::Many(many) => {
                many.seen.swap_remove(index);
                self.settle();
            }
            Kept::None | Kept::One(_) => self.clear(),
        }
        true
    }

    /// Forgets what was last seen more than `window` before `now`.
    pub(super) fn expire(&mut self, now: Instant, window: Duration) {
        let is_over = |(_, at): &(Digest, Instant)| now.since(*at) >= window;
        match &mut self.0 {
            Kept::None => {}
            Kept::One(one) if is_over(one) => self.clear(),
            Kept::One(_) => {}
            Kept::Many(many) => {
                many.seen.retain(|one| !is_over(one));
                if many.seen.is_empty() {
                    self.clear();
                } else {
                    self.settle();
                }
            }
        }
    }

    /// How many distinct ones there are; never more than were noted, whatever their digests are like.
    pub(super) fn count(&self) -> u32 {
        match &self.0 {
            Kept::None => 0,
            Kept::One(_) => 1,
            Kept::Many(many) => many.estimate().min(many.noted),
        }
    }

    /// When the oldest was last seen.
    pub(super) fn oldest(&self) -> Option<Instant> {
        self.seen().iter().map(|(_, at)| *at).min()
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// The level, and all that is kept: to be written down.
    pub(super) fn parts(&self) -> (u32, &[(Digest, Instant)]) {
        let level = if let Kept::Many(many) = &self.0 { many.level } else { 0 };
        (level, self.seen())
    }

    /// From what [`Self::parts`] gave, whatever has become of it meanwhile.
    pub(super) fn from_parts(level: u32, seen: impl IntoIterator<Item = (Digest, Instant)>) -> Self {
        let mut many = Many { level: level.min(63), ..Many::default() };
        for (digest, at) in seen {
            many.insert(digest, at);
        }
        // What it was before isn't known: as many as the sample stands for.
        many.noted = many.estimate();
        let mut set = Self(Kept::Many(Box::new(many)));
        set.settle();
        set
    }

    fn seen(&self) -> &[(Digest, Instant)] {
        match &self.0 {
            Kept::None => &[],
            Kept::One(one) => std::slice::from_ref(one),
            Kept::Many(many) => &many.seen,
        }
    }

    /// As little memory as it takes, after something has left. While all are kept, they are as many as were noted.
    fn settle(&mut self) {
        let Kept::Many(many) = &mut self.0 else { return };
        if many.level > 0 {
            return;
        }
        many.noted = many.estimate();
        match many.seen.as_slice() {
            [] => self.0 = Kept::None,
            [one] => self.0 = Kept::One(*one),
            _ => {}
        }
    }
}

impl Many {
    fn insert(&mut self, digest: Digest, now: Instant) -> bool {
        if digest.trailing_zeros() < self.level {
            self.noted = self.noted.saturating_add(1);
            return false;
        }
        if let Some((_, at)) = self.seen.iter_mut().find(|(known, _)| *known == digest) {
            *at = now.max(*at);
            return false;
        }
        self.noted = self.noted.saturating_add(1);
        self.seen.push((digest, now));
        while self.seen.len() > CAPACITY {
            self.level += 1;
            let level = self.level;
            self.seen.retain(|(digest, _)| digest.trailing_zeros() >= level);
        }
        true
    }

    /// How many the sample stands for.
    fn estimate(&self) -> u32 {
        u32::try_from((self.seen.len() as u64) << self.level.min(32)).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::offence::Digests;

    #[test]
    fn exact_while_it_fits_and_near_beyond() {
        for (distinct, error) in [(0u64, 0), (10, 0), (128, 0), (1000, 500), (100_000, 50_000)] {
            let mut set = Distinct::default();
            for n in 0..distinct {
                for _ in 0..3 {
                    set.insert(Digest::of(&format!("user{n}@example.org")), Instant::from_ns(n));
                }
            }
            let off = u64::from(set.count()).abs_diff(distinct);
            assert!(off <= error, "{distinct} counted as {}", set.count());
            assert!(set.seen().len() <= CAPACITY);
            let (level, seen) = set.parts();
            let restored = Distinct::from_parts(level, seen.iter().copied());
            assert_eq!((restored.count(), restored.parts()), (set.count(), set.parts()));
        }
    }

    #[test]
    fn b4_digests_of_one_kind_are_not_counted_for_more_than_there_were() {
        let mut set = Distinct::default();
        for n in 0..130 {
            set.insert(Digest::from_number(n << 40), Instant::from_ns(1));
        }
        assert!(set.count() <= 130, "{}", set.count());
        let (one, other) = (Digests::new([1; 16]), Digests::new([2; 16]));
        assert_ne!(one.of("a@example.org"), other.of("a@example.org"), "another installation, another digest");
        assert_eq!(one.of("a@example.org"), one.of("a@example.org"));
    }

    #[test]
    fn the_window_slides() {
        let mut set = Distinct::default();
        let second = |n: u64| Instant::from_ns(n * 1_000_000_000);
        let (one, two) = (Digest::of("1"), Digest::of("2"));
        set.insert(one, second(0));
        set.insert(two, second(5));
        set.insert(one, second(8));
        set.expire(second(15), Duration::from_secs(10));
        assert_eq!(set.count(), 1, "2 was last seen 10 s ago, 1 later");
        assert!(set.remove(one) && !set.remove(two));
        assert_eq!(set.count(), 0);
    }

    proptest::proptest! {
        /// While it is exact it is what a plain map would be, and takes memory of its own for two or more only.
        #[test]
        fn it_is_a_map_with_a_window(steps in proptest::collection::vec((0u64..6, 0u8..4, 1u64..4), 0..60)) {
            let (mut set, mut model) = (Distinct::default(), std::collections::BTreeMap::new());
            let (mut now, window) = (0, 10);
            for (number, what, pause) in steps {
                let digest = Digest::from_number(number << 1);
                now += pause;
                let at = Instant::from_ns(now);
                match what {
                    0 | 1 => proptest::prop_assert_eq!(set.insert(digest, at), model.insert(digest.number(), now).is_none()),
                    2 => proptest::prop_assert_eq!(set.remove(digest), model.remove(&digest.number()).is_some()),
                    _ => {
                        set.expire(at, Duration::from_nanos(window));
                        model.retain(|_, then| now - *then < window);
                    }
                }
                let (level, seen) = set.parts();
                let seen: std::collections::BTreeMap<_, _> =
                    seen.iter().map(|(digest, at)| (digest.number(), at.as_ns())).collect();
                proptest::prop_assert_eq!((level, &seen), (0, &model));
                proptest::prop_assert_eq!(set.count() as usize, model.len());
                proptest::prop_assert_eq!(set.contains(digest), model.contains_key(&digest.number()));
                proptest::prop_assert_eq!(matches!(set.0, Kept::Many(_)), model.len() > 1);
            }
        }
    }
}
