//! Places for look-ups, shared fairly, and how many questions one client may cause. Pure: time is passed in.
//!
//! # Who has a place
//! | bound | newcomers | known senders |
//! |---|---|---|
//! | all places | all but a tenth | all |
//! | places of one network | all but a tenth | all |
//! | questions of one source | [`RATE`] a second, after [`BURST`] at once | four times as many |
//! | questions of one network | [`NETWORK`] times that of a source | no limit |
//!
//! # Who gives way
//! When a network or everything is full, an arrival takes the oldest place of the source that holds most, in the network that
//! holds most. It does so only if that leaves both no better off than itself. Where nobody holds more, a look-up that has
//! waited for [`STALLED`] gives way to an equal: most answers come within milliseconds, a dead zone's never. A newcomer never
//! takes the place of a known sender. So whoever causes most look-ups can only harm himself.
//!
//! # Bounds
//! Places are as many as [`Limits`] says. Rates are kept for [`RATED`] sources, and as many networks, that asked within the
//! last seconds. While there are more, other newcomers find no place.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::addr::Source;

/// Questions a second that one source may cause for long. A provider that sends ten messages a second from domains that
/// nobody has asked for before needs as many.
pub(super) const RATE: u32 = 10;
/// Questions that a source may cause at once, after a time without any.
const BURST: u32 = 300;
/// How many sources one network's questions are worth.
const NETWORK: u32 = 16;
/// How many newcomers one known sender is worth.
const HISTORY: u32 = 4;
/// The part of each bound that is kept for known senders: one in ten.
const RESERVE: usize = 10;
/// After so long a look-up gives way to an equal.
const STALLED: Duration = Duration::from_secs(1);
/// Sources whose rate is kept.
const RATED: usize = 65_536;

/// On whose behalf a question is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Party {
    /// The client.
    pub source: Source,
    /// The first source of its network.
    pub network: Source,
    pub standing: Standing,
}

/// How much a party is trusted with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// The guard itself: bounded by all places only.
    Own,
    /// A known sender: its mail was accepted before.
    Known,
    /// Any other client.
    Newcomer,
}

impl Party {
    /// The guard itself.
    pub fn own() -> Self {
        Self { source: Source(0), network: Source(0), standing: Standing::Own }
    }
}

/// Places there are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) total: usize,
    pub(super) of_network: usize,
}

/// Why there is no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Full {
    /// Everybody holds as little.
    Places,
    /// The source or its network has caused too many questions.
    Rate,
}

/// All places of one kind. `T` is dropped when its place is taken away.
#[derive(Debug)]
pub(super) struct Shares<T> {
    limits: Limits,
    held: Vec<Held<T>>,
    of_source: HashMap<Source, usize>,
    of_network: HashMap<Source, usize>,
    sources: Rates,
    networks: Rates,
    last: u64,
}

#[derive(Debug)]
struct Held<T> {
    number: u64,
    party: Party,
    since: Instant,
    _token: T,
}

