//! The fuzz targets of `fuzz/targets` as ordinary tests: over all seeds, and over mutations of them, the same in each run.
//!
//! A target is compiled here as it is; the macro below stands in for libFuzzer's. What is guided by coverage, and so finds new
//! ways, is `cargo xtask fuzz`, a part of `cargo xtask test --long`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test may panic")]
#![allow(unused_attributes, reason = "a fuzz target begins with `no_main`, which says nothing in a module")]
#![allow(clippy::duplicate_mod, reason = "each target is a crate, and three of them have the models of backends")]

extern crate self as libfuzzer_sys;

pub(crate) use stand_in::fuzz_target;

/// In a module, or the targets' `use` would be one too many.
mod stand_in {
    /// What libFuzzer's macro is given, as a function.
    macro_rules! fuzz_target {
        (|$data:ident: &[u8]| $body:block) => {
            pub(super) fn target($data: &[u8]) $body
        };
    }
    pub(crate) use fuzz_target;
}

#[path = "../../../fuzz/targets/blocklist.rs"]
mod blocklist;
#[path = "../../../fuzz/targets/chunk.rs"]
mod chunk;
#[path = "../../../fuzz/targets/command.rs"]
mod command;
#[path = "../../../fuzz/targets/data.rs"]
mod data;
#[path = "../long/mod.rs"]
mod long;
mod mutate;
#[path = "../../../fuzz/targets/proxy.rs"]
mod proxy;
#[path = "../../../fuzz/targets/reply.rs"]
mod reply;
#[path = "../../../fuzz/targets/session.rs"]
mod session;

use std::fs;
use std::panic::catch_unwind;
use std::path::Path;

use mutate::Mutator;

/// Mutations of one target in a short run, and in a long one.
const MUTATIONS: [u32; 2] = [30_000, 300_000];

#[test]
fn block_lists() {
    check("blocklist", blocklist::target);
}

#[test]
fn chunks() {
    check("chunk", chunk::target);
}

#[test]
fn commands() {
    check("command", command::target);
}

#[test]
fn message_data() {
    check("data", data::target);
}

#[test]
fn proxy_headers() {
    check("proxy", proxy::target);
}

#[test]
fn replies() {
    check("reply", reply::target);
}

#[test]
fn sessions() {
    check("session", session::target);
}

/// Runs `target` over the seeds in `fuzz/corpus/NAME` and mutations of them.
fn check(name: &str, target: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(name);
    let mut files: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    // The order of a folder isn't the same everywhere, and the mutations should be.
    files.sort();
    let seeds: Vec<_> = files.iter().map(|file| fs::read(file).unwrap()).collect();
    let run = |input: &[u8]| {
        if catch_unwind(|| target(input)).is_err() {
            panic!(
                "the fuzz target {name} found a fault, see above. When it is mended, keep the input as \
                 fuzz/corpus/{name}/WHAT-IT-SHOWS: b\"{}\"",
                input.escape_ascii()
            );
        }
    };
    seeds.iter().for_each(|seed| run(seed));
    let mut mutator = Mutator::new();
    for _ in 0..long::amount(MUTATIONS[0], MUTATIONS[1]) {
        run(&mutator.next(&seeds));
    }
}
