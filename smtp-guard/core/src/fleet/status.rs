//! The fleet as one edge sees it, for status and metrics.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::message::Fault;
use crate::clock::{Instant, Seconds, WallTime};

/// How often a fault is told of that goes on.
pub const TELL: Duration = Duration::from_secs(600);

/// How the fleet is, as this edge sees it. Times are in this machine's wall time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FleetStatus {
    /// The fleet's name.
    pub name: String,
    /// This edge.
    pub node: String,
    /// Whether this edge tells others what it sees, and whether it follows what they tell.
    pub sends: bool,
    pub receives: bool,
    /// The server answers.
    pub connected: bool,
    /// Since when it does, or doesn't.
    pub since: WallTime,
    /// Why not, in words; `None`: it does, or was not asked yet.
    pub trouble: Option<String>,
    /// Which server answers, or did last.
    pub server: Option<String>,
    /// This wall clock less the server's; `None`: not known yet.
    pub clock_offset_seconds: Option<Offset>,
    /// Reports and decisions that wait for the server.
    pub kept: u64,
    /// Reports and decisions that found no room, or waited for too long.
    pub lost: u64,
    /// Reports that were sent, and reports of others that were heard.
    pub reports_sent: u64,
    pub reports_heard: u64,
    /// Sources and networks about which the fleet has decided something.
    pub decisions_known: u64,
    /// Sources that were familiar here only by what edges remember, when this one started.
    #[serde(default)]
    pub history_sources: u64,
    /// How often all that the server holds was read: once at the start, and each time that the cursor is lost.
    pub snapshots: u64,
    /// Messages that were ignored, by [`Fault::label`]; all that can be, also at 0.
    pub ignored: Vec<Ignored>,
    /// Edges that were heard of within a day, this one included, by name.
    pub nodes: Vec<NodeView>,
}

/// So many messages that were ignored for one reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ignored {
    pub reason: String,
    pub count: u64,
}

/// One edge, as it says and as it is seen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeView {
    pub name: String,
    /// The version of its program.
    pub program_version: String,
    /// How long ago it said how it is.
    pub silent_seconds: Seconds,
    /// Whether it was there recently.
    pub live: bool,
    /// Its wall clock less the server's.
    pub clock_offset_seconds: Offset,
    /// The last change of decisions that it has followed; empty: it doesn't follow.
    pub cursor: String,
    /// Why this edge doesn't listen to it; `None`: it does.
    pub muted: Option<MutedView>,
    /// Edges that it doesn't listen to.
    pub ignores: Vec<String>,
    /// As in [`FleetStatus`].
    pub kept: u64,
    pub lost: u64,
}

/// Why an edge isn't listened to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MutedView {
    pub since: WallTime,
    pub until: WallTime,
    pub text: String,
}

/// A difference of clocks in ms: a number of seconds in JSON, with a fraction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(from = "f64", into = "f64")]
pub struct Offset(pub i64);

impl From<f64> for Offset {
    fn from(seconds: f64) -> Self {
        Self((seconds * 1000.0).round() as i64)
    }
}

impl From<Offset> for f64 {
    fn from(Offset(ms): Offset) -> Self {
        ms as Self / 1000.0
    }
}

impl FleetStatus {
    /// Edges that were heard of lately, this one included.
    pub fn live(&self) -> usize {
        self.nodes.iter().filter(|node| node.live).count()
    }

    /// Edges that this one doesn't listen to.
    pub fn muted(&self) -> usize {
        self.nodes.iter().filter(|node| node.muted.is_some()).count()
    }
}

/// So many ms, at least none, as a length of time.
pub(super) fn length(ms: i64) -> Seconds {
    Seconds(Duration::from_millis(u64::try_from(ms).unwrap_or_default()))
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

/// The faults that the log was told, with their times.
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

    #[test]
    fn an_offset_is_seconds_in_json() {
        for (ms, json) in [(0, "0.0"), (1, "0.001"), (-90_250, "-90.25")] {
            assert_eq!(serde_json::to_string(&Offset(ms)).unwrap(), json);
            assert_eq!(serde_json::from_str::<Offset>(json).unwrap(), Offset(ms));
        }
    }
}
