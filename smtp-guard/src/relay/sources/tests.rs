use super::*;

const LEAVING: u32 = 1024;
const ROOM: Limits = Limits { of_source: 2, of_network: 0, total: 3, leaving: LEAVING };

fn at(seconds: u64) -> Instant {
    Instant::from_ns((1_000 + seconds) * 1_000_000_000)
}

/// The host `host` of the IPv4 network number `network`.
fn host(network: u32, host: u32) -> Source {
    Source::v4((10 << 24) | (network << 8) | host)
}

#[test]
fn limits_are_exact_and_seats_come_back() {
    let (sources, limits) = (Sources::new(), ROOM);
    let enter = |source, standing| sources.enter(&limits, source, standing, at(0));
    let (a, b) = (host(1, 1), host(1, 2));
    let first = enter(a, Standing::Known).unwrap();
    let second = enter(a, Standing::Known).unwrap();
    assert_eq!(enter(a, Standing::Known).unwrap_err(), Reason::Connections);
    let third = enter(b, Standing::Known).unwrap();
    assert_eq!(enter(b, Standing::Known).unwrap_err(), Reason::TotalConnections);
    assert!(enter(b, Standing::Exempt).is_ok(), "an exempt client is never limited");
    drop(first);
    assert!(enter(a, Standing::Known).is_ok());
    assert_eq!(sources.of(a), (1, 2));
    drop((second, third));
    assert_eq!(sources.alive(), 0);
    let table = sources.table();
    assert!(table.networks.is_empty() && table.by_size.is_empty(), "nothing stays behind");
}

/// How many of `clients` are let in, each a newcomer that is at work, and what the next one hears.
#[track_caller]
fn check(limits: Limits, standing: Standing, clients: impl Iterator<Item = Source>, places: usize, then: Reason) {
    let sources = Sources::new();
    let mut seats = Vec::new();
    for client in clients {
        let peeked = sources.peek(&limits, client, standing, at(0));
        match sources.enter(&limits, client, standing, at(0)) {
            Ok(seat) => {
                assert_eq!(peeked, Ok(()));
                seat.works();
                seats.push(seat);
            }
            Err(reason) => {
                assert_eq!((seats.len(), reason, peeked), (places, then, Err(then)));
                return;
            }
        }
    }
    panic!("{} were let in", seats.len());
}

#[test]
fn c2_a_network_holds_no_more_than_its_ceiling() {
    let limits = Limits { of_source: 20, of_network: 500, total: 10_000, leaving: LEAVING };
    let of_one = || (0u32..).map(|n| host(7, n % 256));
    check(limits, Standing::Newcomer, of_one(), 450, Reason::NetworkConnections);
    check(limits, Standing::Known, of_one(), 500, Reason::NetworkConnections);
    // 505 sources of a /48 with 20 connections each.
    let of_48 = || (0u64..).map(|n| Source::v6(0x2001_0db8_0000_0000 | (n % 505), u64::MAX));
    check(limits, Standing::Newcomer, of_48(), 450, Reason::NetworkConnections);
    check(Limits { of_network: 0, ..limits }, Standing::Newcomer, of_48(), 9_000, Reason::TotalConnections);
    // A small limit has no tenth to be kept.
    check(Limits { of_network: 3, ..limits }, Standing::Newcomer, of_one(), 3, Reason::NetworkConnections);
    let of_all = || (0u32..).map(|n| host(n, 1));
    check(limits, Standing::Newcomer, of_all(), 9_000, Reason::TotalConnections);
    check(limits, Standing::Known, of_all(), 10_000, Reason::TotalConnections);
}

