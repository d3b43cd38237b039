use std::time::Duration;

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
    Conduct::UnknownRecipient { recipient: format!("no{n}@example.org").into(), returned: false }
}

fn known(n: u64) -> Conduct {
    Conduct::KnownRecipient { recipient: digest(n) }
}

fn digest(n: u64) -> Digest {
    Digest::of(&format!("yes{n}@example.org"))
}

/// Runs `trace` of (seconds, conduct) and expects the first ban at its `ban`th report, counted from 1.
fn check(name: &str, trace: impl IntoIterator<Item = (u64, Conduct)>, ban: Option<usize>) {
    let mut ledger = Ledger::new(rule(), Auth::default(), 100);
    let source = Source::v4(1);
    let banned =
        trace.into_iter().position(|(seconds, conduct)| !ledger.observe(source, conduct, at(seconds)).is_empty());
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
    let trap = || Conduct::Trap { recipient: "trap@example.org".into(), sender: Digest::of("") };
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
        (0..10).flat_map(|n| ledger.observe(source, unknown(seconds + n), at(seconds))).next().unwrap()
    };
    let mut lengths = Vec::new();
    for _ in 0..10 {
        let verdict = harvest(&mut ledger, seconds);
        assert!(!verdict.evidence.is_empty() && verdict.evidence.len() <= EVIDENCE);
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
    assert_eq!(ledger.observe(source, unknown(11), at(1)), []);
    let mut restarted = Ledger::new(rule(), Auth::default(), 100);
    restarted.remember_ban(source, 0, at(3600), at(10));
    let verdict = (0..10).flat_map(|n| restarted.observe(source, unknown(n), at(4000))).next().unwrap();
    assert_eq!((verdict.repeat, verdict.length), (1, HOUR * 2));
}

#[test]
fn a_history_of_accepted_mail_makes_a_deferral_of_a_ban() {
    let source = Source::v4(1);
    let day = 24 * 3600;
    for (before, trusted) in [(0, false), (9, false), (100, true)] {
        let mut ledger = Ledger::new(rule(), Auth::default(), 100);
        for n in 0..before {
            ledger.observe(source, Conduct::MessageAccepted, at(day + n));
        }
        assert_eq!(ledger.is_familiar(source), before > 0);
        let mut lengths = Vec::new();
        for round in 2..9 {
            // The window is empty each time, the memory of earlier trips is not.
            let Verdict { target, length, .. } =
                (0..10).flat_map(|n| ledger.observe(source, unknown(n), at(round * day))).next().unwrap();
            assert_eq!(target, if trusted { Target::Defer(source) } else { Target::Ban(source) }, "{before} messages");
            lengths.push(length.as_secs() / 60);
        }
        assert_eq!(lengths[..4], if trusted { [10, 20, 40, 60] } else { [60, 120, 240, 480] });
        let trap = Conduct::Trap { recipient: "trap@example.org".into(), sender: Digest::of("") };
        let verdicts = ledger.observe(source, trap, at(20 * day));
        let sender = matches!(verdicts[..], [Verdict { target: Target::DeferSender(..), .. }]);
        assert_eq!(sender, before > 0, "b3: of a source with a history only the sender is put off");
        let failed = || Conduct::Offence(Reason::AuthFailures);
        let verdicts: Vec<_> = (0..10).flat_map(|_| ledger.observe(source, failed(), at(20 * day))).collect();
        assert!(matches!(verdicts[..], [Verdict { target: Target::Ban(_), .. }]), "logins are another matter");
    }
}

#[test]
fn trust_is_used_up() {
    let source = Source::v4(1);
    let day = 24 * 3600;
    let mut ledger = Ledger::new(rule(), Auth::default(), 100);
    for n in 0..25 {
        ledger.observe(source, Conduct::MessageAccepted, at(day + n));
    }
    let mut deferred = Vec::new();
    for round in 2..6 {
        let verdict = (0..10).flat_map(|n| ledger.observe(source, unknown(n), at(round * day))).next().unwrap();
        deferred.push(verdict.target == Target::Defer(source));
    }
    assert_eq!(deferred, [true, true, false, false], "ten messages each");
}

