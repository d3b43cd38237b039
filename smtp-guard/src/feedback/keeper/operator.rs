//! The operator's questions and commands.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use smtp_guard_ebpf::reason::Reason;
use tokio::sync::oneshot;

use super::Keeper;
use super::perform::Cause;
use crate::blocklist::{Protected, own_addresses};
use crate::bound::Bound;
use crate::clock::Instant;
use crate::decision::{Ban, ControlError, Decision, Entry, Imported, Lines, Name, Operator, Origin, Part};
use crate::edge::bans::NETWORKS;
use crate::events::What;
use crate::gate::{Effect, Grounds, Lifted, Place};
use crate::key::{Key, User, Who};
use crate::observe::log::{self, printable};
use crate::rates::accounts::AccountView;

impl Keeper {
    /// At most `most` decisions, those behind `after`.
    pub(in crate::feedback) fn decisions(&self, after: Option<&str>, most: usize) -> Result<Part, ControlError> {
        let (both, prefix) = (crate::clock::both(), self.prefix());
        let after = after.map(|text| Place::read(text, prefix)).transpose()?;
        let (mut decisions, mut last) = (Vec::new(), None);
        let behind = match &after {
            None => Some(None),
            Some(Place::Ban(key)) => Some(Some(key)),
            Some(Place::Source(_) | Place::Network(_)) => None,
        };
        // Users stand behind all others, and are shown elsewhere.
        let bans = behind.into_iter().flat_map(|after| self.decisions.behind(after));
        for ban in bans.take_while(|ban| ban.key.user().is_none()).take(most) {
            decisions.push(Decision::of(ban, prefix));
            last = Some(Place::Ban(ban.key.clone()));
        }
        if !matches!(after, Some(Place::Network(_))) {
            let source = if let Some(Place::Source(source)) = after { Some(source) } else { None };
            for (source, until) in self.marks.deferred_sources(source, most - decisions.len(), both.instant) {
                decisions.push(self.deferrals.decision(prefix.display(source), &both, until));
                last = Some(Place::Source(source));
            }
        }
        let network = if let Some(Place::Network(network)) = after { Some(network) } else { None };
        for (network, until) in self.marks.deferred_networks(network, most - decisions.len(), both.instant) {
            decisions.push(self.deferrals.decision(network.text(), &both, until));
            last = Some(Place::Network(network));
        }
        let next = last.filter(|_| decisions.len() == most).map(|place| place.text(prefix));
        Ok(Part { decisions, next })
    }

    pub(in crate::feedback) fn latest(&self) -> Vec<Decision> {
        let bans = self.latest.keys().filter_map(|key| self.decisions.get(key));
        bans.map(|ban| Decision::of(ban, self.prefix())).collect()
    }

    pub(in crate::feedback) fn add(
        &mut self,
        who: Who,
        length: Duration,
        text: String,
        by: Operator,
    ) -> Result<Decision, ControlError> {
        let key = self.judge_by_hand(who)?;
        // A source finds room: the ban that ends soonest makes it.
        if key.network().is_some() {
            self.room_for(&key, 0, 0)?;
        }
        let grounds = Grounds { reason: Reason::Operator, length, repeat: 0, evidence: Vec::new() };
        let origin = if by.local { Origin::Local } else { Origin::Operator };
        let ban = Effect::Ban { key: key.clone(), origin, text, grounds };
        self.perform(vec![ban], Cause::Command(by, Some(who)));
        match self.decisions.get(&key) {
            Some(ban) => Ok(Decision::of(ban, self.prefix())),
            // The table refused it after all.
            None => Err(ControlError::NoRoom { most: NETWORKS }),
        }
    }

