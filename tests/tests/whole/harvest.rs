//! The loop: from the unknown recipient to the ban, and from the ban to the dropped packet.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use smtp_guard::clock::WallTime;
use smtp_guard_tests::{Guard, Host, Postfix, World, guard::netkit, run, wait_for};

/// Messages of one round of the honest client.
const ROUND: usize = 20;

/// Guesses of the harvester: fewer than `limits.failed_commands`, which must not be what ends its session.
const GUESSES: u32 = 90;

/// Asks for `unknowns` recipients that don't exist; the replies, or how it ended.
fn harvest(world: &World, from: &str, to: &str, unknowns: u32) -> String {
    let mut lines = vec!["EHLO attacker.example".to_owned(), "MAIL FROM:<x@attacker.example>".to_owned()];
    lines.extend((0..unknowns).map(|n| format!("RCPT TO:<guess{n}@example.org>")));
    run(world.on(Host::Attacker, &netkit()).args(["dialogue", to, "--from", from]), &lines.join("\n")).ok()
}

/// Whether the guard greets `from`.
fn greeted(world: &World, from: &str, to: &str) -> bool {
    let command = &mut world.on(Host::Attacker, &netkit());
    run(command.args(["dialogue", to, "--from", from]), "").ok().starts_with("220")
}

/// One round of honest mail; smtp-source fails if any message isn't accepted.
fn honest_round(world: &World) {
    let arguments =
        ["-s", "3", "-m", &ROUND.to_string(), "-l", "2000", "-f", "honest@client.example", "-t", "alice@example.org"];
    run(world.on(Host::Client, "smtp-source").args(arguments).arg(format!("{}:25", World::EDGE_FOR_CLIENT)), "").ok();
}

/// Ends the honest client also when the test fails: else it would go on for ever.
struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
#[ignore = "needs root and BPF"]
fn a_harvester_is_dropped_in_the_kernel_while_honest_mail_flows() {
    let world = World::new();
    let postfix = Postfix::start(&world, "");
    let guard = Guard::start(&world, &[]);
    let edge = format!("{}:25", World::EDGE_FOR_ATTACKER);
    let (done, rounds) = (AtomicBool::new(false), AtomicUsize::new(0));

    std::thread::scope(|scope| {
        let _stop = StopOnDrop(&done);
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                honest_round(&world);
                rounds.fetch_add(1, Ordering::Relaxed);
            }
        });
        // The ban is made beside the session: without the delay before replies a fast client hears a few more. How many
        // is a matter of time, not of the rule; that the tenth tripped it stands in the evidence below.
        let output = harvest(&world, World::ATTACKER, &edge, GUESSES);
        let refused = output.lines().filter(|line| line.starts_with("550 5.1.1")).count();
        assert!((9..GUESSES as usize).contains(&refused), "cut off before its list ended:\n{output}");
        assert!(!greeted(&world, World::ATTACKER, &edge), "a new connection is dropped");
        let before = rounds.load(Ordering::Relaxed);
        wait_for(
            "honest mail after the ban",
            || (rounds.load(Ordering::Relaxed) > before + 1).then_some(()),
            String::new,
        );
    });
    postfix.expect(rounds.load(Ordering::Relaxed) * ROUND);

    assert!(guard.packets("harvest") > 0);
    assert!(guard.metric("smtp_guard_kernel_packets_total{reason=\"harvest\",family=\"ipv4\",verdict=\"drop\"}") > 0.0);
    assert_eq!(guard.metric("smtp_guard_bans_total{reason=\"harvest\"}"), 1.0);
    let log = guard.log();
    let line = format!("banned {} for 1h: directory harvest attack (10 distinct", World::ATTACKER);
    assert!(log.contains(&line), "{log}");

    let decisions = guard.json(&["decisions", "list"])["decisions"].clone();
    let decision = &decisions[0];
    assert_eq!(
        (&decision["source"], &decision["reason"]),
        (&World::ATTACKER.into(), &"harvest".into()),
        "{decisions:#}"
    );
    let ms = |field: &str| serde_json::from_value::<WallTime>(decision[field].clone()).unwrap().as_ms();
    assert_eq!((ms("until") - ms("made")) / 1000, 3600, "an hour");
    let explained = guard.command(&["explain", World::ATTACKER]).ok();
    for words in
        ["is blocked: directory harvest attack", "10 distinct unknown recipients of 10", "guess", "ends by itself"]
    {
        assert!(explained.contains(words), "{words}:\n{explained}");
    }

    // Sessions that were under way when it was banned may linger: what they were told must not reach new ones.
    guard.command(&["decisions", "delete", World::ATTACKER]).ok();
    let output = harvest(&world, World::ATTACKER, &edge, 3);
    assert_eq!(output.lines().filter(|line| line.starts_with("550 5.1.1")).count(), 3, "lifted:\n{output}");
    let exempt = guard.command(&["decisions", "add", World::CLIENT, "--for", "1h", "--reason", "by hand"]).ok();
    assert!(exempt.contains(World::CLIENT));
    assert!(guard.command(&["decisions", "list"]).ok().contains("by hand"));
}

