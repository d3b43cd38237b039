//! Decisions about networks, and many at once: from the command line to the dropped packet and the 421, and to others.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::fs;
use std::path::PathBuf;

use smtp_guard_tests::{Guard, Host, Postfix, World, guard::netkit, run, talk::Talk, wait_for};

/// Addresses of the attacker that the Internet would reach it by: two neighbours, and one elsewhere.
const NEIGHBOURS: [&str; 2] = ["198.51.100.7", "198.51.100.200"];
const ELSEWHERE: &str = "203.0.113.7";
const NEIGHBOUR_V6: &str = "2001:db8:7:1::2";

fn world() -> World {
    let world = World::new();
    for address in NEIGHBOURS.into_iter().chain([ELSEWHERE]) {
        world.ip(Host::Attacker, &["addr", "add", &format!("{address}/32"), "dev", "eth0"]);
    }
    world.ip(Host::Attacker, &["addr", "add", &format!("{NEIGHBOUR_V6}/128"), "dev", "eth0", "nodad"]);
    for net in ["198.51.100.0/24", "203.0.113.0/24", "2001:db8:7::/48"] {
        world.ip(Host::Edge, &["route", "add", net, "dev", "att0"]);
    }
    world
}

/// What the attacker hears first as `from`.
fn heard(world: &World, from: &str) -> String {
    let server = if from.contains(':') {
        format!("[{}]:25", World::EDGE_FOR_ATTACKER_V6)
    } else {
        format!("{}:25", World::EDGE_FOR_ATTACKER)
    };
    run(world.on(Host::Attacker, &netkit()).args(["dialogue", &server, "--from", from]), "").ok()
}

#[track_caller]
fn check(world: &World, expected: [&str; 4]) {
    for (from, expected) in NEIGHBOURS.into_iter().chain([ELSEWHERE, NEIGHBOUR_V6]).zip(expected) {
        let heard = heard(world, from);
        assert!(heard.starts_with(expected), "{from}: {heard}");
    }
}

const DROPPED: &str = "NOT CONNECTED";

