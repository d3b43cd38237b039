//! The table of bans that sessions ask, and the only door to the kernel's ban map.
//!
//! One task writes (`feedback`), any number of sessions read. A ban goes to the kernel first: that is where it ends the
//! attack. A kernel map that can't be written is the caller's to tell; user space enforces all the same.

use std::collections::hash_map::RandomState;
use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::hash::BuildHasher;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};

use smtp_guard_ebpf::reason::Reason;

use super::{EdgeError, KernelPlane, Refreshed, Written};
use crate::addr::Source;
use crate::clock::Instant;
use crate::config::Config;

#[cfg(test)]
pub(crate) mod fake;

/// Shards of the table: a writer stops only the readers of one of them, for one insertion.
const SHARDS: usize = 16;

/// The kernel's ban map; a trait so that tests can make it fail.
pub trait KernelBans: Send + Sync {
    /// See [`KernelPlane::ban`].
    fn ban(&self, source: Source, until: Instant, reason: Reason) -> Result<(), EdgeError>;
    /// See [`KernelPlane::ban_all`].
    fn ban_all(&self, bans: &[(Source, Instant, Reason)]) -> Result<Written, EdgeError>;
    /// See [`KernelPlane::unban`].
    fn unban(&self, source: Source) -> Result<bool, EdgeError>;
    /// See [`KernelPlane::bans_in_map`].
    fn bans(&self) -> Result<Vec<(Source, Instant, Reason)>, EdgeError>;
    /// See [`KernelPlane::established_of`].
    fn established_of(&self, source: Source) -> Result<u64, EdgeError>;
    /// See [`KernelPlane::refresh`]. One that was loaded anew is configured as `config` says; where that fails it isn't used,
    /// and tried again at the next call.
    fn refresh(&self, config: &Config) -> Result<Refreshed, EdgeError>;
}

impl KernelBans for KernelPlane {
    fn ban(&self, source: Source, until: Instant, reason: Reason) -> Result<(), EdgeError> {
        Self::ban(self, source, until, reason)
    }

    fn ban_all(&self, bans: &[(Source, Instant, Reason)]) -> Result<Written, EdgeError> {
        Self::ban_all(self, bans)
    }

    fn unban(&self, source: Source) -> Result<bool, EdgeError> {
        Self::unban(self, source)
    }

    fn bans(&self) -> Result<Vec<(Source, Instant, Reason)>, EdgeError> {
        self.bans_in_map()
    }

    fn established_of(&self, source: Source) -> Result<u64, EdgeError> {
        Self::established_of(self, source)
    }

    fn refresh(&self, config: &Config) -> Result<Refreshed, EdgeError> {
        if config.edge.interfaces.is_empty() {
            // One that somebody else loaded is not ours to write to.
            self.close(&EdgeError::NotWanted);
            return Ok(Refreshed::Gone);
        }
        let found = Self::refresh(self)?;
        if found == Refreshed::Anew {
            match self.configure(config) {
                Ok(()) => {}
                // To wait for it again and again would keep bans waiting.
                Err(error @ EdgeError::Locked { .. }) => {
                    tracing::warn!(%error, "the kernel plane keeps the settings of who loaded it");
                }
                Err(error) => {
                    self.close(&error);
                    return Err(error);
                }
            }
        }
        Ok(found)
    }
}

type Hook = Box<dyn Fn(Source, Reason) + Send + Sync>;

/// All bans in force.
pub struct BanTable {
    kernel: Option<Arc<dyn KernelBans>>,
    max: usize,
    hasher: RandomState,
    shards: Vec<RwLock<HashMap<Source, (Reason, Instant)>>>,
    /// By their end, for expiry and for making room.
    order: Mutex<BTreeSet<(Instant, Source)>>,
    hook: OnceLock<Hook>,
}

/// What came of [`BanTable::apply`].
#[derive(Debug)]
pub struct Applied {
    /// The kernel's part; `Ok` also where no kernel plane is loaded.
    pub kernel: Result<(), EdgeError>,
    /// The table was full: this ban, which ended soonest, made room.
    pub displaced: Option<Source>,
}

impl BanTable {
    /// An empty table of at most `max` bans, in front of `kernel`.
    pub fn new(kernel: Option<Arc<dyn KernelBans>>, max: usize) -> Self {
        Self {
            kernel,
            max: max.max(1),
            hasher: RandomState::new(),
            shards: (0..SHARDS).map(|_| RwLock::default()).collect(),
            order: Mutex::default(),
            hook: OnceLock::new(),
        }
    }

