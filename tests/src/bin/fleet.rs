//! `cargo xtask bench fleet`: what a fleet takes and gives, as Markdown. Three guards, a Redis and everybody else are in namespaces of
//! this run's own.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test tool fails by panicking")]

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use clap::Parser;
use smtp_guard::clock;
use smtp_guard::config;
use smtp_guard::decision::Decision;
use smtp_guard::fleet::{Fleet, Settings};
use smtp_guard::offence::Conduct;
use smtp_guard_tests::fleet::{Files, drops, edge, joined, wait_until};
use smtp_guard_tests::probe::{answered, probe};
use smtp_guard_tests::sink::Sink;
use smtp_guard_tests::{Guard, Host, Redis, World, wait_up_to};

/// Reports a second, of all edges together.
const REPORTS: u32 = 5_000;
/// Decisions a second of one edge: who makes more than 600 in a minute is muted.
const DECISIONS: u32 = 10;
/// Sources that reports are about: none of them does enough to be banned.
const SOURCES: u32 = 30_000;
/// Sessions at once while the time of RCPT is taken.
const SESSIONS: usize = 4;
/// Room for all sources.
const ROOM: (&str, &str) = ("edge.max_sources", "300000");

#[derive(Parser)]
struct Arguments {
    /// Bans, and lifts, from one edge to another
    #[arg(long, default_value_t = 30)]
    bans: usize,
    /// Of each state of the server, for the time of RCPT
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// For which CPU is measured
    #[arg(long, default_value_t = 15)]
    seconds: u32,
    /// That the server holds when an edge starts
    #[arg(long, default_value_t = 100_000)]
    decisions: u32,
}

fn main() {
    let Arguments { bans, rounds, seconds, decisions } = Arguments::parse();
    let worlds = [World::new(), World::new(), World::new(), World::new()];
    let _sinks = [0, 1, 2, 3].map(|n| Sink::start(&worlds[n], 25, &[]));
    let [one, other, third, alone] = &worlds;
    let mut redis = Redis::start(&[one, other, third], &[]);
    let files = Files::new();
    println!("{}; load at the start {}", Redis::version(), fs::read_to_string("/proc/loadavg").unwrap().trim());
    println!("| figure | here |\n|---|---|");
    {
        let guards =
            [(one, 0), (other, 1), (third, 2)].map(|(world, n)| edge(world, n, &redis.url(n), &files, &[ROOM]));
        guards.iter().for_each(joined);
        if bans > 0 {
            from_ban_to_drop(&guards, [one, other], bans);
        }
        if seconds > 0 {
            cpu(&guards, &worlds, &redis, &files, seconds);
        }
    }
    if rounds > 0 {
        let with = edge(one, 0, &redis.url(0), &files, &[ROOM]);
        joined(&with);
        let without = Guard::start(alone, &[ROOM, ("recipients.known", &*files.path("known"))]);
        rcpt(&mut redis, [(one, &with), (alone, &without)], rounds);
    }
    start(&worlds, &mut redis, &files, decisions);
    println!("\nLoad at the end {}", fs::read_to_string("/proc/loadavg").unwrap().trim());
}

/// `median (least to most)` of some times.
fn spread(mut times: Vec<Duration>) -> String {
    times.sort_unstable();
    let ms = |n: usize| format!("{:.1}", times[n].as_secs_f64() * 1e3);
    format!("{} ms ({} to {} ms, {} times)", ms(times.len() / 2), ms(0), ms(times.len() - 1), times.len())
}

/// Sends one line of SMTP and returns the reply.
fn say(stream: &mut BufReader<TcpStream>, line: &str) -> Option<String> {
    if !line.is_empty() {
        stream.get_mut().write_all(format!("{line}\r\n").as_bytes()).ok()?;
    }
    let mut text = String::new();
    loop {
        let start = text.len();
        if stream.read_line(&mut text).ok()? == 0 {
            return None;
        }
        if text.as_bytes()[start..].get(3) != Some(&b'-') {
            return Some(text);
        }
    }
}

