//! The stress run at the size of a test; `cargo xtask bench stress` is the other one.

use std::sync::atomic::AtomicBool;

use smtp_guard_tests::long;
use smtp_guard_tests::stress::{Peer, Plan, run};

fn check(peer: Peer, connections: u64) {
    println!("{}", run(Plan { peer, connections, rounds: 3, seed: 1 }, &AtomicBool::new(false)));
}

#[test]
#[ignore = "needs root and BPF"]
fn nothing_is_left_of_connections_to_a_stand_in() {
    check(Peer::StandIn, long::amount(5_000, 50_000));
}

#[test]
#[ignore = "needs root and BPF"]
fn nothing_is_left_of_connections_to_the_guard() {
    check(Peer::Guard, long::amount(1_000, 5_000));
}
