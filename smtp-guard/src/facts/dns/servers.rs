//! The servers that questions go to, by hickory's resolver.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::{Name, RecordType};
use tokio::time::timeout;

use super::answer::{self, Question, Reading};
use super::race::race;
use super::{Error, Failure, Flaw};
use crate::file;
use crate::stamp::{self, Stamp};

/// For the others when one server gave an error. Short: most errors are the zone's, and the same everywhere.
const SECOND_OPINION: Duration = Duration::from_secs(1);

/// Where libc looks for its servers.
const RESOLV_CONF: &str = "/etc/resolv.conf";
/// Bytes of that file.
const MAX_FILE: u64 = 1 << 20;
/// Port of DNS.
const PORT: u16 = 53;
/// Codes of errors (RFC 1035 section 4.1.1, RFC 6891 section 9).
const FORMERR: u16 = 1;
const NOTIMP: u16 = 4;
const BADVERS: u16 = 16;

/// Servers that are asked, as libc has it (resolv.conf(5)).
const MOST: usize = 3;

/// All servers.
pub(super) struct Servers {
    /// Asks two of them at once, the quicker ones rather, and takes the first answer, be it an error.
    together: TokioResolver,
    /// Each by itself.
    apart: Vec<Server>,
}

struct Server {
    usual: TokioResolver,
    /// Without EDNS.
    plain: TokioResolver,
}

impl Servers {
    /// `at_once` is how many look-ups there may be.
    pub(super) fn new(addresses: &[SocketAddr], at_once: usize) -> Result<Self, Error> {
        let servers: Vec<_> = addresses.iter().copied().map(server).collect();
        let alone = |server: &NameServerConfig| {
            let one = |edns| build(vec![server.clone()], 0, at_once, edns);
            Ok(Server { usual: one(true)?, plain: one(false)? })
        };
        let apart = servers.iter().map(alone).collect::<Result<_, _>>()?;
        Ok(Self { together: build(servers, 1, at_once, true)?, apart })
    }

    /// Asks until there is an answer or hickory gives up. An error of one server stands only if none of the others knows
    /// better: one that is set up wrongly must not spoil what its neighbour can tell. Nor does it stand where the server
    /// may have stumbled over EDNS.
    pub(super) async fn ask(&self, question: &Question) -> Result<Reading, Failure> {
        let first = send(&self.together, question).await;
        let Some(failure) = first.as_ref().err().copied().filter(|failure| failure.is_heard()) else { return first };
        let again: Vec<_> = match self.apart.as_slice() {
            [only] if may_be_of_edns(failure) => vec![only.ask(question, true)],
            [_] => return first,
            several => several.iter().map(|server| server.ask(question, false)).collect(),
        };
        timeout(SECOND_OPINION, race(again, Result::ok)).await.ok().flatten().map_or(first, Ok)
    }

    /// Asks for what any resolver knows by heart. Whether one says anything; false when hickory gives up.
    pub(super) async fn is_alive(&self) -> bool {
        let root = self.together.lookup(Name::root(), RecordType::NS).await;
        root.map_or_else(|error| !answer::failure(&error).is_silence(), |_| true)
    }
}

impl Server {
    /// `plain`: at once without EDNS.
    async fn ask(&self, question: &Question, plain: bool) -> Result<Reading, Failure> {
        if !plain {
            let usual = send(&self.usual, question).await;
            if !usual.as_ref().is_err_and(|failure| may_be_of_edns(*failure)) {
                return usual;
            }
        }
        send(&self.plain, question).await
    }
}

/// Whether the server may not know EDNS: it says FORMERR, NOTIMP or BADVERS (RFC 6891 section 7), or what can't be read.
fn may_be_of_edns(failure: Failure) -> bool {
    matches!(failure, Failure::Code(FORMERR | NOTIMP | BADVERS) | Failure::Malformed(Flaw::Unreadable))
}

/// The servers of the system, in a file that may come late and change: by DHCP, or with a network that is up after us.
#[derive(Debug)]
pub(super) struct System {
    path: PathBuf,
    /// The state of the file when it was read. `None`: it never was.
    read: Option<Option<Stamp>>,
}

impl System {
    pub(super) fn new() -> Self {
        Self { path: PathBuf::from(RESOLV_CONF), read: None }
    }

