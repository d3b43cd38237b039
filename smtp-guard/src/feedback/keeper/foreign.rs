//! Messages of other guards: their decisions, their lifts and their reports; and what they are told again.

use std::time::Duration;

use super::perform::Cause;
use super::{Keeper, is_exempt, networks_of};
use crate::addr::Source;
use crate::bound::Bound;
use crate::clock::{Both, Instant};
use crate::decision::{Ban, Decision, Name, Origin, Weight};
use crate::feedback::Place;
use crate::gate::{self, Effect, Ignored, Lifted};
use crate::key::Key;
use crate::ledger::Friend;
use crate::offence::{Digest, Heard};
use crate::rates::Sum;

/// Decisions, or lifts, that come together and are told one by one.
const SINGLY: usize = 16;
/// What two readings of another machine's clock may differ by.
const SLACK: Duration = Duration::from_millis(100);

impl Keeper {
    /// Follows `decisions` of the guard `node`, as far as the gate lets them in and there is room; what each of them weighs. The kernel's
    /// part of many is one batch, and so is the store's.
    pub(in crate::feedback) fn hear_of(&mut self, node: &Name, decisions: &[Decision]) -> Vec<Weight> {
        let (protected, both) = (self.protected(), crate::clock::both());
        let (mut effects, mut sources, mut networks) = (Vec::new(), 0, 0);
        let mut weights = Vec::with_capacity(decisions.len());
        for decision in decisions {
            let held = |key: &Key| self.decisions.get(key);
            let effect = gate::foreign(&self.snapshot, &protected, node, decision, &both, held);
            if matches!(effect, Err(Ignored::Outlasted)) {
                self.remember(decision, &both);
            }
            let ban = effect.and_then(|effect| match effect {
                Effect::Ban { key, origin, text, grounds } => {
                    self.room_for(&key, sources, networks).map_err(|_| Ignored::Full)?;
                    // As old as it is there: a lift is held against that.
                    let made = decision.made.min(both.wall);
                    let until = both.instant.after(grounds.length);
                    let (reason, repeat, evidence) =
                        (grounds.reason, grounds.repeat, grounds.evidence.iter().collect());
                    let text = text.into();
                    Ok((Ban { key, reason, origin, made, until: both.wall_at(until), repeat, text, evidence }, until))
                }
                // The gate lets nothing else in.
                Effect::Lift { .. } | Effect::Resume { .. } | Effect::Defer { .. } => Err(Ignored::Senseless),
            });
            match ban {
                Ok((ban, until)) => {
                    self.meter.foreign(None);
                    sources += usize::from(ban.key.source().is_some());
                    networks += usize::from(ban.key.network().is_some());
                    let by_ledger = decision.origin == Origin::Ledger.label();
                    // What is known of it goes on; for others an entry would only take room while they are banned.
                    if ban.key.source().is_some_and(|source| self.ledger.knows(source)) {
                        self.remember(decision, &both);
                    }
                    weights.push(ban.key.source().filter(|_| by_ledger).map_or(Weight::Unseen, |it| self.weight(it)));
                    effects.push(Effect::Resume { ban: Box::new(ban), until, saved: false });
                }
                Err(why) => {
                    self.meter.foreign(Some(why));
                    weights.push(Weight::Nothing);
                }
            }
        }
        let entered = effects.len();
        if entered == 0 {
            return weights;
        }
        let keys = effects.iter().filter_map(|effect| match effect {
            Effect::Resume { ban, .. } => Some(ban.key.clone()),
            _ => None,
        });
        let keys: Vec<Key> = keys.take(SINGLY + 1).collect();
        self.perform_at(effects, Cause::State, &both);
        if keys.len() <= SINGLY {
            for ban in keys.iter().filter_map(|key| self.decisions.get(key)) {
                let ms = ban.until.as_ms().saturating_sub(ban.made.as_ms());
                let length = Duration::from_millis(u64::try_from(ms).unwrap_or_default());
                self.tell_ban(ban, length, None, Cause::State);
            }
        } else {
            let ignored = decisions.len() - entered;
            tracing::info!(node = node.as_str(), entered, ignored, "decisions of another guard");
        }
        weights
    }

    /// What a ban of `source` weighs that a ledger has made or caused elsewhere, by what is known of it here.
    fn weight(&self, source: Source) -> Weight {
        // While a source or its network is deferred, the ledger isn't told of it.
        let is_deferred = self.marks.of(source, crate::clock::now()).deferred_until.is_some();
        match (self.ledger.is_familiar(source), is_deferred || self.ledger.has_seen(source)) {
            (true, _) => Weight::Friend,
            (false, true) => Weight::Seen,
            (false, false) => Weight::Unseen,
        }
    }

