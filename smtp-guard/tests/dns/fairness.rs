//! Places are shared: whoever keeps them busy with dead zones harms nobody else.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use RecordType::{A, MX};
use hickory_resolver::proto::rr::RecordType;
use smtp_guard::addr::{Ipv6Prefix, Source};
use smtp_guard::facts::dns::{Party, Standing, Zone};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::server::Act::{Found, NxDomain, Silent};
use crate::server::{a, mx};
use crate::{Bench, PATIENT, run};

/// `dns.timeout` as it is by default.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Sources that ask for dead zones, and sessions of each.
const HOSTILE: u8 = 14;
const SESSIONS: usize = 20;
/// Senders that are clean, and as many that are listed.
const SENDERS: u8 = 30;

fn party(client: Ipv4Addr, standing: Standing) -> Party {
    let source = Ipv6Prefix::default().source(IpAddr::V4(client));
    Party { source, network: Source(source.0 & !0xff), standing }
}

/// Clients in one network each, or all in one.
fn client(kind: u8, n: u8, together: bool) -> Ipv4Addr {
    if together { Ipv4Addr::new(192, 0, 2, 70 * kind + n) } else { Ipv4Addr::new(10, kind, n, 1) }
}

/// What 30 clean and 30 listed senders hear while 14 sources keep 20 sessions each busy.
async fn under_attack(together: bool) {
    let bench = Arc::new(Bench::new(&[(".", RecordType::NS, Found(vec![]))]).await);
    let zone = Zone { name: "bl.example".into(), weight: 2, replies: Vec::new() };
    let dead = |n: usize| format!("n{n}.dead.example");
    let clean = |n: u8| format!("clean{n}.example");
    let mut script: Vec<_> = (0..10_000).map(|n| (dead(n), MX, Silent)).collect();
    for n in 0..SENDERS {
        script.push((clean(n), MX, Found(vec![mx(10, "m.example")])));
        let [a1, b1, c1, d1] = client(2, n, together).octets();
        script.push((format!("{d1}.{c1}.{b1}.{a1}.bl.example"), A, Found(vec![a("127.0.0.2")])));
    }
    let script: Vec<_> = script.iter().map(|(name, kind, act)| (name.as_str(), *kind, act.clone())).collect();
    bench.server.set(&script);
    let mut attack = JoinSet::new();
    for n in 0..usize::from(HOSTILE) * SESSIONS {
        let hostile = client(0, u8::try_from(n / SESSIONS).unwrap(), together);
        let (resolver, zone) = (bench.resolver.on_behalf(party(hostile, Standing::Newcomer)), zone.clone());
        attack.spawn(async move {
            for turn in 0.. {
                let deadline = Instant::now() + TIMEOUT;
                let domain = format!("n{}.dead.example", turn * 280 + n);
                let both =
                    (resolver.sender_domain(&domain, deadline), resolver.listed(&zone, hostile.into(), deadline));
                assert!(tokio::join!(both.0, both.1).0.is_err());
                // As a session does, which finds no place.
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        });
    }
    while bench.counts.of("bound dns_lookups") == 0 {
        tokio::task::yield_now().await;
    }
    let mut heard = JoinSet::new();
    for (kind, n) in (0..SENDERS).flat_map(|n| [(1, n), (2, n)]) {
        let ip = client(kind, n, together);
        let (resolver, zone, domain) =
            (bench.resolver.on_behalf(party(ip, Standing::Newcomer)), zone.clone(), clean(n));
        heard.spawn(async move {
            // Not all at once.
            tokio::time::sleep(Duration::from_millis(50) * u32::from(n)).await;
            let deadline = Instant::now() + PATIENT;
            let (sender, listed) =
                tokio::join!(resolver.sender_domain(&domain, deadline), resolver.listed(&zone, ip.into(), deadline));
            format!("{kind}: {sender:?} {listed:?}")
        });
    }
    let mut heard = heard.join_all().await;
    heard.sort();
    let expected = |of: &str| vec![of.to_owned(); SENDERS.into()];
    let all = [expected("1: Ok(Exists) Ok(None)"), expected("2: Ok(Exists) Ok(Some(127.0.0.2))")].concat();
    assert_eq!(heard, all, "{:?}", bench.counts);
    assert_eq!(bench.counts.of("dnsbl busy"), 0, "lists have places of their own: {:?}", bench.counts);
}

#[test]
fn c1_dead_zones_of_some_keep_nobody_else_from_dns() {
    std::thread::scope(|scope| {
        for together in [false, true] {
            scope.spawn(move || run(under_attack(together)));
        }
    });
}

#[test]
fn c1_a_history_has_a_reserve() {
    run(async {
        let names: Vec<_> = (0..300).map(|n| format!("n{n}.dead.example")).collect();
        let script: Vec<_> = names.iter().map(|name| (name.as_str(), MX, Silent)).collect();
        let bench = Arc::new(Bench::new(&script).await);
        bench.server.set(&[("d.example", MX, Found(vec![mx(10, "m.example")]))]);
        // One source of each of 230 networks: all that strangers may have, and nobody has more than another.
        let mut attack = JoinSet::new();
        for (n, name) in names.iter().take(231).enumerate() {
            let hostile = party(Ipv4Addr::new(10, 0, u8::try_from(n).unwrap(), 1), Standing::Newcomer);
            let (resolver, name) = (bench.resolver.on_behalf(hostile), name.clone());
            attack.spawn(async move { resolver.sender_domain(&name, Instant::now() + PATIENT).await });
        }
        while bench.questions().len() < 231 {
            tokio::task::yield_now().await;
        }
        let ask = |standing| {
            let resolver = bench.resolver.on_behalf(party(Ipv4Addr::new(192, 0, 2, 1), standing));
            async move { resolver.sender_domain("d.example", Instant::now() + PATIENT).await }
        };
        assert_eq!(format!("{:?}", ask(Standing::Known).await), "Ok(Exists)", "{:?}", bench.counts);
        assert_eq!(bench.counts.of("bound dns_lookups"), 0);
    });
}

#[test]
fn c7_a_source_may_ask_so_much_and_others_are_not_kept_from_asking() {
    run(async {
        let bench = Bench::new(&[("d.example", MX, Found(vec![mx(10, "m.example")]))]).await;
        let names: Vec<_> = (0..1_000).map(|n| format!("n{n}.example")).collect();
        bench.server.set(&names.iter().map(|name| (name.as_str(), MX, NxDomain)).collect::<Vec<_>>());
        let greedy = bench.resolver.on_behalf(party(Ipv4Addr::new(192, 0, 2, 1), Standing::Newcomer));
        let other = bench.resolver.on_behalf(party(Ipv4Addr::new(192, 0, 2, 2), Standing::Newcomer));
        let began = Instant::now();
        let mut busy = 0;
        for name in &names {
            let found = greedy.sender_domain(name, Instant::now() + PATIENT).await;
            busy += usize::from(format!("{found:?}") == "Err(Busy)");
        }
        // 300 at once, and ten a second of the time it took.
        let most = 301 + usize::try_from(began.elapsed().as_millis() / 100).unwrap();
        assert!(bench.questions().len() <= most, "{} of {most}", bench.questions().len());
        assert_eq!(bench.questions().len() + busy, names.len());
        assert_eq!(bench.counts.of("bound dns_questions"), busy);
        let found = other.sender_domain("d.example", Instant::now() + PATIENT).await;
        assert_eq!(format!("{found:?}"), "Ok(Exists)", "its neighbour");
        // What is known costs nothing.
        let found = greedy.sender_domain("d.example", Instant::now() + PATIENT).await;
        assert_eq!(format!("{found:?}"), "Ok(Exists)");
    });
}