    /// The servers that the file names, where it isn't the one any more that was read at the last call. Blocks.
    pub(super) fn changed(&mut self) -> Option<Vec<SocketAddr>> {
        let now = stamp::of(&self.path);
        if self.read.replace(now) == Some(now) {
            return None;
        }
        let text = file::read(&self.path, MAX_FILE).map(|(text, _)| text).unwrap_or_else(|error| {
            tracing::warn!(%error, "cannot read {}; it is read when it is there", self.path.display());
            Vec::new()
        });
        Some(servers_in(&String::from_utf8_lossy(&text)))
    }
}

/// The servers that a `resolv.conf` names; without any, this machine itself. What is not understood is passed over. All of
/// it is as in libc.
fn servers_in(text: &str) -> Vec<SocketAddr> {
    let address = |line: &str| {
        let mut words = line.split_ascii_whitespace();
        let ip = words.next().filter(|word| *word == "nameserver").and(words.next())?;
        // hickory knows no scopes.
        ip.split('%').next()?.parse::<IpAddr>().ok()
    };
    let mut named: Vec<_> = text.lines().filter_map(address).take(MOST).collect();
    if named.is_empty() {
        tracing::warn!("{RESOLV_CONF} names no server; this machine is asked, unless [dns] servers names others");
        named = vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
    }
    named.into_iter().map(|ip| SocketAddr::new(ip, PORT)).collect()
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
fn build(servers: Vec<NameServerConfig>, attempts: usize, at_once: usize, edns: bool) -> Result<TokioResolver, Error> {
    let config = ResolverConfig::from_parts(None, Vec::new(), servers);
    let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
    let options = builder.options_mut();
    set(options);
    options.attempts = attempts;
    options.edns0 = edns;
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
    // A forger has to guess the case of the letters besides 16 bits of id and 16 of port.
    options.case_randomization = true;
    // A garbled or refused UDP answer isn't tried again over TCP; a truncated one always is.
    options.try_tcp_on_error = false;
    // Aliases stay in the answer, so that it can be checked whose records they are.
    options.preserve_intermediates = true;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a11_the_servers_of_resolv_conf_are_read_as_libc_does() {
        for (text, servers) in [
            ("", &["127.0.0.1:53", "[::1]:53"][..]),
            ("search example.org\noptions ndots:5\n", &["127.0.0.1:53", "[::1]:53"]),
            ("nameserver 192.0.2.53", &["192.0.2.53:53"]),
            (
                "# nameserver 192.0.2.1\n;nameserver 192.0.2.2\nnameserver\t2001:db8::53 # ours\r\n",
                &["[2001:db8::53]:53"],
            ),
            ("nameserver fe80::1%eth0\nnameserver dns.example\nnameserver\n", &["[fe80::1]:53"]),
            ("search not_a_name..\nnameserver 127.0.0.53\n", &["127.0.0.53:53"]),
            (
                "nameserver 192.0.2.1\nnameserver 192.0.2.2\nnameserver 192.0.2.3\nnameserver 192.0.2.4\n",
                &["192.0.2.1:53", "192.0.2.2:53", "192.0.2.3:53"],
            ),
        ] {
            let servers: Vec<SocketAddr> = servers.iter().map(|server| server.parse().unwrap()).collect();
            assert_eq!(servers_in(text), servers, "{text:?}");
        }
    }

    #[test]
    fn a_file_of_the_system_that_comes_late_or_changes_is_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("resolv.conf");
        let mut system = System { path: path.clone(), read: None };
        let mut check = |servers: Option<&[&str]>| {
            let servers = servers.map(|servers| servers.iter().map(|server| server.parse().unwrap()).collect());
            assert_eq!(system.changed(), servers);
        };
        check(Some(&["127.0.0.1:53", "[::1]:53"]));
        check(None);
        let new = folder.path().join("new");
        for server in ["192.0.2.53", "192.0.2.54"] {
            std::fs::write(&new, format!("nameserver {server}\n")).unwrap();
            std::fs::rename(&new, &path).unwrap();
            check(Some(&[&format!("{server}:53")]));
            check(None);
        }
        std::fs::remove_file(&path).unwrap();
        check(Some(&["127.0.0.1:53", "[::1]:53"]));
    }
}
