//! Mail through the guard to a real Postfix: what arrives, what is refused, and in which words.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use smtp_guard_tests::postfix::header;
use smtp_guard_tests::{Guard, Host, Named, Postfix, Program, Run, World, guard::netkit, run, wait_for};

fn swaks(world: &World, arguments: &[&str]) -> Run {
    let server = format!("{}:25", World::EDGE_FOR_CLIENT);
    let fixed = ["--server", &server, "--helo", "client.example", "--timeout", "10"];
    run(world.on(Host::Client, "swaks").args(fixed).args(arguments), "")
}

/// Lines sent one at a time by the client, and how each reply must begin.
fn check(world: &World, name: &str, dialogue: &[(&str, &str)]) {
    let lines: Vec<_> = dialogue.iter().map(|(line, _)| *line).collect();
    let server = format!("{}:25", World::EDGE_FOR_CLIENT);
    let output = run(world.on(Host::Client, &netkit()).args(["dialogue", &server]), &lines.join("\n")).ok();
    let replies: Vec<_> = output.lines().filter(|line| line.as_bytes().get(3) != Some(&b'-')).skip(1).collect();
    for (index, (line, expected)) in dialogue.iter().enumerate() {
        let reply = replies.get(index).copied().unwrap_or("nothing");
        assert!(reply.starts_with(expected), "{name}: {line}: {reply}, expected {expected}\n{output}");
    }
}

#[test]
#[ignore = "needs root and BPF"]
fn mail_arrives_once_and_whole() {
    let world = World::new();
    let postfix = Postfix::start(&world, "");
    let guard = Guard::start(&world, &[]);

    let body = "Subject: dots\\n\\n.\\n..\\n.a\\nüml and a long line: ".to_owned() + &"x".repeat(900) + "\\nend\\n";
    swaks(&world, &["--from", "a@client.example", "--to", "alice@example.org", "--data", &body]).ok();
    let message = postfix.expect(1).remove(0);
    let received = message.lines().filter(|line| line.starts_with("Received:")).count();
    assert_eq!(received, 2, "{message}");
    assert!(
        message.contains("from client.example ([10.77.2.2])\n\tby mx.example.org (smtp-guard) with ESMTP id"),
        "{message}"
    );
    let text = message.replace("\r\n", "\n");
    let expected = body.replace("\\n", "\n").replace("Subject: dots\n\n", "");
    assert!(text.trim_end().ends_with(expected.trim_end()), "{message}");

    swaks(&world, &["--from", "a@client.example", "--to", "alice@example.org,bob@example.org", "--pipeline"]).ok();
    postfix.expect(3);

    let six = format!("[{}]:25", World::EDGE_FOR_CLIENT_V6);
    let target = format!("inet6:{six}");
    run(
        world.on(Host::Client, "smtp-source").args([
            "-6",
            "-f",
            "six@client.example",
            "-t",
            "carol@example.org",
            &target[6..],
        ]),
        "",
    )
    .ok();
    let messages = postfix.expect(4);
    assert!(messages.iter().any(|message| message.contains("([IPv6:fd77:2::2])")), "the IPv6 client's address");

    let source = ["-s", "5", "-m", "200", "-l", "3000", "-f", "load@client.example", "-t", "bob@example.org"];
    run(world.on(Host::Client, "smtp-source").args(source).arg(format!("{}:25", World::EDGE_FOR_CLIENT)), "").ok();
    let messages = postfix.expect(204);
    assert!(messages.iter().all(|message| header(message, "Received").is_some()));
    assert_eq!(guard.metric("smtp_guard_messages_total{outcome=\"accepted\"}"), 203.0);
    assert_eq!(guard.metric("smtp_guard_messages_total{outcome=\"ambiguous\"}"), 0.0);
}

