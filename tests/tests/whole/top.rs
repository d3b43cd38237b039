//! `smtp-guard top` in a real terminal, before a guard that bans and a kernel that drops.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use smtp_guard_tests::sink::Sink;
use smtp_guard_tests::{Guard, Held, Host, Terminal, World, guard::binary, guard::netkit, run};

const SMALL: (u16, u16) = (80, 24);

/// The total in the row of `reason` among the kernel's packets, as it is shown.
fn dropped(screen: &str, reason: &str) -> Option<u64> {
    let row = screen.lines().find_map(|line| line.strip_prefix(&format!("× {reason} ")))?;
    row.split_whitespace().nth(1)?.parse().ok()
}

/// SYNs of the attacker, as many as that.
fn attack(world: &World, packets: u32) {
    let edge = format!("{}:25", World::EDGE_FOR_ATTACKER);
    let mut command = world.on(Host::Attacker, &netkit());
    run(command.args(["spoof-syn", &edge, World::ATTACKER, &packets.to_string()]), "").ok();
}

#[test]
#[ignore = "needs root and BPF"]
fn the_view_follows_the_guard() {
    let (world, folder) = (World::new(), tempfile::tempdir().unwrap());
    let _sink = Sink::start(&world, 25, &[]);
    let mut guard = Guard::start(&world, &[]);
    let config = guard.config().display().to_string();
    let top =
        Terminal::start(&world, folder.path(), SMALL, &[&binary(), "top", "--interval", "300ms", "--config", &config]);
    top.wait_for(&format!("smtp-guard {}  up ", env!("CARGO_PKG_VERSION")));
    for text in ["10.77.3.2:25 up", "enforcing on att0, cli0", "nobody is banned", " q  quit"] {
        top.wait_for(text);
    }
    assert!(top.is_on_other_screen());

    guard.command(&["decisions", "add", World::ATTACKER, "--for", "1h", "--reason", "by hand"]).ok();
    top.wait_until("the ban", |screen| {
        let row = screen.lines().find(|line| line.starts_with(World::ATTACKER))?;
        ["operator", "by hand", "59m"].iter().all(|part| row.contains(part)).then_some(())
    });
    attack(&world, 1000);
    let first = top.wait_until("drops", |screen| dropped(screen, "operator").filter(|packets| *packets >= 900));
    attack(&world, 1000);
    top.wait_until("more drops", |screen| dropped(screen, "operator").filter(|packets| *packets >= first + 900));
    // Whose they are comes from the kernel's samples, and stands in the log as well.
    top.wait_until("whose drops they are", |screen| {
        let rows = screen.split("DROPPED SOURCES").nth(1)?.split("LATEST BANS").next()?;
        rows.lines().any(|row| row.starts_with(World::ATTACKER) && row.contains("operator")).then_some(())
    });
    let line = format!("The kernel drops packets from {} to port 25", World::ATTACKER);
    assert!(guard.log().contains(&line), "{}", guard.log());

    top.resize((50, 10));
    top.wait_for("needs 60x15");
    top.resize((120, 40));
    top.wait_for("SAMPLES");
    top.wait_until("the latest events", |screen| {
        let rows = screen.split("LATEST EVENTS").nth(1)?;
        rows.lines().any(|row| row.contains(&format!("{} banned for", World::ATTACKER))).then_some(())
    });
    top.key("s");
    top.wait_for(" by total");

    guard.kill9();
    top.wait_for("no guard answers");
    top.wait_for(" old");
    guard.run();
    top.wait_until("the guard again", |screen| {
        (!screen.contains("no guard") && !screen.contains(" old")).then_some(())
    });
    top.key("p");
    top.wait_for("PAUSED");

    top.key("q");
    top.wait_for("exit=0");
    assert!(!top.is_on_other_screen());
    let screen = top.screen();
    assert!(screen.starts_with("before\nexit=0\n"), "{screen}");
}

