//! The list of connected clients: sessions by source and network. Limits are exact, a ban wakes its sessions, and when it is full idle
//! newcomers make room.
//!
//! # Who may have a place
//! | bound | newcomers | known senders | exempt |
//! |---|---|---|---|
//! | `limits.connections`, of a source | up to it | up to it | no limit |
//! | `limits.network_connections`, of a /24 or /48 | all but a tenth | all | no limit |
//! | `limits.total_connections` | all but a tenth | all | no limit |
//!
//! A newcomer is no known sender, hasn't logged in and isn't of `relay.networks`. All sessions count, those of exempt clients too.
//!
//! # Who makes room
//! When a network or the guard is full, an idle newcomer hears 421 in favour of the arrival. It is looked for where most is
//! held: in the whole guard in the network with the most sessions, within a network among its sources. An arrival that is a
//! newcomer never displaces anybody who holds as little as it does itself, so whoever holds most can only harm himself. Of
//! those that may be displaced, the one that was idle longest goes. Clients without a transaction come first, then those whose
//! transaction has waited [`STALLED`] for its client.
//!
//! # What is seen of a session
//! Each place has what its session does, in a word that the session writes as it goes on, and who the client says it is. Whoever looks
//! ([`Sources::sessions`]) stops nobody.
//!
//! # Bounds
//! One lock, held for a few look-ups; where somebody is to make room, or sessions are shown, for a look at up to [`LOOK`] sessions.
//! Sessions that make room no longer count, and at most [`Limits::leaving`] are about to close; while there are as many, nobody makes
//! room.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, ready};
use std::time::Duration;

use smtp_guard_ebpf::reason::Reason;
use tokio::sync::{Notify, watch};

use crate::addr::Source;
use crate::clock::Instant;
use crate::gate::Standing;
use crate::ledger::networks::Network;
use crate::session::{Doing, Shown, Speaker};

/// How long a transaction waits for its client before its session may be made to go.
const STALLED: Duration = Duration::from_secs(10);
/// Sessions that are looked at to find one that makes room, or those that are shown.
const LOOK: usize = 1024;
/// The part of each bound that is kept for known senders: one in ten.
const RESERVE: u32 = 10;

/// The bounds of [`Sources::enter`].
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Sessions of one source at once.
    pub(super) of_source: u32,
    /// Sessions of one IPv4 /24 or IPv6 /48 at once; 0: no limit.
    pub(super) of_network: u32,
    /// Sessions of the whole guard at once.
    pub(super) total: u32,
    /// Sessions that made room and have not closed yet.
    pub(super) leaving: u32,
}

/// The news of [`Seat::woken`] for a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wake {
    Banned(Reason),
    /// It is idle, and somebody needs its place.
    GiveWay,
}

/// A session, as others see it.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) source: Source,
    pub(super) began: Instant,
    pub(super) doing: Doing,
    /// Messages that were accepted.
    pub(super) accepted: u32,
    pub(super) secured: bool,
    pub(super) speaker: Option<Arc<Speaker>>,
}

/// With the number of sessions of each.
pub(super) type Sessions<T> = Vec<(T, u32)>;

/// All sessions.
#[derive(Debug, Default)]
pub(super) struct Sources {
    table: Mutex<Table>,
}

/// A session's place; gives it back when dropped.
#[derive(Debug)]
pub(super) struct Seat {
    sources: Arc<Sources>,
    source: Source,
    number: u64,
    place: Arc<Place>,
    banned: watch::Receiver<Option<Reason>>,
    /// As it was shown last.
    speaker: Option<Arc<Speaker>>,
    /// That it gives way is told once.
    told: bool,
    call: Option<Call>,
    /// The bound that somebody made room for it at.
    displaced: Option<Reason>,
}

/// What [`Seat::woken`] waits for.
struct Call(Pin<Box<dyn Future<Output = ()> + Send>>);

impl fmt::Debug for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Call")
    }
}

