//! One question to the servers and back. In this order: the memory, a place among those under way, the breaker, the wire.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;
use tokio::time::timeout_at;

use super::Meter;
use super::answer::{Answer, Question, Reading};
use super::breaker::{Admission, Breaker};
use super::failure::{Error, Failure};
use super::memory::Memory;
use super::names;
use super::servers::Servers;

/// Look-ups under way. With two servers and three tries over UDP each may hold six sockets; identical ones share them.
const UNDER_WAY: usize = 256;
/// Bytes of memory for answers and failures.
const REMEMBERED: u64 = 16 * 1024 * 1024;
/// A look-up that was given less time than this says nothing about servers or question when that time is over.
const PATIENCE: Duration = Duration::from_secs(1);

pub(super) struct Asker {
    servers: Servers,
    memory: Memory,
    breaker: Mutex<Breaker>,
    places: Semaphore,
    meter: Arc<dyn Meter>,
}

impl Asker {
    /// `servers` empty: those of the system.
    pub(super) fn new(servers: &[SocketAddr], meter: Arc<dyn Meter>) -> Result<Self, Error> {
        Ok(Self {
            servers: Servers::new(servers, UNDER_WAY)?,
            memory: Memory::new(REMEMBERED),
            breaker: Mutex::default(),
            places: Semaphore::new(UNDER_WAY),
            meter,
        })
    }

    pub(super) fn meter(&self) -> &dyn Meter {
        &*self.meter
    }

    /// The answer to `question`, at `deadline` at the latest.
    pub(super) async fn ask(&self, question: Question, deadline: tokio::time::Instant) -> Result<Answer, Failure> {
        let kind = question.kind;
        if names::is_never_asked(&question.name) {
            return Ok(Answer::NoName);
        }
        if let Some(known) = self.memory.recall(&question, Instant::now()) {
            self.meter.lookup(kind.label(), "cached");
            return known;
        }
        let result = self.ask_servers(question, deadline).await;
        self.meter.lookup(kind.label(), result.as_ref().map_or_else(|failure| failure.label(), Answer::label));
        result
    }

    async fn ask_servers(&self, question: Question, deadline: tokio::time::Instant) -> Result<Answer, Failure> {
        let Ok(_place) = self.places.try_acquire() else {
            self.meter.bound_reached("dns_lookups");
            return Err(Failure::Busy);
        };
        let given = deadline.saturating_duration_since(tokio::time::Instant::now());
        if given.is_zero() {
            return Err(Failure::TimedOut);
        }
        let admission = self.breaker().admit(Instant::now());
        let asked = async {
            match admission {
                Admission::Free => self.servers.ask(&question).await,
                Admission::Trial => self.try_out(&question).await,
                Admission::Denied => Err(Failure::ServersSilent),
            }
        };
        let result = timeout_at(deadline, asked).await.unwrap_or(Err(Failure::TimedOut));
        self.learn(question, &result, admission, given);
        result.map(|reading| reading.answer)
    }

    /// Asks also for a sign of life, so that a stranger's dead zone isn't taken for a dead server.
    async fn try_out(&self, question: &Question) -> Result<Reading, Failure> {
        let mut asked = pin!(self.servers.ask(question));
        tokio::select! {
            biased;
            result = &mut asked => return result,
            is_alive = self.servers.is_alive() => if is_alive {
                self.answered();
            }
        }
        asked.await
    }

    /// Draws the conclusions of a look-up that was given a time.
    fn learn(&self, question: Question, result: &Result<Reading, Failure>, admission: Admission, given: Duration) {
        let was_hurried = matches!(result, Err(Failure::TimedOut)) && given < PATIENCE;
        match result {
            Ok(_) => self.answered(),
            Err(failure) if failure.is_heard() => self.answered(),
            Err(failure) if failure.is_silence() && !was_hurried => self.silent(admission),
            Err(_) => {}
        }
        if matches!(result, Ok(reading) if reading.is_cut) {
            self.meter.bound_reached("dns_records");
        }
        let worth_keeping = result.as_ref().err().is_none_or(|failure| failure.is_of_the_question() && !was_hurried);
        if worth_keeping && self.memory.keep(question, result, Instant::now()) {
            self.meter.bound_reached("dns_memory");
        }
    }

    fn answered(&self) {
        if self.breaker().answered() {
            tracing::info!("a DNS server answers again");
        }
    }

    fn silent(&self, admission: Admission) {
        if self.breaker().silent(admission, Instant::now()) {
            tracing::warn!("no DNS server answers; look-ups fail at once until one does");
        }
    }

    fn breaker(&self) -> MutexGuard<'_, Breaker> {
        self.breaker.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
