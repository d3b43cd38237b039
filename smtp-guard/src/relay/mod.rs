//! The I/O around sessions: accept, drive, connect to the backend, stop.

use std::hash::{BuildHasher as _, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use arc_swap::{ArcSwap, ArcSwapOption};
use tokio::sync::watch;

use crate::addr::{ClientAddr, Ipv6Prefix};
use crate::blocklist::{State, Table};
use crate::clock::{Seconds, WallTime};
use crate::descriptors::Plan;
use crate::edge::bans::Fell;
use crate::events::Bus;
use crate::facts::dns;
use crate::facts::recipients::Unknowns;
use crate::feedback::Feedback;
use crate::gate::{self, Known};
use crate::marks::Mark;
use crate::observe::live::SessionView;
use crate::observe::metrics::Metrics;
use crate::observe::status::{self, Bans, Certificate, Recipients, Wording};
use crate::offence::Digest;
use crate::policy::Client;
use crate::rates::Room;
use crate::session::Facts;
use crate::snapshot::Snapshot;

use slots::Slots;

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
mod generation;
mod handshakes;
mod inherited;
mod inquiry;
mod listen;
mod places;
mod pool;
pub mod probe;
mod recipients;
mod rehearse;
mod slots;
mod socket;
mod sources;
mod spare;
mod stream;
mod tls;
mod users;
mod watchers;
mod window;

pub use blocklists::{Blocklists, Filled, fill};
pub use catch_all::nobody;
pub use generation::{Generation, StartError};
pub use inherited::Inherited;
pub use listen::{BindError, Bound, Doors, Listeners, drained};
pub use tls::{TlsError, try_load};
pub use watchers::Watchers;

/// The state that all sessions share. None of it is locked on the hot path.
#[derive(Debug)]
pub struct Shared {
    /// The only place that knows which generation is the current one.
    current: ArcSwap<Generation>,
    /// Of `limits.ipv6_prefix`, which can't change while the guard runs.
    prefix: Ipv6Prefix,
    pub feedback: Feedback,
    pub metrics: Metrics,
    pub events: Bus,
    pub bans: Arc<crate::edge::bans::BanTable>,
    /// Replaced as a whole when one of the lists changes.
    pub blocklists: ArcSwap<Table>,
    /// What has been seen of their files.
    blocklist_states: ArcSwap<Vec<State>>,
    /// Connections of clients now, those that speak no SMTP yet or no more included.
    open: AtomicU64,
    unknowns: Mutex<Unknowns>,
    /// Why the recipient table's file isn't used as it is now.
    recipients_trouble: ArcSwapOption<String>,
    /// What was found out about a domain turned out to be wrong.
    contradicted: tokio::sync::Notify,
    handshakes: Arc<Slots>,
    handshakes_told: handshakes::Told,
    headers: Arc<Slots>,
    windows: Arc<window::Windows>,
    sources: Arc<sources::Sources>,
    /// Room for clients that were turned away and haven't closed yet.
    turned_away: Arc<Slots>,
    /// Session ids are the number of the session under this secret of the process: clients read them, and shall learn neither how
    /// many others there are nor since when.
    ids: RandomState,
    sessions: AtomicU64,
}

impl Shared {
    /// Shared state of a guard that starts now with `snapshot`, with places as `plan` has them; the ban table's hook is set so
    /// that a ban wakes the source's sessions.
    pub fn new(
        snapshot: Arc<Snapshot>,
        feedback: Feedback,
        metrics: Metrics,
        events: Bus,
        bans: Arc<crate::edge::bans::BanTable>,
        plan: &Plan,
    ) -> Result<Arc<Self>, StartError> {
        let generation = Generation::build(snapshot, *plan, None, &metrics, &events)?;
        let sources = sources::Sources::new();
        let woken = Arc::clone(&sources);
        bans.on_ban(Box::new(move |fell| match fell {
            Fell::Source(source, reason) => woken.ban(source, reason),
            Fell::Networks(why) => woken.ban_where(why),
        }));
        let shared = Arc::new(Self {
            prefix: generation.config().limits.ipv6_prefix,
            current: ArcSwap::from_pointee(generation),
            feedback,
            bans,
            blocklists: ArcSwap::default(),
            blocklist_states: ArcSwap::default(),
            open: AtomicU64::new(0),
            unknowns: Mutex::default(),
            recipients_trouble: ArcSwapOption::empty(),
            contradicted: tokio::sync::Notify::new(),
            handshakes_told: handshakes::Told::default(),
            handshakes: Arc::default(),
            headers: Arc::default(),
            windows: window::Windows::new(&metrics),
            metrics,
            events,
            sources,
            turned_away: Arc::default(),
            ids: RandomState::new(),
            sessions: AtomicU64::new(0),
        });
        shared.current.load().settle(&shared.metrics);
        Ok(shared)
    }

    /// The generation that a session which begins now keeps.
    pub fn current(&self) -> Arc<Generation> {
        self.current.load_full()
    }

    /// From here on sessions begin with `generation`.
    pub fn adopt(&self, generation: Arc<Generation>) {
        self.current.store(Arc::clone(&generation));
        generation.snapshot.forget_others();
        generation.settle(&self.metrics);
    }

    fn next_id(&self) -> String {
        session_id(self.ids.hash_one(self.sessions.fetch_add(1, Ordering::Relaxed)))
    }

    /// The client's source as text.
    fn text_of(&self, addr: ClientAddr) -> String {
        self.prefix.display(addr.source(self.prefix))
    }

    /// Counts one more TLS handshake of the client's source. `true`: it has begun too many in a minute.
    fn hastens_handshakes(&self, client: &Client) -> bool {
        let source = self.prefix.source(client.ip);
        !client.exempt && gate::handshake(self.feedback.counters(), source, crate::clock::now()) == Room::Full
    }

    /// What the ledger lets sessions know of the client's source.
    fn mark(&self, addr: ClientAddr) -> Mark {
        self.feedback.marks().of(addr.source(self.prefix), crate::clock::now())
    }

    /// What a recipient of `sender` is judged by, but for look-ups.
    fn facts(&self, addr: ClientAddr, sender: Digest, recipient: Option<&str>) -> Facts {
        let source = addr.source(self.prefix);
        let is_unknown = || recipient.is_some_and(|recipient| self.is_unknown(recipient));
        let Known { deferred, unknown } =
            gate::known(self.feedback.marks(), source, sender, crate::clock::now(), is_unknown);
        Facts { deferred, unknown, found: None }
    }

    /// Sessions now.
    pub fn connections(&self) -> u32 {
        self.sources.alive()
    }
}

impl Shared {
    /// A client's connection was accepted.
    fn opened(&self) {
        self.open.fetch_add(1, Ordering::Relaxed);
        self.metrics.connection_opened();
    }

    /// It ended. To be called once for each [`Self::opened`].
    fn closed(&self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
    }

    /// Connections of clients now.
    pub fn open(&self) -> u64 {
        self.open.load(Ordering::Relaxed)
    }

    /// Bans in force now.
    pub fn bans_in_force(&self) -> Bans {
        let networks = self.bans.networks() as u64;
        Bans { all: self.bans.len() as u64 + networks, networks }
    }

    /// Sources, as text, that hold half of the connections they may or more, then networks likewise, with what they may: at most
    /// `most` of each.
    pub fn crowded(&self, most: usize) -> Vec<(String, &'static str, u32, u32)> {
        let current = self.current();
        let limits = &current.config().limits;
        let half = |limit: u32| limit.div_ceil(2);
        let (sources, networks) =
            self.sources.crowded(half(limits.connections), half(limits.network_connections), most);
        let sources = sources.into_iter().map(|(source, sessions)| {
            (self.prefix.display(source), "limits.connections", sessions, limits.connections)
        });
        let networks = networks.into_iter().map(|(network, sessions)| {
            (network.text(), "limits.network_connections", sessions, limits.network_connections)
        });
        sources.chain(networks).collect()
    }

    /// Sessions now, those of the source with most of them first, at most `most`.
    pub fn seen_sessions(&self, most: usize) -> Vec<SessionView> {
        let now = crate::clock::now();
        let seen = self.sources.sessions(most).into_iter();
        let view = |seen: sources::Seen| SessionView {
            source: self.prefix.display(seen.source),
            age_seconds: Seconds(now.since(seen.began)),
            state: seen.doing.label().to_owned(),
            messages_accepted: seen.accepted,
            tls: seen.secured,
            helo: seen.speaker.as_ref().map(|speaker| speaker.helo.as_str().to_owned()),
            user: seen.speaker.as_ref().and_then(|speaker| speaker.login.as_deref().map(str::to_owned)),
        };
        seen.map(view).collect()
    }

    /// The state of recipients.
    pub fn recipients(&self) -> Recipients {
        let generation = self.current.load();
        let learned = generation.snapshot.learned();
        Recipients {
            known: generation.snapshot.known().map(|known| known.len() as u64),
            last_read: generation.snapshot.known().map(|known| known.last_read()),
            catch_all: learned.catch_alls().iter().cloned().collect(),
            unknown_wordings: {
                let refusals = learned.refusals();
                refusals
                    .iter()
                    .map(|(server, words)| Wording { server: server.clone(), words: words.clone() })
                    .collect()
            },
            trouble: self.recipients_trouble.load().as_deref().cloned(),
        }
    }

    /// Warnings about the recipient table, as it is now.
    pub fn recipient_warnings(&self) -> Vec<String> {
        crate::facts::recipients::warnings(&self.current.load().snapshot.domains_without_recipients())
    }

    /// The recipient table was read with a configuration: nothing is wrong with its file.
    pub fn recipients_read(&self) {
        self.recipients_trouble.store(None);
    }

    /// The block lists as they were last looked at.
    pub fn blocklist_states(&self) -> Vec<State> {
        self.blocklist_states.load().to_vec()
    }

    /// Whether DNS doesn't answer, as far as is known. Without anything to ask, it is not known.
    pub fn is_dns_silent(&self) -> bool {
        self.current.load().resolver.as_ref().is_some_and(dns::Resolver::is_silent)
    }

    /// How the servers of the backend are now.
    pub fn servers(&self) -> Vec<status::Server> {
        self.current.load().pool.servers()
    }

    /// See [`status::Status::tls_trouble`].
    pub fn tls_trouble(&self) -> Option<String> {
        self.current.load().tls.as_ref().and_then(|tls| tls.trouble())
    }

    /// How our certificates are at `now`.
    pub fn certificates(&self, now: WallTime) -> Vec<Certificate> {
        self.current.load().tls.as_ref().map(|tls| tls.certificates().certificates(now)).unwrap_or_default()
    }
}

/// `number` in 13 letters and digits that aren't taken for one another.
fn session_id(number: u64) -> String {
    const LETTERS: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
    let letter = |at: u32| char::from(LETTERS[(number >> (5 * at)) as usize & 31]);
    (0..13).rev().map(letter).collect()
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
    /// Whether it wants to.
    pub fn is_requested(&self) -> bool {
        *self.0.borrow()
    }

    /// Resolves when the guard wants to stop, also when the other end is gone. Cancel safe.
    pub async fn requested(&mut self) {
        // An error means that nobody can ask any more: as good as being asked.
        let _ = self.0.wait_for(|stop| *stop).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::session::Heard;

    /// A guard with a ledger of its own, for whom 192.0.2.9 is exempt.
    fn guard() -> Arc<Shared> {
        let mut config = Config::builtin();
        config.exempt = ["192.0.2.9/32".parse().unwrap()].into_iter().collect();
        let config = Arc::new(config);
        let bans = Arc::new(crate::edge::bans::BanTable::new(None, 10));
        let feedback = crate::feedback::tests::alone(&config, &bans);
        let rules = Arc::new(Snapshot::new(config, None));
        Shared::new(rules, feedback, Metrics::new(), Bus::default(), bans, &Plan::whole(100)).unwrap()
    }

    #[test]
    fn ids_of_sessions_differ_and_tell_nothing() {
        assert_eq!(
            [session_id(0), session_id(31), session_id(u64::MAX)],
            ["0000000000000", "000000000000z", "fzzzzzzzzzzzz"]
        );
        let ids = RandomState::new();
        let all: std::collections::HashSet<_> = (0..10_000u64).map(|n| session_id(ids.hash_one(n))).collect();
        assert_eq!(all.len(), 10_000);
        assert_ne!(session_id(ids.hash_one(0u64)), session_id(RandomState::new().hash_one(0u64)), "another process");
    }

    #[tokio::test]
    async fn half_of_a_limit_is_near_it() {
        let shared = guard();
        let limits = shared.current().config().limits.clone();
        let within = sources::Limits { of_source: u32::MAX, of_network: 0, total: u32::MAX, leaving: 1 };
        let half = limits.connections.div_ceil(2);
        let mut seats = Vec::new();
        for ip in ["192.0.2.1", "192.0.2.2"] {
            let source = shared.prefix.source(ip.parse().unwrap());
            for _ in 0..if ip == "192.0.2.1" { half } else { half - 1 } {
                let seat = shared.sources.enter(&within, source, gate::Standing::Newcomer, crate::clock::now());
                seats.push(seat.unwrap());
            }
        }
        let near = ("192.0.2.1".to_owned(), "limits.connections", half, limits.connections);
        assert_eq!(shared.crowded(9), [near]);
        assert!(limits.network_connections > 0);
        let neighbours = (3..=254).cycle().take((limits.network_connections.div_ceil(2) - 2 * half + 1) as usize);
        seats.extend(neighbours.map(|n: u8| {
            let source = shared.prefix.source(std::net::Ipv4Addr::new(192, 0, 2, n).into());
            shared.sources.enter(&within, source, gate::Standing::Newcomer, crate::clock::now()).unwrap()
        }));
        let near = ("192.0.2.0/24".to_owned(), "limits.network_connections", limits.network_connections.div_ceil(2));
        let crowded = shared.crowded(9);
        assert_eq!(crowded.last().map(|(who, limit, count, _)| (who.clone(), *limit, *count)), Some(near));
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
        shared.feedback.marks().history(partner.source(shared.prefix), true);
        assert!(!answered(partner, Some("x@example.org")), "its mail was accepted before: the backend is asked");
        assert!(answered(addr("198.51.100.2"), Some("x@example.org")));
        assert!(!answered(addr("198.51.100.2"), Some("y@example.org")));
    }

    #[tokio::test]
    async fn c7_handshakes_of_a_source_are_paced() {
        let shared = guard();
        let client = |ip: &str| shared.current().snapshot.client(ip.parse().unwrap());
        let begun = |ip: &str, times: usize| (0..times).filter(|_| !shared.hastens_handshakes(&client(ip))).count();
        assert_eq!(begun("192.0.2.1", 2_500), 600, "the rest of them waits");
        assert_eq!(begun("192.0.2.2", 10), 10, "a neighbour doesn't");
        assert_eq!(begun("192.0.2.9", 2_500), 2_500, "an exempt one never does");
    }
}
