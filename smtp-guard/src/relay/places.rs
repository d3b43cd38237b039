//! Connections to one server of the backend: how many at once, who waits, and who gives way.
//!
//! A mail server takes a bounded number of connections (Postfix: 100), and newcomers must not hold them all.
//!
//! # Who may have a place
//! Known senders and exempt clients may have all of `backend.connections`, newcomers all but a tenth. The
//! guard's own questions (is the server well, does it take any recipient) have [`OWN`] places beside them.
//!
//! # Who is next
//! A place that becomes free goes to the network that holds fewest, there to the source that holds fewest, there to the
//! client that waits longest. Among equals known senders come first, then the network that was not served for
//! longest.
//!
//! # Who gives way
//! While somebody waits for [`PATIENCE`], a newcomer whose place has been idle as long gives way: its transaction is lost, its
//! session stays. A place is idle while nothing is asked over it and no message data goes, counted from the last data. Talk
//! without a message, or a look-up of a dead zone, keeps no place. The newcomer must be of the network that holds most, and
//! that more than one place above what the waiting one holds. So a client with one place never has to give it up, and the one
//! that holds most can only harm itself.
//!
//! A client that sends a byte of data now and then is never idle. So if nobody idles, a newcomer of such a network gives way
//! even at work. Its place must be older than [`TURN`], without an accepted message. The one that has had it longest is first.
//! A place is safe from the final dot to its answer: the message may have been taken.
//!
//! A connection that was opened for a MAIL that may come ([`Places::try_early`]) is taken only while half of the places
//! are free. It gives way before all others and at once, whoever holds it.
//!
//! # Bounds
//! As many wait as there are sessions. One lock; a change costs a look at each network that holds or waits, at most one
//! for each session.

use std::cmp::Reverse;
use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, oneshot};

use crate::addr::Source;
use crate::clock::Instant;
use crate::gate::Standing;
use crate::ledger::networks::Network;

/// How long an arrival waits before somebody else gives way, and how long that one's place must have been idle.
pub(super) const PATIENCE: Duration = Duration::from_secs(1);
/// How long a newcomer may be at work without a message that was accepted, while somebody waits.
const TURN: Duration = Duration::from_secs(60);
/// Until it is tried again after that.
const AGAIN: Duration = Duration::from_millis(250);
/// The part of the places that is kept for known senders: one in ten.
const RESERVE: u32 = 10;
/// Places for the guard's own questions.
const OWN: usize = 2;

/// The places of one server.
#[derive(Debug)]
pub(super) struct Places {
    limit: AtomicU32,
    table: Mutex<Table>,
    own: Arc<Semaphore>,
}

/// A session that wants a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Who {
    pub(super) source: Source,
    pub(super) standing: Standing,
}

/// A place; gives it back when dropped.
#[derive(Debug)]
pub(super) struct Place {
    places: Arc<Places>,
    who: Who,
    number: u64,
    mark: Arc<Mark>,
}

/// The right to one connection.
#[derive(Debug)]
pub(super) enum Claim {
    Client(Place),
    /// A place of the guard itself.
    Own(#[expect(dead_code, reason = "held, not read")] OwnedSemaphorePermit),
}

/// The part of a place that others may see without stopping its session.
#[derive(Debug)]
struct Mark {
    /// Since when it is idle, in ns of [`Instant`]; or [`BUSY`], [`ENDING`], [`EARLY`], or [`CEDED`].
    idle_since: AtomicU64,
    /// When message data went over it last; before that, when it was idle first. 0: not yet.
    last_use: AtomicU64,
    /// When the place was taken, or a message was accepted last, in ns of [`Instant`].
    earned: AtomicU64,
    call: Notify,
}

const BUSY: u64 = u64::MAX;
const CEDED: u64 = u64::MAX - 1;
/// The final dot was sent, and its answer isn't there.
const ENDING: u64 = u64::MAX - 2;
/// Nothing was asked over its connection yet.
const EARLY: u64 = u64::MAX - 3;

#[derive(Debug, Default)]
struct Table {
    held: u32,
    last: u64,
    /// Known senders and others, and newcomers.
    waiting: [usize; 2],
    networks: HashMap<Network, Line>,
    /// Places that were taken before they were needed, by their number.
    early: HashMap<u64, Arc<Mark>>,
}

/// The places that a network holds and waits for.
#[derive(Debug, Default)]
struct Line {
    held: u32,
    /// When it was served last, as a number that grows.
    served: u64,
    sources: HashMap<Source, Slot>,
}

#[derive(Debug, Default)]
struct Slot {
    held: u32,
    served: u64,
    /// Places of newcomers, by their number.
    marks: HashMap<u64, Arc<Mark>>,
    /// Known senders and others, and newcomers.
    waiting: [VecDeque<Waiter>; 2],
}

#[derive(Debug)]
struct Waiter {
    ticket: u64,
    who: Who,
    grant: oneshot::Sender<Place>,
}

/// Takes a waiter out of its line where it stops waiting.
struct Ticket<'a> {
    places: &'a Arc<Places>,
    who: Who,
    number: u64,
}

