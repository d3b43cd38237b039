//! Commands taken ahead (RFC 2920): what the client has pipelined behind a MAIL or RCPT goes to the backend with it.
//!
//! While the backend is asked, the session takes RCPT and DATA that were read already ([`Wants::Ahead`](super::Wants::Ahead)).
//! It asks them as well where the rules would let them through. Each of them is judged again in its turn
//! ([`Wants::Turn`](super::Wants::Turn)), exactly as if it had come then, and the backend's answer waits for that. So nothing
//! is decided, reported, delayed or told in another order than for a client that sends one command at a time.
//!
//! | in its turn | the backend said | what happens |
//! |---|---|---|
//! | it is asked | anything | that is the answer |
//! | it is refused | 4xx, 5xx | nothing: the backend knows nothing of it either |
//! | it is refused | 2xx, 354 | the connection is given up, and what is left of the transaction is answered 451 |
//!
//! So a recipient that was refused here never gets the message. If the backend answers 354 to a DATA without a recipient, that
//! ends with the connection and not with a dot.
//!
//! What is asked ahead:
//! - RCPT whose facts are known, as long as nothing before it may be asked later: the backend's answers come in the order of the
//!   requests. (What is refused as relaying is never asked, so the next one may be.)
//! - Of newcomers one recipient at a time, so that the backend answers no more guesses than without this.
//! - DATA behind at least one recipient: for a DATA if the client sent nothing behind it, or for the first chunk.
//! - Nothing of users who have logged in: their recipients are counted one by one.
//!
//! # Bounds
//! [`MOST`] commands, all of which the driver had read before.

use std::collections::VecDeque;
use std::sync::Arc;

use smtp_guard_ebpf::reason::Reason;

use super::{Details, Event, Facts, Lost, Output, Question, Request, Session, State, Upstream};
use crate::clock::Instant;
use crate::offence::Digest;
use crate::policy::checks::Found;
use crate::policy::{Permit, Ruling, Standing};
use crate::wire::command::{Command, CommandError};
use crate::wire::envelope::{MailFrom, RcptTo};

/// Commands that are taken ahead at most.
const MOST: usize = 32;

/// The commands that were taken ahead.
#[derive(Debug, Default)]
pub(super) struct Ahead {
    /// In their order.
    queue: VecDeque<Taken>,
    /// Nothing is taken behind the last one before that has had its turn.
    stopped: bool,
    /// The last one waits for facts.
    consults: bool,
    /// The MAIL that was asked last.
    mail: Option<Mail>,
    /// The backend's word on the command whose turn it is.
    word: Option<Upstream>,
}

#[derive(Debug)]
struct Mail {
    sender: Digest,
    smtputf8: bool,
    /// The facts that were looked up for it already.
    found: Option<Arc<Found>>,
}

#[derive(Debug)]
struct Taken {
    command: Result<Command, CommandError>,
    more: bool,
    asked: Asked,
}

#[derive(Debug)]
enum Asked {
    No,
    /// The backend was asked, and may have answered.
    Yes(Option<Upstream>),
}

/// The question to the backend, or the one whose answer is awaited, while others are taken ahead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Head {
    Mail,
    Rcpt,
}

impl Head {
    fn of(state: &State) -> Option<Self> {
        match state {
            State::Asked(Question::Mail(_)) => Some(Self::Mail),
            State::Asked(Question::Rcpt(..)) | State::Due(Command::Rcpt(_)) => Some(Self::Rcpt),
            _ => None,
        }
    }
}

enum Foresight {
    Ask(Permit),
    /// Facts are needed.
    Consult,
    /// A refusal, whatever comes before.
    Refusal,
    /// No telling yet.
    Stop,
}

impl Ahead {
    /// MAIL is asked.
    pub(super) fn begin(&mut self, mail: &MailFrom, sender: Digest) {
        self.mail = Some(Mail { sender, smtputf8: mail.smtputf8, found: None });
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// The facts that were looked up while MAIL was asked.
    pub(super) fn found(&self) -> Option<&Arc<Found>> {
        self.mail.as_ref().and_then(|mail| mail.found.as_ref())
    }

    /// The answer to what is about to be asked, where it was asked ahead.
    pub(super) fn take_word(&mut self) -> Option<Upstream> {
        self.word.take()
    }

    /// Whether something was asked ahead that has not had its turn.
    pub(super) fn is_asked(&self) -> bool {
        self.queue.iter().any(|taken| matches!(taken.asked, Asked::Yes(_)))
    }

    /// The connection is given up: whatever was asked over it never was.
    pub(super) fn forget_answers(&mut self) {
        self.word = None;
        self.queue.iter_mut().for_each(|taken| taken.asked = Asked::No);
    }

    /// Recipients that the backend was asked for ahead.
    fn recipients(&self) -> u32 {
        let asked = |taken: &&Taken| matches!((&taken.command, &taken.asked), (Ok(Command::Rcpt(_)), Asked::Yes(_)));
        u32::try_from(self.queue.iter().filter(asked).count()).unwrap_or(u32::MAX)
    }
}

impl Session {
    /// Whether a further command may be taken ahead in `state`.
    pub(super) fn takes_ahead(&self, state: &State) -> bool {
        Head::of(state).is_some()
            && self.backend.pipelining
            && self.login().is_none()
            && !(self.ahead.stopped || self.ahead.consults)
            && self.ahead.queue.len() < MOST
    }

