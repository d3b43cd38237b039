//! The kernel plane across versions, failures and interfaces that come and go: whoever was filtered stays so.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::Value;
use smtp_guard_tests::{Guard, Host, Postfix, Program, World, guard::binary, guard::netkit, run, wait_for};

/// The number of the XDP program on an interface of the edge.
fn program_on(world: &World, device: &str) -> Option<u64> {
    let links: Value =
        serde_json::from_str(&world.ip(Host::Edge, &["-json", "-details", "link", "show", device])).unwrap();
    links[0]["xdp"]["prog"]["id"].as_u64()
}

fn greeted(world: &World) -> bool {
    let address = format!("{}:25", World::EDGE_FOR_ATTACKER);
    run(world.on(Host::Attacker, &netkit()).args(["dialogue", &address]), "").ok().starts_with("220")
}

/// Sends SYNs of the attacker's from its own cable, before, while and after `meanwhile` runs. Returns how many.
fn under_packets(world: &World, meanwhile: impl FnOnce()) -> u64 {
    const BATCH: u32 = 5_000;
    let done = AtomicBool::new(false);
    let send = || {
        let edge = format!("{}:25", World::EDGE_FOR_ATTACKER);
        let count = BATCH.to_string();
        run(world.on(Host::Attacker, &netkit()).args(["spoof-syn", &edge, World::ATTACKER, &count]), "").ok();
    };
    let mut sent = 0;
    std::thread::scope(|scope| {
        let flood = scope.spawn(|| {
            let mut sent = 0;
            // One batch more after it is done.
            for _ in 0..100 {
                let last = done.load(Ordering::Acquire);
                send();
                sent += u64::from(BATCH);
                if last {
                    break;
                }
            }
            sent
        });
        meanwhile();
        done.store(true, Ordering::Release);
        sent = flood.join().unwrap();
    });
    sent
}

/// Segments that the edge's stack has seen: what passed the filter.
fn segments_seen(world: &World) -> u64 {
    let text = run(world.on(Host::Edge, "cat").arg("/proc/net/snmp"), "").ok();
    let rows: Vec<Vec<&str>> =
        text.lines().filter(|line| line.starts_with("Tcp:")).map(|line| line.split(' ').collect()).collect();
    let column = rows[0].iter().position(|name| *name == "InSegs").unwrap();
    rows[1][column].parse().unwrap()
}

#[test]
#[ignore = "needs root and BPF"]
fn another_version_takes_over_without_a_gap() {
    // 2: bans are known to mean the same. 1 and 9: nothing is known of them, but the links go on.
    for (version, bans) in [(2, 1), (1, 0), (9, 0)] {
        let world = World::new();
        let guard = Guard::configured(&world, &[]);
        guard.command(&["edge", "load"]).ok();
        let mut proxy = Guard::configured(&world, &[]);
        proxy.run_without_backend();
        proxy.command(&["decisions", "add", World::ATTACKER, "--for", "1h", "--reason", "x"]).ok();
        proxy.kill9();
        let (before, pins) = (program_on(&world, "att0").unwrap(), guard.pins());
        let current = fs::read_dir(&pins).unwrap().next().unwrap().unwrap().path();
        fs::rename(&current, pins.join(format!("v{version}"))).unwrap();
        let passed = segments_seen(&world);
        let sent = under_packets(&world, || {
            let loaded = guard.json(&["edge", "load"]);
            assert_eq!(loaded["bans_taken_over"], bans, "{loaded:#}");
            for interface in loaded["interfaces"].as_array().unwrap() {
                assert_eq!((&interface["mode"], &interface["replaced"]), (&"driver".into(), &true.into()));
            }
        });
        assert_ne!(program_on(&world, "att0").unwrap(), before);
        let left: Vec<_> = fs::read_dir(&pins).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert_eq!(left, [current], "version {version} is gone");
        if bans > 0 {
            let dropped = guard.packets("operator");
            assert!(dropped > 0 && dropped <= sent, "dropped {dropped} of {sent} after the change");
            assert_eq!(segments_seen(&world), passed, "no packet of the banned source passed");
        }
        // Only one program counts: the one from before was replaced, not joined.
        let held = smtp_guard_tests::Held::open(&world, Host::Client, &format!("{}:25", World::EDGE_FOR_CLIENT), 1);
        drop(held);
        guard.settle(0);
    }
}

#[test]
#[ignore = "needs root and BPF"]
fn a_load_that_fails_leaves_what_was_there() {
    let world = World::new();
    let _postfix = Postfix::start(&world, "");
    let guard = Guard::start(&world, &[("edge.interfaces", "[\"att0\"]")]);
    guard.command(&["decisions", "add", World::ATTACKER, "--for", "1h", "--reason", "x"]).ok();
    // Another one's program on the second interface.
    let other = World::new();
    let second = Guard::configured(&other, &[("edge.interfaces", "[\"cli0\"]")]);
    run(world.on(Host::Edge, &binary()).args(["edge", "load", "--config"]).arg(second.config()), "").ok();
    let (before, clean) = (program_on(&world, "att0").unwrap(), guard.packets("clean"));
    guard.configure(&[("edge.interfaces", "[\"att0\", \"cli0\"]"), ("edge.connections", "99")]);
    let sent = under_packets(&world, || {
        let refused = guard.command(&["edge", "load"]);
        assert_eq!(refused.code(), 1, "{refused:#?}");
        assert_eq!(refused.stderr.lines().count(), 1, "one clear line: {}", refused.stderr);
        assert!(refused.stderr.contains("cli0 already carries another XDP program"), "{}", refused.stderr);
    });
    assert_eq!(program_on(&world, "att0").unwrap(), before, "the program from before is back");
    assert!((1..=sent).contains(&guard.packets("operator")), "of {sent}: {}", guard.packets("operator"));
    assert_eq!(guard.packets("clean"), clean, "none passed, whichever program was there");
    assert!(!greeted(&world));
    // And once the way is free, the same load goes through.
    run(world.on(Host::Edge, &binary()).args(["edge", "unload", "--config"]).arg(second.config()), "").ok();
    let loaded = guard.command(&["edge", "load"]).ok();
    assert!(loaded.contains("kernel: at most 99 connections of a source"), "{loaded}");
    assert!(program_on(&world, "att0").unwrap() != before && program_on(&world, "cli0").is_some());
}

