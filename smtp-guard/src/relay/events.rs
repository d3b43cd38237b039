//! What sessions tell log, metrics and event bus. Counts and lines are there before a session goes on.

use smtp_guard_ebpf::reason::Reason;

use super::Shared;
use crate::addr::ClientAddr;
use crate::bound::Bound;
use crate::events::What;
use crate::observe::budget::Budget;
use crate::observe::log;
use crate::observe::words::Refused;
use crate::session::Outcome;
use crate::session::{About, Event, Message};

/// Lines and events a second about refusals: strangers cause them.
static REFUSALS: Budget = Budget::new(200);

/// Counts, logs and publishes `event` of the session `id`.
pub(super) fn observe(shared: &Shared, id: &str, client: ClientAddr, event: Event) {
    match event {
        Event::Refused { reason, about } => {
            shared.metrics.rejected(reason);
            refused(shared, id, client, reason, &about, false);
        }
        Event::Observed { reason, about } => {
            shared.metrics.observed(reason);
            refused(shared, id, client, reason, &about, true);
        }
        Event::Ended { reason } => {
            shared.metrics.rejected(reason);
            if !within_budget(shared) {
                return;
            }
            if reason.is_offence() {
                log::rejected(client, reason, id);
            } else {
                tracing::info!(session = id, client = %client.ip(), reason = reason.label(), "session ended");
            }
            let (session, client) = (id.to_owned(), client.ip().to_string());
            publish(shared, What::ConnectionRefused { session, client, reason: reason.label().into() });
        }
        Event::Authenticated { user } => {
            let user = log::printable(user.as_bytes());
            tracing::info!(session = id, client = %client.ip(), user, "authenticated");
        }
        Event::Message(Message { outcome, sender, recipients, size, reply }) => {
            shared.metrics.message(outcome);
            if size > 0 {
                shared.metrics.message_size(size);
            }
            let sender = log::printable(sender.as_bytes());
            let reply = log::printable(reply.as_bytes());
            let outcome_label = outcome.label();
            if outcome == Outcome::Ambiguous {
                tracing::warn!(session = id, client = %client.ip(), outcome = outcome_label, sender = sender.as_str(), recipients, size, reply = reply.as_str(),
                    "message may have been delivered although the client heard no 250");
            } else {
                tracing::info!(session = id, client = %client.ip(), outcome = outcome_label, sender = sender.as_str(), recipients, size, reply = reply.as_str(),
                    "message");
            }
            publish(
                shared,
                What::Message {
                    session: id.to_owned(),
                    client: client.ip().to_string(),
                    outcome: outcome_label.into(),
                    sender,
                    recipients: recipients.into(),
                    size,
                    reply,
                },
            );
        }
    }
}

fn refused(shared: &Shared, id: &str, client: ClientAddr, reason: Reason, about: &About, observed: bool) {
    if !within_budget(shared) {
        return;
    }
    let reply = about.reply.as_ref().map(ToString::to_string).unwrap_or_default();
    let refused = Refused {
        sender: about.sender.as_deref(),
        recipient: about.recipient.as_deref(),
        reply: &reply,
        note: &about.note,
        observed,
    };
    log::refused(shared.current.load().config().log.format, id, client, reason, &refused);
    if !observed {
        let word = |word: &str| log::printable(word.as_bytes());
        publish(
            shared,
            What::CommandRefused {
                session: id.to_owned(),
                client: client.ip().to_string(),
                reason: reason.label().into(),
                sender: about.sender.as_deref().map(word),
                recipient: about.recipient.as_deref().map(word),
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
