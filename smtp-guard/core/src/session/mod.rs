//! One SMTP session as a state machine without I/O: no sockets, no clock, no async.
//!
//! The driver (`relay::drive`) feeds one [`Input`] at a time to [`Session::step`] and performs the [`Output`]s in their
//! order. What the driver may feed is told by [`Session::wants`]; what time is told by [`Session::deadline`].
//!
//! - Commands are taken one at a time; while the backend is asked or a reply is held back no further one is read. What was read
//!   already may be asked ahead, and is decided in its turn all the same ([`ahead`]).
//! - The backend receives typed values only ([`Request`]), and none of them without a permit of `policy`.
//! - A 250 at the client's dot is only ever the passing on of the backend's 2xx at its dot ([`body`]).
//! - The greeting may be held back ([`greeting`]); a recipient is judged by facts that the driver finds out ([`judge`]).
//! - Every exit from a transaction goes through [`Session::reset_transaction`].
//! - After STARTTLS nothing is left of what was said in clear text ([`secure`]).

use std::sync::Arc;
use std::time::Duration;

use smtp_guard_ebpf::reason::Reason;

use crate::addr::ClientAddr;
use crate::clock::{Both, Instant};
use crate::config::Role;
use crate::offence::{Conduct, Digest};
use crate::policy::checks::Finding;
use crate::policy::{Client, Standing};
use crate::snapshot::Snapshot;
use crate::wire::command::Command;
use crate::wire::ehlo::Capabilities;
use crate::wire::envelope::{MailFrom, RcptTo};
use crate::wire::reply::Reply;

mod ahead;
mod auth;
mod body;
mod chunks;
mod command;
mod ending;
mod greeting;
mod intake;
mod io;
mod judge;
mod outcome;
mod received;
pub mod replies;
mod secure;
mod shown;
#[cfg(feature = "testing")]
pub mod testing;
mod upstream;

pub use intake::Intake;
pub use io::{
    AuthVerdict, Details, Event, Facts, Heard, Input, LISTED, Lost, Message, Opening, Output, Request, Secured,
    Speaker, Upstream, Wants,
};
pub use outcome::Outcome;
pub use shown::{Doing, Shown};

/// How long the client may take for its next command (RFC 5321 4.5.3.2.7).
const COMMAND_WAIT: Duration = Duration::from_secs(300);
/// How long the client may pause inside message data (RFC 5321 4.5.3.2.5).
const BODY_WAIT: Duration = Duration::from_secs(180);
/// How long the backend may take for MAIL, RCPT and RSET, connecting included: shorter than the client's 5 minutes.
const ENVELOPE_WAIT: Duration = Duration::from_secs(270);
/// How long the backend may take for 354: shorter than the client's 2 minutes.
const DATA_WAIT: Duration = Duration::from_secs(110);
/// How long the backend may take at the dot: of the client's 10 minutes.
const DOT_WAIT: Duration = Duration::from_secs(540);
/// How long a TLS handshake may take.
pub const HANDSHAKE_WAIT: Duration = Duration::from_secs(30);
/// How long whoever judges credentials may take: Dovecot holds failures back.
const AUTH_WAIT: Duration = Duration::from_secs(60);
/// How long the envelope of a transaction that is open at the session's end may take from there on. Without it a client
/// could hold a session for ever by recipients that are answered 4xx, which count for nothing.
const ENVELOPE_GRACE: Duration = Duration::from_secs(600);
/// Before the answer to MAIL when it found no backend, from the second time on: each of them costs a connection to it, and
/// they count for nothing.
const LOST_DELAY: Duration = Duration::from_secs(1);
/// Before a failing answer, from half of `limits.failed_commands` on.
const PENALTY: Duration = Duration::from_secs(1);

