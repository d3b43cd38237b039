//! The ledger: what each source did, and the one rule that makes a ban of it. Pure; time is passed in.
//!
//! # The rules
//! A source is banned for a harvest when, within `harvest.window`,
//! - it named at least `harvest.unknown_recipients` *distinct* unknown recipients, **and**
//! - more than `harvest.unknown_share` of its distinct recipients were unknown.
//!
//! Two signals, because each alone is wrong: a bare count bans a big provider whose users have old address books; a bare
//! share bans a small sender after one typing error. Distinct, because a sender that retries one dead address learns
//! nothing. The rule is asked only when an unknown recipient comes in: good conduct never causes a ban.
//!
//! A ban lasts `harvest.ban`, and doubles each time the source is banned again before `harvest.ban_max` has passed since
//! its last ban ended, up to `harvest.ban_max`. A ban clears the windows: the next one needs new evidence.
//!
//! 0 for `unknown_recipients` means one. A source that was never seen starts with nothing for and nothing against it.
//! The window slides exactly; counts are exact up to 128 distinct recipients and estimated beyond ([`Distinct`]).
//!
//! A source is banned for failed logins when it failed `auth.failures` times within `auth.failure_window`; that ban lasts
//! `auth.ban` and doesn't double. A login that succeeds takes nothing back: one account of his own must not pay for an
//! attacker's guesses at the others.
//!
//! A source that asks for a trap (`recipients.traps`) is banned at once, as for a harvest: nobody knows that address but
//! who found it where it was put.
//!
//! Forgiveness for accepted mail and scores of whole networks are not part of the rule yet.
//!
//! # Bounds
//! At most `max` entries. When it is full, the source that was silent longest makes room: first one with nothing
//! against it, and only when there is none, one with offences.

use std::collections::hash_map::RandomState;
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::hash::BuildHasher;
use std::time::Duration;

use smtp_guard_ebpf::reason::Reason;

use super::distinct::Distinct;
use crate::addr::Source;
use crate::clock::Instant;
use crate::config::{Auth, Harvest};
use crate::offence::Conduct;

/// Addresses kept as evidence.
pub const SAMPLE: usize = 10;

/// All entries, and the rule over them.
#[derive(Debug)]
pub struct Ledger {
    rule: Harvest,
    auth: Auth,
    max: usize,
    hasher: RandomState,
    entries: HashMap<Source, Entry>,
    /// By when they were last heard of: those with nothing against them, and the others.
    clean: BTreeSet<(Instant, Source)>,
    offenders: BTreeSet<(Instant, Source)>,
    evicted: u64,
}

/// What a source did.
#[derive(Debug, Default)]
struct Entry {
    unknown: Distinct,
    known: Distinct,
    sample: VecDeque<Box<str>>,
    accepted: u64,
    offences: Vec<(Reason, u64)>,
    /// Failed logins of the last `auth.failure_window`, at most `auth.failures`.
    failed_logins: VecDeque<Instant>,
    /// Bans in a row, and when the last one ends.
    bans: u32,
    banned_until: Instant,
    last: Instant,
}

/// What the rule decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    pub reason: Reason,
    pub length: Duration,
    pub repeat: u32,
    pub evidence: Vec<String>,
}

/// What is known of a source.
#[derive(Clone, Debug, PartialEq)]
pub struct View {
    pub unknown: u32,
    pub recipients: u32,
    pub share: f64,
    pub accepted: u64,
    pub since: Instant,
    pub sample: Vec<String>,
    /// Other offences, and how often.
    pub offences: Vec<(Reason, u64)>,
}

impl Ledger {
    /// An empty ledger of at most `max` sources.
    pub fn new(rule: Harvest, auth: Auth, max: usize) -> Self {
        Self {
            rule,
            auth,
            max: max.max(1),
            hasher: RandomState::new(),
            entries: HashMap::new(),
            clean: BTreeSet::new(),
            offenders: BTreeSet::new(),
            evicted: 0,
        }
    }

    /// Takes note of what `source` did at `now`, and asks the rule.
    pub fn observe(&mut self, source: Source, conduct: Conduct, now: Instant) -> Option<Verdict> {
        self.touch(source, now);
        let hasher = &self.hasher;
        let entry = self.entries.get_mut(&source)?;
        let mut verdict = None;
        match conduct {
            Conduct::KnownRecipient { recipient } => {
                entry.known.insert(hasher.hash_one(&recipient), now);
            }
            Conduct::MessageAccepted => entry.accepted += 1,
            Conduct::Trap { recipient } => {
                verdict = Some(entry.ban(&self.rule, Reason::Trap, vec![format!("trap: {recipient}")], now));
            }
            Conduct::Offence(reason) => {
                if reason == Reason::AuthFailures {
                    verdict = entry.login_failed(&self.auth, now);
                }
                match entry.offences.iter_mut().find(|(known, _)| *known == reason) {
                    Some((_, count)) => *count += 1,
                    None => entry.offences.push((reason, 1)),
                }
            }
            Conduct::UnknownRecipient { recipient } => {
                if entry.unknown.insert(hasher.hash_one(&recipient), now) {
                    entry.sample.truncate(SAMPLE - 1);
                    entry.sample.push_front(recipient);
                }
                verdict = judge(&self.rule, entry, now);
            }
        }
        self.file(source);
        verdict
    }