#[test]
fn c2_idle_newcomers_of_whoever_holds_most_make_room() {
    let (sources, limits) = (Sources::new(), Limits { of_source: 20, of_network: 0, total: 19, leaving: LEAVING });
    let enter = |source, now| sources.enter(&limits, source, Standing::Newcomer, at(now));
    // 18 places for newcomers: 12 of one network, 4 of another, 2 of others.
    let seats: Vec<_> = (0..12)
        .map(|n| host(1, n as u32 % 6))
        .chain([host(2, 1), host(2, 1), host(2, 2), host(2, 2), host(3, 1), host(4, 1)])
        .zip(0..)
        .map(|(source, now)| enter(source, now).unwrap())
        .collect();
    let ceded = || seats.iter().enumerate().filter(|(_, seat)| seat.has_ceded()).map(|(n, _)| n).collect::<Vec<_>>();
    seats[0].works();
    seats[2].trust();
    seats[3].waits(true, at(20));
    assert_eq!(sources.peek(&limits, host(1, 9), Standing::Newcomer, at(20)), Err(Reason::TotalConnections));
    assert_eq!(enter(host(1, 9), 20).unwrap_err(), Reason::TotalConnections, "whoever holds most displaces nobody");
    let honest = enter(host(5, 1), 20).unwrap();
    assert_eq!((ceded(), honest.displaced()), (vec![1], Some(Reason::TotalConnections)), "the longest idle");
    // 11 are left of the first network: its idle ones go until it holds no more than the others.
    let others: Vec<_> = (6..14).map(|network| enter(host(network, 1), 20).unwrap()).collect();
    assert_eq!(ceded(), [1, 4, 5, 6, 7, 8, 9, 10, 11]);
    // What it still has works, is trusted, or has a transaction that isn't stalled: the next largest gives way.
    let other = enter(host(20, 1), 20).unwrap();
    assert_eq!(ceded(), [1, 4, 5, 6, 7, 8, 9, 10, 11, 12]);
    // Both hold as much now, and a transaction, stalled as it is, goes after what has none.
    let late = enter(host(21, 1), 31).unwrap();
    assert_eq!(ceded(), [1, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13]);
    let later = enter(host(22, 1), 31).unwrap();
    assert_eq!(ceded(), [1, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13]);
    assert_eq!((sources.total(), sources.alive()), (18, 30));
    drop((seats, honest, others, other, late, later));
    assert_eq!((sources.total(), sources.alive()), (0, 0));
}

#[test]
fn c2_the_reserve_is_for_sources_with_a_history() {
    let (sources, limits) = (Sources::new(), Limits { of_source: 20, of_network: 0, total: 10, leaving: LEAVING });
    let newcomers: Vec<_> =
        (0..9).map(|n| sources.enter(&limits, host(n, 1), Standing::Newcomer, at(0)).unwrap()).collect();
    newcomers.iter().for_each(Seat::works);
    assert_eq!(sources.enter(&limits, host(20, 1), Standing::Newcomer, at(0)).unwrap_err(), Reason::TotalConnections);
    let known = sources.enter(&limits, host(20, 1), Standing::Known, at(0)).unwrap();
    assert_eq!(sources.enter(&limits, host(21, 1), Standing::Known, at(0)).unwrap_err(), Reason::TotalConnections);
    // Before a known sender is turned away any idle newcomer goes, whatever it holds.
    newcomers[4].waits(false, at(1));
    let other = sources.enter(&limits, host(21, 1), Standing::Known, at(1)).unwrap();
    assert!(newcomers[4].has_ceded() && !known.has_ceded());
    assert_eq!(sources.total(), 10);
    drop(other);
}

#[test]
fn c2_within_a_network_the_source_that_holds_most_makes_room() {
    let (sources, limits) = (Sources::new(), Limits { of_source: 20, of_network: 20, total: 1000, leaving: LEAVING });
    let greedy: Vec<_> =
        (0..18).map(|_| sources.enter(&limits, host(1, 1), Standing::Newcomer, at(0)).unwrap()).collect();
    let honest = sources.enter(&limits, host(1, 2), Standing::Newcomer, at(1)).unwrap();
    assert_eq!(honest.displaced(), Some(Reason::NetworkConnections));
    assert_eq!(greedy.iter().filter(|seat| seat.has_ceded()).count(), 1);
    assert_eq!(sources.enter(&limits, host(1, 1), Standing::Newcomer, at(1)).unwrap_err(), Reason::NetworkConnections);
    assert_eq!(sources.of(host(1, 2)), (1, 18));
}

