//! The ledger: what each source did, and what follows from it. Pure; time is passed in. The rule against harvests stands
//! in [`rule`], what it looks at in [`entry`](super::entry), networks in [`super::networks`].
//!
//! # What trips
//! - A harvest by the rule, asked when an unknown recipient comes in or a transaction is given up.
//! - A trap (`recipients.traps`), at once: only somebody who found that address where it was put knows it.
//! - `auth.failures` failed logins within `auth.failure_window`. A login that succeeds takes nothing back: otherwise an
//!   attacker could pay for guesses at other accounts with one account of his own.
//! - A network; see there.
//!
//! # What follows
//! A ban of `harvest.ban`. It doubles each time the source trips again before `harvest.ban_max` has passed since the last
//! one ended, up to `harvest.ban_max`.
//!
//! A source with a history of accepted mail ([`super::entry::HISTORY`] messages from before this window) is deferred
//! instead. It hears 4xx for [`DEFERRAL`], doubling up to `harvest.ban`. A deferral teaches an attacker as little as a
//! ban, and a big provider whose users have bad lists loses no mail. Each trip uses up as many messages of the history,
//! so that ten of them are no licence. What trips in doubt, or the first times by asking without sending, is deferred
//! likewise.
//!
//! Failed logins make a ban of `auth.ban` that doesn't double, whatever the history: users who log in aren't mail
//! servers.
//!
//! A ban or deferral clears the window: the next one needs new evidence.
//!
//! Some offences can be provoked by others. They never ban a source whose mail was accepted:
//!
//! - notifications (`<>`) to addresses that were forged;
//! - a trap that one of a provider's customers wrote to: that sender alone hears 4xx, for [`Target::DeferSender`];
//! - guesses of neighbours in its network.
//!
//! A source that was never seen starts with nothing for and nothing against it. The window slides exactly; counts are
//! exact up to 128 distinct recipients and estimated beyond.
//!
//! # Bounds
//! At most `max` entries. When the ledger is full, the entry that was silent longest makes room. Sources that have only knocked
//! go first, then those that were banned before, then the suspects. Sources whose mail was accepted have half of the room for
//! themselves, and more where nobody else needs it. Offenders on their way to a ban make room only once their window is over.
//! So a flood of new sources can't make the ledger forget one: the newcomer isn't noted.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use smtp_guard_ebpf::reason::Reason;

mod distinct;
mod entry;
pub mod networks;
mod order;
pub mod rule;
mod saved;
mod trip;

use crate::addr::Source;
use crate::clock::{Both, Instant};
use crate::config::{Auth, Harvest};
use crate::decision::Name;
pub use crate::offence::Friend;
use crate::offence::{Conduct, Digest, Digests};
use entry::{Class, Entry, HISTORY, History, MEMORY, Rare, Record};
use networks::{Network, Networks};
use order::{Order, Place};
use rule::{Evidence, Grounds};

pub use entry::SAMPLE;

/// Lines of evidence of one verdict: what tripped, addresses, and what is to be said of them.
pub const EVIDENCE: usize = SAMPLE + 4;
pub use trip::DEFERRAL;

/// Entries that one sweep looks at.
const SWEEP: usize = 5_000;

/// All entries, and the rules over them.
#[derive(Debug)]
pub struct Ledger {
    rule: Harvest,
    auth: Auth,
    max: usize,
    /// Trees, not hash maps: these grow and shrink with what is in them, and never are copied whole.
    entries: BTreeMap<Source, Entry>,
    order: Order,
    networks: Networks,
    digests: Digests,
    evicted: Vec<Source>,
    /// Whose history of accepted mail has lapsed, with its entry or without.
    lapsed: Vec<Source>,
    not_admitted: u64,
    changed: BTreeSet<Source>,
}

/// The verdict on a source: what follows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    pub target: Target,
    pub reason: Reason,
    pub length: Duration,
    pub repeat: u32,
    pub evidence: Vec<String>,
}

/// For whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// It is banned.
    Ban(Source),
    /// It hears 4xx at RCPT.
    Defer(Source),
    /// Its sources without a history hear 4xx at RCPT.
    DeferNetwork(Network),
    /// This sender hears 4xx at RCPT where it comes by this source.
    DeferSender(Source, Digest),
}

