//! The valid configuration: what the rest of the program sees. Raw text ends in `raw`, judgement in `check`.

mod blocklist;
mod check;
mod checks;
mod choices;
mod defaults;
mod difference;
pub mod keys;
mod raw;
mod report;
mod secure;
mod show;
#[cfg(test)]
mod tests;
mod together;
pub mod units;
mod values;
mod warnings;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;

use crate::addr::{BackendAddr, Ipv6Prefix, NetSet};
pub use blocklist::Blocklist;
pub use checks::{Checks, Dns, Dnsbl};
pub use choices::{AuthVia, BackendTls, Granted, Identity, LogFormat, Mode, Profile, Role, XdpMode};
pub use defaults::Machine;
pub use difference::Change;
pub use report::Report;

impl Config {
    /// The configuration in `text`, for `machine`. `path` only names it in the report.
    pub fn parse(path: &Path, text: &str, machine: &Machine) -> Result<Self, Report> {
        let mut judge = values::Judge::default();
        let Some(raw) = raw::read(text, &mut judge.problems) else {
            return Err(Report::new(path, text, judge.problems));
        };
        let whole = judge.problems.is_empty();
        let config = check::check(&raw, whole, machine, &mut judge);
        if judge.problems.is_empty() { Ok(config) } else { Err(Report::new(path, text, judge.problems)) }
    }
}

impl Config {
    /// Whom the kernel plane and bans must leave alone: the exempt list, and the balancers, behind whom everybody is.
    pub fn untouchable(&self) -> NetSet {
        let balancers = self.listen.iter().flat_map(|listen| listen.balancers.iter());
        self.exempt.iter().chain(balancers).collect()
    }
}

/// Everything that was configured, checked and with defaults filled in.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Config {
    /// Our name in greeting and Received.
    pub hostname: String,
    /// How long sessions may go on after the guard was told to stop.
    #[serde(serialize_with = "show::duration")]
    pub drain: Duration,
    /// Never limited, checked, delayed or banned; wins over everything, in both planes.
    #[serde(serialize_with = "show::networks")]
    pub exempt: NetSet,
    pub listen: Vec<Listen>,
    /// `None`: STARTTLS isn't offered.
    #[serde(serialize_with = "show::optional_tls")]
    pub tls: Option<Tls>,
    pub backend: Backend,
    pub replies: Replies,
    pub relay: Relay,
    pub auth: Auth,
    pub recipients: Recipients,
    pub limits: Limits,
    pub harvest: Harvest,
    pub checks: Checks,
    pub dnsbl: Vec<Dnsbl>,
    pub dns: Dns,
    pub edge: Edge,
    pub blocklist: Vec<Blocklist>,
    pub metrics: Metrics,
    pub admin: Admin,
    pub state: State,
    pub log: Log,
}

/// One listening socket.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Listen {
    pub address: SocketAddr,
    pub role: Role,
    /// Not empty: a PROXY header is mandatory from these peers, and every other peer is refused.
    #[serde(rename = "proxy_protocol", serialize_with = "show::networks")]
    pub balancers: NetSet,
}

/// Our certificate.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Tls {
    /// PEM: our certificate first, then what leads to its root.
    pub certificate: PathBuf,
    /// PEM.
    pub key: PathBuf,
    /// Certificates with keys of other kinds.
    pub also: Vec<Pair>,
}

/// A certificate and its key, as in [`Tls`].
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Pair {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

/// Where credentials are judged.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Auth {
    pub via: AuthVia,
    pub dovecot_socket: PathBuf,
    /// Failed attempts of one source within `failure_window` that lead to a ban.
    pub failures: u32,
    #[serde(serialize_with = "show::duration")]
    pub failure_window: Duration,
    #[serde(serialize_with = "show::duration")]
    pub ban: Duration,
}

/// The mail server behind us.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Backend {
    /// Never empty, but for `run` without a file, where the built-in sink takes this place.
    #[serde(serialize_with = "show::servers")]
    pub servers: Vec<BackendAddr>,
    pub tls: BackendTls,
    /// PEM of the authorities that `verified` trusts; without it, the system's.
    #[serde(serialize_with = "show::optional")]
    pub tls_ca: Option<PathBuf>,
    /// The name that `verified` asks of the certificate; without it, the server's name or address in `servers`.
    #[serde(serialize_with = "show::optional_name")]
    pub tls_name: Option<String>,
    pub identity: Identity,
    #[serde(serialize_with = "show::duration")]
    pub connect_timeout: Duration,
    /// To each server at once, on behalf of clients; a tenth is kept for sources with a history.
    pub connections: u32,
    pub profile: Profile,
}