#[test]
fn in_doubt_nobody_is_banned() {
    let source = Source::v4(1);
    let mut ledger = Ledger::new(rule(), Auth::default(), 100);
    let round = |start: u64| {
        let reports = (0..5).map(known).chain((0..10).map(unknown));
        let mut verdicts: Vec<_> = reports.flat_map(|conduct| ledger.observe(source, conduct, at(start))).collect();
        let verdict = verdicts.pop().unwrap();
        assert_eq!((verdict.target, verdicts.len()), (Target::Defer(source), 0));
        verdict.length.as_secs() / 60
    };
    let day = 24 * 3600;
    assert_eq!([0, 1000, 3000, 6000, 11000, 11000 + day].map(round), [10, 20, 40, 60, 60, 10]);
    // Asking without sending: in doubt three times, as long as there is no pause.
    let mut ledger = Ledger::new(rule(), Auth::default(), 100);
    let round = |start: u64| {
        let recipients: Box<[_]> = (0..10).map(digest).collect();
        let reports = (0..3).map(unknown).chain([Conduct::Abandoned { recipients }]);
        reports.flat_map(|conduct| ledger.observe(source, conduct, at(start))).next().unwrap().target
    };
    let (put_off, banned) = (Target::Defer(source), Target::Ban(source));
    assert_eq!([0, 8000, 9000, 11000, 14000].map(round), [put_off, put_off, put_off, put_off, banned]);
}

#[test]
fn what_is_given_up_is_no_mail() {
    let abandoned = |n| Conduct::Abandoned { recipients: [digest(n)].into() };
    // Every second one exists: who sends to it goes on, who gives each one up is tripped by the tenth unknown one.
    let sends = (0..100).map(|n| (n, if n % 2 == 0 { known(n) } else { unknown(n) }));
    check("a sender", sends, None);
    let probes = (0..100).flat_map(|n| {
        let exists = n % 2 == 0;
        [Some((n, if exists { known(n) } else { unknown(n) })), exists.then(|| (n, abandoned(n)))]
    });
    check("a prober", probes.flatten(), Some(29));
    // Nine of ten exist: the tenth that is given up, once a quarter of the number was unknown.
    let good =
        (0..100).flat_map(|n| if n % 10 == 0 { vec![(n, unknown(n))] } else { vec![(n, known(n)), (n, abandoned(n))] });
    check("a prober with a good list", good, Some(39));
}

#[test]
fn a_harvest_that_is_spread_over_a_network() {
    let mut ledger = Ledger::new(rule(), Auth::default(), 1000);
    let host = |n: u64| Source::v4(0xc000_0200 + n as u32);
    let day = 24 * 3600;
    let (friend, neighbour) = (host(250), host(251));
    for n in 0..20 {
        ledger.observe(friend, Conduct::MessageAccepted, at(day + n));
    }
    ledger.observe(neighbour, known(1), at(2 * day));
    let mut found = Vec::new();
    for n in 0..40 {
        ledger.observe(friend, unknown(100 + n % 5), at(2 * day + n));
        found = ledger.observe(host(n / 3), unknown(n), at(2 * day + n));
        if !found.is_empty() {
            assert_eq!(n, 29, "three times the number of one source");
            break;
        }
    }
    let banned: BTreeSet<_> =
        found.iter().filter_map(|v| if let Target::Ban(source) = v.target { Some(source) } else { None }).collect();
    assert_eq!(banned, (0..10).map(host).collect(), "those that stand out alone, and nobody else");
    let rest: Vec<_> = found.iter().filter(|v| !matches!(v.target, Target::Ban(_))).map(|v| v.target).collect();
    assert_eq!(rest, [Target::DeferNetwork(Network::of(friend))]);
    // The window is empty, here as well.
    assert_eq!(ledger.observe(host(60), unknown(900), at(2 * day + 50)), []);
    // Two sources are no network.
    let mut ledger = Ledger::new(rule(), Auth::default(), 1000);
    for n in 0..18 {
        assert_eq!(ledger.observe(host(n % 2), unknown(n), at(n)), [], "{n}");
    }
}

