//! Disturbances beside the clients all the while: forged segments from both hosts in the name of the other one, and the
//! passes that the proxy makes over the map of connections, many times as often.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use fastrand::Rng;
use smtp_guard::edge::KernelPlane;

use super::paths::{self, HOSTS};
use super::server::PORTS;
use crate::forge::{ACK, FIN, Forger, RST, SYN, Segment};
use crate::netns::{Host, World};

/// Forged segments at once, and how long it is quiet then: at most 2,000 a second from each host.
const BURST: u32 = 10;
const PAUSE: Duration = Duration::from_millis(5);
/// Between passes of reconciliation. The proxy makes one a minute.
const RECONCILE: Duration = Duration::from_millis(50);
/// Passes from one sweep to the next: a second, as in the proxy.
const SWEEP: u64 = 20;

/// The disturbances so far.
#[derive(Debug, Default)]
pub(super) struct Weather {
    pub stop: AtomicBool,
    pub forged: AtomicU64,
    pub passes: AtomicU64,
    /// Counts that reconciliation took back, in words: it must not have had anything to do.
    pub taken_back: Mutex<BTreeMap<String, u64>>,
}

impl Weather {
    fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }

    /// Sends segments under the addresses of the other host, with ports and numbers by chance.
    pub(super) fn forge(&self, world: &World, host: Host, seed: u64) {
        world.enter(host);
        let forger = Forger::new();
        let mut chance = Rng::with_seed(seed);
        let other = if host == HOSTS[0] { HOSTS[1] } else { HOSTS[0] };
        let ways = paths::ways(other);
        while self.goes_on() {
            for _ in 0..BURST {
                let way = ways[chance.usize(..ways.len())];
                let flags = [RST, RST | ACK, FIN | ACK, SYN, SYN | ACK, ACK][chance.usize(..6)];
                let mut to = way.to;
                to.set_port(PORTS[chance.usize(..2)]);
                let from = SocketAddr::new(way.from, chance.u16(1024..));
                forger.send(&Segment { from, to, flags, sequence: chance.u32(..), cookie: &[], data: &[] });
                self.forged.fetch_add(1, Ordering::Relaxed);
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// Holds the counts against the sockets, and sweeps.
    pub(super) fn reconcile(&self, world: &World, plane: &KernelPlane) {
        world.enter(Host::Edge);
        while self.goes_on() {
            let pass = self.passes.fetch_add(1, Ordering::Relaxed);
            for (source, connections) in plane.reconcile().unwrap() {
                let mut taken_back = self.taken_back.lock().unwrap_or_else(PoisonError::into_inner);
                *taken_back.entry(format!("{source:?}")).or_default() += connections;
            }
            if pass.is_multiple_of(SWEEP) {
                plane.sweep_idle().unwrap();
            }
            std::thread::sleep(RECONCILE);
        }
    }
}
