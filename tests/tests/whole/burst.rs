//! Connections of one source that come at the very same moment, from all CPUs, or never get further than their SYN: what gets
//! over the kernel's ceiling, how far, and for how long.
//!
//! The ceiling counts connections, not SYNs (`decide.rs` says why), so a burst can get over it by those whose SYN came before
//! the others were established. The figures are printed; what is asserted is what has to hold at any speed.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Barrier;
use std::thread::available_parallelism;
use std::time::{Duration, Instant};

use rustix::thread::{CpuSet, sched_setaffinity};
use smtp_guard::edge::KernelPlane;
use smtp_guard_tests::forge::{Forger, SYN, Segment};
use smtp_guard_tests::{Guard, Host, StandIn, World, wait_for};
use socket2::{Domain, Protocol, SockRef, Socket, Type};

const CONNECTED: [&str; 6] = ["established", "fin-wait-1", "fin-wait-2", "close-wait", "last-ack", "closing"];

/// A loaded kernel plane with a ceiling, and packets spread over all CPUs.
fn edge<'w>(world: &'w World, ceiling: &str) -> Guard<'w> {
    let guard = Guard::configured(world, &[("edge.connections", ceiling), ("limits.connections", "1")]);
    guard.command(&["edge", "load"]).ok();
    for device in ["att0", "cli0"] {
        world.spread(device);
    }
    guard
}

fn at(ip: &str) -> SocketAddr {
    SocketAddr::new(ip.parse().unwrap(), 25)
}

/// Has the calling thread run on one of the CPUs.
fn pin(n: usize) {
    let mut cpus = CpuSet::new();
    cpus.set(n % available_parallelism().map_or(1, usize::from));
    sched_setaffinity(None, &cpus).unwrap();
}

#[test]
#[ignore = "needs root and BPF"]
fn one_source_from_all_cpus_is_counted_exactly() {
    const THREADS: usize = 16;
    const ROUNDS: usize = 8;
    /// A thread's, which come and go in a round, and which it has open at its end.
    const COME: usize = 60;
    const STAY: usize = 5;
    let world = World::new();
    let guard = edge(&world, "60000");
    let plane = KernelPlane::open(&guard.pins()).unwrap().unwrap();
    let _server = StandIn::start(&world);
    let barrier = Barrier::new(THREADS + 1);
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (world, barrier) = (&world, &barrier);
            scope.spawn(move || {
                pin(thread);
                world.enter(Host::Attacker);
                let mut chance = fastrand::Rng::with_seed(thread as u64);
                let edge = at(World::EDGE_FOR_ATTACKER);
                let mut held = Vec::new();
                for round in 0..ROUNDS {
                    for _ in 0..COME {
                        let stream = TcpStream::connect(edge).unwrap();
                        // Reset, closed, or closed with the greeting unread, which resets as well.
                        if chance.bool() {
                            SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
                        } else if chance.bool() {
                            let _ = (&stream).read(&mut [0; 64]);
                        }
                    }
                    held.extend((0..STAY).map(|_| TcpStream::connect(edge).unwrap()));
                    barrier.wait();
                    // Counts are compared here.
                    barrier.wait();
                    if round % 2 == 1 {
                        held.clear();
                    }
                }
            });
        }
        for round in 0..ROUNDS {
            barrier.wait();
            let open = THREADS * STAY * (1 + round % 2);
            guard.settle(open as u64);
            assert_eq!(world.sockets(&CONNECTED), open);
            barrier.wait();
        }
    });
    guard.settle(0);
    assert_eq!(world.sockets(&CONNECTED), 0);
    assert_eq!(guard.packets("not_counted"), 0);
    let opened = world.counter(Host::Edge, "Tcp", "PassiveOpens");
    assert_eq!(opened, (THREADS * ROUNDS * (COME + STAY)) as u64);
    let swept = || (plane.sweep_idle().unwrap() == 1).then_some(());
    wait_for("the source to be swept", swept, || format!("{:?}", plane.established()));
    println!("{opened} connections of one source from {THREADS} threads on all CPUs: exact in {ROUNDS} quiet moments");
}

/// Begins `count` connections at once, without waiting for any.
fn begin(count: usize, edge: SocketAddr) -> Vec<Socket> {
    let socket = |_| {
        let socket = Socket::new(Domain::for_address(edge), Type::STREAM, Some(Protocol::TCP)).unwrap();
        socket.set_nonblocking(true).unwrap();
        socket
    };
    let sockets: Vec<_> = (0..count).map(socket).collect();
    for socket in &sockets {
        // In progress.
        let _ = socket.connect(&edge.into());
    }
    sockets
}