/// The session. One for each client connection.
#[derive(Debug)]
pub struct Session {
    id: String,
    addr: ClientAddr,
    client: Client,
    role: Role,
    rules: Arc<Snapshot>,
    /// Read once at the start: wall time is reckoned from it.
    clock: Both,
    /// The extensions of EHLO that depend on the backend.
    backend: Arc<Capabilities>,
    /// `None`: clear text.
    secured: Option<Secured>,
    /// The client's own words about itself; without HELO or EHLO nothing.
    speaker: Option<Arc<Speaker>>,
    transaction: Option<Transaction>,
    state: State,
    ahead: ahead::Ahead,
    /// Mail of the source was accepted before the session.
    familiar: bool,
    deadline: Instant,
    failures: u32,
    /// Failing answers that aren't held against the client, but cost something: it hears those of a stranger late as well.
    setbacks: u32,
    /// RCPT and DATA that may still come behind a MAIL that failed: a client that pipelines has sent them already.
    excused: u32,
    /// A MAIL of this session found no backend.
    lost: bool,
    /// Commands that led nowhere, since the last accepted message.
    junk: u32,
    /// Command lines with bare CR, bare LF or NUL.
    flaws: u32,
    accepted_messages: u32,
    /// The client's name in DNS, where that leads back to it.
    name: Option<Box<str>>,
    draining: bool,
    /// From then on no new transaction begins, and soon after ([`ENVELOPE_GRACE`]) none goes on.
    ends: Instant,
}

/// From the backend's 250 to MAIL until [`Session::reset_transaction`].
#[derive(Debug)]
struct Transaction {
    sender: String,
    /// The digest of the sender in lower case, as servers may take it for the same.
    digest: Digest,
    accepted: u32,
    /// The first of those accepted, as in RCPT.
    listed: Vec<String>,
    began: Instant,
    /// Those accepted, as the ledger knows them, for as long as no message has been sent to them.
    unsent: Vec<Digest>,
    /// The finding of the checks, once they were asked: the refusal that every recipient hears.
    judged: Option<Option<Finding>>,
    /// Recipients refused because there were enough.
    surplus: u32,
    smtputf8: bool,
    /// Whether it asked for a trap.
    trapped: bool,
    /// The backend lost it: every further command of it is answered 451.
    lost: bool,
    /// The state of a message that comes in chunks.
    chunks: chunks::Chunks,
}

#[derive(Debug)]
enum State {
    /// Holds the greeting back. `watched`: it matters whether the client speaks.
    Greeting {
        watched: bool,
    },
    /// A recipient waits for facts.
    Consulting(RcptTo),
    /// Takes a command.
    Ready,
    /// A reply waits for its time; then the next command is taken.
    Held(Reply),
    /// The backend is asked.
    Asked(Question),
    /// The backend's answer to a command that was asked ahead is waited for: it is this one's turn.
    Due(Command),
    /// Takes a response within AUTH.
    Auth(auth::Step),
    /// The TLS handshake is under way.
    Securing,
    /// Takes message data.
    Body(body::Body),
    /// Takes a chunk of which nothing is used: what it hears is known.
    Skipping(body::Body),
    /// The dot was sent; the client hears what the backend says. `gone`: there is no client any more.
    Dot {
        size: u64,
        gone: bool,
    },
    Closed,
}

#[derive(Debug)]
enum Question {
    Auth(Box<str>),
    Mail(MailFrom),
    Rcpt(RcptTo, Standing),
    /// `chunked`: for a chunk that the client has announced.
    Data {
        chunked: bool,
    },
    Reset(Reply),
}

impl Session {
    /// A session for a client that was let in, with its greeting in `out`.
    pub fn open(opening: Opening, out: &mut Vec<Output>) -> Self {
        let Opening { id, addr, role, secured, rules, backend, familiar, clock } = opening;
        let ends = clock.instant.after(rules.config().limits.session_time);
        let mut session = Self {
            id,
            addr,
            client: rules.client(addr.ip()),
            role,
            rules,
            clock,
            backend,
            secured,
            speaker: None,
            transaction: None,
            flaws: 0,
            ends,
            state: State::Ready,
            ahead: ahead::Ahead::default(),
            familiar,
            deadline: clock.instant.after(COMMAND_WAIT),
            failures: 0,
            setbacks: 0,
            excused: 0,
            lost: false,
            junk: 0,
            accepted_messages: 0,
            name: None,
            draining: false,
        };
        session.state = session.greet_in_time(familiar, out);
        session
    }