impl Places {
    /// `limit` places, and our own.
    pub(super) fn new(limit: u32) -> Arc<Self> {
        Arc::new(Self { limit: AtomicU32::new(limit), table: Mutex::default(), own: Arc::new(Semaphore::new(OWN)) })
    }

    /// A place for the guard's own questions, if one is free.
    pub(super) fn try_own(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.own).try_acquire_owned().ok()
    }

    /// A place for the guard's own questions, once it is free. Cancel safe.
    pub(super) async fn own(&self) -> Option<OwnedSemaphorePermit> {
        // Never closed.
        Arc::clone(&self.own).acquire_owned().await.ok()
    }

    fn limit(&self) -> u32 {
        self.limit.load(Ordering::Relaxed)
    }

    /// `limit` places from here on. Who has one keeps it.
    pub(super) fn set_limit(self: &Arc<Self>, limit: u32) {
        if self.limit.swap(limit, Ordering::Relaxed) < limit {
            self.serve();
        }
    }

    /// Places that are held now.
    pub(super) fn held(&self) -> u32 {
        self.table().held
    }

    /// A place for `who`, if one is free and nobody with a better claim waits.
    pub(super) fn try_enter(self: &Arc<Self>, who: Who) -> Option<Place> {
        let mut table = self.table();
        let free = table.held < share(who.standing, self.limit()) && !table.waits(who.standing);
        free.then(|| table.sit(self, who))
    }

    /// A place for `who` before it is needed, while others have enough. [`Place::works`] makes it a place like any other.
    pub(super) fn try_early(self: &Arc<Self>, who: Who) -> Option<Place> {
        let mut table = self.table();
        let free = table.held < share(who.standing, self.limit()) / 2 && !table.waits(Standing::Newcomer);
        free.then(|| {
            let place = table.sit(self, who);
            place.mark.idle_since.store(EARLY, Ordering::Release);
            table.early.insert(place.number, Arc::clone(&place.mark));
            place
        })
    }

    /// A place for `who`, as long as it takes. Cancel safe: who stops waiting leaves the line.
    pub(super) async fn enter(self: &Arc<Self>, who: Who) -> Option<Place> {
        let (grant, mut granted) = oneshot::channel();
        let ticket = Ticket { places: self, who, number: self.table().queue(who, grant) };
        self.recall();
        // One may have become free meanwhile.
        self.serve();
        let mut pause = PATIENCE;
        loop {
            tokio::select! {
                biased;
                place = &mut granted => {
                    drop(ticket);
                    return place.ok();
                }
                () = tokio::time::sleep(pause) => {
                    self.press(who, crate::clock::now());
                    // Whoever was about to go may have begun to work: another one is found soon.
                    pause = AGAIN;
                }
            }
        }
    }

    /// Makes somebody give way to `who`, if there is somebody who may be made to.
    fn press(&self, who: Who, now: Instant) {
        if self.recall() {
            return;
        }
        if let Some(mark) = self.table().victim(who, now) {
            mark.call.notify_one();
        }
    }

    /// Takes a place back that was taken early. `false`: there is none.
    fn recall(&self) -> bool {
        let found = self.table().early();
        found.inspect(|mark| mark.call.notify_one()).is_some()
    }

    /// Hands out what is free.
    fn serve(self: &Arc<Self>) {
        loop {
            let (waiter, place) = {
                let mut table = self.table();
                let Some(waiter) = table.next(self.limit()) else { return };
                let place = table.sit(self, waiter.who);
                (waiter, place)
            };
            // Outside of the lock: where nobody waits for it any more, the place is given back at once.
            drop(waiter.grant.send(place));
        }
    }

    // A panic elsewhere can't leave the table half changed: nothing in between can panic.
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The share of `limit` places that a client of this standing may use. With few of them nothing is kept.
fn share(standing: Standing, limit: u32) -> u32 {
    match standing {
        Standing::Exempt | Standing::Known => limit,
        Standing::Newcomer => limit - limit / RESERVE,
    }
}