#[test]
fn c2_those_that_make_room_are_bounded() {
    let (sources, limits) =
        (Sources::new(), Limits { of_source: 10_000, of_network: 0, total: 4_000, leaving: LEAVING });
    let idle: Vec<_> =
        (0..3_600).map(|_| sources.enter(&limits, host(1, 1), Standing::Newcomer, at(0)).unwrap()).collect();
    let arrivals = (2..).map(|n| sources.enter(&limits, host(n, 1), Standing::Newcomer, at(0)));
    let arrivals: Vec<_> = arrivals.take_while(Result::is_ok).collect();
    assert_eq!(arrivals.len() as u32, LEAVING);
    drop(idle);
    assert_eq!((sources.total(), sources.alive()), (LEAVING, LEAVING));
}

#[tokio::test]
async fn a_ban_wakes_the_sessions_of_its_source_only() {
    let (sources, limits) = (Sources::new(), ROOM);
    let enter = |source| sources.enter(&limits, source, Standing::Known, at(0)).unwrap();
    let banned = |reason| Some(Wake::Banned(reason));
    let (mut first, mut other) = (enter(host(1, 1)), enter(host(1, 2)));
    sources.ban(host(1, 1), Reason::Harvest);
    let mut later = enter(host(1, 1));
    assert_eq!(first.woken().await, Wake::Banned(Reason::Harvest));
    assert_eq!(first.try_woken(), None, "told once");
    for seat in [&mut first, &mut other, &mut later] {
        assert!(!is_woken(seat).await);
    }
    sources.ban_all(Reason::Listed, |source| source == host(1, 2));
    assert_eq!((other.woken().await, first.try_woken()), (Wake::Banned(Reason::Listed), None));
    sources.ban(host(1, 1), Reason::Operator);
    assert_eq!(later.try_woken(), banned(Reason::Operator), "and again when it happens again");
    assert_eq!(first.woken().await, Wake::Banned(Reason::Operator));
}

#[tokio::test]
async fn a_session_that_gives_way_is_told_once() {
    let (sources, limits) = (Sources::new(), Limits { of_source: 2, of_network: 0, total: 2, leaving: LEAVING });
    let enter = |n| sources.enter(&limits, host(n, 1), Standing::Newcomer, at(u64::from(n))).unwrap();
    let (mut first, mut second) = (enter(1), enter(2));
    let _third = enter(3);
    let _fourth = enter(4);
    assert_eq!(first.woken().await, Wake::GiveWay);
    assert_eq!(second.try_woken(), Some(Wake::GiveWay));
    for seat in [&mut first, &mut second] {
        assert_eq!(seat.try_woken(), None);
        assert!(!is_woken(seat).await);
    }
}

async fn is_woken(seat: &mut Seat) -> bool {
    tokio::select! {
        biased;
        _ = seat.woken() => true,
        () = std::future::ready(()) => false,
    }
}

/// Who is crowded among a network of hosts with 4 and 2 sessions, one of a host with 3, and one of three hosts with a session each.
#[track_caller]
fn check_crowded(of_source: u32, of_network: u32, most: usize, hosts: &[(Source, u32)], networks: &[(Source, u32)]) {
    let (sources, limits) = (Sources::new(), Limits { of_source: 20, of_network: 0, total: 100, leaving: LEAVING });
    let held = [(host(1, 1), 4), (host(1, 2), 2), (host(2, 1), 3), (host(3, 1), 1), (host(3, 2), 1), (host(3, 3), 1)];
    let enter = |source| sources.enter(&limits, source, Standing::Newcomer, at(0)).unwrap();
    let _seats: Vec<_> = held.iter().flat_map(|(source, sessions)| (0..*sessions).map(|_| enter(*source))).collect();
    let networks: Vec<_> = networks.iter().map(|(source, sessions)| (Network::of(*source), *sessions)).collect();
    assert_eq!(sources.crowded(of_source, of_network, most), (hosts.to_vec(), networks));
}

