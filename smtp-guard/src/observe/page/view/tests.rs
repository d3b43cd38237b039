//! Each part of the page as text.

use std::sync::Arc;
use std::time::Duration;

use super::super::super::live::DroppedSource;
use super::super::super::metrics::Timed;
use super::super::super::status::{Server, tests as status};
use super::super::Near;
use super::*;
use crate::blocklist::{Read, State};
use crate::clock::{Both, Instant};
use crate::events::Event;
use crate::observe::status::{Bans, Certificate, Kernel, LastReload};
use crate::rates::accounts::{AccountList, AccountView, HoldView};

const NOW: Both = Both { instant: Instant::from_ns(100_000_000_000), wall: WallTime::from_ms(1_000_000_000) };

/// So many seconds before [`NOW`].
fn ago(seconds: i64) -> WallTime {
    NOW.wall.later(-1000 * seconds)
}

/// A guard that is well and has nothing to show.
fn calm() -> (Snapshot, Slow) {
    let mut status = status::overview().status(NOW.instant);
    status.backend = vec![server("192.0.2.7:25", true)];
    (status.dns_silent, status.store_trouble, status.tls_trouble, status.fleet) = (false, None, None, None);
    (status.blocklists, status.certificates) = Default::default();
    status.configuration.last_reload = None;
    status.recipients.trouble = None;
    status.held_users.count = 0;
    let slow = Slow::new(NOW.instant, status, AccountList { accounts: Vec::new(), left_out: 0 }, Vec::new());
    let overview = status::overview();
    let seen = Snapshot::take(&overview, NOW, "mx.example.org".to_owned(), Vec::new(), Arc::new(slow.clone()));
    (seen, slow)
}

fn server(address: &str, answers: bool) -> Server {
    Server { address: address.to_owned(), answers, connections: 3, round_trip_seconds: None }
}

/// What is read of `html`: its words, without tags.
fn read(html: &str) -> String {
    let texts = html.split('<').filter_map(|part| part.split_once('>')).map(|(_, text)| text);
    texts.flat_map(|text| text.split(' ')).filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ")
}

/// The part `id` reads as `expected` after `change`, two seconds after a moment at which counts were those of a calm guard. `*` stands
/// for anything.
#[track_caller]
fn check(id: &str, change: impl FnOnce(&mut Snapshot, &mut Slow), expected: &str) {
    let (mut seen, mut slow) = calm();
    let before = Counts { at: Instant::from_ns(98_000_000_000), ..seen.counts.clone() };
    change(&mut seen, &mut slow);
    seen.slow = Arc::new(slow);
    let parts = parts(&seen, &Pair::new(Some(&before), &seen.counts));
    let (_, html) = parts.iter().find(|(other, _)| *other == id).unwrap();
    let text = read(&format!("<i>{html}"));
    let mut rest = text.as_str();
    for part in expected.split('*') {
        let Some((_, after)) = rest.split_once(part) else { panic!("no {part:?} in {text:?}") };
        rest = after;
    }
    assert!(expected.ends_with('*') || rest.is_empty(), "{rest:?} is left of {text:?}");
}

