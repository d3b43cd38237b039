//! The commands, as they are answered in the state [`State::Ready`].

use std::time::Duration;

use smtp_guard_ebpf::reason::Reason;

use std::sync::Arc;

use super::{Details, Output, Question, Request, Session, Speaker, State, Transaction, replies};
use crate::clock::Instant;
use crate::offence::Conduct;
use crate::policy::{Refusal, Ruling};
use crate::wire::command::{Command, CommandError, Helo};
use crate::wire::envelope::{MailFrom, RcptTo};
use crate::wire::line::LineFlaw;
use crate::wire::reply::Reply;

impl Session {
    pub(super) fn on_command(
        &mut self,
        command: Result<Command, CommandError>,
        more: bool,
        now: Instant,
        out: &mut Vec<Output>,
    ) -> State {
        let command = match command {
            Ok(command) => command,
            Err(error) => return self.on_bad_command(&error, now, out),
        };
        if let Some(body) = self.transaction.as_mut().and_then(|transaction| transaction.chunks.body_mut()) {
            body.heard(now);
        }
        match command {
            Command::Ehlo(_) | Command::Helo(_) | Command::Data | Command::StartTls | Command::Auth(_) if more => {
                self.pipelined(out)
            }
            Command::Ehlo(helo) => self.on_helo(helo, true, now, out),
            Command::Helo(helo) => self.on_helo(helo, false, now, out),
            Command::Mail(mail) => self.on_mail(mail, now, out),
            Command::Rcpt(rcpt) => self.on_rcpt(rcpt, now, out),
            Command::Data => self.on_data(now, out),
            Command::Rset => match self.junk(out) {
                Some(end) => end,
                None => self.abandon(replies::reset(), now, out),
            },
            Command::Noop => self.idle(replies::noop(), now, out),
            Command::Vrfy => self.idle(replies::vrfy(), now, out),
            Command::Help => self.idle(replies::help(), now, out),
            Command::Quit => {
                self.abandon_recipients(out);
                match self.transaction {
                    Some(_) => self.reset_transaction(Some(Request::Drop), out),
                    None => out.push(Output::Request(Request::Quit)),
                }
                out.push(Output::Reply(replies::bye()));
                out.push(Output::Close);
                State::Closed
            }
            Command::Bdat(chunk) => self.on_bdat(chunk, now, out),
            Command::Xclient => self.protocol(replies::not_permitted(), now, out),
            Command::StartTls => self.on_starttls(now, out),
            Command::Auth(auth) => self.on_auth(auth, now, out),
            Command::Expn => self.protocol(replies::not_implemented(), now, out),
        }
    }

    fn on_helo(&mut self, helo: Helo, esmtp: bool, now: Instant, out: &mut Vec<Output>) -> State {
        if self.speaker.is_some()
            && let Some(end) = self.junk(out)
        {
            return end;
        }
        let reply =
            if esmtp { self.offer().reply(&self.backend) } else { replies::helo(&self.rules.config().hostname) };
        let login = self.speaker.as_ref().and_then(|speaker| speaker.login.clone());
        self.speaker = Some(Arc::new(Speaker { helo, esmtp, login }));
        let state = self.abandon(reply, now, out);
        if matches!(state, State::Ready) {
            self.connect_early(out);
        }
        state
    }

    /// Has the way to the backend opened beside the client's next round trip, where mail is likely to follow: for those who have
    /// sent some before, and hosts of ours. A newcomer causes no connection before MAIL.
    fn connect_early(&self, out: &mut Vec<Output>) {
        let Some(speaker) = &self.speaker else { return };
        let likely = self.is_known_sender() || !self.rules.is_stranger(&self.client, self.role);
        if self.rules.config().backend.connect_early && likely && self.not_yet(speaker).is_none() {
            out.push(Output::Connect(Arc::clone(speaker)));
        }
    }

