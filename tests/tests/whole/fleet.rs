//! Several edges that judge as one, by a real Redis. Each edge has a world of its own, in which attacker and client have the same
//! addresses: one source that comes to all edges.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::time::{Duration, Instant};

use smtp_guard_tests::fleet::{Files, bans, decision, drops, edge, guess, joined, wait_until};
use smtp_guard_tests::guard::netkit;
use smtp_guard_tests::sink::Sink;
use smtp_guard_tests::{Guard, Host, Redis, World, run, wait_up_to};

fn three() -> [World; 3] {
    [World::new(), World::new(), World::new()]
}

#[test]
#[ignore = "needs root and BPF"]
fn a_dictionary_over_three_edges_is_dropped_by_all_and_a_lift_ends_it_on_all() {
    eprintln!("{}", Redis::version());
    let worlds = three();
    let _sinks = [0, 1, 2].map(|n| Sink::start(&worlds[n], 25, &[]));
    let redis = Redis::start(&worlds.each_ref(), &[]);
    // No more is allowed than the manual says.
    let manual = include_str!("../../../docs/fleet.md");
    let user = manual.lines().find(|line| line.starts_with("ACL SETUSER ")).unwrap();
    for command in [user, "ACL SETUSER default off"] {
        assert_eq!(redis.cli(&command.split(' ').collect::<Vec<_>>()).ok().trim(), "OK");
    }
    let files = Files::new();
    let password = files.path("password");
    let guards = [0, 1, 2].map(|n| {
        let url = redis.url(n).replace("redis://", "redis://fleet@");
        edge(&worlds[n], n, &url, &files, &[("fleet.password_file", &*password)])
    });
    guards.iter().for_each(joined);
    // Whoever may write to the server but has no key: nobody stumbles over it.
    let junk = "for n = 1, 2000 do redis.call('XADD', KEYS[1], '*', n % 2 == 0 and 'm' or 'x', 'junk') end return 'OK'";
    for stream in ["sg:{edge}:dc", "sg:{edge}:ev"] {
        let words = ["--user", "fleet", "--pass", "PASSWORD", "EVAL", junk, "1", stream];
        assert_eq!(redis.cli(&words).ok().trim(), "OK");
    }
    assert_eq!(guess(&worlds[0], 0, 4), 4);
    assert_eq!(guess(&worlds[1], 4, 7), 3);
    assert!(guards.iter().all(|guard| decision(guard).is_none()), "seven are too few");
    let started = Instant::now();
    assert!(guess(&worlds[2], 7, 10) >= 2);
    for guard in &guards {
        wait_until(guard, "the kernel drops the attacker", drops);
    }
    eprintln!("three guesses, and the last of three kernels drops: {:?} with all commands", started.elapsed());
    // Each by its own rule, upon what all have seen.
    let explained = guards[0].command(&["explain", World::ATTACKER]).ok();
    for words in ["10 distinct unknown recipients of 10", "mx2", "mx3"] {
        assert!(explained.contains(words), "{words}:\n{explained}");
    }
    guards[1].command(&["decisions", "delete", World::ATTACKER]).ok();
    for guard in &guards {
        wait_until(guard, "lifted", |guard| decision(guard).is_none());
    }
    // Nor does it come back: what each has seen is forgotten.
    for world in &worlds {
        assert_eq!(guess(world, 10, 12), 2);
    }
    std::thread::sleep(Duration::from_millis(500));
    assert!(guards.iter().all(|guard| decision(guard).is_none() && !drops(guard)));
}

