//! The backend's servers: which of them answer, and what they offer together.
//!
//! The probe looks at each of them in the background: connect, EHLO, QUIT, as a client's session would. So scanners never reach
//! the backend, and nothing is offered that it can't take. A session takes the first server that is healthy and has a place
//! ([`super::places`]), in the order of the configuration. If all healthy ones are full, it waits for the first. When none is
//! healthy it tries all: the probe may be behind the truth.
//!
//! Where a server is named by its host name, each probe looks that up anew; sessions connect to what it found.
//!
//! A server that has heard who the client is may refuse that client. Or it may refuse all of us. The next probe tells, and it
//! is made at once. The client hears the refusal only if the server takes the probe, with the same kind of identity.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::Notify;
use tokio::time::timeout;

use super::Stop;
use super::connect::{Caller, Channel, ConnectError, Connector};
use super::places::{Claim, Places};
use super::spare::Spares;
use crate::addr::BackendAddr;
use crate::bound::Bound;
use crate::clock::{Instant, Seconds};
use crate::events::{Bus, What};
use crate::observe::budget::Budget;
use crate::observe::metrics::{How, Metrics};
use crate::observe::status;
use crate::session::Lost;
use crate::wire::ehlo::Capabilities;
use crate::wire::reply::{Enhanced, Reply};

/// Time between two probes while all servers answer, and while one doesn't.
const HEALTHY: Duration = Duration::from_secs(60);
const ILL: Duration = Duration::from_secs(2);
/// How long a client waits for a place: less than a session gives MAIL, so that there is time left to connect.
const WAIT: Duration = Duration::from_secs(240);
/// Lines a second about connections that failed for one client: it may be the client's doing, over and over.
pub(super) static FAILURES: Budget = Budget::new(10);

/// All servers.
#[derive(Debug)]
pub(super) struct Pool {
    connector: Connector,
    metrics: Metrics,
    events: Bus,
    servers: Vec<Arc<Server>>,
    /// Of each of them, connections that wait for their next client.
    spares: Vec<Arc<Spares>>,
    /// What the servers that answered last have in common.
    capabilities: ArcSwap<Capabilities>,
    /// A session found a server ill: look at once.
    suspicion: Notify,
}

#[derive(Debug)]
struct Server {
    address: BackendAddr,
    /// Where it is, as the last probe found out; empty before that.
    addresses: ArcSwap<Vec<SocketAddr>>,
    health: AtomicU8,
    places: Arc<Places>,
    /// When the last probe that it took began, in ns of [`Instant`].
    well_since: AtomicU64,
    /// How long the last connection took that was opened, in ns; 0: none was.
    round_trip: AtomicU64,
    /// Why it is ill, as it was said last: said once, not at every probe.
    complaint: Mutex<String>,
    /// It is none of the configuration's any more.
    retired: AtomicBool,
}

/// Why there is no connection.
#[derive(Debug)]
pub(super) enum Failure {
    Lost(Lost),
    /// The server refuses this client, 4xx or 5xx.
    Refused(Reply),
}

/// To those who are no client.
impl From<Failure> for Lost {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Lost(lost) => lost,
            Failure::Refused(_) => Self::Unreachable,
        }
    }
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

    /// A place for `caller`, if there is one now.
    fn room(&self, caller: &Caller) -> Option<Claim> {
        match caller {
            Caller::Client { who, .. } => self.places.try_enter(*who).map(Claim::Client),
            Caller::Probe => self.places.try_own().map(Claim::Own),
        }
    }

    /// A place for `caller`, as long as it takes.
    async fn wait_for_room(&self, caller: &Caller) -> Option<Claim> {
        match caller {
            Caller::Client { who, .. } => self.places.enter(*who).await.map(Claim::Client),
            Caller::Probe => self.places.own().await.map(Claim::Own),
        }
    }

    /// A connection that was begun at `began` is open.
    fn took(&self, began: Instant) {
        let took = crate::clock::now().since(began).as_nanos();
        self.round_trip.store(u64::try_from(took).unwrap_or(u64::MAX).max(1), Ordering::Relaxed);
    }

    /// Whether that is new.
    fn ill(&self, complaint: String) -> bool {
        let mut last = self.complaint.lock().unwrap_or_else(PoisonError::into_inner);
        let is_new = self.set(Health::Ill);
        if is_new || *last != complaint {
            tracing::warn!(backend = %self.address, "backend {complaint}");
            *last = complaint;
        }
        is_new
    }
}

