//! Checks that take time or a past: a DNS server that is dead, a history of accepted mail, a restart; and what the operator is told.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may panic")]

use std::time::Duration;

use smtp_guard_tests::sink::Sink;
use smtp_guard_tests::{Guard, Host, Named, World, guard::netkit, run, wait_for};

const ZONE: &str = "good.example. MX 10 mail.good.example.\nmail.good.example. A 10.77.2.2\n\
                    2.2.77.10.in-addr.arpa. PTR mail.good.example.\n2.2.77.10.bl.example. A 127.0.0.2\n\
                    2.2.77.10.k3y45678901234567890123456.bl.example. A 127.0.0.2\n";

fn dialogue(world: &World, lines: &[&str]) -> String {
    let server = format!("{}:25", World::EDGE_FOR_CLIENT);
    run(world.on(Host::Client, &netkit()).args(["dialogue", &server]), &lines.join("\n")).ok()
}

/// A message to alice.
const MESSAGE: [&str; 7] = [
    "EHLO client.example",
    "MAIL FROM:<a@good.example>",
    "RCPT TO:<alice@example.org>",
    "DATA",
    "Subject: x\\r\\n\\r\\ntext\\r\\n.",
    "NOOP",
    "QUIT",
];

fn unknown(from: usize, count: usize) -> Vec<String> {
    let envelope = ["EHLO client.example", "MAIL FROM:<a@good.example>"].map(str::to_owned);
    envelope.into_iter().chain((from..from + count).map(|n| format!("RCPT TO:<no{n}@example.org>"))).collect()
}

fn ask_unknown(world: &World, from: usize, count: usize) -> String {
    let lines = unknown(from, count);
    dialogue(world, &lines.iter().map(String::as_str).collect::<Vec<_>>())
}

/// A guard that knows alice and nobody else.
fn guard<'w>(world: &'w World, folder: &tempfile::TempDir, changes: &[(&str, &str)]) -> Guard<'w> {
    let known = folder.path().join("known");
    std::fs::write(&known, "alice@example.org\n").unwrap();
    let (known, server) = (format!("\"{}\"", known.display()), format!("[\"{}\"]", World::BACKEND));
    let mut config = vec![
        ("edge.interfaces", "[]"),
        ("dns.servers", &server),
        ("recipients.known", &known),
        ("harvest.delay", "\"0s\""),
    ];
    config.extend(changes);
    let mut guard = Guard::configured(world, &config);
    guard.run();
    guard
}

#[test]
#[ignore = "needs root and BPF"]
fn a_dead_dns_server_defers_and_never_stops_the_guard() {
    let (world, folder) = (World::new(), tempfile::tempdir().unwrap());
    let sink = Sink::start(&world, 25, &[]);
    let named = Named::start(&world, ZONE);
    let checks = [("checks.sender_domain", "\"enforce\""), ("checks.ptr", "\"enforce\""), ("dns.timeout", "\"2s\"")];
    let guard = guard(&world, &folder, &checks);
    assert!(dialogue(&world, &MESSAGE).contains("354"));
    named.freeze();
    // Ten at once find out that it is silent; of the next ten one tries, and the others hear so at once.
    for wave in 0..2 {
        let client = |n: usize| {
            let sender = format!("MAIL FROM:<a@d{n}.example>");
            let said = dialogue(&world, &["EHLO client.example", &sender, "RCPT TO:<alice@example.org>", "QUIT"]);
            assert!(said.starts_with("220 "), "it goes on to accept connections: {said}");
            assert!(said.contains("450 4.4.3 ") && said.contains("221 "), "{said}");
            assert!(!said.contains("reverse"), "a time-out is never no reverse name: {said}");
        };
        std::thread::scope(|scope| {
            let clients: Vec<_> = (0..10).map(|n| scope.spawn(move || client(wave * 10 + n))).collect();
            clients.into_iter().for_each(|client| client.join().unwrap());
        });
    }
    // Known already: the server isn't needed.
    assert!(dialogue(&world, &MESSAGE).contains("354"));
    let count =
        |result: &str| guard.metric(&format!("smtp_guard_dns_lookups_total{{kind=\"mx\",result=\"{result}\"}}"));
    assert!(count("timed_out") <= 12.0, "the silence was not noticed: {}", guard.metrics());
    assert!(count("servers_silent") >= 8.0, "{}", guard.metrics());
    let told = |log: &str| log.lines().filter(|line| line.contains("DNS does not answer")).count();
    assert_eq!(told(&guard.log()), 1, "once a minute: {}", guard.log());
    assert!(guard.command(&["status"]).ok().contains("does not answer"));
    assert_eq!(guard.metric("smtp_guard_dns_up"), 0.0);
    named.thaw();
    let back = || dialogue(&world, &["EHLO x", "MAIL FROM:<a@gone.example>", "RCPT TO:<alice@example.org>"]);
    wait_for("answers again", || back().contains("450 4.1.8").then_some(()), || guard.metrics());
    assert_eq!(sink.messages(), 2);
    assert_eq!(guard.metric("smtp_guard_bans_active"), 0.0);
}

