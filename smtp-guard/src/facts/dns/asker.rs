//! One question to the servers and back. In this order: the memory, the same question of somebody else, a place among
//! those under way, the breaker, the wire.
//!
//! Block lists have places of their own: whoever keeps the others busy with dead zones doesn't keep lists from being asked.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio::sync::{Notify, oneshot};
use tokio::time::{timeout, timeout_at};

use super::Meter;
use super::answer::{self, Answer, Kind, Question, Reading, Told};
use super::breaker::{Admission, Breaker};
use super::flights::{Flights, Part};
use super::memory::Memory;
use super::names;
use super::servers::{Servers, System};
use super::shares::{self, Full, Limits, Party, Shares};
use super::silence::Silence;
use super::{Error, Failure};
use crate::bound::Bound;

/// Look-ups of domains and names under way. With two servers and three tries over UDP each may hold six sockets. Zones of
/// others can be slow: a quarter for one network.
const DOMAINS: Limits = Limits { total: 256, of_network: 64 };
/// Look-ups in block lists under way. Lists answer soon: one network may have half.
const LISTS: Limits = Limits { total: 256, of_network: 128 };
/// Both together.
const AT_ONCE: usize = DOMAINS.total + LISTS.total;
/// Bytes of memory for answers and failures.
const REMEMBERED: u64 = 16 * 1024 * 1024;
/// The limits of what the [`Meter`] hears of.
pub(super) const BOUNDS: [(Bound, u64); 5] = [
    (Bound::DnsLookups, DOMAINS.total as u64),
    (Bound::DnsListLookups, LISTS.total as u64),
    (Bound::DnsMemory, REMEMBERED),
    (Bound::DnsQuestions, shares::RATE as u64),
    (Bound::DnsRecords, answer::MAX_ADDRESSES as u64),
];
/// A look-up that was given less time than this says nothing about servers or question when that time is over.
const PATIENCE: Duration = Duration::from_secs(1);

/// The longest wait for a sign of life: as every resolver knows the answer, and as it is asked for up to three times.
const SIGN: Duration = Duration::from_secs(5);

pub(super) struct Asker {
    servers: ArcSwap<Servers>,
    /// `None`: the servers are named, and don't change.
    system: Option<Mutex<System>>,
    memory: Memory,
    flights: Flights,
    breaker: Mutex<Breaker>,
    silence: Mutex<Silence>,
    /// A server has answered.
    cleared: Notify,
    domains: Pool,
    lists: Pool,
    meter: Arc<dyn Meter>,
}

impl Asker {
    /// `servers` empty: those of the system.
    pub(super) fn new(servers: &[SocketAddr], meter: Arc<dyn Meter>) -> Result<Self, Error> {
        let mut system = servers.is_empty().then(System::new);
        let found = system.as_mut().and_then(System::changed);
        Ok(Self {
            servers: ArcSwap::from_pointee(Servers::new(found.as_deref().unwrap_or(servers), AT_ONCE)?),
            system: system.map(Mutex::new),
            memory: Memory::new(REMEMBERED),
            flights: Flights::default(),
            breaker: Mutex::default(),
            silence: Mutex::default(),
            cleared: Notify::new(),
            domains: Pool::new(DOMAINS, Bound::DnsLookups),
            lists: Pool::new(LISTS, Bound::DnsListLookups),
            meter,
        })
    }

    /// Whether the servers are those of the system, which may change.
    pub(super) fn is_of_system(&self) -> bool {
        self.system.is_some()
    }

    /// Asks other servers from now on, if the system names others. Blocks.
    pub(super) fn look_again(&self) -> Result<(), Error> {
        let Some(system) = &self.system else { return Ok(()) };
        let Some(servers) = system.lock().unwrap_or_else(PoisonError::into_inner).changed() else { return Ok(()) };
        self.servers.store(Arc::new(Servers::new(&servers, AT_ONCE)?));
        let servers: Vec<_> = servers.iter().map(ToString::to_string).collect();
        tracing::info!(servers = servers.join(", "), "the system's DNS servers have changed");
        Ok(())
    }