#[test]
#[ignore = "needs root and BPF"]
fn a_source_is_explained_banned_and_lifted_by_keys() {
    let (world, folder) = (World::new(), tempfile::tempdir().unwrap());
    let _sink = Sink::start(&world, 25, &[]);
    let guard = Guard::start(&world, &[("limits.ipv6_prefix", "64")]);
    guard.command(&["decisions", "add", World::ATTACKER, "--for", "1h", "--reason", "by hand"]).ok();
    let config = guard.config().display().to_string();
    let top =
        Terminal::start(&world, folder.path(), SMALL, &[&binary(), "top", "--interval", "300ms", "--config", &config]);
    let is_row = |line: &str| line.starts_with(World::ATTACKER) && line.contains("operator");
    let is_banned = |screen: &str| screen.lines().any(is_row);
    top.wait_until("the ban", |screen| is_banned(screen).then_some(()));
    top.key("?");
    top.wait_for("Orders are logged with your uid");
    top.key("Escape");
    top.key("e");
    top.wait_for("select a row first");
    top.key("Down");
    top.wait_for(" e  explain ");
    top.key("e");
    // As the command says it.
    let explained = guard.command(&["explain", World::ATTACKER]).ok();
    let first = explained.lines().next().unwrap();
    top.wait_for(&first[..first.len().min(60)]);
    top.key("l");
    top.wait_for(&format!("Lift the ban on {}?", World::ATTACKER));
    // Anything but yes leaves it.
    top.key("n");
    top.wait_for(" e  explain ");
    assert!(guard.command(&["decisions", "list"]).ok().contains(World::ATTACKER));
    top.key("b");
    top.wait_for(&format!("Ban {} for 4h_", World::ATTACKER));
    for key in ["BSpace", "BSpace", "x", "Enter"] {
        top.key(key);
    }
    top.wait_for("write a whole number");
    top.resize((60, 15));
    for key in ["BSpace", "7", "d", "Enter"] {
        top.key(key);
    }
    top.wait_for(&format!("{} is blocked until", World::ATTACKER));
    let until = guard.json(&["decisions", "list"])["decisions"][0].clone();
    assert_eq!(until["text"], "blocked by the administrator");
    top.wait_until("the longer ban", |screen| screen.contains("6d 23h").then_some(()));
    top.key("l");
    top.key("y");
    top.wait_for(&format!("{} is no longer blocked", World::ATTACKER));
    top.wait_for("nobody is banned");
    assert_eq!(guard.json(&["decisions", "list"])["decisions"].as_array().unwrap().len(), 0);
    for line in ["operator (uid 0) blocked", "operator (uid 0) lifted the decision on"] {
        assert!(guard.log().contains(line), "{line}: {}", guard.log());
    }

    // Who is exempt meanwhile is refused in the guard's own words.
    guard.command(&["decisions", "add", World::ATTACKER, "--for", "1h"]).ok();
    top.wait_until("the ban", |screen| is_banned(screen).then_some(()));
    top.key("p");
    top.key("Down");
    guard.configure(&[(".exempt", &format!("[\"{}\"]", World::ATTACKER))]);
    guard.command(&["reload"]).ok();
    top.key("b");
    top.key("Enter");
    let refused = guard.command(&["decisions", "add", World::ATTACKER, "--for", "4h"]);
    let words = refused.stderr.trim().trim_start_matches("error: ").to_owned();
    assert!(refused.code() == 1 && words.contains("exempt"), "{refused:#?}");
    top.wait_for(&words[..words.len().min(58)]);
    top.key("q");
    top.wait_for("exit=0");
    assert!(!top.is_on_other_screen() && top.screen().starts_with("before\nexit=0\n"), "{}", top.screen());
}

