//! The processes of the stress run: server, clients, holders. Each ends when its standard input closes, so none outlives
//! the run, however that ends.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::ends::{End, Peer};
use super::paths;
use crate::guard::{Guard, beside, binary};
use crate::netns::{Host, World};
use crate::process::Program;

/// Without any news from the clients.
const STALLED: Duration = Duration::from_secs(60);

/// A process of ours.
#[derive(Debug)]
struct Member {
    child: Child,
}

impl Member {
    fn start(world: &World, host: Host, arguments: &[String]) -> (Self, BufReader<ChildStdout>) {
        let mut command: Command = world.on(host, &beside("stress"));
        let mut child = command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        (Self { child }, output)
    }

    /// Starts it and waits for its first line.
    fn ready(world: &World, host: Host, arguments: &[String]) -> Self {
        let (member, mut output) = Self::start(world, host, arguments);
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        assert!(!line.is_empty(), "stress {arguments:?} ended before it was ready");
        member
    }

    /// SIGKILL; its kernel closes what it had open.
    fn kill9(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    fn assert_runs(&mut self) {
        let ended = self.child.try_wait().unwrap();
        assert!(ended.is_none(), "the server has ended by itself: {ended:?}");
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

/// The server on the edge.
#[derive(Debug)]
pub(super) struct Server<'a> {
    guard: &'a Guard<'a>,
    world: &'a World,
    peer: Peer,
    running: Running,
}

#[derive(Debug)]
enum Running {
    StandIn(Member),
    Guard(Program),
}

impl<'a> Server<'a> {
    pub(super) fn start(world: &'a World, guard: &'a Guard<'a>, peer: Peer) -> Self {
        Self { guard, world, peer, running: Self::run(world, guard, peer) }
    }

    fn run(world: &World, guard: &Guard<'_>, peer: Peer) -> Running {
        match peer {
            Peer::StandIn => Running::StandIn(Member::ready(world, Host::Edge, &["serve".to_owned()])),
            Peer::Guard => {
                let mut command = world.on(Host::Edge, &binary());
                let log = guard.config().with_file_name("log");
                let _ = fs::remove_file(&log);
                let mut program = Program::start(command.args(["run", "--config"]).arg(guard.config()), log);
                program.wait_for("smtp-guard runs");
                Running::Guard(program)
            }
        }
    }

    /// SIGKILL with all that it has open, and another one in its place.
    pub(super) fn kill9(&mut self) {
        match &mut self.running {
            Running::StandIn(member) => member.kill9(),
            Running::Guard(program) => program.kill9(),
        }
        self.running = Self::run(self.world, self.guard, self.peer);
    }

    pub(super) fn assert_runs(&mut self) {
        match &mut self.running {
            Running::StandIn(member) => member.assert_runs(),
            Running::Guard(program) => {
                program.assert_runs();
                let log = program.output();
                assert!(!log.contains("taken back"), "reconciliation took back what was right: {log}");
            }
        }
    }
}

/// Connections that a process holds.
#[derive(Debug)]
pub(super) struct Holder(Member);

impl Holder {
    /// Opens `count` connections from `host`, over all its ways.
    pub(super) fn open(world: &World, host: Host, peer: Peer, count: u64) -> Self {
        Self(Member::ready(world, host, &arguments("hold", peer, count, 0, host)))
    }

    /// SIGKILL with all of them open.
    pub(super) fn kill9(mut self) {
        self.0.kill9();
    }
}

fn arguments(command: &str, peer: Peer, count: u64, seed: u64, host: Host) -> Vec<String> {
    let ways = paths::ways(host);
    let addresses = ways.iter().map(|way| way.to.to_string());
    let peer = if peer == Peer::StandIn { "stand-in" } else { "guard" };
    [command.to_owned(), peer.to_owned(), count.to_string(), seed.to_string()].into_iter().chain(addresses).collect()
}

/// The clients' counts.
#[derive(Clone, Debug, Default)]
pub(super) struct Tally {
    pub ends: [u64; End::COUNT],
    pub interrupted: u64,
    pub not_connected: u64,
}

impl Tally {
    /// Connections that were established and have ended.
    pub(super) fn ended(&self) -> u64 {
        self.ends.iter().sum::<u64>() + self.interrupted
    }

    pub(super) fn add(&mut self, other: &Self) {
        for (sum, more) in self.ends.iter_mut().zip(other.ends) {
            *sum += more;
        }
        self.interrupted += other.interrupted;
        self.not_connected += other.not_connected;
    }

    fn read(line: &str) -> Self {
        let line: Value = serde_json::from_str(line).unwrap();
        let number = |value: &Value| value.as_u64().unwrap();
        Self {
            ends: std::array::from_fn(|n| number(&line["ends"][n])),
            interrupted: number(&line["interrupted"]),
            not_connected: number(&line["not_connected"]),
        }
    }
}

/// The clients of one host.
#[derive(Debug)]
pub(super) struct Clients {
    member: Member,
    tally: Arc<Mutex<Tally>>,
    reader: Option<std::thread::JoinHandle<()>>,
    /// When they last got on, and how far they were.
    news: (Instant, u64),
}

impl Clients {
    /// Starts clients on `host` that open `count` connections.
    pub(super) fn start(world: &World, host: Host, peer: Peer, count: u64, seed: u64) -> Self {
        let (member, output) = Member::start(world, host, &arguments("clients", peer, count, seed, host));
        let tally = Arc::<Mutex<Tally>>::default();
        let told = Arc::clone(&tally);
        let reader = std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                *told.lock().unwrap_or_else(PoisonError::into_inner) = Tally::read(&line);
            }
        });
        Self { member, tally, reader: Some(reader), news: (Instant::now(), 0) }
    }

    /// The clients' counts so far. Panics if they have got stuck.
    pub(super) fn tally(&mut self) -> Tally {
        let tally = self.tally.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if tally.ended() != self.news.1 {
            self.news = (Instant::now(), tally.ended());
        }
        assert!(self.news.0.elapsed() < STALLED, "the clients are stuck at {tally:?}");
        tally
    }

    /// Whether they are done.
    pub(super) fn ended(&mut self) -> bool {
        let Some(status) = self.member.child.try_wait().unwrap() else { return false };
        assert!(status.success(), "the clients failed ({status})");
        // Its last line has the whole of it.
        if let Some(reader) = self.reader.take() {
            reader.join().unwrap();
        }
        true
    }
}
