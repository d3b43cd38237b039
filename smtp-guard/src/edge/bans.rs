//! The table of bans that sessions ask, and the only door to the kernel's ban map.
//!
//! One task writes (`feedback`), any number of sessions read. A ban goes to the kernel first: that is where it ends the
//! attack. A kernel map that can't be written is the caller's to tell; user space enforces all the same.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};

use smtp_guard_ebpf::reason::Reason;

use super::{EdgeError, KernelPlane, Refreshed, Written};
use crate::addr::Source;
use crate::clock::Instant;
use crate::config::Config;
use crate::key::{Key, Net};
use crate::shards::Shards;

#[cfg(test)]
pub(crate) mod fake;
mod networks;

use networks::Networks;

/// Networks that are banned at once: four times what the kernel has room for.
pub const NETWORKS: usize = 4 * smtp_guard_ebpf::abi::NETWORK_ENTRIES as usize;

/// The kernel's ban map; a trait so that tests can make it fail.
pub trait KernelBans: Send + Sync {
    /// See [`KernelPlane::ban`].
    fn ban(&self, source: Source, until: Instant, reason: Reason) -> Result<(), EdgeError>;
    /// See [`KernelPlane::ban_all`].
    fn ban_all(&self, bans: &[(Source, Instant, Reason)]) -> Result<Written, EdgeError>;
    /// See [`KernelPlane::unban_all`].
    fn unban_all(&self, sources: &[Source]) -> Result<usize, EdgeError>;
    /// See [`KernelPlane::bans_in_map`].
    fn bans(&self) -> Result<Vec<(Source, Instant, Reason)>, EdgeError>;
    /// See [`KernelPlane::ban_networks`].
    fn ban_networks(&self, bans: &[(Net, Instant, Reason)]) -> Result<Vec<Net>, EdgeError>;
    /// See [`KernelPlane::unban_networks`].
    fn unban_networks(&self, nets: &[Net]) -> Result<(), EdgeError>;
    /// See [`KernelPlane::networks_in_map`].
    fn networks(&self) -> Result<Vec<(Net, Instant, Reason)>, EdgeError>;
    /// See [`KernelPlane::established_of`].
    fn established_of(&self, source: Source) -> Result<u64, EdgeError>;
    /// See [`KernelPlane::refresh`]. One that was loaded again is configured as `config` says; where that fails it isn't used,
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

    fn unban_all(&self, sources: &[Source]) -> Result<usize, EdgeError> {
        Self::unban_all(self, sources)
    }

    fn bans(&self) -> Result<Vec<(Source, Instant, Reason)>, EdgeError> {
        self.bans_in_map()
    }

    fn ban_networks(&self, bans: &[(Net, Instant, Reason)]) -> Result<Vec<Net>, EdgeError> {
        Self::ban_networks(self, bans)
    }

    fn unban_networks(&self, nets: &[Net]) -> Result<(), EdgeError> {
        Self::unban_networks(self, nets)
    }

