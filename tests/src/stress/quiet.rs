//! A quiet point of the stress run: no client runs, so everything has to add up exactly.

use std::fs;
use std::time::{Duration, Instant};

use aya::maps::{HashMap, Map, MapData};
use smtp_guard::edge::KernelPlane;

use super::crew::{Holder, Server};
use super::ends::Peer;
use super::paths::HOSTS;
use super::server::PORTS;
use super::weather::Weather;
use crate::guard::Guard;
use crate::netns::{Host, World};
use crate::process::{run, wait_for};

/// Connections that are held from each host while counts are compared.
const HELD: u64 = 40;
/// What ends by itself has ended after this: the server hangs up after 8 s.
const ALIVE: Duration = Duration::from_secs(10);
/// States in which a connection is counted, as ss(8) names them.
const STATES: [&str; 6] = ["established", "fin-wait-1", "fin-wait-2", "close-wait", "last-ack", "closing"];

/// The scene that is looked at.
pub(super) struct Scene<'a> {
    pub world: &'a World,
    pub guard: &'a Guard<'a>,
    pub plane: &'a KernelPlane,
    pub weather: &'a Weather,
    pub peer: Peer,
}

impl Scene<'_> {
    /// What ss(8) says with `option` of the sockets that there are, a line each.
    fn ss(&self, option: &str) -> String {
        let mut command = self.world.on(Host::Edge, "ss");
        command.args(["-HOtnoi", option]);
        for state in STATES {
            command.args(["state", state]);
        }
        let [first, second] = PORTS.map(|port| format!("sport = :{port}"));
        run(command.arg(format!("( {first} or {second} )")), "").ok()
    }

    /// Sockets that there are, a line each.
    fn sockets(&self) -> String {
        self.ss("-e")
    }

    fn counted(&self) -> u64 {
        self.plane.established().unwrap().iter().map(|(_, count)| count).sum()
    }

    /// Waits until counts and sockets are both `connections`.
    fn settle(&self, connections: u64) {
        let both = || (self.counted(), self.sockets().lines().count() as u64);
        let settled = || (both() == (connections, connections)).then_some(());
        wait_for(&format!("{connections} counted and there"), settled, || {
            format!("{:?}\n{:?}\n{}", both(), self.plane.established(), self.sockets())
        });
    }

    /// Entries of the map of connections, those without connections included.
    fn entries(&self) -> usize {
        let directory = self.plane.status().unwrap().directory;
        let map = Map::from_map_data(MapData::from_pin(directory.join("CONNS")).unwrap()).unwrap();
        let map: HashMap<_, u64, [u8; 16]> = map.try_into().unwrap();
        map.keys().count()
    }

    /// Waits until there is none, and ends those that a late ACK has brought back. Returns how many that were.
    ///
    /// A SYN cookie is valid for two minutes, for its connection and for whoever repeats it. A client in TIME_WAIT that is
    /// asked by a forged SYN (by the SYN-ACK that answers it) says once more what it said last, and where that was as long as
    /// what the server said, or up to three bytes longer or shorter, it is a valid cookie: the kernel takes it for a
    /// new connection. Nobody is at its other end. It is counted, since it is a connection of the edge's kernel; how long it
    /// lasts is up to the server, and then to TCP's timers, so here it is ended by hand.
    fn bury(&self) -> usize {
        self.world.sysctl(Host::Edge, "ipv4/tcp_syncookies", "0");
        let started = Instant::now();
        let mut buried = 0;
        let gone = || {
            let (counted, there) = (self.counted(), self.sockets().lines().count());
            if counted == there as u64 && there > 0 && started.elapsed() > ALIVE {
                buried += there;
                self.ss("-K");
            }
            (counted == 0 && there == 0).then_some(())
        };
        wait_for("none counted and none there", gone, || {
            format!("{} counted: {:?}\n{}", self.counted(), self.plane.established(), self.sockets())
        });
        buried
    }

    /// Compares everything, at some connections and at none. Returns how many connections late ACKs had brought back.
    pub(super) fn check(&self, server: &mut Server<'_>) -> usize {
        let buried = self.bury();
        let held = HOSTS.map(|host| Holder::open(self.world, host, self.peer, HELD));
        self.settle(HELD * 2);
        drop(held);
        self.settle(0);
        let swept = || {
            self.plane.sweep_idle().unwrap();
            (self.entries() == 0).then_some(())
        };
        wait_for("an empty map", swept, || format!("{} entries", self.entries()));
        server.assert_runs();
        assert_eq!(self.guard.packets("not_counted"), 0, "a connection was not counted");
        let taken_back = self.weather.taken_back.lock().unwrap();
        assert!(taken_back.is_empty(), "reconciliation took back what was right: {taken_back:?}");
        buried
    }
}

/// Memory that the kernel can't give back (`SUnreclaim`), in bytes: sockets, and what hangs on them.
pub(super) fn slabs() -> u64 {
    let memory = fs::read_to_string("/proc/meminfo").unwrap();
    let line = memory.lines().find_map(|line| line.strip_prefix("SUnreclaim:"));
    line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok()).unwrap_or(0) * 1024
}
