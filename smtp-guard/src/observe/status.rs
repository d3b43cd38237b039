//! The snapshot that `smtp-guard status` shows, written by the running guard and read by the command line.

use std::fmt::Debug;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use smtp_guard_core::webhook::WebhookStatus;
use smtp_guard_ebpf::abi::Family;
use smtp_guard_ebpf::reason::Reason;

use super::bounds::{Bounds, Reached};
pub use super::certificates::Certificate;
use super::drops::Drops;
pub use super::kernel::Kernel;
use super::live::SessionView;
use super::metrics::Metrics;
use crate::blocklist::State;
use crate::clock::{Instant, Seconds, WallTime};
use crate::events::Bus;
use crate::fleet::FleetStatus;
use crate::rates::accounts::HeldUsers;
use crate::session::Outcome;

/// A snapshot of the running guard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The version of the program; an answer's `version` is that of the answer.
    #[serde(rename = "program_version", alias = "version")]
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
    /// Users who are held, by a limit or by the operator.
    #[serde(default)]
    pub held_users: HeldUsers,
    /// The fleet as this edge sees it; `None`: it takes part in none.
    #[serde(default)]
    pub fleet: Option<FleetStatus>,
    /// The webhook that is told of events; `None`: there is none.
    #[serde(default)]
    pub webhook: Option<WebhookStatus>,
    /// No DNS server answers, as far as is known.
    #[serde(default)]
    pub dns_silent: bool,
    /// Why decisions and counts are not written to disk; `None`: they are.
    pub store_trouble: Option<String>,
    /// Why our certificates can't be used as they are in their files now; `None`: they can.
    #[serde(default)]
    pub tls_trouble: Option<String>,
    pub blocklists: Vec<State>,
    pub kernel: Kernel,
    /// Warnings for the operator: limits of this host, and settings that are probably mistakes.
    pub warnings: Vec<String>,
    /// Bounds that were reached since the start.
    pub bounds: Vec<Reached>,
}

/// A server of the backend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Server {
    pub address: String,
    /// Whether it answered when it was last looked at; false before that.
    pub answers: bool,
    /// Connections to it on behalf of clients.
    pub connections: u32,
    /// How long the last connection took that was opened to it, until its last EHLO; `None`: there was none yet.
    #[serde(default)]
    pub round_trip_seconds: Option<Seconds>,
}

/// An address that is listened on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    pub address: String,
    /// Connections accepted there.
    pub accepted: u64,
}

/// Bans in force.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bans {
    pub all: u64,
    /// Those of them that are of networks.
    pub networks: u64,
}

/// The state in force now, where it can change while the guard runs. `status` and metrics ask, and keep no copy.
pub trait Running: Debug + Send + Sync {
    /// The addresses that are listened on.
    fn listeners(&self) -> Vec<Listener>;
    /// All servers of the backend, in the order of the configuration.
    fn servers(&self) -> Vec<Server>;
    /// Clients connected now.
    fn connections(&self) -> u64;
    /// Open sessions, those of the source with most of them first, at most `most`.
    fn sessions(&self, most: usize) -> Vec<SessionView>;
    /// Clients that may be connected at once.
    fn connections_limit(&self) -> u64;
    /// Limits by their keys in `[limits]`, as they are in force; 0: there is none.
    fn limits(&self) -> Vec<(&'static str, u64)>;
    /// Bans in force now.
    fn bans(&self) -> Bans;
    /// Users who are held now.
    fn held_users(&self) -> HeldUsers;
    fn recipients(&self) -> Recipients;
    /// See [`Status::fleet`].
    fn fleet(&self) -> Option<FleetStatus>;
    /// See [`Status::webhook`].
    fn webhook(&self) -> Option<WebhookStatus>;
    /// See [`Status::dns_silent`].
    fn is_dns_silent(&self) -> bool;
    /// See [`Status::store_trouble`].
    fn store_trouble(&self) -> Option<String>;
    /// Attempts to write the store that failed since the start.
    fn store_failures(&self) -> u64;
    /// The block lists as they were last looked at.
    fn blocklists(&self) -> Vec<State>;
    /// Whether the kernel plane enforces now. Takes system calls.
    fn kernel(&self) -> Kernel;
    /// Packets that the kernel plane judged since it was loaded; nothing without one. Takes system calls.
    fn packets(&self) -> Vec<(Reason, Family, u64)>;
    /// Our certificates as they are at `now`.
    fn certificates(&self, now: WallTime) -> Vec<Certificate>;
    /// See [`Status::tls_trouble`].
    fn tls_trouble(&self) -> Option<String>;
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

/// The state of recipients.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recipients {
    /// Entries of the recipient table. `None`: the backend is asked.
    pub known: Option<u64>,
    /// When the table was read.
    #[serde(default)]
    pub last_read: Option<WallTime>,
    /// Domains of which the backend takes any recipient: there nobody can be told to guess.
    pub catch_all: Vec<String>,
    /// How each server says that a recipient is unknown, as it was heard of some that nobody has.
    #[serde(default)]
    pub unknown_wordings: Vec<Wording>,
    /// Why the file of the table isn't used as it is now; what was read before is in force.
    #[serde(default)]
    pub trouble: Option<String>,
}

/// A server's words for a recipient that is unknown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wording {
    pub server: String,
    pub words: String,
}

/// Messages by what became of them, since the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Messages {
    pub accepted: u64,
    pub rejected: u64,
    pub deferred: u64,
    pub ambiguous: u64,
}

/// The parts of the state that don't change while the guard runs, and where the rest is read.
#[derive(Clone, Debug)]
pub struct Overview {
    pub started: Instant,
    pub running: Arc<dyn Running>,
    /// Counts since the start, which live there.
    pub metrics: Metrics,
    pub events: Bus,
    pub bounds: Bounds,
    pub drops: Arc<Drops>,
}

