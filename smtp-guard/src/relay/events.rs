//! Log, metrics and events of sessions. Counts and lines are there before a session goes on.

use std::net::SocketAddr;
use std::time::Duration;

use smtp_guard_ebpf::reason::Reason;

use super::Shared;
use crate::addr::{BackendAddr, ClientAddr};
use crate::bound::Bound;
use crate::clock::Instant;
use crate::config::{LogFormat, Role};
use crate::events::What;
use crate::observe::budget::Budget;
use crate::observe::log::{self, printable};
use crate::observe::words::{Refused, queue_id};
use crate::session::Outcome;
use crate::session::{Details, Event, Message, Secured, Speaker};
use crate::wire::reply::Reply;

/// Lines and events a second about refusals: anybody can cause them.
pub(super) static REFUSALS: Budget = Budget::new(200);
/// Lines a second about sessions that ended, likewise.
pub(super) static ENDS: Budget = Budget::new(200);

/// A session, as its lines in the log name it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Subject<'a> {
    pub(super) id: &'a str,
    pub(super) client: ClientAddr,
    /// The listener that the client connected to.
    pub(super) listener: SocketAddr,
    /// Whether it was let in.
    pub(super) under_way: bool,
    pub(super) speaker: Option<&'a Speaker>,
    pub(super) secured: Option<Secured>,
    /// The client's name in DNS, where it leads back.
    pub(super) name: Option<&'a str>,
    /// The server that was connected last.
    pub(super) server: Option<&'a BackendAddr>,
}

impl<'a> Subject<'a> {
    /// The subject of a client of which nothing more is known.
    pub(super) fn at_the_door(id: &'a str, client: ClientAddr, listener: SocketAddr) -> Self {
        Self { id, client, listener, under_way: false, speaker: None, secured: None, name: None, server: None }
    }

    /// The same of a client that was let in.
    pub(super) fn inside(self) -> Self {
        Self { under_way: true, ..self }
    }

    fn helo(&self) -> Option<String> {
        self.speaker.map(|speaker| printable(speaker.helo.as_str().as_bytes()))
    }

    fn user(&self) -> Option<String> {
        self.speaker.and_then(|speaker| speaker.login.as_deref()).map(|user| printable(user.as_bytes()))
    }
}

/// The sum of a session.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sum {
    pub(super) messages: u32,
    pub(super) refused: u32,
    /// Why the guard ended it.
    pub(super) reason: Option<Reason>,
}

impl Sum {
    /// Takes `event` into account.
    pub(super) fn add(&mut self, event: &Event) {
        match event {
            Event::Message(Message { outcome: Outcome::Accepted, .. }) => self.messages += 1,
            Event::Refused { .. } => self.refused = self.refused.saturating_add(1),
            Event::Ended { reason } => self.reason = Some(*reason),
            Event::Message(_) | Event::Observed { .. } | Event::Authenticated { .. } => {}
        }
    }
}

/// Counts, logs and publishes `event` of `subject`.
pub(super) fn observe(shared: &Shared, subject: &Subject<'_>, event: Event) {
    let Subject { id, client, .. } = *subject;
    match event {
        Event::Refused { reason, details } => {
            shared.metrics.rejected(reason);
            refused(shared, id, client, reason, &details, false);
        }
        Event::Observed { reason, details } => {
            shared.metrics.observed(reason);
            refused(shared, id, client, reason, &details, true);
        }
        Event::Ended { reason } => {
            shared.metrics.rejected(reason);
            if !within_budget(shared) {
                return;
            }
            // Why a session ended stands in the line about its end; what is held against the client has one of its own.
            if reason.is_offence() || !subject.under_way {
                log::rejected(format(shared), id, client, reason, subject.under_way);
            }
            let (session, client) = (id.to_owned(), client.ip().to_string());
            publish(shared, What::ConnectionRefused { session, client, reason: reason.label().into() });
        }
        Event::Authenticated { user } => {
            let user = printable(user.as_bytes());
            tracing::info!(session = id, client = %client.ip(), user, "authenticated");
        }
        Event::Message(message) => self::message(shared, subject, message),
    }
}

