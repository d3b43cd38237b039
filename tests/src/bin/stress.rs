//! The stress run and its processes; see [`smtp_guard_tests::stress`].
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test tool fails by panicking")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use clap::Parser;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use smtp_guard_tests::stress::{self, Peer, Plan, client, server};

#[derive(Parser)]
enum Command {
    /// The whole run, in namespaces of its own
    Run {
        /// Who serves
        #[arg(long, value_enum, default_value = "stand-in")]
        peer: Peer,
        #[arg(long, default_value_t = 1_000_000)]
        connections: u64,
        #[arg(long, default_value_t = 20)]
        rounds: u64,
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
    /// Server on port 25, and on 587 for nobody, until standard input closes
    Serve,
    /// Opens connections and prints what became of them as JSON
    Clients { peer: Peer, count: u64, seed: u64, addresses: Vec<SocketAddr> },
    /// Holds connections until standard input closes
    Hold { peer: Peer, count: usize, seed: u64, addresses: Vec<SocketAddr> },
}

fn main() {
    let command = Command::parse();
    let most = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: most, maximum: most }).unwrap();
    match command {
        Command::Run { peer, connections, rounds, seed } => {
            let stop = Arc::new(AtomicBool::new(false));
            for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
                signal_hook::flag::register(signal, Arc::clone(&stop)).unwrap();
            }
            println!("{}", stress::run(Plan { peer, connections, rounds, seed }, &stop));
        }
        Command::Serve => server::run(),
        Command::Clients { peer, count, seed, addresses } => client::run(peer, count, seed, addresses),
        Command::Hold { peer, count, seed: _, addresses } => client::hold(peer, count, &addresses),
    }
}
