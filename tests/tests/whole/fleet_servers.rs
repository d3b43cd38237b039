//! A fleet on each kind of server: with a password, by TLS, on Valkey, and behind Sentinel, where a replica takes over. What fleet.rs
//! has is a Redis with a user of its own.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::process::Command;

use smtp_guard_tests::fleet::{Files, configured, decision, drops, edge, guess, joined, wait_until};
use smtp_guard_tests::pki::Pki;
use smtp_guard_tests::redis::PORT;
use smtp_guard_tests::room::unpacked;
use smtp_guard_tests::sink::Sink;
use smtp_guard_tests::{Guard, Redis, World, run};

/// Two edges on the server at `url` judge as one: each sees half of a dictionary, both drop the source, and a lift on one is one on the other.
fn check(worlds: &[World; 2], url: &str, more: &[(&str, &str)]) {
    let _sinks = [0, 1].map(|n| Sink::start(&worlds[n], 25, &[]));
    let files = Files::new();
    let password = files.path("password");
    let mut changes = vec![("fleet.password_file", &*password)];
    changes.extend(more);
    let guards = [0, 1].map(|n| edge(&worlds[n], n, url, &files, &changes));
    guards.iter().for_each(joined);
    assert_eq!((guess(&worlds[0], 0, 5), guess(&worlds[1], 5, 10)), (5, 5));
    for guard in &guards {
        wait_until(guard, "the kernel drops the attacker", drops);
    }
    let lifted = guards[0].command(&["decisions", "delete", World::ATTACKER]);
    assert_eq!(lifted.stderr, "", "it is confirmed");
    assert_eq!(decision(&guards[1]), None);
}

fn two() -> [World; 2] {
    [World::new(), World::new()]
}

#[test]
#[ignore = "needs root and BPF"]
fn redis_with_a_password() {
    let worlds = two();
    let redis = Redis::start(&worlds.each_ref(), &["--requirepass", "PASSWORD"]);
    assert!(redis.cli(&["GET", "x"]).stdout.contains("NOAUTH"));
    check(&worlds, &format!("redis://{}:{PORT}", Redis::ADDRESS), &[]);
}

#[test]
#[ignore = "needs root and BPF"]
fn redis_by_tls_and_by_no_certificate_of_somebody_else() {
    let worlds = two();
    let (pki, other) = (Pki::new(), Pki::new());
    let pair = pki.issue("redis", &[Redis::ADDRESS]);
    let (ca, stranger) = (pki.ca().display().to_string(), other.ca().display().to_string());
    let (certificate, key) = (pair.certificate.display().to_string(), pair.key.display().to_string());
    let (port, password) = (PORT.to_string(), ["--requirepass", "PASSWORD"]);
    let tls = ["--port", "0", "--tls-port", &port, "--tls-cert-file", &certificate, "--tls-key-file", &key];
    let options = [&tls[..], &["--tls-ca-cert-file", &ca, "--tls-auth-clients", "no"], &password].concat();
    let _redis = Redis::start(&worlds.each_ref(), &options);
    let url = format!("rediss://{}:{PORT}", Redis::ADDRESS);
    let quoted = |path: &str| format!("\"{path}\"");
    {
        let files = Files::new();
        let _sink = Sink::start(&worlds[0], 25, &[]);
        let guard = edge(&worlds[0], 0, &url, &files, &[("fleet.tls_ca", &quoted(&stranger))]);
        wait_until(&guard, "it is refused", |guard| {
            let log = guard.log();
            log.contains("the fleet's server can't be used") && log.contains("certificate")
        });
    }
    check(&worlds, &url, &[("fleet.tls_ca", &quoted(&ca))]);
}

#[test]
#[ignore = "needs root and BPF"]
fn valkey_with_a_user_of_the_fleets_own() {
    let worlds = two();
    let server = unpacked("valkey", "valkey-server");
    eprintln!("{}", run(Command::new(&server).arg("--version"), "").ok().trim());
    let mut redis = Redis::stopped(&worlds.each_ref(), &[]);
    redis.be(server);
    redis.run();
    let manual = include_str!("../../../docs/fleet.md");
    let user = manual.lines().find(|line| line.starts_with("ACL SETUSER ")).unwrap();
    for command in [user, "ACL SETUSER default off"] {
        assert_eq!(redis.cli(&command.split(' ').collect::<Vec<_>>()).ok().trim(), "OK");
    }
    let url = format!("redis://fleet@{}:{PORT}", Redis::ADDRESS);
    {
        let _sink = Sink::start(&worlds[0], 25, &[]);
        looked(&worlds[0], &url, &[], "valkey ");
    }
    check(&worlds, &url, &[]);
}

/// `check --connect` finds all well with the server at `url`, of which it says `about`.
fn looked(world: &World, url: &str, more: &[(&str, &str)], about: &str) {
    let files = Files::new();
    let password = files.path("password");
    let mut changes = more.to_vec();
    if url.contains('@') {
        changes.push(("fleet.password_file", &*password));
    }
    let guard = configured(world, 0, url, &files, &changes);
    let told = guard.command(&["check", "--connect", "--user", "root"]);
    let text = format!("{}{}", told.stdout, told.stderr);
    assert!(text.contains(about) && text.contains("all that the guard needs is allowed"), "{text}");
    assert!(!text.contains("can't be used now"), "{text}");
}