    pub(super) fn meter(&self) -> &dyn Meter {
        &*self.meter
    }

    /// The answer to `question` of `party`, at `deadline` at the latest.
    pub(super) async fn ask(
        self: &Arc<Self>,
        question: Question,
        party: Party,
        deadline: tokio::time::Instant,
    ) -> Result<Answer, Failure> {
        if names::is_never_asked(&question.name) {
            return Ok(Answer::NoName);
        }
        let mut followed = false;
        let count = |result: &Result<Answer, Failure>| {
            let told = result.as_ref().map_or_else(|failure| Told::Failed(*failure), Answer::told);
            self.meter.lookup(question.kind, told);
        };
        loop {
            if let Some(known) = self.memory.recall(&question, Instant::now()) {
                if followed {
                    count(&known);
                } else {
                    self.meter.lookup(question.kind, Told::Cached);
                }
                return known;
            }
            let result = match self.flights.board(&question) {
                Part::Lead(_lead) => {
                    let began = Instant::now();
                    let result = self.ask_servers(&question, party, deadline).await;
                    self.meter.asked(question.kind, began.elapsed());
                    result
                }
                Part::Follow(leader) => {
                    followed = true;
                    match timeout_at(deadline, leader.ended()).await {
                        Ok(()) => continue,
                        Err(_) => Err(Failure::TimedOut),
                    }
                }
            };
            count(&result);
            return result;
        }
    }

    async fn ask_servers(
        self: &Arc<Self>,
        question: &Question,
        party: Party,
        deadline: tokio::time::Instant,
    ) -> Result<Answer, Failure> {
        let pool = if question.kind == Kind::Dnsbl { &self.lists } else { &self.domains };
        let mut place = pool.take(party).map_err(|full| {
            self.meter.bound_reached(pool.bound(full));
            Failure::Busy
        })?;
        let admission = self.admit(deadline).await;
        let given = deadline.saturating_duration_since(tokio::time::Instant::now());
        if given.is_zero() {
            return Err(Failure::TimedOut);
        }
        let alive = Arc::<AtomicBool>::default();
        let asked = async {
            match admission {
                Admission::Free => self.servers.load_full().ask(question).await,
                Admission::Trial => self.try_out(question, &alive).await,
                Admission::Denied => Err(Failure::ServersSilent),
            }
        };
        let result = tokio::select! {
            biased;
            result = timeout_at(deadline, asked) => result.unwrap_or(Err(Failure::TimedOut)),
            () = place.taken_away() => {
                self.meter.bound_reached(pool.bound(Full::Places));
                return Err(Failure::Busy);
            }
        };
        // A trial beside which a server spoke has shown that it lives, whatever became of the trial itself.
        let admission = if alive.load(Ordering::Relaxed) { Admission::Free } else { admission };
        self.learn(question.clone(), &result, admission, given);
        result.map(|reading| reading.answer)
    }

    /// Whether a look-up may go out. While the servers are only suspected it waits for the trial that is under way, and goes
    /// on waiting as long as they answer: dead zones may have them suspected again at once.
    async fn admit(&self, deadline: tokio::time::Instant) -> Admission {
        loop {
            let mut cleared = pin!(self.cleared.notified());
            cleared.as_mut().enable();
            let now = Instant::now();
            let (admission, doubt) = {
                let mut breaker = self.breaker();
                (breaker.admit(now), breaker.doubt(now))
            };
            let Some(doubt) = doubt.filter(|_| admission == Admission::Denied) else { return admission };
            let until = deadline.min(tokio::time::Instant::now() + doubt);
            if timeout_at(until, cleared).await.is_err() {
                // A look-up that has no time left must not be the next trial.
                let is_over = deadline <= tokio::time::Instant::now();
                return if is_over { Admission::Denied } else { self.breaker().admit(Instant::now()) };
            }
        }
    }

