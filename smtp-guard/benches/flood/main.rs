//! Packets a second at which honest mail keeps 90 % of its throughput, with nothing before it, with nftables in two places
//! and with the guard; and the CPU time of a dropped packet. `cargo xtask bench flood` runs it, for about five minutes.
//!
//! # How
//! One CPU makes the flood, the other one has the edge, where packets arrive and are dropped, and the mail ([`lab`]).
//! Packets come first, as with a network card; mail gets what is left of the CPU and takes all of it ([`mail`]). So the rate
//! that is looked for is the one at which dropping takes 90 % of what it may: a tenth of the mail. A veth, other than a
//! card, takes a good part of that for itself, the same in each row. The second figure is without it: CPU time of the
//! thread that receives, for each packet, less that of a program that drops at once.
//!
//! Each rate is tried in [`measure::PAIRS`] short windows, each beside one without a flood, because the speed of a virtual
//! machine changes within seconds by more than what is looked for. Rows take turns; what is printed are medians of [`ROUNDS`].
//!
//! A row counts only if the filter has counted every packet that the generator sent and the cable took, and if no message
//! failed: anything else ends the bench. Without a filter mail may break off; that is told, and its share is 0.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a bench fails by panicking")]

mod filter;
mod generator;
mod lab;
#[path = "../machine.rs"]
mod machine;
mod mail;
mod measure;
mod process;
mod report;
mod search;

use std::time::Instant;

use filter::{Entries, Filter, Hook};
use measure::Bench;
use report::Row;

/// Measurements of which the median counts.
const ROUNDS: usize = 5;
/// Sources that send: all that are banned, so that each packet finds other memory; or few, so that it finds the same.
const MANY: u32 = 1 << 16;
const FEW: u32 = 256;

/// Filter, sources that send, and whether the rate is looked for: that takes long, so only where it may be the best.
const ROWS: [(Filter, u32, bool); 12] = [
    (Filter::Zero, MANY, false),
    (Filter::Nothing, MANY, true),
    (Filter::Nftables(Hook::PreroutingRaw, Entries::Addresses), MANY, true),
    (Filter::Nftables(Hook::PreroutingRaw, Entries::Networks), MANY, false),
    (Filter::Nftables(Hook::NetdevIngress, Entries::Addresses), MANY, true),
    (Filter::Nftables(Hook::NetdevIngress, Entries::Networks), MANY, false),
    (Filter::Guard(Entries::Addresses), MANY, true),
    (Filter::Guard(Entries::Networks), MANY, true),
    (Filter::Nftables(Hook::PreroutingRaw, Entries::Addresses), FEW, false),
    (Filter::Nftables(Hook::NetdevIngress, Entries::Addresses), FEW, true),
    (Filter::Guard(Entries::Addresses), FEW, true),
    (Filter::Guard(Entries::Networks), FEW, false),
];

fn main() {
    let object = std::env::var("SMTP_GUARD_BENCH_OBJECT").expect("run it by `cargo xtask bench flood`");
    process::end_on_signals();
    println!("{}", machine::machine());
    let mut bench = Bench::new(object);
    let mut rows: Vec<_> = ROWS.into_iter().map(|(filter, sources, _)| Row::new(filter, sources)).collect();
    for round in 1..=ROUNDS {
        eprintln!("round {round} of {ROUNDS}");
        for ((filter, sources, searched), row) in ROWS.into_iter().zip(&mut rows) {
            let started = Instant::now();
            let shown = bench.row(filter, sources, searched);
            eprintln!("  {} ({sources} sources): {:.1} s", filter.name(), started.elapsed().as_secs_f64());
            row.add(shown);
        }
    }
    report::print(&rows);
}