#[test]
#[ignore = "needs root and BPF"]
fn what_an_operator_decides_is_so_on_all_edges_but_where_it_is_exempt_or_local() {
    let worlds = three();
    let _sinks = [0, 1, 2].map(|n| Sink::start(&worlds[n], 25, &[]));
    let redis = Redis::start(&worlds.each_ref(), &[]);
    let files = Files::new();
    let exempt = format!("[\"{}\"]", World::ATTACKER);
    let guards = [0, 1, 2].map(|n| {
        let more: &[_] = if n == 2 { &[(".exempt", &*exempt)] } else { &[] };
        edge(&worlds[n], n, &redis.url(n), &files, more)
    });
    guards.iter().for_each(joined);
    for _ in 0..20 {
        guards[0].command(&["decisions", "add", World::ATTACKER, "--for", "1h"]).ok();
        wait_until(&guards[1], "the kernel drops the attacker", drops);
        // Who hasn't confirmed is named.
        let lifted = guards[0].command(&["decisions", "delete", World::ATTACKER]);
        assert_eq!(lifted.stderr, "");
        assert_eq!(decision(&guards[1]), None, "it was confirmed");
    }
    // Both log a ban when it is in force in both planes.
    let [here, there] = [0, 1].map(|n| bans(&guards[n]));
    assert_eq!((here.len(), there.len()), (20, 20));
    let mut times: Vec<_> = here.iter().zip(&there).map(|(here, there)| there - here).collect();
    times.sort_unstable();
    eprintln!("from a ban on one edge to that on another: median {} us, longest {} us", times[10], times[19]);
    guards[0].command(&["decisions", "add", World::ATTACKER, "--for", "1h"]).ok();
    wait_until(&guards[1], "banned by mx1", |guard| decision(guard).is_some_and(|by| by == "node mx1"));
    wait_until(&guards[2], "ignored", |guard| {
        guard.metric("smtp_guard_foreign_decisions_total{outcome=\"exempt\"}") > 0.0
    });
    assert_eq!(decision(&guards[2]), None);
    // The last word of an operator counts, wherever he says it.
    guards[1].command(&["decisions", "add", World::ATTACKER, "--for", "2h"]).ok();
    wait_until(&guards[0], "banned by mx2", |guard| decision(guard).is_some_and(|by| by == "node mx2"));
    guards[0].command(&["decisions", "delete", World::ATTACKER]).ok();
    wait_until(&guards[1], "lifted", |guard| decision(guard).is_none());
    guards[0].command(&["decisions", "add", World::ATTACKER, "--for", "1h", "--local"]).ok();
    guards[0].command(&["decisions", "add", "203.0.113.9", "--for", "1h"]).ok();
    wait_until(&guards[1], "the later one", |guard| guard.command(&["decisions", "list"]).ok().contains("203.0.113.9"));
    assert_eq!(decision(&guards[1]), None);
    assert!(decision(&guards[0]).is_some());
}

#[test]
#[ignore = "needs root and BPF"]
fn an_edge_goes_on_alone_without_the_server_and_joins_again() {
    let worlds = [World::new(), World::new()];
    let _sinks = [0, 1].map(|n| Sink::start(&worlds[n], 25, &[]));
    let mut redis = Redis::stopped(&worlds.each_ref(), &[]);
    let files = Files::new();
    let guards = [0, 1].map(|n| edge(&worlds[n], n, &redis.url(n), &files, &[]));
    // Absent at the start: the guard of one host, and what it decides waits.
    assert_eq!(guess(&worlds[0], 0, 10), 10);
    wait_until(&guards[0], "the kernel drops the attacker", drops);
    assert_eq!(decision(&guards[1]), None);
    redis.run();
    wait_until(&guards[1], "the other edge follows", drops);
    // Killed, with all that it knew: what is in force stays, and is told again.
    redis.kill9();
    redis.run();
    let told = || redis.cli(&["ZCARD", "sg:{edge}:di"]).ok().trim() == "1";
    wait_up_to(Duration::from_secs(20), "told again", || told().then_some(()), || guards[0].log());
    // Emptied.
    redis.cli(&["FLUSHALL"]).ok();
    wait_up_to(Duration::from_secs(20), "told once more", || told().then_some(()), || guards[0].log());
    // Stopped: nobody waits for it.
    redis.freeze();
    let lifted = guards[1].command(&["decisions", "delete", World::ATTACKER]);
    assert!(lifted.stderr.contains("not confirmed yet by the fleet's server"), "{lifted:?}");
    assert_eq!(guess(&worlds[1], 0, 3), 3);
    assert!(drops(&guards[0]), "it can't know");
    redis.thaw();
    wait_until(&guards[0], "lifted", |guard| decision(guard).is_none());
    // Parted: each goes on, and the last word of an operator counts when they meet.
    redis.cut(1, true);
    guards[0].command(&["decisions", "add", World::ATTACKER, "--for", "1h"]).ok();
    guards[1].command(&["decisions", "add", World::ATTACKER, "--for", "2h"]).ok();
    redis.cut(1, false);
    wait_until(&guards[0], "the newest wins", |guard| decision(guard).is_some_and(|by| by == "node mx2"));
    assert_eq!(decision(&guards[1]).as_deref(), Some("operator"));
}

