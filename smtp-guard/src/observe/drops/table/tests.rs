//! The table against what is worked out without a bound.

use super::*;
use proptest::prelude::*;

fn key(source: u64) -> Key {
    Key { source: Source(source), reason: Reason::Harvest }
}

fn at(ms: u64) -> Instant {
    Instant::from_ns(1_000_000_000 + ms * 1_000_000)
}

/// `packets` a second of one source in `samples` of each second, for `seconds`; the rate that is shown at the end is
/// within a tenth of that.
#[track_caller]
fn check_rate(packets: u64, samples: u64, seconds: u64) {
    let mut table = Table::new(4);
    for n in 0..samples * seconds {
        table.add(key(1), 25, packets / samples, at(n * 1000 / samples));
    }
    let top = table.top(10, at(seconds * 1000));
    assert_eq!((top.len(), top[0].packets, top[0].samples), (1, packets * seconds, samples * seconds));
    let share = top[0].per_second / packets as f64;
    assert!((0.9..1.1).contains(&share), "{packets}/s for {seconds} s, {samples} samples a second: {top:?}");
}

#[test]
fn the_rate_is_right_from_the_first_seconds_on() {
    for (packets, samples, seconds) in [(10, 10, 2), (1000, 10, 3), (1000, 10, 60), (3_000_000, 20, 20), (50, 5, 600)] {
        check_rate(packets, samples, seconds);
    }
}

#[test]
fn what_is_over_fades_and_begins_anew() {
    let mut table = Table::new(4);
    table.add(key(1), 25, 1000, at(0));
    table.add(key(2), 465, 10, at(0));
    let (early, late) = (table.top(9, at(1000)), table.top(9, at(11_000)));
    assert_eq!(early.iter().map(|top| top.key).collect::<Vec<_>>(), [key(1), key(2)]);
    assert!(late[0].per_second < early[0].per_second / 2.0, "{late:?}");
    assert_eq!(table.top(1, at(1000)).len(), 1);
    assert_eq!(table.top(9, at(60_000)), []);
    table.add(key(1), 25, 7, at(120_000));
    let again = table.top(9, at(121_000));
    assert_eq!((again[0].packets, again[0].samples, again[0].since), (7, 1, at(120_000)), "{again:?}");
    assert!(again[0].per_second < 8.0, "nothing of the first flood is left: {again:?}");
}

#[test]
fn a_pair_has_a_line_a_minute() {
    let mut table = Table::new(4);
    for (ms, expected) in [(0, true), (1, false), (59_999, false), (60_000, true), (60_001, false), (500_000, true)] {
        let due = table.add(key(1), 25, 1, at(ms)).line_due;
        assert_eq!(due, expected, "{ms}");
        if due {
            table.line_written(key(1), at(ms));
        }
    }
    let other = Key { reason: Reason::Listed, ..key(1) };
    assert!(table.add(other, 25, 1, at(500_001)).line_due, "another reason has its own");
    assert!(table.add(other, 25, 1, at(500_002)).line_due, "the line was due, and wasn't written");
}

#[test]
fn who_comes_once_does_not_push_out_who_stays() {
    let mut table = Table::new(16);
    let mut displaced = 0;
    for n in 0..10_000 {
        let other = if n % 8 == 0 { key(1) } else { key(1000 + n) };
        displaced += usize::from(table.add(other, 25, 100, at(n)).displaced);
    }
    let top = table.top(1, at(10_000));
    assert_eq!((top[0].key, top[0].packets), (key(1), 125_000), "{top:?}");
    assert!(displaced > 8000 && table.len() == 16, "{displaced}");
}

#[test]
fn those_with_the_most_are_found_among_many() {
    let mut table = Table::new(1000);
    for n in 0..1000 {
        // Neither in the order of sources nor of additions.
        table.add(key(n), 25, 1 + n * 617 % 1000, at(0));
    }
    let all: Vec<_> = table.top(1000, at(1000)).iter().map(|top| (top.key, top.packets)).collect();
    assert_eq!(all.iter().map(|(_, packets)| *packets).collect::<Vec<_>>(), (1..=1000).rev().collect::<Vec<_>>());
    for count in [0, 1, 7, 499, 500, 501, 999, 2000] {
        let top: Vec<_> = table.top(count, at(1000)).iter().map(|top| (top.key, top.packets)).collect();
        assert_eq!(top, all[..count.min(1000)], "{count}");
    }
}

/// Who, how many packets, and how many ms after the one before.
fn additions() -> impl Strategy<Value = Vec<(u64, u64, u64)>> {
    proptest::collection::vec((0..20u64, 1..1000u64, 0..20_000u64), 1..200)
}

proptest! {
    #[test]
    fn whoever_has_more_than_one_part_in_max_is_there(additions in additions()) {
        const MAX: usize = 6;
        let mut table = Table::new(MAX);
        let mut all: HashMap<Key, f64> = HashMap::new();
        let mut now = 0;
        for (source, packets, after) in additions {
            now += after;
            let fade = 0.5f64.powf(after as f64 / 10_000.0);
            all.values_mut().for_each(|weight| *weight *= fade);
            *all.entry(key(source)).or_default() += packets as f64;
            table.add(key(source), 25, packets, at(now));

            prop_assert!(table.len() <= MAX);
            prop_assert_eq!(table.order.len(), table.entries.len());
            for (rank, key) in &table.order {
                prop_assert_eq!(table.entries[key].rank, *rank);
            }
            let total: f64 = all.values().sum();
            for (key, weight) in &all {
                let Some(entry) = table.entries.get(key) else {
                    prop_assert!(*weight <= total / MAX as f64 * 1.000_001, "{key:?} {weight} of {total}");
                    continue;
                };
                let entry = entry.at(at(now));
                prop_assert!(entry.weight >= weight * 0.999_999, "never less than the truth: {entry:?} {weight}");
                let own = entry.weight - entry.inherited;
                prop_assert!(own <= weight * 1.000_001 + 1e-6, "never shown as more than the truth: {entry:?} {weight}");
            }
        }
        prop_assert!(table.top(usize::MAX, at(now)).len() <= MAX);
    }
}
