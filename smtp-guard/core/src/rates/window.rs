//! A count over a trailing time, in twelve slices: what happened counts for the whole window and up to one slice longer, never
//! shorter.

use std::time::Duration;

use crate::clock::{Both, Instant, Stored};

const SLICES: usize = 12;

/// The length of a window's slices, in ns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pace(u64);

/// A slice, in slices since the boot of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Slice(u64);

/// Counts in a trailing time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Window {
    /// The slice of `slices[newest % SLICES]`.
    newest: u64,
    slices: [u32; SLICES],
}

/// A window as the store keeps it: when its newest slice began, and the slices from the oldest on.
pub(super) type Saved = (Stored, Vec<u32>);

impl Pace {
    /// The pace of a window of `length`.
    pub(super) fn of(length: Duration) -> Self {
        // One slice is the one that is being filled: the others together make the window.
        Self((u64::try_from(length.as_nanos()).unwrap_or(u64::MAX) / (SLICES as u64 - 1)).max(1))
    }

    /// The slice of `now`.
    pub(super) fn slice(self, now: Instant) -> Slice {
        Slice(now.as_ns() / self.0)
    }
}

impl Window {
    /// The sum in the slice `now`. A clock that goes back changes nothing.
    pub(super) fn total(&mut self, now: Slice) -> u32 {
        let passed = now.0.saturating_sub(self.newest).min(SLICES as u64);
        for step in 1..=passed {
            self.slices[((now.0 - passed + step) % SLICES as u64) as usize] = 0;
        }
        self.newest = self.newest.max(now.0);
        self.slices.iter().fold(0, |sum, count| sum.saturating_add(*count))
    }

    /// One more in the slice `now`, for which [`Self::total`] was asked before.
    pub(super) fn add(&mut self, now: Slice) {
        let place = &mut self.slices[(now.0 % SLICES as u64) as usize];
        *place = place.saturating_add(1);
    }

    /// One less in the slice that it was added in, if that still counts.
    pub(super) fn take_back(&mut self, slice: Slice) {
        if self.newest.saturating_sub(slice.0) < SLICES as u64 && slice.0 <= self.newest {
            let place = &mut self.slices[(slice.0 % SLICES as u64) as usize];
            *place = place.saturating_sub(1);
        }
    }

    /// So many more in a slice that is over or goes on, if it still counts. [`Self::total`] was asked before.
    pub(super) fn add_past(&mut self, slice: Slice, more: u32) {
        if self.newest.saturating_sub(slice.0) < SLICES as u64 && slice.0 <= self.newest {
            let place = &mut self.slices[(slice.0 % SLICES as u64) as usize];
            *place = place.saturating_add(more);
        }
    }

    /// Counts what `other` has counted here as well, at `now`.
    pub(super) fn join(&mut self, mut other: Self, now: Slice) {
        self.total(now);
        other.total(now);
        for age in 0..SLICES as u64 {
            let slice = Slice(self.newest.saturating_sub(age));
            self.add_past(slice, other.slices[(slice.0 % SLICES as u64) as usize]);
        }
    }

    /// When less than `limit` will count, if nothing is added.
    pub(super) fn room_at(&self, limit: u32, pace: Pace) -> Instant {
        let mut left = self.slices.iter().fold(0u32, |sum, count| sum.saturating_add(*count));
        let oldest = self.newest.saturating_sub(SLICES as u64 - 1);
        for slice in oldest..=self.newest {
            left = left.saturating_sub(self.slices[(slice % SLICES as u64) as usize]);
            if left < limit {
                return Instant::from_ns((slice + SLICES as u64).saturating_mul(pace.0));
            }
        }
        Instant::from_ns((self.newest + SLICES as u64).saturating_mul(pace.0))
    }

    pub(super) fn saved(&self, pace: Pace, both: &Both) -> Saved {
        let oldest = self.newest + 1;
        let slices = (0..SLICES as u64).map(|place| self.slices[((oldest + place) % SLICES as u64) as usize]);
        (both.wall_at(Instant::from_ns(self.newest.saturating_mul(pace.0))).into(), slices.collect())
    }

    /// Reads the value of [`Self::saved`], maybe from before a restart of the machine. Times that lie ahead are taken for now.
    pub(super) fn read(saved: Saved, pace: Pace, both: &Both) -> Option<Self> {
        let (newest, slices) = saved;
        let slices: [u32; SLICES] = slices.try_into().ok()?;
        // Rounded up: what happened counts a little longer, never shorter.
        let newest = both.instant_at(newest.into()).min(both.instant).as_ns().div_ceil(pace.0);
        let mut window = Self { newest, slices: [0; SLICES] };
        for (age, count) in slices.into_iter().rev().enumerate() {
            window.slices[(newest.wrapping_sub(age as u64) % SLICES as u64) as usize] = count;
        }
        Some(window)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_back_counts_no_longer_and_room_comes_when_it_is_said() {
        let pace = Pace::of(Duration::from_secs(11));
        let at = |seconds: u64| pace.slice(Instant::from_ns(seconds * 1_000_000_000));
        let mut window = Window::default();
        for second in [100, 100, 103, 105] {
            window.total(at(second));
            window.add(at(second));
        }
        assert_eq!(window.total(at(105)), 4);
        for (limit, room) in [(4, 112), (3, 112), (2, 115), (1, 117)] {
            assert_eq!(window.room_at(limit, pace), Instant::from_ns(room * 1_000_000_000), "{limit}");
            assert!(window.clone().total(at(room - 1)) >= limit && window.clone().total(at(room)) < limit, "{limit}");
        }
        window.take_back(at(103));
        window.take_back(at(50));
        window.take_back(at(500));
        assert_eq!(window.total(at(105)), 3);
        assert_eq!(window.total(at(117)), 0);
        window.take_back(at(105));
        assert_eq!(window.total(at(117)), 0);
    }
}
