//! The I/O around sessions: accept, drive, connect to the backend, stop.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use arc_swap::ArcSwap;
use tokio::sync::{Semaphore, watch};

use crate::addr::ClientAddr;
use crate::blocklist::Table;
use crate::config::Config;
use crate::descriptors::Plan;
use crate::edge::bans::Fell;
use crate::facts::dns::{self, Resolver, Zone};
use crate::facts::recipients::Unknowns;
use crate::feedback::Feedback;
use crate::marks::Mark;
use crate::observe::metrics::Metrics;
use crate::observe::status::{Backends, Certificates};
use crate::offence::Digest;
use crate::policy::Rules;
use crate::rates::Room;
use crate::session::Facts;

mod admission;
mod auth;
mod backend;
mod balancer;
mod blocklists;
mod catch_all;
mod certificate;
mod connect;
mod dovecot;
mod drive;
mod events;
mod farewell;
mod handshakes;
mod inquiry;
mod listen;
mod places;
mod pool;
mod recipients;
mod rehearse;
mod sources;
mod stream;
mod tls;

pub use blocklists::{Blocklists, Filled, fill};
pub use listen::{Bound, Listeners};
pub use tls::{TlsError, try_load};

/// What all sessions share. None of it is locked on the hot path.
#[derive(Debug)]
pub struct Shared {
    pub config: Arc<Config>,
    pub rules: Arc<Rules>,
    pub feedback: Feedback,
    pub metrics: Metrics,
    pub bans: Arc<crate::edge::bans::BanTable>,
    /// Replaced as a whole when one of the lists changes.
    pub blocklists: ArcSwap<Table>,
    pool: Arc<pool::Pool>,
    /// `None`: nothing is checked that DNS is needed for.
    resolver: Option<Resolver>,
    /// In the order of `config.dnsbl`.
    zones: Arc<[Zone]>,
    /// `None`: no certificate, no TLS towards clients.
    tls: Option<tls::Server>,
    unknowns: Mutex<Unknowns>,
    /// What was found out about a domain turned out to be wrong.
    contradicted: tokio::sync::Notify,
    handshakes: Semaphore,
    handshakes_told: handshakes::Told,
    headers: Arc<Semaphore>,
    sources: Arc<sources::Sources>,
    /// Room for clients that were turned away and haven't closed yet.
    turned_away: Arc<Semaphore>,
    /// Session ids: the start of this guard and a number, so that they stay unique over restarts.
    epoch: u64,
    sessions: AtomicU64,
}

impl Shared {
    /// Shared state of a guard that starts now, with places as `plan` has them; the ban table's hook is set so that a ban wakes the source's sessions.
    pub fn new(
        rules: Arc<Rules>,
        feedback: Feedback,
        metrics: Metrics,
        bans: Arc<crate::edge::bans::BanTable>,
        plan: &Plan,
    ) -> Result<Arc<Self>, StartError> {
        let config = Arc::clone(rules.config());
        let tls = config.tls.as_ref().map(tls::Server::new).transpose()?;
        let pool = Arc::new(pool::Pool::new(connect::Connector::new(Arc::clone(&config))?, metrics.clone()));
        let (resolver, zones) = resolver(&config, &metrics)?;
        let limits = &config.limits;
        let sources = sources::Sources::new(sources::Limits {
            of_source: limits.connections,
            of_network: limits.network_connections,
            total: plan.sessions,
            leaving: u32::try_from(plan.closing).unwrap_or(u32::MAX),
        });
        metrics.bounds().limit("total_connections", plan.sessions.into());
        metrics.bounds().limit("network_connections", limits.network_connections.into());
        if let Some(tls) = &tls {
            metrics.certificates(tls.certificates());
        }
        metrics.bounds().limit(pool::BOUND, config.backend.connections.into());
        metrics.bounds().limit("turned_away", plan.closing as u64);
        metrics.bounds().limit("proxy_headers", plan.closing as u64);
        let woken = Arc::clone(&sources);
        // A network may hold somebody who was made exempt since.
        let (untouchable, prefix) = (config.untouchable(), limits.ipv6_prefix);
        bans.on_ban(Box::new(move |fell| match fell {
            Fell::Source(source, reason) => woken.ban(source, reason),
            Fell::Networks(why) => {
                woken.ban_where(|source| why(source).filter(|_| !untouchable.touches(source, prefix)))
            }
        }));
        Ok(Arc::new(Self {
            rules,
            feedback,
            metrics,
            bans,
            blocklists: ArcSwap::default(),
            pool,
            resolver,
            zones,
            tls,
            unknowns: Mutex::default(),
            contradicted: tokio::sync::Notify::new(),
            handshakes_told: handshakes::Told::default(),
            // Half of all connections: clients that stall in their handshakes leave room for others.
            handshakes: Semaphore::new((plan.sessions as usize / 2).max(1)),
            headers: Arc::new(Semaphore::new(plan.closing)),
            sources,
            turned_away: Arc::new(Semaphore::new(plan.closing)),
            epoch: crate::clock::wall().as_ms().unsigned_abs(),
            sessions: AtomicU64::new(0),
            config,
        }))
    }