impl Overview {
    /// The snapshot of `now`. Looks at the kernel plane: not for a thread that must not wait for system calls.
    pub fn status(&self, now: Instant) -> Status {
        let Bans { all, networks } = self.running.bans();
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_seconds: now.since(self.started).as_secs(),
            configuration: self.running.configuration(),
            listeners: self.running.listeners().into_iter().map(|listener| listener.address).collect(),
            backend: self.running.servers(),
            certificates: self.running.certificates(crate::clock::wall()),
            connections: self.running.connections(),
            recipients: self.running.recipients(),
            messages: Messages {
                accepted: self.metrics.messages(Outcome::Accepted),
                rejected: self.metrics.messages(Outcome::Rejected),
                deferred: self.metrics.messages(Outcome::Deferred),
                ambiguous: self.metrics.messages(Outcome::Ambiguous),
            },
            bans_active: all,
            networks_active: networks,
            held_users: self.running.held_users(),
            fleet: self.running.fleet(),
            webhook: self.running.webhook(),
            dns_silent: self.running.is_dns_silent(),
            store_trouble: self.running.store_trouble(),
            tls_trouble: self.running.tls_trouble(),
            blocklists: self.running.blocklists(),
            kernel: self.running.kernel(),
            warnings: self.running.warnings(),
            bounds: self.bounds.view(),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::fleet;
    use super::*;

    /// A guard's state, made up for tests.
    #[derive(Clone, Debug, Default)]
    pub(in crate::observe) struct Fake {
        pub(in crate::observe) connections: u64,
        pub(in crate::observe) bans: Bans,
        pub(in crate::observe) known: Option<u64>,
        pub(in crate::observe) catch_all: Vec<String>,
        pub(in crate::observe) blocklists: Vec<State>,
        pub(in crate::observe) fleet: Option<FleetStatus>,
    }

    /// The overview of a guard made up for tests.
    pub(in crate::observe) fn overview() -> Overview {
        let metrics = Metrics::new();
        Overview {
            started: Instant::from_ns(0),
            running: Arc::new(Fake::full()),
            bounds: metrics.bounds().clone(),
            drops: Arc::new(Drops::new(crate::addr::Ipv6Prefix::default(), metrics.clone())),
            events: Bus::default(),
            metrics,
        }
    }

    impl Fake {
        /// One of everything.
        pub(in crate::observe) fn full() -> Self {
            let list =
                State { name: "drop".to_owned(), file: "/drop".into(), read: None, error: Some("missing".to_owned()) };
            Self { known: Some(7), blocklists: vec![list], fleet: Some(fleet::tests::status()), ..Self::default() }
        }
    }

    impl Running for Fake {
        fn listeners(&self) -> Vec<Listener> {
            vec![Listener { address: "192.0.2.1:25".to_owned(), accepted: 5 }]
        }

        fn sessions(&self, _most: usize) -> Vec<SessionView> {
            Vec::new()
        }

        fn connections_limit(&self) -> u64 {
            500
        }

        fn limits(&self) -> Vec<(&'static str, u64)> {
            vec![("recipients", 100)]
        }

        fn store_failures(&self) -> u64 {
            2
        }

        fn servers(&self) -> Vec<Server> {
            vec![Server { address: "192.0.2.7:25".to_owned(), answers: true, connections: 3, round_trip_seconds: None }]
        }

        fn fleet(&self) -> Option<FleetStatus> {
            self.fleet.clone()
        }

        fn webhook(&self) -> Option<WebhookStatus> {
            Some(WebhookStatus {
                server: "https://ops.example.org:443".to_owned(),
                events_waiting: 3,
                events_delivered: 40,
                events_dropped: 2,
                requests_failed: 5,
                last_success: Some(WallTime::from_ms(8500)),
                trouble: Some("it answered 503".to_owned()),
            })
        }

        fn is_dns_silent(&self) -> bool {
            true
        }

        fn store_trouble(&self) -> Option<String> {
            Some("no space".to_owned())
        }

        fn connections(&self) -> u64 {
            self.connections
        }

        fn bans(&self) -> Bans {
            self.bans
        }

        fn held_users(&self) -> HeldUsers {
            HeldUsers { count: 2, names: vec!["ann".to_owned(), "bob".to_owned()] }
        }

        fn recipients(&self) -> Recipients {
            let (known, catch_all) = (self.known, self.catch_all.clone());
            let last_read = known.map(|_| WallTime::from_ms(6500));
            Recipients { known, last_read, catch_all, unknown_wordings: Vec::new(), trouble: None }
        }

        fn blocklists(&self) -> Vec<State> {
            self.blocklists.clone()
        }

        fn kernel(&self) -> Kernel {
            Kernel { present: false, text: String::new() }
        }

        fn packets(&self) -> Vec<(Reason, Family, u64)> {
            Vec::new()
        }

        fn certificates(&self, _now: WallTime) -> Vec<Certificate> {
            vec![Certificate { file: "/c.pem".to_owned(), remaining_seconds: -1, not_after: WallTime::from_ms(11_000) }]
        }

        fn tls_trouble(&self) -> Option<String> {
            Some("its key can't be read".to_owned())
        }

        fn warnings(&self) -> Vec<String> {
            Vec::new()
        }

        fn configuration(&self) -> Configuration {
            Configuration {
                generation: 1,
                since: WallTime::from_ms(9500),
                last_reload: Some(LastReload { at: WallTime::from_ms(12_000), error: Some("bad".to_owned()) }),
                waiting: Vec::new(),
                earlier_sessions: 0,
            }
        }
    }
}
