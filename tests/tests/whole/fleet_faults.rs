//! A fleet whose messages, edges, clocks and lines aren't as they should be. Nobody is banned for it, and it is said.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::fs;
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use smtp_guard_core::clock::WallTime;
use smtp_guard_core::decision::Decision;
use smtp_guard_core::fleet::message::{Batch, Deed, Message, Record, Said, Seal, Word};
use smtp_guard_tests::fleet::{Files, configured, decision, drops, edge, guess, joined, micros, wait_until};
use smtp_guard_tests::sink::Sink;
use smtp_guard_tests::{Guard, Redis, World, run};

const STREAMS: [&str; 2] = ["sg:{edge}:dc", "sg:{edge}:ev"];

fn two() -> [World; 2] {
    [World::new(), World::new()]
}

/// Two edges that have joined, and the server between them.
fn in_fleet_of_two(play: impl FnOnce(&[World; 2], &Redis, &[Guard<'_>; 2])) {
    let worlds = two();
    let _sinks = [0, 1].map(|n| Sink::start(&worlds[n], 25, &[]));
    let redis = Redis::start(&worlds.each_ref(), &[]);
    let files = Files::new();
    let guards = [0, 1].map(|n| edge(&worlds[n], n, &redis.url(n), &files, &[]));
    guards.iter().for_each(joined);
    play(&worlds, &redis, &guards);
}

/// Waits until each of `guards` has logged `words`.
fn said(guards: &[Guard], words: &str) {
    for guard in guards {
        wait_until(guard, words, |guard| guard.log().contains(words));
    }
}

fn ban(guard: &Guard, source: &str) {
    guard.command(&["decisions", "add", source, "--for", "1h"]).ok();
}

fn is_banned(guard: &Guard, source: &str) -> bool {
    guard.command(&["decisions", "list"]).ok().contains(source)
}

/// Now, as the server has it, in ms.
fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as i64
}

/// What somebody makes of a message that an edge has written, who can write to the server but has no key.
const POISON: &str = "
    local entries = redis.call('XRANGE', KEYS[1], '-', '+')
    local real = entries[1][2][2]
    local body = struct.pack('>I4', 200000) .. string.rep('x', 200000) .. string.rep('c', 32)
    local poison = {
        'junk', '', real:sub(1, -2), real .. 'x', 'sgf\\1e' .. body, 'sgf\\1d' .. body,
        real:sub(1, 3) .. '\\2' .. real:sub(5), real:sub(1, 3) .. '\\0' .. real:sub(5),
        real:sub(1, -2) .. (real:sub(-1) == 'a' and 'b' or 'a'), real:sub(1, 20) .. 'Z' .. real:sub(22),
    }
    for _, message in ipairs(poison) do redis.call('XADD', KEYS[1], '*', 'm', message) end
    redis.call('XADD', KEYS[1], '*', 'x', 'no message')
    for n = 1, 20 do
        for _, entry in ipairs(entries) do redis.call('XADD', KEYS[1], '*', 'm', entry[2][2]) end
    end
    return #entries";

#[test]
#[ignore = "needs root and BPF"]
fn a_poisoned_stream_is_counted_and_said_and_bans_nobody() {
    in_fleet_of_two(|worlds, redis, guards| {
        assert_eq!(guess(&worlds[0], 0, 4), 4);
        ban(&guards[0], "203.0.113.9");
        wait_until(&guards[1], "banned", |guard| is_banned(guard, "203.0.113.9"));
        guards[0].command(&["decisions", "delete", "203.0.113.9"]).ok();
        wait_until(&guards[1], "lifted", |guard| !is_banned(guard, "203.0.113.9"));
        for stream in STREAMS {
            assert_ne!(redis.script(POISON, stream, &[]), "0", "edges have written to {stream}");
        }
        // Of somebody with another key; and of an edge that is far ahead, or was heard long ago.
        let seal = |key: &str| Seal::new("edge", key.repeat(64).as_bytes()).unwrap();
        let (ours, other, hour) = (seal("5"), seal("6"), 3_600_000);
        let record = |at: i64| {
            let (made, until) = (WallTime::from_ms(at), WallTime::from_ms(at + hour));
            let [reason, origin] = ["harvest", "operator"].map(str::to_owned);
            let ban = Decision { source: World::ATTACKER.to_owned(), reason, origin, made, until, ..decided() };
            Message::Record(Box::new(Record { node: "mx9".to_owned(), at, word: Word::Ban(ban), upon: None }))
        };
        let batch = |sent: i64| {
            Message::Evidence(Batch {
                node: "mx9".to_owned(),
                run: 1,
                number: 1,
                sent,
                reports: Vec::new(),
                counts: Vec::new(),
            })
        };
        let append = |stream, message: &[u8]| {
            redis.script("return redis.call('XADD', KEYS[1], '*', 'm', bytes(1))", stream, &[message]);
        };
        for message in [other.seal(&record(now())), ours.seal(&record(now() + hour)), ours.seal(&batch(now()))] {
            append(STREAMS[0], &message.unwrap());
        }
        for message in [batch(now() + hour), batch(now() - hour), record(now())] {
            append(STREAMS[1], &ours.seal(&message).unwrap());
        }
        // In place of what the server holds, too.
        let hold = "redis.call('HSET', KEYS[1], 'om', bytes(1), 'lm', 'junk') return redis.call('ZADD', 'sg:{edge}:di', 9e15, '10.77.1.2')";
        redis.script(hold, "sg:{edge}:d:10.77.1.2", &[&other.seal(&record(now())).unwrap()]);
        for words in [
            "it is not a message, or was cut off",
            "it is of another version",
            "it doesn't carry the code of this fleet's key; an edge has another key",
            "what it says is out of bounds",
            "it was heard before, or is too old",
            "it is from the future",
        ] {
            said(guards, &format!("messages on the fleet's server are ignored: {words}"));
        }
        // What is repeated doesn't count again, and what is lifted stays so.
        for guard in guards {
            assert_eq!(guard.json(&["decisions", "list"])["decisions"], json!([]));
        }
        // Nobody has stumbled over it.
        assert_eq!(guess(&worlds[1], 4, 10), 6);
        for guard in guards {
            wait_until(guard, "the kernel drops the attacker", drops);
        }
    });
}

/// A decision that says nothing.
fn decided() -> Decision {
    let (made, until) = (WallTime::from_ms(0), WallTime::from_ms(0));
    let texts = [(); 4].map(|()| String::new());
    let [source, reason, text, origin] = texts;
    Decision { source, reason, text, origin, origin_name: None, made, until, repeat: 0, evidence: Vec::new() }
}

#[test]
#[ignore = "needs root and BPF"]
fn an_edge_with_another_key_isnt_heard_and_both_sides_say_so() {
    let worlds = two();
    let _sinks = [0, 1].map(|n| Sink::start(&worlds[n], 25, &[]));
    let redis = Redis::start(&worlds.each_ref(), &[]);
    let files = Files::new();
    let other = files.path("other");
    let guards = [0, 1].map(|n| {
        let more: &[_] = if n == 1 { &[("fleet.key_file", &*other)] } else { &[] };
        edge(&worlds[n], n, &redis.url(n), &files, more)
    });
    guards.iter().for_each(joined);
    assert_eq!(guess(&worlds[0], 0, 10), 10);
    wait_until(&guards[0], "the kernel drops the attacker", drops);
    ban(&guards[1], "203.0.113.9");
    said(&guards, "it doesn't carry the code of this fleet's key");
    assert_eq!(decision(&guards[1]), None);
    assert!(!is_banned(&guards[0], "203.0.113.9") && is_banned(&guards[1], "203.0.113.9"));
}

#[test]
#[ignore = "needs root and BPF"]
fn an_edge_that_goes_mad_is_muted_and_nothing_of_it_is_in_force_elsewhere() {
    in_fleet_of_two(|_, _, guards| {
        ban(&guards[1], "203.0.113.9");
        wait_until(&guards[0], "banned", |guard| is_banned(guard, "203.0.113.9"));
        // All in one minute.
        let left = 60_000 - now() % 60_000;
        if left < 15_000 {
            std::thread::sleep(Duration::from_millis(left as u64));
        }
        for n in 0..700 {
            let ban = json!({ "ip": format!("192.0.{}.{}", 2 + n / 250, n % 250), "seconds": 3600, "reason": "mad" });
            let answer = guards[0].post("/decisions", &ban);
            assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        }
        said(&guards[1..], "an edge of the fleet banned too many sources in a minute, and is muted");
        wait_until(&guards[1], "nothing of it is in force", |guard| !is_banned(guard, "192.0."));
        assert!(guards[1].json(&["explain", "192.0.2.7"])["kernel"]["drop_reason"].is_null());
        // Nobody was told that these are lifted, and the sane one is heard.
        ban(&guards[1], "203.0.113.10");
        wait_until(&guards[0], "banned", |guard| is_banned(guard, "203.0.113.10"));
        let own = guards[0].json(&["decisions", "list"])["decisions"].as_array().unwrap().len();
        assert_eq!(own, 702);
        assert_eq!(guards[1].json(&["decisions", "list"])["decisions"].as_array().unwrap().len(), 2);
    });
}

#[test]
#[ignore = "needs root and BPF"]
fn an_edge_that_a_botnet_attacks_is_believed_since_it_tells_its_evidence() {
    in_fleet_of_two(|_, redis, guards| {
        let seal = Seal::new("edge", "5".repeat(64).as_bytes()).unwrap();
        let source = |n: usize| format!("20.1.{}.{}", n / 250, n % 250);
        let at = now();
        let mut evidence = Vec::new();
        for number in 1..=4 {
            let said = |n| {
                let what = Deed::Unknown { recipient: n as u64, returned: false };
                Said { source: source(n), at, what }
            };
            let reports = (number * 200 - 200..number * 200).map(said).collect();
            let batch = Batch { node: "mx9".into(), run: 1, number: number as u64, sent: at, reports, counts: vec![] };
            evidence.push(seal.seal(&Message::Evidence(batch)).unwrap());
        }
        let bans = (0..800).map(|n| {
            let (made, until) = (WallTime::from_ms(at), WallTime::from_ms(at + 3_600_000));
            let [reason, origin] = ["harvest", "ledger"].map(str::to_owned);
            let ban = Decision { source: source(n), reason, origin, made, until, ..decided() };
            let record = Record { node: "mx9".to_owned(), at, word: Word::Ban(ban), upon: None };
            seal.seal(&Message::Record(Box::new(record))).unwrap()
        });
        let bans: Vec<_> = bans.collect();
        let append = "for n = 1, #ARGV do redis.call('XADD', KEYS[1], '*', 'm', bytes(n)) end return 'OK'";
        for batch in &evidence {
            redis.script(append, STREAMS[1], &[batch]);
        }
        for bans in bans.chunks(100) {
            redis.script(append, STREAMS[0], &bans.iter().map(Vec::as_slice).collect::<Vec<_>>());
        }
        for guard in guards {
            wait_until(guard, "all are banned", |guard| {
                let decisions = guard.json(&["decisions", "list"])["decisions"].clone();
                let of_sources = |decision: &&Value| !decision["source"].as_str().unwrap().contains('/');
                decisions.as_array().unwrap().iter().filter(of_sources).count() == 800
            });
            assert!(!guard.log().contains("and is muted"), "{}", guard.log());
        }
    });
}

#[test]
#[ignore = "needs root and BPF"]
fn clocks_two_minutes_apart_ban_at_the_same_time_and_for_as_long() {
    let worlds = two();
    let _sinks = [0, 1].map(|n| Sink::start(&worlds[n], 25, &[]));
    let redis = Redis::start(&worlds.each_ref(), &[]);
    let files = Files::new();
    let folder = tempfile::tempdir().unwrap();
    let (source, shim) = (folder.path().join("skew.c"), folder.path().join("skew.so"));
    fs::write(&source, include_str!("../../src/skew.c")).unwrap();
    run(Command::new("gcc").args(["-shared", "-fPIC", "-O2", "-o"]).arg(&shim).arg(&source), "").ok();
    let guards = [("-60", 0), ("60", 1)].map(|(skew, n)| {
        let mut guard = configured(&worlds[n], n, &redis.url(n), &files, &[]);
        guard.command(&["edge", "load"]).ok();
        guard.set_environment(&[("SKEW", skew), ("LD_PRELOAD", shim.to_str().unwrap())]);
        guard.run();
        guard
    });
    guards.iter().for_each(joined);
    assert_eq!(guess(&worlds[0], 0, 5), 5);
    assert_eq!(guess(&worlds[1], 5, 9), 4);
    assert!(guards.iter().all(|guard| decision(guard).is_none()), "nine are too few");
    assert_eq!(guess(&worlds[1], 9, 10), 1);
    for guard in &guards {
        wait_until(guard, "the kernel drops the attacker", drops);
    }
    // Each says by its own clock when it ends, and it is the same moment.
    let ends = || {
        [0, 1].map(|n| {
            let decisions = guards[n].json(&["decisions", "list"])["decisions"].clone();
            micros(decisions[0]["until"].as_str().unwrap())
        })
    };
    let [one, other] = ends();
    let apart = (other - one).rem_euclid(86_400_000_000);
    assert!((110_000_000..130_000_000).contains(&apart), "{apart} us");
    // A lift is newer than the ban, whoever says it; and what is banned for seconds is so for seconds.
    guards[0].command(&["decisions", "delete", World::ATTACKER]).ok();
    wait_until(&guards[1], "lifted", |guard| decision(guard).is_none());
    guards[1].command(&["decisions", "add", World::ATTACKER, "--for", "4s"]).ok();
    wait_until(&guards[0], "the kernel drops the attacker", drops);
    for guard in &guards {
        wait_until(guard, "it has ended", |guard| decision(guard).is_none() && !drops(guard));
    }
}

#[test]
#[ignore = "needs root and BPF"]
fn a_reader_that_the_stream_was_trimmed_past_reads_everything_anew() {
    in_fleet_of_two(|_, redis, guards| {
        ban(&guards[0], "203.0.113.1");
        wait_until(&guards[1], "banned", |guard| is_banned(guard, "203.0.113.1"));
        redis.cut(1, true);
        said(&guards[1..], "the fleet's server can't be used");
        guards[0].command(&["decisions", "delete", "203.0.113.1"]).ok();
        for n in 2..6 {
            ban(&guards[0], &format!("203.0.113.{n}"));
        }
        let trim = || redis.cli(&["XTRIM", "sg:{edge}:dc", "MAXLEN", "1"]).ok().trim() == "5";
        wait_until(&guards[0], "all is told", |_| trim());
        redis.cut(1, false);
        let list = |guard: &Guard| guard.json(&["decisions", "list"])["decisions"].as_array().unwrap().len();
        wait_until(&guards[1], "all four, and the lift", |guard| list(guard) == 4 && !is_banned(guard, "203.0.113.1"));
        assert_eq!(guards[1].log().matches("the fleet's decisions are in force").count(), 2, "snapshots");
    });
}

#[test]
#[ignore = "needs root and BPF"]
fn nobody_waits_for_a_server_that_is_paused() {
    in_fleet_of_two(|worlds, redis, guards| {
        assert_eq!(redis.cli(&["CLIENT", "PAUSE", "4000", "ALL"]).ok().trim(), "OK");
        assert_eq!(guess(&worlds[0], 0, 10), 10);
        wait_until(&guards[0], "the kernel drops the attacker", drops);
        said(guards, "the fleet's server can't be used: this edge judges alone");
        // What was sent meanwhile, perhaps twice, counts once.
        wait_until(&guards[1], "the other edge follows", drops);
        let log = guards[1].log();
        assert!(log.matches("the fleet's server answers").count() >= 2, "{log}");
    });
}
