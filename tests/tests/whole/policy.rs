//! Every policy as a row: configuration, dialogue, the reply, the metric and the line in the log. And every row once more
//! for an exempt client, whom none of them may touch.
//!
//! Failed logins need TLS and have their test in `auth.rs`; deferrals need a history, in `smtp-guard/tests/session/`.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may panic")]

use smtp_guard_tests::held::Held;
use smtp_guard_tests::sink::Sink;
use smtp_guard_tests::{Guard, Host, Named, World, guard::netkit, run};

/// The attacker is in the list and has a name that doesn't lead back; the client has none.
const ZONE: &str = "
good.example. MX 10 mail.good.example.
null.example. MX 0 .
mail.good.example. A 192.0.2.1
2.1.77.10.in-addr.arpa. PTR mail.good.example.
2.1.77.10.bl.example. A 127.0.0.2
";

struct Row {
    name: &'static str,
    config: &'static [(&'static str, &'static str)],
    /// Connections that are made before, and whether they are held.
    before: (u32, bool),
    /// The first line is sent ahead of the greeting.
    early: bool,
    /// Lines; `*n` repeats the line before it, with `#` as a number.
    dialogue: &'static [&'static str],
    reply: &'static str,
    metric: &'static str,
    log: &'static str,
    /// It is no limit, check, delay or ban, and an exempt client hears it as well.
    for_all: bool,
}

const ROW: Row = Row {
    name: "",
    config: &[],
    before: (0, false),
    early: false,
    dialogue: &[],
    reply: "",
    metric: "",
    log: "",
    for_all: false,
};

const HELLO: &str = "EHLO client.example";
const MAIL: &str = "MAIL FROM:<a@good.example>";
const RCPT: &str = "RCPT TO:<alice@example.org>";
const KNOWN: (&str, &str) = ("recipients.known", "KNOWN");

