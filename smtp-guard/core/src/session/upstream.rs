//! The backend's answers to the envelope.

use std::time::Duration;

use smtp_guard_ebpf::reason::Reason;

use super::chunks::Chunks;
use super::{
    Details, Event, Heard, LISTED, LOST_DELAY, Lost, Output, Question, Request, Session, State, Transaction, Upstream,
    body, received, replies,
};
use crate::clock::Instant;
use crate::offence::Conduct;
use crate::policy::Standing;
use crate::wire::envelope::RcptTo;
use crate::wire::reply::Reply;

impl Session {
    pub(super) fn on_answer(
        &mut self,
        question: Question,
        word: Upstream,
        now: Instant,
        out: &mut Vec<Output>,
    ) -> State {
        let (question, word) = match (question, word) {
            (Question::Auth(user), word) => return self.on_auth_verdict(user, &word, now, out),
            (question, word) => (question, word),
        };
        let word = word.usable();
        if matches!(question, Question::Rcpt(..)) && self.login().is_some() {
            let accepted = word.as_ref().is_ok_and(|reply| reply.code().class() == 2);
            out.push(Output::Settled { accepted });
        }
        let reply = match word {
            Ok(reply) => reply,
            Err(lost) => return self.on_lost(question, lost, now, out),
        };
        match (question, reply.code().class()) {
            (Question::Reset(answer), 2) => {
                self.reset_transaction(None, out);
                self.reply(answer, now, out)
            }
            (question @ Question::Reset(_), _) => self.on_lost(question, Lost::Protocol, now, out),
            (Question::Mail(mail), 2) => {
                self.excused = 0;
                self.transaction = Some(Transaction {
                    digest: self.rules.digest(&mail.path.to_string().to_lowercase()),
                    sender: mail.path.to_string(),
                    accepted: 0,
                    listed: Vec::new(),
                    began: now,
                    unsent: Vec::new(),
                    judged: None,
                    surplus: 0,
                    smtputf8: mail.smtputf8,
                    trapped: false,
                    lost: false,
                    chunks: Chunks::default(),
                });
                self.reply(reply, now, out)
            }
            (Question::Rcpt(rcpt, standing), 2) => {
                let recipient = (standing == Standing::Open).then(|| self.rules.digest(&rcpt.path.user_key()));
                if let Some(transaction) = &mut self.transaction {
                    transaction.accepted += 1;
                    if transaction.listed.len() < LISTED {
                        transaction.listed.push(rcpt.path.to_string());
                    }
                    transaction.unsent.extend(recipient);
                }
                if let Some(recipient) = recipient {
                    out.push(Output::Report(Conduct::KnownRecipient { recipient }));
                }
                self.heard(&rcpt, false, out);
                self.reply(reply, now, out)
            }
            (Question::Data { chunked }, 3) => match received::header(self, now) {
                Some(header) => {
                    if !chunked {
                        out.push(Output::Reply(replies::start_data()));
                    }
                    out.push(Output::Request(Request::Body(header)));
                    self.begin_body(now)
                }
                None => self.on_lost(Question::Data { chunked }, Lost::Protocol, now, out),
            },
            (Question::Rcpt(rcpt, standing), 4 | 5) => self.on_rcpt_refused(&rcpt, standing, reply, now, out),
            (Question::Mail(mail), 4 | 5) => {
                let details = Details { sender: Some(mail.path.to_string()), ..Details::default() };
                self.backend_refused(details, reply, now, out)
            }
            (Question::Data { chunked }, 4 | 5) => {
                let details = Details { note: "DATA".to_owned(), ..self.sender() };
                if reply.code().class() == 5 {
                    // Its recipients were asked for, and get nothing.
                    self.abandon_recipients(out);
                }
                if chunked {
                    out.push(Output::Event(Event::Refused { reason: Reason::Backend, details: details.heard(&reply) }));
                    out.push(Output::Request(Request::Drop));
                    return self.skip_refused(reply, now);
                }
                self.reset_transaction(Some(Request::Drop), out);
                self.backend_refused(details, reply, now, out)
            }
            (question, _) => self.on_lost(question, Lost::Protocol, now, out),
        }
    }

