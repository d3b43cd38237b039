//! Message data, from 354 to the backend's word at the dot. In chunks: [`super::chunks`].
//!
//! The data is always read to the client's true end, whatever went wrong on the way. If reading stopped early, the rest of a
//! message would be read as commands. A message that must not be delivered is ended by closing the backend's connection before
//! its dot; there is no other way to take DATA back.

use smtp_guard_ebpf::reason::Reason;

use std::time::Duration;

use super::{BODY_WAIT, DOT_WAIT, Event, Lost, Message, Output, Request, Session, State, Upstream, replies};
use crate::clock::Instant;
use crate::offence::Conduct;
use crate::policy::Refusal;
use crate::session::Outcome;
use crate::wire::data::{BodyEnd, CleanBody};
use crate::wire::reply::Reply;

/// Bytes a second that a client must send on average while it is waited for ...
const MIN_RATE: u64 = 500;
/// ... after this time, which a short pause or a slow start may take.
const RATE_GRACE: Duration = Duration::from_secs(180);

/// The message while its data comes in.
#[derive(Debug, Default)]
pub(super) struct Body {
    size: u64,
    /// The verdict, if the message won't be delivered: the client's reply at its dot. Nothing more goes to the backend.
    verdict: Option<(Outcome, Reply)>,
    /// How long the client was waited for in all, and since when it is now.
    waited: Duration,
    waiting: Option<Instant>,
}

impl Body {
    /// The client is waited for from `now` on; returns until when. That is [`BODY_WAIT`], or earlier for one that sent
    /// less than [`MIN_RATE`] asks for: one byte every two minutes must not hold a session for ever.
    pub(super) fn wait(&mut self, now: Instant, exempt: bool) -> Instant {
        self.waiting.get_or_insert(now);
        let allowed = RATE_GRACE + Duration::from_millis(self.size.saturating_mul(1000) / MIN_RATE);
        let left = if exempt { BODY_WAIT } else { allowed.saturating_sub(self.waited) };
        now.after(BODY_WAIT.min(left))
    }

    /// The client has sent something.
    pub(super) fn heard(&mut self, now: Instant) {
        if let Some(since) = self.waiting.take() {
            self.waited += now.since(since);
        }
    }

    /// Decoded bytes so far.
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// There are `size` bytes by now.
    pub(super) fn grow(&mut self, size: u64, now: Instant) {
        self.size = self.size.max(size);
        self.heard(now);
    }

    pub(super) fn has_verdict(&self) -> bool {
        self.verdict.is_some()
    }

    pub(super) fn take_verdict(&mut self) -> Option<(Outcome, Reply)> {
        self.verdict.take()
    }

    /// The backend spoke before the dot: what it said is passed on at the dot.
    pub(super) fn judge(&mut self, word: Upstream, out: &mut Vec<Output>) {
        if self.verdict.is_none() {
            self.verdict = Some(match word.usable() {
                Ok(reply) if reply.code().class() == 5 => (Outcome::Rejected, reply),
                Ok(reply) if reply.code().class() == 4 => (Outcome::Deferred, reply),
                Ok(_) => (Outcome::Deferred, replies::backend_nonsense()),
                Err(lost) => (Outcome::Deferred, replies::lost(lost)),
            });
            out.push(Output::Request(Request::Drop));
        }
    }
}

impl Session {
    pub(super) fn on_body(&mut self, body: Body, chunk: CleanBody, now: Instant, out: &mut Vec<Output>) -> State {
        let size = body.size + chunk.len() as u64;
        let (first, forward) = (body.size == 0, body.verdict.is_none());
        let next = self.on_swallowed(body, size, now, out);
        if forward && matches!(&next, State::Body(Body { verdict: None, .. })) {
            if first && matches!(chunk.first(), Some(b' ' | b'\t')) {
                // It would go on with our header, and the client would have its say there. It is no header of its own
                // either: the backend would have taken it for text.
                out.push(Output::Request(Request::Body(CleanBody::empty_line())));
            }
            out.push(Output::Request(Request::Body(chunk)));
        }
        next
    }

    /// Takes note of the size so far. Far beyond the limit the client isn't listened to any longer.
    pub(super) fn on_swallowed(&mut self, mut body: Body, size: u64, now: Instant, out: &mut Vec<Output>) -> State {
        body.grow(size, now);
        self.deadline = now.after(BODY_WAIT);
        let Some(refusal) = self.rules.data(&self.client, body.size) else {
            return State::Body(body);
        };
        if self.is_far_too_large(body.size) {
            self.finish(Outcome::Rejected, body.size, &refusal.reply, out);
            return self.refuse_and_close(refusal.reason, refusal.reply, out);
        }
        self.too_large(&mut body, refusal, out);
        State::Body(body)
    }

    /// Whether so much data isn't listened to any longer.
    pub(super) fn is_far_too_large(&self, size: u64) -> bool {
        let limit = self.rules.config().limits.message_size;
        size > limit.saturating_add(limit / 2)
    }

