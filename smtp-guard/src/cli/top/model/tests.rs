//! Snapshots made up, and the rows that come of them.

use std::time::Duration;

use super::*;
use crate::blocklist::{Read, State};
use crate::bound::Bound;
use crate::clock::Seconds;
use crate::decision::Suspect;
use crate::events::What;
use crate::observe::bounds::Bounds;
use crate::observe::live::{Dropped, DroppedReason, DropsView, Packets, SessionView};
use crate::observe::status::{
    Certificate, Configuration, Kernel, LastReload, Messages, Recipients, Server, Status, Wording,
};

/// A busy guard that is up for `uptime_ms`, with counts that rise with it.
pub(in crate::cli::top) fn live(uptime_ms: u64) -> Live {
    let seconds = uptime_ms / 1000;
    let packets = |reason: &str, family: &str, verdict: &str, count| Packets {
        reason: reason.to_owned(),
        family: family.to_owned(),
        verdict: verdict.to_owned(),
        count,
    };
    let counted = |reason: &str, count| Counted { reason: reason.to_owned(), count };
    let at = WallTime::from_ms(1_790_857_805_000 + uptime_ms as i64);
    Live {
        at,
        instance: 4711,
        uptime_seconds: Seconds(Duration::from_millis(uptime_ms)),
        status: Status {
            configuration: Configuration {
                generation: 1,
                since: WallTime::from_ms(0),
                last_reload: None,
                waiting: Vec::new(),
                earlier_sessions: 0,
            },
            version: String::from("0.1.0"),
            uptime_seconds: seconds,
            listeners: vec![String::from("0.0.0.0:25")],
            backend: [("10.0.0.10:25", true), ("10.0.0.11:25", false)]
                .map(|(address, answers)| Server {
                    address: address.to_owned(),
                    answers,
                    connections: 0,
                    round_trip_seconds: None,
                })
                .into(),
            connections: 12,
            certificates: Vec::new(),
            recipients: Recipients {
                known: None,
                last_read: None,
                catch_all: Vec::new(),
                unknown_wordings: Default::default(),
                trouble: None,
            },
            messages: Messages { accepted: 1000 + 3 * seconds, rejected: 20, deferred: 7, ambiguous: 0 },
            blocklists: Vec::new(),
            bans_active: 3,
            networks_active: 0,
            held_users: Default::default(),
            kernel: Kernel { present: true, text: String::from("on eth0, pinned in /sys/fs/bpf/smtp-guard") },
            warnings: Vec::new(),
            bounds: Vec::new(),
            fleet: None,
            webhook: None,
            dns_silent: false,
            store_trouble: None,
            tls_trouble: None,
        },
        connections_total: 5000 + 8 * seconds,
        kernel_packets: vec![
            packets("clean", "ipv4", "pass", 100_000 + 400 * seconds),
            packets("harvest", "ipv4", "drop", 1_000_000 + 98_000 * seconds),
            packets("harvest", "ipv6", "drop", 500 * seconds),
            packets("listed", "ipv4", "drop", 4_000_000),
        ],
        rejections: vec![counted("relay", 30), counted("unknown_recipient", 10 + 2 * seconds), counted("dnsbl", 0)],
        events: vec![Arc::new(Event {
            number: 1,
            at: WallTime::from_ms(at.as_ms() - 5000),
            what: What::Backend { server: "10.0.0.11:25\x1b[2J".to_owned(), answers: false },
        })],
        decisions: [("203.0.113.7", 60, 3600), ("2001:db8:1:2::/64", 7200, 90), ("198.51.100.1", 1, -5)]
            .map(|(source, ago, left)| Decision {
                source: source.to_owned(),
                reason: String::from("harvest"),
                text: String::from("directory harvest attack\x1b[2J"),
                origin: String::from("ledger"),
                origin_name: None,
                made: WallTime::from_ms(at.as_ms() - ago * 1000),
                until: WallTime::from_ms(at.as_ms() + left * 1000),
                repeat: 0,
                evidence: Vec::new(),
            })
            .into(),
        sessions: vec![
            SessionView {
                source: String::from("198.51.100.9"),
                age_seconds: Seconds(Duration::from_secs(7200)),
                state: String::from("command"),
                messages_accepted: 12,
                tls: true,
                helo: Some(String::from("bobs.example")),
                user: Some(String::from("bob")),
            },
            SessionView {
                source: String::from("192.0.2.44"),
                age_seconds: Seconds(Duration::from_secs(65)),
                state: String::from("dot"),
                messages_accepted: 0,
                tls: false,
                helo: Some(String::from("mx.\x1b[2J")),
                user: None,
            },
        ],
        suspects: vec![
            Suspect {
                source: String::from("198.51.100.9"),
                unforgiven: 7,
                known_recipients: 1,
                share: 0.875,
                failed_logins: 0,
                accepted: 3,
                offences: vec![String::from("early_talker")],
            },
            Suspect {
                source: String::from("198.51.100.10"),
                unforgiven: 0,
                known_recipients: 0,
                share: 0.0,
                failed_logins: 4,
                accepted: 0,
                offences: Vec::new(),
            },
        ],
        drops: DropsView {
            samples: 70,
            lost: 0,
            by_source: [("203.0.113.7", 97_000.0, 500_000, 65), ("2001:db8:1:2::/64", 500.0, 900_000, 3665)]
                .map(|(source, per_second, packets, ago)| DroppedSource {
                    source: source.to_owned(),
                    reason: String::from("harvest"),
                    port: 25,
                    per_second,
                    packets,
                    samples: 35,
                    since: WallTime::from_ms(at.as_ms() - ago * 1000),
                    last: at,
                })
                .into(),
            by_reason: vec![DroppedReason { reason: String::from("harvest"), packets: 9, samples: 1 }],
            latest: vec![Dropped {
                at,
                ip: [203, 0, 113, 7].into(),
                port: 25,
                reason: String::from("harvest"),
                stands_for: 9,
            }],
        },
    }
}

