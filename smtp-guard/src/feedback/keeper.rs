//! The feedback task's state: the ledger and the decisions, and how they reach table, log and store.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use smtp_guard_ebpf::reason::Reason;
use tokio::sync::oneshot;

use super::{Meter, Peers};
use crate::addr::{Ipv6Prefix, Source};
use crate::bound::Bound;
use crate::clock::{Both, Instant, Steady};
use crate::config::Config;
use crate::decision::{Ban, Name, Origin};
use crate::edge::bans::{Applied, AppliedNetworks, BanTable};
use crate::edge::{EdgeError, Refreshed};
use crate::events::What;
use crate::gate::{self, Lifted};
use crate::key::{Key, Net};
use crate::ledger::Ledger;
use crate::marks::Marks;
use crate::observe::log::printable;
use crate::offence::Report;
use crate::rates::Counters;
use crate::rates::accounts::Hold;
use crate::snapshot::Snapshot;
use crate::store::{Change, Store};

mod deferrals;
mod explain;
mod foreign;
mod in_force;
mod latest;
mod operator;
mod perform;
mod persist;
mod suspects;

use deferrals::Deferrals;
use in_force::InForce;
use latest::Latest;
use perform::Cause;
use suspects::Suspects;

pub(super) struct Keeper {
    snapshot: Arc<Snapshot>,
    ledger: Ledger,
    table: Arc<BanTable>,
    store: Box<dyn Store>,
    decisions: InForce,
    latest: Latest,
    deferrals: Deferrals,
    suspects: Suspects,
    marks: Arc<Marks>,
    counters: Arc<Counters>,
    written: Instant,
    sweeps: usize,
    /// Changed, but the store's queue was full.
    unsaved: HashSet<Key>,
    meter: Arc<dyn Meter>,
    peers: Arc<dyn Peers>,
    /// The kernel plane as the last sweep found it.
    kernel: Result<Refreshed, String>,
    wall: Steady,
    /// Bans that the ledger made upon what another guard reported, with the last one that did: only of bans in force.
    upon: HashMap<Key, Name>,
    /// Bans of the store that were over when they were read: by a clock that may have been wrong.
    over: Vec<Ban>,
}

impl Keeper {
    pub(super) fn new(
        snapshot: Arc<Snapshot>,
        table: Arc<BanTable>,
        store: Box<dyn Store>,
        meter: Arc<dyn Meter>,
        peers: Arc<dyn Peers>,
        marks: Arc<Marks>,
        counters: Arc<Counters>,
    ) -> Self {
        let config = snapshot.config();
        let mut ledger = Ledger::new(config.harvest.clone(), config.auth.clone(), config.edge.max_sources as usize);
        ledger.set_digests(snapshot.digests());
        // How it begins is told by whoever opened it.
        let kernel = look_at_kernel(&table, config);
        Self {
            snapshot,
            ledger,
            table,
            store,
            decisions: InForce::default(),
            latest: Latest::default(),
            deferrals: Deferrals::default(),
            suspects: Suspects::default(),
            marks,
            counters,
            written: crate::clock::now(),
            sweeps: 0,
            unsaved: HashSet::new(),
            meter,
            peers,
            kernel,
            wall: Steady::new(crate::clock::both()),
            upon: HashMap::new(),
            over: Vec::new(),
        }
    }

    /// Judges by `snapshot` from here on, and lifts the bans of whom it exempts.
    pub(super) fn adopt_snapshot(&mut self, snapshot: Arc<Snapshot>) {
        let config = snapshot.config();
        self.ledger.set_rules(config.harvest.clone(), config.auth.clone());
        self.ledger.set_digests(snapshot.digests());
        self.snapshot = snapshot;
        let exempt: Vec<_> = self.decisions.keys().filter(|key| self.is_exempt(key)).cloned().collect();
        self.pardon(&exempt, Lifted::Exempt, Cause::State);
    }

    /// Puts store and kernel map together: unexpired bans of the store go into force, bans that only the kernel has are
    /// adopted, exempt sources are lifted from both, and ended bans are remembered for doubling.
    pub(super) fn restore(&mut self) {
        self.restore_at(crate::clock::both());
    }