const ROWS: &[Row] = &[
    Row {
        name: "relay",
        dialogue: &[HELLO, MAIL, "RCPT TO:<x@elsewhere.example>"],
        reply: "554 5.7.1",
        metric: "rejections_total{reason=\"relay\"}",
        log: "\"reason\":\"relay\"",
        ..ROW
    },
    Row {
        name: "relay by percent hack",
        dialogue: &[HELLO, MAIL, "RCPT TO:<x%elsewhere.example@example.org>"],
        reply: "554 5.7.1",
        metric: "rejections_total{reason=\"relay\"}",
        log: "\"reason\":\"relay\"",
        ..ROW
    },
    Row {
        name: "connections at once",
        config: &[("limits.connections", "2")],
        before: (2, true),
        reply: "421 4.7.0",
        metric: "rejections_total{reason=\"connections\"}",
        log: "rejected: too many connections\"",
        ..ROW
    },
    Row {
        name: "connections in a minute",
        config: &[("limits.connections_per_minute", "2")],
        before: (2, false),
        reply: "421 4.7.0",
        metric: "rejections_total{reason=\"connection_rate\"}",
        log: "rejected: too many connections in a minute\"",
        ..ROW
    },
    Row {
        name: "messages in an hour",
        config: &[("limits.messages_per_hour", "2")],
        dialogue: &[HELLO, "MAIL FROM:<>", "RSET", "MAIL FROM:<>", "RSET", "MAIL FROM:<>"],
        reply: "450 4.7.1",
        metric: "rejections_total{reason=\"message_rate\"}",
        log: "\"reason\":\"message_rate\"",
        ..ROW
    },
    Row {
        name: "an unknown recipient",
        config: &[KNOWN],
        dialogue: &[HELLO, MAIL, "RCPT TO:<nobody@example.org>"],
        reply: "550 5.1.1",
        metric: "rejections_total{reason=\"unknown_recipient\"}",
        log: "\"recipient\":\"<nobody@example.org>\"",
        // There is no such mailbox, whoever asks.
        for_all: true,
        ..ROW
    },
    Row {
        name: "a harvest",
        config: &[KNOWN, ("harvest.delay", "\"1s\"")],
        dialogue: &[HELLO, MAIL, "RCPT TO:<no#@example.org>", "*10", RCPT],
        reply: "421 4.7.0",
        metric: "bans_total{reason=\"harvest\"}",
        log: ": directory harvest attack (",
        ..ROW
    },
    Row {
        name: "a trap",
        config: &[KNOWN, ("recipients.traps", "[\"trap@example.org\"]"), ("harvest.delay", "\"1s\"")],
        dialogue: &[HELLO, MAIL, "RCPT TO:<Trap@Example.org>", RCPT],
        reply: "421 4.7.0",
        metric: "bans_total{reason=\"trap\"}",
        log: ": harvest of a trap address (",
        ..ROW
    },
    Row {
        name: "failed commands",
        config: &[("limits.failed_commands", "3")],
        dialogue: &[HELLO, "BOGUS", "*2", "BOGUS"],
        reply: "421 4.7.0",
        metric: "rejections_total{reason=\"failed_commands\"}",
        log: "ended: too many failed commands\"",
        ..ROW
    },
    Row {
        name: "junk commands",
        dialogue: &[HELLO, "NOOP", "*100", "NOOP"],
        reply: "421 4.7.0",
        metric: "rejections_total{reason=\"junk_commands\"}",
        log: "ended: too many junk commands\"",
        ..ROW
    },
    Row {
        name: "a size that is declared",
        config: &[("limits.message_size", "\"1KiB\"")],
        dialogue: &[HELLO, "MAIL FROM:<a@good.example> SIZE=1025"],
        reply: "552 5.3.4",
        metric: "rejections_total{reason=\"message_size\"}",
        log: "\"reason\":\"message_size\"",
        ..ROW
    },
    Row {
        name: "a size that isn't",
        config: &[("limits.message_size", "\"1KiB\"")],
        dialogue: &[HELLO, MAIL, RCPT, "DATA", "=1200\\r\\n."],
        reply: "552 5.3.4",
        metric: "rejections_total{reason=\"message_size\"}",
        log: "\"reason\":\"message_size\"",
        ..ROW
    },
    Row {
        name: "recipients of a message",
        config: &[("limits.recipients", "2")],
        dialogue: &[HELLO, MAIL, RCPT, "*2", RCPT],
        reply: "452 4.5.3",
        metric: "rejections_total{reason=\"recipients\"}",
        log: "\"reason\":\"recipients\"",
        ..ROW
    },
    Row {
        name: "no such sender domain",
        config: &[("checks.sender_domain", "\"enforce\"")],
        dialogue: &[HELLO, "MAIL FROM:<a@gone.example>", RCPT],
        reply: "450 4.1.8",
        metric: "rejections_total{reason=\"sender_domain\"}",
        log: "\"reason\":\"sender_domain\"",
        ..ROW
    },
    Row {
        name: "no such sender domain, observed",
        config: &[("checks.sender_domain", "\"observe\"")],
        dialogue: &[HELLO, "MAIL FROM:<a@gone.example>", RCPT],
        metric: "observed_total{reason=\"sender_domain\"}",
        log: "\"reply\":\"450 4.1.8",
        ..ROW
    },
    Row {
        name: "a sender domain with null MX",
        config: &[("checks.sender_domain", "\"enforce\"")],
        dialogue: &[HELLO, "MAIL FROM:<a@null.example>", RCPT],
        reply: "550 5.7.27",
        metric: "rejections_total{reason=\"null_mx\"}",
        log: "\"reason\":\"null_mx\"",
        ..ROW
    },
    Row {
        name: "a sender domain that can't be looked up",
        config: &[("checks.sender_domain", "\"enforce\"")],
        dialogue: &[HELLO, "MAIL FROM:<a@x.dead>", RCPT],
        reply: "450 4.4.3",
        metric: "rejections_total{reason=\"sender_lookup\"}",
        log: "\"reason\":\"sender_lookup\"",
        ..ROW
    },
    Row {
        name: "a reverse name that doesn't lead back",
        config: &[("checks.ptr_forward", "\"enforce\"")],
        dialogue: &[HELLO, MAIL, RCPT],
        reply: "450 4.7.25",
        metric: "rejections_total{reason=\"ptr_forward\"}",
        log: "\"reason\":\"ptr_forward\"",
        ..ROW
    },
    Row {
        name: "early talker",
        config: &[("checks.early_talker", "\"enforce\""), ("checks.greeting_delay", "\"3s\"")],
        early: true,
        dialogue: &[HELLO],
        reply: "554 5.5.1",
        metric: "rejections_total{reason=\"early_talker\"}",
        log: "ended: spoke before the greeting\"",
        ..ROW
    },
    Row {
        name: "early talker, observed",
        config: &[("checks.early_talker", "\"observe\""), ("checks.greeting_delay", "\"1s\"")],
        early: true,
        dialogue: &[HELLO],
        metric: "observed_total{reason=\"early_talker\"}",
        log: "\"reason\":\"early_talker\"",
        ..ROW
    },
    Row {
        name: "block list",
        config: &[("+", "[[dnsbl]]\nzone = \"bl.example\"")],
        dialogue: &[HELLO, MAIL, RCPT],
        reply: "554 5.7.1 Service unavailable; Client host [10.77.1.2] blocked using bl.example",
        metric: "rejections_total{reason=\"dnsbl\"}",
        log: "\"note\":\"bl.example=127.0.0.2\"",
        ..ROW
    },
    Row {
        name: "block list, below the threshold",
        config: &[("checks.dnsbl_threshold", "3"), ("+", "[[dnsbl]]\nzone = \"bl.example\"\nweight = 2")],
        dialogue: &[HELLO, MAIL, RCPT],
        ..ROW
    },
    Row {
        name: "another protocol",
        dialogue: &["GET / HTTP/1.1"],
        reply: "221 2.7.0",
        metric: "rejections_total{reason=\"non_smtp\"}",
        log: "ended: not an SMTP client\"",
        for_all: true,
        ..ROW
    },
];

