//! A stolen password, against a real Dovecot: the user who sends too much is held, over restarts and SIGKILL, and nobody else.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use smtp_guard_tests::pki::Pki;
use smtp_guard_tests::{Dovecot, Guard, Host, Postfix, Run, World, run};

const ALICE: &str = "alice@example.org";
const BOB: &str = "bob@example.org";
const CAROL: &str = "carol@example.org";

/// `user` logs in at `host` and sends to `recipients`.
fn send(world: &World, host: Host, user: &str, recipients: &str) -> Run {
    let server = if host == Host::Attacker { World::EDGE_FOR_ATTACKER } else { World::EDGE_FOR_CLIENT };
    let fixed = ["--server", server, "--helo", "client.example", "--timeout", "15", "--port", "587", "--tls"];
    let login = ["--auth", "PLAIN", "--auth-user", user, "--auth-password", Dovecot::PASSWORD];
    run(world.on(host, "swaks").args(fixed).args(login).args(["--from", user, "--to", recipients]), "")
}

#[test]
#[ignore = "needs root and BPF"]
fn a_user_over_a_limit_is_held_and_nobody_else() {
    let (world, pki) = (World::new(), Pki::new());
    let dovecot = Dovecot::start(&world, "");
    let _postfix = Postfix::start(&world, "");
    let more = format!(
        "[[listen]]\naddress = \"0.0.0.0:587\"\nrole = \"submission\"\n{}",
        pki.issue("guard", &["mx.example.org"]).guard()
    );
    let socket = format!("\"{}\"", dovecot.auth_socket().display());
    let changes = [
        ("+", more.as_str()),
        ("edge.interfaces", "[]"),
        ("auth.via", "\"dovecot\""),
        ("auth.dovecot_socket", &socket),
        ("limits.user_messages_per_hour", "2"),
        ("limits.user_recipients_per_hour", "4"),
        ("limits.user_networks_per_day", "1"),
    ];
    let mut guard = Guard::configured(&world, &changes);
    guard.run();
    let hears = |guard: &Guard, host, user: &str, recipients: &str, expected: &str| {
        let sent = send(&world, host, user, recipients);
        assert!(sent.stdout.contains(expected), "{user}: no {expected:?} in {sent:#?}\n{}", guard.log());
    };

    // Messages. Recipients that Postfix refuses don't count.
    hears(&guard, Host::Client, "Alice@example.org", "nobody@example.org", "550 5.1.1");
    hears(&guard, Host::Client, ALICE, BOB, "queued as");
    hears(&guard, Host::Client, ALICE, BOB, "450 4.7.1 Too many messages from your account");
    hears(&guard, Host::Client, BOB, ALICE, "queued as");
    let five = [ALICE, BOB, CAROL, ALICE, BOB].join(",");
    hears(&guard, Host::Client, CAROL, &five, "450 4.7.1 Too many recipients from your account");
    hears(&guard, Host::Attacker, BOB, ALICE, "450 4.7.1 Your account is used from too many networks");
    hears(&guard, Host::Client, BOB, ALICE, "450 4.7.1 Your account is used from too many networks");
    let log = guard.log();
    for held in [
        "alice@example.org held: too many messages",
        "carol@example.org held: too many recipients",
        "bob@example.org held: logins",
    ] {
        assert_eq!(log.matches(&format!("\"user {held}")).count(), 1, "{held}: {log}");
    }
    for reason in ["user_message_rate", "user_recipient_rate", "user_networks"] {
        assert_eq!(guard.metric(&format!("smtp_guard_user_holds_total{{reason=\"{reason}\"}}")), 1.0, "{reason}");
        assert!(guard.metric(&format!("smtp_guard_rejections_total{{reason=\"{reason}\"}}")) >= 1.0, "{reason}");
    }
    let list = guard.json(&["accounts", "list"]);
    assert!(list["accounts"].as_array().unwrap().iter().all(|account| account["held"].is_object()), "{list:#}");
    let counts = |guard: &Guard, user: &str| {
        let counts = guard.json(&["explain", user])["counts"].clone();
        counts.as_array().unwrap().iter().map(|count| count["count"].as_u64().unwrap()).collect::<Vec<_>>()
    };
    assert_eq!((counts(&guard, ALICE), counts(&guard, CAROL)), (vec![2, 1, 1], vec![1, 4, 1]));

    // A restart brings the counts back.
    guard.terminate();
    guard.wait_for_end();
    guard.run();
    assert_eq!((counts(&guard, ALICE), counts(&guard, CAROL)), (vec![2, 1, 1], vec![1, 4, 1]));
    hears(&guard, Host::Client, ALICE, BOB, "450 4.7.1 Too many messages");
    assert!(!guard.log().contains("user alice@example.org held"), "told once: {}", guard.log());

    // The operator releases and holds, and SIGKILL costs no hold.
    guard.command(&["accounts", "release", "ALICE@example.org"]).ok();
    hears(&guard, Host::Client, ALICE, BOB, "queued as");
    guard.command(&["accounts", "hold", ALICE, "--reason", "password is on a list"]).ok();
    guard.kill9();
    guard.run();
    hears(&guard, Host::Client, ALICE, BOB, "450 4.7.1 Your account is held");
    let said = guard.command(&["explain", ALICE]).ok();
    assert!(said.contains("alice@example.org is held: password is on a list.\n"), "{said}");
    let tried = guard.command(&["try", "--from", World::CLIENT, "--mail-from", ALICE, "--user", ALICE]).ok();
    assert!(tried.contains("AUTH as alice@example.org") && tried.contains("[user_held]"), "{tried}");
    guard.command(&["accounts", "release", ALICE]).ok();
    hears(&guard, Host::Client, ALICE, BOB, "queued as");
    assert!(!guard.log().contains(Dovecot::PASSWORD), "no password in the log");
}