/// A session after EHLO, of a client on `host` of `world`; the calling thread is there from now on.
fn session(world: &World, host: Host, edge: &str) -> BufReader<TcpStream> {
    world.enter(host);
    let address: SocketAddr = format!("{edge}:25").parse().unwrap();
    let stream = TcpStream::connect_timeout(&address, Duration::from_secs(5)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut stream = BufReader::new(stream);
    for line in ["", "EHLO client.example"] {
        say(&mut stream, line).expect("a reply");
    }
    stream
}

/// From the tenth guess at the first edge to the first dropped packet at the second one; and from a lift at the first one until
/// all have confirmed it.
fn from_ban_to_drop(guards: &[Guard; 3], [one, other]: [&World; 2], bans: usize) {
    let (mut to_drop, mut to_lift) = (Vec::new(), Vec::new());
    let from: Ipv4Addr = World::ATTACKER.parse().unwrap();
    let to = SocketAddrV4::new(World::EDGE_FOR_ATTACKER.parse().unwrap(), 25);
    for round in 0..bans {
        let stop = AtomicBool::new(false);
        let dropped = std::thread::scope(|scope| {
            let listener = scope.spawn(|| {
                other.enter(Host::Attacker);
                answered(to, &stop)
            });
            let crossing = scope.spawn(|| {
                let mut stream = session(one, Host::Attacker, World::EDGE_FOR_ATTACKER);
                say(&mut stream, "MAIL FROM:<x@attacker.example>").unwrap();
                for n in 0..9 {
                    say(&mut stream, &format!("RCPT TO:<guess{round}-{n}@example.org>")).unwrap();
                }
                std::thread::sleep(Duration::from_millis(200));
                let asked = Instant::now();
                let _ = say(&mut stream, &format!("RCPT TO:<guess{round}-9@example.org>"));
                std::thread::sleep(Duration::from_millis(400));
                stop.store(true, Ordering::Relaxed);
                asked
            });
            let sender = scope.spawn(|| {
                other.enter(Host::Attacker);
                probe(from, to, &stop)
            });
            let (sent, asked) = (sender.join().unwrap(), crossing.join().unwrap());
            stop.store(true, Ordering::Relaxed);
            let answered = listener.join().unwrap();
            let last = sent.iter().rposition(|(port, _)| answered[usize::from(*port)]).expect("no answer");
            sent.get(last + 1).map(|(_, at)| at.saturating_duration_since(asked))
        });
        to_drop.push(dropped.expect("it is dropped within 400 ms"));
        guards.iter().for_each(|guard| wait_until(guard, "it drops", drops));
        let started = Instant::now();
        let answer = delete(&guards[0]);
        to_lift.push(started.elapsed());
        assert!(answer.contains("\"unconfirmed\":[]") || !answer.contains("unconfirmed"), "{answer}");
    }
    println!(
        "| from the guess that crosses the line on one edge to the first packet that another drops | {} |",
        spread(to_drop)
    );
    println!("| from a lift on one edge until all three have confirmed it | {} |", spread(to_lift));
}

/// Lifts the ban of the attacker, without starting a process.
fn delete(guard: &Guard) -> String {
    let config = fs::read_to_string(guard.config()).unwrap();
    let socket = config.lines().find_map(|line| line.strip_prefix("socket = ")).unwrap().trim_matches('"').to_owned();
    let mut socket = UnixStream::connect(socket).unwrap();
    let path = format!("/decisions/{}", World::ATTACKER);
    write!(socket, "DELETE {path} HTTP/1.1\r\nHost: smtp-guard\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    answer
}

/// An edge that only tells, in this process: by the same code as in the guard.
fn teller(world: &World, name: &str, url: &str, files: &Files) -> Fleet {
    let folder = tempfile::tempdir().unwrap();
    let (path, key) = (folder.path().join("smtp-guard.toml"), files.path("key"));
    let text = format!(
        "hostname = \"mx.example.org\"\n[[listen]]\naddress = \"127.0.0.1:25\"\n[backend]\nservers = [\"{}:25\"]\n\
         [relay]\ndomains = [\"example.org\"]\n[fleet]\nurl = [\"{url}\"]\nkey_file = {key}\nnode = \"{name}\"\nshare = \"send\"\n",
        World::BACKEND
    );
    fs::write(&path, text).unwrap();
    let settings = Settings::load(&config::load(&path).unwrap()).unwrap();
    let (fleet, mut events) = Fleet::new();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // Its threads stay where they are started.
            world.enter(Host::Edge);
            fleet.apply(settings);
        });
    });
    std::thread::spawn(move || while events.blocking_recv().is_some() {});
    let answers = || fleet.status().is_some_and(|status| status.connected).then_some(());
    wait_up_to(Duration::from_secs(10), "the server answers", answers, String::new);
    fleet
}

/// The `n`th of many sources.
fn source(n: u32) -> String {
    Ipv4Addr::from_bits(Ipv4Addr::new(20, 0, 0, 0).to_bits() + n).to_string()
}

/// A decision about the `n`th source, made `ago` before now.
fn decision(n: u32, ago: Duration) -> Decision {
    let both = clock::both();
    let wall = |ms: i128| both.wall.later(ms as i64);
    let evidence = (0..6).map(|line| format!("unknown: nobody{n}-{line}@example.org at 12:34:56")).collect();
    Decision {
        source: source(1_000_000 + n),
        reason: "harvest".to_owned(),
        text: String::new(),
        origin: "ledger".to_owned(),
        origin_name: None,
        made: wall(-(ago.as_millis() as i128)),
        until: wall(86_400_000),
        repeat: 0,
        evidence,
    }
}

