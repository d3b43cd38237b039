//! A backend that misbehaves: the client never hears 250 for what wasn't taken.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use smtp_guard_tests::{Guard, Host, Postfix, Program, World, guard::netkit, run};

const MESSAGE: [&str; 6] = [
    "EHLO client.example",
    "MAIL FROM:<a@client.example>",
    "RCPT TO:<alice@example.org>",
    "DATA",
    r"Subject: x\r\n\r\nx\r\n.",
    "QUIT",
];

/// How clients send a message.
const MANNERS: [&str; 4] = ["lines", "pipelined", "chunks", "pipelined-chunks"];

/// Sends a message in each manner past a smtp-sink with `fault`; the reply to its end must begin with `expected`, and each message must
/// be counted as `outcome`.
fn check(fault: &[&str], expected: &str, outcome: &str) {
    let world = World::new();
    let folder = tempfile::tempdir().unwrap();
    let mut sink = world.on(Host::Backend, "smtp-sink");
    sink.args(["-u", "nobody"]).args(fault).args([&format!("{}:25", World::BACKEND), "16"]);
    let _sink = Program::start(&mut sink, folder.path().join("sink"));
    let guard = Guard::start(&world, &[]);
    let server = format!("{}:25", World::EDGE_FOR_CLIENT);
    for (n, manner) in MANNERS.into_iter().enumerate() {
        let output = run(world.on(Host::Client, &netkit()).args(["once", &server, manner]), "").ok();
        let last = output.lines().last().unwrap_or_default();
        if fault.first() == Some(&"-A") && manner == "pipelined-chunks" {
            // All was sent when it was refused: the server hangs up on what it doesn't read, and its refusal may be lost with it.
            assert!(last.starts_with(['4', '5']), "{fault:?}, {manner}: {output}");
            assert_eq!(guard.metric("smtp_guard_messages_total{outcome=\"accepted\"}"), 0.0, "{}", guard.log());
            continue;
        }
        assert!(last.starts_with(expected), "{fault:?}, {manner}: {output}");
        let metric = format!("smtp_guard_messages_total{{outcome=\"{outcome}\"}}");
        assert_eq!(guard.metric(&metric), (n + 1) as f64, "{fault:?}, {manner}: {}", guard.log());
    }
}

#[test]
#[ignore = "needs root and BPF"]
fn a_sound_backend() {
    check(&[], "250", "accepted");
}

#[test]
#[ignore = "needs root and BPF"]
fn refuses_in_the_middle_of_the_data_and_reads_no_more() {
    check(&["-A", "0"], "550", "rejected");
}

#[test]
#[ignore = "needs root and BPF"]
fn says_421_at_the_dot() {
    check(&["-Q", "."], "451", "deferred");
}

#[test]
#[ignore = "needs root and BPF"]
fn dies_at_the_dot() {
    check(&["-q", "."], "451 4.4.2", "ambiguous");
}

#[test]
#[ignore = "needs root and BPF"]
fn refuses_at_the_dot() {
    check(&["-f", "."], "500", "rejected");
}

#[test]
#[ignore = "needs root and BPF"]
fn defers_at_the_dot() {
    check(&["-r", "."], "450", "deferred");
}

/// The cable to the backend is pulled and put back: 4xx meanwhile, and the client's session stays.
#[test]
#[ignore = "needs root and BPF"]
fn the_cable_is_pulled() {
    let world = World::new();
    let postfix = Postfix::start(&world, "");
    let _guard = Guard::start(&world, &[("backend.connect_timeout", "\"1s\"")]);
    let server = format!("{}:25", World::EDGE_FOR_CLIENT);
    let send = || {
        let output = run(world.on(Host::Client, &netkit()).args(["dialogue", &server]), &MESSAGE.join("\n")).ok();
        output.lines().filter(|line| line.as_bytes().get(3) != Some(&b'-')).map(str::to_owned).collect::<Vec<_>>()
    };
    world.ip(Host::Edge, &["link", "set", "bak0", "down"]);
    let replies = send();
    assert!(replies[2].starts_with("451 4.4.1"), "MAIL: {replies:?}");
    assert!(replies[3].starts_with("503") && replies[4].starts_with("503"), "nothing goes on without it: {replies:?}");
    assert!(replies.iter().all(|reply| !reply.starts_with("55")), "never permanent: {replies:?}");
    world.ip(Host::Edge, &["link", "set", "bak0", "up"]);
    let replies = send();
    assert!(replies[5].starts_with("250 2.0.0"), "{replies:?}");
    postfix.expect(1);
}