    fn on_mail(&mut self, mail: MailFrom, now: Instant, out: &mut Vec<Output>) -> State {
        let Some(speaker) = self.speaker.clone() else {
            return self.protocol(replies::helo_first(), now, out);
        };
        if let Some(reply) = self.not_yet(&speaker) {
            return self.protocol(reply, now, out);
        }
        if self.transaction.is_some() {
            return self.protocol(replies::nested_mail(), now, out);
        }
        self.excused = self.rules.config().limits.recipients.saturating_add(1);
        let (uses, offer) = (mail.uses(), self.offer());
        let offered = self.backend.takes(uses)
            && (offer.auth || !uses.auth)
            && (offer.requiretls || !uses.requiretls)
            && (self.backend.eight_bit_mime || !uses.smtputf8);
        if uses.parameters && !(speaker.esmtp && offered) {
            return self.protocol(replies::unknown_parameter(), now, out);
        }
        match self.rules.mail(&self.client, mail.size) {
            Ruling::Permit(permit) => {
                self.ahead.begin(&mail, self.rules.digest(&mail.path.to_string().to_lowercase()));
                self.ask(Question::Mail(mail.clone()), Request::Mail(mail, permit, speaker), now, out)
            }
            Ruling::Refuse(Refusal { reason, reply }) => {
                let details = Details { sender: Some(mail.path.to_string()), ..Details::default() };
                self.refuse(reason, details, reply, Duration::ZERO, now, out)
            }
        }
    }

    fn on_rcpt(&mut self, rcpt: RcptTo, now: Instant, out: &mut Vec<Output>) -> State {
        let Some(transaction) = &self.transaction else {
            return self.without_mail(now, out);
        };
        if transaction.lost {
            return self.set_back(replies::backend_lost(), Duration::ZERO, now, out);
        }
        if transaction.chunks.began() {
            return self.protocol(replies::message_began(), now, out);
        }
        let uses = rcpt.uses();
        if uses.smtputf8 && !transaction.smtputf8 {
            return self.protocol(CommandError::NeedsSmtpUtf8.reply(), now, out);
        }
        let esmtp = self.speaker.as_ref().is_some_and(|speaker| speaker.esmtp);
        if uses.parameters && !(esmtp && self.backend.takes(uses)) {
            return self.protocol(replies::unknown_parameter(), now, out);
        }
        self.consult(rcpt, now, out)
    }

    /// RCPT, DATA or BDAT without a transaction. Behind a MAIL that failed it isn't held against the client: that may have been
    /// trouble of ours.
    pub(super) fn without_mail(&mut self, now: Instant, out: &mut Vec<Output>) -> State {
        let Some(left) = self.excused.checked_sub(1) else {
            return self.protocol(replies::mail_first(), now, out);
        };
        // The refusal of MAIL stands in the log already.
        self.excused = left;
        self.set_back(replies::mail_first(), Duration::ZERO, now, out)
    }

    /// A recipient that doesn't exist: told late, and told to the ledger at once.
    pub(super) fn unknown_recipient(
        &mut self,
        rcpt: &RcptTo,
        reply: Reply,
        now: Instant,
        out: &mut Vec<Output>,
    ) -> State {
        // A host of ours stays one after a failed login, for this.
        let own = self.rules.is_own(&self.client) || self.rules.client(self.addr.ip()).may_relay;
        out.push(Output::Report(if own {
            // A user who names colleagues that have left is counted and shown, and never a harvester.
            Conduct::Offence(Reason::UnknownRecipient)
        } else {
            Conduct::UnknownRecipient { recipient: rcpt.path.key().into(), returned: self.is_returned() }
        }));
        let details = self.envelope(rcpt);
        let delay = if self.client.authenticated { Duration::ZERO } else { self.rules.config().harvest.delay };
        if self.accepted_messages > 0 {
            // A sender whose mail was accepted in this session isn't made to fail over a stale address.
            let details = details.heard(&reply);
            out.push(Output::Event(super::Event::Refused { reason: Reason::UnknownRecipient, details }));
            return self.set_back(reply, delay, now, out);
        }
        self.refuse(Reason::UnknownRecipient, details, reply, delay, now, out)
    }

    /// Whether the mail is one that others provoke by forging our name: a notification, or one under the names that older
    /// servers send them by.
    pub(super) fn is_returned(&self) -> bool {
        let sender = self.transaction.as_ref().map_or("", |transaction| transaction.sender.as_str());
        let local = sender.trim_start_matches('<').rsplit_once('@').map_or("", |(local, _)| local);
        sender == "<>"
            || ["mailer-daemon", "postmaster", "double-bounce"].iter().any(|name| local.eq_ignore_ascii_case(name))
    }

