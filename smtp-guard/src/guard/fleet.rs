//! The ledger's task and the fleet, put together: what happens here is told, what is heard is followed.

use std::time::Duration;

use smtp_guard_core::fleet::PART;
use smtp_guard_core::fleet::member::Decided;
use smtp_guard_core::fleet::message::Counted;
use tokio::sync::mpsc;

use crate::bound::Bound;
use crate::clock::{Both, Instant};
use crate::decision::{ControlError, Decision, Name, Weight};
use crate::events::Bus;
use crate::feedback::{Feedback, Peers};
use crate::fleet::{Event, Evidence, Fleet};
use crate::observe::metrics::Metrics;
use crate::offence::{Conduct, Digest};
use crate::rates::Sum;

mod news;

use news::News;

/// How often the fleet is looked at for what is worth an event.
const LOOK: Duration = Duration::from_secs(1);

/// The way from the ledger's task to the fleet.
pub(super) struct Told(pub(super) Fleet, pub(super) Metrics);

impl Told {
    fn told(&self, has_room: bool) {
        if !has_room {
            self.1.bound_reached(Bound::Fleet);
        }
    }
}

impl Peers for Told {
    fn are_there(&self) -> bool {
        self.0.is_on()
    }

    fn reported(&self, source: &str, at: Instant, conduct: &Conduct) {
        self.told(self.0.report(source, at, conduct));
    }

    fn counted(&self, who: Result<&str, Digest>, at: Instant, sum: Sum) {
        self.told(self.0.count(who, at, sum));
    }

    fn decided(&self, decision: Decision, upon: Option<&Name>, now: Both) {
        self.told(self.0.decided(decision, upon, now));
    }

    fn lifted(&self, source: &str, now: Both, until: Instant) {
        self.told(self.0.lifted(source, now.instant, until));
    }
}

/// Takes what the fleet says to the ledger's task, in its order, until the guard stops.
pub(super) async fn follow(mut events: mpsc::Receiver<Event>, feedback: Feedback) {
    while let Some(event) = events.recv().await {
        // Whoever asked may have gone away.
        let done = match event {
            Event::Evidence(evidence, answer) => {
                let heard = hear(&feedback, evidence).await;
                heard.map(|weights| _ = answer.send(weights))
            }
            Event::Decided(decided, answer) => take(&feedback, decided).await.map(|weights| _ = answer.send(weights)),
            Event::Void(node, from, to, answer) => {
                feedback.void(node, from, to).await.map(|void| _ = answer.send(void))
            }
            Event::Friends(after, answer) => feedback.friends(after, PART).await.map(|part| _ = answer.send(part)),
            Event::Befriend(friends, answer) => feedback.befriend(friends).await.map(|new| _ = answer.send(new)),
            Event::Joined => feedback.tell_all().await,
        };
        if let Err(error) = done {
            tracing::warn!(%error, "the fleet's messages are not followed");
        }
    }
}

/// Publishes what changes in the fleet, until the guard stops: whether its server answers, and which edges are there.
pub(super) async fn watch(fleet: Fleet, events: Bus) {
    let mut news = News::default();
    loop {
        let now = crate::clock::wall();
        news.of(fleet.status().as_ref(), now).into_iter().for_each(|what| events.publish(now, what));
        tokio::time::sleep(LOOK).await;
    }
}

/// What each ban weighs that follows.
async fn hear(feedback: &Feedback, evidence: Evidence) -> Result<Vec<Weight>, ControlError> {
    if !evidence.counts.is_empty() {
        let who = |who| match who {
            Counted::Source(source) => Ok(source),
            Counted::User(user) => Err(Digest::from_number(user)),
        };
        feedback.count(evidence.counts.into_iter().map(|(counted, at, sum)| (who(counted), at, sum)).collect()).await?;
    }
    if evidence.reports.is_empty() { Ok(Vec::new()) } else { feedback.hear(evidence.node, evidence.reports).await }
}

/// Decisions of one edge that follow one another are one batch. What each of all weighs.
async fn take(feedback: &Feedback, decided: Vec<Decided>) -> Result<Vec<Weight>, ControlError> {
    let mut weights = Vec::with_capacity(decided.len());
    let mut decided = decided.into_iter().peekable();
    while let Some(first) = decided.next() {
        match first {
            Decided::Ban(node, ban) => {
                let mut bans = vec![ban];
                let is_same = |next: &Decided| matches!(next, Decided::Ban(other, _) if *other == node);
                while let Some(Decided::Ban(_, ban)) = decided.next_if(is_same) {
                    bans.push(ban);
                }
                weights.extend(feedback.hear_of(node, bans).await?);
            }
            Decided::Lift(node, source, at) => {
                let mut lifts = vec![(source, at)];
                let is_same = |next: &Decided| matches!(next, Decided::Lift(other, ..) if *other == node);
                while let Some(Decided::Lift(_, source, at)) = decided.next_if(is_same) {
                    lifts.push((source, at));
                }
                weights.resize(weights.len() + lifts.len(), Weight::Nothing);
                feedback.hear_lifts(node, lifts).await?;
            }
        }
    }
    Ok(weights)
}
