//! Effects to kernel, table, log, metrics and store. Nothing is decided here.
//!
//! A ban goes to the kernel map first, then to the user-space table, which wakes the source's sessions. Then come the figure of
//! how long it took, log and metrics, and the store.

use std::time::Duration;

use super::Keeper;
use crate::addr::ClientAddr;
use crate::clock::{Both, Instant, Seconds};
use crate::decision::{Ban, Name, Operator, Origin};
use crate::events::What;
use crate::gate::{Deferred, Effect, Grounds, Lifted};
use crate::key::{Key, User, Who};
use crate::observe::log::{self, printable};
use crate::store::Change;

/// Bans that end together and are told one by one.
const SINGLY: usize = 16;

/// The cause of effects.
#[derive(Clone, Copy, Debug)]
pub(super) enum Cause<'a> {
    /// A report about this client, which came at this moment.
    Report(ClientAddr, Instant),
    /// What this guard has reported.
    Heard(&'a Name),
    /// An operator's command about this one, or about all.
    Command(Operator, Option<Who>),
    /// The configuration, or the store as it is read.
    State,
}

impl Cause<'_> {
    /// Who commanded it.
    fn by(self) -> Option<Operator> {
        match self {
            Self::Command(by, _) => Some(by),
            Self::Report(..) | Self::Heard(_) | Self::State => None,
        }
    }

    /// Whether it is of no concern to other guards.
    fn is_local(self) -> bool {
        self.by().is_some_and(|by| by.local)
    }
}

impl Keeper {
    /// Performs `effects` in their order. Lifts that follow one another are one batch, and so are bans that go on.
    pub(super) fn perform(&mut self, effects: Vec<Effect>, cause: Cause<'_>) {
        self.perform_at(effects, cause, &crate::clock::both());
    }

    /// Performs `effects` at `both`.
    pub(super) fn perform_at(&mut self, effects: Vec<Effect>, cause: Cause<'_>, both: &Both) {
        let mut effects = effects.into_iter().peekable();
        while let Some(effect) = effects.next() {
            match effect {
                Effect::Ban { key, origin, text, grounds } => self.ban(key, origin, text, grounds, cause, both),
                Effect::Resume { ban, until, saved } => {
                    let mut resumed = vec![(*ban, until)];
                    while let Some(Effect::Resume { ban, until, .. }) =
                        effects.next_if(|next| matches!(next, Effect::Resume { .. }))
                    {
                        resumed.push((*ban, until));
                    }
                    if !saved {
                        self.save_all(resumed.iter().map(|(ban, _)| ban.clone()).collect());
                    }
                    self.put_all(resumed, both);
                }
                Effect::Defer { whom, grounds } => self.defer(whom, &grounds, cause, both),
                Effect::Lift { key, why } => {
                    let mut lifted = vec![(key, why)];
                    while let Some(Effect::Lift { key, why }) =
                        effects.next_if(|next| matches!(next, Effect::Lift { .. }))
                    {
                        lifted.push((key, why));
                    }
                    lifted.iter().filter(|(key, _)| key.source().is_some()).for_each(|(key, _)| {
                        self.deferrals.forget(&key.text(self.snapshot.config().limits.ipv6_prefix));
                    });
                    self.tell_lifted(&lifted, cause, both);
                    self.end(&lifted);
                }
            }
        }
    }

    fn ban(&mut self, key: Key, origin: Origin, text: String, grounds: Grounds, cause: Cause<'_>, both: &Both) {
        let Grounds { reason, length, repeat, evidence } = grounds;
        let until = both.instant.after(length);
        let (text, evidence) = (text.into(), evidence.iter().collect());
        let ban = Ban { key, reason, origin, made: both.wall, until: both.wall_at(until), repeat, text, evidence };
        match &ban.key {
            Key::Source(source) => self.put(*source, ban.clone(), until),
            Key::Network(_) | Key::User(_) => self.put_all(vec![(ban.clone(), until)], both),
        }
        let took = match cause {
            Cause::Report(_, at) => {
                let took = crate::clock::now().since(at);
                self.meter.ban_latency(took);
                Some(took)
            }
            Cause::Command(..) | Cause::Heard(_) | Cause::State => None,
        };
        // The table had no room for it, and has said so.
        if !self.decisions.contains_key(&ban.key) {
            return;
        }
        match &ban.key {
            Key::User(user) => self.tell_hold(user, &ban, length, cause),
            Key::Source(_) | Key::Network(_) => self.tell_ban(&ban, length, took, cause),
        }
        self.save(&ban);
        match cause {
            Cause::Heard(node) => _ = self.upon.insert(ban.key.clone(), node.clone()),
            Cause::Report(..) | Cause::Command(..) | Cause::State => _ = self.upon.remove(&ban.key),
        }
        self.tell_peers(&ban, both);
    }