const REPLICA: u16 = 6380;
const SENTINEL: u16 = 26379;

fn is_banned(guard: &Guard, source: &str) -> bool {
    guard.command(&["decisions", "list"]).ok().contains(source)
}

/// Bans `source` at the first of `guards`, and waits until it is so at both.
fn ban(guards: &[Guard; 2], source: &str) {
    guards[0].command(&["decisions", "add", source, "--for", "1h"]).ok();
    wait_until(&guards[1], "banned", |guard| is_banned(guard, source));
}

#[test]
#[ignore = "needs root and BPF"]
fn edges_follow_sentinel_and_tell_a_replica_what_it_has_missed() {
    let worlds = two();
    let _sinks = [0, 1].map(|n| Sink::start(&worlds[n], 25, &[]));
    let mut redis = Redis::start(&worlds.each_ref(), &[]);
    let of_master = ["--replicaof", Redis::ADDRESS, &PORT.to_string()];
    let mut replica = redis.beside(REPLICA, &of_master, "MASTER <-> REPLICA sync: Finished");
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("sentinel.conf");
    let monitor = format!("sentinel monitor fleet {} {PORT} 1", Redis::ADDRESS);
    let times = "sentinel down-after-milliseconds fleet 1000\nsentinel failover-timeout fleet 4000";
    std::fs::write(&config, format!("{monitor}\n{times}\n")).unwrap();
    let _sentinel = redis.beside(SENTINEL, &[config.to_str().unwrap(), "--sentinel"], "+slave slave");
    let files = Files::new();
    let url = format!("redis://{}:{SENTINEL}", Redis::ADDRESS);
    looked(&worlds[0], &url, &[("fleet.sentinel", "\"fleet\"")], &format!("master fleet at {}:{PORT}", Redis::ADDRESS));
    let guards = [0, 1].map(|n| edge(&worlds[n], n, &url, &files, &[("fleet.sentinel", "\"fleet\"")]));
    guards.iter().for_each(joined);
    ban(&guards, "203.0.113.1");
    ban(&guards, "203.0.113.2");
    guards[1].command(&["decisions", "delete", "203.0.113.2"]).ok();
    // An operator changes servers.
    let is_master = |redis: &Redis<'_>, port: u16| {
        let words = ["SENTINEL", "GET-MASTER-ADDR-BY-NAME", "fleet"];
        redis.cli_of(SENTINEL, &words).ok().contains(&port.to_string())
    };
    let answers = |guard: &Guard, port: u16| {
        let log = guard.log();
        let last = log.lines().rfind(|line| line.contains("the fleet's server answers"));
        last.is_some_and(|line| line.contains(&format!("{}:{port}", Redis::ADDRESS)))
    };
    assert_eq!(redis.cli_of(SENTINEL, &["SENTINEL", "FAILOVER", "fleet"]).ok().trim(), "OK");
    for guard in &guards {
        wait_until(guard, "it follows", |guard| is_master(&redis, REPLICA) && answers(guard, REPLICA));
    }
    ban(&guards, "203.0.113.3");
    // What was the master hears nothing of the last words, and then it is the master again.
    let info = |port, words: &str| redis.cli_of(port, &["INFO", "replication"]).ok().contains(words);
    wait_until(&guards[0], "the old master is a replica", |_| info(PORT, "master_link_status:up"));
    redis.cli(&["CONFIG", "SET", "masteruser", "nobody", "masterauth", "wrong"]).ok();
    redis.cli(&["CLIENT", "KILL", "TYPE", "master"]).ok();
    wait_until(&guards[0], "it is cut off", |_| info(PORT, "master_link_status:down"));
    ban(&guards, "203.0.113.4");
    guards[1].command(&["decisions", "delete", "203.0.113.1"]).ok();
    wait_until(&guards[0], "lifted", |guard| !is_banned(guard, "203.0.113.1"));
    let knows = |source: &str| redis.cli(&["HGET", &format!("sg:{{edge}}:d:{source}"), "om"]).ok();
    assert!(knows("203.0.113.4").trim().is_empty() && knows("203.0.113.1").contains("ban"), "it is older");
    replica.kill9();
    wait_until(&guards[0], "the older one takes over", |_| is_master(&redis, PORT));
    wait_until(&guards[0], "each tells it again", |_| {
        knows("203.0.113.4").contains("ban") && knows("203.0.113.1").contains("lift")
    });
    ban(&guards, "203.0.113.5");
    for guard in &guards {
        let list = guard.command(&["decisions", "list"]).ok();
        for (last, expected) in [(1, false), (2, false), (3, true), (4, true), (5, true)] {
            assert_eq!(list.contains(&format!("203.0.113.{last}")), expected, "{last}: {list}");
        }
    }
    // Nobody is there any more: each is the guard of one host.
    redis.kill9();
    assert_eq!(guess(&worlds[0], 0, 10), 10);
    wait_until(&guards[0], "the kernel drops the attacker", drops);
}
