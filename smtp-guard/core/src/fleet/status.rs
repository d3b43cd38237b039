//! The fleet as one edge sees it, for status, metrics and page.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::message::Fault;
use crate::clock::Instant;

/// How often a fault is told of that goes on.
pub const TELL: Duration = Duration::from_secs(600);

/// How the fleet is, as this edge sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FleetStatus {
    /// Of the fleet.
    pub name: String,
    /// This edge.
    pub node: String,
    /// The server answers.
    pub connected: bool,
    /// Why not, in words.
    pub trouble: Option<String>,
    /// Which server answers.
    pub server: Option<String>,
    /// This wall clock less the server's, in ms; `None`: not known yet.
    pub offset: Option<i64>,
    /// Reports and decisions that wait for the server.
    pub kept: u64,
    /// Reports and decisions that found no room, or waited for too long.
    pub lost: u64,
    /// Reports that were sent, and reports of others that were heard.
    pub sent: u64,
    pub heard: u64,
    /// Sources and networks about which the fleet has decided something.
    pub decisions: u64,
    /// Snapshots that were read: one at the start, and one each time the cursor is lost.
    pub snapshots: u64,
    /// Messages that were ignored, by [`Fault::label`].
    pub ignored: Vec<(String, u64)>,
    pub nodes: Vec<NodeView>,
}

/// One edge, as it says and as it is seen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeView {
    pub node: String,
    pub version: String,
    /// How long ago it was heard of, in ms.
    pub ago: i64,
    /// It was heard of lately.
    pub live: bool,
    pub offset: i64,
    /// What it has followed of the changes of decisions.
    pub cursor: String,
    /// This edge doesn't listen to it.
    pub muted: bool,
    pub kept: u64,
    pub lost: u64,
}

/// How often each fault was found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults([u64; Fault::ALL.len()]);

impl Faults {
    /// One more.
    pub fn note(&mut self, fault: Fault) {
        for (count, other) in self.0.iter_mut().zip(Fault::ALL) {
            *count += u64::from(other == fault);
        }
    }

    fn of(self, fault: Fault) -> u64 {
        self.0.into_iter().zip(Fault::ALL).find(|(_, other)| *other == fault).map_or(0, |(count, _)| count)
    }

    /// By label.
    pub fn by_label(self) -> impl Iterator<Item = (&'static str, u64)> {
        Fault::ALL.into_iter().map(Fault::label).zip(self.0)
    }
}

/// What the log was told of faults.
#[derive(Clone, Debug, Default)]
pub struct Told([(u64, Option<Instant>); Fault::ALL.len()]);

impl Told {
    /// The faults that the log is to be told of at `now`, each with how many there were since it was told last: a new one at once, one
    /// that goes on each [`TELL`]. Whoever is muted was told of when that began.
    pub fn news(&mut self, faults: Faults, now: Instant) -> Vec<(Fault, u64)> {
        let mut news = Vec::new();
        for ((told, at), fault) in self.0.iter_mut().zip(Fault::ALL) {
            let new = faults.of(fault).saturating_sub(*told);
            let is_due = at.is_none_or(|at| now.since(at) >= TELL);
            if new > 0 && is_due && fault != Fault::Muted {
                (*told, *at) = (faults.of(fault), Some(now));
                news.push((fault, new));
            }
        }
        news
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A second, the faults that are found then, and what the log is told of.
    type Step<'a> = (u64, &'a [Fault], &'a [(Fault, u64)]);

    #[track_caller]
    fn check(steps: &[Step<'_>]) {
        let (mut faults, mut told) = (Faults::default(), Told::default());
        for (second, found, expected) in steps {
            found.iter().for_each(|fault| faults.note(*fault));
            let news = told.news(faults, Instant::from_ns(second * 1_000_000_000));
            assert_eq!(news, *expected, "{steps:?} at {second}");
        }
    }

    #[test]
    fn a_fault_is_told_of_at_once_and_then_each_ten_minutes() {
        use Fault::{Code, Form, Muted};
        check(&[(0, &[], &[]), (1, &[Code, Code], &[(Code, 2)]), (2, &[Code], &[]), (601, &[Code], &[(Code, 2)])]);
        check(&[(0, &[Form], &[(Form, 1)]), (1, &[Code], &[(Code, 1)]), (900, &[], &[]), (901, &[Form], &[(Form, 1)])]);
        check(&[(0, &[Muted, Muted], &[])]);
    }
}
