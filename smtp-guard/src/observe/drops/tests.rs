//! Lines, counts and a view after a batch of samples.

use std::net::Ipv4Addr;

use super::*;
use crate::clock::WallTime;
use proptest::prelude::*;

fn at(ms: u64) -> Instant {
    Instant::from_ns(1_000_000_000 + ms * 1_000_000)
}

fn both(ms: u64) -> Both {
    Both { instant: at(ms), wall: WallTime::from_ms(i64::try_from(ms).unwrap()) }
}

/// Dropped at `ms`.
fn sampled(ip: &str, reason: Reason, stands_for: u64, ms: u64) -> Sample {
    Sample { at: at(ms), ..sample(ip, reason, stands_for) }
}

fn sample(ip: &str, reason: Reason, stands_for: u64) -> Sample {
    Sample { at: at(0), ip: ip.parse().unwrap(), port: 25, reason, stands_for }
}

fn drops() -> Drops {
    Drops::new(Ipv6Prefix::default(), Metrics::new())
}

#[test]
fn a_source_has_a_line_a_minute_and_all_have_twenty_a_second() {
    let drops = drops();
    let lines = |samples: &[Sample], ms| -> Vec<(String, u64)> {
        let samples: Vec<_> = samples.iter().map(|sample| Sample { at: at(ms), ..*sample }).collect();
        let lines = drops.count(&samples, at(ms)).into_iter();
        lines.map(|line| (line.sample.ip.to_string(), line.left_out)).collect()
    };
    let one = sample("192.0.2.1", Reason::Harvest, 5);
    assert_eq!(lines(&[one, one, one], 0), [("192.0.2.1".to_owned(), 0)]);
    assert_eq!(lines(&[one], 59_000), []);
    assert_eq!(lines(&[one], 60_000), [("192.0.2.1".to_owned(), 0)]);
    // Two addresses of one source.
    let v6 = ["2001:db8::1", "2001:db8::2"].map(|ip| sample(ip, Reason::Harvest, 1));
    assert_eq!(lines(&v6, 61_000), [("2001:db8::1".to_owned(), 0)]);
    let many: Vec<_> = (0..30).map(|n| sample(&format!("198.51.100.{n}"), Reason::Listed, 1)).collect();
    assert_eq!(lines(&many, 62_000).len(), 20);
    // Those that were left out have their line with their next packet.
    let next = lines(&many, 63_000);
    assert_eq!((next.len(), &next[0]), (10, &("198.51.100.20".to_owned(), 10)));
    let metrics = drops.metrics.encode(crate::observe::metrics::Format::Open);
    assert!(metrics.contains("smtp_guard_bound_reached_total{bound=\"drop_lines\"} 10"), "{metrics}");
    assert!(metrics.contains("smtp_guard_kernel_drop_samples_total 67"), "{metrics}");
}

#[test]
fn the_view_says_who_why_and_how_much() {
    let drops = drops();
    let flood = sample("192.0.2.1", Reason::Harvest, 1000);
    let samples = [flood, flood, sample("2001:db8::1", Reason::Listed, 10), sample("192.0.2.1", Reason::Listed, 3)];
    drops.count(&samples, at(0));
    drops.lost(100);
    drops.lost(107);
    let view = drops.view(&both(1000));
    assert_eq!((view.samples, view.lost, view.latest.len()), (4, 7, 4));
    assert_eq!((view.latest[0].ip.to_string(), view.latest[0].stands_for), ("192.0.2.1".to_owned(), 3), "latest first");
    let reasons: Vec<_> = view.by_reason.iter().map(|r| (r.reason.as_str(), r.packets, r.samples)).collect();
    assert_eq!(reasons, [("listed", 13, 2), ("harvest", 2000, 2)]);
    let sources: Vec<_> = view.by_source.iter().map(|s| (s.source.as_str(), s.reason.as_str(), s.packets)).collect();
    let expected = [("192.0.2.1", "harvest", 2000), ("2001:db8::/64", "listed", 10), ("192.0.2.1", "listed", 3)];
    assert_eq!(sources, expected);
    assert!(view.by_source[0].per_second > 1500.0 && view.by_source[0].since == WallTime::from_ms(0), "{view:?}");
    assert!(
        drops
            .metrics
            .encode(crate::observe::metrics::Format::Open)
            .contains("smtp_guard_kernel_drop_samples_lost_total 7")
    );
}

#[test]
fn what_waited_while_nobody_read_is_no_news() {
    let drops = drops();
    let samples = [sampled("192.0.2.1", Reason::Harvest, 1000, 0), sampled("192.0.2.2", Reason::Harvest, 1, 9000)];
    let lines = drops.count(&samples, at(10_000));
    let view = drops.view(&both(10_000));
    assert_eq!((lines.len(), view.by_source.len(), view.samples, view.latest.len()), (1, 1, 2, 2));
    assert_eq!((view.by_source[0].source.as_str(), view.by_reason[0].packets), ("192.0.2.2", 1001));
}

#[test]
fn lost_samples_are_counted_from_the_first_look_on() {
    let drops = drops();
    for (in_all, lost) in [(5000, 0), (5000, 0), (5003, 3), (5010, 10), (2, 12), (2, 12)] {
        drops.lost(in_all);
        assert_eq!(drops.view(&both(0)).lost, lost, "{in_all}");
    }
}

proptest! {
    /// A flood of spoofed sources is held within every bound.
    #[test]
    fn nothing_grows(ips in proptest::collection::vec(any::<u32>(), 1..300), batches in 1..40u64) {
        let drops = drops();
        let samples: Vec<_> = ips
            .iter()
            .map(|ip| Sample { ip: Ipv4Addr::from_bits(*ip).into(), ..sample("::", Reason::Listed, u64::MAX) })
            .collect();
        for batch in 0..batches {
            let samples: Vec<_> = samples.iter().map(|sample| Sample { at: at(batch * 1000), ..*sample }).collect();
            let lines = drops.count(&samples, at(batch * 1000)).len();
            prop_assert!(lines <= LINES as usize);
        }
        let view = drops.view(&both(batches * 1000));
        prop_assert!(view.by_source.len() <= SHOWN && view.latest.len() <= LATEST);
        prop_assert_eq!(view.samples, batches * ips.len() as u64);
        prop_assert!(view.by_source.iter().all(|source| source.per_second.is_finite()));
    }
}