#[test]
fn whoever_holds_most_is_named_first() {
    let (first, second, third) = ((host(1, 1), 4), (host(2, 1), 3), (host(1, 2), 2));
    let [one, two, three] = [(host(1, 1), 6), (host(2, 1), 3), (host(3, 1), 3)];
    check_crowded(2, 0, 9, &[first, second, third], &[]);
    check_crowded(3, 4, 9, &[first, second], &[one]);
    check_crowded(4, 3, 9, &[first], &[one, three, two]);
    check_crowded(5, 6, 9, &[], &[one]);
    check_crowded(5, 7, 9, &[], &[]);
    check_crowded(1, 1, 2, &[first, second], &[one, three]);
    check_crowded(1, 1, 0, &[], &[]);
}

#[test]
fn sessions_are_seen_as_they_are_and_while_they_last() {
    let (sources, limits) = (Sources::new(), Limits { of_source: 20, of_network: 0, total: 100, leaving: LEAVING });
    let enter = |source, standing, second| sources.enter(&limits, source, standing, at(second)).unwrap();
    let speaker = |login: Option<&str>| {
        let helo = crate::wire::command::Helo::new("mx.example.org").unwrap();
        Arc::new(Speaker { helo, esmtp: true, login: login.map(Into::into) })
    };
    let seen = |most| {
        let line = |seen: Seen| {
            let name = seen.speaker.as_ref().map_or("-", |speaker| speaker.login.as_deref().unwrap_or("helo"));
            let age = at(100).since(seen.began).as_secs();
            format!("{} {} {} {} {name} {age}", text(seen.source), seen.doing.label(), seen.accepted, seen.secured)
        };
        sources.sessions(most).into_iter().map(line).collect::<Vec<_>>()
    };
    assert_eq!(seen(9), Vec::<String>::new());
    let mut first = enter(host(1, 1), Standing::Newcomer, 3);
    let mut second = enter(host(1, 2), Standing::Exempt, 1);
    let third = enter(host(1, 2), Standing::Known, 0);
    assert_eq!(seen(9), ["2 greeting 0 false - 100", "2 greeting 0 false - 99", "1 greeting 0 false - 97"]);
    assert_eq!(seen(1).len(), 1);
    let (helo, login) = (speaker(None), speaker(Some("bob")));
    first.shows(Shown { doing: Doing::Closing, accepted: u32::MAX, secured: true, speaker: Some(&helo) });
    second.shows(Shown { doing: Doing::Data, accepted: 7, secured: false, speaker: Some(&login) });
    drop(third);
    assert_eq!(seen(9), ["1 closing 4294967295 true helo 97", "2 data 7 false bob 99"]);
    // After STARTTLS nobody has said anything.
    second.shows(Shown { doing: Doing::Handshake, accepted: 7, secured: true, speaker: None });
    first.shows(Shown { doing: Doing::Command, accepted: 0, secured: true, speaker: Some(&login) });
    assert_eq!(seen(9), ["1 command 0 true bob 97", "2 handshake 7 true - 99"]);
    drop((first, second));
    assert_eq!(seen(9), Vec::<String>::new());
    assert_eq!((Arc::strong_count(&helo), Arc::strong_count(&login)), (1, 1));
}

/// The number of the host.
fn text(source: Source) -> String {
    let shown = crate::addr::Ipv6Prefix::default().display(source);
    shown.rsplit('.').next().unwrap().to_owned()
}

#[test]
fn few_sessions_are_looked_at_of_many() {
    let limits = Limits { of_source: u32::MAX, of_network: 0, total: u32::MAX, leaving: LEAVING };
    let sources = Sources::new();
    let crowd = (0..3 * LOOK as u32).map(|n| host(n, 1)).chain(std::iter::repeat_n(host(9, 9), 5));
    let _seats: Vec<_> =
        crowd.map(|source| sources.enter(&limits, source, Standing::Newcomer, at(0)).unwrap()).collect();
    let seen = sources.sessions(usize::MAX);
    assert_eq!(seen.len(), LOOK);
    assert!(seen[..5].iter().all(|seen| seen.source == host(9, 9)), "whoever holds most is among them");
}
