//! Messages in chunks (BDAT, RFC 3030). Each goes to the backend by DATA, so what is said of message data in [`super::body`] holds
//! of them, and no backend needs to know BDAT.
//!
//! | the client sends | it hears |
//! |---|---|
//! | a chunk that isn't the last one | 250 of ours as soon as it was taken; it promises nothing |
//! | the last chunk | what the backend says at the dot |
//! | a chunk of a message that can't be sent | the refusal, once the chunk was read |
//! | further chunks of that message | the same refusal, so that whichever answer the client goes by says the same |
//! | more bytes than are listened to, or a length that can't be read | the refusal, and the end of the session |
//! | RSET, EHLO, QUIT between two chunks | yes; the backend's connection is closed before its dot |
//!
//! Whatever is refused is read to its announced length: its bytes must not be taken for commands. Between two chunks the client
//! is as slow as within one ([`Body::wait`]). A chunk without bytes that isn't the last one is a command that leads nowhere.
//!
//! # Rejected
//! Passing chunks on as BDAT where the backend offers it. It would spare a line end and a dot here and there, and keep a bare LF as it is.
//! But the guard's output would have as many readings as the backend's handling of BDAT, behind which mail is written as text again.

use std::time::Duration;

use smtp_guard_ebpf::reason::Reason;

use super::body::Body;
use super::{Output, Question, Request, Session, State, Transaction, Upstream, replies};
use crate::clock::Instant;
use crate::session::Outcome;
use crate::wire::command::Bdat;
use crate::wire::data::BodyFlaw;
use crate::wire::reply::Reply;

/// How far a message in chunks has come, between two of them.
#[derive(Debug, Default)]
pub(super) enum Chunks {
    /// None was sent.
    #[default]
    None,
    /// The backend has those so far, or the message has a verdict that the client hasn't heard yet.
    Open(Body),
    Failed(Failed),
}

/// A message in chunks that won't be delivered. It lasts until its last chunk, or until the client gives it up.
#[derive(Debug)]
pub(super) struct Failed {
    body: Body,
    /// The reply to every chunk.
    reply: Reply,
    /// The backend isn't in this transaction any more.
    gone: bool,
    /// The client has heard it.
    told: bool,
}

impl Chunks {
    fn body(&self) -> Option<&Body> {
        match self {
            Self::None => None,
            Self::Open(body) | Self::Failed(Failed { body, .. }) => Some(body),
        }
    }

    pub(super) fn body_mut(&mut self) -> Option<&mut Body> {
        match self {
            Self::None => None,
            Self::Open(body) | Self::Failed(Failed { body, .. }) => Some(body),
        }
    }

    pub(super) fn began(&self) -> bool {
        !matches!(self, Self::None)
    }

    /// Nothing will come of it.
    pub(super) fn is_over(&self) -> bool {
        match self {
            Self::None => false,
            Self::Open(body) => body.has_verdict(),
            Self::Failed(_) => true,
        }
    }

    /// Whether the backend could be told RSET: it is neither within message data nor gone.
    pub(super) fn allow_reset(&self) -> bool {
        match self {
            Self::None => true,
            Self::Open(_) => false,
            Self::Failed(failed) => !failed.gone,
        }
    }
}

impl Session {
    pub(super) fn on_bdat(&mut self, chunk: Bdat, now: Instant, out: &mut Vec<Output>) -> State {
        if !self.rules.config().checks.chunking {
            // Its payload follows at once and would be read as commands.
            return self.refuse_and_close(Reason::Protocol, replies::chunking(), out);
        }
        if chunk.size == 0
            && !chunk.last
            && let Some(end) = self.junk(out)
        {
            return end;
        }
        let before = self.transaction.as_ref().and_then(|transaction| transaction.chunks.body()).map_or(0, Body::size);
        let size = before.saturating_add(chunk.size);
        let too_large = self.rules.data(&self.client, size);
        if let Some(refusal) = &too_large
            && self.is_far_too_large(size)
        {
            if self.takes_chunks() {
                self.finish(Outcome::Rejected, before, &refusal.reply, out);
            }
            return self.refuse_and_close(refusal.reason, refusal.reply.clone(), out);
        }
        if !self.takes_chunks() {
            let body = self.transaction.as_mut().and_then(|transaction| transaction.chunks.body_mut());
            let body = body.map(std::mem::take).unwrap_or_default();
            return self.skip(body, now);
        }
        let chunks = self.transaction.as_mut().map(|transaction| std::mem::take(&mut transaction.chunks));
        match (chunks, too_large) {
            (Some(Chunks::Open(body)), None) => self.go_on(body, now),
            (Some(Chunks::Open(mut body)), Some(refusal)) => {
                self.too_large(&mut body, refusal, out);
                self.go_on(body, now)
            }
            (_, Some(refusal)) => {
                let mut body = Body::default();
                self.too_large(&mut body, refusal, out);
                self.go_on(body, now)
            }
            (_, None) => self.ask(Question::Data { chunked: true }, Request::Data, now, out),
        }
    }