/// User and system time of some threads or processes, by the `stat` files of these.
fn ticks(stat: &Path) -> f64 {
    let stat = fs::read_to_string(stat).unwrap();
    let fields: Vec<_> = stat.rsplit(") ").next().unwrap().split(' ').collect();
    fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()
}

/// CPU of each edge and of the server, where edges tell as much as they may.
fn cpu(guards: &[Guard; 3], worlds: &[World; 4], redis: &Redis<'_>, files: &Files, seconds: u32) {
    let tellers = [0, 1, 2].map(|n| teller(&worlds[n], &format!("teller{n}"), &redis.url(n), files));
    let own = || -> f64 {
        let tasks = fs::read_dir("/proc/self/task").unwrap().flatten().map(|task| task.path());
        let fleet = tasks.filter(|task| fs::read_to_string(task.join("comm")).is_ok_and(|name| name.trim() == "fleet"));
        fleet.map(|task| ticks(&task.join("stat"))).sum()
    };
    let of = |pid: i32| ticks(Path::new(&format!("/proc/{pid}/stat")));
    let all = || {
        let nodes: f64 = guards.iter().map(|guard| of(guard.pid())).sum();
        [nodes / 3.0, own() / 3.0, of(redis.pid())]
    };
    let conduct =
        |n: u32| Conduct::UnknownRecipient { recipient: format!("no{n}@example.org").into(), returned: false };
    let told = || tellers.iter().map(|teller| teller.status().unwrap().reports_sent).sum::<u64>();
    let idle = {
        let before = all();
        std::thread::sleep(Duration::from_secs(5));
        all().iter().zip(before).map(|(now, before)| (now - before) / 5.0).collect::<Vec<_>>()
    };
    let (before, sent, started) = (all(), told(), Instant::now());
    let (mut reports, mut decisions) = (0, 0);
    while started.elapsed() < Duration::from_secs(seconds.into()) {
        let elapsed = started.elapsed().as_secs_f64();
        while f64::from(reports) < elapsed * f64::from(REPORTS) {
            tellers[reports as usize % 3].report(&source(reports % SOURCES), clock::now(), &conduct(reports));
            reports += 1;
        }
        while f64::from(decisions) < elapsed * f64::from(DECISIONS) * 3.0 {
            tellers[decisions as usize % 3].decided(decision(decisions, Duration::ZERO), None, clock::both());
            decisions += 1;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    let seconds = started.elapsed().as_secs_f64();
    let (after, sent) = (all(), told() - sent);
    // Ticks are 10 ms.
    let share = |n: usize| format!("{:.1} %", (after[n] - before[n]) / seconds);
    println!(
        "| CPU of an edge that hears {:.0} reports and {:.0} decisions a second, in parts of a core | {} (idle {:.1} %) |",
        sent as f64 / seconds,
        f64::from(decisions) / seconds,
        share(0),
        idle[0]
    );
    println!("| CPU of the telling of an edge, a third of these | {} (idle {:.1} %) |", share(1), idle[1]);
    println!("| CPU of the server | {} (idle {:.1} %) |", share(2), idle[2]);
}

/// The time of RCPT and messages a second, without a fleet and in each state of the server.
fn rcpt(redis: &mut Redis<'_>, [with, without]: [(&World, &Guard); 2], rounds: usize) {
    const STATES: [&str; 4] = ["without a fleet", "the server answers", "the server is stopped", "the server is gone"];
    let mut found: Vec<(Vec<Duration>, Vec<f64>)> = vec![Default::default(); STATES.len()];
    for round in 0..rounds {
        // Who has no fleet is the first, or the last.
        let order = if round % 2 == 0 { [0, 1, 2, 3] } else { [1, 2, 3, 0] };
        for state in order {
            let (times, rates) = &mut found[state];
            match state {
                2 => redis.freeze(),
                3 => {
                    redis.thaw();
                    redis.kill9();
                }
                _ => {}
            }
            let (world, _) = if state == 0 { without } else { with };
            let (more, rate) = load(world, Duration::from_secs(3));
            times.extend(more);
            rates.push(rate);
        }
        redis.run();
        let answers = || with.1.log().trim_end().lines().rev().take(20).any(|line| line.contains("server answers"));
        wait_up_to(Duration::from_secs(20), "it answers", || answers().then_some(()), || with.1.log());
    }
    for (name, (mut times, mut rates)) in STATES.into_iter().zip(found) {
        times.sort_unstable();
        rates.sort_by(f64::total_cmp);
        let us = |part: f64| times[(times.len() as f64 * part) as usize].as_micros();
        println!(
            "| RCPT p50 and p99, {name}; messages a second | {} us, {} us ({} of them); {:.0} ({:.0} to {:.0}) |",
            us(0.5),
            us(0.99),
            times.len(),
            rates[rates.len() / 2],
            rates[0],
            rates[rates.len() - 1]
        );
    }
}

/// Mail for `time`: how long each RCPT took, and messages a second.
fn load(world: &World, time: Duration) -> (Vec<Duration>, f64) {
    let started = Instant::now();
    let sessions = std::thread::scope(|scope| {
        let send = || {
            let mut times = Vec::new();
            let mut stream = session(world, Host::Client, World::EDGE_FOR_CLIENT);
            let mut taken = 0u32;
            while started.elapsed() < time {
                let mut lines = Vec::new();
                for line in [
                    "MAIL FROM:<a@client.example>",
                    "RCPT TO:<alice@example.org>",
                    "DATA",
                    "Subject: x\r\n\r\ntext\r\n.",
                ] {
                    let asked = Instant::now();
                    lines.push(say(&mut stream, line));
                    if line.starts_with("RCPT") {
                        times.push(asked.elapsed());
                    }
                }
                if lines[3].as_ref().is_some_and(|reply| reply.starts_with("250")) {
                    taken += 1;
                } else {
                    stream = session(world, Host::Client, World::EDGE_FOR_CLIENT);
                }
            }
            (times, taken)
        };
        let threads: Vec<_> = (0..SESSIONS).map(|_| scope.spawn(send)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
    });
    let taken: u32 = sessions.iter().map(|(_, taken)| *taken).sum();
    let times = sessions.into_iter().flat_map(|(times, _)| times).collect();
    (times, f64::from(taken) / started.elapsed().as_secs_f64())
}

/// An edge that starts while the server holds many decisions; and what these take of an edge that is there.
fn start(worlds: &[World; 4], redis: &mut Redis<'_>, files: &Files, decisions: u32) {
    redis.cli(&["FLUSHALL"]).ok();
    let there = edge(&worlds[0], 0, &redis.url(0), files, &[ROOM]);
    joined(&there);
    let before = rss(&there);
    let teller = teller(&worlds[1], "teller", &redis.url(1), files);
    let started = Instant::now();
    for n in 0..decisions {
        // As many as may be in a minute: nobody is muted.
        let ago = Duration::from_secs(60 * (u64::from(n) / 500));
        assert!(teller.decided(decision(n, ago), None, clock::both()), "there is room");
    }
    let held = || (redis.cli(&["ZCARD", "sg:{edge}:di"]).ok().trim() == decisions.to_string()).then_some(());
    wait_up_to(Duration::from_secs(300), "all are on the server", held, || format!("{:?}", teller.status()));
    let wrote = started.elapsed();
    let follows = || (bans(&there) >= u64::from(decisions)).then_some(());
    wait_up_to(Duration::from_secs(300), "all are in force", follows, || there.log());
    let followed = started.elapsed();
    let many = |seconds: f64| f64::from(decisions) / seconds;
    println!(
        "| {decisions} decisions at once: on the server, and in force on an edge | {:.1} s and {:.1} s ({:.0} a second) |",
        wrote.as_secs_f64(),
        followed.as_secs_f64(),
        many(followed.as_secs_f64())
    );
    println!("| memory of that edge before and after | {before:.1} MiB and {:.1} MiB |", rss(&there));
    println!(
        "| memory of the server for them | {} |",
        redis
            .cli(&["INFO", "memory"])
            .ok()
            .lines()
            .find_map(|line| line.strip_prefix("used_memory_human:"))
            .unwrap_or_default()
    );
    let started = Instant::now();
    let new = edge(&worlds[2], 2, &redis.url(2), files, &[ROOM]);
    let runs = started.elapsed();
    let follows = || new.log().contains("the fleet's decisions are in force").then_some(());
    wait_up_to(Duration::from_secs(300), "all are in force", follows, || new.log());
    let all = started.elapsed();
    let busy = ticks(Path::new(&format!("/proc/{}/stat", new.pid()))) / 100.0;
    assert_eq!(bans(&new), u64::from(decisions), "in the kernel");
    println!(
        "| an edge that starts with {decisions} decisions on the server: all in force in both planes | {:.1} s from its start, which takes {:.1} s by itself; {busy:.1} s of CPU |",
        all.as_secs_f64(),
        runs.as_secs_f64()
    );
}

/// Sources and networks that the kernel of an edge drops.
fn bans(guard: &Guard) -> u64 {
    guard.json(&["edge", "status"])["bans_active"].as_u64().expect("bans_active")
}

/// MiB in memory.
fn rss(guard: &Guard) -> f64 {
    let status = fs::read_to_string(format!("/proc/{}/status", guard.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<f64>().unwrap() / 1024.0
}