/// The line in which it waits: that of newcomers, or of all others.
fn class(standing: Standing) -> usize {
    usize::from(standing == Standing::Newcomer)
}

impl Table {
    fn line(&mut self, source: Source) -> &mut Line {
        self.networks.entry(Network::of(source)).or_default()
    }

    /// Whether somebody waits who would have a place before `standing`.
    fn waits(&self, standing: Standing) -> bool {
        self.waiting[..=class(standing)].iter().any(|waiting| *waiting > 0)
    }

    fn sit(&mut self, places: &Arc<Places>, who: Who) -> Place {
        self.last += 1;
        let number = self.last;
        let mark = Arc::new(Mark {
            idle_since: AtomicU64::new(BUSY),
            last_use: AtomicU64::new(0),
            earned: AtomicU64::new(crate::clock::now().as_ns()),
            call: Notify::new(),
        });
        self.held += 1;
        let line = self.line(who.source);
        (line.held, line.served) = (line.held + 1, number);
        let slot = line.sources.entry(who.source).or_default();
        (slot.held, slot.served) = (slot.held + 1, number);
        if who.standing == Standing::Newcomer {
            slot.marks.insert(number, Arc::clone(&mark));
        }
        Place { places: Arc::clone(places), who, number, mark }
    }

    fn leave(&mut self, who: Who, number: u64) {
        self.held -= 1;
        self.early.remove(&number);
        let line = self.line(who.source);
        line.held -= 1;
        if let Some(slot) = line.sources.get_mut(&who.source) {
            slot.held -= 1;
            slot.marks.remove(&number);
        }
        self.forget(who.source);
    }

    fn queue(&mut self, who: Who, grant: oneshot::Sender<Place>) -> u64 {
        self.last += 1;
        self.waiting[class(who.standing)] += 1;
        let ticket = self.last;
        let line = self.line(who.source);
        let slot = line.sources.entry(who.source).or_default();
        slot.waiting[class(who.standing)].push_back(Waiter { ticket, who, grant });
        ticket
    }

    /// Takes the next waiter out of its line, if there is a place for it.
    fn next(&mut self, limit: u32) -> Option<Waiter> {
        let lines = [Standing::Known, Standing::Newcomer].map(|standing| self.held < share(standing, limit));
        let first = |slot: &Slot| (0..2).find(|line| lines[*line] && !slot.waiting[*line].is_empty());
        let candidates = self.networks.iter().flat_map(|(network, line)| {
            line.sources.iter().filter_map(move |(source, slot)| {
                let class = first(slot)?;
                let ticket = slot.waiting[class].front()?.ticket;
                let order = (line.held, class, line.served, slot.held, slot.served, ticket);
                Some((order, *network, *source, class))
            })
        });
        let (_, network, source, class) = candidates.min_by_key(|(order, ..)| *order)?;
        let waiter = self.networks.get_mut(&network)?.sources.get_mut(&source)?.waiting[class].pop_front()?;
        self.waiting[class] -= 1;
        self.forget(source);
        Some(waiter)
    }

    /// The mark of a place that was taken early and isn't needed yet, which is told so by it.
    fn early(&self) -> Option<Arc<Mark>> {
        let cedes = |mark: &&Arc<Mark>| {
            mark.idle_since.compare_exchange(EARLY, CEDED, Ordering::AcqRel, Ordering::Relaxed).is_ok()
        };
        self.early.values().find(cedes).map(Arc::clone)
    }