#[test]
#[ignore = "needs root and BPF"]
fn open_sessions_are_listed_and_their_sources_explained() {
    let (world, folder) = (World::new(), tempfile::tempdir().unwrap());
    let _sink = Sink::start(&world, 25, &[]);
    let guard = Guard::start(&world, &[]);
    let held = |host, edge: &str, count| Held::open(&world, host, &format!("{edge}:25"), count);
    let attacker = held(Host::Attacker, World::EDGE_FOR_ATTACKER, 3);
    let client = held(Host::Client, World::EDGE_FOR_CLIENT, 1);
    assert_eq!((attacker.count("greeted"), client.count("greeted")), (3, 1));
    let sessions = guard.json(&["top"])["sessions"].as_array().unwrap().clone();
    let sources: Vec<_> = sessions.iter().map(|session| session["source"].as_str().unwrap()).collect();
    let [of_attacker, of_client] = [World::ATTACKER, World::CLIENT];
    assert_eq!(sources, [of_attacker, of_attacker, of_attacker, of_client], "{sessions:#?}");
    assert!(sessions.iter().all(|session| session["state"] == "command" && session["tls"] == false), "{sessions:#?}");
    let config = guard.config().display().to_string();
    let top =
        Terminal::start(&world, folder.path(), SMALL, &[&binary(), "top", "--interval", "300ms", "--config", &config]);
    top.wait_for(" 4 sessions");
    top.key("w");
    top.wait_for("WORST SOURCES");
    top.key("w");
    top.wait_until("the sessions", |screen| {
        let rows = screen.split("OPEN SESSIONS").nth(1)?.split("LATEST BANS").next()?;
        let of = |source: &str| rows.lines().filter(|row| row.starts_with(source) && row.contains(" command ")).count();
        (of(of_attacker) == 3 && of(of_client) == 1).then_some(())
    });
    top.key("Down");
    top.key("e");
    let explained = guard.command(&["explain", World::ATTACKER]).ok();
    let first = explained.lines().next().unwrap();
    top.wait_for(&first[..first.len().min(60)]);
    top.key("q");
    drop(attacker);
    top.wait_until("the attacker is gone", |screen| {
        let rows = screen.split("OPEN SESSIONS").nth(1)?.split("LATEST BANS").next()?;
        (!rows.contains(of_attacker) && rows.contains(of_client)).then_some(())
    });
    top.key("Escape");
    top.key("q");
    top.wait_for("exit=0");
}

#[test]
#[ignore = "needs root and BPF"]
fn the_terminal_is_given_back_after_a_signal() {
    let (world, folder) = (World::new(), tempfile::tempdir().unwrap());
    let guard = Guard::configured(&world, &[]);
    let config = guard.config().display().to_string();
    let words = ["timeout", "--foreground", "--preserve-status", "3", &binary(), "top", "--config", &config];
    let top = Terminal::start(&world, folder.path(), SMALL, &words);
    // Nobody is there: it says so, and keeps asking.
    top.wait_for("no guard answers");
    top.wait_for("exit=0");
    assert!(!top.is_on_other_screen());
    assert!(top.screen().starts_with("before\nexit=0\n"), "{}", top.screen());
}

#[test]
#[ignore = "needs root and BPF"]
fn without_a_terminal_there_is_json() {
    let world = World::new();
    let _sink = Sink::start(&world, 25, &[]);
    let guard = Guard::start(&world, &[]);
    guard.command(&["decisions", "add", World::ATTACKER, "--for", "1h", "--reason", "by hand"]).ok();
    attack(&world, 10);
    let live = guard.json(&["top"]);
    assert_eq!(
        (&live["decisions"][0]["source"], &live["decisions"][0]["text"]),
        (&World::ATTACKER.into(), &"by hand".into())
    );
    let packets = live["kernel_packets"].as_array().unwrap();
    let operator = packets.iter().find(|entry| entry["reason"] == "operator").unwrap();
    assert!(operator["verdict"] == "drop" && operator["count"].as_u64() >= Some(10), "{live:#}");
    let refused = guard.command(&["top"]);
    assert!(refused.code() == 1 && refused.stderr.contains("`smtp-guard top --json`"), "{refused:#?}");
}
