//! Connections by the hundred thousand that end in every way there is, while segments are forged, processes are killed and
//! the program is replaced: nothing may be left of them.
//!
//! One implementation, two sizes: `cargo xtask bench stress` and the test `stress`. Server and clients are processes of
//! their own (the binary `stress`), so that they can be killed. What has to hold is checked after each round
//! ([`quiet`]), and a failure is a panic that cleans up.
//!
//! Bounds: the connections of the plan, 64 at once from each of two hosts, 4,000 forged segments a second, and a minute without
//! news from the clients.

pub mod client;
mod crew;
pub mod ends;
mod paths;
mod quiet;
mod report;
pub mod server;
mod weather;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use smtp_guard::edge::KernelPlane;
use smtp_guard_ebpf::abi::Source;
use smtp_guard_ebpf::reason::Reason;

use crew::{Clients, Holder, Server, Tally};
pub use ends::Peer;
use paths::HOSTS;
use quiet::Scene;
pub use report::Report;
use weather::Weather;

use crate::guard::Guard;
use crate::netns::{Host, World};

/// Connections that are open when their process is killed, from each host.
const KILLED: u64 = 100;
/// Bans that nothing of all this concerns.
const BANS: u32 = 1000;
const LOOK: Duration = Duration::from_millis(20);
/// Between lines about the progress.
const TELL: Duration = Duration::from_secs(5);
/// Bytes for each connection that would be a leak: the mark of a counted socket alone takes more.
const LEAK: u64 = 96;
/// From so many connections on, memory says something beside what the rest of the machine does.
const MANY: u64 = 500_000;

/// The plan of a run.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub peer: Peer,
    pub connections: u64,
    /// After each of which everything is compared.
    pub rounds: u64,
    pub seed: u64,
}

/// What is done beside the clients, and after which share of a round.
const EVENTS: [(u64, Event); 3] = [(20, Event::KillClient), (45, Event::Replace), (70, Event::KillServer)];

#[derive(Clone, Copy, Debug)]
enum Event {
    KillClient,
    /// `edge load`: another program behind the same links.
    Replace,
    KillServer,
}

/// Does it. Panics where something doesn't hold, or where `stop` says so; what was made is removed in any case.
pub fn run(plan: Plan, stop: &AtomicBool) -> Report {
    let world = World::new();
    let submission = "[[listen]]\naddress = \"[::]:587\"";
    let changes = [("edge.connections", "60000"), ("limits.connections", "5000"), ("+", submission)];
    let guard = Guard::configured(&world, &changes);
    guard.command(&["edge", "load"]).ok();
    paths::lay(&world);
    let plane = KernelPlane::open(&guard.pins()).unwrap().unwrap();
    let until = smtp_guard::clock::now().after(Duration::from_secs(24 * 3600));
    let ban = |n| (Source::v4(0xc633_6400 + n), until, Reason::Operator);
    plane.ban_all(&(0..BANS).map(ban).collect::<Vec<_>>()).unwrap();
    let bans = || {
        let mut bans = plane.bans_in_map().unwrap();
        if plan.peer == Peer::Guard {
            // It has taken them over, with an end in milliseconds by the clock on the wall.
            bans.iter_mut().for_each(|(_, end, _)| *end = until);
        }
        bans.sort_unstable_by_key(|(source, _, _)| *source);
        bans
    };
    let (banned, slabs, opened) = (bans(), quiet::slabs(), opens(&world));
    let weather = Weather::default();
    let mut report = Report::new(plan);
    std::thread::scope(|scope| {
        // Also when a check panics: the scope waits for its threads.
        let _stop = Stop(&weather);
        for (host, seed) in HOSTS.into_iter().zip(plan.seed..) {
            let (weather, world) = (&weather, &world);
            scope.spawn(move || weather.forge(world, host, seed));
        }
        scope.spawn(|| weather.reconcile(&world, &plane));
        let scene = Scene { world: &world, guard: &guard, plane: &plane, weather: &weather, peer: plan.peer };
        let mut server = Server::start(&world, &guard, plan.peer);
        for round in 0..plan.rounds {
            // In every third round all handshakes go by cookie.
            world.sysctl(Host::Edge, "ipv4/tcp_syncookies", if round % 3 == 2 { "2" } else { "1" });
            storm(&scene, &mut server, plan, round, &mut report, stop);
            report.brought_back += scene.check(&mut server);
            assert_eq!(bans(), banned, "bans are none of its business");
        }
    });
    report.passes = weather.passes.load(Ordering::Relaxed);
    report.forged = weather.forged.load(Ordering::Relaxed);
    report.established = opens(&world) - opened;
    report.fast = world.counter(Host::Edge, "TcpExt", "TCPFastOpenPassive");
    report.by_cookie = world.counter(Host::Edge, "TcpExt", "SyncookiesRecv");
    report.memory = quiet::slabs().saturating_sub(slabs);
    assert!(report.established >= plan.connections, "{report}");
    assert!(plan.connections < MANY || report.memory < LEAK * plan.connections, "memory is gone\n{report}");
    report
}

struct Stop<'a>(&'a Weather);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.stop.store(true, Ordering::Relaxed);
    }
}

/// Connections that the edge's kernel has taken.
fn opens(world: &World) -> u64 {
    world.counter(Host::Edge, "Tcp", "PassiveOpens")
}

/// One round of connections.
fn storm(scene: &Scene<'_>, server: &mut Server<'_>, plan: Plan, round: u64, report: &mut Report, stop: &AtomicBool) {
    let started = Instant::now();
    let count = (plan.connections * (round + 1) / plan.rounds) - (plan.connections * round / plan.rounds);
    let seed = |n| plan.seed.wrapping_mul(1000) + round * 2 + n;
    let mut clients = [
        Clients::start(scene.world, HOSTS[0], plan.peer, count / 2, seed(0)),
        Clients::start(scene.world, HOSTS[1], plan.peer, count - count / 2, seed(1)),
    ];
    let mut events = EVENTS.into_iter().peekable();
    loop {
        assert!(!stop.load(Ordering::Relaxed), "stopped");
        let mut tally = Tally::default();
        for clients in &mut clients {
            tally.add(&clients.tally());
        }
        report.progress(round, &tally, started.elapsed());
        while let Some((_, event)) = events.next_if(|(share, _)| tally.ended() * 100 >= share * count) {
            happen(event, scene, server);
        }
        // Both: the one that has ended first has its say as well.
        if clients.iter_mut().map(Clients::ended).fold(true, |all, ended| all & ended) && events.peek().is_none() {
            break;
        }
        std::thread::sleep(LOOK);
    }
    report.round(clients.iter_mut().map(Clients::tally), started.elapsed());
}

fn happen(event: Event, scene: &Scene<'_>, server: &mut Server<'_>) {
    match event {
        Event::KillClient => {
            for host in HOSTS {
                Holder::open(scene.world, host, scene.peer, KILLED).kill9();
            }
        }
        Event::Replace => {
            let loaded = scene.guard.command(&["edge", "load"]).ok();
            assert_eq!(loaded.matches("replaced in place").count(), 2, "{loaded}");
        }
        Event::KillServer => {
            let held = HOSTS.map(|host| Holder::open(scene.world, host, scene.peer, KILLED));
            server.kill9();
            drop(held);
        }
    }
}