/// What others may see of a session without stopping it.
#[derive(Debug)]
struct Place {
    /// Since when it waits for its client, in ns of [`Instant`]; [`BUSY`]: it doesn't.
    idle_since: AtomicU64,
    /// A transaction is under way.
    open: AtomicBool,
    /// It is no newcomer, or no longer.
    known: AtomicBool,
    /// It made room and counts no longer.
    ceded: AtomicBool,
    call: Notify,
    began: Instant,
    /// See [`packed`].
    shown: AtomicU64,
    /// Taken by its session when the client says who it is, and by whoever looks.
    speaker: Mutex<Option<Arc<Speaker>>>,
}

const BUSY: u64 = u64::MAX;

#[derive(Debug, Default)]
struct Table {
    networks: HashMap<Network, Neighbours>,
    /// The same by their number of sessions.
    by_size: BTreeSet<(u32, Network)>,
    total: u32,
    leaving: u32,
    last: u64,
}

#[derive(Debug, Default)]
struct Neighbours {
    sessions: u32,
    sources: HashMap<Source, Slot>,
}

#[derive(Debug)]
struct Slot {
    sessions: u32,
    banned: watch::Sender<Option<Reason>>,
    /// Of those who came as newcomers.
    places: BTreeMap<u64, Arc<Place>>,
    /// Of the others, who make room for nobody.
    others: BTreeMap<u64, Arc<Place>>,
}

/// A session that may be made to go: idle without a transaction, or stalled in one; then since when.
type Idle = (bool, u64);
/// Which one, to be found again.
type Victim = (Source, u64);

impl Sources {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self { table: Mutex::default() })
    }

    /// A place for one more session of `source`, or which limit is reached.
    pub(super) fn enter(
        self: &Arc<Self>,
        limits: &Limits,
        source: Source,
        standing: Standing,
        now: Instant,
    ) -> Result<Seat, Reason> {
        let mut table = self.table();
        let victim = table.room(limits, source, standing, now)?;
        if let Some((_, victim)) = victim {
            table.cede(victim);
        }
        let (number, place, banned) = table.sit(source, standing, now);
        let displaced = victim.map(|(bound, _)| bound);
        Ok(Seat {
            sources: Arc::clone(self),
            source,
            number,
            place,
            banned,
            speaker: None,
            told: false,
            call: None,
            displaced,
        })
    }

    /// The outcome of [`Self::enter`], without a change.
    pub(super) fn peek(&self, limits: &Limits, source: Source, standing: Standing, now: Instant) -> Result<(), Reason> {
        self.table().room(limits, source, standing, now).map(drop)
    }

    /// Wakes the sessions of `source`: it is banned.
    pub(super) fn ban(&self, source: Source, reason: Reason) {
        if let Some(slot) = self.table().slot(source) {
            slot.banned.send_replace(Some(reason));
        }
    }

    /// Wakes the sessions of all sources that `is` says it of: they are banned.
    pub(super) fn ban_all(&self, reason: Reason, is: impl Fn(Source) -> bool) {
        self.ban_where(|source| is(source).then_some(reason));
    }

    /// Wakes the sessions of all sources that `why` has a reason for: they are banned.
    pub(super) fn ban_where(&self, why: impl Fn(Source) -> Option<Reason>) {
        let table = self.table();
        let slots = table.networks.values().flat_map(|network| &network.sources);
        for (source, slot) in slots {
            if let Some(reason) = why(*source) {
                slot.banned.send_replace(Some(reason));
            }
        }
    }

    /// Sessions of `source` now, and of its network.
    pub(super) fn of(&self, source: Source) -> (u32, u32) {
        let table = self.table();
        (table.of_source(source), table.of_network(Network::of(source)))
    }

    /// Sources with `of_source` sessions or more, and networks with `of_network` or more (0: none), those with most first: at most
    /// `most` of each.
    pub(super) fn crowded(
        &self,
        of_source: u32,
        of_network: u32,
        most: usize,
    ) -> (Sessions<Source>, Sessions<Network>) {
        let table = self.table();
        let mut sources = Vec::new();
        // A source has no more than its network: those below needn't be looked at.
        let large = table.by_size.iter().rev().take_while(|(size, _)| *size >= of_source);
        for network in large.filter_map(|(_, network)| table.networks.get(network)) {
            let large = network.sources.iter().filter(|(_, slot)| slot.sessions >= of_source);
            sources.extend(large.map(|(source, slot)| (*source, slot.sessions)));
        }
        let large = table.by_size.iter().rev().take_while(|(size, _)| of_network > 0 && *size >= of_network);
        let networks = large.take(most).map(|(size, network)| (*network, *size)).collect();
        drop(table);
        sources.sort_by_key(|(source, sessions)| (std::cmp::Reverse(*sessions), *source));
        sources.truncate(most);
        (sources, networks)
    }

    /// Sessions of the networks that hold most, at most `most`: those of the source with most sessions first, its oldest one first. Where
    /// there are many, [`LOOK`] are looked at.
    pub(super) fn sessions(&self, most: usize) -> Vec<Seen> {
        let table = self.table();
        let networks = table.by_size.iter().rev().filter_map(|(_, network)| table.networks.get(network));
        let slots = networks.flat_map(|network| &network.sources);
        let places = slots.flat_map(|(source, slot)| {
            let places = slot.places.values().chain(slot.others.values());
            places.map(|place| (slot.sessions, *source, Arc::clone(place)))
        });
        let mut places: Vec<_> = places.take(LOOK).collect();
        drop(table);
        places.sort_by_key(|(sessions, source, place)| (std::cmp::Reverse(*sessions), *source, place.began));
        places.iter().take(most).map(|(_, source, place)| place.seen(*source)).collect()
    }

    /// Sessions now, but for those that made room and are about to close.
    pub(super) fn total(&self) -> u32 {
        self.table().total
    }

    /// Sessions now, all of them.
    pub(super) fn alive(&self) -> u32 {
        let table = self.table();
        table.total + table.leaving
    }

    // A panic elsewhere can't leave the table half changed: nothing in between can panic.
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What of `limit` a client of this standing may use.
fn share(standing: Standing, limit: u32) -> u32 {
    match standing {
        Standing::Exempt => u32::MAX,
        Standing::Known => limit,
        Standing::Newcomer => limit - limit / RESERVE,
    }
}

