//! What follows from a rule that tripped: for whom, for how long, on what evidence. The head of [`super::ledger`] says when.

use std::time::Duration;

use smtp_guard_ebpf::reason::Reason;

use super::entry::{Entry, Record};
use super::networks::Network;
use crate::addr::Source;
use crate::clock::Instant;
use crate::config::{Auth, Harvest};

/// The first deferral of a source with a history.
pub const DEFERRAL: Duration = Duration::from_secs(600);

/// What follows.
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
}

impl Entry {
    pub(super) fn record(&mut self) -> &mut Record {
        self.record.get_or_insert_default()
    }

    /// A ban, or for a source with a history a deferral, which doubles; and an empty window after it.
    pub(super) fn trip(
        &mut self,
        rule: &Harvest,
        source: Source,
        reason: Reason,
        evidence: Vec<String>,
        now: Instant,
    ) -> Verdict {
        let trusted = self.history.is_trusted();
        let record = self.record();
        let repeat = record.trip();
        let (target, first, most) = match trusted {
            false => (Target::Ban(source), rule.ban, rule.ban_max.max(rule.ban)),
            true => (Target::Defer(source), DEFERRAL.min(rule.ban), rule.ban),
        };
        let length = first.saturating_mul(1u32.checked_shl(repeat).unwrap_or(u32::MAX)).min(most);
        record.tripped_until = now.after(length);
        Verdict { target, reason, length, repeat, evidence }
    }

    /// The rule for failed logins; see the head of this file.
    pub(super) fn login_failed(&mut self, rule: &Auth, source: Source, now: Instant) -> Option<Verdict> {
        let failed = &mut self.record().failed_logins;
        failed.retain(|at| now.since(*at) < rule.failure_window);
        failed.push_back(now);
        if failed.len() < rule.failures as usize {
            return None;
        }
        failed.clear();
        let evidence = vec![format!("{} failed logins within {} s", rule.failures, rule.failure_window.as_secs())];
        let target = Target::Ban(source);
        Some(Verdict { target, reason: Reason::AuthFailures, length: rule.ban, repeat: 0, evidence })
    }
}