/// What is offered before any server has answered. A sender gives up for good on a message that needs what isn't offered,
/// SMTPUTF8 above all; what is offered and then can't be had is a 451, and it comes back.
fn until_known() -> Capabilities {
    Capabilities { eight_bit_mime: true, smtputf8: true, dsn: true, ..Capabilities::default() }
}

impl Pool {
    /// The servers of `connector`. What is known of those that were in `before` stays known.
    pub(super) fn new(connector: Connector, metrics: Metrics, events: Bus, before: Option<&Self>) -> Self {
        let server = |address: &BackendAddr| {
            let known = before.and_then(|before| before.servers.iter().find(|server| server.address == *address));
            let new = || Server {
                address: address.clone(),
                addresses: ArcSwap::default(),
                health: AtomicU8::new(Health::Unknown as u8),
                places: Places::new(connector.config.backend.connections),
                well_since: AtomicU64::new(0),
                round_trip: AtomicU64::new(0),
                complaint: Mutex::default(),
                retired: AtomicBool::new(false),
            };
            known.map_or_else(|| Arc::new(new()), Arc::clone)
        };
        let servers: Vec<_> = connector.config.backend.servers.iter().map(server).collect();
        let spares = servers.iter().map(|_| Spares::new(metrics.clone())).collect();
        let capabilities = match before {
            Some(before) => ArcSwap::new(before.capabilities()),
            None => ArcSwap::from_pointee(until_known()),
        };
        Self { connector, metrics, events, servers, spares, capabilities, suspicion: Notify::new() }
    }

    /// The servers have as many places as is configured.
    pub(super) fn settle(&self) {
        for server in &self.servers {
            server.retired.store(false, Ordering::Relaxed);
            server.places.set_limit(self.connector.config.backend.connections);
        }
    }

    /// Says no more of servers that are none of `now`'s, and keeps no connection for another client.
    pub(super) fn forget(&self, now: &Self) {
        self.spares.iter().for_each(|spares| spares.close());
        let gone =
            self.servers.iter().filter(|server| !now.servers.iter().any(|other| other.address == server.address));
        gone.for_each(|server| server.retired.store(true, Ordering::Relaxed));
    }

    /// The extensions that EHLO may offer.
    pub(super) fn capabilities(&self) -> Arc<Capabilities> {
        self.capabilities.load_full()
    }

    /// A connection to the first server that takes it, healthy ones first. `fresh`: one that nobody has used.
    pub(super) async fn open(&self, caller: Caller, fresh: bool) -> Result<Channel, Failure> {
        let (healthy, others): (Vec<_>, Vec<_>) = self.servers.iter().partition(|server| !server.is(Health::Ill));
        let mut full = Vec::new();
        for server in healthy.into_iter().chain(others) {
            if !full.is_empty() && server.is(Health::Ill) {
                // Better to wait for one that is well.
                break;
            }
            match server.room(&caller) {
                Some(room) => {
                    if let Some(found) = self.attempt(server, &caller, fresh, room).await? {
                        return Ok(found);
                    }
                }
                None => full.push(server),
            }
        }
        let Some(server) = full.first() else { return Err(Failure::Lost(Lost::Unreachable)) };
        self.metrics.bound_reached(Bound::BackendConnections);
        let room = timeout(WAIT, server.wait_for_room(&caller)).await.ok().flatten();
        let room = room.ok_or(Failure::Lost(Lost::Busy))?;
        self.attempt(server, &caller, fresh, room).await?.ok_or(Failure::Lost(Lost::Unreachable))
    }

    /// A connection to `server`; `None`: there is none, and the next server may be tried.
    async fn attempt(
        &self,
        server: &Server,
        caller: &Caller,
        fresh: bool,
        room: Claim,
    ) -> Result<Option<Channel>, Failure> {
        let spares = match caller {
            Caller::Client { .. } if self.connector.reuses() => self.spares(server),
            _ => None,
        };
        if let Some(mut channel) = self.spare(spares.filter(|_| !fresh), caller).await {
            channel.room = Some(room);
            self.metrics.backend_connection(How::Reused);
            return Ok(Some(channel));
        }
        self.trim(server, spares);
        let asked = crate::clock::now();
        if server.addresses.load().is_empty() {
            // Nobody has looked yet. What is wrong with it the probe says.
            let _ = self.is_well_since(server, asked).await;
        }
        let addresses = server.addresses.load_full();
        if addresses.is_empty() {
            return Ok(None);
        }
        let began = crate::clock::now();
        let error = match self.connector.open(&server.address, &addresses, caller).await {
            Ok(mut channel) => {
                server.took(began);
                channel.room = Some(room);
                channel.server = Some(server.address.clone());
                channel.home = spares.cloned();
                self.metrics.backend_connection(How::Opened);
                return Ok(Some(channel));
            }
            Err(error) => error,
        };
        if let ConnectError::Client(reply) = error {
            // What was for the client is no more.
            drop(room);
            if self.is_well_since(server, asked).await {
                self.tell(server, caller, &ConnectError::Client(reply.clone()));
                return Err(Failure::Refused(at_mail(reply)));
            }
            self.tell(server, caller, &ConnectError::Client(reply));
        } else if error.is_servers() {
            self.suspect(server, &error);
        } else {
            self.tell(server, caller, &error);
        }
        Ok(None)
    }

