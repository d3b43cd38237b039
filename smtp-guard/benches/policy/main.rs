//! What policy costs: a decision by itself, with DNS alive, slow and dead, and memory for a million sources.
//! `cargo xtask bench policy` runs it.
//!
//! A decision is one RCPT through the session: its facts are asked for, judged, and the recipient goes on to the backend.
//! Times of DNS are those of a whole answer, over loopback, from a server that answers everything; medians.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a bench fails by panicking")]

mod dns;
mod memory;

use std::sync::Arc;
use std::time::{Duration, Instant as StdInstant};

use smtp_guard::addr::ClientAddr;
use smtp_guard::config::{Checks, Config, Mode, Role};
use smtp_guard::facts::dns::{Reverse, SenderDomain};
use smtp_guard::policy::checks::Found;
use smtp_guard::session::{Facts, Input, Opening, Output, Session, Upstream};
use smtp_guard::snapshot::Snapshot;
use smtp_guard::wire::command;
use smtp_guard::wire::reply::Reply;

const DECISIONS: u32 = 200_000;
const ROUNDS: usize = 9;

fn main() {
    if memory::is_row() {
        return;
    }
    let decision = median((0..ROUNDS).map(|_| decisions()));
    println!("one decision without DNS (all checks on, facts at hand): {} ns", decision.as_nanos());
    dns::run();
    memory::run();
}

/// The mean time of a recipient.
fn decisions() -> Duration {
    let mut config = Config::builtin();
    config.relay.domains = vec!["example.org".to_owned()];
    config.limits.recipients = u32::MAX;
    config.checks = Checks { ptr: Mode::Enforce, ptr_forward: Mode::Enforce, ..Checks::default() };
    let rules = Arc::new(Snapshot::new(Arc::new(config), None));
    let clock = smtp_guard::clock::both();
    let mut out = Vec::new();
    let opening = Opening {
        id: "bench".to_owned(),
        addr: ClientAddr::new("192.0.2.1:25".parse().unwrap()),
        role: Role::Mx,
        secured: None,
        rules,
        backend: Arc::default(),
        familiar: true,
        clock,
    };
    let mut session = Session::open(opening, &mut out);
    let now = clock.instant;
    let yes = || Input::Upstream(Upstream::Reply(Reply::new(250, None, "Ok")));
    let line = |session: &mut Session, line: &str, out: &mut Vec<Output>| {
        session.step(Input::Command { command: command::parse(line.as_bytes()), more: false }, now, out);
    };
    line(&mut session, "EHLO client.example", &mut out);
    line(&mut session, "MAIL FROM:<a@client.example>", &mut out);
    session.step(yes(), now, &mut out);
    let found = Arc::new(Found {
        sender: Some(Ok(SenderDomain::Exists)),
        reverse: Some(Ok(Reverse::Names { names: vec!["client.example".into()], forward: None })),
        lists: Vec::new(),
    });
    let mut spent = Duration::ZERO;
    for n in 0..DECISIONS {
        let text = format!("RCPT TO:<user{}@example.org>", n % 1000);
        let command = command::parse(text.as_bytes());
        out.clear();
        let started = StdInstant::now();
        session.step(Input::Command { command, more: false }, now, &mut out);
        let facts = Facts { found: Some(Arc::clone(&found)), ..Facts::default() };
        session.step(Input::Facts(facts), now, &mut out);
        spent += started.elapsed();
        assert!(matches!(out.last(), Some(Output::Request(_))), "{out:?}");
        session.step(yes(), now, &mut out);
    }
    spent / DECISIONS
}

fn median(times: impl Iterator<Item = Duration>) -> Duration {
    let mut times: Vec<_> = times.collect();
    times.sort_unstable();
    times[times.len() / 2]
}
