//! Duties of every store, whatever it is made of.

use smtp_guard_ebpf::reason::Reason;

use super::*;
use crate::addr::{Ipv6Prefix, Source};
use crate::decision::Origin;

/// A decision that ends `n` ms after the epoch.
pub(super) fn ban(n: u32) -> Ban {
    Ban {
        key: Source::v4(n).into(),
        reason: Reason::Harvest,
        origin: Origin::Ledger,
        made: WallTime::from_ms(1000),
        until: WallTime::from_ms(i64::from(n)),
        repeat: 3,
        text: "it's \"quoted\"".into(),
        evidence: ["unknown: a@example.org"].into_iter().collect(),
    }
}

pub(super) fn key(text: &str) -> Key {
    Key::read(text, Ipv6Prefix::default()).unwrap()
}

pub(super) fn save(ban: Ban) -> Change {
    Change::Save(Box::new(ban))
}

pub(super) fn count(kind: &'static str, n: u32, state: Option<&str>, at: i64) -> Change {
    let state = state.map(str::to_owned);
    Change::Count { kind: kind.into(), key: Key::Source(Source::v4(n)), state, at: WallTime::from_ms(at) }
}

/// Opens a store once more.
type Open = Box<dyn Fn() -> Box<dyn Store>>;

/// Each kind of store by its name, with nothing in it.
fn kinds() -> [(&'static str, Open); 2] {
    let (directory, disk) = (tempfile::tempdir().unwrap(), memory::Disk::default());
    let sqlite = move || -> Box<dyn Store> { Box::new(Sqlite::open(directory.path(), Ipv6Prefix::default()).unwrap()) };
    [("sqlite", Box::new(sqlite)), ("memory", Box::new(move || disk.open()))]
}

/// What is found after `saved` was handed over, in parts and at once; what is found is itself a sequence that comes to the same.
#[track_caller]
fn check(saved: &[Change], expected: &[Change]) {
    let sorted = |mut changes: Vec<Change>| {
        changes.sort_by_key(|change| format!("{change:?}"));
        changes
    };
    for (parts, at_once) in [(saved.chunks(1), "one by one"), (saved.chunks(saved.len().max(1)), "at once")] {
        for (name, open) in kinds() {
            let store = open();
            assert_eq!(store.take_found(), Some(Found::default()), "{name}");
            parts.clone().for_each(|part| store.hand_over(part.to_vec(), Duration::ZERO).unwrap());
            drop(store);
            let found = open().take_found().unwrap();
            assert_eq!(sorted(found.changes.clone()), sorted(expected.to_vec()), "{name}, {at_once}");
            for (again, open) in kinds() {
                open().hand_over(found.changes.clone(), Duration::ZERO).unwrap();
                assert_eq!(open().take_found().unwrap(), found, "{name} to {again}");
            }
        }
    }
}

#[test]
fn what_is_found_is_a_sequence_that_comes_to_what_was_saved() {
    check(&[], &[]);
    check(&[save(ban(5))], &[save(ban(5))]);
    check(&[save(ban(5)), save(Ban { repeat: 4, ..ban(5) })], &[save(Ban { repeat: 4, ..ban(5) })]);
    check(&[save(ban(5)), Change::Remove(ban(5).key)], &[]);
    check(&[Change::Remove(ban(5).key), save(ban(5))], &[save(ban(5))]);
    for who in [
        "2001:db8::1",
        "198.51.100.0/24",
        "2001:db8:8000::/33",
        "::1",
        "64:ff9b::1:0:0:1",
        "user:bob",
        "user:192.0.2.1",
    ] {
        let ban = Ban { key: key(who), ..ban(9) };
        check(&[save(ban.clone())], &[save(ban.clone())]);
        check(&[save(ban), Change::Remove(key(who))], &[]);
    }
    let forever =
        Ban { until: WallTime::from_ms(i64::MAX), origin: Origin::Operator, evidence: Default::default(), ..ban(1) };
    check(&[save(forever.clone())], &[save(forever)]);
    for origin in ["operator:local", "file:drop.txt", "node:mx2"] {
        let foreign = Ban { origin: origin.parse().unwrap(), ..ban(1) };
        check(&[save(foreign.clone())], &[save(foreign)]);
    }
}

#[test]
fn counters_are_replaced_by_kind_and_forgotten() {
    let x = count("ledger", 1, Some("x"), 10);
    check(&[x.clone(), count("messages", 1, Some("y"), 20)], &[count("messages", 1, Some("y"), 20), x.clone()]);
    check(&[x.clone(), count("ledger", 1, Some("z"), 30)], &[count("ledger", 1, Some("z"), 30)]);
    check(&[x.clone(), count("ledger", 1, None, 30)], &[]);
    check(&[x.clone(), count("messages", 1, None, 30)], &[x]);
}

#[test]
fn what_is_too_old_is_purged() {
    let (bob, at) = (key("user:bob"), WallTime::from_ms(10));
    let of_bob = Change::Count { kind: "user".into(), key: bob.clone(), state: Some("x".to_owned()), at };
    let hold = save(Ban { key: bob, until: WallTime::from_ms(i64::MAX), ..ban(1) });
    let purge = Change::Purge { decisions: WallTime::from_ms(6), counters: WallTime::from_ms(20) };
    let counters = vec![count("ledger", 1, Some("x"), 19), count("ledger", 2, Some("x"), 20), of_bob];
    let saved = [vec![save(ban(5)), save(ban(6)), hold.clone()], counters, vec![purge]].concat();
    check(&saved, &[save(ban(6)), hold, count("ledger", 2, Some("x"), 20)]);
}
