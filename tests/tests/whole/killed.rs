//! SIGKILL at random moments under load: guard and backend, a hundred times each in a long run.
//!
//! The clients do as mail servers do: they send a message again until it was acknowledged, one command at a time,
//! pipelined, or in chunks. At the end all acknowledged messages must be at the backend. Each message that the backend
//! took twice needs an excuse: the client lost its connection after the dot and before a reply (the guard was killed), or
//! the guard's log says `ambiguous` (the backend was).
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use smtp_guard_tests::postfix::header;
use smtp_guard_tests::{Guard, Host, Postfix, World, guard::netkit, long, wait_for};

/// Kills of a short run, and of a long one.
const KILLS: [u64; 2] = [12, 100];
/// Each client sends in a manner of its own.
const CLIENTS: [&str; 4] = ["lines", "pipelined", "chunks", "pipelined-chunks"];
/// Queue files get names that are used once only: they tell messages apart that the backend took. And what a killed delivery
/// has put off is tried again at once: left to itself, after as long as the message is old.
const LONG_NAMES: &str = "enable_long_queue_ids = yes
maximal_queue_lifetime = 1d
minimal_backoff_time = 1s
maximal_backoff_time = 1s
queue_run_delay = 1s
";

/// The clients of one test.
struct Load {
    clients: Vec<Child>,
    folder: tempfile::TempDir,
}

impl Load {
    fn start(world: &World) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let server = format!("{}:25", World::EDGE_FOR_CLIENT);
        let start = |manner: &str| {
            let output = File::create(folder.path().join(manner)).unwrap();
            let mut command = world.on(Host::Client, &netkit());
            command.args(["persist", &server, manner, manner]).stdin(Stdio::piped()).stdout(output);
            command.spawn().unwrap()
        };
        Self { clients: CLIENTS.map(start).into(), folder }
    }

    /// The messages that the client of this manner has printed with `mark`.
    fn marked_by(&self, manner: &str, mark: &str) -> Vec<String> {
        let text = fs::read_to_string(self.folder.path().join(manner)).unwrap();
        text.lines().filter_map(|line| Some(line.strip_prefix(mark)?.trim().to_owned())).collect()
    }

    fn marked(&self, mark: &str) -> Vec<String> {
        CLIENTS.iter().flat_map(|manner| self.marked_by(manner, mark)).collect()
    }

    fn stop(&mut self) {
        for client in &mut self.clients {
            drop(client.stdin.take());
            let _ = client.wait();
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        for client in &mut self.clients {
            let _ = client.kill();
            let _ = client.wait();
        }
    }
}

/// How often the backend took each message, by its own names for them.
fn taken(postfix: &Postfix) -> HashMap<String, HashSet<String>> {
    let mut taken: HashMap<String, HashSet<String>> = HashMap::new();
    for message in postfix.messages() {
        let id = header(&message, "Message-Id").unwrap();
        // `from ... by backend.example.org (Postfix) with ESMTP id 4XyZ for ...`
        let received = header(&message, "Received").unwrap();
        let name = received.split(" id ").nth(1).and_then(|rest| rest.split([' ', ';']).next()).unwrap().to_owned();
        taken.entry(id.trim_matches(['<', '>']).to_owned()).or_default().insert(name);
    }
    taken
}

/// Kills by `kill` at random moments, which returns a log that is lost by that, and judges what came of it.
fn check(
    world: &World,
    postfix: Postfix,
    guard: Guard<'_>,
    kill: impl Fn(&World, &mut Postfix, &mut Guard<'_>) -> String,
) {
    let (mut postfix, mut guard) = (postfix, guard);
    let mut load = Load::start(world);
    // Moments that differ from run to run would make a failure hard to see again; these are as good.
    let mut random = 0x2545_f491_4f6c_dd1d_u64;
    let mut logs = String::new();
    let kills = long::amount(KILLS[0], KILLS[1]);
    for _ in 0..kills {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        std::thread::sleep(Duration::from_micros(random % 120_000));
        logs += &kill(world, &mut postfix, &mut guard);
    }
    let enough = load.marked("+").len();
    wait_for("mail after the last kill", || (load.marked("+").len() > enough).then_some(()), || guard.log());
    load.stop();
    logs += &guard.log();

    for manner in CLIENTS {
        assert!(!load.marked_by(manner, "+").is_empty(), "no mail in the manner {manner}");
    }
    let (acknowledged, unanswered) = (load.marked("+"), load.marked("?"));
    let missing = || -> Vec<String> {
        let taken = taken(&postfix);
        acknowledged.iter().filter(|id| !taken.contains_key(*id)).cloned().collect()
    };
    wait_for(
        "all that was acknowledged",
        || missing().is_empty().then_some(()),
        || format!("missing: {:?}\n{}", missing(), postfix.log()),
    );
    // What was cut off while it was written stays in the queue for ever; the rest is delivered.
    let mut last = (postfix.messages().len(), Instant::now());
    let settled = || {
        let now = postfix.messages().len();
        if now != last.0 {
            last = (now, Instant::now());
        }
        (last.1.elapsed() > Duration::from_secs(3)).then_some(())
    };
    wait_for("the last delivery", settled, || postfix.log());
    let ambiguous: HashSet<_> =
        logs.lines().filter(|line| line.contains("\"outcome\":\"ambiguous\"")).map(str::to_owned).collect();
    let excused =
        |id: &String| unanswered.contains(id) || ambiguous.iter().any(|line| line.contains(&format!("<{id}>")));
    let taken = taken(&postfix);
    let doubled: Vec<_> = taken.iter().filter(|(_, names)| names.len() > 1).map(|(id, _)| id).collect();
    println!(
        "{kills} kills: {} acknowledged, 0 missing, {} taken twice, {} unanswered at the client, {} ambiguous in the log",
        acknowledged.len(),
        doubled.len(),
        unanswered.len(),
        ambiguous.len()
    );
    let without: Vec<_> = doubled.into_iter().filter(|id| !excused(id)).collect();
    assert!(without.is_empty(), "taken twice, and nobody says why: {without:?}");
}

fn quick(world: &World) -> Guard<'_> {
    let mut guard = Guard::configured(world, &[("edge.interfaces", "[]"), ("limits.session_time", "\"10m\"")]);
    guard.run();
    guard
}

#[test]
#[ignore = "needs root and BPF"]
fn a_guard_killed_at_any_moment_loses_nothing_that_it_acknowledged() {
    let world = World::new();
    let postfix = Postfix::start(&world, LONG_NAMES);
    let guard = quick(&world);
    check(&world, postfix, guard, |_, _, guard| {
        let log = guard.log();
        guard.kill9();
        guard.run();
        log
    });
}

#[test]
#[ignore = "needs root and BPF"]
fn a_backend_killed_at_any_moment_loses_nothing_that_was_acknowledged() {
    let world = World::new();
    let postfix = Postfix::start(&world, LONG_NAMES);
    let guard = quick(&world);
    check(&world, postfix, guard, |world, postfix, _| {
        postfix.kill9_and_restart(world);
        String::new()
    });
}