/// What the client hears who says these lines to the edge of `world`.
fn said(world: &World, lines: &[&str]) -> String {
    let edge = format!("{}:25", World::EDGE_FOR_CLIENT);
    run(world.on(Host::Client, &netkit()).args(["dialogue", &edge]), &lines.join("\n")).ok()
}

#[test]
#[ignore = "needs root and BPF"]
fn an_edge_that_starts_anew_knows_whose_mail_others_have_accepted() {
    let worlds = [World::new(), World::new()];
    let _sinks = [0, 1].map(|n| Sink::start(&worlds[n], 25, &[]));
    let redis = Redis::start(&worlds.each_ref(), &[]);
    let files = Files::new();
    let slow = [("checks.greeting_delay", "\"2s\"")];
    let there = edge(&worlds[0], 0, &redis.url(0), &files, &slow);
    joined(&there);
    let message = ["DATA", "Subject: x\\r\\n\\r\\ntext\\r\\n."];
    let envelope = ["EHLO client.example", "MAIL FROM:<a@client.example>", "RCPT TO:<alice@example.org>"];
    let heard = said(&worlds[0], &[&envelope[..], &message, &["QUIT"]].concat());
    assert!(heard.contains("354"), "{heard}");
    let told = || redis.cli(&["HKEYS", "sg:{edge}:hi"]).ok().trim() == "mx1:0";
    wait_up_to(Duration::from_secs(90), "the history is told", || told().then_some(()), || there.log());
    drop(there);
    // What was said of it on the way is gone by then.
    redis.cli(&["DEL", "sg:{edge}:ev"]).ok();
    let here = edge(&worlds[1], 1, &redis.url(1), &files, &slow);
    wait_until(&here, "it remembers", |guard| guard.metric("smtp_guard_fleet_history_sources") == 1.0);
    let greets = |ip: &str| {
        let words = ["try", "--from", ip, "--mail-from", "a@client.example", "--rcpt-to", "alice@example.org"];
        here.command(&words).ok()
    };
    assert!(!greets(World::CLIENT).contains("(after 2 s)"), "{}", greets(World::CLIENT));
    assert!(greets("203.0.113.5").contains("(after 2 s)"), "{}", greets("203.0.113.5"));
    assert_eq!(here.json(&["explain", World::CLIENT])["familiar"], true);
}

#[test]
#[ignore = "needs root and BPF"]
fn an_hour_has_as_many_messages_on_all_edges_together() {
    let worlds = [World::new(), World::new()];
    let _sinks = [0, 1].map(|n| Sink::start(&worlds[n], 25, &[]));
    let redis = Redis::start(&worlds.each_ref(), &[]);
    let files = Files::new();
    let limit = [("limits.messages_per_hour", "10")];
    let guards = [0, 1].map(|n| edge(&worlds[n], n, &redis.url(n), &files, &limit));
    guards.iter().for_each(joined);
    // The edges have looked at each other once: what is counted is shared from then on.
    std::thread::sleep(Duration::from_secs(2));
    let sent = |world: &World, messages: usize| {
        let mut lines = vec!["EHLO client.example"];
        lines.extend(["MAIL FROM:<a@client.example>", "RSET"].repeat(messages));
        let heard = said(world, &lines);
        heard.lines().filter(|line| line.starts_with("450 4.7.1")).count()
    };
    let counted = |guard: &Guard| {
        let counts = guard.json(&["explain", World::CLIENT])["counts"].clone();
        let count = counts.as_array().unwrap().iter().find(|count| count["name"] == "messages_per_hour").cloned();
        count.map_or(0, |count| count["count"].as_u64().unwrap())
    };
    assert_eq!(sent(&worlds[0], 6), 0);
    wait_until(&guards[1], "the other edge has heard of six", |guard| counted(guard) == 6);
    assert_eq!(sent(&worlds[1], 6), 2, "four more, and then no more");
    wait_until(&guards[0], "the first edge has heard of four", |guard| counted(guard) == 10);
    assert_eq!(sent(&worlds[0], 1), 1);
}
