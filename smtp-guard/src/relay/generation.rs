//! One generation of what was configured, and what the I/O has made of it. A session keeps the one that it began with.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::connect::Connector;
use super::pool::{self, Pool};
use super::sources::Limits;
use super::tls::{self, TlsError};
use super::{catch_all, events};
use crate::bound::Bound;
use crate::config::{Config, Identity, Listen};
use crate::descriptors::Plan;
use crate::events::Bus;
use crate::facts::dns::{self, Resolver, Zone};
use crate::observe::metrics::Metrics;
use crate::snapshot::Snapshot;

/// A snapshot, and what sessions need of the I/O to act by it.
#[derive(Debug)]
pub struct Generation {
    pub snapshot: Arc<Snapshot>,
    /// The plan of descriptors.
    pub(super) plan: Plan,
    pub(super) pool: Arc<Pool>,
    /// `None`: nothing is checked that DNS is needed for.
    pub(super) resolver: Option<Resolver>,
    /// In the order of `config.dnsbl`.
    pub(super) zones: Arc<[Zone]>,
    /// `None`: no certificate, no TLS towards clients.
    pub(super) tls: Option<Arc<tls::Server>>,
    sessions: AtomicU64,
}

/// A generation that a session goes by.
#[derive(Debug)]
pub(super) struct Kept(Arc<Generation>);

/// Why a configuration that is valid can't be used.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error(transparent)]
    Dns(#[from] dns::Error),
}

impl Generation {
    /// Builds the generation of `snapshot`. It takes over all of `before` that it can use: nothing that is known of servers and of names is
    /// forgotten. Certificates are always read, so not for a thread that others wait for. Nothing is changed by it.
    pub fn build(
        snapshot: Arc<Snapshot>,
        plan: Plan,
        before: Option<&Self>,
        metrics: &Metrics,
        events: &Bus,
    ) -> Result<Self, StartError> {
        let config = Arc::clone(snapshot.config());
        let tls = config.tls.as_ref().map(tls::Server::new).transpose()?.map(Arc::new);
        let pool = match before.filter(|before| before.has_backend_of(&config)) {
            Some(before) => Arc::clone(&before.pool),
            None => {
                let earlier = before.map(|before| before.pool.as_ref());
                Arc::new(Pool::new(Connector::new(Arc::clone(&config))?, metrics.clone(), events.clone(), earlier))
            }
        };
        let resolver = match before.and_then(|before| before.resolver_of(&config)) {
            Some(resolver) => needs_resolver(&config).then_some(resolver),
            None if needs_resolver(&config) => {
                let resolver = Resolver::new(&config.dns.servers, Arc::new(DnsMeter(metrics.clone())));
                match resolver {
                    Err(error) if !checks_dns(&config) => {
                        tracing::warn!(%error, "clients' names can't be looked up: the backend hears [TEMPUNAVAIL] in XCLIENT");
                        None
                    }
                    resolver => Some(resolver?),
                }
            }
            None => None,
        };
        let zones = config.dnsbl.iter().map(|list| Zone {
            name: list.zone.as_str().into(),
            weight: list.weight,
            replies: list.replies.clone(),
        });
        Ok(Self { snapshot, plan, pool, resolver, zones: zones.collect(), tls, sessions: AtomicU64::new(0) })
    }

    /// The configuration.
    pub fn config(&self) -> &Arc<Config> {
        self.snapshot.config()
    }

    /// The bounds of sessions.
    pub(super) fn limits(&self) -> Limits {
        let limits = &self.config().limits;
        Limits {
            of_source: limits.connections,
            of_network: limits.network_connections,
            total: self.plan.sessions,
            leaving: u32::try_from(self.plan.closing).unwrap_or(u32::MAX),
        }
    }

    /// Sessions at once.
    pub fn places(&self) -> u32 {
        self.plan.sessions
    }

    /// TLS handshakes at once. Half of all connections: clients that stall in theirs leave room for others.
    pub(super) fn handshakes(&self) -> usize {
        (self.plan.sessions as usize / 2).max(1)
    }

    /// For a session, which is counted as long as it keeps it.
    pub(super) fn keep(self: Arc<Self>) -> Kept {
        self.sessions.fetch_add(1, Ordering::Relaxed);
        Kept(self)
    }

    /// Sessions that go by it.
    pub fn sessions(&self) -> u64 {
        self.sessions.load(Ordering::Relaxed)
    }

    /// The configuration of the listening socket that was configured as `address`.
    pub(super) fn listen(&self, address: SocketAddr) -> Option<&Listen> {
        self.config().listen.iter().find(|listen| listen.address == address)
    }

    /// Whether connections to the backend are made as `config` has it. An authority's file may have changed.
    fn has_backend_of(&self, config: &Config) -> bool {
        let mine = self.config();
        config.backend == mine.backend && config.hostname == mine.hostname && config.backend.tls_ca.is_none()
    }

    fn resolver_of(&self, config: &Config) -> Option<Resolver> {
        self.resolver.clone().filter(|_| config.dns.servers == self.config().dns.servers)
    }

    /// Tells `metrics` what bounds it, and servers how many connections they may have.
    pub(super) fn settle(&self, metrics: &Metrics) {
        self.pool.settle();
        metrics.bounds().limit(Bound::BackendConnections, self.config().backend.connections.into());
        metrics.bounds().limit(Bound::NetworkConnections, self.config().limits.network_connections.into());
        metrics.bounds().limit(Bound::TotalConnections, self.plan.sessions.into());
        metrics.bounds().limit(Bound::TurnedAway, self.plan.closing as u64);
        metrics.bounds().limit(Bound::ProxyHeaders, self.plan.closing as u64);
        metrics.bounds().limit(Bound::Handshakes, self.handshakes() as u64);
        metrics.bounds().limit(Bound::CatchAllDomains, catch_all::DOMAINS as u64);
        metrics.bounds().limit(Bound::LogBackend, pool::FAILURES.lines());
        metrics.bounds().limit(Bound::LogEnds, events::ENDS.lines());
        metrics.bounds().limit(Bound::LogRefusals, events::REFUSALS.lines());
        if self.resolver.is_some() {
            Resolver::BOUNDS.iter().for_each(|(bound, limit)| metrics.bounds().limit(*bound, *limit));
        }
    }
}

impl std::ops::Deref for Kept {
    type Target = Arc<Generation>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.0.sessions.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Whether anything is to be asked.
fn needs_resolver(config: &Config) -> bool {
    checks_dns(config) || config.backend.identity == Identity::Xclient
}

/// Whether clients or senders are judged by what DNS says.
fn checks_dns(config: &Config) -> bool {
    let checks = &config.checks;
    let lists = checks.dnsbl.is_on() && !config.dnsbl.is_empty();
    lists || checks.sender_domain.is_on() || checks.ptr.is_on() || checks.ptr_forward.is_on()
}

/// The resolver's counter, in the metrics.
struct DnsMeter(Metrics);

impl dns::Meter for DnsMeter {
    fn lookup(&self, kind: dns::Kind, told: dns::Told) {
        self.0.dns_lookup(kind, told);
    }

    fn asked(&self, kind: dns::Kind, time: Duration) {
        self.0.dns_asked(kind, time);
    }

    fn bound_reached(&self, bound: Bound) {
        self.0.bound_reached(bound);
    }
}