#[test]
#[ignore = "needs root and BPF"]
fn who_has_a_history_is_deferred_where_others_are_banned() {
    let (world, folder) = (World::new(), tempfile::tempdir().unwrap());
    let _sink = Sink::start(&world, 25, &[]);
    let _named = Named::start(&world, ZONE);
    let guard = guard(&world, &folder, &[("harvest.window", "\"3s\"")]);
    for _ in 0..10 {
        assert!(dialogue(&world, &MESSAGE).contains("354"));
    }
    let explained = || guard.json(&["explain", World::CLIENT]);
    wait_for(
        "a history",
        || explained()["ledger"]["trusted"].as_bool().unwrap_or(false).then_some(()),
        || format!("{:#}", explained()),
    );
    let said = ask_unknown(&world, 0, 30);
    assert!(said.matches("550 5.1.1").count() >= 10, "{said}");
    let deferred = || (!explained()["deferred_until"].is_null()).then_some(());
    wait_for("a deferral", deferred, || format!("{:#}", explained()));
    let said = dialogue(&world, &MESSAGE);
    assert!(said.contains("450 4.7.1 Too many unknown recipients") && !said.contains("354"), "{said}");
    assert_eq!(guard.metric("smtp_guard_bans_active"), 0.0);
    assert_eq!(guard.metric("smtp_guard_deferrals_total{reason=\"harvest\"}"), 1.0);
    assert!(guard.log().contains("deferred mail from 10.77.2.2 for"), "{}", guard.log());
    // The operator can see why, and end it.
    let [listed, deferral] =
        [guard.json(&["decisions", "list"])["decisions"][0].clone(), explained()["deferral"].clone()];
    assert_eq!(listed, deferral);
    assert_eq!(deferral["reason"], "deferred");
    assert!(deferral["evidence"][1].as_str().unwrap().contains("messages accepted before"), "{deferral:#}");
    let said = guard.command(&["explain", World::CLIENT]).ok();
    assert!(said.starts_with("10.77.2.2 is deferred, not banned: recipients hear 450 until "), "{said}");
    guard.command(&["decisions", "delete", World::CLIENT]).ok();
    assert!(dialogue(&world, &MESSAGE).contains("354"));
    // What was accepted still counts for it.
    assert_eq!(explained()["ledger"]["trusted"], true);
    ask_unknown(&world, 100, 30);
    wait_for("another deferral", deferred, || format!("{:#}", explained()));
    assert_eq!(guard.metric("smtp_guard_bans_active"), 0.0);
}

#[test]
#[ignore = "needs root and BPF"]
fn what_is_counted_survives_a_restart() {
    let (world, folder) = (World::new(), tempfile::tempdir().unwrap());
    let _sink = Sink::start(&world, 25, &[]);
    let mut guard = guard(&world, &folder, &[("limits.messages_per_hour", "4")]);
    assert!(dialogue(&world, &MESSAGE).contains("354"));
    ask_unknown(&world, 0, 6);
    let counted = |guard: &Guard<'_>| guard.json(&["explain", World::CLIENT])["ledger"]["unknown_recipients"].as_u64();
    wait_for("six unknown ones", || (counted(&guard) == Some(6)).then_some(()), || guard.log());
    guard.terminate();
    guard.wait_for_end();
    guard.run();
    let explained = guard.json(&["explain", World::CLIENT]);
    assert_eq!(explained["ledger"]["unknown_recipients"], 6, "{explained:#}");
    assert_eq!(explained["ledger"]["accepted"], 1, "{explained:#}");
    assert_eq!(explained["familiar"], true, "{explained:#}");
    assert_eq!(explained["counts"][0]["count"], 2, "{explained:#}");
    let said = ask_unknown(&world, 6, 20);
    assert!(said.contains("421 4.7.0"), "the tenth in all: {said}");
    assert_eq!(guard.json(&["explain", World::CLIENT])["decision"]["reason"], "harvest");
    // Even when it is killed: what was handed to the disk before is there.
    guard.command(&["decisions", "delete", World::CLIENT]).ok();
    ask_unknown(&world, 0, 3);
    let state = || guard.command(&["explain", World::CLIENT]).stdout;
    wait_for("three unknown ones", || (counted(&guard) == Some(3)).then_some(()), state);
    std::thread::sleep(Duration::from_secs(12));
    guard.kill9();
    guard.run();
    assert_eq!(counted(&guard), Some(3));
}

