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

/// A set of distinct digests, each with when it was last seen. A list, not a map: most sources have one or two, and a
/// look through 128 costs less than the report that asks for it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Distinct {
    seen: Vec<(Digest, Instant)>,
    /// A digest is kept if it ends in so many zero bits.
    level: u32,
    /// Times that one was noted that wasn't kept already: there can't be more distinct ones.
    noted: u32,
}

impl Distinct {
    /// Takes note of `digest` at `now`; `true` if it wasn't known.
    pub(super) fn insert(&mut self, digest: Digest, now: Instant) -> bool {
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

    /// Whether `digest` is kept.
    pub(super) fn contains(&self, digest: Digest) -> bool {
        self.seen.iter().any(|(known, _)| *known == digest)
    }

    /// Takes `digest` out; `true` if it was in.
    pub(super) fn remove(&mut self, digest: Digest) -> bool {
        let found = self.seen.iter().position(|(known, _)| *known == digest);
        if let Some(index) = found {
            self.seen.swap_remove(index);
            if self.level == 0 {
                self.noted = u32::try_from(self.seen.len()).unwrap_or(u32::MAX);
            }
        }
        found.is_some()
    }

    /// Forgets what was last seen more than `window` before `now`.
    pub(super) fn expire(&mut self, now: Instant, window: Duration) {
        self.seen.retain(|(_, at)| now.since(*at) < window);
        if self.seen.is_empty() {
            *self = Self::default();
        } else if self.level == 0 {
            self.noted = u32::try_from(self.seen.len()).unwrap_or(u32::MAX);
        }
    }

    /// How many distinct ones there are; never more than were noted, whatever their digests are like.
    pub(super) fn count(&self) -> u32 {
        u32::try_from((self.seen.len() as u64) << self.level.min(32)).unwrap_or(u32::MAX).min(self.noted)
    }

    /// When the oldest was last seen.
    pub(super) fn oldest(&self) -> Option<Instant> {
        self.seen.iter().map(|(_, at)| *at).min()
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// The level, and all that is kept: to be written down.
    pub(super) fn parts(&self) -> (u32, &[(Digest, Instant)]) {
        (self.level, &self.seen)
    }

    /// From what [`Self::parts`] gave, whatever has become of it meanwhile.
    pub(super) fn from_parts(level: u32, seen: impl IntoIterator<Item = (Digest, Instant)>) -> Self {
        let mut set = Self { seen: Vec::new(), level: level.min(63), noted: 0 };
        for (digest, at) in seen {
            set.insert(digest, at);
        }
        // What it was before isn't known: as many as the sample stands for.
        set.noted = u32::try_from((set.seen.len() as u64) << set.level.min(32)).unwrap_or(u32::MAX);
        set
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
            assert!(set.seen.len() <= CAPACITY);
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
}
