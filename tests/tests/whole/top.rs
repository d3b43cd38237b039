//! `smtp-guard top` in a real terminal, before a guard that bans and a kernel that drops.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use smtp_guard_tests::sink::Sink;
use smtp_guard_tests::{Guard, Host, Terminal, World, guard::binary, guard::netkit, run};

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
    top.wait_for("sources by total");

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