    /// Whether a bare LF in its message data is repaired.
    pub fn repairs_newlines(&self) -> bool {
        self.rules.repairs_newlines(&self.client)
    }

    /// Whether a bare LF in chunks is repaired.
    pub fn repairs_chunks(&self) -> bool {
        self.rules.repairs_chunks()
    }

    /// Whether the next chunk goes on with the message of the last one.
    pub fn is_in_chunks(&self) -> bool {
        self.transaction.as_ref().is_some_and(|transaction| transaction.chunks.began())
    }

    /// The kind of input that may be read from the client now.
    pub fn wants(&self) -> Wants {
        match self.state {
            State::Ready if !self.ahead.is_empty() => Wants::Turn,
            State::Ready => Wants::Command,
            _ if self.takes_ahead(&self.state) => Wants::Ahead,
            State::Body(_) | State::Skipping(_) => Wants::Body,
            State::Auth(_) => Wants::Response,
            State::Greeting { watched: true } => Wants::Silence,
            State::Greeting { watched: false }
            | State::Held(_)
            | State::Asked(_)
            | State::Due(_)
            | State::Consulting(_)
            | State::Securing
            | State::Dot { .. } => Wants::Nothing,
            State::Closed => Wants::Closed,
        }
    }

    /// When [`Input::Deadline`] is due.
    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    /// The driver has nothing to feed at `now` and is about to wait: from here on a client that owes message data is
    /// slow. (While the backend doesn't take data it isn't the client's fault.)
    pub fn waiting(&mut self, now: Instant) {
        let chunks = self.transaction.as_mut().and_then(|transaction| transaction.chunks.body_mut());
        match (&mut self.state, chunks) {
            (State::Body(body) | State::Skipping(body), _) => self.deadline = body.wait(now, self.client.exempt),
            (State::Ready, Some(body)) => self.deadline = self.deadline.min(body.wait(now, self.client.exempt)),
            _ => {}
        }
    }

    /// The client's name, once it has said so.
    pub fn speaker(&self) -> Option<&Speaker> {
        self.speaker.as_deref()
    }

    /// The client's TLS.
    pub fn secured(&self) -> Option<Secured> {
        self.secured
    }

    /// The client's name in DNS, which leads back to its address, for the trace header.
    pub fn set_name(&mut self, name: &str) {
        self.name = Some(name.into());
    }

    /// Takes one input at `now` and appends what should be done to `out`.
    pub fn step(&mut self, input: Input, now: Instant, out: &mut Vec<Output>) {
        let before = out.len();
        self.take(input, now, out);
        self.settle_ahead(before, out);
        self.sign(&mut out[before..]);
    }

    /// Replies of ours say which session they are of, and whom to ask, also where they are logged.
    fn sign(&self, out: &mut [Output]) {
        for output in out {
            let reply = match output {
                Output::Reply(reply) => reply,
                Output::Event(Event::Message(message)) => &mut message.reply,
                Output::Event(Event::Refused { details, .. }) => match &mut details.reply {
                    Some(reply) => reply,
                    None => continue,
                },
                _ => continue,
            };
            replies::sign(reply, &self.rules.config().replies.contact, &self.id);
        }
    }