fn message(shared: &Shared, subject: &Subject<'_>, message: Message) {
    let Message { outcome, sender, recipients, listed, size, reply, began } = message;
    let Subject { id, client, listener, secured, name, server, .. } = *subject;
    shared.metrics.message(outcome);
    if size > 0 {
        shared.metrics.message_size(size);
    }
    let code = reply.code().get();
    let [sender, reply] = [sender, reply.shown()].map(|text| printable(text.as_bytes()));
    let more = (recipients as usize).saturating_sub(listed.len());
    let others = (more > 0).then(|| format!("and {more} more"));
    let to = listed.iter().map(|path| printable(path.as_bytes())).chain(others).reduce(|to, next| to + " " + &next);
    let (helo, user, ip, port) = (subject.helo(), subject.user(), client.ip(), client.port());
    let queue_id = (outcome == Outcome::Accepted).then(|| queue_id(&reply)).flatten();
    let duration_ms = milliseconds(crate::clock::now().since(began));
    macro_rules! line {
        ($level:ident, $words:literal) => {
            tracing::$level!(
                session = id, client = %ip, port, name, helo, tls = secured.map(|tls| tls.version),
                cipher = secured.map(|tls| tls.cipher), user, outcome = outcome.label(), sender = sender.as_str(),
                to = to.as_deref().unwrap_or_default(), recipients, size, code, reply = reply.as_str(), queue_id, %listener,
                backend = server.map(tracing::field::display), duration_ms, $words
            )
        };
    }
    match outcome {
        Outcome::Ambiguous => line!(warn, "message may have been delivered although the client heard no 250"),
        _ => line!(info, "message"),
    }
    publish(
        shared,
        What::Message {
            session: id.to_owned(),
            client: ip.to_string(),
            outcome: outcome.label().into(),
            sender,
            recipient_count: recipients.into(),
            size_bytes: size,
            reply,
        },
    );
}

/// The line about a session that is over, and how it was counted.
pub(super) fn ended(shared: &Shared, subject: &Subject<'_>, role: Role, sum: &Sum, began: Instant) {
    let now = crate::clock::now();
    let Some(left_out) = ENDS.take(now) else {
        return shared.metrics.bound_reached(Bound::LogEnds);
    };
    let Subject { id, client, listener, secured, name, .. } = *subject;
    let Sum { messages, refused, reason } = *sum;
    let (helo, user) = (subject.helo(), subject.user());
    tracing::info!(
        session = id, client = %client.ip(), port = client.port(), name, helo, tls = secured.map(|tls| tls.version),
        cipher = secured.map(|tls| tls.cipher), user, %listener, role = role.label(), messages, refused,
        reason = reason.map(Reason::label), duration_ms = milliseconds(now.since(began)),
        left_out = (left_out > 0).then_some(left_out), "session ended"
    );
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn format(shared: &Shared) -> LogFormat {
    shared.current.load().config().log.format
}

fn refused(shared: &Shared, id: &str, client: ClientAddr, reason: Reason, details: &Details, observed: bool) {
    if !within_budget(shared) {
        return;
    }
    let reply = details.reply.as_ref().map(Reply::shown).unwrap_or_default();
    let refused = Refused {
        sender: details.sender.as_deref(),
        recipient: details.recipient.as_deref(),
        reply: &reply,
        note: &details.note,
        observed,
    };
    log::refused(format(shared), id, client, reason, &refused);
    if !observed {
        let word = |word: &str| printable(word.as_bytes());
        publish(
            shared,
            What::CommandRefused {
                session: id.to_owned(),
                client: client.ip().to_string(),
                reason: reason.label().into(),
                sender: details.sender.as_deref().map(word),
                recipient: details.recipient.as_deref().map(word),
                reply: word(&reply),
            },
        );
    }
}

fn publish(shared: &Shared, what: What) {
    shared.events.publish(crate::clock::wall(), what);
}

fn within_budget(shared: &Shared) -> bool {
    match REFUSALS.take(crate::clock::now()) {
        Some(0) => true,
        Some(left_out) => {
            tracing::warn!(left_out, "lines about refusals were left out; the metrics have counted them");
            true
        }
        None => {
            shared.metrics.bound_reached(Bound::LogRefusals);
            false
        }
    }
}
