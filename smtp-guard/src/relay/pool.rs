//! The backend's servers: which of them answer, and what they offer together.
//!
//! The probe looks at each of them in the background: connect, EHLO, QUIT, as a client's session would. So scanners never
//! reach the backend, and nothing is offered that it can't take. A session takes the first server that is healthy, in the
//! order of the configuration; when none is, it tries all: the probe may be behind the truth.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::Notify;

use super::Stop;
use super::connect::{Caller, Channel, Connector};
use crate::addr::BackendAddr;
use crate::clock::Instant;
use crate::observe::budget::Budget;
use crate::observe::metrics::Metrics;
use crate::session::Lost;
use crate::wire::ehlo::Capabilities;

/// Time between two probes while all servers answer, and while one doesn't.
const HEALTHY: Duration = Duration::from_secs(60);
const ILL: Duration = Duration::from_secs(2);
/// Lines a second about connections that failed for one client: it may be the client's doing, over and over.
static FAILURES: Budget = Budget::new(10);

/// All servers.
#[derive(Debug)]
pub(super) struct Pool {
    connector: Connector,
    metrics: Metrics,
    servers: Vec<Server>,
    /// What the servers that answered last have in common.
    capabilities: ArcSwap<Capabilities>,
    /// A session found a server ill: look at once.
    suspicion: Notify,
}

#[derive(Debug)]
struct Server {
    address: BackendAddr,
    health: AtomicU8,
    /// Why it is ill, as it was said last: said once, not at every probe.
    complaint: Mutex<String>,
}

/// What is known of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Health {
    Unknown = 0,
    Healthy = 1,
    Ill = 2,
}

impl Server {
    fn is(&self, health: Health) -> bool {
        self.health.load(Ordering::Relaxed) == health as u8
    }

    /// Whether that is new.
    fn set(&self, health: Health) -> bool {
        self.health.swap(health as u8, Ordering::Relaxed) != health as u8
    }

    fn ill(&self, complaint: String) {
        let mut last = self.complaint.lock().unwrap_or_else(PoisonError::into_inner);
        if self.set(Health::Ill) || *last != complaint {
            tracing::warn!(backend = %self.address, "backend {complaint}");
            *last = complaint;
        }
    }
}

/// What is offered before any server has answered. A sender gives up for good on a message that needs what isn't offered,
/// SMTPUTF8 above all; what is offered and then can't be had is a 451, and it comes back.
fn until_known() -> Capabilities {
    Capabilities { eight_bit_mime: true, smtputf8: true, dsn: true, ..Capabilities::default() }
}

impl Pool {
    pub(super) fn new(connector: Connector, metrics: Metrics) -> Self {
        let server = |address: &BackendAddr| Server {
            address: *address,
            health: AtomicU8::new(Health::Unknown as u8),
            complaint: Mutex::default(),
        };
        let servers = connector.config.backend.servers.iter().map(server).collect();
        let capabilities = ArcSwap::from_pointee(until_known());
        Self { connector, metrics, servers, capabilities, suspicion: Notify::new() }
    }

    /// What EHLO may offer.
    pub(super) fn capabilities(&self) -> Arc<Capabilities> {
        self.capabilities.load_full()
    }

    /// A connection to the first server that takes it, healthy ones first.
    pub(super) async fn open(&self, caller: Caller) -> Result<Channel, Lost> {
        let (healthy, others): (Vec<_>, Vec<_>) = self.servers.iter().partition(|server| !server.is(Health::Ill));
        for server in healthy.into_iter().chain(others) {
            match self.connector.open(server.address, &caller).await {
                Ok(channel) => return Ok(channel),
                Err(error) if error.is_servers() => {
                    server.ill(error.to_string());
                    self.metrics.backend(server.address.to_string(), false);
                    self.suspicion.notify_one();
                }
                Err(error) => match FAILURES.take(Instant::now()) {
                    Some(left_out) => {
                        tracing::warn!(backend = %server.address, %error, left_out, "backend can't be used for a client");
                    }
                    None => self.metrics.bound_reached("log_backend"),
                },
            }
        }
        Err(Lost::Unreachable)
    }

    /// Probes until `stop`.
    pub(super) async fn watch(&self, mut stop: Stop) {
        let mut answered = None;
        loop {
            let found = tokio::select! {
                biased;
                () = stop.requested() => return,
                found = self.probe() => found,
            };
            if answered.replace(found.is_some()) != Some(found.is_some()) {
                match found {
                    Some(_) => tracing::info!("backend answers"),
                    None => tracing::warn!("no backend answers; clients hear 451 until one does"),
                }
            }
            // While none answers the last knowledge stands: it decides only what is offered.
            if let Some(capabilities) = found {
                self.capabilities.store(Arc::new(capabilities));
            }
            let pause = if self.servers.iter().all(|server| server.is(Health::Healthy)) { HEALTHY } else { ILL };
            tokio::select! {
                biased;
                () = stop.requested() => return,
                () = self.suspicion.notified() => tokio::time::sleep(ILL / 4).await,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// What all servers that answer have in common.
    async fn probe(&self) -> Option<Capabilities> {
        let mut common: Option<Capabilities> = None;
        for server in &self.servers {
            match self.connector.open(server.address, &Caller::Probe).await {
                Ok(channel) => {
                    let found = channel.capabilities.clone();
                    channel.quit().await;
                    self.metrics.backend(server.address.to_string(), true);
                    if server.set(Health::Healthy) && self.servers.len() > 1 {
                        tracing::info!(backend = %server.address, "backend server answers");
                    }
                    common = Some(common.map_or_else(|| found.clone(), |common| common.intersection(&found)));
                }
                Err(error) => {
                    server.ill(error.to_string());
                    self.metrics.backend(server.address.to_string(), false);
                }
            }
        }
        common
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::wire::envelope::Uses;

    #[test]
    fn before_a_server_has_answered_nothing_is_withheld_that_a_sender_would_bounce_for() {
        let pool = Pool::new(Connector::new(Arc::new(Config::builtin())).unwrap(), Metrics::new());
        assert!(pool.capabilities().takes(Uses { eight_bit_mime: true, smtputf8: true, dsn: true, ..Uses::default() }));
    }
}
