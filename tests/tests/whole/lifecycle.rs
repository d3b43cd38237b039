//! The kernel plane's life apart from the proxy's: standing when it is killed, replaced in place, removed without a trace.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::fs;

use aya::programs::{ProgramInfo, loaded_programs};
use serde_json::Value;
use smtp_guard_tests::{Guard, Held, Host, Postfix, World, guard::binary, guard::netkit, run, wait_for};

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
    let decisions = guard.json(&["decisions", "list"]);
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
    let decisions = guard.json(&["decisions", "list"]);
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
    let bans = || (guard.json(&["edge", "status"])["bans"] == 1).then_some(());
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
