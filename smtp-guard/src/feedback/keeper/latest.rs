//! The bans that were made last, for readers that ask every second: nobody wants to search a million for them.
//!
//! # Bounds
//! [`LATEST`] keys. A ban that ended or was lifted keeps its place until others push it out; it isn't shown.

use std::collections::VecDeque;

use crate::decision::{Ban, LATEST};
use crate::key::Key;

/// The subjects of the latest bans, the last one at the back.
#[derive(Debug, Default)]
pub(super) struct Latest(VecDeque<Key>);

impl Latest {
    /// `ban` is in force, in place of `before`. One that is only put in force again is no news.
    pub(super) fn note(&mut self, ban: &Ban, before: Option<&Ban>) {
        if before.is_some_and(|before| before.made == ban.made) {
            return;
        }
        self.0.retain(|key| *key != ban.key);
        if self.0.len() == LATEST {
            self.0.pop_front();
        }
        self.0.push_back(ban.key.clone());
    }

    /// The last one first.
    pub(super) fn keys(&self) -> impl Iterator<Item = &Key> {
        self.0.iter().rev()
    }
}

#[cfg(test)]
mod tests {
    use smtp_guard_ebpf::reason::Reason;

    use super::*;
    use crate::addr::Source;
    use crate::clock::WallTime;
    use crate::decision::Origin;

    fn ban(source: u64, made: i64) -> Ban {
        Ban {
            key: Source(source).into(),
            reason: Reason::Harvest,
            origin: Origin::Ledger,
            made: WallTime::from_ms(made),
            until: WallTime::from_ms(i64::MAX),
            repeat: 0,
            text: std::sync::Arc::default(),
            evidence: Default::default(),
        }
    }

    /// `bans` in their order, each with the moment it was made at; the sources that are the latest then.
    fn check(bans: &[(u64, i64)], sources: &[u64]) {
        let (mut latest, mut before) = (Latest::default(), std::collections::HashMap::new());
        for (source, made) in bans {
            let ban = ban(*source, *made);
            latest.note(&ban, before.get(source));
            before.insert(*source, ban);
        }
        assert_eq!(latest.keys().map(|key| key.source().unwrap().0).collect::<Vec<_>>(), sources, "{bans:?}");
    }

    #[test]
    fn the_last_one_is_first() {
        check(&[], &[]);
        check(&[(1, 0), (2, 0), (3, 0)], &[3, 2, 1]);
        check(&[(1, 0), (2, 0), (1, 5)], &[1, 2]);
        // The kernel plane was loaded anew: the same bans once more.
        check(&[(1, 0), (2, 0), (1, 0)], &[2, 1]);
        let many: Vec<_> = (0..100).map(|source| (source, 0)).collect();
        check(&many, &(36..100).rev().collect::<Vec<_>>());
    }
}
