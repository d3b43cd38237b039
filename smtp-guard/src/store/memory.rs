//! A store in memory, for tests: a disk that outlives the guards that open it, one after the other.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::oneshot;

use super::{Change, Found, Full, Store};
use crate::addr::Ipv6Prefix;
use crate::clock::WallTime;
use crate::decision::Ban;
use crate::key::Key;
use crate::offence::Digests;

/// The kept changes. Clones are the same disk.
#[derive(Clone, Debug, Default)]
pub(crate) struct Disk(Arc<Mutex<Kept>>);

#[derive(Clone, Debug, Default)]
struct Kept {
    bans: BTreeMap<Key, Ban>,
    counters: BTreeMap<(String, String), (Key, WallTime, String)>,
    full: bool,
}

/// An open store upon a [`Disk`].
#[derive(Debug)]
pub(crate) struct Memory {
    disk: Disk,
    found: Mutex<Option<Found>>,
}

impl Disk {
    /// The store, as a guard finds it that starts now.
    pub(crate) fn open(&self) -> Box<dyn Store> {
        let kept = self.kept();
        let bans = kept.bans.values().map(|ban| Change::Save(Box::new(ban.clone())));
        let mut counters: Vec<_> = kept.counters.iter().collect();
        counters.sort_by_key(|(_, (_, at, _))| std::cmp::Reverse(*at));
        let counters = counters.into_iter().map(|((kind, _), (key, at, state))| Change::Count {
            kind: kind.clone().into(),
            key: key.clone(),
            state: Some(state.clone()),
            at: *at,
        });
        let found = Found { changes: bans.chain(counters).collect(), begun: false };
        Box::new(Memory { disk: self.clone(), found: Mutex::new(Some(found)) })
    }

    /// Another disk with what is on this one now: what SIGKILL leaves.
    pub(crate) fn copy(&self) -> Self {
        Self(Arc::new(Mutex::new(self.kept().clone())))
    }

    /// From now on it has no room, or has room again.
    pub(crate) fn fill(&self, full: bool) {
        self.kept().full = full;
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap()
    }
}

impl Store for Memory {
    fn hand_over(&self, changes: Vec<Change>, _patience: Duration) -> Result<(), Full> {
        let mut kept = self.disk.kept();
        if kept.full {
            return Err(Full);
        }
        changes.into_iter().for_each(|change| kept.apply(change));
        Ok(())
    }

    fn written(&self) -> oneshot::Receiver<()> {
        let (sender, written) = oneshot::channel();
        if !self.disk.kept().full {
            sender.send(()).unwrap();
        }
        written
    }

    fn take_found(&self) -> Option<Found> {
        self.found.lock().unwrap().take()
    }

    fn digests(&self) -> Digests {
        Digests::default()
    }
}

impl Kept {
    fn apply(&mut self, change: Change) {
        let name = |key: &Key| key.text(Ipv6Prefix::default());
        match change {
            Change::Save(ban) => drop(self.bans.insert(ban.key.clone(), *ban)),
            Change::Remove(key) => drop(self.bans.remove(&key)),
            Change::Count { kind, key, state: Some(state), at } => {
                self.counters.insert((kind.into_owned(), name(&key)), (key, at, state));
            }
            Change::Count { kind, key, state: None, .. } => {
                self.counters.remove(&(kind.into_owned(), name(&key)));
            }
            Change::Purge { decisions, counters } => {
                self.bans.retain(|_, ban| ban.until >= decisions);
                self.counters.retain(|_, (_, at, _)| *at >= counters);
            }
        }
    }
}