    fn on_rcpt_refused(
        &mut self,
        rcpt: &RcptTo,
        standing: Standing,
        reply: Reply,
        now: Instant,
        out: &mut Vec<Output>,
    ) -> State {
        let recipient = rcpt.path.to_string();
        let recipient = recipient.trim_start_matches('<').trim_end_matches('>');
        // Also where the backend is held for one that takes any recipient: a clear refusal outweighs that.
        let unknown = standing != Standing::Postmaster && self.rules.says_unknown(&reply, recipient);
        if unknown {
            if self.rules.is_stranger(&self.client, self.role) {
                self.heard(rcpt, true, out);
            }
            return self.unknown_recipient(rcpt, reply, now, out);
        }
        self.backend_refused(self.envelope(rcpt), reply, now, out)
    }

    fn heard(&self, rcpt: &RcptTo, unknown: bool, out: &mut Vec<Output>) {
        if let Some(transaction) = &self.transaction {
            let sender = transaction.digest;
            out.push(Output::Heard(Heard { recipient: rcpt.path.key().into(), sender, unknown }));
        }
    }

    /// Passes a refusal on. Only a permanent one is held against the client, and only until a message was accepted.
    fn backend_refused(&mut self, details: Details, reply: Reply, now: Instant, out: &mut Vec<Output>) -> State {
        if reply.code().class() == 5 && self.accepted_messages == 0 {
            return self.refuse(Reason::Backend, details, reply, Duration::ZERO, now, out);
        }
        out.push(Output::Event(Event::Refused { reason: Reason::Backend, details: details.heard(&reply) }));
        self.set_back(reply, Duration::ZERO, now, out)
    }

    /// The backend is lost while it was asked: a 4xx, the connection is given up, the client's session stays.
    fn on_lost(&mut self, question: Question, lost: Lost, now: Instant, out: &mut Vec<Output>) -> State {
        let details = Details::note(lost.text()).heard(&replies::lost(lost));
        out.push(Output::Event(Event::Refused { reason: Reason::BackendLost, details }));
        out.push(Output::Request(Request::Drop));
        match question {
            // What was to be undone is undone.
            Question::Reset(answer) => {
                self.reset_transaction(None, out);
                self.reply(answer, now, out)
            }
            Question::Rcpt(..) => {
                if let Some(transaction) = &mut self.transaction {
                    transaction.lost = true;
                }
                self.set_back(replies::lost(lost), Duration::ZERO, now, out)
            }
            // Logged in over a connection that is gone: the next one would be a stranger's.
            Question::Mail(_) if self.is_bound_to_backend() => {
                self.refuse_and_close(Reason::BackendLost, replies::login_lost(), out)
            }
            Question::Mail(_) => {
                let delay = if std::mem::replace(&mut self.lost, true) { LOST_DELAY } else { Duration::ZERO };
                self.set_back(replies::lost(lost), delay, now, out)
            }
            Question::Data { chunked: true } => self.skip_refused(replies::lost(lost), now),
            Question::Data { chunked: false } | Question::Auth(_) => {
                self.reset_transaction(None, out);
                self.set_back(replies::lost(lost), Duration::ZERO, now, out)
            }
        }
    }

    /// The backend spoke or went away unasked. An open transaction is lost with it.
    pub(super) fn on_upstream_idle(&mut self, word: Upstream, out: &mut Vec<Output>) -> State {
        if self.on_upstream_between_chunks(word, out) {
            return State::Ready;
        }
        if let Some(transaction) = &mut self.transaction {
            transaction.lost = true;
            out.push(Output::Event(Event::Refused {
                reason: Reason::BackendLost,
                details: Details::note("the mail server closed the connection between two commands"),
            }));
        }
        out.push(Output::Request(Request::Drop));
        State::Ready
    }

    fn begin_body(&mut self, now: Instant) -> State {
        let mut body = body::Body::default();
        self.deadline = body.wait(now, self.client.exempt);
        State::Body(body)
    }
}
