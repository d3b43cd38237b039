//! The kernel plane's life apart from the proxy's: standing when it is killed, replaced in place, removed without a trace.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::fs;

use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::{ProgramInfo, loaded_programs};
use serde_json::Value;
use smtp_guard_tests::{Guard, Held, Host, Postfix, Run, World, guard::binary, guard::netkit, run, wait_for};

/// Instructions that the verifier may have to go through: a quarter of what the kernel allows.
const CEILING: u64 = 250_000;

fn greeted(world: &World) -> bool {
    let address = format!("{}:25", World::EDGE_FOR_ATTACKER);
    run(world.on(Host::Attacker, &netkit()).args(["dialogue", &address]), "").ok().starts_with("220")
}

/// Programs in the kernel that share a map with the program `xdp`, itself included: one guard's, whatever other tests do.
fn programs_of(xdp: u32) -> Vec<u32> {
    let programs: Vec<_> = loaded_programs().flatten().collect();
    let maps = |info: &ProgramInfo| info.map_ids().ok().flatten().unwrap_or_default();
    let ours: Vec<u32> = programs.iter().filter(|info| info.id() == xdp).flat_map(maps).collect();
    let shares = |info: &&ProgramInfo| maps(info).iter().any(|map| ours.contains(map));
    programs.iter().filter(shares).map(ProgramInfo::id).collect()
}

/// The XDP attachment of an interface of the edge, as ip(8) shows it.
fn xdp_of(world: &World, device: &str) -> Option<Value> {
    let links: Value =
        serde_json::from_str(&world.ip(Host::Edge, &["-json", "-details", "link", "show", device])).unwrap();
    links[0].get("xdp").cloned()
}

#[test]
#[ignore = "needs root and BPF"]
fn a_killed_proxy_leaves_the_edge_enforcing_and_takes_it_over_again() {
    let world = World::new();
    let _postfix = Postfix::start(&world, "");
    let mut guard = Guard::start(&world, &[]);
    assert!(greeted(&world));
    guard.command(&["decisions", "add", World::ATTACKER, "--for", "1h", "--reason", "by hand"]).ok();
    assert!(!greeted(&world));

    guard.kill9();
    let dropped = guard.packets("operator");
    assert!(!greeted(&world));
    assert!(guard.packets("operator") > dropped, "dropped in the kernel, without a proxy");

    guard.run();
    let decisions = guard.json(&["decisions", "list"])["decisions"].clone();
    assert_eq!(
        (&decisions[0]["source"], &decisions[0]["text"]),
        (&World::ATTACKER.into(), &"by hand".into()),
        "{decisions}"
    );
    assert!(!greeted(&world));

    // A ban that only the kernel map knows, because the state directory is lost, is taken over as well.
    guard.kill9();
    let state = guard.config().with_file_name("state");
    fs::remove_dir_all(state).unwrap();
    guard.run();
    let decisions = guard.json(&["decisions", "list"])["decisions"].clone();
    assert_eq!(decisions[0]["source"], World::ATTACKER, "{decisions}");
    guard.command(&["decisions", "delete", "--all"]).ok();
    assert!(greeted(&world));
}

#[test]
#[ignore = "needs root and BPF"]
fn a_second_load_replaces_the_program_and_lets_nothing_through() {
    let world = World::new();
    let _postfix = Postfix::start(&world, "");
    let guard = Guard::start(&world, &[]);
    let held = Held::open(&world, Host::Client, &format!("{}:25", World::EDGE_FOR_CLIENT), 3);
    assert_eq!(held.count("greeted"), 3, "{}", held.result);
    guard.settle(3);
    guard.command(&["decisions", "add", World::ATTACKER, "--for", "1h", "--reason", "x"]).ok();
    let (clean, program) = (guard.packets("clean"), xdp_of(&world, "att0").unwrap()["prog"]["id"].clone());

    std::thread::scope(|scope| {
        let edge = format!("{}:25", World::EDGE_FOR_ATTACKER);
        let command = || world.on(Host::Attacker, &netkit());
        let flood = scope.spawn(move || {
            run(command().args(["spoof-syn", &edge, World::ATTACKER, "50000"]), "").ok();
        });
        for _ in 0..5 {
            let loaded = guard.command(&["edge", "load"]).ok();
            assert_eq!(loaded.matches("replaced in place").count(), 2, "{loaded}");
        }
        flood.join().unwrap();
    });
    assert_eq!(guard.packets("clean"), clean, "no packet of the banned source passed");
    assert!(guard.packets("operator") >= 40_000, "{}", guard.packets("operator"));
    assert_ne!(xdp_of(&world, "att0").unwrap()["prog"]["id"], program, "it is another program");
    assert_eq!(guard.established(), 3, "connections from before are counted once");
    drop(held);
    guard.settle(0);
}