    /// Restores from the store at `both`.
    pub(super) fn restore_at(&mut self, both: Both) {
        self.wall = Steady::new(both);
        self.take_from_store(&both);
        if matches!(self.kernel, Ok(Refreshed::Same | Refreshed::Anew)) {
            self.adopt(&both);
        }
        if !self.decisions.is_empty() {
            tracing::info!(bans = self.decisions.len(), "bans restored");
        }
    }

    /// What the store held when it was opened, which may have been late. What is in force already is newer.
    fn take_from_store(&mut self, both: &Both) {
        let Some(found) = self.store.take_found() else { return };
        let mut bans = Vec::new();
        for change in found.changes {
            match change {
                Change::Save(ban) => bans.push(*ban),
                Change::Count { kind, key, state: Some(state), .. } => self.restore_counter(&kind, key, &state, both),
                // A store that tells what it holds has nothing to take back.
                Change::Remove(_) | Change::Count { state: None, .. } | Change::Purge { .. } => {}
            }
        }
        let over = self.resume(bans, true, both);
        self.over.extend(over);
        if found.begun {
            self.unsaved.extend(self.decisions.keys().cloned());
        }
    }

    /// Puts `bans` in force again, those that aren't over at `both`; which are. `saved`: they come from the store.
    fn resume(&mut self, bans: Vec<Ban>, saved: bool, both: &Both) -> Vec<Ban> {
        let Self { ledger, marks, decisions, snapshot, .. } = self;
        let is_exempt = |key: &Key| is_exempt(snapshot, key);
        let is_held = |key: &Key| decisions.contains_key(key);
        let (effects, over) = gate::resume(ledger, marks, bans, saved, both, is_exempt, is_held);
        self.perform_at(effects, Cause::State, both);
        over
    }

    /// The wall clock was set by `step` ms: ends are moments, so what is written of them changes.
    fn follow_wall(&mut self, step: i64, both: &Both) {
        tracing::warn!(
            seconds = step / 1000,
            bans = self.decisions.len(),
            "the clock was set: the ends of bans are written again"
        );
        for ban in self.decisions.values_mut() {
            ban.made = ban.made.later(step);
            ban.until = ban.until.later(step);
            self.unsaved.insert(ban.key.clone());
        }
        let over = std::mem::take(&mut self.over);
        self.over = self.resume(over, true, both);
    }

    fn adopt(&mut self, both: &Both) {
        let Some(kernel) = self.table.kernel() else { return };
        // A first write makes the kernel's filters anew, which takes tens of milliseconds: not while a harvester guesses on.
        if let Err(error) = kernel.ban_all(&[]) {
            tracing::error!(%error, "the kernel's filters can't be made ready: the first ban tries again");
        }
        let found = kernel.bans().and_then(|sources| {
            let sources = sources.into_iter().map(|(source, until, reason)| (Key::from(source), until, reason));
            let networks = kernel.networks()?.into_iter().map(|(net, until, reason)| (Key::from(net), until, reason));
            Ok(sources.chain(networks).collect::<Vec<_>>())
        });
        let found = match found {
            Ok(found) => found,
            Err(error) => {
                tracing::error!(%error, "bans of the kernel map can't be read");
                return;
            }
        };
        let ban = |(key, until, reason)| Ban {
            key,
            reason,
            // It may be a file's, or for this host alone: other guards aren't told.
            origin: if reason == Reason::Operator { Origin::Local } else { Origin::Ledger },
            made: both.wall,
            until: both.wall_at(until),
            repeat: 0,
            text: reason.text().into(),
            evidence: ["taken over from the kernel map"].into_iter().collect(),
        };
        let over = self.resume(found.into_iter().map(ban).collect(), false, both);
        let over: Vec<_> = over.into_iter().map(|ban| ban.key).collect();
        if let Err(error) = self.lift(&over) {
            tracing::warn!(%error, bans = over.len(), "expired bans stay in the kernel map");
        }
    }

