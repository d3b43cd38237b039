//! The valid configuration: what the rest of the program sees. Raw text ends in `raw`, judgement in `check`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::addr::{BackendAddr, Ipv6Prefix, NetSet};

/// Everything that was configured, checked and with defaults filled in.
#[derive(Clone, Debug)]
pub struct Config {
    /// Our name in greeting and Received.
    pub hostname: String,
    /// Never limited, checked, delayed or banned; wins over everything, in both planes.
    pub exempt: NetSet,
    pub listen: Vec<Listen>,
    pub backend: Backend,
    pub relay: Relay,
    pub recipients: Recipients,
    pub limits: Limits,
    pub harvest: Harvest,
    pub edge: Edge,
    pub metrics: Metrics,
    pub admin: Admin,
    pub state: State,
    pub log: Log,
}

/// One listening socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen {
    pub address: SocketAddr,
}

/// The mail server behind us.
#[derive(Clone, Debug)]
pub struct Backend {
    /// Never empty, but for `run` without a file, where the built-in sink takes this place.
    pub servers: Vec<BackendAddr>,
    pub connect_timeout: Duration,
    pub profile: Profile,
}

/// Whose words the backend's unknown-recipient reply is read in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Profile {
    Postfix,
    /// `550 5.1.1` and nothing else.
    #[default]
    Generic,
}

/// Who may send where.
#[derive(Clone, Debug, Default)]
pub struct Relay {
    /// Lower case, without a final dot. Mail to these is accepted from anyone.
    pub domains: Vec<String>,
    /// May send anywhere.
    pub networks: NetSet,
}

/// What is known of the backend's recipients.
#[derive(Clone, Debug, Default)]
pub struct Recipients {
    /// File of one address or `@domain` a line.
    pub known: Option<PathBuf>,
}

/// Limits for each source, session and message.
#[derive(Clone, Debug)]
pub struct Limits {
    pub ipv6_prefix: Ipv6Prefix,
    /// Sessions of one source at once.
    pub connections: u32,
    /// Accepted recipients in one message.
    pub recipients: u32,
    /// Bytes of one message, as decoded.
    pub message_size: u64,
    /// Failed commands in one session; from half of it on each failure costs one second.
    pub failed_commands: u32,
    /// Sessions of the whole guard at once.
    pub total_connections: u32,
}

/// When unknown recipients are a harvest.
#[derive(Clone, Debug)]
pub struct Harvest {
    /// Distinct unknown recipients in `window`, and ...
    pub unknown_recipients: u32,
    /// ... more than this share of the source's recipients were unknown (0.0 to 1.0).
    pub unknown_share: f64,
    pub window: Duration,
    /// Before each unknown-recipient reply.
    pub delay: Duration,
    /// The first ban; doubles at each repeat ...
    pub ban: Duration,
    /// ... up to this.
    pub ban_max: Duration,
}

/// The kernel plane.
#[derive(Clone, Debug)]
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
}

/// Where in the stack XDP runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum XdpMode {
    /// Driver, else generic.
    #[default]
    Auto,
    Driver,
    Generic,
}

/// The HTTP endpoint for metrics and health.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// `None`: off.
    pub listen: Option<SocketAddr>,
}

/// The socket of the command line.
#[derive(Clone, Debug)]
pub struct Admin {
    pub socket: PathBuf,
}

/// What survives a restart.
#[derive(Clone, Debug)]
pub struct State {
    pub directory: PathBuf,
}

/// The log on standard error.
#[derive(Clone, Debug)]
pub struct Log {
    pub format: LogFormat,
    /// A tracing filter: `info`, or `warn,smtp_guard=debug`.
    pub level: String,
}

/// Shape of a log line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    #[default]
    Json,
    Text,
}
