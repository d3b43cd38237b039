//! Output of a stress run: a line now and then, and its figures in the end.

use std::fmt;
use std::time::{Duration, Instant};

use super::crew::Tally;
use super::ends::End;
use super::{EVENTS, HOSTS, KILLED, Plan, TELL};

/// The figures.
#[derive(Debug)]
pub struct Report {
    plan: Plan,
    done: Tally,
    /// While clients ran.
    busy: Duration,
    told: Instant,
    /// By the edge's kernel: all that completed their handshake.
    pub(super) established: u64,
    pub(super) fast: u64,
    pub(super) by_cookie: u64,
    /// By a late ACK that was a valid cookie.
    pub(super) brought_back: usize,
    pub(super) forged: u64,
    pub(super) passes: u64,
    /// Bytes of the kernel's memory that are used more than before.
    pub(super) memory: u64,
}

impl Report {
    pub(super) fn new(plan: Plan) -> Self {
        Self {
            plan,
            done: Tally::default(),
            busy: Duration::ZERO,
            told: Instant::now(),
            established: 0,
            fast: 0,
            by_cookie: 0,
            brought_back: 0,
            forged: 0,
            passes: 0,
            memory: 0,
        }
    }

    /// Says how far it is, now and then.
    pub(super) fn progress(&mut self, round: u64, tally: &Tally, elapsed: Duration) {
        if self.told.elapsed() < TELL {
            return;
        }
        self.told = Instant::now();
        let (ended, all) = (self.done.ended() + tally.ended(), self.plan.connections);
        let rate = tally.ended() as f64 / elapsed.as_secs_f64();
        println!("round {} of {}: {ended} of {all} connections, {rate:.0} a second", round + 1, self.plan.rounds);
    }

    /// Adds a round.
    pub(super) fn round(&mut self, tallies: impl Iterator<Item = Tally>, elapsed: Duration) {
        for tally in tallies {
            self.done.add(&tally);
        }
        self.busy += elapsed;
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { plan, done, .. } = self;
        let rounds = plan.rounds;
        writeln!(f, "seed {}, {rounds} rounds", plan.seed)?;
        let rate = self.established as f64 / self.busy.as_secs_f64();
        writeln!(
            f,
            "{:>9} connections established in {:.1} s, {rate:.0} a second",
            self.established,
            self.busy.as_secs_f64()
        )?;
        writeln!(f, "{:>9} of them by Fast Open, {} by SYN cookie", self.fast, self.by_cookie)?;
        for (label, count) in End::labels().zip(done.ends) {
            writeln!(f, "{count:>9} {label}")?;
        }
        writeln!(f, "{:>9} ended otherwise: the server was killed", done.interrupted)?;
        writeln!(f, "{:>9} attempts that found no server or timed out", done.not_connected)?;
        let killed = KILLED * HOSTS.len() as u64;
        writeln!(
            f,
            "{:>9} times {killed} connections killed with their clients, and {killed} with the server",
            rounds
        )?;
        let replaced = rounds * (EVENTS.len() as u64 - 2);
        writeln!(f, "{replaced:>9} times the program replaced under load")?;
        writeln!(f, "{:>9} forged segments", self.forged)?;
        writeln!(f, "{:>9} connections brought back by a late ACK, valid as a SYN cookie", self.brought_back)?;
        writeln!(f, "{:>9} passes of reconciliation, which took back nothing", self.passes)?;
        writeln!(f, "{:>9} KiB more of the kernel's memory in use", self.memory / 1024)?;
        write!(f, "after each round: 0 counted, 0 sockets, 0 entries, 0 not counted, bans as they were")
    }
}