    /// A trip elsewhere makes the next ban longer here as well: the same one counts once. Of a ban of
    /// somebody who isn't known here this is noted when it ends.
    fn remember(&mut self, decision: &Decision, both: &Both) {
        let key = Key::read(&decision.source, self.prefix());
        if let Some(source) = key.and_then(|key| key.source())
            && decision.origin == Origin::Ledger.label()
        {
            self.ledger.remember_ban(source, decision.repeat, both.instant_at(decision.until), both.instant);
        }
    }

    /// Follows `lifts` of the guard `node`; how many those are.
    pub(in crate::feedback) fn hear_lifts(&mut self, node: &Name, lifts: &[(String, Instant)]) -> usize {
        let (both, prefix) = (crate::clock::both(), self.prefix());
        let mut effects = Vec::new();
        for (source, at) in lifts {
            let times = (both.wall_at(at.after(SLACK)), both.wall);
            let Self { ledger, marks, decisions, .. } = self;
            let held = |key: &Key| decisions.get(key);
            match gate::foreign_lift(ledger, marks, prefix, source, times, held) {
                Ok(effect) => {
                    if effects.len() < SINGLY {
                        tracing::info!(node = node.as_str(), source, "lifted by another guard");
                    }
                    effects.push(effect);
                }
                Err(why) => self.meter.foreign(Some(why)),
            }
        }
        let lifted = effects.len();
        if lifted > SINGLY {
            tracing::info!(node = node.as_str(), more = lifted - SINGLY, "lifts of another guard");
        }
        self.perform_at(effects, Cause::State, &both);
        lifted
    }

    /// Lifts what the guard `node` has decided between two moments, and what was decided here upon its reports: it isn't listened to.
    /// Of which sources and networks its own decisions were.
    pub(in crate::feedback) fn void(&mut self, node: &Name, from: Instant, to: Instant) -> Vec<String> {
        let both = crate::clock::both();
        let slack = SLACK.as_millis() as i64;
        let (from, to) = (both.wall_at(from).later(-slack), both.wall_at(to).later(slack));
        let origin = Origin::Node(node.clone());
        let is_own = |ban: &Ban| ban.origin == Origin::Ledger && self.upon.get(&ban.key) == Some(node);
        let is_void = |ban: &&Ban| (from..=to).contains(&ban.made) && (ban.origin == origin || is_own(ban));
        let void: Vec<_> = self.decisions.values().filter(is_void).map(|ban| (ban.key.clone(), is_own(ban))).collect();
        let theirs = void.iter().filter(|(_, is_own)| !is_own).map(|(key, _)| self.text(key)).collect();
        let effects: Vec<_> = void.into_iter().map(|(key, _)| Effect::Lift { key, why: Lifted::Node }).collect();
        if !effects.is_empty() {
            tracing::warn!(
                node = node.as_str(),
                lifted = effects.len(),
                "recent decisions of another guard, and those that were made upon its reports, are lifted"
            );
        }
        self.perform_at(effects, Cause::State, &both);
        theirs
    }

    /// Takes note of what the guard `node` reports; what each ban weighs that follows.
    pub(in crate::feedback) fn hear(&mut self, node: &Name, reports: Vec<(String, Instant, Heard)>) -> Vec<Weight> {
        let (snapshot, prefix) = (std::sync::Arc::clone(&self.snapshot), self.prefix());
        let mut weights = Vec::new();
        for (source, at, heard) in reports {
            let Some(source) = Key::read(&source, prefix).and_then(|key| key.source()) else {
                self.meter.foreign(Some(Ignored::Senseless));
                continue;
            };
            let exempt = |source: Source| is_exempt(&snapshot, &source.into());
            if exempt(source) {
                self.meter.foreign(Some(Ignored::Exempt));
                continue;
            }
            let Self { ledger, marks, decisions, table, .. } = self;
            let networks = table.networks() > 0;
            let is_banned = |source: Source| {
                decisions.contains_key(&source.into())
                    || networks_of(decisions, networks, prefix, source).next().is_some()
            };
            let mut effects = gate::hear(node, ledger, marks, source, heard, at, is_banned, exempt);
            if !effects.is_empty() {
                gate::settle(&mut effects, &crate::clock::both(), |key| self.decisions.get(key));
                self.spare_needed(&mut effects);
                weights.extend(effects.iter().filter_map(|effect| match effect {
                    Effect::Ban { key, .. } => {
                        let is_friend = key.source().is_some_and(|source| self.ledger.is_familiar(source));
                        Some(if is_friend { Weight::Friend } else { Weight::Seen })
                    }
                    Effect::Resume { .. } | Effect::Lift { .. } | Effect::Defer { .. } => None,
                }));
                self.perform(effects, Cause::Heard(node));
            }
        }
        self.count_evicted();
        weights
    }

