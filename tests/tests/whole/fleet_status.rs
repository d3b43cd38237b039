//! The operator's side of a fleet: what is said of it, what `check --connect` finds, and a reload that joins, changes and leaves it.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use serde_json::Value;
use smtp_guard_tests::fleet::{Files, edge, joined, wait_until};
use smtp_guard_tests::guard::check_answer;
use smtp_guard_tests::sink::Sink;
use smtp_guard_tests::{Guard, Held, Host, Redis, World};

/// The fleet as `guard` sees it.
fn fleet(guard: &Guard) -> Value {
    guard.json(&["fleet", "status"])
}

/// The edges that `guard` knows of and hears from.
fn live(guard: &Guard) -> Vec<String> {
    let fleet = fleet(guard);
    let nodes = fleet["nodes"].as_array().unwrap().iter().filter(|node| node["live"] == true);
    nodes.map(|node| node["name"].as_str().unwrap().to_owned()).collect()
}

/// The sources that are banned on this edge, sorted.
fn banned(guard: &Guard) -> Vec<String> {
    let decisions = guard.json(&["decisions", "list"])["decisions"].clone();
    let sources = decisions.as_array().unwrap().iter().map(|decision| decision["source"].as_str().unwrap().to_owned());
    let mut sources: Vec<_> = sources.collect();
    sources.sort_unstable();
    sources
}

fn ban(guard: &Guard, source: &str) {
    guard.command(&["decisions", "add", source, "--for", "1h"]).ok();
}

/// The first line of `fleet status`.
fn first_line(guard: &Guard) -> String {
    guard.command(&["fleet", "status"]).ok().lines().next().unwrap().to_owned()
}

#[test]
#[ignore = "needs root and BPF"]
fn status_metrics_and_command_say_how_the_fleet_is() {
    let worlds = [World::new(), World::new()];
    let _sinks = [0, 1].map(|n| Sink::start(&worlds[n], 25, &[]));
    let redis = Redis::start(&worlds.each_ref(), &[]);
    let files = Files::new();
    // Of 1970: evidence that nobody reads any more doesn't stay.
    redis.cli(&["XADD", "sg:{edge}:ev", "1-1", "m", "old"]).ok();
    let guards = [0, 1].map(|n| {
        let more: &[_] = if n == 1 { &[(".exempt", "[\"203.0.113.7\"]")] } else { &[] };
        edge(&worlds[n], n, &redis.url(n), &files, more)
    });
    guards.iter().for_each(joined);
    for guard in &guards {
        wait_until(guard, "both edges are known", |guard| live(guard) == ["mx1", "mx2"]);
    }
    assert_eq!(redis.cli(&["XLEN", "sg:{edge}:ev"]).ok().trim(), "0");
    ban(&guards[0], "203.0.113.7");
    ban(&guards[0], "203.0.113.8");
    ban(&guards[0], "203.0.113.9");
    wait_until(&guards[1], "two are in force, and one is exempt", |guard| {
        let fleet = fleet(guard);
        fleet["exempted"] == 1 && fleet["in_force"][0]["name"] == "mx1" && fleet["in_force"][0]["count"] == 2
    });
    let status = fleet(&guards[1]);
    assert_eq!((&status["name"], &status["node"]), (&"edge".into(), &"mx2".into()), "{status:#}");
    assert_eq!((&status["connected"], &status["trouble"]), (&true.into(), &Value::Null), "{status:#}");
    let offset = status["clock_offset_seconds"].as_f64().unwrap();
    assert!(offset.abs() < 5.0, "one host has one clock: {offset}");
    assert_eq!(guards[0].metric("smtp_guard_fleet_nodes"), 2.0);
    assert_eq!(guards[0].metric("smtp_guard_fleet_node_muted{node=\"mx2\"}"), 0.0);
    assert!(first_line(&guards[0]).contains("edge: connected to 10.78.1.1:6379 since "), "{}", first_line(&guards[0]));
    // Stopped: it is said since when and why, and what waits.
    redis.freeze();
    wait_until(&guards[0], "it is said", |guard| guard.metric("smtp_guard_fleet_connected") == 0.0);
    ban(&guards[0], "203.0.113.10");
    let status = fleet(&guards[0]);
    assert!(status["trouble"].is_string() && status["kept"].as_u64().unwrap() > 0, "{status:#}");
    let line = first_line(&guards[0]);
    assert!(line.contains("edge: NOT connected since ") && line.contains("; 1 reports wait"), "{line}");
    let line = guards[0].command(&["status"]).ok();
    assert!(line.contains("edge: NOT connected since "), "{line}");
    redis.thaw();
    wait_until(&guards[0], "it is back", |guard| first_line(guard).contains("edge: connected to "));
    assert_eq!(fleet(&guards[0])["lost"], 0);
}