impl<T> Shares<T> {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits,
            held: Vec::new(),
            of_source: HashMap::new(),
            of_network: HashMap::new(),
            sources: Rates::default(),
            networks: Rates::default(),
            last: 0,
        }
    }

    /// A place for one question of `party`, by its number. `true`: somebody's was taken for it, whose token is dropped.
    pub(super) fn take(&mut self, party: Party, token: T, now: Instant) -> Result<(u64, bool), Full> {
        let victim = self.room(party, now)?;
        if !self.has_rate(party, now) {
            return Err(Full::Rate);
        }
        if let Some(number) = victim {
            self.give_back(number);
        }
        self.last += 1;
        self.held.push(Held { number: self.last, party, since: now, _token: token });
        *self.of_source.entry(party.source).or_default() += 1;
        *self.of_network.entry(party.network).or_default() += 1;
        Ok((self.last, victim.is_some()))
    }

    /// Gives a place back; nothing if it was taken away.
    pub(super) fn give_back(&mut self, number: u64) {
        if let Some(index) = self.held.iter().position(|held| held.number == number) {
            let party = self.held.swap_remove(index).party;
            less(&mut self.of_source, party.source);
            less(&mut self.of_network, party.network);
        }
    }

    /// Whether there is room; `Some`: if that place is given up.
    fn room(&self, party: Party, now: Instant) -> Result<Option<u64>, Full> {
        let share = |limit: usize| if party.standing == Standing::Newcomer { limit - limit / RESERVE } else { limit };
        let limited = party.standing != Standing::Own;
        let within = if limited && count(&self.of_network, party.network) >= share(self.limits.of_network) {
            Some(party.network)
        } else if self.held.len() >= share(self.limits.total) {
            None
        } else {
            return Ok(None);
        };
        self.victim(party, within, now).map(Some).ok_or(Full::Places)
    }

    /// The party that gives way to `party`: among those in the network `within`, if there is one.
    fn victim(&self, party: Party, within: Option<Source>, now: Instant) -> Option<u64> {
        let sizes = |party: Party| (count(&self.of_network, party.network), count(&self.of_source, party.source));
        let (my_network, my_source) = sizes(party);
        let may = |held: &&Held<T>| {
            let ranks = match held.party.standing {
                Standing::Own => false,
                Standing::Known => party.standing != Standing::Newcomer,
                Standing::Newcomer => true,
            };
            let (network, source) = sizes(held.party);
            let (theirs, mine) =
                if held.party.network == party.network { (source, my_source) } else { (network, my_network) };
            let stalled = now.saturating_duration_since(held.since) >= STALLED;
            ranks && (theirs > mine + 1 || (theirs >= mine && stalled))
        };
        let inside = |held: &&Held<T>| within.is_none_or(|network| held.party.network == network);
        let size = |held: &&Held<T>| {
            let known = held.party.standing == Standing::Known;
            (!known, sizes(held.party), std::cmp::Reverse(held.number))
        };
        self.held.iter().filter(inside).filter(may).max_by_key(size).map(|held| held.number)
    }

    fn has_rate(&mut self, party: Party, now: Instant) -> bool {
        match party.standing {
            Standing::Own => true,
            Standing::Known => self.sources.count(party.source, HISTORY, now),
            Standing::Newcomer => {
                self.networks.has_room(party.network, NETWORK, now)
                    && self.sources.count(party.source, 1, now)
                    && self.networks.count(party.network, NETWORK, now)
            }
        }
    }
}

fn count(table: &HashMap<Source, usize>, key: Source) -> usize {
    table.get(&key).copied().unwrap_or_default()
}

fn less(table: &mut HashMap<Source, usize>, key: Source) {
    if let Some(count) = table.get_mut(&key) {
        *count -= 1;
        if *count == 0 {
            table.remove(&key);
        }
    }
}

/// For each the time at which its burst is whole again.
#[derive(Debug, Default)]
struct Rates(HashMap<Source, Instant>);

impl Rates {
    /// Whether one more question of `key` is within the rate of `worth` sources.
    fn has_room(&self, key: Source, worth: u32, now: Instant) -> bool {
        let each = Duration::from_secs(1) / (RATE * worth);
        let whole = self.0.get(&key).map_or(Duration::ZERO, |whole| whole.saturating_duration_since(now));
        whole + each <= each * (BURST * worth)
    }

    /// Counts one more question of `key`, if there is room.
    fn count(&mut self, key: Source, worth: u32, now: Instant) -> bool {
        if !self.has_room(key, worth, now) {
            return false;
        }
        if !self.0.contains_key(&key) && self.0.len() >= RATED {
            self.0.retain(|_, whole| now < *whole);
            if self.0.len() >= RATED {
                return false;
            }
        }
        let whole = self.0.entry(key).or_insert(now);
        *whole = (*whole).max(now) + Duration::from_secs(1) / (RATE * worth);
        true
    }
}

#[cfg(test)]
mod tests;