#[test]
fn failed_logins_count_as_long_as_their_own_window() {
    let source = Source::v4(1);
    // Windows of harvests and of logins, in seconds; whether the second of two failures with so many between them bans.
    for (harvest, logins, pause, bans) in
        [(60, 3600, 3599, true), (60, 3600, 3600, false), (3600, 60, 59, true), (3600, 60, 60, false)]
    {
        let seconds = Duration::from_secs;
        let auth = Auth { failures: 2, failure_window: seconds(logins), ..Auth::default() };
        let mut ledger = Ledger::new(Harvest { window: seconds(harvest), ..rule() }, auth, 100);
        let failed = |ledger: &mut Ledger, at| ledger.observe(source, Conduct::Offence(Reason::AuthFailures), at);
        assert_eq!(failed(&mut ledger, at(0)), []);
        ledger.sweep(at(pause));
        let lately = ledger.view(source, at(pause)).map_or(0, |view| view.failed_logins);
        assert_eq!(lately, u32::from(bans), "{harvest} {logins} {pause}");
        assert_eq!(failed(&mut ledger, at(pause)).len(), usize::from(bans), "{harvest} {logins} {pause}");
    }
}

#[test]
fn a_rule_that_changes_leaves_nobody_behind_in_the_order_of_who_makes_room() {
    let mut ledger = Ledger::new(rule(), Auth::default(), 8);
    for round in 0..20 {
        let unknown_recipients = [10, 1, 1000, 4][round as usize % 4];
        ledger.set_rules(Harvest { unknown_recipients, ..rule() }, Auth::default());
        for n in 0..40 {
            ledger.observe(Source::v4((n % 20) << 8), unknown(u64::from(n)), at(round * 40 + u64::from(n)));
            assert_eq!(ledger.order.len(), ledger.len(), "{round} {n}");
            assert!(ledger.len() <= 8);
        }
        ledger.sweep(at(round * 40));
    }
}

fn returned(n: u64) -> Conduct {
    Conduct::UnknownRecipient { recipient: format!("forged{n}@example.org").into(), returned: true }
}

/// Verdicts of a source that has had `accepted` messages accepted the day before, and then does `trace`: deferred and banned.
fn verdicts(accepted: u64, trace: impl IntoIterator<Item = (u64, Conduct)>) -> (usize, usize) {
    let mut ledger = Ledger::new(rule(), Auth::default(), 100);
    let source = Source::v4(1);
    for n in 0..accepted {
        ledger.observe(source, Conduct::MessageAccepted, at(n));
    }
    let day = 24 * 3600;
    let found: Vec<_> =
        trace.into_iter().flat_map(|(s, conduct)| ledger.observe(source, conduct, at(day + s))).collect();
    let banned = found.iter().filter(|verdict| matches!(verdict.target, Target::Ban(_))).count();
    (found.len() - banned, banned)
}

#[test]
fn b1_returned_mail_never_bans_a_source_that_has_brought_mail() {
    let storm = |count: u64| (0..count).map(|n| (n * 10, returned(n)));
    assert_eq!(verdicts(3, storm(9)), (0, 0));
    assert_eq!(verdicts(3, storm(10)), (1, 0));
    assert_eq!(verdicts(1, storm(200)), (20, 0));
    // One that never brought any, and goes on.
    assert_eq!(verdicts(0, storm(10)), (1, 0));
    assert_eq!(verdicts(0, storm(20)), (1, 1));
    // Both kinds together are weak; a harvest of one's own is not.
    let mixed = (0..10).map(|n| (n, if n % 2 == 0 { unknown(n) } else { returned(n) }));
    assert_eq!(verdicts(3, mixed), (1, 0));
    assert_eq!(verdicts(3, (0..10).map(|n| (n, unknown(n)))), (0, 1));
    // The same address both ways is one.
    let twice = (0..5).flat_map(|n| {
        let both = |returned| Conduct::UnknownRecipient { recipient: format!("no{n}@example.org").into(), returned };
        [(n, both(true)), (n, both(false)), (n, both(true))]
    });
    assert_eq!(verdicts(0, twice), (0, 0));
}