    /// A connection for a MAIL that may come, to the first server that is well. `None`: there is no need of one, as another waits, or
    /// no room to spare, or it failed. What is wrong then, the client hears at its MAIL.
    pub(super) async fn open_early(&self, caller: Caller) -> Option<Channel> {
        let Caller::Client { who, .. } = caller else { return None };
        let server = self.servers.iter().find(|server| server.is(Health::Healthy))?;
        let spares = if self.connector.reuses() { self.spares(server) } else { None };
        if spares.is_some_and(|spares| spares.has(|channel| self.connector.suits(channel, &caller))) {
            return None;
        }
        let place = server.places.try_early(who)?;
        self.trim(server, spares);
        let addresses = server.addresses.load_full();
        let opened = tokio::select! {
            opened = self.connector.open(&server.address, &addresses, &caller) => opened,
            () = place.ceded() => return None,
        };
        match opened {
            Ok(mut channel) => {
                channel.room = Some(Claim::Client(place));
                channel.server = Some(server.address.clone());
                channel.home = spares.cloned();
                Some(channel)
            }
            Err(error) => {
                tracing::debug!(backend = %server.address, %error, "no connection to the backend before MAIL");
                if error.is_servers() {
                    self.suspect(server, &error);
                }
                None
            }
        }
    }

    /// `server` is ill; the next probe tells whether it is still.
    fn suspect(&self, server: &Server, error: &ConnectError) {
        let is_new = server.ill(error.to_string());
        self.show(server, false, is_new);
        self.suspicion.notify_one();
    }

    /// Ends waiting connections where there would be too many with those whose places are held.
    fn trim(&self, server: &Server, spares: Option<&Arc<Spares>>) {
        if let Some(spares) = spares {
            let limit = self.connector.config.backend.connections;
            spares.trim(limit.saturating_sub(server.places.held()) as usize);
        }
    }

    fn spares(&self, server: &Server) -> Option<&Arc<Spares>> {
        let mut pairs = self.servers.iter().zip(&self.spares);
        pairs.find(|(other, _)| std::ptr::eq(&***other, server)).map(|(_, spares)| spares)
    }

    /// A connection that waits for its next client, and knows this one by now. One that has become doubtful meanwhile ends.
    async fn spare(&self, spares: Option<&Arc<Spares>>, caller: &Caller) -> Option<Channel> {
        let spares = spares?;
        while let Some(mut channel) = spares.take(|channel| self.connector.suits(channel, caller)) {
            if !channel.is_silent().await {
                continue;
            }
            match self.connector.resume(&mut channel, caller).await {
                Ok(()) => return Some(channel),
                // Whatever it is, a new connection tells it better.
                Err(error) => {
                    tracing::debug!(%error, "a connection to the backend can't be used again");
                    return None;
                }
            }
        }
        None
    }

    /// Tells subscribers whether `server` answers, where that is new. Sessions of earlier generations may ask one that is retired.
    fn show(&self, server: &Server, answers: bool, is_new: bool) {
        if is_new && !server.retired.load(Ordering::Relaxed) {
            self.events.publish(crate::clock::wall(), What::Backend { server: server.address.to_string(), answers });
        }
    }

    /// Tells the log of a connection that failed for one client.
    fn tell(&self, server: &Server, caller: &Caller, error: &ConnectError) {
        let client = match caller {
            Caller::Probe => None,
            Caller::Client { ends, .. } => Some(tracing::field::display(ends.source.ip().to_canonical())),
        };
        match FAILURES.take(crate::clock::now()) {
            Some(left_out) => {
                tracing::warn!(backend = %server.address, client, %error, left_out, "backend can't be used for a client");
            }
            None => self.metrics.bound_reached(Bound::LogBackend),
        }
    }

