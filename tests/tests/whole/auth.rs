//! Logins against a real Dovecot, asked directly or through a real Postfix: who may relay then, and who is banned.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use smtp_guard_tests::pki::Pki;
use smtp_guard_tests::postfix::header;
use smtp_guard_tests::{Dovecot, Guard, Host, Postfix, Run, Server as _, World, run, wait_for};

const SUBMISSION: &str = "[[listen]]\naddress = \"0.0.0.0:587\"\nrole = \"submission\"\n\
                          [[listen]]\naddress = \"0.0.0.0:465\"\nrole = \"submissions\"\n";
const USER: &str = "alice@example.org";

fn swaks(world: &World, host: Host, arguments: &[&str]) -> Run {
    let server = if host == Host::Attacker { World::EDGE_FOR_ATTACKER } else { World::EDGE_FOR_CLIENT };
    let fixed = ["--server", server, "--helo", "client.example", "--timeout", "15", "--from", USER];
    run(world.on(host, "swaks").args(fixed).args(arguments), "")
}

fn login<'a>(mechanism: &'a str, password: &'a str) -> [&'a str; 6] {
    ["--auth", mechanism, "--auth-user", USER, "--auth-password", password]
}

/// How credentials are judged, and how the backend learns whose they were.
fn check(via: &str, identity: &str) {
    let (world, pki) = (World::new(), Pki::new());
    let dovecot = Dovecot::start(&world, "");
    let socket = dovecot.auth_socket();
    // The Postfix takes mail for everywhere from users only, and keeps it: there is nowhere to go.
    let sasl = format!(
        "{}smtpd_sasl_auth_enable = yes\nsmtpd_sasl_type = dovecot\nsmtpd_sasl_path = {}\nsmtpd_sasl_authenticated_header = yes\n\
         smtpd_relay_restrictions = permit_sasl_authenticated, reject_unauth_destination\n\
         smtpd_authorized_xclient_hosts = 10.77.3.1\ndefault_transport = discard\nrelay_transport = discard\n",
        pki.issue("backend", &["backend.example.org"]).postfix(),
        socket.display()
    );
    let postfix = Postfix::start(&world, &sasl);
    let tls = format!("{SUBMISSION}{}", pki.issue("guard", &["mx.example.org"]).guard());
    let (via_key, identity_key) = (format!("\"{via}\""), format!("\"{identity}\""));
    let socket = format!("\"{}\"", socket.display());
    let guard = Guard::start(
        &world,
        &[
            ("+", &tls),
            ("auth.via", &via_key),
            ("auth.dovecot_socket", &socket),
            ("backend.identity", &identity_key),
            ("auth.failures", "4"),
        ],
    );
    let name = format!("via {via}, identity {identity}");
    let word = Dovecot::PASSWORD;
    let log = || guard.log();

    for (mechanism, more) in [("PLAIN", ["--port", "587", "--tls"]), ("LOGIN", ["--port", "465", "--tlsc"])] {
        let arguments = [&login(mechanism, word)[..], &more, &["--to", "someone@elsewhere.example"]].concat();
        let sent = swaks(&world, Host::Client, &arguments);
        assert!(
            sent.status.success(),
            "{name}, {mechanism}: {sent:#?}\n{}\n{}\n{}",
            log(),
            postfix.log(),
            dovecot.log()
        );
    }
    let inside = [&login("PLAIN", word)[..], &["--port", "587", "--tls", "--to", "bob@example.org"]].concat();
    swaks(&world, Host::Client, &inside).ok();
    let message = postfix.expect(1).remove(0);
    assert!(message.contains("(smtp-guard) with ESMTPSA id"), "{message}");
    assert!(
        header(&message, "Received").unwrap().contains(&format!("Authenticated sender: {USER}")),
        "{name}: {message}"
    );

    for (arguments, expected) in [
        (&["--port", "587", "--to", "bob@example.org"][..], "530 5.7.0"),
        (&["--port", "587", "--tls", "--to", "bob@example.org"], "530 5.7.0"),
        (&["--port", "25", "--to", "someone@elsewhere.example"], "554 5.7.1"),
    ] {
        let refused = swaks(&world, Host::Client, arguments);
        assert!(refused.stdout.contains(expected), "{name}: {refused:#?}");
    }
    assert_eq!(guard.metric("smtp_guard_bans_total{reason=\"auth_failures\"}"), 0.0);

    for attempt in 0..4 {
        let wrong =
            [&login("PLAIN", "wrong password")[..], &["--port", "587", "--tls", "--to", "bob@example.org"]].concat();
        let refused = swaks(&world, Host::Attacker, &wrong);
        assert!(refused.stdout.contains("535 5.7.8") || attempt == 3, "{name}: {refused:#?}\n{}", log());
    }
    wait_for("the ban", || (guard.metric("smtp_guard_bans_total{reason=\"auth_failures\"}") == 1.0).then_some(()), log);
    swaks(&world, Host::Client, &inside).ok();
    postfix.expect(2);
    assert!(!log().contains(word) && !log().contains("wrong password"), "no password in the log");
    assert!(!log().contains("czNjcmV0IHBhc3M") && !log().contains("AGFsaWNl"), "nor in base64");
    drop(guard);
}

#[test]
#[ignore = "needs root and BPF"]
fn users_log_in_through_the_backend() {
    check("backend", "xclient");
}

#[test]
#[ignore = "needs root and BPF"]
fn users_log_in_through_dovecot() {
    check("dovecot", "xclient");
}

#[test]
#[ignore = "needs root and BPF"]
fn a_judge_that_is_away_is_no_refusal() {
    let (world, pki) = (World::new(), Pki::new());
    let _postfix = Postfix::start(&world, "");
    let tls = format!("{SUBMISSION}{}", pki.issue("guard", &["mx.example.org"]).guard());
    let changes =
        [("+", tls.as_str()), ("auth.via", "\"dovecot\""), ("auth.dovecot_socket", "\"/nonexistent/socket\"")];
    let guard = Guard::start(&world, &changes);
    let arguments = [&login("PLAIN", "x")[..], &["--port", "587", "--tls", "--to", "bob@example.org"]].concat();
    let refused = swaks(&world, Host::Client, &arguments);
    assert!(refused.stdout.contains("454 4.7.0"), "{refused:#?}");
    assert!(guard.log().contains("dovecot_socket"), "{}", guard.log());
}