/// What `check --connect` says of the fleet's server by `changes`: its exit code, and parts of what it says.
#[track_caller]
fn check(guard: &Guard, redis: &Redis, changes: &[(&str, &str)], code: i32, parts: &[&str]) {
    guard.configure(changes);
    let keys = || redis.cli(&["--user", "test", "--pass", "PASSWORD", "KEYS", "*:ck:*"]).ok();
    let told = guard.command(&["check", "--connect", "--user", "root"]);
    let text = format!("{}{}", told.stdout, told.stderr);
    assert_eq!(told.code(), code, "{parts:?}: {text}");
    for part in parts {
        assert!(text.contains(part), "no {part:?} in\n{text}");
    }
    assert_eq!(keys().trim(), "", "nothing is left behind: {parts:?}");
}

#[test]
#[ignore = "needs root and BPF"]
fn what_is_wrong_with_a_fleets_server_is_said_with_the_next_step() {
    let worlds = [World::new(), World::new()];
    let _sinks = [0, 1].map(|n| Sink::start(&worlds[n], 25, &[]));
    let redis = Redis::start(&worlds.each_ref(), &[]);
    let files = Files::new();
    let acl = |words: &str| assert_eq!(redis.cli(&words.split(' ').collect::<Vec<_>>()).ok().trim(), "OK", "{words}");
    let manual = include_str!("../../../docs/fleet.md");
    let all = manual.lines().find(|line| line.starts_with("ACL SETUSER ")).unwrap();
    let (start, rules) = all.split_once("~sg:").unwrap();
    acl(&all.replace("SETUSER fleet", "SETUSER some").replace(" +@stream", ""));
    acl(&all.replace("SETUSER fleet", "SETUSER endless").replace(" +pexpireat", ""));
    acl(&all.replace("SETUSER fleet", "SETUSER elsewhere").replace("sg:{edge}", "sg:{other}"));
    acl(all);
    acl("ACL SETUSER test on >PASSWORD ~* +@all");
    assert!(start.starts_with("ACL SETUSER fleet on ") && rules.starts_with("{edge}:* "));
    let guard = Guard::configured(&worlds[0], &[]);
    let (key, password) = (files.path("key"), files.path("password"));
    let url = redis.url(0);
    let as_user = |user: &str| format!("[\"{}\"]", url.replace("redis://", &format!("redis://{user}@")));
    let common = [("fleet.node", "\"mx1\""), ("fleet.key_file", key.as_str())];
    let with = |more: &[(&'static str, String)]| -> Vec<(&'static str, String)> {
        let common = common.iter().map(|(name, value)| (*name, (*value).to_owned()));
        common.chain(more.iter().cloned()).collect()
    };
    let check = |more: &[(&'static str, String)], code, parts: &[&str]| {
        let changes = with(more);
        let changes: Vec<_> = changes.iter().map(|(name, value)| (*name, value.as_str())).collect();
        check(&guard, &redis, &changes, code, parts);
    };
    let plain = ("fleet.url", format!("[\"{url}\"]"));
    let secret = ("fleet.password_file", password.clone());
    let by = |user: &str| [("fleet.url", as_user(user)), secret.clone()];
    check(
        std::slice::from_ref(&plain),
        0,
        &[
            "10.78.1.1:6379: redis ",
            "in clear text, as user default; answers in ",
            "10.78.1.1:6379: all that the guard needs is allowed",
            "no other edge has been here yet",
        ],
    );
    check(&by("fleet"), 0, &["as user fleet", "all that the guard needs is allowed"]);
    let allow = |user: &str| format!("ACL SETUSER {user} ~sg:{{edge}}:* +@stream ");
    check(
        &by("some"),
        1,
        &["user some may not use EVALSHA, XADD, XREAD, XRANGE, XREVRANGE, XTRIM on the fleet's keys: ", &allow("some")],
    );
    check(&by("endless"), 1, &["user endless may not use PEXPIREAT on the fleet's keys: ", &allow("endless")]);
    check(
        &by("elsewhere"),
        1,
        &["user elsewhere may not use PEXPIREAT, HGETALL on the fleet's keys: ", &allow("elsewhere")],
    );
    check(&by("nobody"), 1, &["set fleet.password_file, and the user in fleet.url"]);
    // What can't be reached, beside one that can.
    let dead = ("fleet.url", format!("[\"redis://10.78.1.77:6379\", \"redis://nowhere.invalid\", \"{url}\"]"));
    check(
        &[dead],
        1,
        &[
            "10.78.1.77:6379: ",
            "nowhere.invalid:6379: ",
            "is it started, and may this host connect to it?",
            "10.78.1.1:6379: all that the guard needs is allowed",
            "2 of 3 servers of the fleet can't be used now",
        ],
    );
    let tls = ("fleet.url", format!("[\"{}\"]", url.replace("redis://", "rediss://")));
    check(&[tls], 1, &["error: 10.78.1.1:6379: "]);
    // Another edge, with the same key and with another one.
    let other = edge(&worlds[1], 1, &redis.url(1), &files, &[]);
    joined(&other);
    check(std::slice::from_ref(&plain), 0, &["the key is the same as that of mx2"]);
    let foreign = [plain.clone(), ("fleet.key_file", files.path("other"))];
    check(&foreign, 1, &["what mx2 says carries another key: put the same file in fleet.key_file"]);
    drop(other);
    // What the server itself can't do now.
    redis.cli(&["CONFIG", "SET", "maxmemory", "1"]).ok();
    check(std::slice::from_ref(&plain), 1, &["raise its maxmemory"]);
    redis.cli(&["CONFIG", "SET", "maxmemory", "0"]).ok();
    redis.cli(&["REPLICAOF", "10.78.1.1", "1"]).ok();
    check(std::slice::from_ref(&plain), 1, &["it is a replica, which takes no writes"]);
    redis.cli(&["REPLICAOF", "NO", "ONE"]).ok();
    redis.freeze();
    guard.configure(&[("fleet.node", "\"mx1\""), ("fleet.key_file", &key), ("fleet.url", &plain.1)]);
    let arguments = ["check", "--connect", "--user", "root", "--json"];
    let told = serde_json::from_str::<Value>(&guard.command(&arguments).stdout).unwrap();
    redis.thaw();
    check_answer(&arguments, &told);
    let server = &told["fleet_servers"][0];
    assert!(server["about"].is_null() && server["troubles"][0].as_str().unwrap().contains("is it started"), "{told:#}");
}

#[test]
#[ignore = "needs root and BPF"]
fn a_reload_joins_changes_and_leaves_a_fleet_while_sessions_and_decisions_stay() {
    let worlds = [World::new(), World::new()];
    let _sinks = [0, 1].map(|n| Sink::start(&worlds[n], 25, &[]));
    let redis = Redis::start(&worlds.each_ref(), &[]);
    let files = Files::new();
    let (key, known, url) = (files.path("key"), files.path("known"), format!("[\"{}\"]", redis.url(0)));
    let alone = [("recipients.known", known.as_str())];
    let member = [alone[0], ("fleet.url", &*url), ("fleet.node", "\"mx1\""), ("fleet.key_file", &*key)];
    let here = Guard::start(&worlds[0], &alone);
    let there = edge(&worlds[1], 1, &redis.url(1), &files, &[]);
    joined(&there);
    let session = Held::open(&worlds[0], Host::Attacker, &format!("{}:25", World::EDGE_FOR_ATTACKER), 1);
    assert_eq!(session.count("greeted"), 1);
    let reload = |changes: &[(&str, &str)]| {
        here.configure(changes);
        here.command(&["reload"])
    };
    let refused = here.command(&["fleet", "status"]);
    assert_eq!(refused.code(), 1);
    assert!(refused.stderr.contains("this edge takes part in no fleet: set url, key_file and node"), "{refused:?}");
    ban(&here, "203.0.113.1");
    ban(&there, "203.0.113.2");
    // Joined: each hears what the other has decided before.
    reload(&member).ok();
    for guard in [&here, &there] {
        wait_until(guard, "both are in force", |guard| banned(guard) == ["203.0.113.1", "203.0.113.2"]);
        wait_until(guard, "both edges are known", |guard| live(guard) == ["mx1", "mx2"]);
    }
    // Two servers, of which the first one is dead.
    let urls = format!("[\"redis://10.78.1.1:1\", \"{}\"]", redis.url(0));
    let two = [member[0], ("fleet.url", &*urls), member[2], member[3]];
    reload(&two).ok();
    wait_until(&here, "the second one answers", |guard| fleet(guard)["server"] == "10.78.1.1:6379");
    assert_eq!(banned(&here), ["203.0.113.1", "203.0.113.2"]);
    // It only follows: what is decided here stays here.
    let follows = [&member[..], &[("fleet.share", "\"receive\"")]].concat();
    reload(&follows).ok();
    wait_until(&here, "it follows", |guard| fleet(guard)["snapshots"].as_u64().unwrap() > 0);
    assert_eq!((&fleet(&here)["sends"], &fleet(&here)["receives"]), (&false.into(), &true.into()));
    ban(&here, "203.0.113.3");
    ban(&there, "203.0.113.4");
    wait_until(&here, "the other's is in force", |guard| banned(guard).contains(&"203.0.113.4".to_owned()));
    assert!(!banned(&there).contains(&"203.0.113.3".to_owned()));
    // Another fleet on the same server: nobody is there.
    let other = [&member[..], &[("fleet.name", "\"other\"")]].concat();
    reload(&other).ok();
    wait_until(&here, "it is alone there", |guard| live(guard) == ["mx1"] && fleet(guard)["name"] == "other");
    let all = ["203.0.113.1", "203.0.113.2", "203.0.113.3", "203.0.113.4"];
    assert_eq!(banned(&here), all);
    // What can't be used changes nothing.
    let missing = [member[0], member[1], member[2], ("fleet.key_file", "\"/nowhere/key\"")];
    assert_eq!(reload(&missing).code(), 78);
    assert_eq!(fleet(&here)["name"], "other");
    // Left: what was decided stays, also of others.
    reload(&alone).ok();
    assert_eq!(here.command(&["fleet", "status"]).code(), 1);
    assert_eq!(here.json(&["status"])["fleet"], Value::Null);
    assert!(!here.metrics().contains("smtp_guard_fleet_connected"));
    assert_eq!(banned(&here), all);
    assert_eq!((session.count("greeted"), session.count("closed")), (1, 0));
    wait_until(&there, "it is missed", |guard| live(guard) == ["mx2"]);
}
