//! Limits over time: connections in a minute, messages in an hour. Who is over them hears 4xx and keeps the mail; exempt
//! clients never do.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use smtp_guard_tests::sink::Sink;
use smtp_guard_tests::{Guard, Host, World, guard::netkit, run};

/// One session that tries `messages` senders: the greeting's code, then those of the replies to MAIL.
fn session(world: &World, host: Host, messages: usize) -> Vec<String> {
    let edge = if host == Host::Attacker { World::EDGE_FOR_ATTACKER } else { World::EDGE_FOR_CLIENT };
    let mut lines = vec!["EHLO client.example"];
    lines.extend(["MAIL FROM:<a@client.example>", "RSET"].repeat(messages));
    let said = run(world.on(host, &netkit()).args(["dialogue", &format!("{edge}:25")]), &lines.join("\n")).ok();
    let replies: Vec<_> = said.lines().filter(|line| line.as_bytes().get(3) != Some(&b'-')).collect();
    let mails = replies.iter().skip(2).step_by(2);
    std::iter::once(&replies[0]).chain(mails).map(|reply| reply.chars().take(9).collect()).collect()
}

#[test]
#[ignore = "needs root and BPF"]
fn who_is_over_a_rate_hears_4xx_and_exempt_clients_never_do() {
    let world = World::new();
    let _sink = Sink::start(&world, 25, &[]);
    let exempt = format!("[\"{}\"]", World::CLIENT);
    let guard = Guard::start(
        &world,
        &[(".exempt", &exempt), ("limits.messages_per_hour", "3"), ("limits.connections_per_minute", "4")],
    );
    let replies = session(&world, Host::Attacker, 5);
    assert_eq!(replies[0], "220 mx.ex");
    assert!(replies[1..4].iter().all(|reply| reply.starts_with("250")), "{replies:?}");
    assert!(replies[4..6].iter().all(|reply| reply == "450 4.7.1"), "{replies:?}");
    let next = session(&world, Host::Attacker, 1);
    assert_eq!(next[1], "450 4.7.1", "the hour is the source's, not the session's");
    for _ in 0..2 {
        assert_eq!(session(&world, Host::Attacker, 0), ["220 mx.ex"]);
    }
    assert_eq!(session(&world, Host::Attacker, 0), ["421 4.7.0"], "the fifth connection");
    for _ in 0..6 {
        let replies = session(&world, Host::Client, 2);
        assert!(replies[1..].iter().all(|reply| reply.starts_with("250")), "exempt: {replies:?}");
    }
    for (reason, least) in [("message_rate", 3.0), ("connection_rate", 1.0)] {
        assert_eq!(guard.metric(&format!("smtp_guard_rejections_total{{reason=\"{reason}\"}}")), least, "{reason}");
    }
    assert_eq!(guard.metric("smtp_guard_bans_active"), 0.0);
}