    /// The message is refused for its size; the backend hears no more of it.
    pub(super) fn too_large(&self, body: &mut Body, refusal: Refusal, out: &mut Vec<Output>) {
        if body.verdict.is_none() {
            let details = self.sender().heard(&refusal.reply);
            out.push(Output::Event(Event::Refused { reason: refusal.reason, details }));
            out.push(Output::Request(Request::Drop));
            body.verdict = Some((Outcome::Rejected, refusal.reply));
        }
    }

    pub(super) fn on_body_end(&mut self, body: Body, end: BodyEnd, now: Instant, out: &mut Vec<Output>) -> State {
        let size = end.size();
        if end.flaw().is_some() {
            let reply = self.on_flaw(size, out);
            self.reset_transaction(Some(Request::Drop), out);
            return self.fail(reply, Duration::ZERO, now, out);
        }
        if let Some((outcome, reply)) = body.verdict {
            // The backend's connection was given up when the verdict fell.
            self.finish(outcome, size, &reply, out);
            self.reset_transaction(None, out);
            return self.set_back(reply, Duration::ZERO, now, out);
        }
        self.deadline = now.after(DOT_WAIT);
        out.push(Output::Request(Request::End(end)));
        State::Dot { size, gone: false }
    }

    /// A message with a flaw was read. Returns what the client hears.
    pub(super) fn on_flaw(&mut self, size: u64, out: &mut Vec<Output>) -> Reply {
        let reply = replies::smuggling();
        out.push(Output::Report(Conduct::Offence(Reason::Smuggling)));
        let details = self.sender().heard(&reply);
        out.push(Output::Event(Event::Refused { reason: Reason::Smuggling, details }));
        self.finish(Outcome::Rejected, size, &reply, out);
        reply
    }

    /// The backend's word at the dot. Only its 2xx makes ours.
    pub(super) fn on_verdict(
        &mut self,
        size: u64,
        gone: bool,
        word: Upstream,
        now: Instant,
        out: &mut Vec<Output>,
    ) -> State {
        let (outcome, reply) = match usable_at_dot(word) {
            Ok(reply) => match reply.code().class() {
                2 => (Outcome::Accepted, reply),
                4 => (Outcome::Deferred, reply),
                5 => (Outcome::Rejected, reply),
                _ => (Outcome::Ambiguous, replies::backend_nonsense()),
            },
            Err(reply) => reply,
        };
        let drop_backend = !matches!(outcome, Outcome::Accepted | Outcome::Rejected);
        self.finish(outcome, size, &reply, out);
        self.reset_transaction(drop_backend.then_some(Request::Drop), out);
        if outcome == Outcome::Accepted {
            self.accepted_messages += 1;
            self.junk = 0;
            out.push(Output::Report(Conduct::MessageAccepted));
        }
        if gone {
            return self.close(out);
        }
        if outcome == Outcome::Accepted {
            return self.reply(reply, now, out);
        }
        self.set_back(reply, Duration::ZERO, now, out)
    }

    /// The guard ends before the session does. What becomes of a message whose dot was sent nobody will learn, so it is told
    /// now: the sender, who heard nothing, will send it again.
    pub fn cut_off(&mut self, out: &mut Vec<Output>) {
        if let State::Dot { size, .. } = self.state {
            let before = out.len();
            self.finish(Outcome::Ambiguous, size, &replies::shutdown(), out);
            self.sign(&mut out[before..]);
            self.state = State::Closed;
        }
    }

    pub(super) fn finish(&mut self, outcome: Outcome, size: u64, reply: &Reply, out: &mut Vec<Output>) {
        let (sender, recipients, listed, began) = match &mut self.transaction {
            Some(transaction) => {
                let unsent = std::mem::take(&mut transaction.unsent);
                // Only a message that was accepted speaks for its sender: before it was refused, its recipients were asked for.
                let conduct = match outcome {
                    Outcome::Accepted => None,
                    Outcome::Rejected => Some(Conduct::Abandoned { recipients: unsent.into() }),
                    Outcome::Deferred | Outcome::Ambiguous => Some(Conduct::Undelivered { recipients: unsent.into() }),
                };
                out.extend(conduct.map(Output::Report));
                let listed = std::mem::take(&mut transaction.listed);
                (transaction.sender.clone(), transaction.accepted, listed, transaction.began)
            }
            None => (String::new(), 0, Vec::new(), self.clock.instant),
        };
        let reply = reply.clone();
        let message = Message { outcome, sender, recipients, listed, size, reply, began };
        out.push(Output::Event(Event::Message(message)));
    }
}

/// At the dot a 421 is an answer: the backend refuses for now and has not taken the message. Silence is ambiguous.
fn usable_at_dot(word: Upstream) -> Result<Reply, (Outcome, Reply)> {
    match word {
        Upstream::Reply(reply) if reply.code().get() == 421 => Err((Outcome::Deferred, replies::backend_lost())),
        Upstream::Reply(reply) => Ok(reply.with_enhanced().passed_on()),
        Upstream::Auth(_) => Err((Outcome::Ambiguous, replies::backend_nonsense())),
        Upstream::Lost(Lost::BeforeDot) => Err((Outcome::Deferred, replies::lost(Lost::BeforeDot))),
        Upstream::Lost(lost) => Err((Outcome::Ambiguous, replies::lost(lost))),
    }
}