    /// Takes note of what a session reports, and bans where the rule says so.
    pub(super) fn on_report(&mut self, report: Report) {
        let Report { client, at, conduct } = report;
        self.meter.reported(conduct.kind());
        if self.snapshot.untouchable().contains(client.ip()) {
            return;
        }
        let source = client.source(self.prefix());
        self.suspects.note(source, &conduct);
        if self.peers.are_there() {
            self.peers.reported(&self.text(&source.into()), at, &conduct);
        }
        let (snapshot, prefix) = (Arc::clone(&self.snapshot), self.prefix());
        let (decisions, networks) = (&self.decisions, self.table.networks() > 0);
        let is_banned = |source: Source| {
            decisions.contains_key(&source.into()) || networks_of(decisions, networks, prefix, source).next().is_some()
        };
        let banned = is_banned(source);
        let is_spared = |source: Source| snapshot.untouchable().touches(source, prefix) || is_banned(source);
        let mut effects = gate::report(&mut self.ledger, &self.marks, source, conduct, at, banned, is_spared);
        if !effects.is_empty() {
            gate::settle(&mut effects, &crate::clock::both(), |key| self.decisions.get(key));
        }
        self.perform(effects, Cause::Report(client, at));
        self.count_evicted();
    }

    fn count_evicted(&mut self) {
        let (evicted, not_admitted) = gate::clear(&mut self.ledger, &self.marks);
        for _ in 0..evicted {
            self.meter.bound_reached(Bound::Ledger);
        }
        for _ in 0..not_admitted {
            self.meter.bound_reached(Bound::LedgerOffenders);
        }
    }

    /// In force in both planes, and among the decisions: the ban of `source`.
    fn put(&mut self, source: Source, ban: Ban, until: Instant) {
        let Applied { kernel, displaced } = self.table.apply(source, until, ban.reason);
        self.note(ban);
        self.applied(kernel, displaced);
    }

    /// Many at once: the kernel's part is one batch for sources and one for networks.
    fn put_all(&mut self, bans: Vec<(Ban, Instant)>, both: &Both) {
        let (mut sources, mut networks) = (Vec::new(), Vec::new());
        for (ban, until) in bans {
            match &ban.key {
                Key::Source(source) => sources.push((*source, until, ban.reason)),
                Key::Network(net) => networks.push((*net, until, ban.reason)),
                Key::User(user) => {
                    let since = both.instant_at(ban.made).min(both.instant);
                    let hold = Hold { since, until, text: ban.text.to_string() };
                    if self.counters.accounts.hold(user.clone(), hold).is_err() {
                        continue;
                    }
                }
            }
            self.note(ban);
        }
        if !sources.is_empty() {
            let (kernel, displaced) = self.table.apply_all(&sources);
            self.applied(kernel.map(drop), displaced);
        }
        if !networks.is_empty() {
            let AppliedNetworks { kernel, outside, refused } = {
                let is_exempt = |source: Source| self.is_exempt(&source.into());
                self.table.apply_networks(&networks, both.instant, &is_exempt)
            };
            if outside > 0 {
                self.meter.bound_reached(Bound::KernelNetworks);
                tracing::warn!(
                    networks = outside,
                    "the kernel's map of networks is full: these are blocked in user space only"
                );
            }
            for net in refused {
                self.meter.bound_reached(Bound::Networks);
                self.decisions.remove(&net.into());
                tracing::warn!(%net, "there is no room for more networks: it is not blocked");
            }
            self.applied(kernel, None);
        }
    }

    /// Lifts the bans of `keys` in both planes, and holds of users.
    fn lift(&self, keys: &[Key]) -> Result<(), EdgeError> {
        let networks: Vec<Net> = keys.iter().filter_map(|key| key.network()).collect();
        let networks = if networks.is_empty() { Ok(()) } else { self.table.lift_networks(&networks) };
        keys.iter().filter_map(|key| key.user()).for_each(|user| self.counters.accounts.end_hold(user));
        let sources: Vec<Source> = keys.iter().filter_map(|key| key.source()).collect();
        self.table.lift_all(&sources).and(networks)
    }

