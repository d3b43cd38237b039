//! Backends that fail (smtp-sink), several of them, and a guard that stops: what the client hears, and what is counted.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use smtp_guard_tests::sink::Sink;
use smtp_guard_tests::talk::Talk;
use smtp_guard_tests::{Guard, Host, World, guard::netkit, run, wait_for};

const ENVELOPE: [&str; 3] = ["EHLO client.example", "MAIL FROM:<a@client.example>", "RCPT TO:<alice@example.org>"];

fn server() -> String {
    format!("{}:25", World::EDGE_FOR_CLIENT)
}

/// One message of `size` bytes past a sink with `options`: the codes that the client hears to MAIL, RCPT, DATA and at the
/// dot, and what the guard counts.
fn check(options: &[&str], size: usize, expected: [&str; 4], outcome: Option<&str>) {
    let world = World::new();
    let sink = Sink::start(&world, 25, options);
    let guard = Guard::start(&world, &[("backend.profile", "\"generic\"")]);
    let body = format!(r"Subject: x\r\n\r\n{}\r\n.", r"line of text\r\n".repeat(size / 14));
    let lines = [ENVELOPE[0], ENVELOPE[1], ENVELOPE[2], "DATA", &body].join("\n");
    let said = run(world.on(Host::Client, &netkit()).args(["dialogue", &server()]), &lines).ok();
    let codes: Vec<_> =
        said.lines().filter(|line| line.as_bytes().get(3) != Some(&b'-')).skip(2).map(|line| &line[..3]).collect();
    assert_eq!(codes, expected, "{options:?}\n{said}\n{}", guard.log());
    for name in ["accepted", "rejected", "deferred", "ambiguous"] {
        let count = guard.metric(&format!("smtp_guard_messages_total{{outcome=\"{name}\"}}"));
        assert_eq!(count, if outcome == Some(name) { 1.0 } else { 0.0 }, "{options:?}: {name}");
    }
    assert!(sink.messages() <= 1, "{options:?}: never more than the client sent");
}

#[test]
#[ignore = "needs root and BPF"]
fn a_backend_that_fails_is_never_the_senders_loss() {
    const OK: [&str; 4] = ["250", "250", "354", "250"];
    type Case = (&'static [&'static str], usize, [&'static str; 4], Option<&'static str>);
    let table: [Case; 13] = [
        (&[], 100, OK, Some("accepted")),
        (&["-Q", "."], 100, ["250", "250", "354", "451"], Some("deferred")),
        (&["-q", "."], 100, ["250", "250", "354", "451"], Some("ambiguous")),
        (&["-r", "."], 100, ["250", "250", "354", "450"], Some("deferred")),
        (&["-f", "."], 100, ["250", "250", "354", "500"], Some("rejected")),
        (&["-A", "0"], 200_000, ["250", "250", "354", "550"], Some("rejected")),
        (&["-W", ".:2"], 100, OK, Some("accepted")),
        (&["-H", "2", "-T", "4096"], 2_000_000, OK, Some("accepted")),
        (&["-q", "DATA"], 100, ["250", "250", "451", "500"], None),
        (&["-Q", "RCPT"], 100, ["250", "451", "451", "500"], None),
        (&["-r", "RCPT"], 100, ["250", "450", "554", "500"], None),
        (&["-Q", "MAIL"], 100, ["451", "503", "503", "500"], None),
        (&["-q", "MAIL"], 100, ["451", "503", "503", "500"], None),
    ];
    for (options, size, expected, outcome) in table {
        check(options, size, expected, outcome);
    }
}

#[test]
#[ignore = "needs root and BPF"]
fn another_server_takes_over_before_mail_and_never_after() {
    let world = World::new();
    let mut first = Sink::start(&world, 25, &[]);
    let second = Sink::start(&world, 26, &[]);
    let servers = format!("[\"{0}:25\", \"{0}:26\"]", World::BACKEND);
    let guard = Guard::start(&world, &[("backend.servers", &servers), ("backend.profile", "\"generic\"")]);
    let mut talk = Talk::begin(&world, Host::Client, &server());
    let message = |talk: &mut Talk| -> Vec<String> {
        let lines =
            ["MAIL FROM:<a@client.example>", "RCPT TO:<alice@example.org>", "DATA", r"Subject: x\r\n\r\nx\r\n."];
        lines.iter().map(|line| talk.say(line)[..3].to_owned()).collect()
    };
    talk.say(ENVELOPE[0]);
    assert_eq!(message(&mut talk), ["250", "250", "354", "250"]);
    assert_eq!((first.messages(), second.messages()), (1, 0), "the first of the list");

    // Within a transaction the loss is told; nothing is played again to the other one.
    assert!(talk.say(ENVELOPE[1]).starts_with("250"));
    assert!(talk.say(ENVELOPE[2]).starts_with("250"));
    first.kill9();
    assert!(talk.say("DATA").starts_with("451"), "{}", talk.said());
    assert_eq!(second.messages(), 0);
    // The next one goes to the other, in the same session.
    assert_eq!(message(&mut talk), ["250", "250", "354", "250"], "{}", talk.said());
    assert_eq!(second.messages(), 1);
    wait_for("the complaint", || guard.log().contains("backend cannot be connected").then_some(()), || guard.log());

    // Back again: new sessions find the first one.
    let first = Sink::start(&world, 25, &[]);
    wait_for("the recovery", || guard.log().contains("backend server answers").then_some(()), || guard.log());
    let back = || {
        let mut talk = Talk::begin(&world, Host::Client, &server());
        talk.say(ENVELOPE[0]);
        message(&mut talk);
        (first.messages() > 0).then_some(())
    };
    wait_for("the first server is used again", back, || guard.log());
}

#[test]
#[ignore = "needs root and BPF"]
fn a_stop_lets_transactions_end_and_tells_idle_sessions() {
    let world = World::new();
    let sink = Sink::start(&world, 25, &[]);
    let changes = [("backend.profile", "\"generic\""), (".drain", "\"20s\"")];
    let mut guard = Guard::start(&world, &changes);
    let mut idle = Talk::begin(&world, Host::Client, &server());
    idle.say(ENVELOPE[0]);
    let mut busy = Talk::begin(&world, Host::Client, &server());
    for line in [ENVELOPE[0], ENVELOPE[1], ENVELOPE[2], "DATA"] {
        busy.say(line);
    }
    guard.terminate();
    wait_for("the stop", || guard.log().contains("SIGTERM").then_some(()), || guard.log());
    assert!(idle.say("NOOP").starts_with("421 4.3.2"), "{}", idle.said());
    let refused = run(world.on(Host::Client, &netkit()).args(["dialogue", &server()]), "").ok();
    assert!(!refused.starts_with("220"), "nobody new is let in: {refused}");
    assert!(busy.say(r"Subject: x\r\n\r\nx\r\n.").starts_with("250"), "{}", busy.said());
    assert!(busy.say("NOOP").starts_with("421 4.3.2"), "{}", busy.said());
    guard.wait_for_end();
    assert_eq!(sink.messages(), 1);
}
