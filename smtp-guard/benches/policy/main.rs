//! The price of policy: a decision by itself, with DNS alive, slow and dead, and memory for a million sources.
//! `cargo xtask bench policy` runs it.
//!
//! A decision is one RCPT through the session: its facts are asked for, judged, and the recipient goes on to the backend.
//! Times of DNS are those of a whole answer, over loopback, from a server that answers everything; medians.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a bench fails by panicking")]

mod dns;
mod memory;

use std::sync::Arc;
use std::time::{Duration, Instant as StdInstant};

use smtp_guard::config::{Checks, Mode};
use smtp_guard::facts::dns::{Reverse, SenderDomain};
use smtp_guard::policy::checks::Found;
use smtp_guard::session::{Facts, Input, Output, Session, testing};
use smtp_guard::wire::command;

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
    let opening = testing::opening(testing::snapshot(|config| {
        config.limits.recipients = u32::MAX;
        config.checks = Checks { ptr: Mode::Enforce, ptr_forward: Mode::Enforce, ..Checks::default() };
    }));
    let (now, mut out) = (opening.clock.instant, Vec::new());
    let mut session = Session::open(opening, &mut out);
    session.step(testing::line("EHLO client.example", false), now, &mut out);
    session.step(testing::line("MAIL FROM:<a@client.example>", false), now, &mut out);
    session.step(testing::reply(250), now, &mut out);
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
        session.step(testing::reply(250), now, &mut out);
    }
    spent / DECISIONS
}

fn median(times: impl Iterator<Item = Duration>) -> Duration {
    let mut times: Vec<_> = times.collect();
    times.sort_unstable();
    times[times.len() / 2]
}