    /// Puts `entries` of `file` in force together: the kernel's part is one batch, and so is the store's. None makes room by
    /// pushing out another, and none takes the place of one that [stays](Ban::stays).
    pub(in crate::feedback) fn import(
        &mut self,
        file: Name,
        entries: Vec<Entry>,
        text: &str,
        by: Operator,
    ) -> Imported {
        let name = printable(file.as_str().as_bytes());
        let origin = Origin::File(file);
        let both = crate::clock::both();
        let protected = self.protected();
        let mut done = Imported::default();
        let mut wanted: HashMap<Key, (Instant, Option<String>)> = HashMap::new();
        let (mut sources, mut networks) = (0, 0);
        for (place, entry) in entries.into_iter().enumerate() {
            let mut refuse = |error: ControlError| done.refused.push((place, error.to_string()));
            let key = match self.judge(entry.who, &protected) {
                Ok(key) => key,
                Err(error) => {
                    refuse(error);
                    continue;
                }
            };
            let until =
                entry.seconds.map_or(Instant::NEVER, |seconds| both.instant.after(Duration::from_secs(seconds)));
            let outlasted = wanted.get(&key).is_some_and(|(before, _)| *before >= until)
                || self.decisions.get(&key).is_some_and(|ban| ban.stays(&origin, both.wall_at(until)));
            if outlasted {
                done.outlasted += 1;
                continue;
            }
            let is_new = !wanted.contains_key(&key) && !self.decisions.contains_key(&key);
            if is_new {
                if let Err(error) = self.room_for(&key, sources, networks) {
                    refuse(error);
                    continue;
                }
                sources += usize::from(key.source().is_some());
                networks += usize::from(key.network().is_some());
            }
            wanted.insert(key, (until, entry.text));
        }
        done.added = wanted.len();
        let shared: Arc<str> = text.into();
        let bans: Vec<_> = wanted
            .into_iter()
            .map(|(key, (until, own))| {
                let ban = Ban {
                    key,
                    reason: Reason::Operator,
                    origin: origin.clone(),
                    made: both.wall,
                    until: both.wall_at(until),
                    repeat: 0,
                    text: own.map_or_else(|| Arc::clone(&shared), Arc::from),
                    evidence: Lines::default(),
                };
                (ban, until)
            })
            .collect();
        self.save_all(bans.iter().map(|(ban, _)| ban.clone()).collect());
        self.put_all(bans, &both);
        let (added, refused) = (done.added as u64, done.refused.len() as u64);
        let text = printable(text.as_bytes());
        tracing::info!(
            uid = by.uid,
            added,
            refused,
            file = name,
            text,
            "{by} imported {added} decisions from {name}: {text}"
        );
        self.meter.tell(What::Imported { added, refused, text });
        done
    }

    /// Whether there is room for a decision about `key`, beside `sources` and `networks` that come with it, without pushing out
    /// another.
    pub(super) fn room_for(&self, key: &Key, sources: usize, networks: usize) -> Result<(), ControlError> {
        let most = self.snapshot.config().edge.max_sources as usize;
        let (room, bound, error) = match key {
            Key::Source(_) => (self.table.len() + sources < most, Bound::Bans, ControlError::NoRoomForSources { most }),
            Key::Network(_) => {
                (self.table.networks() + networks < NETWORKS, Bound::Networks, ControlError::NoRoom { most: NETWORKS })
            }
            Key::User(_) => return Ok(()),
        };
        if room || self.decisions.contains_key(key) {
            return Ok(());
        }
        self.meter.bound_reached(bound);
        Err(error)
    }

    pub(in crate::feedback) fn delete(&mut self, who: Who, by: Operator) -> Result<Option<Decision>, ControlError> {
        // What can't be blocked isn't.
        let Ok(key) = Key::of(who, self.prefix()) else { return Ok(None) };
        let both = crate::clock::both();
        let deferred = key.source().and_then(|source| self.deferral(source, &both));
        let ban = self.decisions.get(&key).cloned();
        self.pardon(std::slice::from_ref(&key), Lifted::Operator, Cause::Command(by, Some(who)));
        let lifted = match (ban, deferred) {
            (Some(ban), _) => Decision::of(&ban, self.prefix()),
            (None, Some(deferral)) => deferral,
            (None, None) => {
                let within = key.source().and_then(|source| self.networks_of(source).next()?.key.network());
                return match (who.address(), within) {
                    (Some(ip), Some(net)) => Err(ControlError::Within { ip, net }),
                    _ => Ok(None),
                };
            }
        };
        tracing::info!(
            uid = by.uid,
            source = lifted.source,
            reason = lifted.reason,
            "{by} lifted the decision on {who}"
        );
        Ok(Some(lifted))
    }