    /// Remembers that `source` was banned until `until` for the `repeat`th time, as the store knows it.
    pub fn remember_ban(&mut self, source: Source, repeat: u32, until: Instant, now: Instant) {
        self.touch(source, now);
        if let Some(entry) = self.entries.get_mut(&source) {
            entry.bans = repeat + 1;
            entry.banned_until = until;
        }
        self.file(source);
    }

    /// Forgets all of `source`: the operator has pardoned it.
    pub fn forget(&mut self, source: Source) {
        if let Some(entry) = self.entries.remove(&source) {
            self.clean.remove(&(entry.last, source));
            self.offenders.remove(&(entry.last, source));
        }
    }

    /// What is known of `source` at `now`.
    pub fn view(&mut self, source: Source, now: Instant) -> Option<View> {
        let window = self.rule.window;
        let entry = self.entries.get_mut(&source)?;
        entry.expire(now, window);
        let (unknown, known) = (entry.unknown.count(), entry.known.count());
        let oldest = [entry.unknown.oldest(), entry.known.oldest()].into_iter().flatten().min();
        Some(View {
            unknown,
            recipients: unknown.saturating_add(known),
            share: share(unknown, known),
            accepted: entry.accepted,
            since: oldest.unwrap_or(now),
            sample: entry.sample.iter().map(|address| address.to_string()).collect(),
            offences: entry.offences.clone(),
        })
    }

    /// Entries that had to make room since the last call.
    pub fn take_evicted(&mut self) -> u64 {
        std::mem::take(&mut self.evicted)
    }

    /// Sources that the ledger knows.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether it knows none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Finds or makes the entry of `source`, takes it out of the order of eviction and slides its window.
    fn touch(&mut self, source: Source, now: Instant) {
        if !self.entries.contains_key(&source) && self.entries.len() >= self.max {
            let idle = self.clean.pop_first().or_else(|| self.offenders.pop_first());
            if let Some((_, idle)) = idle {
                self.entries.remove(&idle);
                self.evicted += 1;
            }
        }
        let entry = self.entries.entry(source).or_default();
        self.clean.remove(&(entry.last, source));
        self.offenders.remove(&(entry.last, source));
        entry.last = now.max(entry.last);
        entry.expire(now, self.rule.window);
    }

    /// Puts `source` back into the order of eviction.
    fn file(&mut self, source: Source) {
        if let Some(entry) = self.entries.get(&source) {
            let clean = entry.unknown.count() == 0 && entry.bans == 0 && entry.offences.is_empty();
            let order = if clean { &mut self.clean } else { &mut self.offenders };
            order.insert((entry.last, source));
        }
    }
}

impl Entry {
    /// A ban that doubles, and an empty window after it.
    fn ban(&mut self, rule: &Harvest, reason: Reason, evidence: Vec<String>, now: Instant) -> Verdict {
        // The memory of earlier bans ends `ban_max` after the last of them.
        if now.since(self.banned_until) >= rule.ban_max {
            self.bans = 0;
        }
        let repeat = self.bans;
        let doubled = rule.ban.saturating_mul(1u32.checked_shl(repeat).unwrap_or(u32::MAX));
        let length = doubled.min(rule.ban_max.max(rule.ban));
        self.bans = repeat.saturating_add(1);
        self.banned_until = now.after(length);
        self.unknown.clear();
        self.known.clear();
        self.sample.clear();
        Verdict { reason, length, repeat, evidence }
    }

    /// The rule for failed logins; see the head of this file.
    fn login_failed(&mut self, rule: &Auth, now: Instant) -> Option<Verdict> {
        self.failed_logins.retain(|at| now.since(*at) < rule.failure_window);
        self.failed_logins.push_back(now);
        if self.failed_logins.len() < rule.failures as usize {
            return None;
        }
        self.failed_logins.clear();
        let evidence = vec![format!("{} failed logins within {} s", rule.failures, rule.failure_window.as_secs())];
        Some(Verdict { reason: Reason::AuthFailures, length: rule.ban, repeat: 0, evidence })
    }

    fn expire(&mut self, now: Instant, window: Duration) {
        self.unknown.expire(now, window);
        self.known.expire(now, window);
        if self.unknown.count() == 0 {
            self.sample.clear();
        }
    }
}

/// The rule; see the head of this file.
fn judge(rule: &Harvest, entry: &mut Entry, now: Instant) -> Option<Verdict> {
    let (unknown, known) = (entry.unknown.count(), entry.known.count());
    if unknown < rule.unknown_recipients || share(unknown, known) <= rule.unknown_share {
        return None;
    }
    let mut evidence = vec![format!("{unknown} distinct unknown recipients of {}", unknown.saturating_add(known))];
    evidence.extend(entry.sample.iter().map(|address| format!("unknown: {address}")));
    evidence.truncate(SAMPLE);
    Some(entry.ban(rule, Reason::Harvest, evidence, now))
}

fn share(unknown: u32, known: u32) -> f64 {
    let all = f64::from(unknown) + f64::from(known);
    if all == 0.0 { 0.0 } else { f64::from(unknown) / all }
}

#[cfg(test)]
mod tests;