    /// Whether the transaction can take a chunk, whatever becomes of it.
    fn takes_chunks(&self) -> bool {
        match &self.transaction {
            None | Some(Transaction { lost: true, .. } | Transaction { trapped: true, .. }) => false,
            Some(Transaction { chunks: Chunks::Open(_), .. }) => true,
            Some(transaction) => transaction.accepted > 0 && !transaction.chunks.began(),
        }
    }

    fn go_on(&mut self, mut body: Body, now: Instant) -> State {
        self.deadline = body.wait(now, self.client.exempt);
        State::Body(body)
    }

    /// Reads a chunk of which nothing is used.
    fn skip(&mut self, mut body: Body, now: Instant) -> State {
        self.deadline = body.wait(now, self.client.exempt);
        State::Skipping(body)
    }

    /// The backend doesn't take the message whose first chunk follows: `reply` for all of it.
    pub(super) fn skip_refused(&mut self, reply: Reply, now: Instant) -> State {
        self.fail_chunks(Failed { body: Body::default(), reply, gone: true, told: false });
        self.skip(Body::default(), now)
    }

    fn fail_chunks(&mut self, failed: Failed) {
        if let Some(transaction) = &mut self.transaction {
            transaction.chunks = Chunks::Failed(failed);
        }
    }

    /// A chunk that isn't the last one was read.
    pub(super) fn on_chunk_end(
        &mut self,
        mut body: Body,
        flaw: Option<BodyFlaw>,
        now: Instant,
        out: &mut Vec<Output>,
    ) -> State {
        let size = body.size();
        if flaw.is_some() {
            let reply = self.on_flaw(size, out);
            out.push(Output::Request(Request::Drop));
            self.fail_chunks(Failed { body, reply: reply.clone(), gone: true, told: true });
            return self.fail(reply, Duration::ZERO, now, out);
        }
        if let Some((outcome, reply)) = body.take_verdict() {
            // The backend's connection was given up when the verdict fell.
            self.finish(outcome, size, &reply, out);
            self.fail_chunks(Failed { body, reply: reply.clone(), gone: true, told: true });
            return self.set_back(reply, Duration::ZERO, now, out);
        }
        if let Some(transaction) = &mut self.transaction {
            transaction.chunks = Chunks::Open(body);
        }
        self.reply(replies::chunk_taken(), now, out)
    }

    /// So many bytes of chunks that are skipped were read.
    pub(super) fn on_skipped(&mut self, mut body: Body, size: u64, now: Instant) -> State {
        body.grow(size, now);
        self.skip(body, now)
    }

    /// A chunk was read of which nothing is used.
    pub(super) fn on_skipped_end(&mut self, body: Body, last: bool, now: Instant, out: &mut Vec<Output>) -> State {
        let Some(transaction) = &mut self.transaction else {
            return self.without_mail(now, out);
        };
        if let Chunks::Failed(failed) = &mut transaction.chunks {
            failed.body = body;
            let (reply, gone, told) = (failed.reply.clone(), failed.gone, std::mem::replace(&mut failed.told, true));
            if last && !gone {
                return self.abandon(reply, now, out);
            }
            if last {
                self.reset_transaction(None, out);
            }
            if !told && reply.code().class() == 5 && self.accepted_messages == 0 {
                return self.fail(reply, Duration::ZERO, now, out);
            }
            return self.set_back(reply, Duration::ZERO, now, out);
        }
        let (lost, trapped) = (transaction.lost, transaction.trapped);
        let reply = match (lost, trapped) {
            (true, _) => replies::backend_lost(),
            (_, true) => replies::trapped(),
            _ => replies::no_recipients(),
        };
        let details = self.sender();
        let gone = lost || trapped;
        match (gone, last) {
            (true, true) => self.reset_transaction(trapped.then_some(Request::Drop), out),
            (false, true) => {}
            (_, false) => {
                out.extend((trapped && !lost).then_some(Output::Request(Request::Drop)));
                self.fail_chunks(Failed { body, reply: reply.clone(), gone, told: true });
            }
        }
        match (lost, trapped) {
            (true, _) => self.set_back(reply, Duration::ZERO, now, out),
            (_, true) => self.refuse(Reason::Trap, details, reply, Duration::ZERO, now, out),
            _ => self.refuse(Reason::Protocol, details, reply, Duration::ZERO, now, out),
        }
    }

    /// The backend spoke or went away while nothing was asked. Whether that was between two chunks of a message.
    pub(super) fn on_upstream_between_chunks(&mut self, word: Upstream, out: &mut Vec<Output>) -> bool {
        match self.transaction.as_mut().map(|transaction| &mut transaction.chunks) {
            Some(Chunks::Open(body)) => {
                body.judge(word, out);
                true
            }
            _ => false,
        }
    }
}