/// A view of what is known of a source.
#[derive(Clone, Debug, PartialEq)]
pub struct View {
    pub evidence: Evidence,
    /// Messages that were accepted and count.
    pub accepted: u32,
    pub trusted: bool,
    /// When the oldest of what the evidence has was done.
    pub since: Option<Instant>,
    pub sample: Vec<String>,
    /// Other offences, and how often.
    pub offences: Vec<(Reason, u64)>,
    pub failed_logins: u32,
    /// Other guards that have reported some of it, and how often.
    pub heard: Vec<(Box<str>, u64)>,
    /// Trips that would lengthen the next.
    pub trips: u32,
    /// Its network, and how many of its sources named unknown recipients.
    pub network: Option<(Network, Evidence, usize)>,
}

impl Target {
    /// Whether it is `source`, or somebody who comes by it.
    fn is_about(self, source: Source) -> bool {
        match self {
            Self::Ban(target) | Self::Defer(target) | Self::DeferSender(target, _) => target == source,
            Self::DeferNetwork(_) => false,
        }
    }
}

impl Ledger {
    /// An empty ledger of at most `max` sources.
    pub fn new(rule: Harvest, auth: Auth, max: usize) -> Self {
        Self {
            rule,
            auth,
            max: max.max(1),
            entries: BTreeMap::new(),
            order: Order::default(),
            networks: Networks::default(),
            digests: Digests::default(),
            evicted: Vec::new(),
            lapsed: Vec::new(),
            not_admitted: 0,
            changed: BTreeSet::new(),
        }
    }

    /// Judges by `rule` and `auth` from here on. What is known stays known.
    pub fn set_rules(&mut self, rule: Harvest, auth: Auth) {
        (self.rule, self.auth) = (rule, auth);
    }

    /// Digests addresses by `digests` from here on: those of sessions.
    pub fn set_digests(&mut self, digests: Digests) {
        self.digests = digests;
    }

    /// Takes note of what `source` did at `now`, and asks the rules.
    pub fn observe(&mut self, source: Source, conduct: Conduct, now: Instant) -> Vec<Verdict> {
        self.observe_of(None, source, conduct, now, &|_| false)
    }

    /// Observes a report that the guard `node` has seen, if one is given. Neighbours that are `spared` don't trip with it.
    pub fn observe_of(
        &mut self,
        node: Option<&Name>,
        source: Source,
        conduct: Conduct,
        now: Instant,
        spared: &dyn Fn(Source) -> bool,
    ) -> Vec<Verdict> {
        let accepted = conduct == Conduct::MessageAccepted;
        if !self.touch(source, accepted, now) {
            return Vec::new();
        }
        let entry = self.entries.get_mut(&source);
        let heard = entry.and_then(|entry| {
            // A message alone makes no record: most sources have none.
            if let Some(node) = node.filter(|_| !accepted) {
                entry.record().heard(node.as_str());
            }
            entry.record.as_ref()?.reporters()
        });
        let mut verdicts = self.weigh(source, conduct, now, spared);
        if let Some(heard) = heard {
            for verdict in verdicts.iter_mut().filter(|verdict| verdict.target.is_about(source)) {
                verdict.evidence.truncate(EVIDENCE - 1);
                verdict.evidence.insert(verdict.evidence.len().min(1), heard.clone());
            }
        }
        self.file(source);
        verdicts
    }

    fn weigh(
        &mut self,
        source: Source,
        conduct: Conduct,
        now: Instant,
        spared: &dyn Fn(Source) -> bool,
    ) -> Vec<Verdict> {
        let Some(entry) = self.entries.get_mut(&source) else { return Vec::new() };
        let known = entry.history.is_known();
        match conduct {
            Conduct::MessageAccepted => {
                entry.history.accepted(now, self.rule.window);
                Vec::new()
            }
            Conduct::KnownRecipient { recipient } => {
                entry.record().known(recipient, now);
                if !known {
                    self.networks.known(source, recipient, now);
                }
                Vec::new()
            }
            Conduct::Abandoned { recipients } => {
                entry.record().abandoned(&recipients, now);
                self.networks.abandoned(source, &recipients);
                self.judge(source, now)
            }
            Conduct::Undelivered { recipients } => {
                entry.record().undelivered(&recipients);
                self.networks.abandoned(source, &recipients);
                Vec::new()
            }
            Conduct::UnknownRecipient { recipient, returned } => {
                let digest = self.digests.of(&recipient);
                entry.record().unknown(recipient, digest, returned, now);
                self.judge_with_neighbours(source, digest, now, spared)
            }
            Conduct::UnknownDigest { recipient, returned } => {
                entry.record().unknown(recipient.name().into(), recipient, returned, now);
                self.judge_with_neighbours(source, recipient, now, spared)
            }
            Conduct::Trap { recipient, sender } if known => {
                entry.record().offence(Reason::Trap);
                let evidence = vec![format!("trap: {recipient}"), "mail of this source was accepted before".to_owned()];
                let target = Target::DeferSender(source, sender);
                vec![Verdict { target, reason: Reason::Trap, length: self.rule.ban, repeat: 0, evidence }]
            }
            Conduct::Trap { recipient, .. } => {
                vec![entry.trip(&self.rule, source, (Reason::Trap, false), vec![format!("trap: {recipient}")], now)]
            }
            Conduct::Offence(reason) => {
                entry.record().offence(reason);
                let failed = (reason == Reason::AuthFailures).then(|| entry.login_failed(&self.auth, source, now));
                failed.flatten().into_iter().collect()
            }
        }
    }