    /// Whether a probe that began after `asked` finds `server` well. Where one has just been made, that one counts.
    async fn is_well_since(&self, server: &Server, asked: Instant) -> bool {
        let Some(own) = server.places.own().await else { return false };
        let probed = || server.well_since.load(Ordering::Relaxed) >= asked.as_ns();
        probed() || self.look(server, Claim::Own(own)).await.is_some()
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
            let Some(own) = server.places.own().await else { continue };
            if let Some(found) = self.look(server, Claim::Own(own)).await {
                common = Some(common.map_or_else(|| found.clone(), |common| common.intersection(&found)));
            }
        }
        common
    }

    /// Looks whether `server` is well, and what it offers.
    async fn look(&self, server: &Server, room: Claim) -> Option<Capabilities> {
        let began = crate::clock::now();
        let found = match self.connector.addresses(&server.address).await {
            Ok(addresses) => {
                // Also where it turns out ill: another address must not be tried for ever.
                server.addresses.store(Arc::new(addresses.clone()));
                let asked = crate::clock::now();
                let opened = self.connector.open(&server.address, &addresses, &Caller::Probe).await;
                opened.inspect(|_| server.took(asked))
            }
            Err(error) => Err(error),
        };
        match found {
            Ok(mut channel) => {
                channel.room = Some(room);
                let found = channel.capabilities.clone();
                channel.quit().await;
                server.well_since.store(began.as_ns(), Ordering::Relaxed);
                let is_new = server.set(Health::Healthy);
                self.show(server, true, is_new);
                if is_new && self.servers.len() > 1 {
                    tracing::info!(backend = %server.address, "backend server answers");
                }
                Some(found)
            }
            Err(error) => {
                let is_new = server.ill(error.to_string());
                self.show(server, false, is_new);
                None
            }
        }
    }
}

impl Pool {
    /// How all servers are now, in the order of the configuration.
    pub(super) fn servers(&self) -> Vec<status::Server> {
        let server = |(server, spares): (&Arc<Server>, &Arc<Spares>)| status::Server {
            address: server.address.to_string(),
            answers: server.is(Health::Healthy),
            connections: server.places.held() + u32::try_from(spares.waiting()).unwrap_or(u32::MAX),
            round_trip_seconds: match server.round_trip.load(Ordering::Relaxed) {
                0 => None,
                ns => Some(Seconds(Duration::from_nanos(ns))),
            },
        };
        self.servers.iter().zip(&self.spares).map(server).collect()
    }
}

/// The refusal as an answer to MAIL: a 421 would be taken for the end of a connection, and there is none.
fn at_mail(reply: Reply) -> Reply {
    if reply.code().get() != 421 {
        return reply;
    }
    let mut lines = reply.lines().map(str::to_owned);
    let first = Reply::new(451, reply.enhanced().map(Enhanced::parts), lines.next().unwrap_or_default());
    lines.fold(first, Reply::and)
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader, Write as _};
    use std::net::TcpListener;

    use super::*;
    use crate::config::Config;
    use crate::wire::envelope::Uses;

    /// A server that says yes to everything.
    fn serve(listener: &TcpListener) {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || -> std::io::Result<()> {
                let mut answers = stream.try_clone()?;
                answers.write_all(b"220 x\r\n")?;
                for line in BufReader::new(stream).lines() {
                    line?;
                    answers.write_all(b"250 x\r\n")?;
                }
                Ok(())
            });
        }
    }

    /// Whether a server called `name` is found, for a session and by a probe.
    async fn check(name: &str, found: bool) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        std::thread::spawn(move || serve(&listener));
        let mut config = Config::builtin();
        config.backend.servers = vec![BackendAddr::Name(name.into(), port)];
        let pool = Pool::new(Connector::new(Arc::new(config)).unwrap(), Metrics::new(), Bus::default(), None);
        assert_eq!(pool.open(Caller::Probe, false).await.is_ok(), found, "{name}");
        assert_eq!(pool.probe().await.is_some(), found, "{name}");
        let server = pool.servers().remove(0);
        assert_eq!((server.address, server.answers), (format!("{name}:{port}"), found));
        let complaint = pool.servers[0].complaint.lock().unwrap().clone();
        assert_eq!(complaint.contains("can't be looked up"), !found, "{complaint}");
    }

    #[tokio::test]
    async fn a13_a_server_may_have_a_name() {
        check("localhost", true).await;
        check("no-such-host.invalid", false).await;
    }

    #[test]
    fn before_a_server_has_answered_nothing_is_withheld_that_a_sender_would_bounce_for() {
        let pool =
            Pool::new(Connector::new(Arc::new(Config::builtin())).unwrap(), Metrics::new(), Bus::default(), None);
        assert!(pool.capabilities().takes(Uses { eight_bit_mime: true, smtputf8: true, dsn: true, ..Uses::default() }));
    }
}