    /// Decisions about networks that hold `source`, the narrowest first.
    fn networks_of(&self, source: Source) -> impl Iterator<Item = &Ban> {
        networks_of(&self.decisions, self.table.networks() > 0, self.prefix(), source)
    }

    fn note(&mut self, ban: Ban) {
        let before = self.decisions.get(&ban.key);
        // Users are shown among accounts.
        if ban.key.user().is_none() {
            self.latest.note(&ban, before);
        }
        if let Some(before) = before.filter(|_| !matches!(ban.origin, Origin::Ledger | Origin::Node(_))).cloned() {
            self.remember_foreign(&before);
        }
        self.decisions.insert(ban);
    }

    /// A ban of another guard's ledger that ends makes the next one longer here as well. While it is in force, its entry in the ledger
    /// would only take room.
    fn remember_foreign(&mut self, ban: &Ban) {
        if let (Origin::Node(_), Some(source)) = (&ban.origin, ban.key.source())
            && ban.reason != Reason::Operator
        {
            let both = crate::clock::both();
            self.ledger.remember_ban(source, ban.repeat, both.instant_at(ban.until), both.instant);
        }
    }

    /// What the table made of bans.
    fn applied(&mut self, kernel: Result<(), EdgeError>, displaced: impl IntoIterator<Item = Source>) {
        if let Err(error) = kernel {
            self.meter.bound_reached(Bound::KernelBans);
            tracing::error!(%error, "this ban is in force in user space only");
        }
        for displaced in displaced {
            self.meter.bound_reached(Bound::Bans);
            if let Some(ban) = self.decisions.remove(&displaced.into()) {
                self.remember_foreign(&ban);
                self.tell_ended(&[(ban, Lifted::Room)]);
            }
            tracing::warn!(source = self.text(&displaced.into()), "the ban that ended soonest made room for a new one");
        }
    }

    /// Ends what is over, keeps the store in step, forgets what no longer counts.
    pub(super) fn sweep(&mut self) {
        self.sweep_at(crate::clock::both());
    }

    /// Sweeps at `both`.
    pub(super) fn sweep_at(&mut self, both: Both) {
        if let Some(step) = self.wall.step(both) {
            self.follow_wall(step, &both);
        }
        self.take_from_store(&both);
        let users = self.counters.accounts.sweep(both.instant).into_iter().map(Key::from);
        let over = self.table.sweep(both.instant).into_iter().chain(users);
        let ended: Vec<_> = over.filter_map(|key| Some((self.decisions.remove(&key)?, Lifted::Over))).collect();
        for (ban, _) in &ended {
            match &ban.key {
                Key::User(user) => {
                    tracing::info!(user = printable(user.name().as_bytes()), "hold of a user ended");
                }
                key => tracing::info!(source = self.text(key), reason = ban.reason.label(), "ban ended"),
            }
        }
        ended.iter().for_each(|(ban, _)| self.remember_foreign(ban));
        if !self.upon.is_empty() {
            let decisions = &self.decisions;
            self.upon.retain(|key, _| decisions.get(key).is_some_and(|ban| ban.origin == Origin::Ledger));
        }
        self.tell_ended(&ended);
        // After it: what is over must not be put into a plane that was loaded.
        self.follow_kernel(&both);
        for key in std::mem::take(&mut self.unsaved) {
            match self.decisions.get(&key).cloned() {
                Some(ban) => self.save(&ban),
                None => self.unsave(key),
            }
        }
        for _ in 0..self.counters.accounts.take_evicted() {
            self.meter.bound_reached(Bound::Users);
        }
        self.tell_counts(both.instant);
        self.ledger.sweep(both.instant);
        self.count_evicted();
        self.sweeps = self.sweeps.wrapping_add(1);
        self.marks.sweep(both.instant, self.sweeps);
        if both.instant.since(self.written) >= persist::WRITE {
            self.written = both.instant;
            self.write_counters_now(&both);
        }
    }

