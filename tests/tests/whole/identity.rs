//! The client's identity: told to a real Postfix by XCLIENT and PROXY, and heard from balancers in front of the guard.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use smtp_guard_tests::postfix::header;
use smtp_guard_tests::talk::Talk;
use smtp_guard_tests::{Guard, Host, Postfix, Run, World, guard::netkit, run, two_at_a_time, wait_for};

const TRUSTS_XCLIENT: &str = "smtpd_authorized_xclient_hosts = 10.77.3.1\n";
const TAKES_PROXY: &str = "smtpd_upstream_proxy_protocol = haproxy\n";

fn swaks(world: &World, server: &str, arguments: &[&str]) -> Run {
    let fixed = ["--server", server, "--helo", "client.example", "--timeout", "10"];
    let envelope = ["--from", "a@client.example", "--to", "alice@example.org"];
    run(world.on(Host::Client, "swaks").args(fixed).args(envelope).args(arguments), "")
}

/// One message past a Postfix that `postfix` sets up and a guard with `identity`: whose address Postfix noted, or the
/// complaint of the guard that it couldn't be told.
fn check(identity: &str, postfix: &str, expected: Result<(), &str>) {
    let world = World::new();
    let postfix = Postfix::start(&world, postfix);
    let mut guard = Guard::configured(&world, &[("backend.identity", &format!("\"{identity}\""))]);
    guard.command(&["edge", "load"]).ok();
    match expected {
        Ok(()) => {
            guard.run();
            for (server, address) in
                [(World::EDGE_FOR_CLIENT, "10.77.2.2"), (World::EDGE_FOR_CLIENT_V6, "IPv6:fd77:2::2")]
            {
                swaks(&world, server, &[]).ok();
                let messages = postfix.expect(if server == World::EDGE_FOR_CLIENT { 1 } else { 2 });
                let noted = format!("from client.example (unknown [{address}])");
                let received: Vec<_> = messages.iter().filter_map(|message| header(message, "Received")).collect();
                assert!(received.iter().any(|line| line.starts_with(&noted)), "{identity}: {received:#?}");
            }
        }
        Err(complaint) => {
            guard.run_without_backend();
            let refused = swaks(&world, World::EDGE_FOR_CLIENT, &[]);
            assert!(refused.stdout.contains("451 4.4.1"), "{identity}: {refused:#?}");
            wait_for(complaint, || guard.log().contains(complaint).then_some(()), || guard.log());
            assert_eq!(postfix.messages().len(), 0, "{identity}: closed, not open");
        }
    }
}

#[test]
#[ignore = "needs root and BPF"]
fn postfix_learns_who_the_client_is_or_gets_no_mail() {
    let table = [
        ("xclient", TRUSTS_XCLIENT, Ok(())),
        ("proxy-v1", TAKES_PROXY, Ok(())),
        ("proxy-v2", TAKES_PROXY, Ok(())),
        ("xclient", "", Err("smtpd_authorized_xclient_hosts")),
        // A PROXY header is no SMTP to a server that doesn't know of it.
        ("proxy-v1", "", Err("smtpd_upstream_proxy_protocol")),
        ("proxy-v2", "", Err("smtpd_upstream_proxy_protocol")),
    ];
    two_at_a_time(&table, |(identity, postfix, expected)| check(identity, postfix, *expected));
}

/// A guard whose port 24 is for the balancer, which is the client's host; port 25 is for everybody.
fn behind_balancer(world: &World) -> Guard<'_> {
    let listen = "[[listen]]\naddress = \"0.0.0.0:24\"\nproxy_protocol = [\"10.77.2.2\"]";
    Guard::start(world, &[("+", listen), ("backend.identity", "\"xclient\""), ("harvest.delay", "\"100ms\"")])
}

/// What is said on the port for balancers: `header` and then `lines`.
fn proxied(world: &World, host: Host, server: &str, header: &str, lines: &[String]) -> String {
    let mut all = vec![header.to_owned()];
    all.extend_from_slice(lines);
    run(world.on(host, &netkit()).args(["dialogue", server, "--header"]), &all.join("\n")).ok()
}

