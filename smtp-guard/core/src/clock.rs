//! Moments of two clocks, which are read elsewhere. [`Instant`] is what limits and bans are reckoned in, wall time is what people and the store read.

use std::time::Duration;

/// A moment in ns of CLOCK_BOOTTIME: the same base as `bpf_ktime_get_boot_ns`, so both planes agree on a ban's end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instant(u64);

impl Instant {
    /// The end of time: a deadline that never passes.
    pub const NEVER: Self = Self(u64::MAX);

    /// The moment `ns` nanoseconds after boot.
    pub const fn from_ns(ns: u64) -> Self {
        Self(ns)
    }

    /// Nanoseconds since boot.
    pub const fn as_ns(self) -> u64 {
        self.0
    }

    /// This moment and `duration` later; saturates at [`Self::NEVER`].
    #[must_use]
    pub fn after(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)))
    }

    /// How long ago `earlier` was; zero when it lies ahead.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

/// Wall time in milliseconds since 1970-01-01 UTC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct WallTime(i64);

impl WallTime {
    /// From milliseconds since the epoch.
    pub const fn from_ms(ms: i64) -> Self {
        Self(ms)
    }

    /// Milliseconds since the epoch.
    pub const fn as_ms(self) -> i64 {
        self.0
    }

    /// This moment and `ms` milliseconds later. The end of time stays it.
    #[must_use]
    pub const fn later(self, ms: i64) -> Self {
        if self.0 == i64::MAX { self } else { Self(self.0.saturating_add(ms)) }
    }
}

/// Both clocks read together, to translate between them.
#[derive(Clone, Copy, Debug)]
pub struct Both {
    pub instant: Instant,
    pub wall: WallTime,
}

impl Both {
    /// The wall time of `at`. [`Instant::NEVER`] stays the end of time.
    pub fn wall_at(&self, at: Instant) -> WallTime {
        if at == Instant::NEVER {
            return WallTime(i64::MAX);
        }
        let delta_ms = (at.0 as i128 - self.instant.0 as i128) / 1_000_000;
        WallTime((self.wall.0 as i128 + delta_ms).clamp(i64::MIN as i128, i64::MAX as i128) as i64)
    }

    /// The moment of the wall time `at`; what lies before boot becomes 0, the end of time stays it.
    pub fn instant_at(&self, at: WallTime) -> Instant {
        if at.0 == i64::MAX {
            return Instant::NEVER;
        }
        let ns = self.instant.0 as i128 + (at.0 as i128 - self.wall.0 as i128) * 1_000_000;
        Instant(ns.clamp(0, u64::MAX as i128) as u64)
    }
}

/// A watch on whether the wall clock goes on evenly: a machine that starts with a wrong clock has it set later, in one step.
#[derive(Clone, Copy, Debug)]
pub struct Steady {
    last: Both,
    since: Instant,
}

impl Steady {
    /// Less is a clock that is slewed, or two readings that weren't quite at once.
    const STEP_MS: i64 = 2_000;

    /// From `now` on.
    pub fn new(now: Both) -> Self {
        Self { last: now, since: now.instant }
    }

    /// Milliseconds that the wall clock was set by between the last reading and `now`, if it was.
    pub fn step(&mut self, now: Both) -> Option<i64> {
        let expected = self.last.wall_at(now.instant);
        self.last = now;
        let step = now.wall.0.saturating_sub(expected.0);
        let is_set = step.unsigned_abs() > Self::STEP_MS.unsigned_abs();
        is_set.then(|| {
            self.since = now.instant;
            step
        })
    }

    /// How long ago it was set, or first read.
    pub fn since(&self, now: Instant) -> Duration {
        now.since(self.since)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn d8_a_step_of_the_wall_clock_is_seen_once_and_slewing_is_none() {
        let at =
            |seconds: u64, wall_ms: i64| Both { instant: Instant(seconds * 1_000_000_000), wall: WallTime(wall_ms) };
        let mut steady = Steady::new(at(10, 0));
        assert_eq!(steady.step(at(11, 1_000)), None);
        assert_eq!(steady.step(at(12, 2_400)), None, "slewed");
        assert_eq!(steady.since(Instant(12_000_000_000)), Duration::from_secs(2));
        assert_eq!(steady.step(at(13, 31 * 86_400_000)), Some(31 * 86_400_000 - 3_400));
        assert_eq!(steady.step(at(14, 31 * 86_400_000 + 1_000)), None);
        assert_eq!(steady.step(at(24, 14_400)), Some(14_400 - 31 * 86_400_000 - 11_000));
        assert_eq!(steady.since(Instant(25_000_000_000)), Duration::from_secs(1));
        assert_eq!(steady.step(at(25, i64::MIN)), Some(i64::MIN), "saturates");
    }

    #[test]
    fn both_clocks_translate_there_and_back() {
        let both = Both { instant: Instant(5_000_000_000), wall: WallTime(1_000_000) };
        for (instant, wall) in [(5_000_000_000, 1_000_000), (6_000_000_000, 1_001_000), (0, 995_000)] {
            assert_eq!(both.wall_at(Instant(instant)), WallTime(wall));
            assert_eq!(both.instant_at(WallTime(wall)), Instant(instant));
        }
        assert_eq!(both.instant_at(WallTime(0)), Instant(0), "before boot");
        assert_eq!(both.instant_at(both.wall_at(Instant::NEVER)), Instant::NEVER);
    }
}