    /// Holds `user`; also what resolves when that is on disk.
    pub(in crate::feedback) fn hold(
        &mut self,
        user: User,
        length: Option<Duration>,
        text: String,
        by: Operator,
    ) -> Result<(AccountView, oneshot::Receiver<()>), ControlError> {
        let length = length.unwrap_or(Duration::MAX);
        let grounds = Grounds { reason: Reason::UserHeld, length, repeat: 0, evidence: Vec::new() };
        let hold = Effect::Ban { key: user.clone().into(), origin: Origin::Operator, text, grounds };
        self.perform(vec![hold], Cause::Command(by, None));
        if !self.decisions.contains_key(&user.clone().into()) {
            return Err(ControlError::TooManyHolds);
        }
        let view = self.counters.accounts.view(&self.snapshot.config().limits, &user, &crate::clock::both());
        view.map(|view| (view, self.store.written())).ok_or(ControlError::TooManyHolds)
    }

    /// Forgets what is counted of `user` and his hold; what was known of him.
    pub(in crate::feedback) fn release(
        &mut self,
        user: &User,
        by: Operator,
    ) -> Option<(AccountView, oneshot::Receiver<()>)> {
        let both = crate::clock::both();
        let view = self.counters.accounts.view(&self.snapshot.config().limits, user, &both);
        let known = self.counters.accounts.release(user);
        let lift = Effect::Lift { key: user.clone().into(), why: Lifted::Operator };
        self.perform(vec![lift], Cause::Command(by, None));
        if known {
            // Of a release, a crash must not cost more than of a hold.
            self.write_counters_now(&both);
            let name = printable(user.name().as_bytes());
            tracing::info!(uid = by.uid, user = name, "{by} released user {}", log::one_word(user.name()));
            self.meter.tell(What::UserReleased { user: name });
        }
        view.map(|view| (view, self.store.written()))
    }

    pub(in crate::feedback) fn delete_all(&mut self, by: Operator) -> usize {
        let (deferred, networks) = self.marks.deferred(crate::clock::now());
        let deferred = deferred.iter().map(|(source, _)| Key::from(*source));
        // Users are released one by one.
        let banned = self.decisions.keys().filter(|key| key.user().is_none()).cloned();
        let keys: HashSet<_> = banned.chain(deferred).collect();
        let lifted = keys.len() + networks.len();
        self.pardon(&keys.into_iter().collect::<Vec<_>>(), Lifted::Operator, Cause::Command(by, None));
        self.marks.pardon_networks();
        self.deferrals.clear();
        self.meter.tell(What::AllLifted { count: lifted as u64 });
        tracing::info!(uid = by.uid, decisions = lifted, "{by} lifted all {lifted} decisions");
        lifted
    }

    /// The key of `who`, where a decision may be about that: neither exempt nor in what is `protected`.
    fn judge(&self, who: Who, protected: &Protected) -> Result<Key, ControlError> {
        let key = Key::of(who, self.prefix())?;
        if self.is_exempt(&key) {
            return Err(ControlError::Exempt { ip: who.net().addr() });
        }
        let objection = key.addresses(self.prefix()).and_then(|net| Some((net, protected.objection(net.into())?)));
        match objection {
            Some((net, objection)) => Err(ControlError::Protected { who: net.into(), objection }),
            None => Ok(key),
        }
    }

    /// Likewise of a decision by hand: one address may be a host of ours that misbehaves, but none that the guard needs.
    fn judge_by_hand(&self, who: Who) -> Result<Key, ControlError> {
        let key = Key::of(who, self.prefix())?;
        self.judge(who, &if key.source().is_some() { self.needed() } else { self.protected() })
    }

    /// Addresses that the guard itself needs, as the host's are now.
    pub(super) fn needed(&self) -> Protected {
        Protected::of_addresses(self.snapshot.config(), &own_addresses())
    }

    /// Addresses that decisions must not touch, as the host's are now.
    pub(super) fn protected(&self) -> Protected {
        Protected::of_decisions(self.snapshot.config(), &own_addresses())
    }
}