    /// Asks the rule about `source`, which has just asked for the unknown recipient of `digest`; and about its network, if nothing
    /// follows for `source` itself.
    fn judge_with_neighbours(
        &mut self,
        source: Source,
        digest: Digest,
        now: Instant,
        spared: &dyn Fn(Source) -> bool,
    ) -> Vec<Verdict> {
        let own = self.judge(source, now);
        // One whose mail was accepted has nothing to do with what its neighbours do.
        if !own.is_empty() || self.is_familiar(source) {
            return own;
        }
        match self.networks.unknown(&self.rule, source, digest, now) {
            Some(members) => self.trip_network(source, members, now, spared),
            None => own,
        }
    }

    fn judge(&mut self, source: Source, now: Instant) -> Vec<Verdict> {
        let Some(entry) = self.entries.get_mut(&source) else { return Vec::new() };
        let (evidence, trusted) = (entry.evidence(), entry.is_trusted());
        let Some(grounds) = rule::judge(&self.rule, evidence, if trusted { 0 } else { entry.trips() }) else {
            return Vec::new();
        };
        let mut lines = vec![match grounds {
            Grounds::Returned { .. } => format!(
                "notifications to {} distinct unknown recipients, and mail to {} others",
                evidence.returned, evidence.unknown
            ),
            Grounds::Harvest | Grounds::Doubt => {
                let all = evidence.unknown.saturating_add(evidence.known);
                format!("{} distinct unknown recipients of {all}", evidence.unknown)
            }
            Grounds::Probing => format!(
                "{} recipients asked for without sending to them, and {} unknown ones",
                evidence.probed, evidence.unknown
            ),
        }];
        let in_doubt = !trusted && entry.is_in_doubt(grounds);
        if in_doubt {
            lines.push("in doubt: deferred, not banned".to_owned());
        }
        if trusted {
            lines.push(format!("{} messages accepted before: deferred, not banned", entry.history.total()));
        }
        let shown = entry.record().sample.len();
        lines.extend(entry.record().sample.iter().map(|address| format!("unknown: {address}")));
        let named = evidence.unknown.saturating_add(evidence.returned);
        let more = named.saturating_sub(u32::try_from(shown).unwrap_or(u32::MAX));
        lines.extend((more > 0).then(|| format!("and {more} more")));
        lines.truncate(EVIDENCE);
        vec![entry.trip(&self.rule, source, (Reason::Harvest, in_doubt), lines, now)]
    }

    /// The members that stand out alone are banned, the others deferred. Those that are `spared` don't trip: nobody would make the
    /// ban that their next one would be reckoned by.
    fn trip_network(
        &mut self,
        last: Source,
        members: Vec<Source>,
        now: Instant,
        spared: &dyn Fn(Source) -> bool,
    ) -> Vec<Verdict> {
        let network = Network::of(last);
        let evidence = format!("unknown recipients from {} sources of {}", members.len(), network.text());
        let mut verdicts = Vec::new();
        for member in members.into_iter().filter(|member| !spared(*member)) {
            // One that has made room meanwhile has nothing left to ban it for.
            let Some(entry) = self.entries.get_mut(&member) else { continue };
            let old = entry.place(member, &self.rule);
            if entry.evidence().unknown >= self.rule.unknown_recipients.div_ceil(4) && !entry.history.is_known() {
                verdicts.push(entry.trip(&self.rule, member, (Reason::Harvest, false), vec![evidence.clone()], now));
                self.order.leave(old);
                self.file(member);
            }
        }
        let target = Target::DeferNetwork(network);
        let length = self.rule.ban;
        verdicts.push(Verdict { target, reason: Reason::Harvest, length, repeat: 0, evidence: vec![evidence] });
        verdicts
    }