#[test]
#[ignore = "needs root and BPF"]
fn refusals_in_their_words() {
    let world = World::new();
    let postfix = Postfix::start(&world, "");
    let changes = [("limits.recipients", "2"), ("limits.message_size", "\"10KiB\""), ("limits.failed_commands", "6")];
    let guard = Guard::start(&world, &changes);

    const HELLO: (&str, &str) = ("EHLO client.example", "250");
    const MAIL: (&str, &str) = ("MAIL FROM:<a@client.example>", "250");
    check(&world, "relay", &[HELLO, MAIL, ("RCPT TO:<x@elsewhere.example>", "554 5.7.1"), ("QUIT", "221")]);
    check(
        &world,
        "unknown recipient",
        &[
            HELLO,
            MAIL,
            (
                "RCPT TO:<nobody@example.org>",
                "550 5.1.1 <nobody@example.org>: Recipient address rejected: User unknown",
            ),
            ("QUIT", "221"),
        ],
    );
    check(
        &world,
        "size announced",
        &[HELLO, ("MAIL FROM:<a@client.example> SIZE=99999", "552 5.3.4"), ("QUIT", "221")],
    );
    check(
        &world,
        "too many recipients, those accepted go on",
        &[
            HELLO,
            MAIL,
            ("RCPT TO:<alice@example.org>", "250"),
            ("RCPT TO:<bob@example.org>", "250"),
            ("RCPT TO:<carol@example.org>", "452 4.5.3"),
            ("DATA", "354"),
            (r"Subject: for two\r\n\r\nx\r\n.", "250 2.0.0"),
            ("QUIT", "221"),
        ],
    );
    postfix.expect(2);
    check(
        &world,
        "failed commands",
        &[
            HELLO,
            ("BOGUS", "500"),
            ("BOGUS", "500"),
            ("BOGUS", "500"),
            ("BOGUS", "500"),
            ("BOGUS", "500"),
            ("BOGUS", "421 4.7.0"),
            ("NOOP", "CLOSED"),
        ],
    );
    check(
        &world,
        "a NUL in the data",
        &[
            HELLO,
            MAIL,
            ("RCPT TO:<alice@example.org>", "250"),
            ("DATA", "354"),
            (r"a\0b\r\n.", "550 5.6.0"),
            ("QUIT", "221"),
        ],
    );
    let flawed = format!(r"bare\n{}", "y".repeat(16 * 1024));
    let envelope = [HELLO, MAIL, ("RCPT TO:<alice@example.org>", "250"), ("DATA", "354")];
    let too_much = [(flawed.as_str(), "552 5.3.4"), ("QUIT", "CLOSED")];
    check(&world, "a flaw, and then no end", &[&envelope[..], &too_much[..]].concat());
    let big = format!("--body={}", "big line of text\\n".repeat(700));
    let run = swaks(&world, &["--from", "a@client.example", "--to", "alice@example.org", &big]);
    assert!(run.stdout.contains("552 5.3.4"), "{run:#?}");
    postfix.expect(2);
    for reason in ["relay", "unknown_recipient", "message_size", "recipients", "failed_commands", "smuggling"] {
        assert!(guard.metric(&format!("smtp_guard_rejections_total{{reason=\"{reason}\"}}")) >= 1.0, "{reason}");
    }
}

#[test]
#[ignore = "needs root and BPF"]
fn trouble_of_ours_is_never_permanent() {
    let world = World::new();
    let mut guard = Guard::configured(&world, &[]);
    guard.command(&["edge", "load"]).ok();
    guard.run_without_backend();
    check(
        &world,
        "no backend",
        &[("EHLO client.example", "250"), ("MAIL FROM:<a@client.example>", "451 4.4.1"), ("QUIT", "221")],
    );
}

#[test]
#[ignore = "needs root and BPF"]
fn a_table_of_recipients_spares_the_backend() {
    let world = World::new();
    let postfix = Postfix::start(&world, "");
    let folder = tempfile::tempdir().unwrap();
    let known = folder.path().join("known");
    std::fs::write(&known, "alice@example.org\n").unwrap();
    let _guard = Guard::start(&world, &[("recipients.known", &format!("\"{}\"", known.display()))]);
    check(
        &world,
        "known recipients",
        &[
            ("EHLO client.example", "250"),
            ("MAIL FROM:<a@client.example>", "250"),
            (
                "RCPT TO:<bob@example.org>",
                "550 5.1.1 <bob@example.org>: Recipient address rejected: User unknown (session ",
            ),
            ("RCPT TO:<Alice@Example.org>", "250"),
            ("RCPT TO:<postmaster>", "250"),
            ("QUIT", "221"),
        ],
    );
    assert!(!postfix.log().contains("bob@example.org"));
}

