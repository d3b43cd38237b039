//! Servers that say nothing.

use std::sync::Arc;
use std::time::Duration;

use RecordType::{MX, NS};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::RecordType;
use smtp_guard::facts::dns::Resolver;

use crate::server::Act::{self, Code, Found, Garbage, NxDomain, Silent};
use crate::server::mx;
use crate::{Bench, Counts, PATIENT, Sender, run};

/// Just long enough for silence to be blamed on somebody.
const FAIR: Duration = Duration::from_millis(1500);
/// As in the code: silence in a row that makes the servers suspect.
const ENOUGH: usize = 8;

fn names(word: &str, count: usize) -> Vec<String> {
    (0..count).map(|n| format!("{word}{n}.example")).collect()
}

fn silence(bench: &Bench, names: &[String]) {
    bench.server.set(&names.iter().map(|name| (name.as_str(), MX, Silent)).collect::<Vec<_>>());
}

/// Asks for all at once.
async fn ask(bench: &Arc<Bench>, names: &[String], patience: Duration) -> Vec<String> {
    let mut asked = Vec::new();
    for name in names {
        let (bench, name) = (Arc::clone(bench), name.clone());
        asked.push(tokio::spawn(async move { bench.ask(Sender(&name), patience).await }));
    }
    let mut found = Vec::new();
    for asked in asked {
        found.push(asked.await.unwrap());
    }
    found
}

/// How many of `names` the server was asked for.
fn seen(bench: &Bench, names: &[String]) -> usize {
    let asked = bench.questions();
    names.iter().filter(|name| asked.iter().any(|line| line.ends_with(&format!(" {name}")))).count()
}