/// What clients hear beside the reason of a refusal.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Replies {
    /// Whom to ask; printable ASCII of at most 128 bytes. Empty: nothing is said.
    pub contact: String,
}

/// Who may send where.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Relay {
    /// Lower case, without a final dot. Mail to these is accepted from anyone.
    pub domains: Vec<String>,
    /// May send anywhere.
    #[serde(serialize_with = "show::networks")]
    pub networks: NetSet,
    /// Who has logged in may send anywhere.
    pub authenticated: bool,
}

/// What is known of the backend's recipients.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Recipients {
    /// File of one address or `@domain` a line.
    #[serde(serialize_with = "show::optional")]
    pub known: Option<PathBuf>,
    /// Addresses that nobody uses, as [`crate::wire::address::Mailbox::key`] has them: whoever asks for one is harvesting.
    pub traps: Vec<String>,
}

/// Limits for each source, session and message.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Limits {
    #[serde(serialize_with = "show::prefix")]
    pub ipv6_prefix: Ipv6Prefix,
    /// Sessions of one source at once.
    pub connections: u32,
    /// Sessions of one source that may begin in a minute; 0: no limit.
    pub connections_per_minute: u32,
    /// Messages of one source in an hour, counted at MAIL; 0: no limit.
    pub messages_per_hour: u32,
    /// Messages of one user who logged in, in an hour, counted at MAIL; 0: no limit.
    pub user_messages_per_hour: u32,
    /// Accepted recipients of one user in an hour; 0: no limit.
    pub user_recipients_per_hour: u32,
    /// Networks, IPv4 /24 and IPv6 /48, that one user logs in from in a day; 0: no limit.
    pub user_networks_per_day: u32,
    /// Accepted recipients in one message.
    pub recipients: u32,
    /// Bytes of one message, as decoded.
    #[serde(serialize_with = "show::size")]
    pub message_size: u64,
    /// Failed commands in one session; from half of it on each failure costs one second.
    pub failed_commands: u32,
    /// Commands of one session that lead nowhere (RSET, NOOP, VRFY, HELP, EHLO again) since its last accepted message.
    pub junk_commands: u32,
    /// Sessions of the whole guard at once; a tenth is kept for sources with a history.
    pub total_connections: u32,
    /// Sessions of one IPv4 /24 or IPv6 /48 at once, a tenth likewise; 0: no limit.
    pub network_connections: u32,
    /// Length of one session; a transaction under way may end.
    #[serde(serialize_with = "show::duration")]
    pub session_time: Duration,
}

/// When unknown recipients are a harvest.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Harvest {
    /// Distinct unknown recipients in `window`, and ...
    pub unknown_recipients: u32,
    /// ... more than this share of the source's recipients were unknown (0.0 to 1.0).
    pub unknown_share: f64,
    #[serde(serialize_with = "show::duration")]
    pub window: Duration,
    /// Before each unknown-recipient reply.
    #[serde(serialize_with = "show::duration")]
    pub delay: Duration,
    /// The first ban; doubles at each repeat ...
    #[serde(serialize_with = "show::duration")]
    pub ban: Duration,
    /// ... up to this.
    #[serde(serialize_with = "show::duration")]
    pub ban_max: Duration,
}

/// The kernel plane.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Edge {
    /// Empty: no kernel plane.
    pub interfaces: Vec<String>,
    pub mode: XdpMode,
    /// Ceiling of established connections for each source.
    pub connections: u32,
    /// Entries of the maps that are keyed by source.
    pub max_sources: u32,
    /// Programs and maps are pinned below it, in a directory named after the ABI version.
    pub pin_directory: PathBuf,
    /// Who may open the pinned maps beside root: a name or a number. Empty: nobody.
    pub group: String,
}

/// The HTTP endpoint for metrics and health.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Metrics {
    /// `None`: off.
    #[serde(serialize_with = "show::optional_address")]
    pub listen: Option<SocketAddr>,
}

/// The socket of the command line.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Admin {
    pub socket: PathBuf,
}

/// What survives a restart.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct State {
    pub directory: PathBuf,
}

/// The log on standard error.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Log {
    pub format: LogFormat,
    /// A tracing filter: `info`, or `warn,smtp_guard=debug`.
    pub level: String,
}
