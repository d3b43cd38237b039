//! The words of edges that nobody here can read. An edge that is there says each second how it is. A word that stays the same for ten
//! minutes was left behind under a key that was changed since.

use std::collections::HashMap;
use std::time::Duration;

use super::NODES;
use crate::clock::Instant;

/// How long it stays.
pub const STAYS: Duration = Duration::from_secs(600);
/// Those that are looked at: more than a fleet has edges.
const MOST: usize = 4 * NODES;

/// The words that can't be read, by name: each with the number that tells it from the next one, and since when it is there.
#[derive(Clone, Debug, Default)]
pub struct Stale(HashMap<String, (u32, Instant)>);

impl Stale {
    /// Looks at what can't be read at `now`, each with a number that another one hasn't; which of it is to go.
    pub fn look<'a>(&mut self, unread: impl Iterator<Item = (&'a str, u32)>, now: Instant) -> Vec<String> {
        let mut seen = HashMap::new();
        for (name, number) in unread.take(MOST) {
            let since = self.0.get(name).filter(|(before, _)| *before == number).map_or(now, |(_, since)| *since);
            seen.insert(name.to_owned(), (number, since));
        }
        self.0 = seen;
        self.0.iter().filter(|(_, (_, since))| now.since(*since) >= STAYS).map(|(name, _)| name.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Looks, each at a second with what is there; what is to go after the last one.
    #[track_caller]
    fn check(looks: &[(u64, &[(&str, u32)])], expected: &[&str]) {
        let mut stale = Stale::default();
        let mut gone = Vec::new();
        for (second, unread) in looks {
            gone = stale.look(unread.iter().copied(), Instant::from_ns(second * 1_000_000_000));
        }
        gone.sort_unstable();
        assert_eq!(gone, expected, "{looks:?}");
        assert!(stale.0.len() <= MOST);
    }

    #[test]
    fn what_stays_the_same_for_ten_minutes_goes() {
        check(&[(0, &[("mx1", 1)])], &[]);
        check(&[(0, &[("mx1", 1)]), (599, &[("mx1", 1)])], &[]);
        check(
            &[(0, &[("mx1", 1), ("mx2", 1)]), (1, &[("mx1", 1), ("mx2", 2)]), (600, &[("mx1", 1), ("mx2", 2)])],
            &["mx1"],
        );
        // An edge with another key is there.
        check(&[(0, &[("mx1", 1)]), (300, &[("mx1", 2)]), (600, &[("mx1", 3)])], &[]);
        // It was read meanwhile, or was away.
        check(&[(0, &[("mx1", 1)]), (300, &[]), (600, &[("mx1", 1)])], &[]);
        let names: Vec<_> = (0..5000).map(|n| format!("mx{n}")).collect();
        let many: Vec<_> = names.iter().map(|name| (name.as_str(), 1)).collect();
        check(&[(0, &many)], &[]);
    }
}