    /// Takes a command ahead.
    pub(super) fn on_ahead(
        &mut self,
        state: State,
        command: Result<Command, CommandError>,
        more: bool,
        out: &mut Vec<Output>,
    ) -> State {
        let mut asked = Asked::No;
        match &command {
            Ok(Command::Rcpt(rcpt)) => match self.foresee(&state, rcpt) {
                Foresight::Ask(permit) => asked = self.ask_ahead(rcpt.clone(), permit, out),
                Foresight::Consult => {
                    self.ahead.consults = true;
                    let lookups = self.ahead.found().is_none() && self.judged().is_none();
                    let sender = self.sender_digest();
                    out.push(Output::Consult { lookups, recipient: Some(rcpt.path.key().into()), sender });
                }
                Foresight::Refusal => {}
                Foresight::Stop => self.ahead.stopped = true,
            },
            Ok(command) if self.is_data(command, more) && self.may_have_data(&state) => {
                out.push(Output::Request(Request::Data));
                (asked, self.ahead.stopped) = (Asked::Yes(None), true);
            }
            _ => self.ahead.stopped = true,
        }
        self.ahead.queue.push_back(Taken { command, more, asked });
        state
    }

    /// The facts of the last command that was taken ahead are there.
    pub(super) fn on_facts_ahead(&mut self, state: State, facts: &Facts, out: &mut Vec<Output>) -> State {
        if !std::mem::take(&mut self.ahead.consults) {
            return state;
        }
        if let (Some(mail), Some(found)) = (&mut self.ahead.mail, &facts.found) {
            mail.found = Some(Arc::clone(found));
        }
        let Some(Taken { command: Ok(Command::Rcpt(rcpt)), .. }) = self.ahead.queue.back() else { return state };
        let rcpt = rcpt.clone();
        let refused = facts.deferred
            || match self.judged() {
                Some(judged) => judged.is_some(),
                None => self.ahead.found().is_some_and(|found| {
                    self.rules.judge(&self.client, self.role, found).iter().any(|finding| finding.enforced)
                }),
            };
        match self.permit_ahead(&state, &rcpt, facts.unknown).filter(|_| !refused) {
            Some(permit) => {
                let asked = self.ask_ahead(rcpt, permit, out);
                if let Some(taken) = self.ahead.queue.back_mut() {
                    taken.asked = asked;
                }
            }
            None => self.ahead.stopped = true,
        }
        state
    }

    fn ask_ahead(&self, rcpt: RcptTo, permit: Permit, out: &mut Vec<Output>) -> Asked {
        out.push(Output::Request(Request::Rcpt(self.without_privileges(rcpt), permit)));
        Asked::Yes(None)
    }

    /// Foresees what becomes of `rcpt` in its turn, if all before it is accepted.
    fn foresee(&self, state: &State, rcpt: &RcptTo) -> Foresight {
        let uses = rcpt.uses();
        let speaks = self.speaker.as_ref().is_some_and(|speaker| speaker.esmtp);
        let smtputf8 = self.ahead.mail.as_ref().is_some_and(|mail| mail.smtputf8);
        let fits = (smtputf8 || !uses.smtputf8) && (!uses.parameters || (speaks && self.backend.takes(uses)));
        if !fits || !self.may_have_more(state) {
            return Foresight::Stop;
        }
        if self.rules.relay(&self.client, &rcpt.path).is_some() {
            return Foresight::Refusal;
        }
        let stranger = self.rules.is_stranger(&self.client, self.role);
        if stranger && !self.is_known_sender() && self.unanswered(state) > 0 {
            return Foresight::Stop;
        }
        if stranger && !self.client.exempt && !self.rules.is_postmaster(&rcpt.path) {
            return Foresight::Consult;
        }
        self.permit_ahead(state, rcpt, false).map_or(Foresight::Stop, Foresight::Ask)
    }

