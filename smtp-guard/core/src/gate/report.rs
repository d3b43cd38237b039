//! Between sessions and ledger: a report to what follows from it, and what a recipient is judged by. The one place where the
//! ledger is asked, for the program and for the trial.
//!
//! Pure but for the marks, which sessions look at; `now` is passed in.

use crate::addr::Source;
use crate::clock::Instant;
use crate::ledger::{Ledger, Target, Verdict};
use crate::marks::Marks;
use crate::offence::{Conduct, Digest};

/// What is known when a recipient is judged, but for look-ups.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// The source, its network or the sender hears 4xx.
    pub deferred: bool,
    /// The recipient doesn't exist: the backend has said so to others.
    pub unknown: bool,
}

/// What is known of a recipient that `source` names on behalf of `sender`. `is_unknown`: others were told that it doesn't exist.
pub fn known(marks: &Marks, source: Source, sender: Digest, now: Instant, is_unknown: impl FnOnce() -> bool) -> Known {
    let mark = marks.of(source, now);
    let deferred = mark.deferred_until.is_some() || marks.is_sender_deferred(source, sender, now);
    // What others were told answers strangers only: a backend may answer by sender, and a partner must not pay for that.
    let unknown = !deferred && !mark.familiar && is_unknown();
    Known { deferred, unknown }
}

/// Takes note of `conduct` of `source` at `now`. What is deferred by it is deferred when this returns; bans are the caller's to
/// make. `is_banned`: it is banned already. `is_exempt`: who must never be touched.
pub fn report(
    ledger: &mut Ledger,
    marks: &Marks,
    source: Source,
    conduct: Conduct,
    now: Instant,
    is_banned: bool,
    is_exempt: impl Fn(Source) -> bool,
) -> Vec<Verdict> {
    // What was under way when the ban fell must not double it, nor the next one: the ledger would reckon with a ban that
    // nobody made. A message whose dot was sent may still be accepted.
    let accepted = conduct == Conduct::MessageAccepted;
    let asks = !accepted && !matches!(conduct, Conduct::Offence(_));
    if !accepted && is_banned || asks && marks.of(source, now).deferred_until.is_some() {
        return Vec::new();
    }
    let mut verdicts = ledger.observe(source, conduct, now);
    verdicts.retain(|verdict| !matches!(verdict.target, Target::Ban(target) if is_exempt(target)));
    for verdict in &verdicts {
        let until = now.after(verdict.length);
        match verdict.target {
            Target::Ban(_) => {}
            Target::Defer(target) => marks.defer(target, until),
            Target::DeferNetwork(network) => marks.defer_network(network, until),
            Target::DeferSender(target, sender) => {
                // One that finds no room goes on to be refused at the trap.
                let _ = marks.defer_sender(target, sender, until);
            }
        }
    }
    // A message makes a history, and a trip uses it up.
    if accepted || !verdicts.is_empty() {
        marks.history(source, ledger.is_familiar(source));
    }
    verdicts
}

/// Takes the marks off sources that had to make room in `ledger` since the last call: how many those were, and how many reports
/// found no room.
pub fn clear(ledger: &mut Ledger, marks: &Marks) -> (usize, u64) {
    let evicted = ledger.take_evicted();
    for source in &evicted {
        marks.forget(*source, false);
    }
    (evicted.len(), ledger.take_not_admitted())
}
