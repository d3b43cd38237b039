use super::*;
use crate::facts::dns::answer::Kind;

fn question(name: &str) -> Question {
    Question::new(Kind::A, name.into())
}

fn reading(answer: Answer, ttl: u64) -> Result<Reading, Failure> {
    Ok(Reading { answer, ttl: Duration::from_secs(ttl), is_cut: false })
}

#[test]
fn each_outcome_has_its_time() {
    for (outcome, seconds) in [
        (reading(Answer::Mx, 0), 30),
        (reading(Answer::Mx, 300), 300),
        (reading(Answer::NullMx, 1_000_000), 3600),
        (reading(Answer::NoName, 0), 30),
        (reading(Answer::NoData, 120), 120),
        (reading(Answer::NoName, 86_400), 300),
        (Err(Failure::TimedOut), 30),
        (Err(Failure::ServFail), 30),
    ] {
        let memory = Memory::new(1 << 20);
        let start = Instant::now();
        assert_eq!(memory.recall(&question("a.example"), start), None);
        assert!(!memory.keep(question("a.example"), &outcome, start));
        let known = outcome.as_ref().map(|reading| reading.answer.clone()).map_err(|failure| *failure);
        for (ms, expected) in
            [(0, Some(known.clone())), (seconds * 1000 - 1, Some(known.clone())), (seconds * 1000, None)]
        {
            let now = start + Duration::from_millis(ms);
            assert_eq!(memory.recall(&question("a.example"), now), expected, "{outcome:?} after {ms} ms");
        }
        assert_eq!(memory.recall(&question("b.example"), start), None);
        assert_eq!(memory.recall(&Question::new(Kind::Aaaa, "a.example".into()), start), None, "another type");
    }
}

#[test]
fn a_newer_outcome_takes_the_place() {
    let (memory, now) = (Memory::new(1 << 20), Instant::now());
    memory.keep(question("a.example"), &Err(Failure::TimedOut), now);
    memory.keep(question("a.example"), &reading(Answer::Mx, 60), now);
    assert_eq!(memory.recall(&question("a.example"), now), Some(Ok(Answer::Mx)));
}

#[test]
fn it_never_holds_more_than_its_bytes_and_says_when_something_good_goes() {
    let (memory, now) = (Memory::new(64 * 1024), Instant::now());
    let addresses: Vec<std::net::IpAddr> = vec![std::net::Ipv4Addr::LOCALHOST.into(); 100];
    let large = || reading(Answer::Addresses(addresses.clone().into()), 60);
    let lost = (0..1000).filter(|n| memory.keep(question(&format!("{n}.example")), &large(), now)).count();
    assert!(memory.entries.weight() <= 64 * 1024, "{}", memory.entries.weight());
    assert!(lost > 900, "{lost}");
    let later = now + Duration::from_secs(61);
    let small = reading(Answer::Mx, 60);
    assert!(!memory.keep(question("later.example"), &small, later), "what went was stale");
}
