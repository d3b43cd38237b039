//! One question to the servers and back. In this order: the memory, a place among those under way, the breaker, the wire.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::{Name, RecordType};
use hickory_resolver::system_conf::read_system_conf;
use tokio::sync::Semaphore;
use tokio::time::timeout_at;

use super::Meter;
use super::answer::{self, Answer, Question, Reading};
use super::breaker::{Admission, Breaker};
use super::failure::{Error, Failure};
use super::memory::Memory;
use super::names;

/// Look-ups under way. With two servers and three tries over UDP each may hold six sockets.
const UNDER_WAY: usize = 256;
/// Bytes of memory for answers and failures.
const REMEMBERED: u64 = 16 * 1024 * 1024;
/// A look-up that was given less time than this says nothing about servers or question when that time is over.
const PATIENCE: Duration = Duration::from_secs(1);

pub(super) struct Asker {
    hickory: TokioResolver,
    memory: Memory,
    breaker: Mutex<Breaker>,
    places: Semaphore,
    meter: Arc<dyn Meter>,
}

impl Asker {
    /// `servers` empty: those of the system.
    pub(super) fn new(servers: &[SocketAddr], meter: Arc<dyn Meter>) -> Result<Self, Error> {
        let servers = match servers {
            [] => read_system_conf().map_err(|error| Error::System(Box::new(error)))?.0.name_servers().to_vec(),
            named => named.iter().copied().map(server).collect(),
        };
        // Without the system's domain and search list: a name is looked up as it stands.
        let config = ResolverConfig::from_parts(None, Vec::new(), servers);
        let builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
        let hickory = builder.with_options(options()).build().map_err(|error| Error::Build(Box::new(error)))?;
        Ok(Self {
            hickory,
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
                Admission::Free => self.send(&question).await,
                Admission::Trial => self.send_with_sign_of_life(&question).await,
                Admission::Denied => Err(Failure::ServersSilent),
            }
        };
        let result = timeout_at(deadline, asked).await.unwrap_or(Err(Failure::TimedOut));
        self.learn(question, &result, admission, given);
        result.map(|reading| reading.answer)
    }

    async fn send(&self, question: &Question) -> Result<Reading, Failure> {
        let name = question.wire_name()?;
        let result = self.hickory.lookup(name.clone(), question.kind.record_type()).await;
        answer::read(question.kind, &name, result)
    }

    /// Asks also for what any resolver knows, so that a stranger's dead zone isn't taken for a dead server.
    async fn send_with_sign_of_life(&self, question: &Question) -> Result<Reading, Failure> {
        let mut asked = pin!(self.send(question));
        let mut alive = pin!(self.hickory.lookup(Name::root(), RecordType::NS));
        tokio::select! {
            biased;
            result = &mut asked => return result,
            root = &mut alive => {
                if root.map_or_else(|error| !answer::failure(&error).is_silence(), |_| true) {
                    self.answered();
                }
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

fn server(address: SocketAddr) -> NameServerConfig {
    let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
        connection.port = address.port();
        connection
    });
    NameServerConfig::new(address.ip(), true, connections.into())
}

fn options() -> ResolverOpts {
    let mut options = ResolverOpts::default();
    // Twice 2.5 s: the second time gets the answer that a resolver took three seconds to find. Within each, hickory sends
    // its question up to three times over UDP.
    options.timeout = Duration::from_millis(2500);
    options.attempts = 1;
    // The memory is ours; see the head of the module.
    options.cache_size = 0;
    options.use_hosts_file = ResolveHosts::Never;
    options.ndots = 0;
    options.edns0 = true;
    // 16 bits of id and 16 of port are guarded by the case of the letters as well.
    options.case_randomization = true;
    // A garbled or refused UDP answer isn't tried again over TCP; a truncated one always is.
    options.try_tcp_on_error = false;
    // Aliases stay in the answer, so that it can be checked whose records they are.
    options.preserve_intermediates = true;
    // Over one TCP connection; never the reason for Busy.
    options.max_active_requests = UNDER_WAY;
    options
}
