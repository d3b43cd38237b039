//! TLS with real clients and a real Postfix: what is encrypted, what is verified, and what happens when it can't be.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may panic")]

use std::fs;

use smtp_guard_tests::pki::{Pair, Pki};
use smtp_guard_tests::postfix::header;
use smtp_guard_tests::{Guard, Host, Postfix, Run, World, run, two_at_a_time, wait_for};

const SUBMISSIONS: &str = "[[listen]]\naddress = \"0.0.0.0:465\"\nrole = \"submissions\"\n";

fn swaks(world: &World, arguments: &[&str]) -> Run {
    let fixed = ["--server", World::EDGE_FOR_CLIENT, "--helo", "client.example", "--timeout", "10"];
    let envelope = ["--from", "a@client.example", "--to", "alice@example.org"];
    run(world.on(Host::Client, "swaks").args(fixed).args(envelope).args(arguments), "")
}

/// `config` for a guard with the certificate of `pair`.
fn with<'a>(pair: &'a str, more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    [&[("+", pair)], more].concat()
}

/// What the guard shows on port 25 now: the certificate's fingerprint.
fn shown(world: &World) -> String {
    let server = format!("{}:25", World::EDGE_FOR_CLIENT);
    let arguments = ["s_client", "-starttls", "smtp", "-connect", &server];
    let certificate = run(world.on(Host::Client, "openssl").args(arguments), "QUIT\r\n").stdout;
    run(std::process::Command::new("openssl").args(["x509", "-noout", "-fingerprint"]), &certificate).ok()
}

fn fingerprint(pair: &Pair) -> String {
    let mut command = std::process::Command::new("openssl");
    run(command.args(["x509", "-noout", "-fingerprint", "-in"]).arg(&pair.certificate), "").ok()
}

#[test]
#[ignore = "needs root and BPF"]
fn clients_are_served_under_tls_and_the_certificate_is_read_again() {
    let (world, pki) = (World::new(), Pki::new());
    let postfix = Postfix::start(&world, "");
    let pair = pki.issue("guard", &["mx.example.org"]);
    let tls = format!("{SUBMISSIONS}{}\n[auth]\nvia = \"dovecot\"", pair.guard());
    let guard = Guard::start(&world, &with(&tls, &[]));

    swaks(&world, &["--tls"]).ok();
    let message = postfix.expect(1).remove(0);
    assert!(message.contains("(using TLSv1.3 with cipher TLS13_"), "{message}");
    assert!(header(&message, "Received").is_some());
    assert!(message.contains("by mx.example.org (smtp-guard) with ESMTPS id"), "{message}");
    swaks(&world, &["--tls", "--tls-protocol", "tlsv1_2"]).ok();
    postfix.expect(2);
    let old = swaks(&world, &["--tls", "--tls-protocol", "tlsv1_1"]);
    assert!(!old.status.success(), "TLS 1.1 is not spoken: {old:#?}");
    let implicit = swaks(&world, &["--port", "465", "--tlsc", "--quit-after", "EHLO"]);
    assert!(implicit.ok().contains("AUTH PLAIN LOGIN"));

    assert_eq!(shown(&world), fingerprint(&pair));
    let renewed = pki.issue("guard", &["mx.example.org", "mail.example.org"]);
    let log = || guard.log();
    wait_for("the new certificate", || (shown(&world) == fingerprint(&renewed)).then_some(()), log);
    fs::write(&renewed.key, "no key").unwrap();
    wait_for("the complaint", || guard.log().contains("the old one stays").then_some(()), log);
    assert_eq!(shown(&world), fingerprint(&renewed), "a broken pair changes nothing");
    swaks(&world, &["--tls"]).ok();
    postfix.expect(3);
}

/// One message past a backend that offers TLS as `postfix` says, with the guard's `backend` settings; whether it arrives,
/// and whether it was encrypted then.
fn check(name: &str, postfix: &str, backend: &[(&str, &str)], expected: Option<bool>) {
    let world = World::new();
    let postfix = Postfix::start(&world, postfix);
    let mut guard = Guard::configured(&world, backend);
    guard.command(&["edge", "load"]).ok();
    match expected {
        None => {
            guard.run_without_backend();
            let refused = swaks(&world, &[]);
            assert!(refused.stdout.contains("451 4.4.1"), "{name}: {refused:#?}\n{}", guard.log());
            assert_eq!(postfix.messages().len(), 0, "{name}");
        }
        Some(encrypted) => {
            guard.run();
            swaks(&world, &[]).ok();
            let message = postfix.expect(1).remove(0);
            let found = header(&message, "Received").unwrap();
            assert_eq!(found.contains("using TLSv1.3"), encrypted, "{name}: {found}");
        }
    }
}

