//! The defaults, as the rows of [`super::keys`] have them, and the configuration without a file.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use super::check;
use super::raw;
use super::secure::auth;
use super::values::{Judge, own_name_fault};
use super::{
    Admin, Auth, AuthVia, Backend, BackendTls, Checks, Config, Dns, Edge, Harvest, Identity, Limits, Listen, Log,
    LogFormat, Metrics, Recipients, Relay, Replies, Role, State,
};
use crate::addr::NetSet;

/// A client whose message is cut off keeps it and comes back; this lets nearly all of them finish.
pub(super) const DRAIN: Duration = Duration::from_secs(10);

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
            replies: Replies::default(),
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

// What no file says: the defaults of the rows in `keys`.

impl Default for Backend {
    fn default() -> Self {
        check::backend(&raw::Backend::default(), false, &mut Judge::default())
    }
}

impl Default for Auth {
    fn default() -> Self {
        auth(&raw::Auth::default(), &mut Judge::default())
    }
}

impl Default for Limits {
    fn default() -> Self {
        check::limits(&raw::Limits::default(), &mut Judge::default())
    }
}

impl Default for Harvest {
    fn default() -> Self {
        check::harvest(&raw::Harvest::default(), &mut Judge::default())
    }
}

impl Default for Edge {
    fn default() -> Self {
        check::edge(&raw::Edge::default(), &mut Judge::default())
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