#[test]
#[ignore = "needs root and BPF"]
fn the_operator_is_told_what_would_happen() {
    let (world, folder) = (World::new(), tempfile::tempdir().unwrap());
    let _sink = Sink::start(&world, 25, &[]);
    let _named = Named::start(&world, ZONE);
    let checks = [
        ("checks.sender_domain", "\"enforce\""),
        ("checks.ptr_forward", "\"observe\""),
        ("checks.greeting_delay", "\"6s\""),
        ("checks.dnsbl_threshold", "3"),
        ("+", "[[dnsbl]]\nzone = \"bl.example\"\nweight = 1"),
    ];
    let guard = guard(&world, &folder, &checks);
    let attempt = |ip: &str, sender: &str, recipient: &str| {
        let words = ["try", "--from", ip, "--mail-from", sender, "--rcpt-to", recipient];
        (guard.command(&words).ok(), guard.json(&words))
    };
    let (text, json) = attempt(World::CLIENT, "a@good.example", "alice@example.org");
    for line in [
        "  limits.connections: 0 of 20",
        "  checks.ptr_forward: observe",
        "  DNS: reverse DNS entry: mail.good.example, which points back",
        "  DNS: bl.example lists it: 127.0.0.2, weight 1",
        "  DNS: the sender's domain exists",
        "< 220 mx.example.org ESMTP (after 6 s)",
        "> RCPT TO:<alice@example.org>\n< the mail server's own reply",
    ] {
        assert!(text.contains(line), "no {line:?} in\n{text}");
    }
    assert_eq!(json["steps"][3]["passed_on"], true, "{json:#}");
    let (text, _) = attempt("192.0.2.77", "a@gone.example", "no@example.org");
    assert!(text.contains("because: sender domain does not exist [sender_domain]\n< 450 4.1.8"), "{text}");
    let (text, _) = attempt("192.0.2.77", "", "no@example.org");
    assert!(text.contains("because: unknown recipient [unknown_recipient]\n< 550 5.1.1"), "{text}");
    let (text, _) = attempt("192.0.2.77", "", "x@elsewhere.example");
    assert!(text.contains("because: relaying denied [relay]\n< 554 5.7.1"), "{text}");
    guard.command(&["decisions", "add", "192.0.2.77", "--for", "1h", "--reason", "a test"]).ok();
    let (text, _) = attempt("192.0.2.77", "a@good.example", "alice@example.org");
    assert!(text.contains("> connects\n  because: blocked by the administrator [operator]\n< 421 4.7.0"), "{text}");
    // Nothing of it was counted.
    assert!(guard.command(&["explain", "192.0.2.78"]).ok().contains("The guard has counted nothing of this source."));
    assert_eq!(guard.metric("smtp_guard_connections_total"), 0.0);
    assert_eq!(guard.metric("smtp_guard_rejections_total{reason=\"relay\"}"), 0.0);
}

#[test]
#[ignore = "needs root and BPF"]
fn c7_a_mail_alone_asks_nothing_and_a8_a_key_is_shown_nowhere() {
    let (world, folder) = (World::new(), tempfile::tempdir().unwrap());
    let _sink = Sink::start(&world, 25, &[]);
    let _named = Named::start(&world, ZONE);
    let key = "k3y45678901234567890123456";
    let list = format!("[[dnsbl]]\nzone = \"{key}.bl.example\"\nname = \"zen\"");
    let guard = guard(&world, &folder, &[("checks.sender_domain", "\"enforce\""), ("+", &list)]);
    // Fifty domains of strangers, and nobody asks for one of them.
    let mut lines = vec!["EHLO client.example".to_owned()];
    for n in 0..50 {
        lines.extend([format!("MAIL FROM:<a@n{n}.example>"), "RSET".to_owned()]);
    }
    lines.push("QUIT".to_owned());
    let said = dialogue(&world, &lines.iter().map(String::as_str).collect::<Vec<_>>());
    assert!(said.matches("250 ").count() >= 101, "{said}");
    let asked = |guard: &Guard<'_>| {
        let metrics = guard.metrics();
        let of_mx = metrics.lines().filter(|line| line.starts_with("smtp_guard_dns_lookups_total{kind=\"mx\""));
        of_mx.map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum::<u64>()
    };
    assert_eq!(asked(&guard), 0, "{}", guard.metrics());
    // One recipient asks once, and hears of the list by its name.
    let said = dialogue(&world, &MESSAGE[..3]);
    assert!(said.contains("554 5.7.1 ") && said.contains("blocked using zen"), "{said}");
    assert_eq!(asked(&guard), 1, "{}", guard.metrics());
    let attempt = ["try", "--from", World::CLIENT, "--mail-from", "a@good.example", "--rcpt-to", "alice@example.org"];
    let tried = guard.command(&attempt).ok();
    assert!(tried.contains("zen lists it: 127.0.0.2"), "{tried}");
    let [explained, status] = [&["explain", World::CLIENT][..], &["status"]].map(|words| guard.command(words).ok());
    for (what, text) in [
        ("reply", said),
        ("try", tried),
        ("explain", explained),
        ("status", status),
        ("log", guard.log()),
        ("metrics", guard.metrics()),
    ] {
        assert!(!text.contains(key), "{what}: {text}");
    }
}