#[test]
#[ignore = "needs root and BPF"]
fn a_burst_gets_over_the_ceiling_once_and_is_counted() {
    const CEILING: u64 = 10;
    const THREADS: usize = 8;
    let world = World::new();
    let guard = edge(&world, "10");
    world.sysctl(Host::Edge, "ipv4/tcp_synack_retries", "2");
    let _server = StandIn::start(&world);
    for (far, burst) in [(false, 400), (false, 2000), (true, 400), (true, 2000)] {
        if far {
            // A client that is far off: all SYNs are there before the first SYN-ACK has arrived.
            let nowhere = ["lladdr", "02:00:00:00:00:66", "dev", "att0", "nud", "permanent"];
            world.ip(Host::Edge, &[&["neigh", "replace", World::ATTACKER][..], &nowhere].concat());
        }
        let barrier = Barrier::new(THREADS);
        let (world, barrier) = (&world, &barrier);
        let sockets: Vec<Socket> = std::thread::scope(|scope| {
            let begin = |thread| {
                pin(thread);
                world.enter(Host::Attacker);
                barrier.wait();
                begin(burst / THREADS, at(World::EDGE_FOR_ATTACKER))
            };
            let threads: Vec<_> = (0..THREADS).map(|n| scope.spawn(move || begin(n))).collect();
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
        });
        if far {
            world.ip(Host::Edge, &["neigh", "del", World::ATTACKER, "dev", "att0"]);
        }
        // Those that were dropped are sent again, and dropped again: nothing gets in from now on.
        // SYN-ACKs that went nowhere are sent again after 1 and 3 seconds, and those were heard before the ceiling was reached.
        let (mut before, mut quiet) = (0, 0);
        let calm = || {
            let now = guard.established();
            quiet = if now >= CEILING && now == before { quiet + 1 } else { 0 };
            before = now;
            std::thread::sleep(Duration::from_millis(1200));
            (quiet >= 4).then_some(now)
        };
        let inside = wait_for("the burst to be over", calm, || format!("{:#}", guard.json(&["edge", "status"])));
        assert_eq!(world.sockets(&CONNECTED) as u64, inside, "each of them is counted");
        let dropped = guard.packets("connections");
        let late = std::thread::scope(|scope| {
            let late = || {
                world.enter(Host::Attacker);
                let late = begin(50, at(World::EDGE_FOR_ATTACKER));
                // Past the first time that a SYN is sent again.
                std::thread::sleep(Duration::from_millis(1500));
                late
            };
            scope.spawn(late).join().unwrap()
        });
        assert!(guard.packets("connections") >= dropped + 100, "each was dropped, and once more");
        assert_eq!(guard.established(), inside, "nobody gets in while it is over its ceiling");
        println!(
            "ceiling {CEILING}, burst of {burst} SYNs{}: {inside} established, {} over it, {} SYNs dropped so far",
            if far { " from far off" } else { "" },
            inside - CEILING,
            guard.packets("connections")
        );
        drop((sockets, late));
        guard.settle(0);
    }
    // Again below it: exactly so many get in, one by one.
    let held = std::thread::scope(|scope| {
        let one_by_one = || {
            world.enter(Host::Attacker);
            let one = |n| {
                let stream = TcpStream::connect(at(World::EDGE_FOR_ATTACKER)).unwrap();
                guard.settle(n);
                stream
            };
            let held: Vec<_> = (1..=CEILING).map(one).collect();
            let next = TcpStream::connect_timeout(&at(World::EDGE_FOR_ATTACKER), Duration::from_millis(2500));
            assert!(next.is_err(), "the ceiling holds");
            held
        };
        scope.spawn(one_by_one).join().unwrap()
    });
    drop(held);
}