#[test]
fn every_field_is_documented() {
    let mut live = live(12_345);
    let at = live.at;
    let error = Some(String::from("gone"));
    live.status.certificates = vec![Certificate { file: String::from("/c.pem"), remaining_seconds: -1, not_after: at }];
    live.status.configuration.last_reload = Some(LastReload { at, error: error.clone() });
    let words = String::from("550 5.1.1 no");
    live.status.recipients.unknown_wordings = vec![Wording { server: String::from("10.0.0.10:25"), words }];
    live.status.recipients.last_read = Some(at);
    let read = Read { at, format: String::from("netset"), entries: 1, refused: 0, skipped: 0 };
    live.status.blocklists = vec![State { name: String::from("drop"), file: "/drop".into(), read: Some(read), error }];
    let bounds = Bounds::default();
    bounds.reached(Bound::Ledger);
    live.status.bounds = bounds.view();
    output::check_documented("status", &live.status);
    output::check_documented("top", &live);
    let (decisions, blocklists) = (&live.decisions, &live.status.blocklists);
    output::check_documented("decisions list", &output::Blocked { decisions, blocklists });
}

/// `counts` as `name rate total`.
fn text(counts: &[Count]) -> Vec<String> {
    let line = |count: &Count| {
        let rate = count.per_second.map_or(String::from("-"), |rate| format!("{rate:.1}"));
        format!("{} {rate} {}", count.name, count.total)
    };
    counts.iter().map(line).collect()
}

/// The rows of the kernel, of refusals and of messages from `before` and `now`.
#[track_caller]
fn check(before: Option<&Live>, now: &Live, kernel: &[&str], refused: &[&str], messages: &[&str]) {
    let pair = Pair::new(before, now);
    assert_eq!(text(&pair.kernel()), kernel);
    assert_eq!(text(&pair.rejections()), refused);
    assert_eq!(text(&pair.messages()), messages);
}

#[test]
fn rates_come_of_two_snapshots() {
    let (before, now) = (live(10_000), live(12_000));
    check(
        Some(&before),
        &now,
        &["harvest 98500.0 2182000", "clean 400.0 104800", "listed 0.0 4000000"],
        &["unknown_recipient 2.0 34", "relay 0.0 30"],
        &["accepted 3.0 1036", "rejected 0.0 20", "deferred 0.0 7", "ambiguous 0.0 0", "sessions 8.0 5096"],
    );
    let pair = Pair::new(Some(&before), &now);
    let rates = (pair.packets("drop"), pair.packets("pass"), pair.refusals());
    assert_eq!(rates, (Some(98_500.0), Some(400.0), Some(2.0)));
}

#[test]
fn where_there_is_nothing_to_compare_there_is_no_rate() {
    let kernel = ["listed - 4000000", "harvest - 2182000", "clean - 104800"];
    let (refused, messages) = (
        ["unknown_recipient - 34", "relay - 30"],
        ["accepted - 1036", "rejected - 20", "deferred - 7", "ambiguous - 0", "sessions - 5096"],
    );
    let now = live(12_000);
    let restarted = Live { instance: 1, ..live(10_000) };
    for before in [None, Some(&restarted), Some(&now), Some(&live(13_000))] {
        check(before, &now, &kernel, &refused, &messages);
    }
    // The kernel plane was loaded anew: its counts went back, the guard's own didn't.
    let mut reloaded = live(14_000);
    reloaded.kernel_packets.iter_mut().for_each(|p| p.count = 5);
    let pair = Pair::new(Some(&now), &reloaded);
    assert_eq!(text(&pair.kernel()), ["harvest - 10", "listed - 5", "clean - 5"]);
    assert_eq!((pair.packets("drop"), pair.refusals()), (None, Some(2.0)));
}

#[test]
fn sources_are_sorted_as_asked() {
    let live = live(12_000);
    for (sort, first, lasts) in [
        (Sort::Rate, "203.0.113.7", "1m 05s"),
        (Sort::Total, "2001:db8:1:2::/64", "1h 01m"),
        (Sort::Newest, "203.0.113.7", "1m 05s"),
    ] {
        let rows = sources(&live, sort);
        assert_eq!((rows.len(), rows[0].source.as_str(), rows[0].lasts.as_str()), (2, first, lasts), "{sort:?}");
    }
    assert_eq!(Sort::Rate.next().next().next(), Sort::Rate);
}

#[test]
fn bans_have_their_time_left_and_nothing_unprintable() {
    let live = live(12_000);
    let rows = bans(&live, live.at);
    let shown: Vec<_> = rows.iter().map(|row| [row.source.as_str(), &row.left, &row.made]).collect();
    let expected = [["203.0.113.7", "1h 00m", "1m 00s"], ["2001:db8:1:2::/64", "1m 30s", "2h 00m"]];
    assert_eq!(shown, expected, "one has ended");
    assert_eq!(rows[0].text, "directory harvest attack\\x1b[2J");
    let later = WallTime::from_ms(live.at.as_ms() + 91_000);
    assert_eq!(bans(&live, later).len(), 1);
}
