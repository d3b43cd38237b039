use proptest::prelude::*;

use super::*;

const HOUR: Duration = Duration::from_secs(3600);

fn rule() -> Harvest {
    Harvest {
        unknown_recipients: 10,
        unknown_share: 0.5,
        window: HOUR,
        delay: Duration::ZERO,
        ban: HOUR,
        ban_max: HOUR * 24 * 7,
    }
}

fn at(seconds: u64) -> Instant {
    Instant::from_ns(seconds * 1_000_000_000)
}

fn unknown(n: u64) -> Conduct {
    Conduct::UnknownRecipient { recipient: format!("no{n}@example.org").into() }
}

fn known(n: u64) -> Conduct {
    Conduct::KnownRecipient { recipient: format!("yes{n}@example.org").into() }
}

/// Runs `trace` of (seconds, conduct) and expects the first ban at its `ban`th report, counted from 1.
fn check(name: &str, trace: impl IntoIterator<Item = (u64, Conduct)>, ban: Option<usize>) {
    let mut ledger = Ledger::new(rule(), Auth::default(), 100);
    let source = Source::v4(1);
    let banned =
        trace.into_iter().position(|(seconds, conduct)| ledger.observe(source, conduct, at(seconds)).is_some());
    assert_eq!(banned.map(|index| index + 1), ban, "{name}");
}

#[test]
fn who_is_banned() {
    check("a dictionary attack", (0..100).map(|n| (n, unknown(n))), Some(10));
    check("a slow one: 12 an hour", (0..100).map(|n| (n * 300, unknown(n))), Some(10));
    check("a slower one than the window", (0..1000).map(|n| (n * 400, unknown(n))), None);
    check("one dead address, retried", (0..1000).map(|n| (n, unknown(7))), None);
    let stale = |percent| (0..5000).map(move |n| (n / 10, if n % 100 < percent { unknown(n) } else { known(n) }));
    check("a big provider with 1 % stale addresses", stale(1), None);
    check(
        "a mailing list with stale subscribers, well mixed",
        (0..300).map(|n| (n, if n % 3 == 0 { unknown(n) } else { known(n) })),
        None,
    );
    check(
        "one valid address doesn't dilute a harvest",
        (0..200).map(|n| (n, if n % 2 == 0 { known(1) } else { unknown(n) })),
        Some(20),
    );
    let trap = || Conduct::Trap { recipient: "trap@example.org".into() };
    check("a trap", [(0, known(1)), (1, trap())], Some(2));
    let failed = || Conduct::Offence(Reason::AuthFailures);
    check("ten failed logins in a minute", (0..20).map(|n| (n * 6, failed())), Some(10));
    check("nine in each minute", (0..100).map(|n| (n * 7, failed())), None);
    check("other offences don't ban", (0..100).map(|n| (n, Conduct::Offence(Reason::Protocol))), None);
}

#[test]
fn bans_double_up_to_the_limit_and_are_forgotten_in_time() {
    let mut ledger = Ledger::new(rule(), Auth::default(), 100);
    let source = Source::v4(1);
    let mut seconds = 0;
    let harvest = |ledger: &mut Ledger, seconds: u64| {
        (0..10).filter_map(|n| ledger.observe(source, unknown(seconds + n), at(seconds))).next().unwrap()
    };
    let mut lengths = Vec::new();
    for _ in 0..10 {
        let verdict = harvest(&mut ledger, seconds);
        assert!(!verdict.evidence.is_empty() && verdict.evidence.len() <= SAMPLE);
        lengths.push((verdict.length.as_secs() / 3600, verdict.repeat));
        seconds += verdict.length.as_secs() + 1;
    }
    assert_eq!(lengths[..4], [(1, 0), (2, 1), (4, 2), (8, 3)]);
    assert_eq!(lengths[9], (168, 9), "never longer than ban_max");
    seconds += rule().ban_max.as_secs();
    assert_eq!(harvest(&mut ledger, seconds).length, HOUR, "forgotten");
}

#[test]
fn a_ban_needs_new_evidence_and_is_remembered_over_a_restart() {
    let mut ledger = Ledger::new(rule(), Auth::default(), 100);
    let source = Source::v4(1);
    for n in 0..10 {
        ledger.observe(source, unknown(n), at(0));
    }
    assert_eq!(ledger.observe(source, unknown(11), at(1)), None);
    let mut restarted = Ledger::new(rule(), Auth::default(), 100);
    restarted.remember_ban(source, 0, at(3600), at(10));
    let verdict = (0..10).filter_map(|n| restarted.observe(source, unknown(n), at(4000))).next().unwrap();
    assert_eq!((verdict.repeat, verdict.length), (1, HOUR * 2));
}

#[test]
fn the_idle_and_clean_make_room_first() {
    let mut ledger = Ledger::new(rule(), Auth::default(), 3);
    for n in 0..9 {
        ledger.observe(Source::v4(1), unknown(n), at(0));
    }
    for source in 2..1000 {
        ledger.observe(Source::v4(source), known(0), at(u64::from(source)));
    }
    assert_eq!((ledger.len(), ledger.take_evicted()), (3, 996));
    assert!(ledger.observe(Source::v4(1), unknown(9), at(1000)).is_some(), "the offender was not forgotten");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn never_below_count_or_share_and_always_bounded(
        reports in prop::collection::vec((0u32..20, 0u64..40, any::<bool>(), 0u64..100), 0..400)
    ) {
        let mut ledger = Ledger::new(rule(), Auth::default(), 8);
        let mut seconds = 0;
        for (source, recipient, is_known, pause) in reports {
            seconds += pause;
            let source = Source::v4(source);
            let before = ledger.view(source, at(seconds));
            let conduct = if is_known { known(recipient) } else { unknown(recipient) };
            let verdict = ledger.observe(source, conduct, at(seconds));
            prop_assert!(ledger.len() <= 8);
            prop_assert_eq!(ledger.clean.len() + ledger.offenders.len(), ledger.len());
            if verdict.is_some() {
                let before = before.unwrap();
                prop_assert!(!is_known && before.unknown >= 9, "banned after {} unknown", before.unknown);
                prop_assert!(before.share + 1.0 / f64::from(before.recipients) > 0.5);
            }
        }
    }
}