#[test]
fn troubles_are_named_with_their_section() {
    let trouble = |change: fn(&mut Slow), expected: &str| check("summary", |_, slow| change(slow), expected);
    trouble(|_| {}, "All is well.");
    trouble(
        |slow| slow.status.backend[0].answers = false,
        "One trouble. Backend : No server of the backend answers: clients hear 451.",
    );
    let one_of_two = |slow: &mut Slow| slow.status.backend.push(server("192.0.2.8:25", false));
    trouble(one_of_two, "One trouble. Backend : 1 of 2 servers of the backend don't answer.");
    trouble(|slow| slow.status.dns_silent = true, "One trouble. DNS : No DNS server answers.");
    trouble(
        |slow| slow.status.store_trouble = Some("no space".to_owned()),
        "One trouble. Configuration : Decisions are not written to disk: no space",
    );
    trouble(
        |slow| slow.status.tls_trouble = Some("no key".to_owned()),
        "One trouble. Certificates : Certificates can't be used as they are in their files: no key",
    );
    for (seconds, expected) in [
        (0, "One trouble. Certificates : The certificate /c.pem has ended."),
        (-1, "One trouble. Certificates : The certificate /c.pem has ended."),
        (3 * 86_400, "One trouble. Certificates : The certificate /c.pem ends in 3 d 0 h."),
        (SOON - 1, "One trouble. Certificates : The certificate /c.pem ends in 13 d 23 h."),
        (SOON, "All is well."),
    ] {
        check("summary", |_, slow| slow.status.certificates = vec![certificate(seconds)], expected);
    }
    trouble(
        |slow| slow.status.blocklists = vec![list(None, Some("missing"))],
        "One trouble. Block lists : The block list drop can't be read: missing",
    );
    trouble(|slow| slow.status.blocklists = vec![list(None, None)], "All is well.");
    trouble(
        |slow| slow.status.recipients.trouble = Some("line 3".to_owned()),
        "One trouble. Configuration : The file of recipients can't be used: line 3",
    );
    trouble(
        |slow| slow.status.configuration.last_reload = Some(LastReload { at: ago(5), error: Some("bad".to_owned()) }),
        "One trouble. Configuration : The last reload was refused: bad",
    );
    trouble(
        |slow| slow.status.configuration.last_reload = Some(LastReload { at: ago(5), error: None }),
        "All is well.",
    );
    trouble(
        |slow| slow.status.fleet = Some(crate::observe::fleet::tests::status()),
        "One trouble. Fleet : 1 edges of the fleet are not listened to.",
    );
    let alone = |slow: &mut Slow| {
        let mut fleet = crate::observe::fleet::tests::status();
        fleet.connected = false;
        slow.status.fleet = Some(fleet);
        slow.status.warnings = vec!["few descriptors".to_owned()];
    };
    trouble(
        alone,
        "3 troubles. Fleet : The fleet's server doesn't answer: this edge goes on alone. Fleet : 1 edges of the fleet are not \
         listened to. Configuration : few descriptors",
    );
    let (mut seen, mut slow) = calm();
    assert_eq!(title(&seen), "mx.example.org: smtp-guard");
    alone(&mut slow);
    seen.slow = Arc::new(slow);
    assert_eq!(title(&seen), "(3) mx.example.org: smtp-guard");
}

fn certificate(remaining_seconds: i64) -> Certificate {
    Certificate { file: "/c.pem".to_owned(), remaining_seconds, not_after: WallTime::from_ms(11_000) }
}

fn list(read: Option<Read>, error: Option<&str>) -> State {
    State { name: "drop".to_owned(), file: "/drop".into(), read, error: error.map(str::to_owned) }
}

#[test]
fn counts_stand_with_their_rates() {
    let busy = |seen: &mut Snapshot, slow: &mut Slow| {
        (seen.connections, seen.connections_limit, seen.bans) = (7, 500, Bans { all: 1200, networks: 1 });
        seen.counts.messages[Outcome::Accepted as usize] += 3;
        seen.counts.connections += 20;
        seen.counts.rejections = vec![(Reason::Relay, 8), (Reason::Harvest, 0)];
        seen.counts.drops = vec![(Reason::Operator, 40), (Reason::Harvest, 100_000)];
        slow.status.held_users.count = 1;
    };
    check(
        "figures",
        busy,
        "Connected 7 of 500 Accepted 1.5 a second Refused 4.0 a second Dropped 50\u{202f}020 packets a second Banned \
         1\u{202f}200 1 network among them Held 1 account",
    );
    check(
        "figures",
        |seen, _| seen.bans = Bans { all: 3, networks: 2 },
        "*Banned 3 2 networks among them Held 0 accounts",
    );
    check("figures", |_, _| {}, "*Banned 0 Held 0 accounts");
    check(
        "mail",
        busy,
        "Messages by what became of them Outcome A second Since the start accepted 1.5 3 rejected 0 0 deferred 0 0 ambiguous 0 0 \
         connections 10 20",
    );
    check(
        "refused",
        busy,
        "What clients were refused in the session, by reason Reason A second Since the start relaying denied relay 4.0 8",
    );
    check("refused", |_, _| {}, "Nothing was refused.");
    check(
        "kernel",
        busy,
        "*second Since the start directory harvest attack harvest 50\u{202f}000 100\u{202f}000 * operator 20 40*",
    );
    check("kernel", |_, _| {}, "There is no kernel plane: bans are enforced in the session.*");
    let present = |_: &mut Snapshot, slow: &mut Slow| {
        slow.status.kernel = Kernel { present: true, text: "on eth0".to_owned() };
    };
    check("kernel", present, "Nothing was dropped. It filters on eth0");
    check("dropped", present, "Nobody in the last minute.");
    check("dropped", |_, _| {}, "Without a kernel plane nothing is dropped.");
    check("observed", |_, _| {}, "Nothing, or no check observes.");
    check("observed", |seen, _| seen.counts.observed = vec![(Reason::Relay, 2)], "*relaying denied relay 1.0 2");
}