impl Table {
    /// Whether there is room for one more of `source`; `Some`: if that one makes room, and at which bound.
    fn room(
        &self,
        limits: &Limits,
        source: Source,
        standing: Standing,
        now: Instant,
    ) -> Result<Option<(Reason, Victim)>, Reason> {
        if standing == Standing::Exempt {
            return Ok(None);
        }
        if self.of_source(source) >= limits.of_source {
            return Err(Reason::Connections);
        }
        let network = Network::of(source);
        let full = if limits.of_network > 0 && self.of_network(network) >= share(standing, limits.of_network) {
            (Reason::NetworkConnections, self.idle_neighbour(source, standing, now))
        } else if self.total >= share(standing, limits.total) {
            (Reason::TotalConnections, self.idle_newcomer(network, standing, now))
        } else {
            return Ok(None);
        };
        match full {
            (bound, Some(victim)) if self.leaving < limits.leaving => Ok(Some((bound, victim))),
            (bound, _) => Err(bound),
        }
    }

    /// Of the network of `source`, the session that makes room for one more of it.
    fn idle_neighbour(&self, source: Source, standing: Standing, now: Instant) -> Option<Victim> {
        let held = self.of_source(source);
        let network = self.networks.get(&Network::of(source))?;
        let may = |slot: &Slot| standing == Standing::Known || slot.sessions > held;
        let mut look = LOOK;
        idlest(network.sources.iter().filter(|(_, slot)| may(slot)), now, &mut look).map(|(_, victim)| victim)
    }

    /// Of all networks, those that hold most first, the session that makes room for one more of `network`.
    fn idle_newcomer(&self, network: Network, standing: Standing, now: Instant) -> Option<Victim> {
        let held = if standing == Standing::Known { 0 } else { self.of_network(network) };
        let mut look = LOOK;
        let mut best: Option<(u32, Idle, Victim)> = None;
        for (size, network) in self.by_size.iter().rev() {
            // The next ones hold less, or as little as the arrival.
            if best.is_some_and(|(found, ..)| *size < found) || *size <= held || look == 0 {
                break;
            }
            let Some(network) = self.networks.get(network) else { continue };
            let found = idlest(network.sources.iter(), now, &mut look);
            if let Some((idle, victim)) = found
                && best.is_none_or(|(_, longest, _)| idle < longest)
            {
                best = Some((*size, idle, victim));
            }
        }
        best.map(|(.., victim)| victim)
    }

