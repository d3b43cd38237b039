//! The ledger's task and the fleet, put together: what happens here is told, what is heard is followed.

use std::time::Duration;

use smtp_guard_core::fleet::member::Decided;
use tokio::sync::mpsc;

use crate::bound::Bound;
use crate::clock::{Both, Instant};
use crate::decision::{ControlError, Decision};
use crate::events::Bus;
use crate::feedback::{Feedback, Peers};
use crate::fleet::{Event, Fleet};
use crate::observe::metrics::Metrics;
use crate::offence::Conduct;

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

    fn decided(&self, decision: Decision, now: Both) {
        self.told(self.0.decided(decision, now));
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
                let bans = feedback.hear(evidence.node, evidence.reports).await;
                bans.map(|bans| _ = answer.send(bans))
            }
            Event::Decided(decided, answer) => take(&feedback, decided).await.map(|()| _ = answer.send(())),
            Event::Void(node, since, answer) => feedback.void(node, since).await.map(|void| _ = answer.send(void)),
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

/// Decisions of one edge that follow one another are one batch.
async fn take(feedback: &Feedback, decided: Vec<Decided>) -> Result<(), ControlError> {
    let mut decided = decided.into_iter().peekable();
    while let Some(first) = decided.next() {
        match first {
            Decided::Ban(node, ban) => {
                let mut bans = vec![ban];
                let is_same = |next: &Decided| matches!(next, Decided::Ban(other, _) if *other == node);
                while let Some(Decided::Ban(_, ban)) = decided.next_if(is_same) {
                    bans.push(ban);
                }
                feedback.hear_of(node, bans).await?;
            }
            Decided::Lift(node, source, at) => {
                let mut lifts = vec![(source, at)];
                let is_same = |next: &Decided| matches!(next, Decided::Lift(other, ..) if *other == node);
                while let Some(Decided::Lift(_, source, at)) = decided.next_if(is_same) {
                    lifts.push((source, at));
                }
                feedback.hear_lifts(node, lifts).await?;
            }
        }
    }
    Ok(())
}
