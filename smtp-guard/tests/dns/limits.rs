//! Bounds of DNS: memory, joined questions, counts, and the number of look-ups.

use std::sync::Arc;
use std::time::Duration;

use RecordType::{A, AAAA, MX, PTR};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::RecordType;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::server::Act::{Code, Found, Late, NoData, NxDomain, Silent};
use crate::server::{a, mx, ptr};
use crate::{Ask, Bench, HASTY, Listed, PATIENT, Reverse, Sender, run};

/// As in the code: this many look-ups may be under way.
const PLACES: usize = 256;

#[test]
fn answers_and_failures_are_remembered() {
    run(async {
        let bench = Bench::new(&[
            ("mx.example", MX, Found(vec![mx(10, "m.example")])),
            ("a.example", MX, NoData),
            ("a.example", A, Found(vec![a("192.0.2.1")])),
            ("a.example", AAAA, NoData),
            ("fails.example", MX, Code(ResponseCode::ServFail)),
            ("1.2.0.192.in-addr.arpa", PTR, Found(vec![ptr("m.example")])),
            ("1.2.0.192.bl.example", A, Found(vec![a("127.255.255.255"), a("192.0.2.80")])),
        ])
        .await;
        let asks = [
            Sender("mx.example"),
            Sender("a.example"),
            Sender("gone.example"),
            Sender("fails.example"),
            Reverse("192.0.2.1"),
            Listed("192.0.2.1"),
            Listed("192.0.2.2"),
        ];
        let mut first = Vec::new();
        for ask in asks {
            first.push(bench.ask(ask, PATIENT).await);
        }
        let cost = bench.server.asked().len();
        for _ in 0..3 {
            for (ask, found) in asks.iter().zip(&first) {
                assert_eq!(bench.ask(*ask, PATIENT).await, *found, "{ask:?}");
            }
        }
        assert_eq!(bench.ask(Sender("MX.Example"), PATIENT).await, "Ok(Exists)", "in any case");
        assert_eq!(bench.server.asked().len(), cost, "{:?}", bench.server.asked());
        for (what, count) in [
            ("mx found", 1),
            ("mx no_data", 1),
            ("mx no_name", 1),
            ("mx servfail", 1),
            ("mx cached", 13),
            ("a found", 1),
            ("ptr found", 1),
            ("ptr cached", 3),
            ("dnsbl found", 1),
            ("dnsbl no_name", 1),
            ("dnsbl cached", 6),
            ("dnsbl lie", 4),
            ("dnsbl list_refuses", 4),
            ("bound dns_lookups", 0),
            ("bound dns_memory", 0),
        ] {
            assert_eq!(bench.counts.of(what), count, "{what} in {:?}", bench.counts);
        }
    });
}

#[test]
fn a_name_is_fetched_again_when_the_caller_was_in_a_hurry() {
    run(async {
        let bench = Bench::new(&[("slow.example", MX, Silent)]).await;
        assert_eq!(bench.ask(Sender("slow.example"), HASTY).await, "Err(TimedOut)");
        bench.server.set(&[("slow.example", MX, Found(vec![mx(10, "m.example")]))]);
        assert_eq!(bench.ask(Sender("slow.example"), PATIENT).await, "Ok(Exists)");
        // Whose time is over gets nothing, and nobody is asked.
        let cost = bench.server.asked().len();
        assert_eq!(bench.ask(Sender("other.example"), Duration::ZERO).await, "Err(TimedOut)");
        assert_eq!(bench.server.asked().len(), cost);
    });
}

/// Starts `count` look-ups and waits until the server has seen `seen` different questions.
async fn start(bench: &Arc<Bench>, count: usize, name: impl Fn(usize) -> String, seen: usize) -> JoinSet<String> {
    let mut set = JoinSet::new();
    for n in 0..count {
        let (bench, name) = (Arc::clone(bench), name(n));
        set.spawn(async move { bench.ask(Ask::Sender(&name), PATIENT).await });
    }
    while bench.questions().len() < seen {
        tokio::task::yield_now().await;
    }
    set
}

#[test]
fn identical_lookups_are_one_question() {
    run(async {
        let gate = Arc::new(Semaphore::new(0));
        let answer = Box::new(Found(vec![mx(10, "m.example")]));
        let bench = Arc::new(Bench::new(&[("d.example", MX, Late(Arc::clone(&gate), answer))]).await);
        let all = start(&bench, 50, |_| "d.example".to_owned(), 1).await;
        gate.add_permits(1000);
        assert_eq!(all.join_all().await, ["Ok(Exists)"; 50]);
        // One, and at most what hickory repeats of it on a slow machine.
        assert!(bench.server.asked().len() <= 6, "{:?}", bench.server.asked());
        assert_eq!(bench.counts.of("mx found"), 50);
    });
}

#[test]
fn places_are_bounded_and_given_back() {
    run(async {
        let dead: Vec<_> = (0..PLACES).map(|n| format!("dead{n}.example")).collect();
        let script: Vec<_> = dead.iter().map(|name| (name.as_str(), MX, Silent)).collect();
        let bench = Arc::new(Bench::new(&script).await);
        let mut set = start(&bench, PLACES, |n| dead[n].clone(), PLACES).await;
        for _ in 0..3 {
            assert_eq!(bench.ask(Sender("gone.example"), PATIENT).await, "Err(Busy)");
        }
        assert_eq!(bench.counts.of("bound dns_lookups"), 3);
        assert_eq!(bench.counts.of("mx busy"), 3);
        assert_eq!(bench.questions().len(), PLACES, "who hears Busy is not asked for");
        // Dropping gives the places back at once. It is nobody's silence, and Busy isn't remembered.
        set.shutdown().await;
        assert_eq!(bench.ask(Sender("gone.example"), PATIENT).await, "Ok(Missing)");
        bench.server.set(&dead.iter().map(|name| (name.as_str(), MX, NxDomain)).collect::<Vec<_>>());
        let again = start(&bench, PLACES, |n| dead[n].clone(), PLACES).await;
        assert_eq!(again.join_all().await, vec!["Ok(Missing)"; PLACES]);
        assert_eq!(bench.counts.of("bound dns_lookups"), 3);
    });
}