#[test]
fn b2_neighbours_ban_nobody_whose_mail_was_accepted_or_who_made_one_mistake() {
    let mut ledger = Ledger::new(rule(), Auth::default(), 1000);
    let host = |n: u32| Source::v4(0xc000_0200 + n);
    let (friend, stranger) = (host(200), host(201));
    for n in 0..5 {
        ledger.observe(friend, Conduct::MessageAccepted, at(n));
    }
    ledger.observe(friend, returned(0), at(4000));
    ledger.observe(stranger, unknown(900), at(4000));
    let found: Vec<_> = (0..60).flat_map(|n| ledger.observe(host(n as u32 % 4), unknown(n), at(4001 + n))).collect();
    let banned: BTreeSet<_> =
        found.iter().filter_map(|v| if let Target::Ban(source) = v.target { Some(source) } else { None }).collect();
    assert_eq!(banned, (0..4).map(host).collect());
    assert!(found.iter().any(|verdict| verdict.target == Target::DeferNetwork(Network::of(friend))));
}

#[test]
fn b3_a_trap_that_a_customer_of_a_provider_writes_to_is_nobody_elses_matter() {
    let trap = |n: u64| (n, Conduct::Trap { recipient: "trap@example.org".into(), sender: digest(n) });
    let mut ledger = Ledger::new(rule(), Auth::default(), 100);
    let source = Source::v4(1);
    (0..26).for_each(|n| drop(ledger.observe(source, Conduct::MessageAccepted, at(n))));
    for n in 0..3 {
        let (seconds, conduct) = trap(100 + n);
        let found = ledger.observe(source, conduct, at(seconds));
        assert!(
            matches!(found[..], [Verdict { target: Target::DeferSender(who, _), .. }] if who == source),
            "{found:?}"
        );
    }
    assert_eq!(verdicts(0, [trap(1)]), (0, 1), "who only came for it is banned at once");
}

#[test]
fn who_makes_room() {
    let mut ledger = Ledger::new(rule(), Auth::default(), 4);
    let (offender, suspect, clean) = (Source::v4(1), Source::v4(2), Source::v4(3));
    for n in 0..3 {
        ledger.observe(offender, unknown(n), at(0));
    }
    ledger.observe(suspect, unknown(0), at(1));
    ledger.observe(clean, known(0), at(2));
    ledger.observe(Source::v4(4), Conduct::MessageAccepted, at(3));
    for n in 0..3 {
        ledger.observe(Source::v4(10 + n), unknown(0), at(10));
    }
    let friend = Source::v4(4);
    assert_eq!(ledger.take_evicted(), [clean, suspect, Source::v4(10)], "b9: who had mail accepted stays");
    for n in 0..1000 {
        ledger.observe(Source::v4(1000 + n), Conduct::Offence(Reason::NonSmtp), at(11));
    }
    assert!(ledger.is_familiar(friend), "b9: a thousand that only knock take nobody's history");
    ledger.take_evicted();
    for n in 0..3 {
        for m in 0..3 {
            ledger.observe(Source::v4(10 + n), unknown(m), at(20));
        }
    }
    ledger.take_evicted();
    // All others are offenders now: newcomers find no room, and nobody is forgotten.
    assert_eq!(ledger.observe(Source::v4(99), unknown(0), at(21)), []);
    assert_eq!((ledger.len(), ledger.take_evicted().len(), ledger.take_not_admitted()), (4, 0, 4));
    for n in 3..10 {
        let verdicts = ledger.observe(offender, unknown(n), at(30));
        assert_eq!(verdicts.is_empty(), n < 9, "nothing was forgotten");
    }
    // Once its window is over an offender makes room as well.
    ledger.observe(Source::v4(99), unknown(0), at(4000));
    assert_eq!(ledger.take_evicted().len(), 1);
}