#[test]
#[ignore = "needs root and BPF"]
fn a_network_is_dropped_until_it_ends_and_survives_what_kills_the_guard() {
    let world = world();
    let _postfix = Postfix::start(&world, "");
    let mut guard = Guard::start(&world, &[(".exempt", "[\"203.0.113.99\"]")]);
    check(&world, ["220"; 4]);

    let refused = guard.command(&["decisions", "add", "203.0.113.0/24", "--for", "1h"]);
    assert_eq!(refused.code(), 1);
    assert!(
        refused.stderr.contains("203.0.113.99/32 is in use here (exempt): give the networks beside"),
        "{refused:#?}"
    );
    let refused = guard.command(&["decisions", "add", "10.77.0.0/16"]);
    assert!(refused.stderr.contains("is in use here"), "{refused:#?}");

    let mut under_way =
        Talk::begin_from(&world, Host::Attacker, &format!("{}:25", World::EDGE_FOR_ATTACKER), NEIGHBOURS[0]);
    assert!(under_way.say("EHLO x").contains("250 "));
    let said = guard.command(&["decisions", "add", "198.51.100.77/24", "--for", "1h", "--reason", "all of it"]);
    assert!(said.ok().starts_with("198.51.100.0/24 is blocked until "));
    guard.command(&["decisions", "add", "2001:db8:7::/48", "--for", "1h"]).ok();
    let dropped = guard.packets("operator");
    check(&world, [DROPPED, DROPPED, "220", DROPPED]);
    assert!(guard.packets("operator") >= dropped + 3, "counted: {dropped}");
    // The packet that says 421 may pass out, and none comes in: the session is gone.
    wait_for(
        "the session under way to end",
        || (guard.metric("smtp_guard_network_bans_active") == 2.0 && guard.established() == 0).then_some(()),
        || format!("{} {}", guard.log(), guard.established()),
    );
    drop(under_way);

    let list = guard.command(&["decisions", "list"]).ok();
    assert!(list.contains("198.51.100.0/24  operator") && list.contains("2001:db8:7::/48  operator"), "{list}");
    let explained = guard.command(&["explain", NEIGHBOURS[1]]).ok();
    assert!(explained.contains("198.51.100.200 is blocked as a part of 198.51.100.0/24"), "{explained}");
    assert!(explained.contains("Why: all of it"), "{explained}");
    let tried = guard.command(&["try", "--from", NEIGHBOURS[1]]).ok();
    assert!(tried.contains("blocked as a part of 198.51.100.0/24: all of it"), "{tried}");
    assert!(
        tried.contains("dropped in the kernel as a part of 198.51.100.0/24") && tried.contains("< silence"),
        "{tried}"
    );
    assert!(guard.command(&["status"]).ok().contains("2 of them of networks"));
    assert_eq!(guard.json(&["edge", "status"])["networks_active"], 2);

    // While nobody is there, and after.
    guard.kill9();
    guard.run();
    check(&world, [DROPPED, DROPPED, "220", DROPPED]);
    guard.command(&["edge", "unload"]).ok();
    check(&world, ["421", "421", "220", "421"]);
    guard.command(&["edge", "load"]).ok();
    let again = || (guard.json(&["edge", "status"])["networks_active"] == 2).then_some(());
    wait_for("the networks in the kernel", again, || guard.log());
    check(&world, [DROPPED, DROPPED, "220", DROPPED]);

    let within = guard.command(&["decisions", "delete", NEIGHBOURS[1]]);
    assert!(within.stderr.contains("smtp-guard decisions delete 198.51.100.0/24"), "{within:#?}");
    guard.command(&["decisions", "delete", "198.51.100.0/24"]).ok();
    check(&world, ["220", "220", "220", DROPPED]);
    guard.command(&["decisions", "delete", "--all"]).ok();
    check(&world, ["220"; 4]);

    // A short one within a long one: neither ends the other.
    guard.command(&["decisions", "add", "198.51.100.0/25", "--for", "2s"]).ok();
    guard.command(&["decisions", "add", "198.51.100.0/24", "--for", "1h"]).ok();
    let ended = || (guard.metric("smtp_guard_network_bans_active") == 1.0).then_some(());
    wait_for("the short one to end", ended, || guard.log());
    check(&world, [DROPPED, DROPPED, "220", "220"]);
    guard.command(&["decisions", "delete", "--all"]).ok();
    // The kernel ends one by itself, whoever is there.
    guard.command(&["decisions", "add", "198.51.100.0/24", "--for", "2s"]).ok();
    guard.kill9();
    let clean = guard.packets("clean");
    let passes = || {
        // Nobody listens any more, but the packet reaches the stack.
        heard(&world, NEIGHBOURS[0]);
        (guard.packets("clean") > clean).then_some(())
    };
    wait_for("the kernel to end it", passes, || format!("{:#}", guard.json(&["edge", "status"])));
}