#[test]
#[ignore = "needs root and BPF"]
fn half_open_connections_are_bounded_and_gone_in_time() {
    const BACKLOG: i32 = 256;
    const SYNS: u32 = 20_000;
    let world = World::new();
    let guard = edge(&world, "10");
    let plane = KernelPlane::open(&guard.pins()).unwrap().unwrap();
    let listener: TcpListener = std::thread::scope(|scope| {
        let listen = || {
            world.enter(Host::Edge);
            let socket = Socket::new(Domain::IPV6, Type::STREAM, Some(Protocol::TCP)).unwrap();
            socket.bind(&at("::").into()).unwrap();
            socket.listen(BACKLOG).unwrap();
            TcpListener::from(socket)
        };
        scope.spawn(listen).join().unwrap()
    });
    // One SYN-ACK more, so 1 + 2 s, instead of five, which are 63 s.
    world.sysctl(Host::Edge, "ipv4/tcp_synack_retries", "1");
    let nobody = ["lladdr", "02:00:00:00:00:66", "dev", "att0", "nud", "permanent"];
    for (victim, edge) in [("10.77.1.66", World::EDGE_FOR_ATTACKER), ("fd77:1::66", World::EDGE_FOR_ATTACKER_V6)] {
        world.ip(Host::Edge, &[&["neigh", "replace", victim][..], &nobody].concat());
        for cookies in ["0", "1"] {
            world.sysctl(Host::Edge, "ipv4/tcp_syncookies", cookies);
            let cookies_sent = world.counter(Host::Edge, "TcpExt", "SyncookiesSent");
            let started = Instant::now();
            let half_open = std::thread::scope(|scope| {
                let flood = || {
                    world.enter(Host::Attacker);
                    let forger = Forger::new();
                    for n in 0..SYNS {
                        let from = SocketAddr::new(victim.parse().unwrap(), 1024 + n as u16 % 60_000);
                        forger.send(&Segment {
                            from,
                            to: at(edge),
                            flags: SYN,
                            sequence: n.wrapping_mul(2_654_435_761),
                            cookie: &[],
                            data: &[],
                        });
                    }
                };
                let flood = scope.spawn(flood);
                let mut most = 0;
                while !flood.is_finished() {
                    most = most.max(world.sockets(&["syn-recv"]));
                }
                most.max(world.sockets(&["syn-recv"]))
            });
            // Each CPU may be about to add one.
            let most = BACKLOG as usize + available_parallelism().map_or(1, usize::from);
            assert!((1..=most).contains(&half_open), "{half_open} half open");
            assert_eq!(plane.established().unwrap(), [], "they are none of ours");
            assert_eq!(plane.sweep_idle().unwrap(), 0, "and have no entry, so they push none out");
            // The one whose address was forged gets in meanwhile, as far as the kernel plane is concerned.
            assert_eq!(guard.packets("connections") + guard.packets("connection_rate"), 0);
            let gone = || (world.sockets(&["syn-recv"]) == 0).then_some(());
            wait_for("half-open connections to be gone", gone, || world.sockets(&["syn-recv"]).to_string());
            println!(
                "{SYNS} forged SYNs from {victim}, syncookies {cookies}: at most {half_open} half open of a backlog of {BACKLOG}, \
                 {} answered by cookie, none left after {:.1} s",
                world.counter(Host::Edge, "TcpExt", "SyncookiesSent") - cookies_sent,
                started.elapsed().as_secs_f64()
            );
        }
    }
    drop(listener);
}

#[test]
#[ignore = "needs root and BPF"]
fn reconciliation_mends_what_is_too_high_and_leaves_the_rest() {
    let world = World::new();
    let guard = edge(&world, "60000");
    let _server = StandIn::start(&world);
    let plane = KernelPlane::open(&guard.pins()).unwrap().unwrap();
    let write = |count: u64| {
        let path = plane.status().unwrap().directory.join("CONNS");
        let map = aya::maps::Map::from_map_data(aya::maps::MapData::from_pin(path).unwrap()).unwrap();
        let mut conns: aya::maps::HashMap<_, u64, [u8; 16]> = map.try_into().unwrap();
        let keys: Vec<u64> = conns.keys().map(Result::unwrap).collect();
        let [source] = keys[..] else { panic!("{keys:?}") };
        let mut value = conns.get(&source, 0).unwrap();
        value[..8].copy_from_slice(&count.to_ne_bytes());
        conns.insert(source, value, 0).unwrap();
    };
    let passes = |passes: usize| -> Vec<u64> {
        let pass = || {
            world.enter(Host::Edge);
            let all = (0..passes).map(|_| plane.reconcile().unwrap().iter().map(|(_, excess)| excess).sum());
            all.collect()
        };
        std::thread::scope(|scope| scope.spawn(pass).join()).unwrap()
    };
    for (address, host) in [(World::EDGE_FOR_ATTACKER, Host::Attacker), (World::EDGE_FOR_CLIENT_V6, Host::Client)] {
        let open = |count: usize| -> Vec<TcpStream> {
            let open = || {
                world.enter(host);
                (0..count).map(|_| TcpStream::connect(at(address)).unwrap()).collect()
            };
            std::thread::scope(|scope| scope.spawn(open).join()).unwrap()
        };
        // Right: nothing to do.
        let mut held = open(5);
        guard.settle(5);
        assert_eq!(passes(5), [0; 5]);
        // Too high: taken back in the third pass, down to what there is.
        write(9);
        assert_eq!(passes(5), [0, 0, 4, 0, 0]);
        assert_eq!(guard.established(), 5);
        // Too high for two passes only.
        write(9);
        assert_eq!(passes(2), [0, 0]);
        write(5);
        assert_eq!(passes(4), [0; 4]);
        // Too low: left alone; it mends itself when they are gone, also with some more in between.
        write(2);
        assert_eq!(passes(4), [0; 4]);
        assert_eq!(guard.established(), 2);
        held.extend(open(1));
        guard.settle(3);
        drop(held);
        guard.settle(0);
        let held = open(3);
        guard.settle(3);
        for mut stream in &held {
            stream.write_all(b"QUIT\r\n").unwrap();
        }
        drop(held);
        guard.settle(0);
        let swept = || (plane.sweep_idle().unwrap() == 1).then_some(());
        wait_for("the source to be swept", swept, String::new);
    }
}