    /// Asks also for a sign of life, so that a client's dead zone isn't taken for a dead server. Others wait for it, so
    /// it doesn't end with the look-up, which may have little time left or lose its place.
    async fn try_out(self: &Arc<Self>, question: &Question, alive: &Arc<AtomicBool>) -> Result<Reading, Failure> {
        let (asker, alive) = (Arc::clone(self), Arc::clone(alive));
        tokio::spawn(async move {
            if timeout(SIGN, asker.servers.load_full().is_alive()).await == Ok(true) {
                alive.store(true, Ordering::Relaxed);
                asker.answered();
            }
        });
        self.servers.load_full().ask(question).await
    }

    /// Draws the conclusions of a look-up that was given a time.
    fn learn(
        self: &Arc<Self>,
        question: Question,
        result: &Result<Reading, Failure>,
        admission: Admission,
        given: Duration,
    ) {
        let was_hurried = matches!(result, Err(Failure::TimedOut)) && given < PATIENCE;
        match result {
            Ok(_) => self.answered(),
            Err(failure) if failure.is_heard() => self.answered(),
            Err(failure) if failure.is_silence() && !was_hurried => self.silent(admission),
            Err(_) => {}
        }
        if matches!(result, Ok(reading) if reading.is_cut) {
            self.meter.bound_reached(Bound::DnsRecords);
        }
        let worth_keeping = result.as_ref().err().is_none_or(|failure| failure.is_of_the_question() && !was_hurried);
        if worth_keeping && self.memory.keep(question, result, Instant::now()) {
            self.meter.bound_reached(Bound::DnsMemory);
        }
    }

    fn answered(&self) {
        self.breaker().answered();
        if self.silence().ends() {
            tracing::info!("a DNS server answers again");
        }
        self.cleared.notify_waiters();
    }

    fn silent(self: &Arc<Self>, admission: Admission) {
        let now = Instant::now();
        if self.breaker().silent(admission, now) {
            return self.tell_silence(now);
        }
        if self.silence().is_suspected(now) {
            let asker = Arc::clone(self);
            tokio::spawn(async move {
                match timeout(SIGN, asker.servers.load_full().is_alive()).await {
                    Ok(true) => asker.answered(),
                    Ok(false) | Err(_) => asker.tell_silence(Instant::now()),
                }
            });
        }
    }

    fn tell_silence(&self, now: Instant) {
        if self.silence().is_certain(now) {
            tracing::warn!(
                "DNS does not answer: senders whose domain has to be looked up hear 450; check the servers in dns.servers"
            );
        }
    }

    /// Whether no server answers, as far as is known.
    pub(super) fn is_silent(&self) -> bool {
        self.silence().is_on()
    }

    fn silence(&self) -> MutexGuard<'_, Silence> {
        self.silence.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn breaker(&self) -> MutexGuard<'_, Breaker> {
        self.breaker.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Places of one kind.
struct Pool {
    shares: Mutex<Shares<oneshot::Sender<()>>>,
    bound: Bound,
}

/// A place; gives it back when dropped.
struct Place<'a> {
    pool: &'a Pool,
    number: u64,
    taken_away: oneshot::Receiver<()>,
}

impl Pool {
    fn new(limits: Limits, bound: Bound) -> Self {
        Self { shares: Mutex::new(Shares::new(limits)), bound }
    }

    fn take(&self, party: Party) -> Result<Place<'_>, Full> {
        let (token, taken_away) = oneshot::channel();
        let (number, _) = self.shares().take(party, token, Instant::now())?;
        Ok(Place { pool: self, number, taken_away })
    }

    fn bound(&self, full: Full) -> Bound {
        match full {
            Full::Places => self.bound,
            Full::Rate => Bound::DnsQuestions,
        }
    }

    // A panic elsewhere can't leave the shares half changed.
    fn shares(&self) -> MutexGuard<'_, Shares<oneshot::Sender<()>>> {
        self.shares.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place<'_> {
    /// Resolves when somebody else has it.
    async fn taken_away(&mut self) {
        // Nothing is ever sent: the sender is dropped.
        let _ = (&mut self.taken_away).await;
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.pool.shares().give_back(self.number);
    }
}