#[test]
#[ignore = "needs root and BPF"]
fn a_list_comes_in_at_once_and_goes_out_in_the_formats_of_others() {
    let world = world();
    let _postfix = Postfix::start(&world, "");
    let guard = Guard::start(&world, &[("edge.max_sources", "100000"), (".exempt", "[\"192.0.2.9\"]")]);
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| -> String {
        let path: PathBuf = folder.path().join(name);
        fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let mut text = format!("# of others\n198.51.100.0/24\n{ELSEWHERE}\n192.0.2.9\n10.0.0.0/8\n");
    (0..20_000u32).for_each(|n| text += &format!("20.{}.{}.1\n", n >> 8, n & 255));
    let report = guard.json(&["decisions", "import", &file("list", &text), "--for", "1h"]);
    assert_eq!(
        (&report["added"], &report["refused"], &report["saved"]),
        (&20_002.into(), &2.into(), &true.into()),
        "{report:#}"
    );
    assert_eq!((&report["refusals"][0]["line"], &report["refusals"][1]["line"]), (&4.into(), &5.into()), "{report:#}");
    check(&world, [DROPPED, DROPPED, DROPPED, "220"]);
    let status = guard.json(&["edge", "status"]);
    assert_eq!((&status["bans_active"], &status["networks_active"]), (&20_002.into(), &1.into()), "{status:#}");

    let export = |format: &str| guard.command(&["decisions", "export", "--format", format]).ok();
    let all = ["plain", "json", "ipset", "crowdsec"].map(|format| (format, file(format, &export(format))));
    // What takes them: in a namespace of its own, and nothing is changed by `-c`.
    run(world.on(Host::Backend, "nft").args(["-c", "-f", &file("nft", &export("nft"))]), "").ok();
    run(world.on(Host::Backend, "nft").args(["-f", &file("nft", &export("nft"))]), "").ok();
    let has = run(
        world.on(Host::Backend, "nft").args(["get", "element", "inet", "smtp_guard", "v4", "{ 198.51.100.9 }"]),
        "",
    );
    let has = has.ok();
    assert!(has.contains("timeout"), "{has}");
    for (format, path) in &all {
        guard.command(&["decisions", "delete", "--all"]).ok();
        check(&world, ["220"; 4]);
        let report = guard.json(&["decisions", "import", path]);
        assert_eq!((&report["added"], &report["refused"]), (&20_002.into(), &0.into()), "{format}: {report:#}");
        check(&world, [DROPPED, DROPPED, DROPPED, "220"]);
    }
    let again = guard.command(&["decisions", "import", &all[1].1]).ok();
    assert!(again.contains("0 decisions are in force, 20002 outlasted"), "{again}");
    let ipset = run(world.on(Host::Backend, "ipset").args(["restore", "-file", &all[2].1]), "");
    // A kernel without it can't say whether the file is right.
    assert!(
        ipset.code() == 0 || ipset.stderr.contains("Kernel error") || ipset.stderr.contains("Cannot open session"),
        "{ipset:#?}"
    );
    let stdin = run(
        world
            .on(Host::Edge, &smtp_guard_tests::guard::binary())
            .args(["decisions", "import", "-", "--config"])
            .arg(guard.config()),
        "192.0.2.0/28\n192.0.2.64/26\n",
    );
    let stdin = stdin.ok();
    let refusal = "refused: line 1: 192.0.2.0/28: 192.0.2.0/28 is not blocked, since 192.0.2.9/32";
    assert!(stdin.contains(refusal), "{stdin}");
}

#[test]
#[ignore = "needs root and BPF"]
fn what_was_answered_survives_a_kill_without_a_kernel_plane() {
    let world = world();
    let _postfix = Postfix::start(&world, "");
    let mut guard = Guard::configured(&world, &[("edge.interfaces", "[]")]);
    guard.run();
    let mut expected = Vec::new();
    for n in 0..8 {
        let (net, ip) = (format!("20.0.{n}.0/24"), format!("20.1.0.{n}"));
        for who in [&net, &ip] {
            guard.command(&["decisions", "add", who, "--for", "1h"]).ok();
        }
        if n % 2 == 1 {
            guard.command(&["decisions", "delete", &net]).ok();
        }
        guard.kill9();
        guard.run();
        expected.extend([ip].into_iter().chain((n % 2 == 0).then_some(net)));
        let mut found: Vec<_> =
            guard.json(&["decisions", "list"])["decisions"].as_array().unwrap().iter().map(who).collect();
        found.sort_unstable();
        expected.sort_unstable();
        assert_eq!(found, expected);
    }
}

fn who(decision: &serde_json::Value) -> String {
    decision["source"].as_str().unwrap().to_owned()
}