#[test]
fn what_moves_stands_first() {
    let counts =
        |seen: &mut Snapshot, _: &mut Slow| seen.counts.rejections = vec![(Reason::Relay, 90), (Reason::Harvest, 80)];
    check("refused", counts, "* relay 45 90 directory harvest attack harvest 40 80");
    let (mut seen, _) = calm();
    seen.counts.rejections = vec![(Reason::Relay, 90), (Reason::Harvest, 70)];
    let before = Counts { at: Instant::from_ns(98_000_000_000), ..seen.counts.clone() };
    seen.counts.rejections[1].1 = 80;
    let parts = parts(&seen, &Pair::new(Some(&before), &seen.counts));
    let (_, html) = parts.iter().find(|(id, _)| *id == "refused").unwrap();
    assert!(read(html).ends_with("harvest 5.0 80 relaying denied relay 0 90"), "{}", read(html));
}

fn ban(source: &str) -> Decision {
    Decision {
        source: source.to_owned(),
        reason: "harvest".to_owned(),
        text: Reason::Harvest.text().to_owned(),
        origin: "ledger".to_owned(),
        origin_name: None,
        made: ago(60),
        until: NOW.wall.later(3_600_000),
        repeat: 0,
        evidence: Vec::new(),
    }
}

#[test]
fn sources_stand_with_their_reasons() {
    check("bans", |_, _| {}, "Nobody is banned.");
    check("bans", |seen, _| seen.bans.all = 5, "None of late. All of them: smtp-guard decisions list");
    let first = "192.0.2.1 directory harvest attack harvest ledger 1 min ago 1 h 0 min";
    let one = |seen: &mut Snapshot, _: &mut Slow| (seen.bans.all, seen.decisions) = (1, vec![ban("192.0.2.1")]);
    check("bans", one, &format!("1 in force Source Why, and the evidence By Made Left {first}"));
    let told = |repeat, lines: usize| {
        move |seen: &mut Snapshot, _: &mut Slow| {
            let evidence = (0..lines).map(|n| format!("line {n}")).collect();
            let (text, until) = ("by hand".to_owned(), WallTime::NEVER);
            seen.decisions = vec![Decision { text, repeat, evidence, until, ..ban("192.0.2.1") }];
            seen.bans.all = 2;
        }
    };
    let more = "2 in force; these are the latest. All of them: smtp-guard decisions list *harvest by hand line 0 line 1 line 2 line 3";
    check("bans", told(1, 4), &format!("{more} ledger, 1 ban before 1 min ago for ever"));
    check("bans", told(2, 6), &format!("{more} 2 more ledger, 2 bans before 1 min ago for ever"));
    check("bans", |seen, _| seen.decisions = vec![ban("x"); ROWS + 1], &format!("0 in force *{}", "x *".repeat(ROWS)));

    let source = DroppedSource {
        source: "192.0.2.1".to_owned(),
        reason: "harvest".to_owned(),
        port: 25,
        per_second: 12.4,
        packets: 3000,
        samples: 30,
        since: ago(90),
        last: ago(1),
    };
    check(
        "dropped",
        |seen, _| seen.drops.by_source = vec![source],
        "*Since 192.0.2.1 directory harvest attack harvest to port 25 12 3\u{202f}000 30 samples 1 min ago",
    );
    let near = |who: &str, count| Near { who: who.to_owned(), limit: "limits.connections".to_owned(), count, most: 20 };
    check("near", |_, _| {}, "Nobody has used half of a limit.");
    check(
        "near",
        |_, slow| slow.near = vec![near("192.0.2.1", 12), near("192.0.2.2", 1200)],
        "* Used 192.0.2.1 limits.connections 12 of 20 12 of 20 192.0.2.2 limits.connections 1\u{202f}200 of 20 *",
    );
}