    fn sit(
        &mut self,
        source: Source,
        standing: Standing,
        now: Instant,
    ) -> (u64, Arc<Place>, watch::Receiver<Option<Reason>>) {
        self.last += 1;
        let place = Arc::new(Place {
            idle_since: AtomicU64::new(now.as_ns()),
            open: AtomicBool::new(false),
            known: AtomicBool::new(standing != Standing::Newcomer),
            ceded: AtomicBool::new(false),
            call: Notify::new(),
            began: now,
            shown: AtomicU64::new(0),
            speaker: Mutex::default(),
        });
        let network = Network::of(source);
        let neighbours = self.networks.entry(network).or_default();
        self.by_size.remove(&(neighbours.sessions, network));
        neighbours.sessions += 1;
        self.by_size.insert((neighbours.sessions, network));
        self.total += 1;
        let slot = neighbours.sources.entry(source).or_insert_with(|| Slot {
            sessions: 0,
            banned: watch::Sender::new(None),
            places: BTreeMap::new(),
            others: BTreeMap::new(),
        });
        slot.sessions += 1;
        let places = if standing == Standing::Newcomer { &mut slot.places } else { &mut slot.others };
        places.insert(self.last, Arc::clone(&place));
        (self.last, place, slot.banned.subscribe())
    }

    /// Makes the session go: from now on it doesn't count.
    fn cede(&mut self, (source, number): Victim) {
        if let Some(place) = self.slot(source).and_then(|slot| slot.places.get(&number)).map(Arc::clone) {
            self.uncount(source, number);
            self.leaving += 1;
            place.ceded.store(true, Ordering::Relaxed);
            place.call.notify_one();
        }
    }

    fn leave(&mut self, source: Source, number: u64, place: &Place) {
        if place.ceded.load(Ordering::Relaxed) {
            self.leaving -= 1;
        } else {
            self.uncount(source, number);
        }
    }

    fn uncount(&mut self, source: Source, number: u64) {
        let network = Network::of(source);
        let Some(neighbours) = self.networks.get_mut(&network) else { return };
        let Some(slot) = neighbours.sources.get_mut(&source) else { return };
        if slot.places.remove(&number).is_none() {
            slot.others.remove(&number);
        }
        slot.sessions -= 1;
        if slot.sessions == 0 {
            neighbours.sources.remove(&source);
        }
        self.by_size.remove(&(neighbours.sessions, network));
        neighbours.sessions -= 1;
        match neighbours.sessions {
            0 => _ = self.networks.remove(&network),
            sessions => _ = self.by_size.insert((sessions, network)),
        }
        self.total -= 1;
    }

    fn slot(&self, source: Source) -> Option<&Slot> {
        self.networks.get(&Network::of(source))?.sources.get(&source)
    }

    fn of_source(&self, source: Source) -> u32 {
        self.slot(source).map_or(0, |slot| slot.sessions)
    }

    fn of_network(&self, network: Network) -> u32 {
        self.networks.get(&network).map_or(0, |neighbours| neighbours.sessions)
    }
}

/// The session that goes first among those of `slots`; at most `look` are looked at.
fn idlest<'a>(
    slots: impl Iterator<Item = (&'a Source, &'a Slot)>,
    now: Instant,
    look: &mut usize,
) -> Option<(Idle, Victim)> {
    let mut best = None;
    for (source, slot) in slots {
        for (number, place) in &slot.places {
            if *look == 0 {
                return best;
            }
            *look -= 1;
            let found = place.idle(now).map(|idle| (idle, (*source, *number)));
            best = match (best, found) {
                (Some(best), Some(found)) => Some(std::cmp::min(best, found)),
                (best, found) => best.or(found),
            };
        }
    }
    best
}

impl Place {
    /// Whether the session may be made to go: the least of several goes first.
    fn idle(&self, now: Instant) -> Option<Idle> {
        let since = self.idle_since.load(Ordering::Relaxed);
        if since == BUSY || self.known.load(Ordering::Relaxed) {
            return None;
        }
        let open = self.open.load(Ordering::Relaxed);
        (!open || now.since(Instant::from_ns(since)) >= STALLED).then_some((open, since))
    }

