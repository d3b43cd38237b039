//! The greeting: held back from newcomers, because a client that speaks before it is no mail server (RFC 5321 3.1, 4.3.1).

use smtp_guard_ebpf::reason::Reason;

use super::{Details, Event, Output, Session, State, replies};
use crate::clock::Instant;
use crate::config::Mode;
use crate::offence::Conduct;

impl Session {
    /// Greets at once whom we know or trust, everybody else after `checks.greeting_delay`.
    pub(super) fn greet_in_time(&mut self, familiar: bool, out: &mut Vec<Output>) -> State {
        let delay = self.rules.config().checks.greeting_delay;
        let now = self.clock.instant;
        if delay.is_zero() || familiar || !self.rules.is_stranger(&self.client, self.role) {
            return self.greet(now, out);
        }
        self.deadline = now.after(delay);
        State::Greeting { watched: self.rules.config().checks.early_talker.is_on() }
    }

    pub(super) fn greet(&mut self, now: Instant, out: &mut Vec<Output>) -> State {
        let greeting = replies::greeting(&self.rules.config().hostname);
        self.reply(greeting, now, out)
    }

    pub(super) fn on_early_talk(&mut self, out: &mut Vec<Output>) -> State {
        if self.rules.config().checks.early_talker == Mode::Enforce {
            out.push(Output::Report(Conduct::Offence(Reason::EarlyTalker)));
            return self.refuse_and_close(Reason::EarlyTalker, replies::early_talker(), out);
        }
        let details = Details::default().heard(&replies::early_talker());
        out.push(Output::Event(Event::Observed { reason: Reason::EarlyTalker, details }));
        State::Greeting { watched: false }
    }
}
