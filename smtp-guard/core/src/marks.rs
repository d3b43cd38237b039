//! Marks, which sessions may know of the ledger: whether mail of a source was accepted before, and whether it is deferred.
//!
//! One task writes, any number of sessions look, at connect and at RCPT. A look is one short lock of one shard.
//!
//! # Bounds
//! A source has a mark only while the ledger has its entry, or for as long as its deferral lasts. Senders that are deferred:
//! [`SENDERS`]; while there are as many, no other is.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::addr::Source;
use crate::clock::Instant;
use crate::ledger::networks::Network;
use crate::offence::Digest;
use crate::shards::Shards;

/// Senders that are deferred at once.
const SENDERS: usize = 4096;

/// All marks.
#[derive(Debug, Default)]
pub struct Marks {
    shards: Shards<HashMap<Source, Kept>>,
    /// Networks that are deferred, until when: as many as the ledger looks at.
    networks: Mutex<HashMap<Network, Instant>>,
    /// Senders that wrote to a trap by a known sender, until when they are deferred.
    senders: Mutex<HashMap<(Source, Digest), Instant>>,
    /// Whether there may be one.
    any_sender: AtomicBool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Kept {
    familiar: bool,
    deferred_until: Instant,
}

/// The deferred ones, and until when.
type Until<T> = Vec<(T, Instant)>;

/// The mark of a source: what is known of it now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mark {
    /// A known sender: its mail was accepted before.
    pub familiar: bool,
    /// The end of its deferral: the source or its network asked for too many unknown recipients, and hears 4xx until then.
    pub deferred_until: Option<Instant>,
}

impl Marks {
    /// The mark of `source` at `now`.
    pub fn of(&self, source: Source, now: Instant) -> Mark {
        let kept = self.shards.of(&source).get(&source).copied().unwrap_or_default();
        // Whose mail was accepted before doesn't wait for what its neighbours do.
        let network = if kept.familiar { None } else { self.networks().get(&Network::of(source)).copied() };
        let until = kept.deferred_until.max(network.unwrap_or_default());
        Mark { familiar: kept.familiar, deferred_until: (now < until).then_some(until) }
    }

    /// Notes the ledger's word on the history of `source`.
    pub fn history(&self, source: Source, familiar: bool) {
        let mut shard = self.shards.of(&source);
        if familiar {
            shard.entry(source).or_default().familiar = true;
        } else if let Some(kept) = shard.get_mut(&source) {
            kept.familiar = false;
        }
    }

    /// `source` hears 4xx until `until`.
    pub fn defer(&self, source: Source, until: Instant) {
        self.shards.of(&source).entry(source).or_default().deferred_until = until;
    }

    /// The newcomers of `network` hear 4xx until `until`.
    pub fn defer_network(&self, network: Network, until: Instant) {
        self.networks().insert(network, until);
    }

    /// `sender` hears 4xx where it comes by `source`, until `until`. `false`: there is no room.
    pub fn defer_sender(&self, source: Source, sender: Digest, until: Instant) -> bool {
        let mut senders = self.senders();
        let room = senders.len() < SENDERS || senders.contains_key(&(source, sender));
        if room {
            senders.insert((source, sender), until);
            self.any_sender.store(true, Ordering::Relaxed);
        }
        room
    }

    /// Whether `sender` is deferred where it comes by `source`.
    pub fn is_sender_deferred(&self, source: Source, sender: Digest, now: Instant) -> bool {
        // Nearly always there is none: then no session waits for another here.
        self.any_sender.load(Ordering::Relaxed)
            && self.senders().get(&(source, sender)).is_some_and(|until| now < *until)
    }

    /// Forgets `source`, and with `pardoned` its network's deferral.
    pub fn forget(&self, source: Source, pardoned: bool) {
        self.shards.of(&source).remove(&source);
        if pardoned {
            self.senders().retain(|(other, _), _| *other != source);
            self.networks().remove(&Network::of(source));
        }
    }

    /// Sources and networks that are deferred at `now`, and until when.
    pub fn deferred(&self, now: Instant) -> (Until<Source>, Until<Network>) {
        let mut sources = Vec::new();
        for shard in self.shards.each() {
            let here = shard.iter().filter(|(_, kept)| now < kept.deferred_until);
            sources.extend(here.map(|(source, kept)| (*source, kept.deferred_until)));
        }
        sources.sort_unstable_by_key(|(source, until)| (*until, *source));
        let mut networks: Vec<_> = self.networks().iter().map(|(network, until)| (*network, *until)).collect();
        networks.retain(|(_, until)| now < *until);
        networks.sort_unstable_by_key(|(network, until)| (*until, *network));
        (sources, networks)
    }

