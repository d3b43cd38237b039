//! The defaults, once. The packaged file is held against them by a test.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use super::secure::FAILURE_WINDOW;
use super::values::own_name_fault;
use super::{
    Admin, Auth, AuthVia, Backend, BackendTls, Checks, Config, Dns, Edge, Harvest, Identity, Limits, Listen, Log,
    LogFormat, Metrics, Profile, Recipients, Relay, Role, State, XdpMode,
};
use crate::addr::{Ipv6Prefix, NetSet};

const SECOND: Duration = Duration::from_secs(1);
/// A client whose message is cut off keeps it and comes back; this lets nearly all of them finish.
pub(super) const DRAIN: Duration = Duration::from_secs(10);
const HOUR: Duration = Duration::from_secs(3600);

impl Config {
    /// For a first try without a file: the guard on 127.0.0.1:2525 in front of the built-in sink, whose address the
    /// caller puts into `backend.servers`. State and socket are the user's own.
    pub fn builtin() -> Self {
        Self::builtin_on(&Machine::default())
    }

    /// Likewise, on `machine`.
    pub fn builtin_on(machine: &Machine) -> Self {
        let directory = machine.directory.clone();
        Self {
            hostname: machine.hostname().unwrap_or_else(|_| String::from("localhost")),
            drain: DRAIN,
            exempt: NetSet::default(),
            listen: vec![Listen {
                address: SocketAddr::from((Ipv4Addr::LOCALHOST, 2525)),
                role: Role::Mx,
                balancers: NetSet::default(),
            }],
            tls: None,
            // The sink knows neither XCLIENT nor users.
            backend: Backend { tls: BackendTls::Off, identity: Identity::None, ..Backend::default() },
            auth: Auth { via: AuthVia::Off, ..Auth::default() },
            relay: Relay {
                domains: vec![String::from("example.org"), String::from("localhost")],
                networks: NetSet::default(),
                authenticated: true,
            },
            recipients: Recipients::default(),
            limits: Limits::default(),
            harvest: Harvest::default(),
            checks: Checks::none(),
            dnsbl: Vec::new(),
            dns: Dns::default(),
            edge: Edge::default(),
            blocklist: Vec::new(),
            metrics: Metrics::default(),
            admin: Admin { socket: directory.join("admin.sock") },
            state: State { directory },
            log: Log { format: LogFormat::Text, ..Log::default() },
        }
    }
}

impl Default for Backend {
    fn default() -> Self {
        Self {
            servers: Vec::new(),
            tls: BackendTls::default(),
            tls_ca: None,
            tls_name: None,
            identity: Identity::default(),
            connect_timeout: 10 * SECOND,
            connections: 90,
            profile: Profile::default(),
        }
    }
}

impl Default for Auth {
    fn default() -> Self {
        Self {
            via: AuthVia::default(),
            dovecot_socket: PathBuf::from("/run/dovecot/auth-client"),
            failures: 10,
            failure_window: FAILURE_WINDOW,
            ban: 300 * SECOND,
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            ipv6_prefix: Ipv6Prefix::default(),
            connections: 20,
            connections_per_minute: 0,
            messages_per_hour: 0,
            user_messages_per_hour: 0,
            user_recipients_per_hour: 0,
            user_networks_per_day: 0,
            recipients: 100,
            message_size: 25 << 20,
            failed_commands: 20,
            junk_commands: 100,
            total_connections: 10_000,
            network_connections: 500,
            session_time: HOUR,
        }
    }
}

impl Default for Harvest {
    fn default() -> Self {
        Self {
            unknown_recipients: 10,
            unknown_share: 0.5,
            window: HOUR,
            delay: 5 * SECOND,
            ban: HOUR,
            ban_max: 7 * 24 * HOUR,
        }
    }
}

impl Default for Edge {
    fn default() -> Self {
        Self {
            interfaces: Vec::new(),
            mode: XdpMode::default(),
            connections: 50,
            max_sources: 1_000_000,
            pin_directory: PathBuf::from("/sys/fs/bpf/smtp-guard"),
            group: String::from("smtp-guard"),
        }
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self { listen: Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 9925))) }
    }
}

impl Default for Admin {
    fn default() -> Self {
        Self { socket: PathBuf::from("/run/smtp-guard/admin.sock") }
    }
}

impl Default for State {
    fn default() -> Self {
        Self { directory: PathBuf::from("/var/lib/smtp-guard") }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self { format: LogFormat::default(), level: String::from("info") }
    }
}

/// What the configuration takes from the machine that it is for.
#[derive(Clone, Debug)]
pub struct Machine {
    /// The host's own name.
    pub name: String,
    /// Where the state of a guard without a configuration file is kept.
    pub directory: PathBuf,
}

impl Default for Machine {
    fn default() -> Self {
        Self { name: String::from("localhost"), directory: PathBuf::from("/var/lib/smtp-guard") }
    }
}

impl Machine {
    /// The host's own name, or, as the error, what it is if it can't stand in a greeting.
    pub fn hostname(&self) -> Result<String, String> {
        let name = self.name.to_ascii_lowercase();
        match own_name_fault(&name) {
            None => Ok(name),
            Some(_) => Err(name),
        }
    }
}