#[test]
#[ignore = "needs root and BPF"]
fn unload_leaves_nothing_behind() {
    let world = World::new();
    let guard = Guard::configured(&world, &[]);
    let loaded = guard.command(&["edge", "load"]).ok();
    assert_eq!(loaded.matches("XDP in driver mode").count(), 2, "{loaded}");
    println!("{}", loaded.lines().last().unwrap());
    let verified = &guard.json(&["edge", "load"])["verified_instructions"];
    for program in ["xdp", "sock_ops"] {
        let instructions = verified[program].as_u64().unwrap();
        assert!((1..CEILING).contains(&instructions), "{program}: {instructions}");
    }
    let id = xdp_of(&world, "att0").unwrap()["prog"]["id"].as_u64().unwrap();
    let programs = programs_of(u32::try_from(id).unwrap());
    assert!(programs.len() == 2 && guard.pins().exists(), "XDP and sock_ops: {programs:?}");
    guard.command(&["edge", "unload"]).ok();
    assert!(!guard.pins().exists());
    assert_eq!((xdp_of(&world, "att0"), xdp_of(&world, "cli0")), (None, None));
    // The kernel frees a program a moment after its last user is gone.
    let gone = || (!loaded_programs().flatten().any(|info| programs.contains(&info.id()))).then_some(());
    wait_for("the programs to be gone", gone, || format!("{programs:?}"));
    assert!(guard.command(&["edge", "unload"]).ok().contains("nothing was loaded"), "twice is no error");
    let status = guard.command(&["edge", "status"]);
    assert!(status.code() == 1 && status.stderr.contains("edge load"), "{status:#?}");
}

#[test]
#[ignore = "needs root and BPF"]
fn a_plane_that_is_loaded_anew_gets_the_bans_back() {
    let world = World::new();
    let _postfix = Postfix::start(&world, "");
    let guard = Guard::start(&world, &[]);
    guard.command(&["decisions", "add", World::ATTACKER, "--for", "1h", "--reason", "x"]).ok();
    guard.command(&["edge", "unload"]).ok();
    assert!(!greeted(&world), "user space says 421 meanwhile");
    guard.command(&["edge", "load"]).ok();
    let bans = || (guard.json(&["edge", "status"])["bans_active"] == 1).then_some(());
    wait_for("the ban in the new map", bans, || guard.log());
    assert!(!greeted(&world));
    assert!(guard.packets("operator") > 0);
}

#[test]
#[ignore = "needs root and BPF"]
fn generic_mode_where_the_driver_has_none() {
    let world = World::new();
    let guard = Guard::configured(&world, &[("edge.interfaces", "[\"lo\"]")]);
    assert!(guard.command(&["edge", "load"]).ok().contains("lo: XDP in generic mode"));
    guard.command(&["edge", "unload"]).ok();
    guard.configure(&[("edge.interfaces", "[\"lo\"]"), ("edge.mode", "\"driver\"")]);
    let refused = guard.command(&["edge", "load"]);
    assert!(refused.code() == 1 && refused.stderr.contains("in driver mode"), "{refused:#?}");
    assert!(!guard.pins().exists(), "a failed load leaves nothing behind");
}

#[test]
#[ignore = "needs root and BPF"]
fn another_program_on_the_interface_is_named() {
    let world = World::new();
    let first = Guard::configured(&world, &[]);
    first.command(&["edge", "load"]).ok();
    let other = World::new();
    let second = Guard::configured(&other, &[]);
    // The second guard's pins on the first one's interfaces.
    let refused = run(world.on(Host::Edge, &binary()).args(["edge", "load", "--config"]).arg(second.config()), "");
    assert!(refused.code() == 1 && refused.stderr.contains("att0 already carries another XDP program"), "{refused:#?}");
    assert!(!second.pins().exists());
}

