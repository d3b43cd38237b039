//! Links of the kernel plane under loads that fail, that meet, and that find other interfaces than the last one.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::fs;
use std::os::unix::fs::chown;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;
use smtp_guard_tests::{Guard, Host, Program, World, guard::binary, run};

/// The number and the mode of the XDP program on an interface of the edge.
fn program_on(world: &World, device: &str) -> Option<(u64, u64)> {
    let links: Value =
        serde_json::from_str(&world.ip(Host::Edge, &["-json", "-details", "link", "show", device])).unwrap();
    Some((links[0]["xdp"]["prog"]["id"].as_u64()?, links[0]["xdp"]["mode"].as_u64()?))
}

fn is_on_both(world: &World) -> bool {
    let [first, second] = ["att0", "cli0"].map(|device| program_on(world, device));
    first.is_some() && first == second
}

#[test]
#[ignore = "needs root and BPF"]
fn a_load_that_fails_removes_nothing_of_another_one() {
    let world = World::new();
    let other = World::new();
    let blocker = Guard::configured(&other, &[("edge.interfaces", "[\"cli0\"]")]);
    run(world.on(Host::Edge, &binary()).args(["edge", "load", "--config"]).arg(blocker.config()), "").ok();
    let good = Guard::configured(&world, &[("edge.interfaces", "[\"att0\"]")]);
    let bad = Guard::configured(&world, &[("edge.interfaces", "[\"cli0\"]")]);
    for delay in [0, 20, 60, 150] {
        std::thread::scope(|scope| {
            let loaded = scope.spawn(|| good.command(&["edge", "load"]));
            std::thread::sleep(Duration::from_millis(delay));
            let refused = bad.command(&["edge", "load"]);
            assert!(refused.stderr.contains("cli0 already carries another XDP program"), "{refused:#?}");
            assert_eq!(loaded.join().unwrap().code(), 0);
        });
        assert!(program_on(&world, "att0").is_some(), "after {delay} ms");
        good.command(&["edge", "unload"]).ok();
    }
    run(world.on(Host::Edge, &binary()).args(["edge", "unload", "--config"]).arg(blocker.config()), "").ok();
}

#[test]
#[ignore = "needs root and BPF"]
fn interfaces_are_known_by_what_they_are_not_by_their_names() {
    let world = World::new();
    let guard = Guard::configured(&world, &[]);
    guard.command(&["edge", "load"]).ok();
    let rename = |from: &str, to: &str| {
        world.ip(Host::Edge, &["link", "set", from, "down"]);
        world.ip(Host::Edge, &["link", "set", from, "name", to]);
        world.ip(Host::Edge, &["link", "set", to, "up"]);
    };
    // Swapped: each has the other's name.
    for (from, to) in [("att0", "x"), ("cli0", "att0"), ("x", "cli0")] {
        rename(from, to);
    }
    for _ in 0..2 {
        let loaded = guard.json(&["edge", "load"]);
        let replaced = |interface: &Value| interface["replaced"] == true;
        assert!(loaded["interfaces"].as_array().unwrap().iter().all(replaced), "{loaded:#}");
        assert!(is_on_both(&world));
    }
    // Renamed, and the configuration with it.
    rename("att0", "new.1");
    guard.configure(&[("edge.interfaces", "[\"new.1\", \"cli0\"]")]);
    assert_eq!(guard.command(&["edge", "load"]).ok().matches("replaced in place").count(), 2);
    let status = guard.json(&["edge", "status"]);
    let names: Vec<_> = status["interfaces"].as_array().unwrap().iter().map(|one| one["name"].clone()).collect();
    assert_eq!(names, ["cli0", "new.1"]);
    // Taken to another host: it is filtered there, but not here.
    world.ip(Host::Edge, &["link", "set", "new.1", "netns", &format!("sg-{}-b", world.id)]);
    let status = guard.json(&["edge", "status"]);
    assert_eq!(status["interfaces"][1]["attached"], false, "{status:#}");
}

