//! Questions under way: whoever asks the same meanwhile waits for their answer instead of a place of its own.
//!
//! The first asker leads. When it ends, followers look into the memory; if nothing was kept there, one of them leads next.
//!
//! # Bounds
//! One entry for each asker that leads. Followers hold no place among the look-ups and cause no question.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use super::answer::Question;

#[derive(Debug, Default)]
pub(super) struct Flights(Mutex<HashMap<Question, watch::Receiver<()>>>);

/// The part of an asker.
pub(super) enum Part<'a> {
    Lead(Lead<'a>),
    Follow(Follow),
}

/// Ends the flight when dropped.
pub(super) struct Lead<'a> {
    flights: &'a Flights,
    question: Question,
    _end: watch::Sender<()>,
}

pub(super) struct Follow(watch::Receiver<()>);

impl Flights {
    pub(super) fn board(&self, question: &Question) -> Part<'_> {
        let mut flights = self.table();
        if let Some(flight) = flights.get(question) {
            return Part::Follow(Follow(flight.clone()));
        }
        let (end, flight) = watch::channel(());
        flights.insert(question.clone(), flight);
        Part::Lead(Lead { flights: self, question: question.clone(), _end: end })
    }

    // A panic elsewhere can't leave the table half changed.
    fn table(&self) -> MutexGuard<'_, HashMap<Question, watch::Receiver<()>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Lead<'_> {
    fn drop(&mut self) {
        self.flights.table().remove(&self.question);
    }
}

impl Follow {
    /// Resolves when the leader has ended. Cancel safe.
    pub(super) async fn ended(mut self) {
        // Nothing is ever sent: it ends when the leader is dropped.
        while self.0.changed().await.is_ok() {}
    }
}
