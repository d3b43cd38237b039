//! What the operator sees and does by hand.

use std::collections::HashSet;
use std::net::IpAddr;
use std::time::Duration;

use smtp_guard_ebpf::reason::Reason;

use super::Keeper;
use tokio::sync::oneshot;

use crate::clock::Instant;
use crate::decision::ControlError;
use crate::decision::{Ban, Decision, Origin};
use crate::observe::log::{self, printable};
use crate::rates::accounts::{AccountView, Hold, User};

impl Keeper {
    pub(in crate::feedback) fn decisions(&self) -> Vec<Decision> {
        let both = crate::clock::both();
        let mut bans: Vec<_> = self.decisions.values().collect();
        bans.sort_by_key(|ban| (ban.until, ban.source));
        let bans = bans.into_iter().map(|ban| Decision::of(ban, self.prefix()));
        let (sources, networks) = self.marks.deferred(both.instant);
        let sources = sources.into_iter().map(|(source, until)| (self.text(source), until));
        let networks = networks.into_iter().map(|(network, until)| (network.text(), until));
        let deferrals = sources.chain(networks).map(|(who, until)| Decision::deferral(who, &both, until));
        bans.chain(deferrals).collect()
    }

    pub(in crate::feedback) fn latest(&self) -> Vec<Decision> {
        let bans = self.latest.sources().filter_map(|source| self.decisions.get(&source));
        bans.map(|ban| Decision::of(ban, self.prefix())).collect()
    }

    pub(in crate::feedback) fn add(
        &mut self,
        ip: IpAddr,
        length: Duration,
        text: String,
    ) -> Result<Decision, ControlError> {
        let source = self.prefix().source(ip);
        if self.is_exempt(source) {
            return Err(ControlError::Exempt { ip });
        }
        let both = crate::clock::both();
        let until = both.instant.after(length);
        let ban = Ban {
            source,
            reason: Reason::Operator,
            origin: Origin::Operator,
            made: both.wall,
            until: both.wall_at(until),
            repeat: 0,
            text,
            evidence: Vec::new(),
        };
        self.put(ban.clone(), until);
        self.announce(&ban, &ip.to_string(), length, None);
        self.save(&ban);
        Ok(Decision::of(&ban, self.prefix()))
    }

    pub(in crate::feedback) fn delete(&mut self, ip: IpAddr) -> Option<Decision> {
        let source = self.prefix().source(ip);
        let both = crate::clock::both();
        let deferred = self.marks.of(source, both.instant).deferred_until;
        let ban = self.decisions.remove(&source);
        self.forget(source);
        self.meter.bans_active(self.decisions.len());
        let lifted = match (ban, deferred) {
            (Some(ban), _) => Decision::of(&ban, self.prefix()),
            (None, Some(until)) => Decision::deferral(self.text(source), &both, until),
            (None, None) => return None,
        };
        tracing::info!(source = lifted.source, reason = lifted.reason, "decision lifted by the operator");
        Some(lifted)
    }

    /// Holds `user`; also what resolves when that is on disk.
    pub(in crate::feedback) fn hold(
        &mut self,
        user: User,
        length: Option<Duration>,
        text: String,
    ) -> Result<(AccountView, oneshot::Receiver<()>), ControlError> {
        let both = crate::clock::both();
        let until = length.map_or(Instant::NEVER, |length| both.instant.after(length));
        let hold = Hold { since: both.instant, until, text: text.clone() };
        self.counters.accounts.hold(user.clone(), hold).map_err(|_| ControlError::TooManyHolds)?;
        self.save_hold(user.clone(), &both);
        self.meter.user_held(Reason::UserHeld);
        log::held_by_operator(user.name(), length.map(|length| length.as_secs()), &text);
        let view = self.counters.accounts.view(&self.snapshot.config().limits, &user, &both);
        view.map(|view| (view, self.store.written())).ok_or(ControlError::TooManyHolds)
    }

    /// Forgets what is counted of `user` and his hold; what was known of him.
    pub(in crate::feedback) fn release(&mut self, user: &User) -> Option<(AccountView, oneshot::Receiver<()>)> {
        let both = crate::clock::both();
        let view = self.counters.accounts.view(&self.snapshot.config().limits, user, &both);
        let known = self.counters.accounts.release(user);
        self.save_hold(user.clone(), &both);
        if known {
            // Of a release, a crash must not cost more than of a hold.
            self.write_counters_now(&both);
            tracing::info!(user = printable(user.name().as_bytes()), "user released by the operator");
        }
        view.map(|view| (view, self.store.written()))
    }

    pub(in crate::feedback) fn delete_all(&mut self) -> usize {
        let (deferred, networks) = self.marks.deferred(crate::clock::now());
        let sources: HashSet<_> = self.decisions.keys().copied().chain(deferred.iter().map(|(s, _)| *s)).collect();
        let lifted = sources.len() + networks.len();
        for source in sources {
            self.decisions.remove(&source);
            self.forget(source);
        }
        self.marks.pardon_networks();
        self.meter.bans_active(0);
        tracing::info!(decisions = lifted, "all decisions lifted by the operator");
        lifted
    }
}
