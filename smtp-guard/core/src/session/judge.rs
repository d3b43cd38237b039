//! A recipient before the backend is asked: relay, then what has to be found out, then the rest of the rules.

use std::time::Duration;

use smtp_guard_ebpf::reason::Reason;

use super::{Details, Event, Facts, Output, Question, Request, Session, State, replies};
use crate::clock::Instant;
use crate::offence::Conduct;
use crate::policy::checks::{Finding, Found};
use crate::policy::{Refusal, Ruling, Standing};
use crate::wire::envelope::RcptTo;

/// How much later than the look-ups' own deadline the driver may be with them.
const SLACK: Duration = Duration::from_secs(5);

impl Session {
    /// Judges `rcpt`, or asks for what it is to be judged by. What can never work is said before anything is looked up.
    pub(super) fn consult(&mut self, rcpt: RcptTo, now: Instant, out: &mut Vec<Output>) -> State {
        if let Some(refusal) = self.rules.relay(&self.client, &rcpt.path) {
            return self.refuse_recipient(&rcpt, refusal, now, out);
        }
        if self.client.exempt || self.rules.is_postmaster(&rcpt.path) {
            return self.judge(rcpt, false, now, out);
        }
        let known = self.judged().is_some() || self.ahead.found().is_some();
        let stranger = self.rules.is_stranger(&self.client, self.role);
        self.deadline = now.after(self.rules.config().dns.timeout + SLACK);
        let recipient = stranger.then(|| rcpt.path.key().into());
        out.push(Output::Consult { lookups: stranger && !known, recipient, sender: self.sender_digest() });
        State::Consulting(rcpt)
    }

    pub(super) fn on_facts(&mut self, rcpt: RcptTo, facts: &Facts, now: Instant, out: &mut Vec<Output>) -> State {
        // Meanwhile the backend may have gone.
        if self.transaction.as_ref().is_some_and(|transaction| transaction.lost) {
            return self.set_back(replies::backend_lost(), Duration::ZERO, now, out);
        }
        // Users and hosts of ours don't wait for what a stranger at the same address did.
        if facts.deferred && self.rules.is_stranger(&self.client, self.role) {
            let reply = replies::deferred();
            let details = self.envelope(&rcpt).heard(&reply);
            out.push(Output::Event(Event::Refused { reason: Reason::Deferred, details }));
            return self.set_back(reply, self.rules.config().harvest.delay, now, out);
        }
        let earlier = self.ahead.found().filter(|_| self.judged().is_none());
        if let Some(found) = facts.found.as_ref().or(earlier).cloned() {
            self.weigh(&rcpt, &found, out);
        }
        match self.judged().cloned().flatten() {
            Some(Finding { reason, reply, note, .. }) => {
                let details = Details { note, ..self.envelope(&rcpt) };
                self.refuse(reason, details, reply, Duration::ZERO, now, out)
            }
            None => self.judge(rcpt, facts.unknown, now, out),
        }
    }

    /// The finding of the checks in this transaction, once they were asked.
    pub(super) fn judged(&self) -> Option<&Option<Finding>> {
        self.transaction.as_ref().and_then(|transaction| transaction.judged.as_ref())
    }

    /// `rcpt` as the backend is asked for it.
    pub(super) fn without_privileges(&self, rcpt: RcptTo) -> RcptTo {
        if self.rules.grants_notices(&self.client) { rcpt } else { rcpt.without_success_notice() }
    }

    /// Takes down once for the transaction what the checks make of `found`.
    fn weigh(&mut self, rcpt: &RcptTo, found: &Found, out: &mut Vec<Output>) {
        let mut refusal = None;
        for finding in self.rules.judge(&self.client, self.role, found) {
            if finding.enforced && refusal.is_none() {
                refusal = Some(finding);
            } else {
                let details = Details { note: finding.note, ..self.envelope(rcpt).heard(&finding.reply) };
                out.push(Output::Event(Event::Observed { reason: finding.reason, details }));
            }
        }
        if let Some(transaction) = &mut self.transaction {
            transaction.judged = Some(refusal);
        }
    }

