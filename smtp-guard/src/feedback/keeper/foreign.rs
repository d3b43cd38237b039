//! Messages of other guards: their decisions, their lifts and their reports; and what they are told again.

use std::time::Duration;

use super::perform::Cause;
use super::{Keeper, is_exempt, networks_of};
use crate::addr::Source;
use crate::clock::{Both, Instant};
use crate::decision::{Ban, Decision, Name, Origin};
use crate::gate::{self, Effect, Ignored, Lifted};
use crate::key::Key;
use crate::offence::Heard;

/// Decisions, or lifts, that come together and are told one by one.
const SINGLY: usize = 16;
/// What two readings of another machine's clock may differ by.
const SLACK: Duration = Duration::from_millis(100);

impl Keeper {
    /// Follows `decisions` of the guard `node`, as far as the gate lets them in and there is room; how many those are. The kernel's part
    /// of many is one batch, and so is the store's.
    pub(in crate::feedback) fn hear_of(&mut self, node: &Name, decisions: &[Decision]) -> usize {
        let (protected, both) = (self.protected(), crate::clock::both());
        let (mut effects, mut sources, mut networks) = (Vec::new(), 0, 0);
        for decision in decisions {
            let held = |key: &Key| self.decisions.get(key);
            let effect = gate::foreign(&self.snapshot, &protected, node, decision, &both, held);
            if matches!(effect, Ok(_) | Err(Ignored::Outlasted)) {
                self.remember(decision, &both);
            }
            let ban = effect.and_then(|effect| match effect {
                Effect::Ban { key, origin, text, grounds } => {
                    self.room_for(&key, sources, networks).map_err(|_| Ignored::Full)?;
                    // As old as it is there: a lift is held against that.
                    let made = decision.made.min(both.wall);
                    let until = both.instant.after(grounds.length);
                    let (reason, repeat, evidence) = (grounds.reason, grounds.repeat, grounds.evidence);
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
                    effects.push(Effect::Resume { ban: Box::new(ban), until, saved: false });
                }
                Err(why) => self.meter.foreign(Some(why)),
            }
        }
        let entered = effects.len();
        if entered == 0 {
            return 0;
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
        entered
    }

    /// A trip elsewhere makes the next ban longer here as well: the same one counts once.
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

    /// Lifts what the guard `node` has decided since a moment: it isn't listened to. Of which sources and networks that was.
    pub(in crate::feedback) fn void(&mut self, node: Name, since: Instant) -> Vec<String> {
        let both = crate::clock::both();
        let since = both.wall_at(since).later(-(SLACK.as_millis() as i64));
        let (name, origin) = (node.clone(), Origin::Node(node));
        let void = self.decisions.values().filter(|ban| ban.origin == origin && ban.made >= since);
        let keys: Vec<Key> = void.map(|ban| ban.key.clone()).collect();
        let sources = keys.iter().map(|key| self.text(key)).collect();
        let effects: Vec<_> = keys.into_iter().map(|key| Effect::Lift { key, why: Lifted::Node }).collect();
        if !effects.is_empty() {
            tracing::warn!(
                node = name.as_str(),
                lifted = effects.len(),
                "recent decisions of another guard are lifted"
            );
        }
        self.perform_at(effects, Cause::State, &both);
        sources
    }

    /// Takes note of what the guard `node` reports; how many bans follow.
    pub(in crate::feedback) fn hear(&mut self, node: &Name, reports: Vec<(String, Instant, Heard)>) -> u32 {
        let (snapshot, prefix) = (std::sync::Arc::clone(&self.snapshot), self.prefix());
        let mut bans = 0;
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
                bans += effects.iter().filter(|effect| matches!(effect, Effect::Ban { .. })).count();
                self.perform(effects, Cause::State);
            }
        }
        self.count_evicted();
        u32::try_from(bans).unwrap_or(u32::MAX)
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
            self.peers.decided(Decision::of(ban, self.prefix()), *both);
        }
    }
}
