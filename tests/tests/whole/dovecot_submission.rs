//! A real Dovecot's submission server as the backend: it judges the logins, and takes no mail without one.
//!
//! Dovecot over its socket, and Postfix as the judge, are in `auth.rs`.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use smtp_guard_tests::clients::{self, Mail};
use smtp_guard_tests::dovecot::Dovecot;
use smtp_guard_tests::pki::Pki;
use smtp_guard_tests::{Guard, Host, Postfix, Run, Server, World, run, wait_for};

const SUBMISSION: &str = "[[listen]]\naddress = \"0.0.0.0:465\"\nrole = \"submissions\"\n\
                          [[listen]]\naddress = \"0.0.0.0:587\"\nrole = \"submission\"\n";
const ALICE: &str = "alice@example.org";

fn swaks(world: &World, arguments: &[&str]) -> Run {
    let fixed = ["--server", World::EDGE_FOR_CLIENT, "--helo", "client.example", "--timeout", "20"];
    run(world.on(Host::Client, "swaks").args(fixed).args(["--from", ALICE, "--to", ALICE]).args(arguments), "")
}

/// Port, swaks' word for its TLS, mechanism, user, password, and whether they get in.
const LOGINS: [(&str, &str, &str, &str, &str, bool); 7] = [
    ("465", "--tls-on-connect", "PLAIN", ALICE, Dovecot::PASSWORD, true),
    ("465", "--tls-on-connect", "LOGIN", ALICE, Dovecot::PASSWORD, true),
    ("587", "--tls", "PLAIN", ALICE, Dovecot::PASSWORD, true),
    ("587", "--tls", "LOGIN", ALICE, Dovecot::PASSWORD, true),
    ("465", "--tls-on-connect", "PLAIN", ALICE, "s3cret", false),
    ("587", "--tls", "LOGIN", ALICE, "s3cret pass ", false),
    ("587", "--tls", "PLAIN", "nobody@example.org", Dovecot::PASSWORD, false),
];

/// Who gets in by the guard, and who doesn't; the mail of those who do goes to `postfix`.
fn check(world: &World, postfix: &Postfix, guard: &Guard) {
    let mut arrived = 0;
    for (port, tls, mechanism, user, password, taken) in LOGINS {
        let login = ["--auth", mechanism, "--auth-user", user, "--auth-password", password];
        let run = swaks(world, &[&["--port", port, tls], &login[..]].concat());
        let what = format!("{port} {mechanism} {user} {password:?}: {run:#?}\n{}", guard.log());
        assert_eq!(run.status.success(), taken, "{what}");
        assert!(run.stdout.contains(if taken { "235 2.7.0" } else { "535 5.7.8" }), "{what}");
        arrived += usize::from(taken);
    }
    let no_login = swaks(world, &["--port", "587", "--tls"]);
    assert!(no_login.stdout.contains("530 5.7.0"), "{no_login:#?}");
    let mail = Mail {
        server: &format!("{}:587", World::EDGE_FOR_CLIENT),
        recipients: &[ALICE],
        message: "Subject: msmtp\nMessage-Id: <msmtp@client.example>\n\ntext\n",
    };
    let password = format!("--passwordeval=echo {}", Dovecot::PASSWORD);
    let user = format!("--user={ALICE}");
    clients::msmtp(world, &mail, &["--tls=on", "--tls-certcheck=off", "--auth=plain", &user, &password]);
    postfix.expect(arrived + 1);
}

#[test]
#[ignore = "needs root and BPF"]
fn users_log_in_at_dovecot_behind_the_guard() {
    for identity in ["none", "xclient"] {
        let (world, pki) = (World::new(), Pki::new());
        let postfix = Postfix::start(&world, "");
        let pair = pki.issue("backend", &[World::BACKEND]);
        let (certificate, key) = (pair.certificate.display(), pair.key.display());
        let trusted = "login_trusted_networks = 10.77.3.1\nauth_verbose = yes";
        let dovecot =
            Dovecot::start(&world, &format!("ssl = required\nssl_cert = <{certificate}\nssl_key = <{key}\n{trusted}"));
        let servers = format!("[\"{}:{}\"]", World::BACKEND, Dovecot::SUBMISSION_PORT);
        let (ca, identity_word) = (format!("\"{}\"", pki.ca().display()), format!("\"{identity}\""));
        let more = format!("{SUBMISSION}{}", pki.issue("guard", &["mx.example.org"]).guard());
        let settings = [
            ("+", more.as_str()),
            ("auth.via", "\"backend\""),
            ("auth.failures", "1000"),
            ("backend.servers", servers.as_str()),
            ("backend.profile", "\"generic\""),
            ("backend.tls", "\"verified\""),
            ("backend.tls_ca", &ca),
            ("backend.identity", &identity_word),
        ];
        let guard = Guard::start(&world, &settings);
        check(&world, &postfix, &guard);
        let noted = format!("rip={}", if identity == "none" { "10.77.3.1" } else { World::CLIENT });
        wait_for(&noted, || dovecot.log().contains(&noted).then_some(()), || dovecot.log());
        println!("interop submission backend, STARTTLS, identity {identity}: {} ok", dovecot.version());
    }
}
