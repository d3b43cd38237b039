//! Bounds that were reached: which, how often, and when last.
//!
//! Every part that refuses or drops something for want of room says so here, by [`Bounds::reached`]. This is the state;
//! metrics and `status` show it. The log has at most one line a minute for each bound, with how often it was reached
//! since the last one: a flood must not become a flood of lines.
//!
//! # Bounds
//! Names are of the program's own, small, fixed set, so the table doesn't grow with what strangers do.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock::{Both, Instant, WallTime};

/// Between two lines about one bound.
const QUIET: Duration = Duration::from_secs(60);

/// All bounds that were reached or have a limit. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Bounds(Arc<Mutex<BTreeMap<&'static str, Bound>>>);

#[derive(Clone, Copy, Debug, Default)]
struct Bound {
    limit: Option<u64>,
    count: u64,
    last: Option<WallTime>,
    /// When the log told of it last, and how often it was reached since.
    told: Option<Instant>,
    untold: u64,
}

/// A bound that was reached, as `status` shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reached {
    /// As in `smtp_guard_bound_reached_total`.
    pub name: String,
    /// What it is bounded by; `None`: the part didn't say.
    pub limit: Option<u64>,
    /// Times since the start.
    pub count: u64,
    pub last: WallTime,
}

impl Bounds {
    /// What the bound `name` is bounded by, for `status` and the log.
    pub fn limit(&self, name: &'static str, limit: u64) {
        self.table().entry(name).or_default().limit = Some(limit);
    }

    /// The bound `name` was reached now: counts it, and tells the log unless that was told a moment ago.
    pub fn reached(&self, name: &'static str) {
        let (line, limit) = self.count(name, &crate::clock::both());
        if let Some(times) = line {
            tracing::warn!(bound = name, limit, times, "bound reached; `smtp-guard status` counts how often");
        }
    }

    /// Counts at `now`. `Some(n)`: a line is due, and `n` times are not told yet, this one included. With the limit.
    fn count(&self, name: &'static str, now: &Both) -> (Option<u64>, Option<u64>) {
        let mut table = self.table();
        let bound = table.entry(name).or_default();
        bound.count += 1;
        bound.untold += 1;
        bound.last = Some(now.wall);
        let due = bound.told.is_none_or(|told| now.instant.since(told) >= QUIET);
        let line = due.then(|| {
            bound.told = Some(now.instant);
            std::mem::take(&mut bound.untold)
        });
        (line, bound.limit)
    }

    /// The bounds that were reached since the start, by name.
    pub fn view(&self) -> Vec<Reached> {
        let table = self.table();
        let reached = |(name, bound): (&&'static str, &Bound)| {
            Some(Reached { name: (*name).to_owned(), limit: bound.limit, count: bound.count, last: bound.last? })
        };
        table.iter().filter_map(reached).collect()
    }

    // A panic elsewhere can't leave a count half changed.
    fn table(&self) -> MutexGuard<'_, BTreeMap<&'static str, Bound>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_time_is_counted_and_a_minute_has_one_line() {
        let bounds = Bounds::default();
        bounds.limit("places", 500);
        bounds.limit("never", 7);
        let at = |seconds: u64| Both {
            instant: Instant::from_ns(1_000_000_000 * (1_000 + seconds)),
            wall: WallTime::from_ms(i64::try_from(seconds).unwrap() * 1000),
        };
        let lines: Vec<_> = [0, 1, 59, 60, 61, 200].map(|seconds| bounds.count("places", &at(seconds)).0).into();
        assert_eq!(lines, [Some(1), None, None, Some(3), None, Some(2)]);
        assert_eq!(bounds.count("other", &at(61)), (Some(1), None), "each has its own budget");
        let expected =
            [("other", None, 1, 61_000), ("places", Some(500), 6, 200_000)].map(|(name, limit, count, ms)| Reached {
                name: name.to_owned(),
                limit,
                count,
                last: WallTime::from_ms(ms),
            });
        assert_eq!(bounds.view(), expected);
    }
}