    /// Tells other guards of what an operator lifts.
    fn tell_lifted(&self, lifted: &[(Key, Lifted)], cause: Cause<'_>, both: &Both) {
        if cause.is_local() || !self.peers.are_there() {
            return;
        }
        for (key, _) in lifted.iter().filter(|(key, why)| *why == Lifted::Operator && key.user().is_none()) {
            let until = self.decisions.get(key).map_or(both.instant, |ban| both.instant_at(ban.until));
            self.peers.lifted(&self.text(key), *both, until);
        }
    }

    /// Out of decisions, table, kernel map and store.
    fn end(&mut self, lifted: &[(Key, Lifted)]) {
        let keys: Vec<_> = lifted.iter().map(|(key, _)| key.clone()).collect();
        if let Err(error) = self.lift(&keys) {
            let (first, keys) = (keys.first().map(|key| self.text(key)), keys.len());
            tracing::error!(%error, first, keys, "bans can't be lifted in the kernel");
        }
        let mut ended = Vec::new();
        for (key, why) in lifted {
            let ban = self.decisions.remove(key);
            if ban.is_some() && *why == Lifted::Exempt {
                tracing::info!(source = self.text(key), "ban lifted: the source is exempt now");
            }
            ended.extend(ban.map(|ban| (ban, *why)));
        }
        self.keep(keys.iter().cloned().map(Change::Remove).collect(), &keys);
        self.tell_ended(&ended);
    }

    /// Tells subscribers of bans that ended together: of the first ones each, and how many more there were. That a user is
    /// released is told by who does it.
    pub(super) fn tell_ended(&self, ended: &[(Ban, Lifted)]) {
        let ended: Vec<_> = ended.iter().filter(|(ban, _)| ban.key.user().is_none()).collect();
        for (ban, why) in ended.iter().take(SINGLY) {
            let (source, reason) = (self.text(&ban.key), ban.reason.label().into());
            self.meter.tell(What::Lifted { source, reason, why: why.label().into() });
        }
        if let Some((_, why)) = ended.get(SINGLY) {
            let count = (ended.len() - SINGLY) as u64;
            self.meter.tell(What::LiftedMore { count, why: why.label().into() });
        }
    }

    /// How `key` is called in what is told: as the client or the operator knows it.
    fn called(&self, key: &Key, cause: Cause<'_>) -> String {
        match cause {
            Cause::Report(client, _) if *key == Key::Source(client.source(self.prefix())) => client.ip().to_string(),
            Cause::Command(_, Some(who)) => who.to_string(),
            _ => self.text(key),
        }
    }

    fn tell_hold(&self, user: &User, ban: &Ban, length: Duration, cause: Cause<'_>) {
        let (by, length) = (cause.by().unwrap_or_default(), (length != Duration::MAX).then_some(length));
        log::held_by_operator(by, user.name(), length, &ban.text);
        self.meter.tell(What::UserHeld {
            user: printable(user.name().as_bytes()),
            reason: ban.reason.label().into(),
            source: None,
            duration_seconds: length.map(|length| length.as_secs()),
            text: printable(ban.text.as_bytes()),
        });
    }

    pub(super) fn tell_ban(&self, ban: &Ban, length: Duration, took: Option<Duration>, cause: Cause<'_>) {
        let by = cause.by();
        let (who, source) = (self.called(&ban.key, cause), self.text(&ban.key));
        log::banned(
            self.snapshot.config().log.format,
            &log::Banned { ban, who: &who, source: &source, length, took, by },
        );
        self.meter.tell(What::Banned {
            source: self.text(&ban.key),
            reason: ban.reason.label().into(),
            origin: ban.origin.label().into(),
            text: printable(ban.text.as_bytes()),
            duration_seconds: length.as_secs(),
            repeat: ban.repeat,
            took_seconds: took.map(Seconds),
            evidence: ban.evidence.iter().map(|line| printable(line.as_bytes())).collect(),
        });
    }

    /// What it says to sessions is said already.
    fn defer(&mut self, whom: Deferred, grounds: &Grounds, cause: Cause<'_>, both: &Both) {
        match whom {
            Deferred::Source(source) => self.deferrals.note(self.text(&source.into()), grounds, both),
            Deferred::Network(network) => self.deferrals.note(network.text(), grounds, both),
            // One sender of a source: the source isn't shown as deferred.
            Deferred::Sender(..) => {}
        }
        self.tell_deferral(whom, grounds, cause);
    }

    fn tell_deferral(&self, whom: Deferred, grounds: &Grounds, cause: Cause<'_>) {
        let Grounds { reason, length, repeat, evidence: lines } = grounds;
        let who = match whom {
            Deferred::Source(source) => self.called(&source.into(), cause),
            Deferred::Network(network) => network.text(),
            Deferred::Sender(source, _) => format!("one sender by {}", self.called(&source.into(), cause)),
        };
        log::deferred(self.snapshot.config().log.format, &who, grounds);
        self.meter.tell(What::Deferred {
            source: who,
            reason: reason.label().into(),
            duration_seconds: length.as_secs(),
            repeat: *repeat,
            evidence: escaped(lines),
        });
    }
}

fn escaped(lines: &[String]) -> Vec<String> {
    lines.iter().map(|line| printable(line.as_bytes())).collect()
}
