//! Bounds that were reached: which, how often, and when last.
//!
//! Every part that refuses or drops something for want of room says so here, by [`Bounds::reached`]. This is the state; metrics
//! and `status` show it. The log has at most one line a minute for each bound, with how often it was reached since the last
//! line. A flood must not become a flood of lines.
//!
//! [`Bound`] has the names, so the table doesn't grow with what strangers do.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::bound::Bound;
use crate::clock::{Both, Instant, WallTime};

/// Between two lines about one bound.
const QUIET: Duration = Duration::from_secs(60);

/// All bounds that were reached or have a limit. Clones share it.
#[derive(Clone, Debug)]
pub struct Bounds(Arc<Mutex<[State; Bound::ALL.len()]>>);

#[derive(Clone, Copy, Debug, Default)]
struct State {
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
    /// The thing that it bounds, and what happens beyond.
    #[serde(default)]
    pub what: String,
    /// The limit; `None`: the part didn't say.
    pub limit: Option<u64>,
    /// Times since the start.
    pub count: u64,
    pub last: WallTime,
}

impl Default for Bounds {
    fn default() -> Self {
        Self(Arc::new(Mutex::new([State::default(); Bound::ALL.len()])))
    }
}

impl Bounds {
    /// Sets the limit of `bound`, for `status` and the log.
    pub fn limit(&self, bound: Bound, limit: u64) {
        self.table()[bound as usize].limit = Some(limit);
    }

    /// `bound` was reached now: counts it, and tells the log unless that was told a moment ago.
    pub fn reached(&self, bound: Bound) {
        let (line, limit) = self.count(bound, &crate::clock::both());
        if let Some(times) = line {
            tracing::warn!(bound = bound.label(), limit, times, "bound reached; `smtp-guard status` counts how often");
        }
    }

    /// Counts at `now`. `Some(n)`: a line is due, and `n` times are not told yet, this one included. With the limit.
    fn count(&self, bound: Bound, now: &Both) -> (Option<u64>, Option<u64>) {
        let mut table = self.table();
        let bound = &mut table[bound as usize];
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

    /// All bounds, with their limits and how often each was reached.
    pub fn all(&self) -> Vec<(Bound, Option<u64>, u64)> {
        let table = self.table();
        Bound::ALL.iter().map(|bound| (*bound, table[*bound as usize].limit, table[*bound as usize].count)).collect()
    }

    /// The bounds that were reached since the start, by name.
    pub fn view(&self) -> Vec<Reached> {
        let table = self.table();
        let reached = |bound: &Bound| {
            let State { limit, count, last, .. } = table[*bound as usize];
            Some(Reached { name: bound.label().to_owned(), what: bound.text().to_owned(), limit, count, last: last? })
        };
        Bound::ALL.iter().filter_map(reached).collect()
    }

    // A panic elsewhere can't leave a count half changed.
    fn table(&self) -> MutexGuard<'_, [State; Bound::ALL.len()]> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_time_is_counted_and_a_minute_has_one_line() {
        let bounds = Bounds::default();
        bounds.limit(Bound::TotalConnections, 500);
        bounds.limit(Bound::Users, 7);
        let at = |seconds: u64| Both {
            instant: Instant::from_ns(1_000_000_000 * (1_000 + seconds)),
            wall: WallTime::from_ms(i64::try_from(seconds).unwrap() * 1000),
        };
        let lines: Vec<_> =
            [0, 1, 59, 60, 61, 200].map(|seconds| bounds.count(Bound::TotalConnections, &at(seconds)).0).into();
        assert_eq!(lines, [Some(1), None, None, Some(3), None, Some(2)]);
        assert_eq!(bounds.count(Bound::Ledger, &at(61)), (Some(1), None), "each has its own budget");
        let expected = [(Bound::Ledger, None, 1, 61_000), (Bound::TotalConnections, Some(500), 6, 200_000)].map(
            |(bound, limit, count, ms)| Reached {
                name: bound.label().to_owned(),
                what: bound.text().to_owned(),
                limit,
                count,
                last: WallTime::from_ms(ms),
            },
        );
        assert_eq!(bounds.view(), expected);
    }
}
