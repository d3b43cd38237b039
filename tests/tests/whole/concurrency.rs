//! Connections of one source: exact in both planes, given back by whatever end, and out of reach of forged packets.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use smtp_guard_tests::{Guard, Held, Host, Postfix, StandIn, World, guard::netkit, run};

#[test]
#[ignore = "needs root and BPF"]
fn exactly_so_many_sessions_whatever_the_burst() {
    let world = World::new();
    let _postfix = Postfix::start(&world, "");
    let guard = Guard::start(&world, &[("limits.connections", "7"), ("edge.connections", "12")]);
    for (host, address) in [
        (Host::Attacker, format!("{}:25", World::EDGE_FOR_ATTACKER)),
        (Host::Client, format!("[{}]:25", World::EDGE_FOR_CLIENT_V6)),
    ] {
        for burst in [7, 8, 60] {
            let held = Held::open(&world, host, &address, burst);
            assert_eq!(held.count("greeted"), 7, "burst of {burst}: {}", held.result);
            assert_eq!(
                held.count("greeted") + held.count("refused") + held.count("dropped") + held.count("closed"),
                u64::from(burst)
            );
            // Those that were told 421 keep their side open; their slots are free all the same.
            guard.settle(7);
            drop(held);
            guard.settle(0);
        }
    }
}

#[test]
#[ignore = "needs root and BPF"]
fn the_kernel_refuses_the_connection_beyond_the_ceiling() {
    let world = World::new();
    let _postfix = Postfix::start(&world, "");
    let mut guard = Guard::start(&world, &[("limits.connections", "5"), ("edge.connections", "6")]);
    // A server without limits takes the guard's place: the ceiling is the kernel's alone.
    guard.kill9();
    guard.settle(0);
    let _server = StandIn::start(&world);
    let address = format!("{}:25", World::EDGE_FOR_ATTACKER);
    let mut one_by_one: Vec<Held> = Vec::new();
    for n in 1..=6 {
        one_by_one.push(one(&world, &address));
        guard.settle(n);
    }
    let dropped = guard.packets("connections");
    let seventh = one(&world, &address);
    assert_eq!(seventh.count("dropped"), 1, "{}", seventh.result);
    assert!(guard.packets("connections") > dropped);
    assert_eq!(guard.established(), 6);
    one_by_one.pop();
    guard.settle(5);
    assert_eq!(one(&world, &address).count("dropped"), 0, "a slot that was freed is free");
}

#[test]
#[ignore = "needs root and BPF"]
fn the_kernel_refuses_new_connections_beyond_the_rate() {
    let world = World::new();
    let _postfix = Postfix::start(&world, "");
    let mut guard = Guard::start(&world, &[("limits.connections_per_minute", "3")]);
    guard.kill9();
    let _server = StandIn::start(&world);
    let attacker = format!("{}:25", World::EDGE_FOR_ATTACKER);
    let client = format!("{}:25", World::EDGE_FOR_CLIENT);
    // SYNs under the client's address take nothing out of its bucket: they complete no handshake.
    world.ip(Host::Attacker, &["route", "add", "10.77.2.0/24", "via", World::EDGE_FOR_ATTACKER]);
    run(world.on(Host::Attacker, &netkit()).args(["spoof-syn", &client, World::CLIENT, "5000"]), "").ok();
    for (host, address) in [(Host::Attacker, &attacker), (Host::Client, &client)] {
        // The kernel's bucket holds twice as many as the proxy lets through.
        for n in 1..=6 {
            assert_eq!(Held::open(&world, host, address, 1).count("dropped"), 0, "connection {n} of {host:?}");
        }
        guard.settle(0);
        let dropped = guard.packets("connection_rate");
        assert_eq!(Held::open(&world, host, address, 1).count("dropped"), 1, "the seventh of {host:?}");
        assert!(guard.packets("connection_rate") > dropped);
    }
}

/// One connection.
fn one(world: &World, address: &str) -> Held {
    Held::open(world, Host::Attacker, address, 1)
}

#[test]
#[ignore = "needs root and BPF"]
fn every_end_gives_the_slot_back() {
    let world = World::new();
    let _postfix = Postfix::start(&world, "");
    let mut guard = Guard::start(&world, &[]);
    let address = format!("{}:25", World::EDGE_FOR_ATTACKER);
    let mut held = Held::open(&world, Host::Attacker, &address, 9);
    guard.settle(9);
    held.kill9();
    guard.settle(0);
    let held = Held::open(&world, Host::Attacker, &address, 9);
    guard.settle(9);
    guard.kill9();
    guard.settle(0);
    drop(held);
}

#[test]
#[ignore = "needs root and BPF"]
fn syn_cookies_change_no_count() {
    let world = World::new();
    let _postfix = Postfix::start(&world, "");
    let mut guard = Guard::start(&world, &[]);
    // 2: every handshake goes by a cookie, so the kernel keeps nothing of it until it completes.
    world.sysctl(Host::Edge, "ipv4/tcp_syncookies", "2");
    for (host, address) in [
        (Host::Attacker, format!("{}:25", World::EDGE_FOR_ATTACKER)),
        (Host::Client, format!("[{}]:25", World::EDGE_FOR_CLIENT_V6)),
    ] {
        let held = Held::open(&world, host, &address, 9);
        assert_eq!(held.count("greeted"), 9, "{}", held.result);
        guard.settle(9);
        drop(held);
        guard.settle(0);
        let mut held = Held::open(&world, host, &address, 9);
        guard.settle(9);
        held.kill9();
        guard.settle(0);
    }
    let _held = Held::open(&world, Host::Attacker, &format!("{}:25", World::EDGE_FOR_ATTACKER), 9);
    guard.settle(9);
    guard.kill9();
    guard.settle(0);
}

#[test]
#[ignore = "needs root and BPF"]
fn forged_packets_neither_free_nor_fill_anything() {
    let world = World::new();
    let _postfix = Postfix::start(&world, "");
    let guard = Guard::start(&world, &[("limits.connections", "6"), ("edge.connections", "10")]);
    let client = format!("{}:25", World::EDGE_FOR_CLIENT);
    let held = Held::open(&world, Host::Client, &client, 6);
    assert_eq!(held.count("greeted"), 6);
    guard.settle(6);

    // From the attacker's cable, under the client's address.
    world.ip(Host::Attacker, &["route", "add", "10.77.2.0/24", "via", World::EDGE_FOR_ATTACKER]);
    let before = guard.packets("clean");
    run(world.on(Host::Attacker, &netkit()).args(["forge-rst", &client, World::CLIENT]), "").ok();
    run(world.on(Host::Attacker, &netkit()).args(["spoof-syn", &client, World::CLIENT, "20000"]), "").ok();
    assert!(guard.packets("clean") > before + 10_000, "they were judged");
    assert_eq!(guard.established(), 6, "nothing was freed or filled");
    let more = Held::open(&world, Host::Client, &client, 3);
    assert_eq!((more.count("greeted"), more.count("dropped")), (0, 0), "its sessions still count: {}", more.result);
    drop((held, more));
    guard.settle(0);
    let again = Held::open(&world, Host::Client, &client, 6);
    assert_eq!(again.count("greeted"), 6, "and its slots are its own: {}", again.result);
}