    fn networks(&self) -> Result<Vec<(Net, Instant, Reason)>, EdgeError> {
        self.networks_in_map()
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
                    tracing::warn!(%error, "the kernel plane's settings can't be changed: those of the last load stay");
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

/// The receiver of new bans.
type Hook = Box<dyn Fn(Fell<'_>) + Send + Sync>;

/// A ban that came into force.
#[derive(Clone, Copy)]
#[allow(missing_debug_implementations, reason = "a function has nothing to show")]
pub enum Fell<'a> {
    /// A ban of a source.
    Source(Source, Reason),
    /// Bans of networks: the function says why a source is banned now, if it is.
    Networks(&'a dyn Fn(Source) -> Option<Reason>),
}

/// All bans in force.
pub struct BanTable {
    kernel: Option<Arc<dyn KernelBans>>,
    max: usize,
    /// A writer stops only the readers of one shard, for one insertion.
    sources: Shards<HashMap<Source, (Reason, Instant)>>,
    /// By their end, for expiry and for making room.
    order: Mutex<BTreeSet<(Instant, Source)>>,
    /// Written under the lock of `order` only.
    networks: RwLock<Networks>,
    /// How many those are: where there are none, nobody waits for their lock.
    networks_len: AtomicUsize,
    hook: OnceLock<Hook>,
}

/// The outcome of [`BanTable::apply`].
#[derive(Debug)]
pub struct Applied {
    /// The kernel's part; `Ok` also where no kernel plane is loaded.
    pub kernel: Result<(), EdgeError>,
    /// The table was full: this ban, which ended soonest, made room.
    pub displaced: Option<Source>,
}

/// The outcome of [`BanTable::apply_networks`].
#[derive(Debug)]
pub struct AppliedNetworks {
    /// The kernel's part; `Ok` also where no kernel plane is loaded.
    pub kernel: Result<(), EdgeError>,
    /// The kernel had no room for so many: user space enforces them.
    pub outside: usize,
    /// The table itself was full: these are not banned.
    pub refused: Vec<Net>,
}

impl BanTable {
    /// An empty table of at most `max` bans, in front of `kernel`.
    pub fn new(kernel: Option<Arc<dyn KernelBans>>, max: usize) -> Self {
        Self {
            kernel,
            max: max.max(1),
            sources: Shards::default(),
            order: Mutex::default(),
            networks: RwLock::default(),
            networks_len: AtomicUsize::new(0),
            hook: OnceLock::new(),
        }
    }

    /// Sets who is told of each new ban, once it is in force. The first call counts.
    pub fn on_ban(&self, hook: Hook) {
        // A second hook would be a mistake in the wiring, and the first keeps working.
        let _ = self.hook.set(hook);
    }

    /// Why `source` is banned at `now`, itself or as a part of a network, and until when.
    pub fn banned(&self, source: Source, now: Instant) -> Option<(Reason, Instant)> {
        let own = self.sources.of(&source).get(&source).copied().filter(|(_, until)| now < *until);
        own.or_else(|| self.network_of(source, now))
    }

    fn network_of(&self, source: Source, now: Instant) -> Option<(Reason, Instant)> {
        if self.networks_len.load(Ordering::Acquire) == 0 {
            return None;
        }
        self.networks.read().unwrap_or_else(PoisonError::into_inner).of(source, now)
    }

    /// Puts a ban in force in both planes.
    pub fn apply(&self, source: Source, until: Instant, reason: Reason) -> Applied {
        let mut order = self.order();
        let displaced = self.make_room(&mut order, source);
        let kernel = self.in_kernel(|kernel| kernel.ban(source, until, reason));
        self.insert(&mut order, source, until, reason);
        drop(order);
        if let Some(hook) = self.hook.get() {
            hook(Fell::Source(source, reason));
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
            bans.iter().for_each(|(source, _, reason)| hook(Fell::Source(*source, *reason)));
        }
        (kernel, displaced)
    }

    /// Lifts the bans of `sources` in both planes: the kernel's part is one batch. Where that fails, all are lifted here.
    pub fn lift_all(&self, sources: &[Source]) -> Result<(), EdgeError> {
        self.remove(&mut self.order(), sources)
    }

    /// Puts bans of networks in force in both planes, in place of those that they have. They wake the sessions of all sources
    /// that are banned by networks at `at`, unless they are exempt: a network may hold somebody who was made so since.
    pub fn apply_networks(
        &self,
        bans: &[(Net, Instant, Reason)],
        at: Instant,
        is_exempt: &dyn Fn(Source) -> bool,
    ) -> AppliedNetworks {
        let order = self.order();
        let mut refused = Vec::new();
        let mut now = self.networks_mut();
        for (net, until, reason) in bans {
            if now.len() < NETWORKS || now.has(*net) {
                now.put(*net, (*reason, *until));
            } else {
                refused.push(*net);
            }
        }
        let wanted = now.in_kernel(bans.iter().map(|(net, _, _)| *net));
        self.networks_len.store(now.len(), Ordering::Release);
        drop(now);
        let (kernel, outside) = self.write_networks(&wanted);
        drop(order);
        if let Some(hook) = self.hook.get() {
            hook(Fell::Networks(&|source| {
                self.network_of(source, at).map(|(reason, _)| reason).filter(|_| !is_exempt(source))
            }));
        }
        AppliedNetworks { kernel, outside, refused }
    }

    /// Lifts the bans of `nets` in both planes. What lies in them and is banned itself stays so.
    pub fn lift_networks(&self, nets: &[Net]) -> Result<(), EdgeError> {
        self.remove_networks(&self.order(), nets)
    }

    /// Networks that are banned.
    pub fn networks(&self) -> usize {
        self.networks_len.load(Ordering::Acquire)
    }

    /// Those of them that the kernel had no room for.
    pub fn networks_outside(&self) -> usize {
        self.networks.read().unwrap_or_else(PoisonError::into_inner).outside.len()
    }

    fn remove_networks(&self, _order: &BTreeSet<(Instant, Source)>, nets: &[Net]) -> Result<(), EdgeError> {
        let mut now = self.networks_mut();
        nets.iter().for_each(|net| {
            now.remove(*net);
        });
        self.networks_len.store(now.len(), Ordering::Release);
        // What was inside ends when it should now; and where there is room again, others come in.
        let again = now.in_kernel(nets.iter().copied());
        let waiting: Vec<_> = now.outside.iter().take(nets.len()).copied().collect();
        drop(now);
        self.in_kernel(|kernel| kernel.unban_networks(nets))?;
        self.write_networks(&again).0?;
        let waiting = self.networks.read().unwrap_or_else(PoisonError::into_inner).in_kernel(waiting.into_iter());
        self.write_networks(&waiting).0
    }

    /// Writes to the kernel, and keeps in mind what it has no room for.
    fn write_networks(&self, wanted: &[(Net, Instant, Reason)]) -> (Result<(), EdgeError>, usize) {
        if wanted.is_empty() {
            return (Ok(()), 0);
        }
        let written = self.in_kernel(|kernel| kernel.ban_networks(wanted));
        let mut now = self.networks_mut();
        wanted.iter().for_each(|(net, _, _)| {
            now.outside.remove(net);
        });
        match written {
            Ok(outside) => {
                let count = outside.len();
                now.outside.extend(outside);
                (Ok(()), count)
            }
            Err(error) => (Err(error), 0),
        }
    }

    fn networks_mut(&self) -> std::sync::RwLockWriteGuard<'_, Networks> {
        self.networks.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lifts all bans that are over at `now`, in both planes, and says which.
    pub fn sweep(&self, now: Instant) -> Vec<Key> {
        let mut order = self.order();
        let sources: Vec<_> = order.iter().take_while(|(until, _)| *until <= now).map(|(_, source)| *source).collect();
        // What the kernel keeps of them has ended there as well: it is swept again after the next start.
        if let Err(error) = self.remove(&mut order, &sources) {
            tracing::warn!(%error, bans = sources.len(), "expired bans stay in the kernel map");
        }
        let mut over: Vec<_> = sources.into_iter().map(Key::from).collect();
        let networks = self.networks.read().unwrap_or_else(PoisonError::into_inner).over(now);
        if !networks.is_empty() {
            if let Err(error) = self.remove_networks(&order, &networks) {
                tracing::warn!(%error, "an expired ban of a network stays in the kernel map");
            }
            over.extend(networks.into_iter().map(Key::from));
        }
        over
    }

    /// Bans of sources in the table.
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
        let known = self.sources.of(&source).contains_key(&source);
        if known || order.len() < self.max {
            return None;
        }
        let (_, soonest) = order.first().copied()?;
        if let Err(error) = self.remove(order, &[soonest]) {
            tracing::warn!(%error, "a ban that made room stays in the kernel map");
        }
        Some(soonest)
    }

    fn insert(&self, order: &mut BTreeSet<(Instant, Source)>, source: Source, until: Instant, reason: Reason) {
        let before = self.sources.of(&source).insert(source, (reason, until));
        if let Some((_, old)) = before {
            order.remove(&(old, source));
        }
        order.insert((until, source));
    }

    fn remove(&self, order: &mut BTreeSet<(Instant, Source)>, sources: &[Source]) -> Result<(), EdgeError> {
        if sources.is_empty() {
            return Ok(());
        }
        for source in sources {
            let was = self.sources.of(source).remove(source);
            if let Some((_, until)) = was {
                order.remove(&(until, *source));
            }
        }
        // The kernel's part takes long at times, and sessions wait for a shard.
        self.in_kernel(|kernel| kernel.unban_all(sources)).map(drop)
    }

    /// Applies `what` to the kernel plane; nothing where none is loaded: it gets the bans when it is.
    fn in_kernel<T: Default>(
        &self,
        what: impl FnOnce(&dyn KernelBans) -> Result<T, EdgeError>,
    ) -> Result<T, EdgeError> {
        match self.kernel.as_deref().map(what) {
            None | Some(Err(EdgeError::NotLoaded { .. })) => Ok(T::default()),
            Some(done) => done,
        }
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
        assert_eq!(table.sweep(at(200)), [source.into()]);
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
        table.on_ban(Box::new(move |fell| match fell {
            Fell::Source(source, reason) => hook.lock().unwrap().push((source, reason)),
            Fell::Networks(why) => {
                hook.lock().unwrap().extend([2, 3].map(Source::v4).into_iter().filter_map(|s| Some((s, why(s)?))));
            }
        }));
        assert!(table.apply(Source::v4(1), at(100), Reason::Harvest).kernel.is_err());
        assert!(table.banned(Source::v4(1), at(0)).is_some());
        assert_eq!(*told.lock().unwrap(), [(Source::v4(1), Reason::Harvest)]);
        let sources = [1, 2].map(Source::v4);
        assert!(table.apply(sources[1], at(100), Reason::Harvest).kernel.is_err());
        assert!(table.lift_all(&sources).is_err());
        assert_eq!(sources.map(|source| table.banned(source, at(0))), [None; 2], "lifted here all the same");
    }

    fn net(text: &str) -> Net {
        Key::of(text.parse().unwrap(), crate::addr::Ipv6Prefix::default()).unwrap().network().unwrap()
    }

    #[test]
    fn a_network_bans_its_sources_in_both_planes() {
        let kernel = Arc::new(Fake::default());
        let table = BanTable::new(Some(kernel.clone()), 10);
        let told = Arc::new(Mutex::new(Vec::new()));
        let hook = Arc::clone(&told);
        table.on_ban(Box::new(move |fell| {
            if let Fell::Networks(why) = fell {
                hook.lock().unwrap().extend([0xc000_0201, 0xc000_0301].map(|n| why(Source::v4(n))));
            }
        }));
        let (wide, narrow) = (net("192.0.0.0/16"), net("192.0.2.0/24"));
        let in_kernel = || {
            let mut found = kernel.networks().unwrap();
            found.sort_unstable();
            found.into_iter().map(|(net, until, _)| (net, until.as_ns())).collect::<Vec<_>>()
        };
        table.apply_networks(&[(narrow, at(100), Reason::Operator)], at(0), &|_| false).kernel.unwrap();
        assert_eq!(*told.lock().unwrap(), [Some(Reason::Operator), None]);
        let inside = Source::v4(0xc000_0201);
        assert_eq!(table.banned(inside, at(99)), Some((Reason::Operator, at(100))));
        assert_eq!(table.banned(Source::v4(0xc000_0301), at(99)), None);
        table.apply_networks(&[(wide, at(300), Reason::Operator)], at(0), &|_| false).kernel.unwrap();
        assert_eq!(in_kernel(), [(wide, 300), (narrow, 300)]);
        assert_eq!(table.sweep(at(100)), [narrow.into()]);
        assert_eq!((in_kernel(), table.networks()), (vec![(wide, 300)], 1));
        table.apply_networks(&[(narrow, at(200), Reason::Operator)], at(0), &|_| false).kernel.unwrap();
        table.lift_networks(&[wide]).unwrap();
        assert_eq!(in_kernel(), [(narrow, 200)], "its own end again");
        table.lift_networks(&[narrow]).unwrap();
        assert_eq!((in_kernel(), table.networks(), table.banned(inside, at(0))), (vec![], 0, None));
    }

    #[test]
    fn what_the_kernel_has_no_room_for_is_enforced_here_and_comes_in_later() {
        let kernel = Arc::new(Fake::default());
        let table = BanTable::new(Some(kernel.clone()), 10);
        let nets: Vec<_> = (0..fake::NETWORKS as u32 + 2).map(|n| net(&format!("192.0.{n}.0/24"))).collect();
        let bans: Vec<_> = nets.iter().map(|net| (*net, at(100), Reason::Operator)).collect();
        let applied = table.apply_networks(&bans, at(0), &|_| false);
        applied.kernel.unwrap();
        assert_eq!((applied.outside, table.networks_outside(), applied.refused), (2, 2, vec![]));
        let last = Source::v4(0xc000_0000 + (fake::NETWORKS as u32 + 1) * 256);
        assert!(table.banned(last, at(0)).is_some());
        table.lift_networks(&nets[..1]).unwrap();
        assert_eq!((table.networks_outside(), kernel.networks().unwrap().len()), (1, fake::NETWORKS));
    }
}
