//! A list of a million lines, from the file to the kernel.

use std::fmt::Write as _;
use std::fs;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use smtp_guard::blocklist::{self, Named, Protected, Table};
use smtp_guard::config::Config;
use smtp_guard::relay::{self, Filled};

use crate::Row;
use crate::world::{World, random};

const LINES: usize = 1_000_000;
/// Times that each is done; the longest counts.
const ROUNDS: usize = 5;

/// Reads a netset of networks, and one of single addresses, and loads them: the time from the file to the kernel.
pub(crate) fn measure(world: &World) -> Vec<Row> {
    [("1,000,000 lines of /24", 24), ("1,000,000 lines of addresses", 32)]
        .map(|(what, length)| one(world, what, length))
        .into()
}

fn one(world: &World, what: &str, length: u8) -> Row {
    let (folder, path) = write(length);
    let protected = Protected::new(&Config::builtin(), &blocklist::own_addresses());
    let (mut longest, mut parts) = (Duration::ZERO, (Duration::ZERO, Duration::ZERO));
    for _ in 0..ROUNDS {
        let started = Instant::now();
        let (list, _) = blocklist::load(&path, &protected).unwrap();
        let read = started.elapsed();
        assert_eq!((list.len(), list.refused), (LINES, 0));
        let table = Table::new(vec![Named { name: "bench".to_owned(), file: path.clone(), list: Arc::new(list) }]);
        assert_eq!(relay::fill(&world.plane, &table, true).unwrap(), Filled::Written(LINES));
        let all = started.elapsed();
        if all > longest {
            (longest, parts) = (all, (read, all - read));
        }
    }
    println!("{what}: read in {:?}, built and written in {:?}", parts.0, parts.1);
    drop(folder);
    Row {
        path: format!("{what}, from the file"),
        ours: 0.0,
        other: "",
        theirs: 0.0,
        value: longest.as_secs_f64(),
        unit: " s",
        goal: Some(4.0),
    }
}

/// A netset of different networks that are all taken, in no order.
fn write(length: u8) -> (tempfile::TempDir, PathBuf) {
    let (mut state, mut text, mut seen) = (7, String::with_capacity(LINES * 20), std::collections::HashSet::new());
    while seen.len() < LINES {
        let bits = random(&mut state) & (u32::MAX << (32 - length));
        let [first, second, ..] = Ipv4Addr::from_bits(bits).octets();
        // Public for certain: nothing of what no list may hold.
        if !matches!(first, 0 | 10 | 100 | 127 | 169 | 172 | 192 | 224..) && second != 0 && seen.insert(bits) {
            writeln!(text, "{}/{length}", Ipv4Addr::from_bits(bits)).unwrap();
        }
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bench.netset");
    fs::write(&path, text).unwrap();
    (folder, path)
}