#[test]
#[ignore = "needs root and BPF"]
fn a_ban_ends_in_the_kernel_although_the_proxy_was_killed() {
    let world = World::new();
    let _postfix = Postfix::start(&world, "");
    let mut guard = Guard::start(&world, &[("harvest.ban", "\"4s\""), ("harvest.ban_max", "\"4s\"")]);
    let edge = format!("{}:25", World::EDGE_FOR_ATTACKER);
    harvest(&world, World::ATTACKER, &edge, 12);
    guard.kill9();
    let dropped = guard.packets("harvest");
    // Nobody listens any more: an open edge answers with RST at once, a closed one not at all.
    let refused = || {
        let command = &mut world.on(Host::Attacker, &netkit());
        let output = run(command.args(["dialogue", &edge]), "").ok();
        output.contains("ConnectionRefused").then_some(())
    };
    assert!(refused().is_none(), "still enforced without the proxy");
    assert!(guard.packets("harvest") > dropped);
    wait_for("the end of the ban", refused, String::new);
}

#[test]
#[ignore = "needs root and BPF"]
fn the_exempt_are_never_banned() {
    let world = World::new();
    let _postfix = Postfix::start(&world, "");
    let guard = Guard::start(&world, &[(".exempt", "[\"10.77.1.0/24\"]"), ("limits.connections", "2")]);
    let edge = format!("{}:25", World::EDGE_FOR_ATTACKER);
    let output = harvest(&world, World::ATTACKER, &edge, 40);
    assert_eq!(output.lines().filter(|line| line.starts_with("550 5.1.1")).count(), 40, "{output}");
    assert!(greeted(&world, World::ATTACKER, &edge));
    let refused = guard.command(&["decisions", "add", World::ATTACKER, "--for", "1h", "--reason", "x"]);
    assert!(refused.code() == 1 && refused.stderr.contains("exempt"), "{refused:#?}");
    assert_eq!(guard.json(&["decisions", "list"])["decisions"].as_array().unwrap().len(), 0);
}

#[test]
#[ignore = "needs root and BPF"]
fn ipv6_is_banned_by_its_prefix() {
    let world = World::new();
    let _postfix = Postfix::start(&world, "");
    let guard = Guard::start(&world, &[]);
    let edge = format!("[{}]:25", World::EDGE_FOR_ATTACKER_V6);
    let [first, same, other] = World::ATTACKER_V6;
    harvest(&world, first, &edge, 12);
    assert_eq!(guard.json(&["decisions", "list"])["decisions"][0]["source"], "fd77:1::/64");
    assert!(!greeted(&world, same, &edge), "another address of the same /64");
    assert!(greeted(&world, other, &edge), "another /64");
    assert!(guard.metric("smtp_guard_kernel_packets_total{reason=\"harvest\",family=\"ipv6\",verdict=\"drop\"}") > 0.0);
}

/// The figure of the issue: from the reply that crossed the line to the first packet dropped, as the attacker sees it.
/// Under 5 ms; the best of three, as the machine may be busy with other things.
#[test]
#[ignore = "needs root and BPF"]
fn from_the_crossing_reply_to_the_first_dropped_packet() {
    const LIMIT_US: u64 = 5_000;
    let world = World::new();
    let _postfix = Postfix::start(&world, "");
    let guard = Guard::start(&world, &[]);
    let edge = format!("{}:25", World::EDGE_FOR_ATTACKER);
    let mut figures: Vec<u64> = Vec::new();
    for _ in 0..3 {
        let probe = run(world.on(Host::Attacker, &netkit()).args(["ban-probe", &edge, World::ATTACKER, "10"]), "");
        eprint!("{}", probe.stderr);
        figures.push(probe.ok().trim().parse().unwrap());
        guard.command(&["decisions", "delete", World::ATTACKER]).ok();
        std::thread::sleep(Duration::from_millis(50));
    }
    let inside =
        guard.metric("smtp_guard_ban_latency_seconds_sum") / guard.metric("smtp_guard_ban_latency_seconds_count");
    println!("ban to drop: {figures:?} us at the attacker; {:.0} us from report to ban inside the guard", inside * 1e6);
    assert!(figures.iter().any(|figure| *figure < LIMIT_US), "{figures:?} us");
}
