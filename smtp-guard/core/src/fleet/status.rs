//! The fleet as one edge sees it, for status, metrics and page.

use serde::{Deserialize, Serialize};

use super::message::Fault;

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

    /// By label.
    pub fn by_label(self) -> impl Iterator<Item = (&'static str, u64)> {
        Fault::ALL.into_iter().map(Fault::label).zip(self.0)
    }
}