    /// Sets who is told of each new ban, once it is in force. The first call counts.
    pub fn on_ban(&self, hook: Hook) {
        // A second hook would be a mistake in the wiring, and the first keeps working.
        let _ = self.hook.set(hook);
    }

    /// Why `source` is banned at `now`, and until when.
    pub fn banned(&self, source: Source, now: Instant) -> Option<(Reason, Instant)> {
        let shard = self.shard(source).read().unwrap_or_else(PoisonError::into_inner);
        shard.get(&source).copied().filter(|(_, until)| now < *until)
    }

    /// Puts a ban in force in both planes.
    pub fn apply(&self, source: Source, until: Instant, reason: Reason) -> Applied {
        let mut order = self.order();
        let displaced = self.make_room(&mut order, source);
        let kernel = self.in_kernel(|kernel| kernel.ban(source, until, reason));
        self.insert(&mut order, source, until, reason);
        drop(order);
        if let Some(hook) = self.hook.get() {
            hook(source, reason);
        }
        Applied { kernel, displaced }
    }

    /// Puts many bans in force in both planes: the kernel's part is one batch. Says what the kernel made of it, and which
    /// bans made room.
    pub fn apply_all(&self, bans: &[(Source, Instant, Reason)]) -> (Result<Written, EdgeError>, Vec<Source>) {
        let mut order = self.order();
        let mut displaced = Vec::new();
        for (source, until, reason) in bans {
            displaced.extend(self.make_room(&mut order, *source));
            self.insert(&mut order, *source, *until, *reason);
        }
        // A ban of this very call may have made room for a later one.
        let in_force = |(source, until, _): &&(Source, Instant, Reason)| order.contains(&(*until, *source));
        let bans: Vec<_> = bans.iter().filter(in_force).copied().collect();
        let kernel = self.in_kernel(|kernel| kernel.ban_all(&bans));
        drop(order);
        if let Some(hook) = self.hook.get() {
            bans.iter().for_each(|(source, _, reason)| hook(*source, *reason));
        }
        (kernel, displaced)
    }

    /// Lifts the ban of `source` in both planes.
    pub fn lift(&self, source: Source) -> Result<(), EdgeError> {
        self.remove(&mut self.order(), source)
    }

    /// Lifts all bans that are over at `now`, in both planes, and says which.
    pub fn sweep(&self, now: Instant) -> Vec<Source> {
        let mut order = self.order();
        let mut over = Vec::new();
        while let Some(&(until, source)) = order.first()
            && until <= now
        {
            // What the kernel keeps of it has ended there as well: it is swept again after the next start.
            if let Err(error) = self.remove(&mut order, source) {
                tracing::warn!(%error, "an expired ban stays in the kernel map");
            }
            over.push(source);
        }
        over
    }

