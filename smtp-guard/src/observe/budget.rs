//! A bound on log lines that strangers cause: a flood of refused connections must not become a flood of lines.
//!
//! Metrics count everything; the log shows the first lines of each second and how many it left out. A trouble of ours that is found
//! at each look is said now and then.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use crate::clock::Instant;

/// Lines a second, of one kind.
#[derive(Debug)]
pub struct Budget {
    lines: u32,
    second: AtomicU64,
    used: AtomicU32,
    left_out: AtomicU64,
}

impl Budget {
    /// A budget of `lines` a second.
    pub const fn new(lines: u32) -> Self {
        Self { lines, second: AtomicU64::new(0), used: AtomicU32::new(0), left_out: AtomicU64::new(0) }
    }

    /// Lines a second.
    pub(crate) fn lines(&self) -> u64 {
        self.lines.into()
    }

    /// Whether one more line may be written at `now`. `Some(n)`: yes, and `n` lines were left out before it.
    ///
    /// Two threads that meet at the turn of a second may each begin it: a few lines more, never a lock.
    pub fn take(&self, now: Instant) -> Option<u64> {
        let second = now.as_ns() / 1_000_000_000;
        if self.second.swap(second, Ordering::Relaxed) != second {
            self.used.store(0, Ordering::Relaxed);
        }
        // Saturating: four billion lines in a second are not expected, and would only grant a few more.
        if self.used.fetch_add(1, Ordering::Relaxed) < self.lines {
            return Some(self.left_out.swap(0, Ordering::Relaxed));
        }
        self.left_out.fetch_add(1, Ordering::Relaxed);
        None
    }
}

/// How often a trouble that lasts is said again.
const REMIND: Duration = Duration::from_secs(3600);

/// When to say that something is wrong, which is found again and again: at once, when it is another trouble, and every hour.
#[derive(Debug, Default)]
pub(crate) struct Reminder {
    told: Option<(String, Instant)>,
}

impl Reminder {
    /// Whether `trouble` is to be said at `now`; then it counts as said.
    pub(crate) fn is_due(&mut self, trouble: &str, now: Instant) -> bool {
        let told = self.told.as_ref().filter(|(told, at)| told == trouble && now.since(*at) < REMIND);
        let is_due = told.is_none();
        if is_due {
            self.told = Some((trouble.to_owned(), now));
        }
        is_due
    }

    /// Nothing is wrong any more.
    pub(crate) fn over(&mut self) {
        self.told = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_lines_of_a_second_are_written_and_the_rest_is_told_in_the_next() {
        let budget = Budget::new(2);
        let at = |ms: u64| Instant::from_ns(1_000_000_000 + ms * 1_000_000);
        let taken: Vec<_> = [0, 1, 2, 3, 1000, 1001, 1002].map(|ms| budget.take(at(ms))).into();
        assert_eq!(taken, [Some(0), Some(0), None, None, Some(2), Some(0), None]);
    }

    #[test]
    fn a_trouble_that_lasts_is_said_hourly_and_another_at_once() {
        let mut reminder = Reminder::default();
        // Seconds, the trouble (none: it is over), and whether it is said.
        for (at, trouble, said) in [
            (0, Some("no such file"), true),
            (5, Some("no such file"), false),
            (3599, Some("no such file"), false),
            (3600, Some("no such file"), true),
            (3605, Some("no such file"), false),
            (3610, Some("permission denied"), true),
            (3615, Some("no such file"), true),
            (7214, Some("no such file"), false),
            (7215, Some("no such file"), true),
            (7220, None, false),
            (7225, Some("no such file"), true),
        ] {
            let now = Instant::from_ns(at * 1_000_000_000);
            match trouble {
                Some(trouble) => assert_eq!(reminder.is_due(trouble, now), said, "{at} {trouble}"),
                None => reminder.over(),
            }
        }
    }
}