/// `edge load` of `guard` on the edge of `world`, whose guard it needn't be.
fn load_on(world: &World, guard: &Guard<'_>) -> Run {
    run(world.on(Host::Edge, &binary()).args(["edge", "load", "--config"]).arg(guard.config()), "")
}

#[test]
#[ignore = "needs root and BPF"]
fn f1_an_interface_without_ethernet_header_is_refused() {
    let world = World::new();
    world.ip(Host::Edge, &["tuntap", "add", "tun0", "mode", "tun"]);
    world.ip(Host::Edge, &["tuntap", "add", "tap0", "mode", "tap"]);
    let guard = Guard::configured(&world, &[]);
    let refused = |mode: &str| {
        guard.configure(&[("edge.interfaces", "[\"att0\", \"tun0\"]"), ("edge.mode", &format!("\"{mode}\""))]);
        let refused = guard.command(&["edge", "load"]);
        assert_eq!((refused.code(), refused.stderr.lines().count()), (1, 1), "{refused:#?}");
        for part in ["tun0 is a layer 3 interface", "no Ethernet header", "leave tun0 out of [edge] interfaces"] {
            assert!(refused.stderr.contains(part), "{refused:#?}");
        }
        assert_eq!(xdp_of(&world, "tun0"), None);
    };
    for mode in ["auto", "driver", "generic"] {
        refused(mode);
        assert_eq!(xdp_of(&world, "att0"), None);
        assert!(!guard.pins().exists(), "a failed load leaves nothing behind");
    }
    let check = guard.command(&["check"]);
    assert!(check.code() == 0 && check.stderr.contains("warning: tun0 is a layer 3 interface"), "{check:#?}");
    // With one, packets are read as they should be.
    guard.configure(&[("edge.interfaces", "[\"att0\", \"tap0\"]")]);
    guard.command(&["edge", "load"]).ok();
    let program = xdp_of(&world, "att0").unwrap()["prog"]["id"].clone();
    refused("auto");
    assert_eq!(xdp_of(&world, "att0").unwrap()["prog"]["id"], program, "what was there is there");
}

#[test]
#[ignore = "needs root and BPF"]
fn f4_the_program_in_the_way_is_named_with_the_command_that_takes_it_off() {
    let (world, other) = (World::new(), World::new());
    let first = Guard::configured(&world, &[("edge.interfaces", "[\"att0\"]")]);
    first.command(&["edge", "load"]).ok();
    let id = xdp_of(&world, "att0").unwrap()["prog"]["id"].clone();
    let version = fs::read_dir(first.pins()).unwrap().next().unwrap().unwrap().path();
    let second = Guard::configured(&other, &[("edge.interfaces", "[\"att0\"]")]);
    let refused = |device: &str, program: &Value, command: &str| {
        second.configure(&[("edge.interfaces", &format!("[\"{device}\"]"))]);
        let refused = load_on(&world, &second);
        assert_eq!((refused.code(), refused.stderr.lines().count()), (1, 1), "{refused:#?}");
        for part in [format!("another XDP program (guard_xdp, id {program})"), format!("`{command}`")] {
            assert!(refused.stderr.contains(&part), "{part}: {refused:#?}");
        }
    };
    // By a link, whose number is the pinned one's.
    let link: FdLink = PinnedLink::from_pin(version.join("xdp-driver-att0")).unwrap().into();
    let number = link.info().unwrap().id();
    refused("att0", &id, &format!("bpftool link detach id {number}"));
    // By netlink, in both modes: what is advised works.
    for (mode, command) in
        [("xdp", "ip link set dev cli0 xdp off"), ("xdpgeneric", "ip link set dev cli0 xdpgeneric off")]
    {
        let pinned = version.join("prog-xdp").display().to_string();
        // By nsenter: `ip -n` sees another /sys, without pins.
        let ip = |words: &[&str]| run(world.on(Host::Edge, "ip").args(words), "").ok();
        ip(&["link", "set", "dev", "cli0", mode, "pinned", &pinned]);
        refused("cli0", &xdp_of(&world, "cli0").unwrap()["prog"]["id"], command);
        let words: Vec<_> = command.split(' ').skip(1).collect();
        ip(&words);
        load_on(&world, &second).ok();
        run(world.on(Host::Edge, &binary()).args(["edge", "unload", "--config"]).arg(second.config()), "").ok();
    }
}