    /// At most `most` of the sources that are deferred at `now`, the first ones behind `after`.
    pub fn deferred_sources(&self, after: Option<Source>, most: usize, now: Instant) -> Until<Source> {
        if most == 0 {
            // A part that bans have filled doesn't go through all sources.
            return Vec::new();
        }
        let mut first = First::new(after, most);
        for shard in self.shards.each() {
            shard.iter().filter(|(_, kept)| now < kept.deferred_until).for_each(|(source, kept)| {
                first.take(*source, kept.deferred_until);
            });
        }
        first.found.into_iter().collect()
    }

    /// The deferred networks, a part at a time.
    pub fn deferred_networks(&self, after: Option<Network>, most: usize, now: Instant) -> Until<Network> {
        let mut first = First::new(after, most);
        let networks = self.networks();
        networks.iter().filter(|(_, until)| now < **until).for_each(|(network, until)| first.take(*network, *until));
        first.found.into_iter().collect()
    }

    /// Forgets the deferrals of all networks.
    pub fn pardon_networks(&self) {
        self.networks().clear();
    }

    /// Forgets deferrals that are over at `now`, of one shard a call.
    pub fn sweep(&self, now: Instant, turn: usize) {
        self.shards.at(turn).retain(|_, kept| kept.familiar || now < kept.deferred_until);
        self.networks().retain(|_, until| now < *until);
        let mut senders = self.senders();
        senders.retain(|_, until| now < *until);
        self.any_sender.store(!senders.is_empty(), Ordering::Relaxed);
    }

    // A panic elsewhere can't leave a mark half changed.
    fn senders(&self) -> MutexGuard<'_, HashMap<(Source, Digest), Instant>> {
        self.senders.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn networks(&self) -> MutexGuard<'_, HashMap<Network, Instant>> {
        self.networks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The first ones of many, in their order, in no more memory than they take.
struct First<T> {
    after: Option<T>,
    most: usize,
    found: BTreeMap<T, Instant>,
}

impl<T: Copy + Ord> First<T> {
    fn new(after: Option<T>, most: usize) -> Self {
        Self { after, most, found: BTreeMap::new() }
    }

    fn take(&mut self, who: T, until: Instant) {
        let full = self.found.len() >= self.most;
        if self.after.is_some_and(|after| who <= after)
            || full && self.found.keys().next_back().is_none_or(|last| who >= *last)
        {
            return;
        }
        self.found.insert(who, until);
        if self.found.len() > self.most {
            self.found.pop_last();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deferrals_end_and_history_protects_from_those_of_the_network() {
        let marks = Marks::default();
        let (stranger, familiar, trusted) = (Source::v4(0xc000_0201), Source::v4(0xc000_0202), Source::v4(0xc000_0203));
        marks.history(familiar, true);
        marks.history(trusted, true);
        marks.defer_network(Network::of(stranger), Instant::from_ns(100));
        let of = |source, now| marks.of(source, Instant::from_ns(now));
        let until = Some(Instant::from_ns(100));
        assert_eq!(of(stranger, 99), Mark { familiar: false, deferred_until: until });
        assert_eq!(of(familiar, 99), Mark { familiar: true, deferred_until: None });
        assert_eq!(of(trusted, 99), Mark { familiar: true, deferred_until: None });
        assert_eq!(of(Source::v4(0xc000_0301), 99), Mark::default(), "another network");
        assert_eq!(of(stranger, 100).deferred_until, None);
        marks.defer(trusted, Instant::from_ns(50));
        assert_eq!(of(trusted, 49).deferred_until, Some(Instant::from_ns(50)));
        marks.forget(trusted, true);
        assert_eq!(of(stranger, 49).deferred_until, None, "a pardon is for the network, too");
        let digest = Digest::of("a@client.example");
        assert!(!marks.is_sender_deferred(familiar, digest, Instant::from_ns(50)));
        assert!(marks.defer_sender(familiar, digest, Instant::from_ns(60)));
        let deferred = |source, digest, now| marks.is_sender_deferred(source, digest, Instant::from_ns(now));
        assert!(deferred(familiar, digest, 59) && !deferred(familiar, digest, 60), "until then");
        assert!(
            !deferred(stranger, digest, 59) && !deferred(familiar, Digest::of("b@client.example"), 59),
            "nobody else"
        );
        marks.defer(stranger, Instant::from_ns(50));
        for turn in 0..crate::shards::SHARDS {
            marks.sweep(Instant::from_ns(60), turn);
        }
        assert_eq!(marks.shards.each().map(|shard| shard.len()).sum::<usize>(), 1, "the familiar one");
    }
}
