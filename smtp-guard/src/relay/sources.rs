//! Who is connected: sessions by source, so that a source's limit is exact and a ban wakes its sessions.

use std::collections::HashMap;
use std::collections::hash_map::{Entry, RandomState};
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use smtp_guard_ebpf::reason::Reason;
use tokio::sync::watch;

use crate::addr::Source;

/// Shards of the table: sessions of different sources seldom meet at a lock, and never hold it for more than a look-up.
const SHARDS: usize = 64;

/// All sessions, by source.
#[derive(Debug)]
pub(super) struct Sources {
    shards: Vec<Mutex<HashMap<Source, Slot>>>,
    hasher: RandomState,
    total: AtomicU32,
}

#[derive(Debug)]
struct Slot {
    sessions: u32,
    banned: watch::Sender<Option<Reason>>,
}

/// A session's place; gives it back when dropped.
#[derive(Debug)]
pub(super) struct Seat {
    sources: Arc<Sources>,
    source: Source,
    banned: watch::Receiver<Option<Reason>>,
}

/// Limits of [`Sources::enter`].
#[derive(Clone, Copy, Debug)]
pub(super) struct Room {
    /// Sessions of one source at once.
    pub(super) of_source: u32,
    /// Sessions of the whole guard at once.
    pub(super) total: u32,
}

impl Sources {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            hasher: RandomState::new(),
            total: AtomicU32::new(0),
        })
    }

    /// A seat for one more session of `source`, or which limit is reached. `room` of `None` (an exempt client) is
    /// counted but not limited.
    pub(super) fn enter(self: &Arc<Self>, source: Source, room: Option<Room>) -> Result<Seat, Reason> {
        let before = self.total.fetch_add(1, Ordering::Relaxed);
        let seat = match room {
            Some(room) if before >= room.total => Err(Reason::TotalConnections),
            _ => self.sit(source, room),
        };
        if seat.is_err() {
            self.total.fetch_sub(1, Ordering::Relaxed);
        }
        seat
    }

    /// Wakes the sessions of `source`: it is banned.
    pub(super) fn ban(&self, source: Source, reason: Reason) {
        if let Some(slot) = self.shard(source).get(&source) {
            slot.banned.send_replace(Some(reason));
        }
    }

    /// Wakes the sessions of all sources that `is` says it of: they are banned.
    pub(super) fn ban_all(&self, reason: Reason, is: impl Fn(Source) -> bool) {
        for shard in &self.shards {
            let shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            for (_, slot) in shard.iter().filter(|(source, _)| is(**source)) {
                slot.banned.send_replace(Some(reason));
            }
        }
    }

    /// Sessions of `source` now.
    pub(super) fn of(&self, source: Source) -> u32 {
        self.shard(source).get(&source).map_or(0, |slot| slot.sessions)
    }

    /// Sessions now.
    pub(super) fn total(&self) -> u32 {
        self.total.load(Ordering::Relaxed)
    }

    fn sit(self: &Arc<Self>, source: Source, room: Option<Room>) -> Result<Seat, Reason> {
        let mut shard = self.shard(source);
        let slot = shard.entry(source).or_insert_with(|| Slot { sessions: 0, banned: watch::Sender::new(None) });
        if room.is_some_and(|room| slot.sessions >= room.of_source) {
            return Err(Reason::Connections);
        }
        slot.sessions += 1;
        Ok(Seat { sources: Arc::clone(self), source, banned: slot.banned.subscribe() })
    }

    fn leave(&self, source: Source) {
        if let Entry::Occupied(mut slot) = self.shard(source).entry(source) {
            slot.get_mut().sessions -= 1;
            if slot.get().sessions == 0 {
                slot.remove();
            }
        }
        self.total.fetch_sub(1, Ordering::Relaxed);
    }

    fn shard(&self, source: Source) -> MutexGuard<'_, HashMap<Source, Slot>> {
        let index = self.hasher.hash_one(source) as usize % SHARDS;
        // A panic elsewhere can't leave the table half changed: each change is a single one.
        self.shards[index].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seat {
    /// Why the source was banned, if it was since this was last asked. A ban from before the seat was taken doesn't
    /// count: it may be lifted meanwhile, and whoever let the client in has looked.
    pub(super) fn try_banned(&mut self) -> Option<Reason> {
        if self.banned.has_changed().unwrap_or(false) { *self.banned.borrow_and_update() } else { None }
    }

    /// Resolves at the source's next ban. Cancel safe.
    pub(super) async fn banned(&mut self) -> Reason {
        loop {
            if self.banned.changed().await.is_err() {
                // The other end lives as long as the seat; if it were gone nobody could ban any more.
                std::future::pending().await
            }
            if let Some(reason) = *self.banned.borrow_and_update() {
                return reason;
            }
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.sources.leave(self.source);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOM: Option<Room> = Some(Room { of_source: 2, total: 3 });

    #[test]
    fn limits_are_exact_and_seats_come_back() {
        let sources = Sources::new();
        let (a, b) = (Source::v4(1), Source::v4(2));
        let first = sources.enter(a, ROOM).unwrap();
        let second = sources.enter(a, ROOM).unwrap();
        assert_eq!(sources.enter(a, ROOM).unwrap_err(), Reason::Connections);
        let third = sources.enter(b, ROOM).unwrap();
        assert_eq!(sources.enter(b, ROOM).unwrap_err(), Reason::TotalConnections);
        assert!(sources.enter(b, None).is_ok(), "an exempt client is never limited");
        drop(first);
        assert!(sources.enter(a, ROOM).is_ok());
        drop((second, third));
        assert_eq!(sources.total(), 0);
        assert!(sources.shards.iter().all(|s| s.lock().unwrap().is_empty()), "no slot stays behind");
    }

    #[tokio::test]
    async fn a_ban_wakes_the_sessions_of_its_source_only() {
        let sources = Sources::new();
        let mut first = sources.enter(Source::v4(1), ROOM).unwrap();
        let mut other = sources.enter(Source::v4(2), ROOM).unwrap();
        sources.ban(Source::v4(1), Reason::Harvest);
        let mut later = sources.enter(Source::v4(1), ROOM).unwrap();
        assert_eq!(first.banned().await, Reason::Harvest);
        assert_eq!(first.try_banned(), None, "told once");
        for seat in [&mut first, &mut other, &mut later] {
            assert!(!is_woken(seat).await);
        }
        sources.ban_all(Reason::Listed, |source| source == Source::v4(2));
        assert_eq!((other.banned().await, first.try_banned()), (Reason::Listed, None));
        sources.ban(Source::v4(1), Reason::Operator);
        assert_eq!(later.try_banned(), Some(Reason::Operator), "and again when it happens again");
        assert_eq!(first.banned().await, Reason::Operator);
    }

    async fn is_woken(seat: &mut Seat) -> bool {
        tokio::select! {
            biased;
            _ = seat.banned() => true,
            () = std::future::ready(()) => false,
        }
    }
}