#[test]
fn held_users_stand_with_the_time_left() {
    let hold = |user: &str, text: &str, until| AccountView {
        user: user.to_owned(),
        counts: Vec::new(),
        networks: Vec::new(),
        held: Some(HoldView {
            reason: Reason::UserHeld.label().to_owned(),
            text: text.to_owned(),
            origin: "operator".to_owned(),
            since: ago(120),
            until,
        }),
    };
    let free = AccountView { held: None, ..hold("carl", "", WallTime::NEVER) };
    let users = vec![
        hold("ann", "stolen", WallTime::NEVER),
        free,
        hold("bob", Reason::UserHeld.text(), NOW.wall.later(60_000)),
    ];
    let change = |_: &mut Snapshot, slow: &mut Slow| {
        (slow.users.accounts, slow.status.held_users.count) = (users, 2);
    };
    let words = format!("{} {}", Reason::UserHeld.text(), Reason::UserHeld.label());
    check(
        "held",
        change,
        &format!(
            "2 held: they hear 450 User Why Since Left ann {words} stolen 2 min ago until released bob {words} 2 min ago 1 min"
        ),
    );
    check("held", |_, _| {}, "No account is held.");
}

#[test]
fn servers_and_look_ups_stand_with_their_times() {
    let timed = |count, ms: u64| Timed { count, ns: count * ms * 1_000_000 };
    let asked = |seen: &mut Snapshot, slow: &mut Slow| {
        let first = Server {
            round_trip_seconds: Some(crate::clock::Seconds(Duration::from_millis(17))),
            ..server("a:25", true)
        };
        slow.status.backend = vec![first, server("b:25", false)];
        seen.counts.backend = [5, 4, 1, 2];
        seen.counts.replies[Verb::Rcpt as usize] = timed(6, 3);
    };
    check(
        "backend",
        asked,
        "*Round trip a:25 answers 3 17 ms b:25 doesn't answer 3 – Sessions were given 10 connections: 4 were used again (40 %), 1 \
         were opened before MAIL; 2 were, and no MAIL came. *Since the start rcpt 3.00 ms 3.0 6",
    );
    check("backend", |_, _| {}, "*connections: 0 were used again (–), * It was asked nothing yet.");
    check("dns", |_, _| {}, "Nothing was asked yet No look-ups.");
    check("dns", |_, slow| slow.status.dns_silent = true, "No server answers No look-ups.");
    let looked = |seen: &mut Snapshot, _: &mut Slow| {
        let of = &mut seen.counts.lookups[Kind::Mx as usize];
        (of[Told::Cached.number()], of[Told::Found.number()], of[6], of[7]) = (5, 2, 1, 2);
        seen.counts.dns[Kind::Mx as usize] = timed(5, 20);
    };
    check("dns", looked, "Servers answer *Mean mx 5.0 10 50 % 3 20 ms");
}