#[test]
fn b9_friends_have_room_of_their_own_whatever_strangers_do() {
    let friends = |ledger: &Ledger, count: u32| (0..count).filter(|n| ledger.is_familiar(Source::v4(*n))).count();
    let mut ledger = Ledger::new(rule(), Auth::default(), 100);
    let greet = |ledger: &mut Ledger, n: u32| ledger.observe(Source::v4(n), Conduct::MessageAccepted, at(u64::from(n)));
    (0..50).for_each(|n| drop(greet(&mut ledger, n)));
    // Each on its way to a ban: none of them can be forgotten, and no friend is.
    for n in 0..500 {
        for m in 0..3 {
            ledger.observe(Source::v4((n + 10) << 8), unknown(m), at(100));
        }
    }
    assert_eq!((friends(&ledger, 50), ledger.len()), (50, 100));
    // A new friend finds room all the same, in the place of the oldest.
    greet(&mut ledger, 200);
    assert!(ledger.is_familiar(Source::v4(200)) && !ledger.is_familiar(Source::v4(0)));
    // Where friends have all of it, a stranger that has to be watched takes no more than half of it back.
    let mut ledger = Ledger::new(rule(), Auth::default(), 100);
    (0..100).for_each(|n| drop(greet(&mut ledger, n)));
    for n in 0..500 {
        for m in 0..3 {
            ledger.observe(Source::v4((n + 10) << 8), unknown(m), at(200));
        }
    }
    assert_eq!((friends(&ledger, 100), ledger.len()), (50, 100));
}

#[test]
fn what_is_over_is_swept() {
    let mut ledger = Ledger::new(rule(), Auth::default(), 1000);
    for n in 0..100 {
        ledger.observe(Source::v4(n), unknown(0), at(0));
        ledger.observe(Source::v4(1000 + n), known(0), at(0));
    }
    ledger.observe(Source::v4(5000), Conduct::MessageAccepted, at(0));
    for n in 0..10 {
        ledger.observe(Source::v4(6000), unknown(n), at(0));
    }
    ledger.sweep(at(3599));
    assert_eq!(ledger.len(), 202);
    ledger.sweep(at(3600));
    assert_eq!(ledger.len(), 2, "the history and the memory of the ban stay");
    ledger.sweep(at(15 * 24 * 3600));
    assert_eq!(ledger.len(), 1);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn never_below_number_or_share_and_always_bounded(
        reports in prop::collection::vec((0u32..20, 0u64..40, 0u8..4, 0u64..100), 0..400)
    ) {
        let mut ledger = Ledger::new(rule(), Auth::default(), 8);
        let mut seconds = 0;
        for (source, recipient, kind, pause) in reports {
            seconds += pause;
            // Each in a network of its own.
            let source = Source::v4(source << 8);
            let before = ledger.view(source, at(seconds)).map(|view| view.evidence).unwrap_or_default();
            let conduct = match kind {
                0 => known(recipient),
                1 => Conduct::Abandoned { recipients: [digest(recipient)].into() },
                _ => unknown(recipient),
            };
            let verdicts = ledger.observe(source, conduct, at(seconds));
            prop_assert!(ledger.len() <= 8);
            prop_assert_eq!(ledger.order.len(), ledger.len());
            if !verdicts.is_empty() {
                prop_assert!(kind != 0, "good conduct never trips");
                let evidence = Evidence { unknown: before.unknown + 1, probed: before.probed + 1, ..before };
                prop_assert!(before.unknown + u32::from(kind > 1) >= 1 && (evidence.probed >= 3 || evidence.unknown >= 3), "{:?}", before);
            }
        }
    }

    /// A guesser whose every tenth address exists, in any order, and who sends to all that he finds.
    #[test]
    fn a_guesser_learns_at_most_ten_of_a_thousand(order in Just((0..1000u64).collect::<Vec<_>>()).prop_shuffle(), sends: bool) {
        let mut ledger = Ledger::new(rule(), Auth::default(), 8);
        let source = Source::v4(1);
        let (mut learned, mut missed) = (0, 0);
        for (second, n) in order.into_iter().enumerate() {
            let second = second as u64;
            let exists = n % 10 == 0;
            let conduct = if exists { known(n) } else { unknown(n) };
            let mut verdicts = ledger.observe(source, conduct, at(second));
            if exists && !sends {
                verdicts.extend(ledger.observe(source, Conduct::Abandoned { recipients: [digest(n)].into() }, at(second)));
            }
            (learned, missed) = if exists { (learned + 1, missed) } else { (learned, missed + 1) };
            if !verdicts.is_empty() {
                break;
            }
        }
        prop_assert!(learned <= 10, "learned {learned}");
        prop_assert!(missed <= 10, "missed {missed}");
    }
}