    fn take(&mut self, input: Input, now: Instant, out: &mut Vec<Output>) {
        let state = std::mem::replace(&mut self.state, State::Closed);
        self.state = match (state, input) {
            (State::Closed, _) => State::Closed,
            (state, Input::Shutdown) => {
                self.draining = true;
                let idle = matches!(state, State::Ready | State::Greeting { .. });
                if idle && !self.is_under_way() { self.drained(out) } else { state }
            }
            (state, Input::Banned(reason)) => self.on_banned(state, reason, out),
            (state, Input::GiveWay) => self.on_give_way(state, out),
            (state, Input::ClientGone) => self.on_client_gone(state, now, out),
            (State::Greeting { .. }, Input::Deadline) => self.greet(now, out),
            (State::Greeting { watched: true }, Input::EarlyTalk) => self.on_early_talk(out),
            (State::Consulting(rcpt), Input::Facts(facts)) => self.on_facts(rcpt, &facts, now, out),
            (State::Consulting(_), Input::Deadline) => self.set_back(replies::facts_late(), Duration::ZERO, now, out),
            (state @ (State::Consulting(_) | State::Ready | State::Held(_)), Input::Upstream(word)) => {
                self.on_upstream_early(word, out);
                state
            }
            (State::Ready, Input::Command { command, more }) => self.on_command(command, more, now, out),
            (State::Ready, Input::Turn) => self.on_turn(now, out),
            (state, Input::Command { command, more }) if self.takes_ahead(&state) => {
                self.on_ahead(state, command, more, out)
            }
            (state @ (State::Asked(_) | State::Due(_)), Input::Facts(facts)) => self.on_facts_ahead(state, &facts, out),
            (State::Due(command), Input::Upstream(word)) => self.on_due(command, word, now, out),
            (State::Due(command), Input::Deadline) => self.on_due(command, Upstream::Lost(Lost::Timeout), now, out),
            (State::Ready, Input::Deadline) => self.refuse_and_close(Reason::Timeout, replies::timeout(), out),
            (State::Held(reply), Input::Deadline) => self.reply(reply, now, out),
            (State::Asked(question), Input::OverRate(reason)) => self.on_over_rate(question, reason, now, out),
            (State::Asked(question), Input::Upstream(word)) => self.on_answer(question, word, now, out),
            (State::Asked(question), Input::Deadline) => {
                self.on_answer(question, Upstream::Lost(Lost::Timeout), now, out)
            }
            (State::Auth(step), Input::Response(response)) => self.on_response(step, response, now, out),
            (State::Auth(_) | State::Securing, Input::Deadline) => {
                self.refuse_and_close(Reason::Timeout, replies::timeout(), out)
            }
            (state @ (State::Auth(_) | State::Skipping(_)), Input::Upstream(word)) => {
                self.on_upstream_idle(word, out);
                state
            }
            (State::Securing, Input::Secured(secured)) => self.on_secured(secured, now, out),
            (State::Body(body), Input::Body(chunk)) => self.on_body(body, chunk, now, out),
            (State::Body(body), Input::Swallowed(size)) => self.on_swallowed(body, size, now, out),
            (State::Body(body), Input::BodyEnd(end)) => self.on_body_end(body, end, now, out),
            (State::Body(mut body), Input::Upstream(word)) => {
                body.judge(word, out);
                State::Body(body)
            }
            (State::Body(body), Input::ChunkEnd(flaw)) => self.on_chunk_end(body, flaw, now, out),
            (State::Skipping(body), Input::Body(chunk)) => {
                let size = body.size() + chunk.len() as u64;
                self.on_skipped(body, size, now)
            }
            (State::Skipping(body), Input::Swallowed(size)) => self.on_skipped(body, size, now),
            (State::Skipping(body), Input::ChunkEnd(_)) => self.on_skipped_end(body, false, now, out),
            (State::Skipping(body), Input::BodyEnd(_)) => self.on_skipped_end(body, true, now, out),
            (State::Body(_) | State::Skipping(_), Input::Deadline) => {
                self.refuse_and_close(Reason::Timeout, replies::timeout(), out)
            }
            (State::Dot { size, gone }, Input::Upstream(word)) => self.on_verdict(size, gone, word, now, out),
            (State::Dot { size, gone }, Input::Deadline) => {
                self.on_verdict(size, gone, Upstream::Lost(Lost::Timeout), now, out)
            }
            // Not reachable while the driver keeps to `wants`; a driver's mistake must not become the sender's loss.
            (state, _) => state,
        };
    }

    /// Ready for the next command, unless the guard is stopping.
    fn ready(&mut self, now: Instant, out: &mut Vec<Output>) -> State {
        if self.draining && !self.is_under_way() {
            return self.drained(out);
        }
        self.deadline = now.after(COMMAND_WAIT);
        if !self.client.exempt {
            let ends = if self.is_under_way() { self.ends.after(ENVELOPE_GRACE) } else { self.ends };
            if now >= ends {
                return self.refuse_and_close(Reason::Timeout, replies::session_over(), out);
            }
            self.deadline = self.deadline.min(ends);
        }
        State::Ready
    }

