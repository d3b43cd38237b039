//! What `smtp-guard status` shows: one snapshot, written by the running guard and read by the command line.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::bounds::{Bounds, Reached};
pub use super::certificates::{Certificate, Certificates};
use super::drops::Drops;
pub use super::kernel::Kernel;
use super::metrics::Metrics;
use crate::blocklist::State;
use crate::clock::{Instant, WallTime};
use crate::session::Outcome;
use crate::store;

/// A snapshot of the running guard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    pub version: String,
    pub uptime_seconds: u64,
    pub configuration: Configuration,
    pub listeners: Vec<String>,
    pub backend: Vec<Server>,
    pub certificates: Vec<Certificate>,
    /// Clients connected now.
    pub connections: u64,
    pub recipients: Recipients,
    /// Since the start.
    pub messages: Messages,
    /// Bans in force now.
    pub bans_active: u64,
    /// Those of them that are of networks.
    #[serde(default)]
    pub networks_active: u64,
    /// Why decisions and counts are not written to disk; `None`: they are.
    pub store_trouble: Option<String>,
    pub blocklists: Vec<State>,
    pub kernel: Kernel,
    /// What the operator should know: limits of this host, and settings that are probably not meant so.
    pub warnings: Vec<String>,
    /// Bounds that were reached since the start.
    pub bounds: Vec<Reached>,
}

/// A server of the backend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Server {
    pub address: String,
    /// It did when it was last looked at; no before that.
    pub answers: bool,
    /// Connections to it on behalf of clients.
    pub connections: u32,
}

/// Who knows what is in force now, of what can change while the guard runs.
pub trait Running: Debug + Send + Sync {
    /// The addresses that are listened on.
    fn listeners(&self) -> Vec<String>;
    /// All servers of the backend, in the order of the configuration.
    fn servers(&self) -> Vec<Server>;
    /// Our certificates as they are at `now`.
    fn certificates(&self, now: WallTime) -> Vec<Certificate>;
    /// See [`Status::warnings`].
    fn warnings(&self) -> Vec<String>;
    fn configuration(&self) -> Configuration;
}

/// The configuration in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Configuration {
    /// Counted from 1, the start.
    pub generation: u64,
    /// When it came into force.
    pub since: WallTime,
    /// `None`: there was none since the start.
    pub last_reload: Option<LastReload>,
    /// Keys whose values in the file wait for a restart.
    pub waiting: Vec<String>,
    /// Sessions that go on by an earlier generation.
    pub earlier_sessions: u64,
}

/// The last attempt to reload the configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastReload {
    pub at: WallTime,
    /// Why nothing was changed; `None`: it was applied.
    pub error: Option<String>,
}

/// What is known of recipients.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recipients {
    /// Entries of the recipient table. `None`: the backend is asked.
    pub known: Option<u64>,
    /// Domains of which the backend takes any recipient: there nobody can be told to guess.
    pub catch_all: Vec<String>,
    /// How each server says that a recipient is unknown, as it was heard of some that nobody has.
    #[serde(default)]
    pub unknown_wordings: BTreeMap<String, String>,
}

/// Messages by what became of them, since the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Messages {
    pub accepted: u64,
    pub rejected: u64,
    pub deferred: u64,
    pub ambiguous: u64,
}

/// What doesn't change while the guard runs, and where the rest is read.
#[derive(Clone, Debug)]
pub struct About {
    pub started: Instant,
    pub running: Arc<dyn Running>,
    pub metrics: Metrics,
    pub bounds: Bounds,
    pub store: store::State,
    pub drops: Arc<Drops>,
}

impl About {
    /// The snapshot of `now`. Looks at the kernel plane: not for a thread that must not wait for system calls.
    pub fn status(&self, now: Instant) -> Status {
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_seconds: now.since(self.started).as_secs(),
            configuration: self.running.configuration(),
            listeners: self.running.listeners(),
            backend: self.running.servers(),
            certificates: self.running.certificates(crate::clock::wall()),
            connections: self.metrics.connections(),
            recipients: Recipients {
                known: self.metrics.known_recipients(),
                catch_all: self.metrics.catch_all_domains(),
                unknown_wordings: self.metrics.unknown_wordings(),
            },
            messages: Messages {
                accepted: self.metrics.messages(Outcome::Accepted),
                rejected: self.metrics.messages(Outcome::Rejected),
                deferred: self.metrics.messages(Outcome::Deferred),
                ambiguous: self.metrics.messages(Outcome::Ambiguous),
            },
            bans_active: self.metrics.bans_in_force(),
            networks_active: self.metrics.networks_in_force(),
            store_trouble: self.store.trouble(),
            blocklists: self.metrics.blocklist_states(),
            kernel: self.metrics.kernel_state(),
            warnings: self.running.warnings(),
            bounds: self.bounds.view(),
        }
    }
}
