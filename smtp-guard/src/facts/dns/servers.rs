//! The servers, by hickory.

use std::net::SocketAddr;
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::{Name, RecordType};
use hickory_resolver::system_conf::read_system_conf;
use tokio::time::timeout;

use super::answer::{self, Question, Reading};
use super::failure::{Error, Failure};
use super::race::race;

/// For the others when one server gave an error. Short: most errors are the zone's, and the same everywhere.
const SECOND_OPINION: Duration = Duration::from_secs(1);

/// All servers.
pub(super) struct Servers {
    /// Asks two of them at once, the quicker ones rather, and takes the first answer, be it an error.
    together: TokioResolver,
    /// Each by itself; empty if there is only one.
    apart: Vec<TokioResolver>,
}

impl Servers {
    /// `addresses` empty: those of the system. `at_once` is how many look-ups there may be.
    pub(super) fn new(addresses: &[SocketAddr], at_once: usize) -> Result<Self, Error> {
        let servers = match addresses {
            [] => read_system_conf().map_err(|error| Error::System(Box::new(error)))?.0.name_servers().to_vec(),
            named => named.iter().copied().map(server).collect(),
        };
        let apart = match servers.as_slice() {
            [_] => Vec::new(),
            several => several.iter().map(|one| build(vec![one.clone()], 0, at_once)).collect::<Result<_, _>>()?,
        };
        Ok(Self { together: build(servers, 1, at_once)?, apart })
    }

    /// Asks until there is an answer or hickory gives up. An error of one server stands only if none of the others knows
    /// better: one that is set up wrongly must not spoil what its neighbour can tell.
    pub(super) async fn ask(&self, question: &Question) -> Result<Reading, Failure> {
        let first = send(&self.together, question).await;
        if self.apart.is_empty() || !first.as_ref().is_err_and(|failure| failure.is_heard()) {
            return first;
        }
        let others = race(self.apart.iter().map(|server| send(server, question)).collect(), Result::ok);
        timeout(SECOND_OPINION, others).await.ok().flatten().map_or(first, Ok)
    }

    /// Asks for what any resolver knows by heart. Whether one says anything; false when hickory gives up.
    pub(super) async fn is_alive(&self) -> bool {
        let root = self.together.lookup(Name::root(), RecordType::NS).await;
        root.map_or_else(|error| !answer::failure(&error).is_silence(), |_| true)
    }
}

async fn send(resolver: &TokioResolver, question: &Question) -> Result<Reading, Failure> {
    let name = question.wire_name()?;
    let result = resolver.lookup(name.clone(), question.kind.record_type()).await;
    answer::read(question.kind, &name, result)
}

fn server(address: SocketAddr) -> NameServerConfig {
    let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
        connection.port = address.port();
        connection
    });
    NameServerConfig::new(address.ip(), true, connections.into())
}

/// Without the system's domain and search list: a name is looked up as it stands.
fn build(servers: Vec<NameServerConfig>, attempts: usize, at_once: usize) -> Result<TokioResolver, Error> {
    let config = ResolverConfig::from_parts(None, Vec::new(), servers);
    let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
    let options = builder.options_mut();
    set(options);
    options.attempts = attempts;
    options.max_active_requests = at_once;
    builder.build().map_err(|error| Error::Build(Box::new(error)))
}

fn set(options: &mut ResolverOpts) {
    // With one more attempt 5 s: the second gets the answer that a resolver took three seconds to find. Within each,
    // hickory sends its question up to three times over UDP.
    options.timeout = Duration::from_millis(2500);
    // The memory is ours; see the head of the module.
    options.cache_size = 0;
    options.use_hosts_file = ResolveHosts::Never;
    options.ndots = 0;
    options.edns0 = true;
    // A forger has to guess the case of the letters besides 16 bits of id and 16 of port.
    options.case_randomization = true;
    // A garbled or refused UDP answer isn't tried again over TCP; a truncated one always is.
    options.try_tcp_on_error = false;
    // Aliases stay in the answer, so that it can be checked whose records they are.
    options.preserve_intermediates = true;
}