#[test]
fn a_dead_server_is_tried_now_and_then_until_it_answers() {
    run(async {
        let bench = Arc::new(Bench::new(&[(".", NS, Silent)]).await);
        let (first, later) = (names("first", ENOUGH), names("later", 100));
        silence(&bench, &[&first[..], &later].concat());
        assert_eq!(ask(&bench, &first, FAIR).await, ["Err(TimedOut)"; ENOUGH]);
        assert_eq!(seen(&bench, &first), ENOUGH);
        // Of a hundred that come now, the trials alone cost anybody anything: the rest isn't even sent.
        let found = ask(&bench, &later, FAIR).await;
        let denied = found.iter().filter(|found| *found == "Err(ServersSilent)").count();
        assert_eq!(denied + seen(&bench, &later), later.len(), "{found:?}");
        assert!(denied > 50, "{found:?}");
        assert_eq!(bench.counts.of("mx servers_silent"), denied);
        // What failed is not asked for again. What was denied wasn't the name's fault, and may be tried.
        let cost = bench.server.asked().len();
        assert_eq!(ask(&bench, &first, FAIR).await, ["Err(TimedOut)"; ENOUGH]);
        assert_eq!(bench.server.asked().len(), cost);
        // It comes back; one of the trials hears it, and then everybody is served.
        let back = names("back", 20);
        bench.server.set(&back.iter().map(|name| (name.as_str(), MX, NxDomain)).collect::<Vec<_>>());
        while bench.ask(Sender(&back[0]), PATIENT).await == "Err(ServersSilent)" {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(ask(&bench, &back, PATIENT).await, ["Ok(Missing)"; 20]);
    });
}

#[test]
fn dead_zones_do_not_silence_a_server_that_lives() {
    let roots = [Found(vec![]), Code(ResponseCode::Refused), Code(ResponseCode::ServFail)];
    std::thread::scope(|scope| roots.map(|root| scope.spawn(|| run(live_beside_dead_zones(root)))).map(|_| ()));
}

async fn live_beside_dead_zones(root: Act) {
    let bench = Arc::new(Bench::new(&[(".", NS, root)]).await);
    let dead = names("dead", 3 * ENOUGH);
    silence(&bench, &dead);
    bench.server.set(&[("honest.example", MX, Found(vec![mx(10, "m.example")]))]);
    assert_eq!(ask(&bench, &dead[..ENOUGH], FAIR).await, ["Err(TimedOut)"; ENOUGH]);
    // This one is the trial: it hangs as all did before, but the question at its side is answered.
    assert_eq!(bench.ask(Sender(&dead[ENOUGH]), FAIR).await, "Err(TimedOut)");
    assert_eq!(seen(&bench, &[".".to_owned()]), 1, "{:?}", bench.questions());
    let rest = ask(&bench, &dead[ENOUGH + 1..2 * ENOUGH], FAIR).await;
    assert!(rest.iter().all(|found| found == "Err(TimedOut)"), "{rest:?}");
    // Again eight in a row; an honest sender is the trial, and is served.
    assert_eq!(bench.ask(Sender("honest.example"), PATIENT).await, "Ok(Exists)");
    assert_eq!(bench.counts.of("mx servers_silent"), 0, "{:?}", bench.counts);
}

#[test]
fn c1_a_trial_beside_dead_zones_does_not_condemn_a_server_that_spoke() {
    run(async {
        let bench = Arc::new(Bench::new(&[(".", NS, Found(vec![]))]).await);
        let (dead, honest) = (names("dead", 2 * ENOUGH + 1), names("honest", 10));
        silence(&bench, &dead);
        let exists = || Found(vec![mx(10, "m.example")]);
        bench.server.set(&honest.iter().map(|name| (name.as_str(), MX, exists())).collect::<Vec<_>>());
        assert_eq!(ask(&bench, &dead[..ENOUGH], FAIR).await, ["Err(TimedOut)"; ENOUGH]);
        // The trial outlasts eight others, which begin once a server has spoken beside it.
        let (trial, others) = (&dead[ENOUGH..=ENOUGH], &dead[ENOUGH + 1..]);
        let (trial, others) = tokio::join!(ask(&bench, trial, 2 * FAIR), ask(&bench, others, FAIR));
        assert!(trial.iter().chain(&others).all(|found| found == "Err(TimedOut)"), "{trial:?} {others:?}");
        assert_eq!(ask(&bench, &honest, PATIENT).await, ["Ok(Exists)"; 10]);
        assert_eq!(bench.counts.of("mx servers_silent"), 0, "{:?}", bench.counts);
    });
}

#[test]
fn errors_are_not_silence() {
    run(async {
        let bench = Arc::new(Bench::new(&[]).await);
        let bad = names("bad", 30);
        let fails = |name: &String| (name.clone(), MX, Code(ResponseCode::ServFail));
        let script: Vec<_> = bad.iter().map(fails).collect();
        bench
            .server
            .set(&script.iter().map(|(name, kind, act)| (name.as_str(), *kind, act.clone())).collect::<Vec<_>>());
        assert_eq!(ask(&bench, &bad, PATIENT).await, ["Err(ServFail)"; 30]);
        assert_eq!(bench.ask(Sender("gone.example"), PATIENT).await, "Ok(Missing)");
        assert_eq!(bench.counts.of("mx servers_silent"), 0);
    });
}

#[test]
fn one_good_server_of_two_is_enough() {
    let good = || Found(vec![mx(10, "m.example")]);
    let fails = || Code(ResponseCode::ServFail);
    for (one, other, patience, found) in [
        (good(), Silent, PATIENT, "Ok(Exists)"),
        (good(), Code(ResponseCode::Refused), PATIENT, "Ok(Exists)"),
        (good(), fails(), PATIENT, "Ok(Exists)"),
        (good(), Garbage, PATIENT, "Ok(Exists)"),
        (NxDomain, fails(), PATIENT, "Ok(Missing)"),
        (fails(), fails(), PATIENT, "Err(ServFail)"),
        (fails(), Silent, PATIENT, "Err(ServFail)"),
        (Silent, Silent, FAIR, "Err(TimedOut)"),
    ] {
        run(async {
            let first = Bench::new(&[("d.example", MX, one.clone())]).await;
            let second = Bench::new(&[("d.example", MX, other.clone())]).await;
            let (one_address, other_address) = (first.server.address, second.server.address);
            for addresses in [[one_address, other_address], [other_address, one_address]] {
                let resolver = Resolver::new(&addresses, Arc::<Counts>::default()).unwrap();
                let bench = Bench { server: first.server.clone(), resolver, counts: Arc::default() };
                assert_eq!(bench.ask(Sender("d.example"), patience).await, found, "{one:?} and {other:?}");
            }
        });
    }
}

#[test]
fn a_server_that_is_not_there_is_a_failure() {
    run(async {
        let bench = Bench::new(&[]).await;
        // Nobody listens on port 9 of a loopback address that nothing else uses.
        let resolver = Resolver::new(&["127.255.1.9:9".parse().unwrap()], Arc::<Counts>::default()).unwrap();
        let other = Bench { resolver, ..bench };
        let found = other.ask(Sender("d.example"), FAIR).await;
        assert!(found == "Err(TimedOut)" || found.starts_with("Err(Network("), "{found}");
        assert!(other.server.asked().is_empty());
    });
}