    fn next_id(&self) -> String {
        format!("{:x}-{:x}", self.epoch, self.sessions.fetch_add(1, Ordering::Relaxed))
    }

    /// Counts one more message of the client's source, unless it has sent as many as it may.
    fn is_over_rate(&self, addr: ClientAddr) -> bool {
        let source = addr.source(self.config.limits.ipv6_prefix);
        self.feedback.counters().messages.count(source, crate::clock::now()) == Room::Full
    }

    /// Counts one more TLS handshake of the client's source. `true`: it has begun too many in a minute.
    fn hastens_handshakes(&self, addr: ClientAddr) -> bool {
        let source = addr.source(self.config.limits.ipv6_prefix);
        !self.rules.client(addr.ip()).exempt
            && self.feedback.counters().handshakes.count(source, crate::clock::now()) == Room::Full
    }

    /// What the ledger lets sessions know of the client's source.
    fn mark(&self, addr: ClientAddr) -> Mark {
        let source = addr.source(self.config.limits.ipv6_prefix);
        self.feedback.marks().of(source, crate::clock::now())
    }

    /// Who knows our certificates, if there are any.
    pub fn certificates(&self) -> Option<Arc<dyn Certificates>> {
        self.tls.as_ref().map(|tls| tls.certificates() as Arc<dyn Certificates>)
    }

    /// Who knows how the backend's servers are.
    pub fn backends(&self) -> Arc<dyn Backends> {
        Arc::clone(&self.pool) as Arc<dyn Backends>
    }

    /// What a recipient of `sender` is judged by, but for look-ups.
    fn facts(&self, addr: ClientAddr, sender: Digest, recipient: Option<&str>) -> Facts {
        let (mark, now) = (self.mark(addr), crate::clock::now());
        let source = addr.source(self.config.limits.ipv6_prefix);
        let deferred = mark.deferred_until.is_some() || self.feedback.marks().is_sender_deferred(source, sender, now);
        // What others were told answers strangers only: a backend may answer by sender, and a partner must not pay for that.
        let unknown = !deferred && !mark.familiar && recipient.is_some_and(|recipient| self.is_unknown(recipient));
        Facts { deferred, unknown, found: None }
    }

    /// Sessions now.
    pub fn connections(&self) -> u32 {
        self.sources.alive()
    }
}

/// Why the guard can't start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error(transparent)]
    Dns(#[from] dns::Error),
}