    pub(super) fn envelope(&self, rcpt: &RcptTo) -> Details {
        Details { recipient: Some(rcpt.path.to_string()), ..self.sender() }
    }

    pub(super) fn sender(&self) -> Details {
        let sender = self.transaction.as_ref().map(|transaction| transaction.sender.clone());
        Details { sender, ..Details::default() }
    }

    fn on_data(&mut self, now: Instant, out: &mut Vec<Output>) -> State {
        match &self.transaction {
            None => self.without_mail(now, out),
            Some(transaction) if transaction.chunks.began() => self.protocol(replies::message_began(), now, out),
            Some(Transaction { lost: true, .. }) => {
                self.reset_transaction(None, out);
                self.set_back(replies::backend_lost(), Duration::ZERO, now, out)
            }
            Some(Transaction { trapped: true, .. }) => {
                // Also for those that were accepted: who writes to a trap has a list that was gathered.
                let details = self.sender();
                self.reset_transaction(Some(Request::Drop), out);
                self.refuse(Reason::Trap, details, replies::trapped(), Duration::ZERO, now, out)
            }
            Some(Transaction { accepted: 0, .. }) => {
                self.refuse(Reason::Protocol, self.sender(), replies::no_recipients(), Duration::ZERO, now, out)
            }
            Some(_) => self.ask(Question::Data { chunked: false }, Request::Data, now, out),
        }
    }

    /// Ends a transaction without a message, then answers `reply`.
    pub(super) fn abandon(&mut self, reply: Reply, now: Instant, out: &mut Vec<Output>) -> State {
        self.abandon_recipients(out);
        match &self.transaction {
            Some(transaction) if transaction.lost => {
                self.reset_transaction(None, out);
                self.reply(reply, now, out)
            }
            Some(transaction) if transaction.chunks.allow_reset() => {
                self.ask(Question::Reset(reply), Request::Reset, now, out)
            }
            // Within message data RSET would be text.
            _ => {
                self.reset_transaction(Some(Request::Drop), out);
                self.reply(reply, now, out)
            }
        }
    }

    fn on_bad_command(&mut self, error: &CommandError, now: Instant, out: &mut Vec<Output>) -> State {
        if matches!(error, CommandError::Line(flaw) if *flaw != LineFlaw::TooLong) {
            self.flaws += 1;
            if self.flaws > 1 {
                out.push(Output::Report(Conduct::Offence(Reason::Protocol)));
                return self.refuse_and_close(Reason::Protocol, error.reply(), out);
            }
        }
        if *error == CommandError::Chunk {
            // Its payload follows, and nobody knows how long it is.
            return self.refuse_and_close(Reason::Protocol, error.reply(), out);
        }
        if error.is_other_protocol() {
            out.push(Output::Report(Conduct::Offence(Reason::NonSmtp)));
            return self.refuse_and_close(Reason::NonSmtp, replies::not_smtp(), out);
        }
        self.refuse(Reason::Protocol, Details::note(error.to_string()), error.reply(), Duration::ZERO, now, out)
    }

    pub(super) fn protocol(&mut self, reply: Reply, now: Instant, out: &mut Vec<Output>) -> State {
        self.refuse(Reason::Protocol, Details::default(), reply, Duration::ZERO, now, out)
    }

    fn pipelined(&mut self, out: &mut Vec<Output>) -> State {
        out.push(Output::Report(Conduct::Offence(Reason::Pipelining)));
        self.refuse_and_close(Reason::Pipelining, replies::pipelining(), out)
    }

    fn idle(&mut self, reply: Reply, now: Instant, out: &mut Vec<Output>) -> State {
        match self.junk(out) {
            Some(end) => end,
            None => self.reply(reply, now, out),
        }
    }

    /// Counts a command that leads nowhere; the end of the session when there were too many.
    pub(super) fn junk(&mut self, out: &mut Vec<Output>) -> Option<State> {
        self.junk += 1;
        if self.junk <= self.rules.config().limits.junk_commands || self.client.exempt {
            return None;
        }
        out.push(Output::Report(Conduct::Offence(Reason::JunkCommands)));
        Some(self.refuse_and_close(Reason::JunkCommands, replies::junk_commands(), out))
    }
}