#[test]
#[ignore = "needs root and BPF"]
fn tls_towards_the_backend_is_what_was_asked_for() {
    let (pki, other) = (Pki::new(), Pki::new());
    let by_address = pki.issue("address", &[World::BACKEND]).postfix();
    let by_name = pki.issue("name", &["backend.example.org"]).postfix();
    let [ca, wrong] = [&pki, &other].map(|pki| format!("\"{}\"", pki.ca().display()));
    let verified = |ca: &str, name: &str| {
        [
            ("backend.tls", "\"verified\"".to_owned()),
            ("backend.tls_ca", ca.to_owned()),
            ("backend.tls_name", format!("\"{name}\"")),
        ]
    };
    let tls = |word: &str| vec![("backend.tls", format!("\"{word}\""))];
    let table = [
        ("off", &by_name, tls("off"), Some(false)),
        ("opportunistic", &by_name, tls("opportunistic"), Some(true)),
        ("opportunistic, not offered", &String::new(), tls("opportunistic"), Some(false)),
        ("required", &by_name, tls("required"), Some(true)),
        ("required, not offered", &String::new(), tls("required"), None),
        ("verified by name", &by_name, verified(&ca, "backend.example.org").into(), Some(true)),
        ("verified by address", &by_address, verified(&ca, "").into(), Some(true)),
        ("another name", &by_name, verified(&ca, "other.example.org").into(), None),
        ("another authority", &by_name, verified(&wrong, "backend.example.org").into(), None),
        ("nobody's authority", &by_name, tls("verified"), None),
    ];
    two_at_a_time(&table, |(name, postfix, backend, expected)| {
        let backend: Vec<_> = backend.iter().map(|(key, value)| (*key, value.as_str())).collect();
        check(name, postfix, &backend, *expected);
    });
}

/// testssl.sh's verdict on port 25, of what `sections` look at. What it says of the certificate's authority is not the guard's.
fn check_testssl(sections: &[&str], talked: &str) {
    let (world, pki) = (World::new(), Pki::new());
    let _postfix = Postfix::start(&world, "");
    let pair = pki.issue("guard", &["mx.example.org"]).guard();
    let _guard = Guard::start(
        &world,
        &with(
            &pair,
            &[("limits.connections", "1000"), ("edge.connections", "2000"), ("limits.total_connections", "2000")],
        ),
    );
    let folder = tempfile::tempdir().unwrap();
    let report = folder.path().join("report.json");
    let server = format!("{}:25", World::EDGE_FOR_CLIENT);
    let mut command = world.on(Host::Client, "testssl");
    command.args([
        "--starttls",
        "smtp",
        "--quiet",
        "--color",
        "0",
        "--warnings",
        "batch",
        "--nodns",
        "none",
        "--sneaky",
    ]);
    command.args(sections).args(["--severity", "MEDIUM", "--jsonfile"]).arg(&report).arg(server);
    let run = smtp_guard_tests::process::run_for(&mut command, "", std::time::Duration::from_secs(400));
    let text = fs::read_to_string(&report).unwrap_or_else(|error| panic!("{error}: {run:#?}"));
    let findings: Vec<serde_json::Value> =
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
    let authority = ["cert_chain_of_trust", "cert_trust", "cert_revocation", "DNS_CAArecord", "cert_validityPeriod"];
    for finding in &findings {
        println!("testssl: {} {} {}", finding["id"], finding["severity"], finding["finding"]);
    }
    let worse = findings.iter().filter(|finding| matches!(finding["severity"].as_str(), Some("HIGH" | "CRITICAL")));
    let ours: Vec<_> =
        worse.filter(|f| !authority.iter().any(|id| f["id"].as_str().unwrap().starts_with(id))).collect();
    assert!(ours.is_empty(), "{ours:#?}");
    assert!(run.stdout.contains(talked), "it has talked to the guard: {run:#?}");
}

/// Protocols, ciphers, forward secrecy and server defaults; no simulation of browsers.
#[test]
#[ignore = "needs root and BPF"]
fn testssl_finds_nothing_worse_than_medium() {
    check_testssl(&["-p", "-s", "-f", "-S"], "TLS 1.3");
}

/// In a test of its own: it takes as long as all the others.
#[test]
#[ignore = "needs root and BPF"]
fn testssl_finds_no_vulnerability_worse_than_medium() {
    check_testssl(&["-U"], "Heartbleed");
}
