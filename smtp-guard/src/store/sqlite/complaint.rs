//! Tells of a trouble that lasts once a minute, not each time it is met.

use std::time::{Duration, Instant};

/// Between two lines.
const QUIET: Duration = Duration::from_secs(60);

/// The reports about one trouble.
#[derive(Debug, Default)]
pub(super) struct Complaint {
    told: Option<Instant>,
    untold: u64,
}

impl Complaint {
    /// The trouble was met at `now`. `Some(n)`: a line is due, and it was met `n` times that were not told.
    pub(super) fn again(&mut self, now: Instant) -> Option<u64> {
        self.untold += 1;
        let due = self.told.is_none_or(|told| now.saturating_duration_since(told) >= QUIET);
        due.then(|| {
            self.told = Some(now);
            std::mem::take(&mut self.untold)
        })
    }

    /// The trouble is over. `true`: somebody was told of it.
    pub(super) fn end(&mut self) -> bool {
        let told = self.told.is_some();
        *self = Self::default();
        told
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn d5_a_trouble_that_lasts_has_one_line_a_minute() {
        let (mut complaint, begun) = (Complaint::default(), Instant::now());
        let mut at = |seconds| complaint.again(begun + Duration::from_secs(seconds));
        assert_eq!([0, 1, 59, 60, 61, 125].map(&mut at), [Some(1), None, None, Some(3), None, Some(2)]);
        assert!(complaint.end());
        assert!(!complaint.end(), "told once");
        assert_eq!(complaint.again(begun), Some(1), "and again when it happens again");
    }
}
