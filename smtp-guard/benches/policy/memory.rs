//! Memory for a million sources, as the kernel counts it for this process.

use std::fs;
use std::process::Command;
use std::time::Duration;

use smtp_guard::addr::Source;
use smtp_guard::clock::{Both, Instant, WallTime};
use smtp_guard::config::{Auth, Harvest};
use smtp_guard::ledger::Ledger;
use smtp_guard::marks::Marks;
use smtp_guard::offence::{Conduct, Digest};
use smtp_guard::rates::{Rates, Tally};

const SOURCES: u32 = 1_000_000;
/// Sources between two times that the store is told.
const TOLD: u32 = 10_000;

/// Set in a process of its own for each row, so that none finds memory that another has given back.
const ROW: &str = "SMTP_GUARD_BENCH_ROW";

pub(super) fn run() {
    for row in 0..5 {
        let status = Command::new(std::env::current_exe().unwrap()).env(ROW, row.to_string()).status().unwrap();
        assert!(status.success());
    }
}

/// Whether this process is one row; then it is measured.
pub(super) fn is_row() -> bool {
    let Ok(row) = std::env::var(ROW) else { return false };
    let at = Instant::from_ns(1_000_000_000_000);
    match row.as_str() {
        "0" => measure("ledger, each has sent a message before", || ledger(sends, at)),
        "1" => measure("ledger, each has named a known and an unknown recipient in the last hour", || ledger(asks, at)),
        "2" => measure("ledger, each second one of either", || {
            ledger(|ledger, n, at| if n % 2 == 0 { sends(ledger, n, at) } else { asks(ledger, n, at) }, at)
        }),
        "3" => measure("marks", || {
            let marks = Marks::default();
            for n in 0..SOURCES {
                marks.history(Source::v4(n), true);
            }
            marks
        }),
        _ => measure("messages in an hour", || {
            let rates = Rates::new(Duration::from_secs(3600), SOURCES as usize);
            for n in 0..SOURCES {
                rates.judge(Source::v4(n), 100, at, Tally::Count);
            }
            rates
        }),
    }
    true
}

/// The store is told as it goes, as the guard does it.
fn ledger(each: impl Fn(&mut Ledger, u32, Instant), at: Instant) -> Ledger {
    let both = Both { instant: at, wall: WallTime::default() };
    let mut ledger = Ledger::new(Harvest::default(), Auth::default(), SOURCES as usize);
    for n in 0..SOURCES {
        each(&mut ledger, n, at);
        if n % TOLD == 0 {
            ledger.take_changed(SOURCES as usize, &both);
        }
    }
    ledger
}

fn sends(ledger: &mut Ledger, n: u32, at: Instant) {
    ledger.observe(source(n), Conduct::MessageAccepted, at);
}

fn asks(ledger: &mut Ledger, n: u32, at: Instant) {
    let recipient = format!("no{n}@example.org").into();
    ledger.observe(source(n), Conduct::UnknownRecipient { recipient, returned: false }, at);
    let recipient = Digest::of(&format!("user{n}@example.org"));
    ledger.observe(source(n), Conduct::KnownRecipient { recipient }, at);
}

/// Each in a network of its own, as far as there are any.
fn source(n: u32) -> Source {
    Source::v4(n.rotate_left(12))
}

fn measure<T>(what: &str, make: impl FnOnce() -> T) {
    let before = resident();
    let made = make();
    let after = resident();
    println!("memory for {SOURCES} sources, {what}: {} MiB", after.saturating_sub(before) >> 20);
    drop(made);
}

/// Bytes of this process in memory.
fn resident() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
}