    /// Takes note of what another guard has counted: it counts here as well, as far as there are limits.
    pub(in crate::feedback) fn hear_counts(&mut self, counts: Vec<(Result<String, Digest>, Instant, Sum)>) {
        let (now, prefix) = (crate::clock::now(), self.prefix());
        let limits = &self.snapshot.config().limits;
        for (who, at, sum) in counts {
            match who {
                Ok(source) if limits.messages_per_hour > 0 => {
                    if let Some(source) = Key::read(&source, prefix).and_then(|key| key.source()) {
                        self.counters.messages.hear(&source, sum.messages, at, now);
                    }
                }
                Err(user) if limits.user_messages_per_hour > 0 || limits.user_recipients_per_hour > 0 => {
                    if !self.counters.accounts.hear(user, sum, at, now) {
                        self.meter.bound_reached(Bound::Users);
                    }
                }
                Ok(_) | Err(_) => {}
            }
        }
    }

    /// Tells other guards what was counted since they were told last.
    pub(super) fn tell_counts(&self, now: Instant) {
        let is_shared = self.peers.are_there();
        self.counters.messages.share(is_shared);
        self.counters.accounts.share(is_shared.then(|| self.snapshot.digests()));
        let (sources, lost) = self.counters.messages.take_told();
        let (users, more) = self.counters.accounts.take_told();
        for _ in 0..lost + more {
            self.meter.bound_reached(Bound::Fleet);
        }
        for (source, sum) in sources {
            self.peers.counted(Ok(&self.text(&source.into())), now, sum);
        }
        users.into_iter().for_each(|(user, sum)| self.peers.counted(Err(user), now, sum));
    }

    /// Takes note of sources that another guard remembers as friends; how many are familiar by that.
    pub(in crate::feedback) fn befriend(&mut self, friends: &[Friend]) -> usize {
        let (snapshot, prefix) = (std::sync::Arc::clone(&self.snapshot), self.prefix());
        let Self { ledger, marks, decisions, table, .. } = self;
        let networks = table.networks() > 0;
        let is_spared = |source: Source| {
            // Another guard's sources may be wider or narrower, and what isn't one must not be taken for one.
            Key::read(&Key::from(source).text(prefix), prefix) != Some(source.into())
                || is_exempt(&snapshot, &source.into())
                || decisions.contains_key(&source.into())
                || networks_of(decisions, networks, prefix, source).next().is_some()
        };
        let new = gate::befriend(ledger, marks, friends, crate::clock::now(), is_spared);
        self.count_evicted();
        new
    }

    /// Sources whose mail is accepted, in parts.
    pub(in crate::feedback) fn friends(&self, after: Option<Place>, most: usize) -> (Vec<Friend>, Option<Place>) {
        self.ledger.friends(after, most)
    }

    /// Takes bans out of `effects` that touch what this guard needs: its backend, its resolvers, itself. Nobody connects from there
    /// unless something is wrong here, but whoever reports from elsewhere may say so.
    fn spare_needed(&self, effects: &mut Vec<Effect>) {
        let needed = std::cell::OnceCell::new();
        effects.retain(|effect| {
            let Effect::Ban { key, .. } = effect else { return true };
            let Some(net) = key.addresses(self.prefix()) else { return true };
            let is_needed = needed.get_or_init(|| self.needed()).objection(net.into()).is_some();
            if is_needed {
                self.meter.foreign(Some(Ignored::Protected));
            }
            !is_needed
        });
    }

    /// Tells other guards of all that was decided here: they, or what they share, may not know.
    pub(in crate::feedback) fn tell_all(&self) {
        let both = crate::clock::both();
        self.decisions.values().for_each(|ban| self.tell_peers(ban, &both));
    }

    /// Tells other guards of `ban`, if it was made here and is theirs to know.
    pub(super) fn tell_peers(&self, ban: &Ban, both: &Both) {
        let is_own = matches!(ban.origin, Origin::Ledger | Origin::Operator);
        if is_own && ban.key.user().is_none() && self.peers.are_there() {
            let upon = self.upon.get(&ban.key).filter(|_| ban.origin == Origin::Ledger);
            self.peers.decided(Decision::of(ban, self.prefix()), upon, *both);
        }
    }
}