    /// The mark of the newcomer who gives way to `who`, which is told so by it.
    fn victim(&self, who: Who, now: Instant) -> Option<Arc<Mark>> {
        let leaving = self.leaving();
        if leaving > 0 && leaving >= self.waiting.iter().sum() {
            // They take a while to go; no more of them than are waited for.
            return None;
        }
        let held = self.networks.get(&Network::of(who.source)).map_or(0, |line| line.held);
        let marks = || {
            let lines = self.networks.values().filter(|line| line.held > held + 1);
            lines.flat_map(|line| {
                let slots = line.sources.values();
                slots.flat_map(|slot| slot.marks.iter().map(|(number, mark)| (line.held, slot.held, *number, mark)))
            })
        };
        let idle = marks().filter_map(|(network, source, number, mark)| {
            let since = mark.idle_since.load(Ordering::Relaxed);
            let idle = since < EARLY && now.since(Instant::from_ns(since)) >= PATIENCE;
            idle.then_some(((network, source, Reverse(since), Reverse(number)), since, mark))
        });
        let slow = || {
            let slow = marks().filter_map(|(network, source, number, mark)| {
                let (state, since) = (mark.idle_since.load(Ordering::Relaxed), mark.earned.load(Ordering::Relaxed));
                let slow = !matches!(state, CEDED | ENDING) && now.since(Instant::from_ns(since)) >= TURN;
                slow.then_some(((network, source, Reverse(since), Reverse(number)), state, mark))
            });
            slow.max_by_key(|(order, ..)| *order)
        };
        let (_, state, mark) = idle.max_by_key(|(order, ..)| *order).or_else(slow)?;
        // It may have begun to work, or sent its dot, at this very moment: then the next time.
        let ceded = mark.idle_since.compare_exchange(state, CEDED, Ordering::AcqRel, Ordering::Relaxed);
        ceded.is_ok().then(|| Arc::clone(mark))
    }

    /// Places whose sessions give way, and have not left yet.
    fn leaving(&self) -> usize {
        let slots = self.networks.values().flat_map(|line| line.sources.values());
        let marks = slots.flat_map(|slot| slot.marks.values());
        marks.filter(|mark| mark.idle_since.load(Ordering::Relaxed) == CEDED).count()
    }

    fn stop_waiting(&mut self, who: Who, ticket: u64) {
        let line = self.line(who.source);
        if let Some(slot) = line.sources.get_mut(&who.source) {
            let waiting = &mut slot.waiting[class(who.standing)];
            let before = waiting.len();
            waiting.retain(|waiter| waiter.ticket != ticket);
            let gone = before - waiting.len();
            self.waiting[class(who.standing)] -= gone;
        }
        self.forget(who.source);
    }

    /// Forgets a source and a network that hold nothing and wait for nothing.
    fn forget(&mut self, source: Source) {
        let network = Network::of(source);
        let Some(line) = self.networks.get_mut(&network) else { return };
        if line.sources.get(&source).is_some_and(|slot| slot.held == 0 && slot.waiting.iter().all(VecDeque::is_empty)) {
            line.sources.remove(&source);
        }
        if line.sources.is_empty() {
            self.networks.remove(&network);
        }
    }
}

impl Place {
    /// The session waits for message data from `now` on.
    pub(super) fn rests(&self, now: Instant) {
        self.mark.last_use.store(now.as_ns(), Ordering::Relaxed);
        self.set(now.as_ns());
    }

    /// The session waits for something else at `now`: it has been idle since the last data.
    pub(super) fn lingers(&self, now: Instant) {
        // Of one session, which is at one thing at a time.
        let since = match self.mark.last_use.load(Ordering::Relaxed) {
            0 => now.as_ns(),
            since => since,
        };
        self.mark.last_use.store(since, Ordering::Relaxed);
        self.set(since);
    }

    /// The session is at work: nobody takes the place. `false`: it has given way already.
    pub(super) fn works(&self) -> bool {
        self.set(BUSY)
    }

    /// The session sends its final dot: nobody takes the place before the answer is there. `false`: it has given way already,
    /// and the dot must not be sent.
    pub(super) fn ends(&self) -> bool {
        self.set(ENDING)
    }

    /// A message was accepted at `now`.
    pub(super) fn earned(&self, now: Instant) {
        self.mark.earned.store(now.as_ns(), Ordering::Relaxed);
    }

