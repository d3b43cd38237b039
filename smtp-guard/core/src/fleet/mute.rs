//! Who decides too much is muted: an edge that goes mad must not ban the world on all others.
//!
//! Decisions are counted by the minute in which they were made, not in which they are heard: an edge that was away tells at once what
//! it decided meanwhile. An edge stays muted for [`LASTS`] after the last minute that was too much.

use std::collections::{BTreeMap, HashMap};

use super::NODES;

/// Decisions of an edge in a minute.
pub const DECISIONS: u32 = 600;
/// How long an edge is muted after that, in ms.
pub const LASTS: i64 = 10 * MINUTE;

const MINUTE: i64 = 60_000;
/// Minutes of an edge that are counted: the newest.
const MINUTES: usize = 32;

/// What edges have decided lately.
#[derive(Clone, Debug, Default)]
pub struct Mute {
    nodes: HashMap<String, Node>,
}

#[derive(Clone, Debug, Default)]
struct Node {
    decided: BTreeMap<i64, u32>,
    until: i64,
}

impl Mute {
    /// `decisions` more of `node`, made at `at`; whether that is too much for the first time, at `now`.
    pub fn note(&mut self, node: &str, decisions: u32, at: i64, now: i64) -> bool {
        if self.nodes.len() >= NODES && !self.nodes.contains_key(node) {
            return false;
        }
        let known = self.nodes.entry(node.to_owned()).or_default();
        let decided = known.decided.entry(at.div_euclid(MINUTE)).or_default();
        *decided = decided.saturating_add(decisions);
        let too_much = *decided > DECISIONS;
        while known.decided.len() > MINUTES {
            known.decided.pop_first();
        }
        let was = now < known.until;
        if too_much {
            known.until = now.saturating_add(LASTS);
        }
        too_much && !was
    }

    /// Whether nobody listens to `node` at `now`.
    pub fn is_muted(&self, node: &str, now: i64) -> bool {
        self.nodes.get(node).is_some_and(|node| now < node.until)
    }

    /// Whom nobody listens to at `now`, sorted.
    pub fn muted(&self, now: i64) -> Vec<String> {
        let mut muted: Vec<_> =
            self.nodes.iter().filter(|(_, node)| now < node.until).map(|(name, _)| name.clone()).collect();
        muted.sort_unstable();
        muted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Decisions of `mx1`: how many, when they were made, when they are heard, and whether it is muted then.
    #[track_caller]
    fn check(steps: &[(u32, i64, i64, bool)]) {
        let mut mute = Mute::default();
        for (decisions, at, now, expected) in steps {
            let was = mute.is_muted("mx1", now * 1000);
            let begins = mute.note("mx1", *decisions, at * 1000, now * 1000);
            assert_eq!(mute.is_muted("mx1", now * 1000), *expected, "{steps:?} at {now}");
            assert!(!begins || !was && *expected, "it is told once: {steps:?} at {now}");
            assert!(!mute.is_muted("mx2", now * 1000));
        }
    }

    #[test]
    fn who_decides_more_than_600_times_a_minute_is_muted_for_ten_minutes() {
        check(&[
            (600, 0, 0, false),
            (600, 60, 60, false),
            (1, 61, 61, true),
            (0, 660, 660, true),
            (0, 720, 720, false),
        ]);
        check(&[(601, 0, 0, true), (601, 120, 120, true), (0, 719, 719, true), (0, 721, 721, false)]);
        // It was away for ten minutes, and tells at once.
        check(&(0..10).map(|minute| (600, minute * 60, 600, false)).collect::<Vec<_>>());
        check(&(0..700).map(|n| (1, 0, n / 100, n >= 600)).collect::<Vec<_>>());
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let mut mute = Mute::default();
        for n in 0..1000 {
            mute.note(&format!("mx{n}"), 601, n, n);
            mute.note("mx0", 1, n * MINUTE, n);
        }
        assert_eq!(mute.nodes.len(), NODES);
        assert_eq!(mute.nodes["mx0"].decided.len(), MINUTES);
        assert_eq!(mute.muted(0).len(), NODES);
    }
}