/// As Postfix itself would find it: a name counts that leads back to the address, and no other.
#[test]
#[ignore = "needs root and BPF"]
fn the_backend_learns_the_clients_name() {
    let world = World::new();
    let postfix = Postfix::start(&world, "smtpd_authorized_xclient_hosts = 10.77.3.1\n");
    let zone = "2.2.77.10.in-addr.arpa. PTR other.example.test.\n2.2.77.10.in-addr.arpa. PTR mail.example.test.\n\
                mail.example.test. A 10.77.2.2\nother.example.test. A 10.77.2.9\n\
                2.1.77.10.in-addr.arpa. PTR mail.example.test.\n";
    let _named = Named::start(&world, zone);
    let server = format!("[\"{}\"]", World::BACKEND);
    let guard = Guard::start(&world, &[("dns.servers", &server), ("backend.identity", "\"xclient\"")]);
    let log = |line: &str| {
        let logged = || postfix.log().contains(line).then_some(());
        wait_for(line, logged, || postfix.log());
    };
    swaks(&world, &["--from", "a@client.example", "--to", "alice@example.org"]).ok();
    log("client=mail.example.test[10.77.2.2]");
    let message = postfix.expect(1).remove(0);
    let ours = "from client.example (mail.example.test [10.77.2.2])\n\tby mx.example.org (smtp-guard) with ESMTP id";
    assert!(message.contains(ours), "{message}");
    let line = "\"name\":\"mail.example.test\"";
    assert!(guard.log().lines().any(|logged| logged.contains("\"message\":\"message\"") && logged.contains(line)));
    let forged = format!("{}:25", World::EDGE_FOR_ATTACKER);
    let lines = [
        "EHLO mail.example.test",
        "MAIL FROM:<a@client.example>",
        "RCPT TO:<alice@example.org>",
        "DATA",
        "x\\r\\n.",
        "NOOP",
        "QUIT",
    ];
    run(world.on(Host::Attacker, &netkit()).args(["dialogue", &forged]), &lines.join("\n")).ok();
    log("client=unknown[10.77.1.2]");
    assert!(postfix.expect(2).iter().any(|message| message.contains("from mail.example.test ([10.77.1.2])")));
}

/// Killed with -9 under load: what the client was told is accepted is at the backend, and at most what was under way in
/// each session is there without the client knowing.
#[test]
#[ignore = "needs root and BPF"]
fn a_killed_guard_loses_nothing_that_it_acknowledged() {
    const SESSIONS: usize = 5;
    let world = World::new();
    let postfix = Postfix::start(&world, "");
    let mut guard = Guard::start(&world, &[]);
    let folder = tempfile::tempdir().unwrap();
    let server = format!("{}:25", World::EDGE_FOR_CLIENT);
    let start = |n: usize| {
        let mut command = world.on(Host::Client, &netkit());
        let output = folder.path().join(n.to_string());
        Program::start(command.args(["mail", &server, &format!("client{n}"), "5000"]), output)
    };
    let clients: Vec<_> = (0..SESSIONS).map(start).collect();
    let acknowledged = || -> Vec<String> {
        clients.iter().flat_map(|client| client.output().lines().map(str::to_owned).collect::<Vec<_>>()).collect()
    };
    wait_for("mail under load", || (acknowledged().len() >= 50).then_some(()), || guard.log());
    guard.kill9();
    // Each ends by itself when its session breaks.
    std::thread::sleep(std::time::Duration::from_millis(500));
    let acknowledged = acknowledged();
    assert!(acknowledged.len() < SESSIONS * 5000, "killed in the middle");
    let missing = || {
        let delivered: Vec<_> = postfix.messages().iter().filter_map(|message| header(message, "Message-Id")).collect();
        acknowledged.iter().filter(|id| !delivered.contains(id)).count()
    };
    wait_for("all that was acknowledged", || (missing() == 0).then_some(()), || format!("{} are missing", missing()));
    let delivered = postfix.messages().len();
    let most = acknowledged.len() + SESSIONS;
    assert!(delivered <= most, "{} acknowledged, {delivered} delivered", acknowledged.len());
}
