//! A trip: what it makes of an entry, and what follows for its source; the head of [`super`] says it in words.

use std::time::Duration;

use smtp_guard_ebpf::reason::Reason;

use super::{Target, Verdict};
use crate::addr::Source;
use crate::clock::Instant;
use crate::config::{Auth, Harvest};
use crate::ledger::entry::{Entry, Record};
use crate::ledger::rule::Grounds;

/// The first deferral of a source.
pub const DEFERRAL: Duration = Duration::from_secs(600);
/// Deferrals in a row after which asking without sending is no matter of doubt any more. A mail server that verifies
/// senders does so now and then; a prober goes on.
const PROBES: u32 = 3;

impl Entry {
    pub(in crate::ledger) fn record(&mut self) -> &mut Record {
        self.record.get_or_insert_default()
    }

    /// Whether `grounds` are too weak for a ban.
    pub(super) fn is_in_doubt(&self, grounds: Grounds) -> bool {
        match grounds {
            Grounds::Harvest => false,
            Grounds::Doubt => true,
            // Others can provoke it: only who has never brought mail, and goes on after a deferral, does it himself.
            Grounds::Returned { probing } => self.history.is_known() || self.is_early(if probing { PROBES } else { 1 }),
            // Refused messages make it, and one customer of a provider can have messages refused.
            Grounds::Probing => self.history.is_known() || self.is_early(PROBES),
        }
    }

    /// Whether it was never banned, and deferred less than `doubts` times in a row.
    fn is_early(&self, doubts: u32) -> bool {
        let rare = self.record.as_ref().and_then(|record| record.rare.as_ref());
        rare.is_none_or(|rare| rare.trips == 0 && rare.doubts < doubts)
    }

    /// A ban, or for a source with a history or `in_doubt` a deferral, which doubles; and an empty window after it.
    pub(super) fn trip(
        &mut self,
        rule: &Harvest,
        source: Source,
        (reason, in_doubt): (Reason, bool),
        evidence: Vec<String>,
        now: Instant,
    ) -> Verdict {
        let deferred = in_doubt || self.is_trusted();
        let record = self.record();
        let repeat = record.trip(in_doubt);
        let (target, first, most) = match deferred {
            false => (Target::Ban(source), rule.ban, rule.ban_max.max(rule.ban)),
            true => (Target::Defer(source), DEFERRAL.min(rule.ban), rule.ban),
        };
        let length = first.saturating_mul(1u32.checked_shl(repeat).unwrap_or(u32::MAX)).min(most);
        record.rare().tripped_until = now.after(length);
        Verdict { target, reason, length, repeat, evidence }
    }

    /// The rule for failed logins.
    pub(super) fn login_failed(&mut self, rule: &Auth, source: Source, now: Instant) -> Option<Verdict> {
        let failed = &mut self.record().rare().failed_logins;
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