/// Who is asked, if anything is to be asked, and the block lists.
fn resolver(config: &Config, metrics: &Metrics) -> Result<(Option<Resolver>, Arc<[Zone]>), dns::Error> {
    let checks = &config.checks;
    let lists = checks.dnsbl.is_on() && !config.dnsbl.is_empty();
    let zones = config.dnsbl.iter().map(|list| Zone {
        name: list.zone.as_str().into(),
        weight: list.weight,
        replies: list.replies.clone(),
    });
    let zones = zones.collect();
    if !(lists || checks.sender_domain.is_on() || checks.ptr.is_on() || checks.ptr_forward.is_on()) {
        return Ok((None, zones));
    }
    for (bound, places) in Resolver::PLACES {
        metrics.bounds().limit(bound, places as u64);
    }
    let resolver = Resolver::new(&config.dns.servers, Arc::new(DnsMeter(metrics.clone())))?;
    Ok((Some(resolver), zones))
}

/// What the resolver counts, in the metrics.
struct DnsMeter(Metrics);

impl dns::Meter for DnsMeter {
    fn lookup(&self, kind: &'static str, result: &'static str) {
        self.0.dns_lookup(kind, result);
    }

    fn bound_reached(&self, bound: &'static str) {
        self.0.bound_reached(bound);
    }
}

/// Tells sessions that the guard wants to stop.
#[derive(Clone, Debug)]
pub struct Stop(watch::Receiver<bool>);

/// The other end of [`Stop`].
#[derive(Debug)]
pub struct Stopper(watch::Sender<bool>);

/// A pair: who stops, and who is told.
pub fn stop() -> (Stopper, Stop) {
    let (sender, receiver) = watch::channel(false);
    (Stopper(sender), Stop(receiver))
}

impl Stopper {
    /// Tells everyone, once.
    pub fn stop(&self) {
        self.0.send_replace(true);
    }
}

impl Stop {
    /// Resolves when the guard wants to stop, also when the other end is gone. Cancel safe.
    pub async fn requested(&mut self) {
        // An error means that nobody can ask any more: as good as being asked.
        let _ = self.0.wait_for(|stop| *stop).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::Heard;

    /// A guard with a ledger of its own, for whom 192.0.2.9 is exempt.
    fn guard() -> Arc<Shared> {
        let mut config = Config::builtin();
        config.exempt = ["192.0.2.9/32".parse().unwrap()].into_iter().collect();
        let config = Arc::new(config);
        let bans = Arc::new(crate::edge::bans::BanTable::new(None, 10));
        let feedback = crate::feedback::tests::alone(&config, &bans);
        let rules = Arc::new(Rules::new(config, None));
        Shared::new(rules, feedback, Metrics::new(), bans, &Plan::whole(100)).unwrap()
    }

    fn addr(ip: &str) -> ClientAddr {
        ClientAddr::new(format!("{ip}:4000").parse().unwrap())
    }

    #[tokio::test]
    async fn b10_what_others_were_told_answers_strangers_only() {
        let shared = guard();
        let sender = Digest::of("a@client.example");
        for (ip, sender) in [("192.0.2.1", sender), ("192.0.2.2", Digest::of("b@client.example"))] {
            let heard = Heard { recipient: "x@example.org".into(), sender, unknown: true };
            shared.hear(addr(ip), &heard);
        }
        let partner = addr("198.51.100.1");
        let answered = |addr, recipient| shared.facts(addr, sender, recipient).unknown;
        assert!(answered(partner, Some("x@example.org")), "while nothing is known of it");
        shared.feedback.marks().history(partner.source(shared.config.limits.ipv6_prefix), true);
        assert!(!answered(partner, Some("x@example.org")), "its mail was accepted before: the backend is asked");
        assert!(answered(addr("198.51.100.2"), Some("x@example.org")));
        assert!(!answered(addr("198.51.100.2"), Some("y@example.org")));
    }

    #[tokio::test]
    async fn c7_handshakes_of_a_source_are_paced() {
        let shared = guard();
        let begun = |ip: &str, times: usize| (0..times).filter(|_| !shared.hastens_handshakes(addr(ip))).count();
        assert_eq!(begun("192.0.2.1", 2_500), 600, "the rest of them waits");
        assert_eq!(begun("192.0.2.2", 10), 10, "a neighbour doesn't");
        assert_eq!(begun("192.0.2.9", 2_500), 2_500, "an exempt one never does");
    }
}