#[test]
#[ignore = "needs root and BPF"]
fn behind_a_balancer_the_client_is_whom_the_header_names() {
    let world = World::new();
    let postfix = Postfix::start(&world, TRUSTS_XCLIENT);
    let guard = behind_balancer(&world);
    let server = format!("{}:24", World::EDGE_FOR_CLIENT);
    for (version, address) in [("1", "192.0.2.7"), ("2", "192.0.2.8")] {
        let source = ["--proxy-family", if version == "1" { "TCP4" } else { "AF_INET" }, "--proxy-source", address];
        let more =
            ["--proxy-source-port", "5000", "--proxy-dest", "10.77.2.1", "--proxy-dest-port", "24", "--port", "24"];
        let v2 = ["--proxy-protocol", "STREAM", "--proxy-command", "PROXY"];
        let v2 = if version == "2" { &v2[..] } else { &[] };
        swaks(&world, World::EDGE_FOR_CLIENT, &[&["--proxy-version", version], &source[..], &more[..], v2].concat())
            .ok();
    }
    let messages = postfix.expect(2);
    for address in ["192.0.2.7", "192.0.2.8"] {
        let noted = format!("(unknown [{address}])");
        assert!(messages.iter().any(|message| message.contains(&noted)), "{address}: {messages:#?}");
    }

    // No header, a wrong one, a header from somebody else: the connection is reset before a greeting.
    let hello = ["EHLO x".to_owned()];
    for header in ["EHLO x", "PROXY TCP4 192.0.2.7 10.77.2.1 5000", "PROXY TCP4 nonsense 10.77.2.1 5000 24"] {
        let said = proxied(&world, Host::Client, &server, header, &hello);
        assert!(!said.contains("220"), "{header}: {said}");
    }
    let header = "PROXY TCP4 192.0.2.7 10.77.2.1 5000 24";
    let attackers = format!("{}:24", World::EDGE_FOR_ATTACKER);
    let said = proxied(&world, Host::Attacker, &attackers, header, &hello);
    assert!(!said.contains("220"), "not one of the balancers: {said}");
    assert!(guard.metric("smtp_guard_rejections_total{reason=\"proxy_header\"}") >= 4.0);

    // A harvester behind the balancer: it is banned, the balancer and whoever else stands behind it are not.
    let mut lines = vec!["EHLO x".to_owned(), "MAIL FROM:<x@attacker.example>".to_owned()];
    lines.extend((0..12).map(|n| format!("RCPT TO:<guess{n}@example.org>")));
    let said = proxied(&world, Host::Client, &server, header, &lines);
    assert!(said.contains("421 4.7.0"), "{said}");
    let decisions = guard.json(&["decisions", "list"])["decisions"].clone();
    assert_eq!(decisions[0]["source"], "192.0.2.7", "{decisions:#}");
    let said = proxied(&world, Host::Client, &server, header, &hello);
    assert!(said.starts_with("421 4.7.0"), "enforced in user space: {said}");
    let other = "PROXY TCP4 192.0.2.99 10.77.2.1 5000 24";
    assert!(proxied(&world, Host::Client, &server, other, &hello).starts_with("220"), "others pass");
    let refused = guard.command(&["decisions", "add", World::CLIENT, "--for", "1h", "--reason", "test"]);
    assert_ne!(refused.code(), 0, "nobody bans the balancer: {refused:#?}");
}

/// Sends a message from one of the client's addresses; the reply at the dot, or the refusal before it.
fn message(world: &World, from: &str) -> String {
    let lines = ["EHLO client.example", "MAIL FROM:<a@client.example>", "RCPT TO:<alice@example.org>", "DATA"];
    let mut talk = Talk::begin_from(world, Host::Client, &format!("{}:25", World::EDGE_FOR_CLIENT), from);
    for line in lines.into_iter().chain(["."]) {
        let said = talk.say(line);
        if said.starts_with(['4', '5']) {
            return said;
        }
        if line == "." {
            talk.say("QUIT");
            return said;
        }
    }
    String::new()
}

/// Postfix counts messages and recipients of each client, also where one connection serves several of them.
#[test]
#[ignore = "needs root and BPF"]
fn a_connection_that_is_used_again_is_each_clients_own_to_postfix() {
    let world = World::new();
    let others: Vec<_> = (10..14).map(|n| format!("10.77.2.{n}")).collect();
    for address in &others {
        world.ip(Host::Client, &["addr", "add", &format!("{address}/24"), "dev", "eth0"]);
    }
    let extra = format!(
        "{TRUSTS_XCLIENT}smtpd_client_message_rate_limit = 2\nsmtpd_client_recipient_rate_limit = 100\nsmtpd_client_event_limit_exceptions =\n"
    );
    let postfix = Postfix::start(&world, &extra);
    let guard = Guard::start(&world, &[("backend.identity", "\"xclient\""), ("checks.greeting_delay", "\"0s\"")]);
    for address in others.iter().flat_map(|address| [address; 2]) {
        let said = message(&world, address);
        assert!(said.starts_with("250"), "{address}: {said}");
    }
    // The third message of each is over Postfix' limit, and no other's counts towards it.
    for address in &others {
        let said = message(&world, address);
        assert!(said.starts_with("450 4.7.1"), "{address}: {said}\n{}", postfix.log());
    }
    let messages = postfix.expect(8);
    for address in &others {
        let noted = format!("from client.example (unknown [{address}])");
        let own =
            messages.iter().filter_map(|message| header(message, "Received")).filter(|line| line.starts_with(&noted));
        assert_eq!(own.count(), 2, "{address}: {messages:#?}");
    }
    // The second and the third of each, unless the machine took longer than a connection waits.
    let reused = guard.metric("smtp_guard_backend_connections_total{how=\"reused\"}");
    assert!((1.0..=8.0).contains(&reused), "{reused} of 12\n{}", guard.log());
}
