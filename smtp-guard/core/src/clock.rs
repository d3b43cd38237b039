//! Moments of two clocks, which are read elsewhere. Limits and bans are reckoned in [`Instant`]; people and the store read wall
//! time.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

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
///
/// In JSON it is text as RFC 3339 has it, in UTC and with milliseconds: `2026-11-24T11:00:00.000Z`. [`Self::NEVER`] is null.
/// A number of milliseconds, as version 1 of the answers had it, is read as well.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WallTime(i64);

impl WallTime {
    /// The end of time, which no clock reaches.
    pub const NEVER: Self = Self(i64::MAX);

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

impl Serialize for WallTime {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        if *self == Self::NEVER {
            return out.serialize_none();
        }
        // RFC 3339 knows the years 0 to 9999.
        let timestamp = jiff::Timestamp::from_millisecond(self.0.max(FIRST_MS)).unwrap_or(jiff::Timestamp::MAX);
        out.collect_str(&timestamp.strftime("%Y-%m-%dT%H:%M:%S.%3fZ"))
    }
}

/// 0000-01-01 UTC.
const FIRST_MS: i64 = -62_167_219_200_000;

impl<'de> Deserialize<'de> for WallTime {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl serde::de::Visitor<'_> for Visitor {
            type Value = WallTime;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a time such as 2026-11-24T11:00:00.000Z, milliseconds since 1970, or null")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<WallTime, E> {
                let timestamp: Result<jiff::Timestamp, _> = text.parse();
                timestamp.map(|timestamp| WallTime(timestamp.as_millisecond())).map_err(E::custom)
            }

            fn visit_i64<E: serde::de::Error>(self, ms: i64) -> Result<WallTime, E> {
                Ok(WallTime(ms))
            }

            fn visit_u64<E: serde::de::Error>(self, ms: u64) -> Result<WallTime, E> {
                i64::try_from(ms).map(WallTime).map_err(E::custom)
            }

            fn visit_unit<E: serde::de::Error>(self) -> Result<WallTime, E> {
                Ok(WallTime::NEVER)
            }
        }

        input.deserialize_any(Visitor)
    }
}

/// A [`WallTime`] as the store keeps it: a number of milliseconds.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Stored(i64);

impl From<WallTime> for Stored {
    fn from(time: WallTime) -> Self {
        Self(time.0)
    }
}

impl From<Stored> for WallTime {
    fn from(Stored(ms): Stored) -> Self {
        Self(ms)
    }
}

/// A length of time that is a number of seconds in JSON, with fractions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Seconds(pub Duration);

impl Serialize for Seconds {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        out.serialize_f64(self.0.as_secs_f64())
    }
}

impl<'de> Deserialize<'de> for Seconds {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        let seconds = f64::deserialize(input)?;
        Duration::try_from_secs_f64(seconds).map(Self).map_err(serde::de::Error::custom)
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

    /// `time` as JSON, and back.
    #[track_caller]
    fn check_json(time: WallTime, json: &str) {
        assert_eq!(serde_json::to_string(&time).unwrap(), json);
        assert_eq!(serde_json::from_str::<WallTime>(json).unwrap(), time, "{json}");
    }

    #[test]
    fn times_are_rfc_3339_in_json() {
        check_json(WallTime(0), "\"1970-01-01T00:00:00.000Z\"");
        check_json(WallTime(1_795_518_000_007), "\"2026-11-24T11:00:00.007Z\"");
        check_json(WallTime(-1), "\"1969-12-31T23:59:59.999Z\"");
        check_json(WallTime(FIRST_MS), "\"0000-01-01T00:00:00.000Z\"");
        check_json(WallTime::NEVER, "null");
        let far = |ms| serde_json::to_string(&WallTime(ms)).unwrap();
        assert_eq!(
            (far(i64::MIN), far(i64::MAX - 1)),
            ("\"0000-01-01T00:00:00.000Z\"".into(), "\"9999-12-30T22:00:00.999Z\"".into())
        );
        let read = |json| serde_json::from_str::<WallTime>(json).map_err(drop);
        assert_eq!(read("1795518000007"), Ok(WallTime(1_795_518_000_007)), "as version 1 had it");
        assert_eq!(read("-1"), Ok(WallTime(-1)));
        assert_eq!(read("\"2026-11-24T12:00:00+01:00\""), Ok(WallTime(1_795_518_000_000)));
        for nonsense in ["\"\"", "\"now\"", "18446744073709551615", "true", "[]", "1.5"] {
            assert_eq!(read(nonsense), Err(()), "{nonsense}");
        }
        assert_eq!(serde_json::from_str::<Option<WallTime>>("null").unwrap(), None);
    }

    #[test]
    fn lengths_are_seconds_in_json() {
        for (length, json) in [(0, "0.0"), (1_500_000, "1.5"), (90, "0.00009"), (86_400_000_000, "86400.0")] {
            let length = Seconds(Duration::from_micros(length));
            assert_eq!(serde_json::to_string(&length).unwrap(), json);
            assert_eq!(serde_json::from_str::<Seconds>(json).unwrap(), length);
        }
        assert!(serde_json::from_str::<Seconds>("-1").is_err());
    }

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