    fn set(&self, value: u64) -> bool {
        let keep = |now: u64| (now != CEDED).then_some(value);
        self.mark.idle_since.fetch_update(Ordering::AcqRel, Ordering::Acquire, keep).is_ok()
    }

    /// Resolves when the place should be given up. Cancel safe.
    pub(super) fn ceded(&self) -> impl Future<Output = ()> + Send + use<> {
        let mark = Arc::clone(&self.mark);
        async move {
            while mark.idle_since.load(Ordering::Acquire) != CEDED {
                mark.call.notified().await;
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.table().leave(self.who, self.number);
        self.places.serve();
    }
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        self.places.table().stop_waiting(self.who, self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn who(address: &str, standing: Standing) -> Who {
        Who { source: crate::addr::Ipv6Prefix::default().source(address.parse().unwrap()), standing }
    }

    /// With `limit` places taken by `holders` and `waiting` in line, in this order: who is served as places become free, the
    /// holders leaving in their order.
    #[track_caller]
    fn check(limit: u32, holders: &[(&str, Standing)], waiting: &[(&str, Standing)], expected: &[usize]) {
        let places = Places::new(limit);
        let mut held: Vec<_> =
            holders.iter().map(|(ip, standing)| places.try_enter(who(ip, *standing)).unwrap()).collect();
        let mut granted = Vec::new();
        for (ip, standing) in waiting {
            assert!(places.try_enter(who(ip, *standing)).is_none(), "{ip} finds a place");
            let (grant, place) = oneshot::channel();
            places.table().queue(who(ip, *standing), grant);
            granted.push(place);
        }
        let (mut order, mut kept) = (Vec::new(), Vec::new());
        while !held.is_empty() {
            drop(held.remove(0));
            for (n, place) in granted.iter_mut().enumerate() {
                if let Ok(place) = place.try_recv() {
                    order.push(n);
                    kept.push(place);
                }
            }
        }
        assert_eq!(order, expected, "{waiting:?}");
        assert_eq!(places.held() as usize, kept.len());
        drop((kept, granted));
        // What was granted to nobody comes back as well.
        places.serve();
        assert_eq!(places.held(), 0);
        assert!(places.table().networks.is_empty());
    }

    #[test]
    fn c3_places_go_round_by_network_and_source() {
        use Standing::{Exempt, Known, Newcomer};
        let greedy = [("192.0.2.1", Newcomer); 3];
        // The network that holds fewest; then whoever waits longest.
        check(3, &greedy, &[("192.0.2.2", Newcomer), ("198.51.100.1", Newcomer)], &[1, 0]);
        check(3, &greedy, &[("192.0.2.1", Newcomer), ("192.0.2.2", Newcomer)], &[1, 0]);
        check(3, &greedy, &[("198.51.100.1", Newcomer), ("203.0.113.1", Newcomer)], &[0, 1]);
        // A history comes first among equals, not before those who hold less.
        check(3, &greedy, &[("198.51.100.1", Newcomer), ("203.0.113.1", Known)], &[1, 0]);
        check(3, &greedy, &[("192.0.2.9", Known), ("203.0.113.1", Newcomer)], &[1, 0]);
        check(3, &greedy, &[("198.51.100.1", Newcomer), ("203.0.113.1", Exempt)], &[1, 0]);
    }

    #[test]
    fn c3_a_tenth_is_kept_for_sources_with_a_history() {
        let places = Places::new(20);
        let taken: Vec<_> =
            (0..30).map_while(|n| places.try_enter(who(&format!("192.0.{n}.1"), Standing::Newcomer))).collect();
        assert_eq!(taken.len(), 18);
        let known: Vec<_> = (0..30).map_while(|_| places.try_enter(who("198.51.100.1", Standing::Known))).collect();
        assert_eq!((known.len(), places.held()), (2, 20));
    }

    /// Whether one of `holders`, idle for so many ms, gives way to `arrival`; the number of the one who does.
    #[track_caller]
    fn check_victim(holders: &[(&str, Standing, u64)], arrival: &str, expected: Option<usize>) {
        let holders: Vec<_> = holders.iter().map(|(ip, standing, idle_ms)| (*ip, *standing, *idle_ms, 0)).collect();
        check_turn(&holders, arrival, expected);
    }

    /// The same with the seconds that each has had its place. [`DOT`] ms: it waits for the answer to its dot.
    #[track_caller]
    fn check_turn(holders: &[(&str, Standing, u64, u64)], arrival: &str, expected: Option<usize>) {
        let places = Places::new(u32::try_from(holders.len()).unwrap());
        let now = Instant::from_ns(1_000_000_000_000);
        let mut held = Vec::new();
        for (ip, standing, idle_ms, held_s) in holders {
            let place = places.table().sit(&places, who(ip, *standing));
            place.earned(Instant::from_ns(now.as_ns() - held_s * 1_000_000_000));
            if *idle_ms == DOT {
                assert!(place.ends());
            } else if *idle_ms > 0 {
                place.rests(Instant::from_ns(now.as_ns() - idle_ms * 1_000_000));
            }
            held.push(place);
        }
        let (grant, _waits) = oneshot::channel();
        places.table().queue(who(arrival, Standing::Newcomer), grant);
        // No more of those at work give way than are waited for, however long they take.
        let presses = if holders.iter().any(|(_, _, idle_ms, _)| (1000..DOT).contains(idle_ms)) { 1 } else { 3 };
        for _ in 0..presses {
            places.press(who(arrival, Standing::Newcomer), now);
        }
        let ceded: Vec<_> = (0..held.len()).filter(|n| !held[*n].works()).collect();
        assert_eq!(ceded.first().copied(), expected, "{holders:?}, {arrival}");
        assert!(ceded.len() <= 1, "one waits: {ceded:?}");
    }

    #[test]
    fn c3_who_holds_most_and_idles_gives_way() {
        use Standing::{Known, Newcomer};
        let idle = |ip| (ip, Newcomer, 5000);
        check_victim(&[idle("192.0.2.1"), ("192.0.2.2", Newcomer, 9000)], "198.51.100.1", Some(1));
        check_victim(&[idle("192.0.2.1"), idle("192.0.2.1"), idle("198.51.100.7")], "203.0.113.1", Some(0));
        // At work, or only just idle; a known sender; alone; of the arrival's own network.
        check_victim(&[("192.0.2.1", Newcomer, 0), ("192.0.2.1", Newcomer, 900)], "198.51.100.1", None);
        check_victim(&[("192.0.2.1", Known, 5000), ("192.0.2.1", Known, 5000)], "198.51.100.1", None);
        check_victim(&[idle("192.0.2.1"), idle("203.0.113.1")], "198.51.100.1", None);
        check_victim(&[idle("192.0.2.1"), idle("192.0.2.2")], "192.0.2.3", None);
    }

    const DOT: u64 = u64::MAX;

    #[test]
    fn c3_who_holds_most_and_never_ends_a_message_gives_way() {
        use Standing::{Known, Newcomer};
        let slow = |ip, held_s| (ip, Newcomer, 0, held_s);
        // A byte each second: never idle. The longest of the network that holds most.
        check_turn(&[slow("192.0.2.1", 61), slow("192.0.2.2", 90), slow("192.0.2.3", 70)], "198.51.100.1", Some(1));
        check_turn(&[slow("192.0.2.1", 61), slow("192.0.2.1", 62), slow("203.0.113.1", 900)], "198.51.100.1", Some(1));
        check_turn(&[("192.0.2.1", Newcomer, 300, 90), slow("192.0.2.1", 61)], "198.51.100.1", Some(0));
        // Who idles goes first.
        check_turn(&[slow("192.0.2.1", 900), ("192.0.2.1", Newcomer, 2000, 3)], "198.51.100.1", Some(1));
        // Not yet its turn; a known sender; alone; for its own network.
        check_turn(&[slow("192.0.2.1", 59), slow("192.0.2.1", 3)], "198.51.100.1", None);
        check_turn(&[("192.0.2.1", Known, 0, 900), ("192.0.2.1", Known, 0, 900)], "198.51.100.1", None);
        check_turn(&[slow("192.0.2.1", 900), slow("203.0.113.1", 900)], "198.51.100.1", None);
        check_turn(&[slow("192.0.2.1", 900), slow("192.0.2.2", 900)], "192.0.2.3", None);
        // The message may have been taken.
        check_turn(&[("192.0.2.1", Newcomer, DOT, 900), slow("192.0.2.1", 61)], "198.51.100.1", Some(1));
        check_turn(&[("192.0.2.1", Newcomer, DOT, 900), ("192.0.2.1", Newcomer, DOT, 900)], "198.51.100.1", None);
    }

    /// With `held` of ten places taken, a known sender tries to have one early: whether it may.
    #[track_caller]
    fn check_early(held: u32, waits: bool, expected: bool) {
        let places = Places::new(10);
        let newcomer = who("192.0.2.1", Standing::Newcomer);
        let _held: Vec<_> = (0..held).map(|_| places.table().sit(&places, newcomer)).collect();
        let (grant, _place) = oneshot::channel();
        if waits {
            places.table().queue(newcomer, grant);
        }
        let early = places.try_early(who("203.0.113.1", Standing::Known));
        assert_eq!(early.is_some(), expected, "{held} held, somebody waits: {waits}");
        drop(early);
        assert!(places.table().early.is_empty());
    }

    #[test]
    fn c3_a_place_is_had_early_only_where_half_are_free() {
        check_early(0, false, true);
        check_early(4, false, true);
        check_early(5, false, false);
        check_early(0, true, false);
    }

    #[test]
    fn c3_a_place_that_was_had_early_gives_way_at_once_until_it_is_used() {
        let places = Places::new(4);
        let early: Vec<_> = (0..2).map(|_| places.try_early(who("203.0.113.1", Standing::Exempt)).unwrap()).collect();
        assert!(early[0].works(), "it is used");
        assert!(places.recall() && !places.recall());
        assert!(early[0].works() && !early[1].works());
        // Whose session is at work by then isn't looked for.
        early[0].rests(Instant::from_ns(0));
        assert!(!places.recall());
        drop(early);
        assert_eq!((places.held(), places.table().early.len()), (0, 0));
    }

    #[test]
    fn c3_who_talks_on_without_a_message_is_idle_all_the_same() {
        let at = |ms: u64| Instant::from_ns(1_000_000_000_000 + ms * 1_000_000);
        for (data, gives_way) in [(None, true), (Some(1900), false), (Some(900), true)] {
            let places = Places::new(2);
            let enter = || places.table().sit(&places, who("192.0.2.1", Standing::Newcomer));
            let held = [enter(), enter()];
            for ms in (0..=2000).step_by(100) {
                assert!(held[0].works(), "the next command");
                if data == Some(ms) { held[0].rests(at(ms)) } else { held[0].lingers(at(ms)) }
            }
            places.press(who("198.51.100.1", Standing::Newcomer), at(2000));
            assert_eq!(!held[0].works(), gives_way, "data at {data:?} ms of 2000");
            assert!(held[1].works(), "the backend is asked for it");
        }
    }

    #[tokio::test]
    async fn c3_an_arrival_is_served_while_one_network_idles_on_every_place() {
        let places = Places::new(4);
        let mut held: Vec<_> =
            (0..4).map(|_| places.try_enter(who("2001:db8:7::1", Standing::Newcomer)).unwrap()).collect();
        held.iter().for_each(|place| place.rests(Instant::from_ns(0)));
        let waiting = tokio::spawn({
            let places = Arc::clone(&places);
            async move { places.enter(who("198.51.100.1", Standing::Newcomer)).await }
        });
        let ceded = loop {
            tokio::time::sleep(PATIENCE / 10).await;
            if let Some(ceded) = held.iter().position(|place| !place.works()) {
                break ceded;
            }
            held.iter().for_each(|place| place.rests(Instant::from_ns(0)));
        };
        held[ceded].ceded().await;
        drop(held.remove(ceded));
        assert!(waiting.await.unwrap().is_some());
    }

    #[tokio::test]
    async fn c3_who_stops_waiting_leaves_the_line() {
        let places = Places::new(1);
        let held = places.try_enter(who("192.0.2.1", Standing::Newcomer));
        let gone = tokio::time::timeout(Duration::ZERO, places.enter(who("203.0.113.1", Standing::Newcomer))).await;
        assert!(gone.is_err());
        assert!(!places.table().waits(Standing::Newcomer));
        drop(held);
        assert!(places.try_enter(who("192.0.2.1", Standing::Newcomer)).is_some());
    }
}