    /// Bans in the table.
    pub fn len(&self) -> usize {
        self.order().len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The kernel plane behind the table.
    pub fn kernel(&self) -> Option<&dyn KernelBans> {
        self.kernel.as_deref()
    }

    fn make_room(&self, order: &mut BTreeSet<(Instant, Source)>, source: Source) -> Option<Source> {
        let known = self.shard(source).read().unwrap_or_else(PoisonError::into_inner).contains_key(&source);
        if known || order.len() < self.max {
            return None;
        }
        let (_, soonest) = order.first().copied()?;
        if let Err(error) = self.remove(order, soonest) {
            tracing::warn!(%error, "a ban that made room stays in the kernel map");
        }
        Some(soonest)
    }

    fn insert(&self, order: &mut BTreeSet<(Instant, Source)>, source: Source, until: Instant, reason: Reason) {
        let mut shard = self.shard(source).write().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, old)) = shard.insert(source, (reason, until)) {
            order.remove(&(old, source));
        }
        order.insert((until, source));
    }

    fn remove(&self, order: &mut BTreeSet<(Instant, Source)>, source: Source) -> Result<(), EdgeError> {
        // The kernel's part takes long at times, and sessions wait for a shard.
        let was = self.shard(source).write().unwrap_or_else(PoisonError::into_inner).remove(&source);
        if let Some((_, until)) = was {
            order.remove(&(until, source));
        }
        self.in_kernel(|kernel| kernel.unban(source)).map(drop)
    }

    /// What the kernel plane makes of `what`; nothing where none is loaded: it gets the bans when it is.
    fn in_kernel<T: Default>(
        &self,
        what: impl FnOnce(&dyn KernelBans) -> Result<T, EdgeError>,
    ) -> Result<T, EdgeError> {
        match self.kernel.as_deref().map(what) {
            None | Some(Err(EdgeError::NotLoaded { .. })) => Ok(T::default()),
            Some(done) => done,
        }
    }

    fn shard(&self, source: Source) -> &RwLock<HashMap<Source, (Reason, Instant)>> {
        &self.shards[self.hasher.hash_one(source) as usize % SHARDS]
    }

    fn order(&self) -> MutexGuard<'_, BTreeSet<(Instant, Source)>> {
        self.order.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for BanTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BanTable").field("bans", &self.len()).field("max", &self.max).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::fake::{Fake, State};
    use super::*;

    fn at(n: u64) -> Instant {
        Instant::from_ns(n)
    }

    #[test]
    fn both_planes_hold_the_same_and_expire_together() {
        let kernel = Arc::new(Fake::default());
        let table = BanTable::new(Some(kernel.clone()), 10);
        let source = Source::v4(1);
        table.apply(source, at(100), Reason::Harvest).kernel.unwrap();
        assert_eq!(table.banned(source, at(99)), Some((Reason::Harvest, at(100))));
        assert_eq!(table.banned(source, at(100)), None, "over");
        table.apply(source, at(200), Reason::Operator).kernel.unwrap();
        assert_eq!((table.len(), kernel.bans().unwrap()), (1, vec![(source, at(200), Reason::Operator)]));
        assert_eq!(table.sweep(at(199)), []);
        assert_eq!(table.sweep(at(200)), [source]);
        assert!(table.is_empty() && kernel.bans().unwrap().is_empty());
    }

    #[test]
    fn the_ban_that_ends_soonest_makes_room() {
        let kernel = Arc::new(Fake::default());
        let table = BanTable::new(Some(kernel.clone()), 2);
        for (n, until) in [(1, 300), (2, 200), (3, 400)] {
            let applied = table.apply(Source::v4(n), at(until), Reason::Harvest);
            assert_eq!(applied.displaced, (n == 3).then_some(Source::v4(2)));
        }
        assert_eq!((table.len(), kernel.bans().unwrap().len()), (2, 2));
    }

    #[test]
    fn many_at_once_are_as_many_one_by_one() {
        let (kernel, alone) = (Arc::new(Fake::default()), Arc::new(Fake::default()));
        let (all, one) = (BanTable::new(Some(kernel.clone()), 3), BanTable::new(Some(alone.clone()), 3));
        let bans = [(1, 300), (2, 200), (1, 100), (3, 400), (4, 50), (5, 500), (2, 600)]
            .map(|(n, until)| (Source::v4(n), at(until), Reason::Harvest));
        let (written, displaced) = all.apply_all(&bans);
        let made_room: Vec<_> = bans.iter().filter_map(|(s, u, r)| one.apply(*s, *u, *r).displaced).collect();
        assert_eq!(displaced, made_room);
        let sorted = |kernel: &Fake| {
            let mut bans = kernel.bans().unwrap();
            bans.sort_unstable_by_key(|(source, _, _)| *source);
            bans
        };
        assert_eq!((sorted(&kernel), all.len()), (sorted(&alone), one.len()));
        assert_eq!(written.unwrap().written, 3);
    }

    #[test]
    fn a_broken_kernel_map_is_told_and_user_space_enforces() {
        let kernel = Arc::new(Fake::default());
        kernel.set(State::Broken);
        let table = BanTable::new(Some(kernel), 10);
        let told = Arc::new(Mutex::new(Vec::new()));
        let hook = Arc::clone(&told);
        table.on_ban(Box::new(move |source, reason| hook.lock().unwrap().push((source, reason))));
        assert!(table.apply(Source::v4(1), at(100), Reason::Harvest).kernel.is_err());
        assert!(table.banned(Source::v4(1), at(0)).is_some());
        assert_eq!(*told.lock().unwrap(), [(Source::v4(1), Reason::Harvest)]);
        assert!(table.lift(Source::v4(1)).is_err());
        assert!(table.banned(Source::v4(1), at(0)).is_none(), "lifted here all the same");
    }
}