#[test]
fn files_and_settings_stand_with_their_age() {
    let read = || Read { at: ago(30), format: String::new(), entries: 4000, refused: 2, skipped: 0 };
    check("lists", |_, _| {}, "None is configured.");
    check(
        "lists",
        |_, slow| slow.status.blocklists = vec![list(Some(read()), None), list(None, Some("missing"))],
        "*Read drop 4\u{202f}000 2 30 s ago drop missing – – never",
    );
    check("certificates", |_, _| {}, "There is none: STARTTLS is not offered.");
    for (seconds, left) in [(-1, "ended"), (0, "0 days"), (40 * 86_400 + 1, "40 days")] {
        let expected = format!("*Ends /c.pem {left} 1970-01-01 00:00:11 UTC");
        check("certificates", |_, slow| slow.status.certificates = vec![certificate(seconds)], &expected);
    }
    let changed = |_: &mut Snapshot, slow: &mut Slow| {
        let configuration = &mut slow.status.configuration;
        (configuration.generation, configuration.since) = (4, ago(60));
        configuration.last_reload = Some(LastReload { at: ago(2), error: Some("bad".to_owned()) });
        (configuration.waiting, configuration.earlier_sessions) = (vec!["listen".to_owned()], 9);
        slow.status.recipients.catch_all = vec!["example.org".to_owned()];
        slow.status.store_trouble = Some("no space".to_owned());
    };
    check(
        "configuration",
        changed,
        "Generation 4, in force for 1 min Last reload 2 s ago : refused bad Waits for a restart listen Sessions by an earlier \
         generation 9 Listens on 192.0.2.1:25 Recipients 7 in the table; any recipient is taken in example.org Store not written \
         no space",
    );
    let unchanged = |_: &mut Snapshot, slow: &mut Slow| {
        slow.status.recipients.known = None;
        slow.status.configuration.last_reload = Some(LastReload { at: ago(2), error: None });
    };
    check(
        "configuration",
        unchanged,
        "*Last reload 2 s ago : applied Listens on 192.0.2.1:25 Recipients the backend is asked Store decisions are on disk",
    );
    check("configuration", |_, _| {}, "*Last reload none since the start Listens*");
    check("bounds", |_, _| {}, "None.");
    let reached = crate::observe::bounds::Reached {
        name: "scrapes".to_owned(),
        what: "scrapes under way".to_owned(),
        limit: None,
        count: 3,
        last: ago(5),
    };
    let limited = crate::observe::bounds::Reached { limit: Some(4), ..reached.clone() };
    check(
        "bounds",
        |_, slow| slow.status.bounds = vec![reached, limited],
        "*Last scrapes scrapes under way 3 – 5 s ago scrapes scrapes under way 3 4 5 s ago",
    );
}

#[test]
fn edges_stand_with_their_state() {
    check("fleet", |_, _| {}, "This edge takes part in none.");
    let fleet = |_: &mut Snapshot, slow: &mut Slow| {
        let mut fleet = crate::observe::fleet::tests::status();
        (fleet.since, fleet.trouble) = (ago(60), Some("slow".to_owned()));
        slow.status.fleet = Some(fleet);
    };
    check(
        "fleet",
        fleet,
        "Fleet edge: the server 192.0.2.10:6379 answers since 1 min ago ; 7 decisions known, 120 reports sent, 98 heard Edge State \
         Version Heard Clock Waits mx1 this edge live 0.1.0 0 s ago -0.012 s 0 mx2 not listened to it made 812 decisions in a \
         minute; 600 are the most 0.1.0 1 s ago +90.250 s 0 9 lost mx3 silent 0.1.0 2 h 5 min ago +0.000 s 0 slow",
    );
}

#[test]
fn events_are_told_in_short() {
    let source = || "192.0.2.1".to_owned();
    let harvest = || Reason::Harvest.label().to_owned().into();
    let rows = [
        (
            What::ConnectionRefused { session: String::new(), client: source(), reason: harvest() },
            "refused connection from 192.0.2.1: directory harvest attack",
        ),
        (What::UserReleased { user: "ann".to_owned() }, "released ann"),
        (What::AllLifted { count: 3 }, "all lifted 3 decisions"),
        (What::Backend { server: "b:25".to_owned(), answers: true }, "backend b:25 answers"),
        (What::Backend { server: "b:25".to_owned(), answers: false }, "backend b:25 does not answer"),
        (What::Kernel { loaded: true, text: "eth0".to_owned() }, "kernel loaded: eth0"),
        (What::Kernel { loaded: false, text: "eth0".to_owned() }, "kernel gone: eth0"),
        (What::Certificate { usable: true, text: "/c.pem".to_owned() }, "certificate /c.pem"),
        (What::Certificate { usable: false, text: "/c.pem".to_owned() }, "certificate can't be used: /c.pem"),
        (What::Fleet { connected: true, text: "redis".to_owned() }, "fleet the server answers: redis"),
        (What::Fleet { connected: false, text: "redis".to_owned() }, "fleet the server can't be used: redis"),
        (
            What::FleetNode { node: "mx2".to_owned(), state: "silent".into(), text: String::new() },
            "fleet mx2 is silent",
        ),
    ];
    for (what, expected) in rows {
        let event = Arc::new(Event { number: 1, at: ago(3), what });
        check("events", |seen, _| seen.events = vec![event], &format!("*When {expected} 3 s ago"));
    }
    check("events", |_, _| {}, "Nothing has happened yet.");
}
