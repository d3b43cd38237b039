//! Decisions and reports of other guards, weighed and taken back.

use super::*;

/// What a ban weighs that `decide` makes another guard decide, where this one has heard `conduct` of the source before.
#[track_caller]
fn check_weight(conduct: &[Conduct], reason: Reason, origin: &str, expected: Weight) {
    let (mut keeper, ..) = told();
    let client = ClientAddr::new(("20.0.2.1".parse::<IpAddr>().unwrap(), 4000).into());
    for conduct in conduct {
        keeper.on_report(Report { client, at: crate::clock::now(), conduct: conduct.clone() });
    }
    let both = crate::clock::both();
    let ban = Decision {
        source: "20.0.2.1".to_owned(),
        reason: reason.label().to_owned(),
        text: String::new(),
        origin: origin.to_owned(),
        origin_name: None,
        made: both.wall,
        until: both.wall_at(both.instant.after(Duration::from_secs(3600))),
        repeat: 0,
        evidence: Vec::new(),
    };
    let twice = [ban.clone(), ban];
    assert_eq!(keeper.hear_of(&Name::new("mx2"), &twice[..1]), [expected], "{conduct:?} {origin}");
    // An operator's word counts again each time.
    let again = if origin == "ledger" { Weight::Nothing } else { expected };
    assert_eq!(keeper.hear_of(&Name::new("mx2"), &twice[1..]), [again], "the same again");
}

#[test]
fn a_ban_of_another_guard_is_weighed_by_what_is_known_here() {
    let unknown =
        |n: u32| Conduct::UnknownRecipient { recipient: format!("no{n}@example.org").into(), returned: false };
    let login = Conduct::Offence(Reason::AuthFailures);
    check_weight(&[], Reason::Harvest, "ledger", Weight::Unseen);
    check_weight(&[unknown(0)], Reason::Harvest, "ledger", Weight::Seen);
    check_weight(&[login], Reason::AuthFailures, "ledger", Weight::Seen);
    check_weight(&[unknown(0), Conduct::MessageAccepted], Reason::Harvest, "ledger", Weight::Friend);
    check_weight(&[Conduct::MessageAccepted], Reason::Operator, "operator", Weight::Unseen);
    // Its network is deferred, so nobody takes note of what it does.
    let (mut keeper, ..) = told();
    for n in 0..30 {
        let ip = format!("20.0.2.{}", 100 + n).parse::<IpAddr>().unwrap();
        let (client, at) = (ClientAddr::new((ip, 4000).into()), crate::clock::now());
        keeper.on_report(Report { client, at, conduct: unknown(n) });
    }
    let ban = |source: &str| {
        let mut ban = Decision::deferral(source.to_owned(), &crate::clock::both(), Instant::NEVER);
        ban.reason = Reason::Harvest.label().to_owned();
        ban
    };
    let bans = [ban("20.0.2.1"), ban("20.0.3.1")];
    assert_eq!(keeper.hear_of(&Name::new("mx2"), &bans), [Weight::Seen, Weight::Unseen]);
    let all: Vec<_> = (0..10).map(unknown).collect();
    let (mut keeper, ..) = told();
    let client = ClientAddr::new(("20.0.2.1".parse::<IpAddr>().unwrap(), 4000).into());
    all.iter().for_each(|conduct| {
        keeper.on_report(Report { client, at: crate::clock::now(), conduct: conduct.clone() });
    });
    let same = held(&keeper);
    assert_eq!(keeper.hear_of(&Name::new("mx2"), &same), [Weight::Nothing], "it is banned here");
}

#[test]
fn what_was_decided_here_upon_a_mad_guards_reports_is_lifted_with_what_it_decided() {
    let (mut keeper, peers, _) = told();
    let from = crate::clock::now();
    let report = |source: &str, n: u32| {
        let recipient = Digest::of(&format!("no{n}@example.org"));
        let unknown = Conduct::UnknownDigest { recipient, returned: false };
        vec![(source.to_owned(), crate::clock::now(), crate::offence::Heard::Conduct(unknown))]
    };
    for n in 0..10 {
        keeper.hear(&Name::new("mx2"), report("20.0.2.1", n));
        keeper.hear(&Name::new(if n == 9 { "mx3" } else { "mx2" }), report("20.0.2.2", n));
    }
    keeper.sweep();
    assert_eq!(peers.take(), ["20.0.2.1 by ledger upon mx2", "20.0.2.2 by ledger upon mx3"]);
    // Who is told later is told so as well.
    keeper.tell_all();
    let mut told = peers.take();
    told.sort_unstable();
    assert_eq!(told, ["20.0.2.1 by ledger upon mx2", "20.0.2.2 by ledger upon mx3"]);
    let void = keeper.void(&Name::new("mx2"), from, Instant::NEVER);
    assert_eq!(void, [""; 0], "the server still holds what this guard said");
    assert_eq!(held(&keeper).iter().map(|ban| ban.source.as_str()).collect::<Vec<_>>(), ["20.0.2.2"]);
    assert_eq!(peers.take(), [""; 0]);
}

#[test]
fn a_ban_elsewhere_lengthens_the_next_one_here_once_it_has_ended() {
    let (mut keeper, ..) = told();
    let both = crate::clock::both();
    let second = both.instant.after(Duration::from_secs(1));
    let ban = Decision {
        source: "20.0.2.1".to_owned(),
        reason: Reason::Harvest.label().to_owned(),
        text: String::new(),
        origin: "ledger".to_owned(),
        origin_name: None,
        made: both.wall,
        until: both.wall_at(second),
        repeat: 2,
        evidence: Vec::new(),
    };
    keeper.hear_of(&Name::new("mx2"), &[ban]);
    let trips =
        |keeper: &mut Keeper| keeper.explain("20.0.2.1".parse().unwrap()).ledger.map_or(0, |ledger| ledger.trips);
    assert_eq!(trips(&mut keeper), 0, "it takes no room meanwhile");
    let over = second.after(Duration::from_secs(1));
    keeper.sweep_at(Both { instant: over, wall: both.wall_at(over) });
    assert_eq!((held(&keeper).len(), trips(&mut keeper)), (0, 3));
}
