//! fail2ban's own filters, from the Debian package, over our log: what its users have set up already finds our refusals.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may panic")]

use std::fs;
use std::process::Command;

use smtp_guard::observe::drops::words;
use smtp_guard_ebpf::reason::Reason;
use smtp_guard_tests::process::wait_for;
use smtp_guard_tests::room::unpacked;
use smtp_guard_tests::sink::Sink;
use smtp_guard_tests::{Guard, Host, Named, World, guard::netkit, run};

/// What makes the guard refuse, each for a reason of its own: relay, unknown recipient, block list, no reverse name, no
/// sender domain.
const DIALOGUES: [(&[(&str, &str)], &str); 5] = [
    (&[], "MAIL FROM:<a@good.example>\nRCPT TO:<x@elsewhere.example>"),
    (&[("recipients.known", "KNOWN")], "MAIL FROM:<a@good.example>\nRCPT TO:<no@example.org>"),
    (&[("+", "[[dnsbl]]\nzone = \"bl.example\"")], "MAIL FROM:<a@good.example>\nRCPT TO:<a@example.org>"),
    (&[("checks.ptr", "\"enforce\"")], "MAIL FROM:<a@good.example>\nRCPT TO:<a@example.org>"),
    (&[("checks.sender_domain", "\"enforce\"")], "MAIL FROM:<a@gone.example>\nRCPT TO:<a@example.org>"),
];

/// The lines of one refusal for each reason, as `format` writes them; which of them are refusals, `is` says.
fn logged(format: &str, is: fn(&str) -> bool) -> String {
    let world = World::new();
    let _sink = Sink::start(&world, 25, &[]);
    let _named = Named::start(&world, "good.example. MX 10 mail.good.example.\n2.1.77.10.bl.example. A 127.0.0.2\n");
    let folder = tempfile::tempdir().unwrap();
    let known = folder.path().join("known");
    fs::write(&known, "a@example.org\n").unwrap();
    let (known, server) = (format!("\"{}\"", known.display()), format!("[\"{}\"]", World::BACKEND));
    let format = format!("\"{format}\"");
    let mut log = String::new();
    for (changes, dialogue) in DIALOGUES {
        let mut config = vec![("edge.interfaces", "[]"), ("dns.servers", &server), ("log.format", &format)];
        config.extend(changes.iter().map(|(key, value)| (*key, if *value == "KNOWN" { &known } else { *value })));
        let mut guard = Guard::configured(&world, &config);
        guard.run();
        let server = format!("{}:25", World::EDGE_FOR_ATTACKER);
        let lines = format!("EHLO client.example\n{dialogue}\nQUIT");
        run(world.on(Host::Attacker, &netkit()).args(["dialogue", &server]), &lines).ok();
        // Lines are written beside the sessions.
        let refusal = || Some(guard.log()).filter(|log| log.lines().any(is));
        log += &wait_for("the refusal in the log", refusal, || guard.log());
    }
    log
}

/// Lines about dropped packets, for every reason: who stands in them is blocked already, and no filter may count them again.
fn dropped() -> String {
    let mut log = String::new();
    for ip in ["192.0.2.1", "2001:db8::1"] {
        for reason in Reason::ALL {
            let (words, label) = (words(ip.parse().unwrap(), 25, *reason), reason.label());
            log += &format!(
                "2026-11-25T00:36:15.123Z smtp-guard[4711]: {words} source={ip} ip={ip} port=25 reason={label} packets=3\n"
            );
        }
    }
    log
}

/// Whether `filter` matches the lines that `is` such, all of them and no others.
fn check(log: &str, is: impl Fn(&str) -> bool, filter: &str) {
    let fail2ban = unpacked("fail2ban", "usr");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("log");
    fs::write(&file, log).unwrap();
    let mut regex = Command::new("python3");
    regex.env("PYTHONPATH", fail2ban.join("lib/python3/dist-packages")).arg(fail2ban.join("bin/fail2ban-regex"));
    regex.arg("--config").arg(unpacked("fail2ban", "etc/fail2ban")).arg(&file).arg(filter);
    let said = run(&mut regex, "").ok();
    let lines = log.lines().filter(|line| is(line)).count();
    assert_eq!(lines, DIALOGUES.len(), "{log}");
    assert!(said.contains(&format!(" {lines} matched,")), "{filter}: {said}\n{log}");
}

#[test]
#[ignore = "needs root and BPF"]
fn filters_of_kerio_match_the_kerio_format() {
    // The others, in the words of Postfix, begin with another date.
    let is = |line: &str| line.starts_with('[');
    check(&(logged("kerio", is) + &dropped()), is, "kerio");
}

#[test]
#[ignore = "needs root and BPF"]
fn filters_of_postfix_match_the_text_format() {
    let is = |line: &str| line.contains("NOQUEUE: reject:");
    check(&(logged("text", is) + &dropped()), is, "postfix");
}