    /// The rules that need nothing but themselves; then the backend is asked, unless it is known what it would say.
    fn judge(&mut self, rcpt: RcptTo, unknown: bool, now: Instant, out: &mut Vec<Output>) -> State {
        let accepted = self.transaction.as_ref().map_or(0, |transaction| transaction.accepted);
        match self.rules.recipient(&self.client, &rcpt.path, accepted) {
            Ruling::Permit((_, Standing::Open)) if unknown => {
                self.refuse_recipient(&rcpt, Refusal::unknown_recipient(&rcpt.path), now, out)
            }
            Ruling::Permit((permit, standing)) => {
                let rcpt = self.without_privileges(rcpt);
                self.ask(Question::Rcpt(rcpt.clone(), standing), Request::Rcpt(rcpt, permit), now, out)
            }
            Ruling::Refuse(refusal) => self.refuse_recipient(&rcpt, refusal, now, out),
        }
    }

    /// Source or user has sent as much as it may for now: what was asked wasn't passed on.
    pub(super) fn on_over_rate(
        &mut self,
        question: Question,
        reason: Reason,
        now: Instant,
        out: &mut Vec<Output>,
    ) -> State {
        let reply = replies::over_rate(reason);
        if self.ahead.is_asked() {
            // Told at once, or never: by now others were asked behind it.
            return State::Asked(question);
        }
        match question {
            Question::Rcpt(rcpt, _) => self.refuse_recipient(&rcpt, Refusal { reason, reply }, now, out),
            Question::Mail(mail) => {
                let details = Details { sender: Some(mail.path.to_string()), ..self.user(reason) };
                self.refuse(reason, details, reply, Duration::ZERO, now, out)
            }
            // Nothing else is limited.
            question => State::Asked(question),
        }
    }

    /// The logged-in user, where a refusal is about the user.
    fn user(&self, reason: Reason) -> Details {
        match self.login() {
            Some(user) if reason.is_of_user() => Details::note(format!("user={user}")),
            _ => Details::default(),
        }
    }

    fn refuse_recipient(&mut self, rcpt: &RcptTo, refusal: Refusal, now: Instant, out: &mut Vec<Output>) -> State {
        let Refusal { reason, reply } = refusal;
        let details = Details { note: self.user(reason).note, ..self.envelope(rcpt) };
        match reason {
            Reason::UnknownRecipient => return self.unknown_recipient(rcpt, reply, now, out),
            // Mail that was forged in the trap's own name comes back to it.
            Reason::Trap if self.is_returned() => return self.unknown_recipient(rcpt, reply, now, out),
            Reason::Trap => {
                if let Some(transaction) = &mut self.transaction {
                    transaction.trapped = true;
                }
                out.push(Output::Report(Conduct::Trap {
                    recipient: rcpt.path.key().into(),
                    sender: self.sender_digest(),
                }));
                let delay = self.rules.config().harvest.delay;
                return self.refuse(reason, details, reply, delay, now, out);
            }
            Reason::Recipients | Reason::UserRecipientRate if self.is_surplus_fair() => {
                out.push(Output::Event(Event::Refused { reason, details: details.heard(&reply) }));
                return self.reply(reply, now, out);
            }
            _ => {}
        }
        if reply.code().class() == 5 {
            out.push(Output::Report(Conduct::Offence(reason)));
        }
        self.refuse(reason, details, reply, Duration::ZERO, now, out)
    }

    /// Whether one more recipient that there is no room for may be asked for free: as many as there was room for.
    fn is_surplus_fair(&mut self) -> bool {
        let limit = self.rules.config().limits.recipients;
        self.transaction.as_mut().is_some_and(|transaction| {
            transaction.surplus = transaction.surplus.saturating_add(1);
            transaction.surplus <= limit
        })
    }
}