fn lines(dialogue: &[&str]) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for line in dialogue {
        if let Some(times) = line.strip_prefix('*') {
            let again = lines.pop().unwrap();
            lines.extend((0..times.parse::<usize>().unwrap()).map(|n| again.replace('#', &n.to_string())));
        } else if let Some(length) = line.strip_prefix('=') {
            let (length, rest) = length.split_at(4);
            lines.push(format!("{}{rest}", "x".repeat(length.parse().unwrap())));
        } else {
            lines.push((*line).to_owned());
        }
    }
    lines
}

/// Runs a row; `exempt`: by an exempt client.
fn check(world: &World, row: &Row, exempt: bool) {
    let name = if exempt { format!("{}, exempt", row.name) } else { row.name.to_owned() };
    let folder = tempfile::tempdir().unwrap();
    let known = folder.path().join("known");
    std::fs::write(&known, "alice@example.org\n").unwrap();
    let known = format!("\"{}\"", known.display());
    let (server, list) = (format!("[\"{}\"]", World::BACKEND), format!("[\"{}\"]", World::ATTACKER));
    let mut config = vec![("edge.interfaces", "[]"), ("dns.servers", &server), ("dns.timeout", "\"2s\"")];
    config.extend(row.config.iter().map(|(key, value)| (*key, if *value == "KNOWN" { &known } else { *value })));
    if exempt {
        config.push((".exempt", &list));
    }
    let mut guard = Guard::configured(world, &config);
    guard.run();
    let address = format!("{}:25", World::EDGE_FOR_ATTACKER);
    let dialogue = |lines: &[String], early: bool| {
        let mut client = world.on(Host::Attacker, &netkit());
        client.args(["dialogue", &address]).args(early.then_some("--header"));
        run(&mut client, &lines.join("\n")).ok()
    };
    let (count, held) = row.before;
    let _held = held.then(|| Held::open(world, Host::Attacker, &address, count));
    for _ in 0..if held { 0 } else { count } {
        dialogue(&[], false);
    }
    let said = dialogue(&lines(row.dialogue), row.early);
    let refused = !exempt || row.for_all;
    if row.reply.is_empty() || !refused {
        let fine = |line: &str| {
            line.starts_with(['2', '3']) || (exempt && (line.starts_with("50") || line.starts_with("550 5.1.1")))
        };
        assert!(said.lines().all(fine), "{name}: {said}");
    } else {
        assert!(said.lines().any(|line| line.starts_with(row.reply)), "{name}: no {:?} in {said}", row.reply);
    }
    if !row.metric.is_empty() {
        let value = guard.metric(&format!("smtp_guard_{}", row.metric));
        assert_eq!(value >= 1.0, refused, "{name}: {} is {value}\n{said}", row.metric);
        assert_eq!(guard.log().contains(row.log), refused, "{name}: {:?} in {}", row.log, guard.log());
    }
    if exempt {
        assert_eq!(guard.metric("smtp_guard_bans_active"), 0.0, "{name}");
        assert_eq!(guard.json(&["explain", World::ATTACKER])["decision"], serde_json::Value::Null, "{name}");
    }
}

#[test]
#[ignore = "needs root and BPF"]
fn every_policy_has_its_reply_its_metric_and_its_line() {
    let world = World::new();
    let _sink = Sink::start(&world, 25, &[]);
    let _named = Named::start(&world, ZONE);
    for row in ROWS {
        check(&world, row, false);
    }
}

#[test]
#[ignore = "needs root and BPF"]
fn exempt_wins_over_every_policy() {
    let world = World::new();
    let _sink = Sink::start(&world, 25, &[]);
    let _named = Named::start(&world, ZONE);
    for row in ROWS {
        check(&world, row, true);
    }
}

#[test]
#[ignore = "needs root and BPF"]
fn no_reverse_name_in_each_mode() {
    let world = World::new();
    let _sink = Sink::start(&world, 25, &[]);
    // Here the attacker has no name either.
    let _named = Named::start(&world, "good.example. MX 10 mail.good.example.\n");
    let refused = Row {
        name: "no reverse name",
        config: &[("checks.ptr", "\"enforce\"")],
        dialogue: &[HELLO, MAIL, RCPT],
        reply: "450 4.7.1",
        metric: "rejections_total{reason=\"no_ptr\"}",
        log: "\"reason\":\"no_ptr\"",
        ..ROW
    };
    let observed = Row {
        name: "no reverse name, observed",
        config: &[("checks.ptr", "\"observe\"")],
        reply: "",
        metric: "observed_total{reason=\"no_ptr\"}",
        ..refused
    };
    let off = Row { name: "no reverse name, off", config: &[], reply: "", metric: "", log: "", ..refused };
    for row in [refused, observed, off] {
        check(&world, &row, false);
        check(&world, &row, true);
    }
}
