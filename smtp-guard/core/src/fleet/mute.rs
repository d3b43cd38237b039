//! Mutes edges that decide too much: an edge that goes mad must not ban the world on all others.
//!
//! Decisions are counted by the minute in which they were made, not in which they are heard: an edge that was away tells at once what
//! it decided meanwhile. An edge stays muted for [`LASTS`] after the last minute that was too much. What it decided from that minute on
//! until then is void for good: the server still holds it, and who was deaf to it would read it there as soon as he listens again.

use std::collections::{BTreeMap, HashMap};

use super::{DAY, NODES};

/// Decisions of an edge in a minute.
pub const DECISIONS: u32 = 600;
/// How long an edge is muted after that, in ms.
pub const LASTS: i64 = 10 * MINUTE;

const MINUTE: i64 = 60_000;
/// Minutes of an edge that are counted: the newest.
const MINUTES: usize = 32;

/// Recent decisions by edge.
#[derive(Clone, Debug, Default)]
pub struct Mute {
    nodes: HashMap<String, Node>,
}

#[derive(Clone, Debug, Default)]
struct Node {
    decided: BTreeMap<i64, u32>,
    /// The beginning of the minute for which it was muted last.
    since: i64,
    until: i64,
    /// The most that it decided in a minute since then.
    most: u32,
}

/// Why an edge is muted, and for how long; times are the server's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Muted {
    /// The beginning of the minute in which it decided too much.
    pub since: i64,
    pub until: i64,
    /// The most that it decided in a minute.
    pub decisions: u32,
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
        let decisions = *decided;
        let too_much = decisions > DECISIONS;
        while known.decided.len() > MINUTES {
            known.decided.pop_first();
        }
        let was = now < known.until;
        if too_much && !was {
            known.since = at.div_euclid(MINUTE).saturating_mul(MINUTE);
            known.most = 0;
        }
        if too_much {
            known.until = now.saturating_add(LASTS);
            known.most = known.most.max(decisions);
        }
        too_much && !was
    }

    /// Whether nobody listens to `node` at `now`.
    pub fn is_muted(&self, node: &str, now: i64) -> bool {
        self.nodes.get(node).is_some_and(|node| now < node.until)
    }

    /// Why and for how long nobody listens to `node` at `now`; `None`: it isn't muted.
    pub fn of(&self, node: &str, now: i64) -> Option<Muted> {
        let known = self.nodes.get(node).filter(|node| now < node.until)?;
        Some(Muted { since: known.since, until: known.until, decisions: known.most })
    }

    /// Whether what `node` decided at `at` doesn't count at `now`.
    pub fn is_void(&self, node: &str, at: i64, now: i64) -> bool {
        self.nodes.get(node).is_some_and(|node| now < node.until || node.since <= at && at < node.until)
    }

    /// From when on what `node` decides is void, while nobody listens to it at `now`.
    pub fn since(&self, node: &str, now: i64) -> Option<i64> {
        self.nodes.get(node).filter(|node| now < node.until).map(|node| node.since)
    }

    /// Forgets edges that haven't decided anything for as long as minutes are counted, and weren't muted for a day, at `now`.
    pub fn expire(&mut self, now: i64) {
        let counts = now.saturating_sub(MINUTES as i64 * MINUTE).div_euclid(MINUTE);
        self.nodes.retain(|_, node| {
            let decided = node.decided.last_key_value().is_some_and(|(minute, _)| *minute >= counts);
            decided || now < node.until.saturating_add(DAY)
        });
    }

    /// Edges that nobody listens to at `now`, sorted.
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

    /// Decisions of `mx1`, with the second of each; why it is muted at the end of the last one, by seconds.
    #[track_caller]
    fn check_why(steps: &[(u32, i64)], expected: Option<(i64, i64, u32)>) {
        let mut mute = Mute::default();
        steps.iter().for_each(|(decisions, at)| _ = mute.note("mx1", *decisions, at * 1000, at * 1000));
        let now = steps.last().map_or(0, |(_, at)| at * 1000);
        let why = mute.of("mx1", now);
        assert_eq!(why.map(|why| (why.since / 1000, why.until / 1000, why.decisions)), expected, "{steps:?}");
    }

    #[test]
    fn who_is_muted_is_so_for_the_most_that_it_decided() {
        check_why(&[], None);
        check_why(&[(600, 70)], None);
        check_why(&[(601, 70)], Some((60, 670, 601)));
        check_why(&[(601, 70), (90, 71), (702, 130), (602, 190)], Some((60, 790, 702)));
        // Another time.
        check_why(&[(900, 70), (601, 1000)], Some((960, 1600, 601)));
        check_why(&[(900, 70), (1, 670)], None);
    }

    /// Whether what was decided at this second counts, of an edge that was muted from the second 120 to 730 for a ban at 130.
    #[track_caller]
    fn check_void(at: i64, now: i64, expected: bool) {
        let mut mute = Mute::default();
        assert!(mute.note("mx1", 601, 130_000, 130_000));
        assert_eq!(mute.is_void("mx1", at * 1000, now * 1000), expected, "{at} at {now}");
        assert_eq!(mute.since("mx1", now * 1000), (now < 730).then_some(120_000));
        assert!(!mute.is_void("mx2", at * 1000, now * 1000));
    }

    #[test]
    fn what_was_decided_while_muted_is_void_for_good() {
        check_void(119, 729, true);
        check_void(119, 730, false);
        check_void(120, 730, true);
        check_void(729, 100_000, true);
        check_void(730, 730, false);
    }

    #[test]
    fn edges_that_have_left_make_room() {
        const NOW: i64 = 10 * DAY;
        let mut mute = Mute::default();
        for n in 0..NODES {
            mute.note(&format!("mx{n}"), if n == 0 { 601 } else { 1 }, NOW, NOW);
        }
        mute.note("new", 601, NOW, NOW);
        assert!(!mute.is_muted("new", NOW), "there is no room");
        mute.expire(NOW + 31 * MINUTE);
        assert_eq!(mute.nodes.len(), NODES);
        mute.expire(NOW + 33 * MINUTE);
        assert_eq!(mute.nodes.keys().collect::<Vec<_>>(), ["mx0"]);
        assert!(mute.note("new", 601, NOW, NOW));
        mute.expire(NOW + DAY + LASTS);
        assert!(mute.nodes.is_empty());
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