    fn seen(&self, source: Source) -> Seen {
        let [doing, secured, _, _, accepted @ ..] = self.shown.load(Ordering::Relaxed).to_le_bytes();
        Seen {
            source,
            began: self.began,
            doing: Doing::ALL.get(usize::from(doing)).copied().unwrap_or_default(),
            accepted: u32::from_le_bytes(accepted),
            secured: secured != 0,
            speaker: self.speaker().clone(),
        }
    }

    fn speaker(&self) -> MutexGuard<'_, Option<Arc<Speaker>>> {
        self.speaker.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is shown of a session in one word: what it does, whether by TLS, two bytes of nothing, messages accepted; the lowest byte first.
fn packed(shown: Shown<'_>) -> u64 {
    let [a, b, c, d] = shown.accepted.to_le_bytes();
    u64::from_le_bytes([shown.doing as u8, u8::from(shown.secured), 0, 0, a, b, c, d])
}

impl Seat {
    /// The session waits for its client from `now` on. `open`: within a transaction.
    pub(super) fn waits(&self, open: bool, now: Instant) {
        self.place.open.store(open, Ordering::Relaxed);
        self.place.idle_since.store(now.as_ns(), Ordering::Relaxed);
    }

    /// The session is at work: nobody takes its place.
    pub(super) fn works(&self) {
        self.place.idle_since.store(BUSY, Ordering::Relaxed);
    }

    /// The client is no newcomer any more: it has logged in, or a message of it was accepted.
    pub(super) fn trust(&self) {
        self.place.known.store(true, Ordering::Relaxed);
    }

    /// The session is seen like this from now on.
    pub(super) fn shows(&mut self, shown: Shown<'_>) {
        self.place.shown.store(packed(shown), Ordering::Relaxed);
        let is_known = match (&self.speaker, shown.speaker) {
            (Some(known), Some(speaker)) => Arc::ptr_eq(known, speaker),
            (known, speaker) => known.is_none() && speaker.is_none(),
        };
        if !is_known {
            self.speaker = shown.speaker.map(Arc::clone);
            self.place.speaker().clone_from(&self.speaker);
        }
    }

    /// The bound at which somebody made room for it.
    pub(super) fn displaced(&self) -> Option<Reason> {
        self.displaced
    }

    /// Whether it made room and counts no longer.
    pub(super) fn has_ceded(&self) -> bool {
        self.place.ceded.load(Ordering::Relaxed)
    }

    /// The news since the last call. A ban from before the seat was taken doesn't count: it may be
    /// lifted meanwhile, and whoever let the client in has looked.
    pub(super) fn try_woken(&mut self) -> Option<Wake> {
        if !self.told && self.has_ceded() {
            self.told = true;
            return Some(Wake::GiveWay);
        }
        let banned = if self.banned.has_changed().unwrap_or(false) { *self.banned.borrow_and_update() } else { None };
        banned.map(Wake::Banned)
    }

    /// Resolves when the source is banned next, or the session shall give way. Cancel safe, and cheap to begin anew: what is waited for
    /// goes on being waited for.
    pub(super) async fn woken(&mut self) -> Wake {
        poll_fn(|cx| {
            loop {
                if let Some(wake) = self.try_woken() {
                    return Poll::Ready(wake);
                }
                let call = || Call(Box::pin(call(Arc::clone(&self.place), self.banned.clone())));
                ready!(self.call.get_or_insert_with(call).0.as_mut().poll(cx));
                self.call = None;
            }
        })
        .await
    }
}

/// Resolves once there may be news for [`Seat::try_woken`].
async fn call(place: Arc<Place>, mut banned: watch::Receiver<Option<Reason>>) {
    let bans = async {
        if banned.changed().await.is_err() {
            // The other end is gone once the source has no session that counts: nobody bans it any more.
            std::future::pending().await
        }
    };
    tokio::select! {
        () = place.call.notified() => {}
        () = bans => {}
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.sources.table().leave(self.source, self.number, &self.place);
    }
}

#[cfg(test)]
mod tests;