    /// Remembers that `source` was banned until `until` for the `repeat`th time, as the store knows it.
    pub fn remember_ban(&mut self, source: Source, repeat: u32, until: Instant, now: Instant) {
        if self.touch(source, false, now)
            && let Some(entry) = self.entries.get_mut(&source)
        {
            let record = entry.record();
            let rare = record.rare();
            rare.trips = rare.trips.max(repeat.saturating_add(1));
            rare.tripped_until = rare.tripped_until.max(until);
        }
        self.file(source);
    }

    /// Forgets what was held against `source`: the operator has pardoned it. The mail that was accepted still speaks for it.
    pub fn forget(&mut self, source: Source) {
        let entry = self.entries.get(&source).filter(|entry| entry.history.is_known());
        let entry = entry.map(|entry| Entry { last: entry.last, history: entry.history, record: None });
        self.remove(source);
        self.changed.insert(source);
        if let Some(entry) = entry {
            self.entries.insert(source, entry);
            self.file(source);
        }
    }

    /// The counts of `source` at `now`.
    pub fn view(&mut self, source: Source, now: Instant) -> Option<View> {
        self.entries.get(&source)?;
        self.touch(source, false, now);
        self.file(source);
        let entry = self.entries.get(&source)?;
        let network = self.networks.view(source).map(|(evidence, members)| (Network::of(source), evidence, members));
        let (empty, none) = (Record::default(), Rare::default());
        let record = entry.record.as_deref().unwrap_or(&empty);
        let rare = record.rare.as_deref().unwrap_or(&none);
        let oldest = [&record.unknown, &record.known, &record.probed].into_iter().filter_map(|set| set.oldest()).min();
        Some(View {
            evidence: record.evidence(),
            accepted: entry.history.total(),
            trusted: entry.is_trusted(),
            since: oldest,
            sample: record.sample.iter().map(|address| address.to_string()).collect(),
            offences: rare.offences.clone(),
            failed_logins: u32::try_from(rare.failed_logins.len()).unwrap_or(u32::MAX),
            heard: rare.heard.clone(),
            trips: rare.trips,
            network,
        })
    }

    /// Whether mail of `source` has been accepted.
    pub fn is_familiar(&self, source: Source) -> bool {
        self.entries.get(&source).is_some_and(|entry| entry.history.is_known())
    }

    /// Whether the ledger has an entry of `source`.
    pub fn knows(&self, source: Source) -> bool {
        self.entries.contains_key(&source)
    }

    /// Whether anything is held against `source`: what it asked for, or how it logged in. That it was banned before isn't.
    pub fn has_seen(&self, source: Source) -> bool {
        let record = self.entries.get(&source).and_then(|entry| entry.record.as_ref());
        record.is_some_and(|record| record.is_suspect() || record.probed.count() > 0)
    }

    /// Lets the time pass for those that are silent, a bounded number of them.
    pub fn sweep(&mut self, now: Instant) {
        self.networks.sweep(now, self.rule.window, SWEEP);
        let window = self.rule.window;
        let suspected = self.auth.failure_window.max(window);
        let remembered = self.rule.ban_max.saturating_mul(2).max(window);
        for (class, age) in [
            (Class::Knocked, window),
            (Class::Remembered, remembered),
            (Class::Suspect, suspected),
            (Class::Friend, MEMORY),
            (Class::Active, suspected),
            (Class::Offender, window),
        ] {
            let silent = self.order.silent(class, now, age, SWEEP);
            for source in silent {
                self.expire(source, now);
            }
        }
    }

    /// Entries that had to make room since the last call.
    pub fn take_evicted(&mut self) -> Vec<Source> {
        std::mem::take(&mut self.evicted)
    }

    /// Sources whose history has lapsed since the last call. Some may have begun another one meanwhile.
    pub fn take_lapsed(&mut self) -> Vec<Source> {
        std::mem::take(&mut self.lapsed)
    }

    /// Reports that found no room since the last call.
    pub fn take_not_admitted(&mut self) -> u64 {
        std::mem::take(&mut self.not_admitted)
    }

    /// At most `most` sources that changed since they were last told here, each with its entry as the store keeps it, if it
    /// still has one.
    pub fn take_changed(&mut self, most: usize, both: &Both) -> Vec<(Source, Option<String>)> {
        let told = std::iter::from_fn(|| self.changed.pop_first()).take(most);
        told.map(|source| (source, self.entries.get(&source).map(|entry| saved::write(entry, both)))).collect()
    }