    /// A kernel plane that was loaded meanwhile gets the bans in force. Each change is told once.
    fn follow_kernel(&mut self, both: &Both) {
        let found = look_at_kernel(&self.table, self.snapshot.config());
        let before = std::mem::replace(&mut self.kernel, found);
        match &self.kernel {
            Ok(Refreshed::Anew) => {
                tracing::warn!(bans = self.decisions.len(), "the kernel plane was loaded: it gets the bans in force");
                self.meter.tell(What::Kernel { loaded: true, text: "it gets the bans in force".to_owned() });
                let bans = self.decisions.values().map(|ban| (ban.clone(), both.instant_at(ban.until)));
                self.put_all(bans.collect(), both);
                self.adopt(both);
            }
            now if *now == before => {}
            Ok(Refreshed::Gone) => {
                tracing::warn!(
                    "the kernel plane is not loaded any more: bans are enforced in user space until it is loaded again"
                );
                self.meter.tell(What::Kernel { loaded: false, text: "it is not loaded any more".to_owned() });
            }
            Ok(Refreshed::Same) => {}
            Err(error) => {
                tracing::error!(error, "the kernel plane can't be used: bans are enforced in user space");
                self.meter.tell(What::Kernel { loaded: false, text: error.clone() });
            }
        }
    }

    /// Lifts the bans of `keys`, and forgets what was held against them.
    fn pardon(&mut self, keys: &[Key], why: Lifted, cause: Cause<'_>) {
        let pardoned = keys.iter().map(|key| gate::pardon(&mut self.ledger, &self.marks, key.clone(), why));
        let effects = pardoned.collect();
        self.perform(effects, cause);
    }

    fn save(&mut self, ban: &Ban) {
        self.save_all(vec![ban.clone()]);
    }

    fn save_all(&mut self, bans: Vec<Ban>) {
        let keys: Vec<_> = bans.iter().map(|ban| ban.key.clone()).collect();
        self.keep(bans.into_iter().map(|ban| Change::Save(Box::new(ban))).collect(), &keys);
    }

    fn unsave(&mut self, key: Key) {
        self.keep(vec![Change::Remove(key.clone())], &[key]);
    }

    /// Hands `changes`, about `keys`, to the store; where it has no room the next sweep does it.
    fn keep(&mut self, changes: Vec<Change>, keys: &[Key]) {
        if self.store.hand_over(changes, Duration::ZERO).is_err() {
            self.meter.bound_reached(Bound::Store);
            self.unsaved.extend(keys.iter().cloned());
        }
    }

    /// Says when all that was changed until now is on disk; `None`: not all of it can be handed over now.
    pub(super) fn written(&self) -> Option<oneshot::Receiver<()>> {
        self.unsaved.is_empty().then(|| self.store.written())
    }

    fn is_exempt(&self, key: &Key) -> bool {
        is_exempt(&self.snapshot, key)
    }

    fn prefix(&self) -> Ipv6Prefix {
        self.snapshot.config().limits.ipv6_prefix
    }

    fn text(&self, key: &Key) -> String {
        key.text(self.prefix())
    }
}

/// Whether a ban of `key` must not be. In a network there may be exempt addresses, which both planes let in.
fn is_exempt(snapshot: &Snapshot, key: &Key) -> bool {
    let prefix = snapshot.config().limits.ipv6_prefix;
    key.source().is_some_and(|source| snapshot.untouchable().touches(source, prefix))
}

/// Those of `decisions` that are about networks which hold `source`, the narrowest first. `any`: there are networks at all.
fn networks_of(decisions: &InForce, any: bool, prefix: Ipv6Prefix, source: Source) -> impl Iterator<Item = &Ban> {
    let around = Net::around(source, prefix).take_while(move |_| any);
    around.filter_map(|net| decisions.get(&net.into()))
}

/// What became of the kernel plane since the last look; the error in words, to be told once.
fn look_at_kernel(table: &BanTable, config: &Config) -> Result<Refreshed, String> {
    let found = table.kernel().map(|kernel| kernel.refresh(config));
    found.unwrap_or(Ok(Refreshed::Same)).map_err(|error| error.to_string())
}