    fn permit_ahead(&self, state: &State, rcpt: &RcptTo, unknown: bool) -> Option<Permit> {
        let accepted = self.transaction.as_ref().map_or(0, |transaction| transaction.accepted);
        match self.rules.recipient(&self.client, &rcpt.path, accepted.saturating_add(self.unanswered(state))) {
            Ruling::Permit((_, Standing::Open)) if unknown => None,
            Ruling::Permit((permit, _)) => Some(permit),
            Ruling::Refuse(_) => None,
        }
    }

    /// Whether the transaction may go on: MAIL is asked now, or was taken.
    fn may_have_more(&self, state: &State) -> bool {
        match &self.transaction {
            Some(transaction) => !(transaction.lost || transaction.trapped || transaction.chunks.began()),
            None => Head::of(state) == Some(Head::Mail),
        }
    }

    /// Whether the backend is asked for DATA by it.
    fn is_data(&self, command: &Command, more: bool) -> bool {
        match command {
            Command::Data => !more,
            Command::Bdat(_) => self.rules.config().checks.chunking,
            _ => false,
        }
    }

    fn may_have_data(&self, state: &State) -> bool {
        let accepted = self.transaction.as_ref().is_some_and(|transaction| transaction.accepted > 0);
        self.may_have_more(state) && (accepted || self.unanswered(state) > 0)
    }

    /// Recipients that the backend is asked for and that have not had their turn.
    fn unanswered(&self, state: &State) -> u32 {
        u32::from(Head::of(state) == Some(Head::Rcpt)).saturating_add(self.ahead.recipients())
    }

    pub(super) fn is_known_sender(&self) -> bool {
        self.familiar || self.accepted_messages > 0
    }

    /// Goes on with the next command, whose turn it is.
    pub(super) fn on_turn(&mut self, now: Instant, out: &mut Vec<Output>) -> State {
        let Some(Taken { command, more, asked }) = self.ahead.queue.pop_front() else { return State::Ready };
        if self.ahead.queue.is_empty() {
            (self.ahead.stopped, self.ahead.consults) = (false, false);
        }
        match (command, asked) {
            (Ok(command), Asked::Yes(None)) => {
                let data = matches!(command, Command::Data | Command::Bdat(_));
                self.deadline = now.after(if data { super::DATA_WAIT } else { super::ENVELOPE_WAIT });
                State::Due(command)
            }
            (Ok(command), Asked::Yes(Some(word))) => self.on_due(command, word, now, out),
            (command, _) => self.on_command(command, more, now, out),
        }
    }

    /// The backend has answered the command whose turn it is.
    pub(super) fn on_due(&mut self, command: Command, word: Upstream, now: Instant, out: &mut Vec<Output>) -> State {
        match word {
            Upstream::Reply(_) => self.ahead.word = Some(word),
            // The command may still wait for facts; the connection is given up at once.
            lost => drop(self.on_upstream_idle(lost, out)),
        }
        self.on_command(Ok(command), false, now, out)
    }

    /// The backend speaks while the session is at something else: it answers what was asked ahead, or it wasn't asked.
    pub(super) fn on_upstream_early(&mut self, word: Upstream, out: &mut Vec<Output>) {
        let mut queue = self.ahead.queue.iter_mut();
        match (queue.find(|taken| matches!(taken.asked, Asked::Yes(None))), word) {
            (Some(taken), Upstream::Reply(reply)) => taken.asked = Asked::Yes(Some(Upstream::Reply(reply))),
            (_, word) => drop(self.on_upstream_idle(word, out)),
        }
    }

    /// After each step: an answer that nobody wanted must not have changed anything at the backend.
    pub(super) fn settle_ahead(&mut self, before: usize, out: &mut Vec<Output>) {
        let drops = |output: &Output| matches!(output, Output::Request(Request::Drop));
        if out[before..].iter().any(drops) {
            return self.ahead.forget_answers();
        }
        if matches!(self.state, State::Consulting(_) | State::Closed) {
            return;
        }
        let Some(word) = self.ahead.take_word() else { return };
        if word.usable().is_ok_and(|reply| matches!(reply.code().class(), 4 | 5)) {
            return;
        }
        if let Some(transaction) = &mut self.transaction {
            transaction.lost = true;
            let details = Details::note("the mail server took what is refused here");
            out.push(Output::Event(Event::Refused { reason: Reason::BackendLost, details }));
        }
        out.push(Output::Request(Request::Drop));
        self.ahead.forget_answers();
    }

    /// The sender of the transaction, or of the MAIL that is asked.
    pub(super) fn sender_digest(&self) -> Digest {
        match (&self.transaction, &self.ahead.mail) {
            (Some(transaction), _) => transaction.digest,
            (None, Some(mail)) => mail.sender,
            (None, None) => self.rules.digest(""),
        }
    }
}

/// The answer to a question where the answers would come in the wrong order.
pub(super) const OUT_OF_ORDER: Upstream = Upstream::Lost(Lost::Protocol);