    /// Takes an entry back that [`Self::take_changed`] told. What can't be read is left out.
    pub fn restore(&mut self, source: Source, text: &str, both: &Both) {
        let Some(entry) = saved::read(text, both) else { return };
        self.put(source, entry, both.instant);
    }

    /// At most `most` sources whose mail was accepted, those that were heard of last first, behind `after`; and the place of the last
    /// one, if there may be more.
    pub fn friends(&self, after: Option<(Instant, Source)>, most: usize) -> (Vec<Friend>, Option<(Instant, Source)>) {
        let places = self.order.latest_friends(after, most);
        let last = places.last().copied().filter(|_| places.len() == most);
        let friend = |(_, source): (Instant, Source)| {
            let history = self.entries.get(&source)?.history;
            let aged = history.older.saturating_add(history.previous);
            Some(Friend { source, aged, accepted: history.total(), latest: history.latest() })
        };
        (places.into_iter().filter_map(friend).collect(), last)
    }

    /// Takes note that another guard remembers `friend`, where this one knows nothing of the source and has room; whether it is familiar
    /// by that. What somebody else remembers vouches for one trip, and not for more.
    pub fn befriend(&mut self, friend: &Friend, now: Instant) -> bool {
        let Friend { source, aged, accepted, latest } = *friend;
        let is_over = now.since(latest) >= MEMORY;
        // Friends have that much for themselves; who comes on his own needs the rest.
        let is_full = self.entries.len() >= self.max / 2;
        if accepted == 0 || is_over || is_full || self.knows(source) {
            return false;
        }
        let older = aged.min(HISTORY).min(accepted);
        let current = accepted.min(HISTORY).saturating_sub(older);
        let mut history = History { older, previous: 0, current, turned: now, latest: 0 };
        history.set_latest(latest.min(now));
        self.entries.insert(source, Entry { last: latest.min(now), history, record: None });
        self.file(source);
        true
    }

    fn put(&mut self, source: Source, entry: Entry, now: Instant) {
        if self.entries.contains_key(&source) || self.entries.len() >= self.max {
            return;
        }
        self.entries.insert(source, entry);
        self.expire(source, now);
        self.changed.remove(&source);
    }

    /// Sources that the ledger knows.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether it knows none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Finds or makes the entry of `source`, takes it out of the order of eviction and slides its window. `false`: there
    /// is no room for it.
    fn touch(&mut self, source: Source, accepted: bool, now: Instant) -> bool {
        if !self.entries.contains_key(&source) && self.entries.len() >= self.max && !self.make_room(accepted, now) {
            self.not_admitted += 1;
            return false;
        }
        let entry = self.entries.entry(source).or_default();
        self.order.leave(entry.place(source, &self.rule));
        if entry.expire(now, &self.rule, self.auth.failure_window) {
            self.lapsed.push(source);
        }
        entry.last = now.max(entry.last);
        true
    }

    /// Makes room for a newcomer, whose mail was `accepted` just now or not: strangers go first, but no offender within its
    /// window. Friends have half of the ledger for themselves; beyond that, and for a friend, the oldest of them goes.
    fn make_room(&mut self, accepted: bool, now: Instant) -> bool {
        let is_free = |place: &Place| place.class != Class::Offender || now.since(place.last) >= self.rule.window;
        let stranger = self.order.first(false).filter(is_free);
        let friend = || self.order.first(true).filter(|_| accepted || self.order.friends() > self.max / 2);
        let Some(Place { source, .. }) = stranger.or_else(friend) else { return false };
        self.remove(source);
        self.evicted.push(source);
        true
    }

    fn expire(&mut self, source: Source, now: Instant) {
        let Some(entry) = self.entries.get_mut(&source) else { return };
        self.order.leave(entry.place(source, &self.rule));
        if entry.expire(now, &self.rule, self.auth.failure_window) {
            self.lapsed.push(source);
        }
        if entry.record.is_none() && !entry.history.is_known() {
            self.entries.remove(&source);
            self.changed.insert(source);
        } else {
            self.order.enter(entry.place(source, &self.rule));
        }
    }

    fn remove(&mut self, source: Source) {
        if let Some(entry) = self.entries.remove(&source) {
            self.order.leave(entry.place(source, &self.rule));
            self.changed.insert(source);
        }
    }

    /// Puts `source` back into the order of eviction.
    fn file(&mut self, source: Source) {
        if let Some(entry) = self.entries.get(&source) {
            self.order.enter(entry.place(source, &self.rule));
            self.changed.insert(source);
        }
    }
}

#[cfg(test)]
mod tests;
