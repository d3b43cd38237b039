//! The configuration without a file, and the machine that a configuration is for.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use super::judge::own_name_fault;
use super::{
    Admin, Auth, AuthVia, Backend, BackendTls, Checks, Config, Identity, Listen, Log, LogFormat, Relay, Role, State,
};
use crate::addr::NetSet;

impl Config {
    /// For a first try without a file: the guard on 127.0.0.1:2525 in front of the built-in sink, whose address the
    /// caller puts into `backend.servers`. State and socket are the user's own.
    pub fn builtin() -> Self {
        Self::builtin_on(&Machine::default())
    }

    /// The built-in configuration, on `machine`.
    pub fn builtin_on(machine: &Machine) -> Self {
        let directory = machine.directory.clone();
        Self {
            hostname: machine.hostname().unwrap_or_else(|_| String::from("localhost")),
            listen: vec![Listen {
                address: SocketAddr::from((Ipv4Addr::LOCALHOST, 2525)),
                role: Role::Mx,
                balancers: NetSet::default(),
            }],
            // The sink knows neither XCLIENT nor users.
            backend: Backend { tls: BackendTls::Off, identity: Identity::None, ..Backend::default() },
            auth: Auth { via: AuthVia::Off, ..Auth::default() },
            relay: Relay { domains: vec![String::from("example.org"), String::from("localhost")], ..Relay::default() },
            checks: Checks::none(),
            admin: Admin { socket: directory.join("admin.sock") },
            state: State { directory },
            log: Log { format: LogFormat::Text, ..Log::default() },
            ..Self::default()
        }
    }
}

/// A machine, as far as the configuration takes something from it.
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