    /// Whether somebody else than the client is asked: the backend, DNS, whoever judges credentials.
    pub fn is_at_work(&self) -> bool {
        matches!(self.state, State::Asked(_) | State::Due(_) | State::Consulting(_) | State::Dot { .. })
    }

    /// Whether the backend is asked, or whoever judges credentials.
    pub fn asks_backend(&self) -> bool {
        matches!(self.state, State::Asked(_) | State::Due(_) | State::Dot { .. })
    }

    /// Whether there is a transaction that may still come to something.
    pub fn is_under_way(&self) -> bool {
        self.transaction.as_ref().is_some_and(|transaction| !transaction.lost && !transaction.chunks.is_over())
    }

    /// Asks the backend; or has its answer, where it was asked ahead.
    fn ask(&mut self, question: Question, request: Request, now: Instant, out: &mut Vec<Output>) -> State {
        if let Some(word) = self.ahead.take_word() {
            return self.on_answer(question, word, now, out);
        }
        if self.ahead.is_asked() {
            // Never the case ([`ahead`]): the backend would answer in another order than the client has asked.
            return self.on_answer(question, ahead::OUT_OF_ORDER, now, out);
        }
        let wait = match question {
            Question::Data { .. } => DATA_WAIT,
            Question::Auth(_) => AUTH_WAIT,
            _ => ENVELOPE_WAIT,
        };
        self.deadline = now.after(wait);
        out.push(Output::Request(request));
        State::Asked(question)
    }

    fn reply(&mut self, reply: Reply, now: Instant, out: &mut Vec<Output>) -> State {
        out.push(Output::Reply(reply));
        self.ready(now, out)
    }

    fn hold(&mut self, reply: Reply, delay: Duration, now: Instant, out: &mut Vec<Output>) -> State {
        if delay.is_zero() || self.client.exempt {
            return self.reply(reply, now, out);
        }
        self.deadline = now.after(delay);
        State::Held(reply)
    }

    /// Refuses a command: logs and counts it, and counts it as failed.
    fn refuse(
        &mut self,
        reason: Reason,
        details: Details,
        reply: Reply,
        delay: Duration,
        now: Instant,
        out: &mut Vec<Output>,
    ) -> State {
        out.push(Output::Event(Event::Refused { reason, details: details.heard(&reply) }));
        self.fail(reply, delay, now, out)
    }

    /// Answers a failed command: late from half of the limit on, and for the last time at the limit.
    fn fail(&mut self, reply: Reply, delay: Duration, now: Instant, out: &mut Vec<Output>) -> State {
        let limit = self.rules.config().limits.failed_commands;
        self.failures += 1;
        if self.client.exempt || limit == 0 {
            return self.hold(reply, delay, now, out);
        }
        if self.failures >= limit {
            out.push(Output::Report(Conduct::Offence(Reason::FailedCommands)));
            return self.refuse_and_close(Reason::FailedCommands, replies::failed_commands(), out);
        }
        let penalty = self.penalty(self.failures);
        self.hold(reply, delay.max(penalty), now, out)
    }

    /// Answers a command that failed by no fault that is held against the client. A stranger hears that late, too, from half
    /// of the limit on, failed commands included: such answers are free for the client and not for the backend.
    fn set_back(&mut self, reply: Reply, delay: Duration, now: Instant, out: &mut Vec<Output>) -> State {
        self.setbacks = self.setbacks.saturating_add(1);
        let stranger = self.rules.is_stranger(&self.client, self.role);
        let penalty = if stranger { self.penalty(self.failures.saturating_add(self.setbacks)) } else { Duration::ZERO };
        self.hold(reply, delay.max(penalty), now, out)
    }

    fn penalty(&self, failures: u32) -> Duration {
        let limit = self.rules.config().limits.failed_commands;
        if failures >= limit.div_ceil(2) { PENALTY } else { Duration::ZERO }
    }
}