/// Takes the attacker's cable away, and lays it again under the same names.
fn relay_cable(world: &World) {
    world.ip(Host::Edge, &["link", "del", "att0"]);
    lay_cable(world);
}

fn lay_cable(world: &World) {
    let there = format!("sg-{}-a", world.id);
    world.ip(Host::Edge, &["link", "add", "att0", "type", "veth", "peer", "name", "eth0", "netns", &there]);
    for (host, device, last) in [(Host::Edge, "att0", 1), (Host::Attacker, "eth0", 2)] {
        world.ip(host, &["addr", "add", &format!("10.77.1.{last}/24"), "dev", device]);
        world.ip(host, &["link", "set", device, "up"]);
    }
}

/// How many interfaces are filtered; `None`: one isn't.
fn attached(guard: &Guard<'_>) -> Option<usize> {
    let status = guard.json(&["edge", "status"]);
    let interfaces = status["interfaces"].as_array().unwrap();
    interfaces.iter().all(|interface| interface["attached"] == true).then_some(interfaces.len())
}

#[test]
#[ignore = "needs root and BPF"]
fn an_interface_that_comes_back_is_filtered_again() {
    let world = World::new();
    let _postfix = Postfix::start(&world, "");
    let guard = Guard::start(&world, &[]);
    guard.command(&["decisions", "add", World::ATTACKER, "--for", "1h", "--reason", "x"]).ok();
    for turn in 1..=3 {
        let dropped = guard.packets("operator");
        relay_cable(&world);
        wait_for("the program on the new interface", || attached(&guard).filter(|all| *all == 2), || guard.log());
        assert!(!greeted(&world), "turn {turn}");
        assert!(guard.packets("operator") > dropped, "by the kernel");
    }
    assert!(guard.log().contains("interface came back"), "{}", guard.log());

    // While it is away the other one goes on, and its state is said.
    world.ip(Host::Edge, &["link", "del", "att0"]);
    let gone = || guard.log().contains("interface is gone or unfiltered").then_some(());
    wait_for("a word about it", gone, || guard.log());
    assert_eq!(attached(&guard), None);
    assert!(
        guard.metrics().contains("smtp_guard_kernel_interface_attached{interface=\"att0\"} 0"),
        "{}",
        guard.metrics()
    );
    // A load by hand refuses what isn't there, and says how it is named; nothing is lost.
    let refused = guard.command(&["edge", "load"]);
    assert!(refused.code() == 1 && refused.stderr.contains("interface att0 does not exist"), "{refused:#?}");
    assert!(program_on(&world, "cli0").is_some());
}

#[test]
#[ignore = "needs root and BPF"]
fn the_watch_filters_what_comes_without_a_proxy() {
    let world = World::new();
    world.ip(Host::Edge, &["link", "del", "att0"]);
    let guard = Guard::configured(&world, &[("edge.interfaces", "[\"att0\"]")]);
    let log = guard.config().with_file_name("watch");
    let mut command = world.on(Host::Edge, &binary());
    let mut watch = Program::start(command.args(["edge", "watch", "--config"]).arg(guard.config()), log);
    watch.wait_for("att0: does not exist; filtered from the moment it is there");
    lay_cable(&world);
    watch.wait_for("interface came back: att0: XDP in driver mode");
    assert_eq!(attached(&guard), Some(1));
    watch.kill9();
    assert_eq!(attached(&guard), Some(1), "what was loaded stays");
}

/// An interface of another kind under the name: packets of a tunnel, read as if they had an Ethernet header, would be dropped.
#[test]
#[ignore = "needs root and BPF"]
fn f1_what_comes_back_without_ethernet_header_is_left_alone() {
    let world = World::new();
    let guard = Guard::configured(&world, &[("edge.interfaces", "[\"att0\"]")]);
    let log = guard.config().with_file_name("watch");
    let mut command = world.on(Host::Edge, &binary());
    let mut watch = Program::start(command.args(["edge", "watch", "--config"]).arg(guard.config()), log);
    watch.wait_for("att0: XDP in driver mode");
    world.ip(Host::Edge, &["link", "del", "att0"]);
    world.ip(Host::Edge, &["tuntap", "add", "tun7", "mode", "tun"]);
    world.ip(Host::Edge, &["link", "set", "tun7", "name", "att0"]);
    watch.wait_for("att0 is a layer 3 interface");
    assert_eq!(program_on(&world, "att0"), None);
    world.ip(Host::Edge, &["link", "del", "att0"]);
    lay_cable(&world);
    watch.wait_for("interface came back: att0: XDP in driver mode");
    assert_eq!(attached(&guard), Some(1));
}

#[test]
#[ignore = "needs root and BPF"]
fn what_was_unloaded_is_loaded_again_at_once() {
    let world = World::new();
    // Without a loopback interface as well: nothing of this is said to it.
    world.ip(Host::Edge, &["link", "set", "lo", "down"]);
    let guard = Guard::configured(&world, &[]);
    for _ in 0..5 {
        guard.command(&["edge", "load"]).ok();
        guard.command(&["edge", "unload"]).ok();
    }
}