#[test]
#[ignore = "needs root and BPF"]
fn a_mode_that_was_changed_is_changed_back() {
    for version in ["v2", ""] {
        let world = World::new();
        let guard = Guard::configured(&world, &[("edge.interfaces", "[\"att0\"]"), ("edge.mode", "\"driver\"")]);
        guard.command(&["edge", "load"]).ok();
        if !version.is_empty() {
            let current = fs::read_dir(guard.pins()).unwrap().next().unwrap().unwrap().path();
            fs::rename(current, guard.pins().join(version)).unwrap();
        }
        let before = program_on(&world, "att0");
        let other = World::new();
        let blocker = Guard::configured(&other, &[("edge.interfaces", "[\"cli0\"]")]);
        run(world.on(Host::Edge, &binary()).args(["edge", "load", "--config"]).arg(blocker.config()), "").ok();
        guard.configure(&[("edge.interfaces", "[\"att0\", \"cli0\"]"), ("edge.mode", "\"generic\"")]);
        assert_eq!(guard.command(&["edge", "load"]).code(), 1);
        assert_eq!(program_on(&world, "att0"), before, "the same program in the same mode");
        run(world.on(Host::Edge, &binary()).args(["edge", "unload", "--config"]).arg(blocker.config()), "").ok();
        let loaded = guard.command(&["edge", "load"]).ok();
        assert_eq!(loaded.matches("XDP in generic mode").count(), 2, "{loaded}");
        assert!(is_on_both(&world));
    }
}

#[test]
#[ignore = "needs root and BPF"]
fn what_a_killed_load_left_is_as_good_as_nothing() {
    let world = World::new();
    let guard = Guard::configured(&world, &[]);
    let mut proxy = Guard::configured(&world, &[]);
    guard.command(&["edge", "load"]).ok();
    proxy.run_without_backend();
    proxy.command(&["decisions", "add", World::ATTACKER, "--for", "1h", "--reason", "x"]).ok();
    proxy.kill9();
    let current = fs::read_dir(guard.pins()).unwrap().next().unwrap().unwrap().path();
    fs::rename(&current, guard.pins().join("v2")).unwrap();
    // A load from nothing whose links and programs are taken away: maps are left.
    guard.configure(&[("edge.interfaces", "[\"lo\"]")]);
    let aside = PathBuf::from(format!("{}-aside", guard.pins().display()));
    fs::rename(guard.pins().join("v2"), &aside).unwrap();
    guard.command(&["edge", "load"]).ok();
    for entry in fs::read_dir(&current).unwrap().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if ["prog-", "link-", "xdp-"].iter().any(|kind| name.starts_with(kind)) {
            fs::remove_file(entry.path()).unwrap();
        }
    }
    fs::rename(aside, guard.pins().join("v2")).unwrap();
    guard.configure(&[]);
    let loaded = guard.json(&["edge", "load"]);
    assert_eq!(loaded["bans_taken_over"], 1, "{loaded:#}");
    assert!(is_on_both(&world));
}

#[test]
#[ignore = "needs root and BPF"]
fn a_directory_of_somebody_else_is_refused() {
    let world = World::new();
    let guard = Guard::configured(&world, &[]);
    fs::create_dir(guard.pins()).unwrap();
    chown(guard.pins(), Some(54_321), None).unwrap();
    let refused = guard.command(&["edge", "load"]);
    assert!(refused.code() == 1 && refused.stderr.contains("belongs to another user"), "{refused:#?}");
    fs::remove_dir(guard.pins()).unwrap();
}

#[test]
#[ignore = "needs root and BPF"]
fn the_watch_ends_when_there_is_nothing_to_watch() {
    let world = World::new();
    let guard = Guard::configured(&world, &[]);
    let log = guard.config().with_file_name("watch");
    let mut command = world.on(Host::Edge, &binary());
    let mut watch = Program::start(command.args(["edge", "watch", "--config"]).arg(guard.config()), log);
    watch.wait_for("kernel plane loaded");
    // What a load by hand no longer wants stays without the program.
    guard.configure(&[("edge.interfaces", "[\"cli0\"]")]);
    guard.command(&["edge", "load"]).ok();
    world.ip(Host::Edge, &["link", "set", "cli0", "down"]);
    std::thread::sleep(Duration::from_millis(300));
    assert!(program_on(&world, "att0").is_none());
    guard.command(&["edge", "unload"]).ok();
    watch.wait_for_end();
    assert!(watch.output().contains("edge load"), "it says what to do: {}", watch.output());
}
