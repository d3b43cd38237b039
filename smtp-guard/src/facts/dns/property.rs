//! Properties: whatever an answer holds, what is read of it is bounded and fit to be shown; whatever happens, the breaker gives
//! one trial a second.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use hickory_resolver::lookup::Lookup;
use hickory_resolver::proto::op::{Message, Query};
use hickory_resolver::proto::rr::rdata::PTR;
use hickory_resolver::proto::rr::{Name, RData, Record};
use proptest::collection::vec;
use proptest::prelude::*;

use super::answer::{self, Answer, Kind, Question};
use super::breaker::{Admission, Breaker};
use super::names;

/// Labels as a hostile zone writes them: mostly letters, so that some pass.
fn label() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        4 => vec(prop_oneof![Just(b'a'), Just(b'Z'), Just(b'0'), Just(b'_'), Just(b'-')], 1..64),
        1 => vec(any::<u8>(), 1..64),
    ]
}

fn target() -> impl Strategy<Value = Name> {
    vec(label(), 0..6).prop_filter_map("too long", |labels| Name::from_labels(labels.iter().map(Vec::as_slice)).ok())
}

/// The rule of host names, said again in other words.
fn is_fit(name: &str) -> bool {
    let labels: Vec<&str> = name.split('.').collect();
    let good = |label: &&str| {
        let bytes = label.as_bytes();
        let inside = |b: &u8| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_');
        (1..=63).contains(&bytes.len()) && bytes.iter().all(inside)
    };
    name.len() <= 253 && labels.iter().all(good) && labels.last().is_some_and(|last| last.parse::<u128>().is_err())
}

fn check(answer: &Answer) -> Result<(), TestCaseError> {
    prop_assert!(answer.bytes() <= 4608, "{answer:?}");
    if let Answer::Names(names) = answer {
        prop_assert!(names.len() <= 16 && names.iter().all(|name| is_fit(name)), "{names:?}");
    }
    Ok(())
}

proptest! {
    #[test]
    fn hostile_pointers(targets in vec(target(), 0..40)) {
        let asked = Name::from_ascii("1.2.0.192.in-addr.arpa.").unwrap();
        let records = targets.into_iter().map(|target| Record::from_rdata(asked.clone(), 60, RData::PTR(PTR(target))));
        let lookup = Lookup::new_with_max_ttl(Query::query(asked.clone(), Kind::Ptr.record_type()), records);
        check(&answer::read(Kind::Ptr, &asked, Ok(lookup)).unwrap().answer)?;
    }

    #[test]
    fn hostile_messages(flips in vec((any::<prop::sample::Index>(), any::<u8>()), 0..12), kind in 0..5_usize) {
        let kind = [Kind::Mx, Kind::A, Kind::Aaaa, Kind::Ptr, Kind::Dnsbl][kind];
        let mut bytes = sample();
        for (at, byte) in flips {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        // What hickory can read is held against our own reading.
        if let Ok(message) = Message::from_vec(&bytes) {
            let asked = Name::from_ascii("q.example.").unwrap();
            let query = Query::query(asked.clone(), kind.record_type());
            let lookup = Lookup::new_with_max_ttl(query, message.answers.iter().cloned());
            check(&answer::read(kind, &asked, Ok(lookup)).unwrap().answer)?;
        }
    }

    #[test]
    fn names_of_addresses_fit_into_questions(client: [u8; 16], zone in "[a-z]{1,40}(\\.[a-z]{1,40}){0,6}") {
        let six = IpAddr::from(client);
        let four = IpAddr::from([client[0], client[1], client[2], client[3]]);
        for client in [four, six] {
            prop_assert!(Question::new(Kind::Ptr, names::pointer(client)).wire_name().is_ok());
            match names::in_list(client, &zone) {
                Some(name) => prop_assert!(Question::new(Kind::Dnsbl, name).wire_name().is_ok()),
                None => prop_assert!(zone.len() + 8 > 253 - 64, "{zone}"),
            }
        }
    }

    #[test]
    fn any_domain_is_a_good_question_or_none(domain in "\\PC{0,80}|[a-zA-Z0-9._-]{0,260}") {
        if let Some(name) = names::mail_domain(&domain) {
            prop_assert!(is_fit(&name), "{name}");
            prop_assert!(Question::new(Kind::Mx, name).wire_name().is_ok());
        }
    }

    #[test]
    fn one_trial_a_second(steps in vec((0..4_u8, 0..700_u64), 0..200)) {
        let (mut breaker, mut now) = (Breaker::default(), Instant::now());
        let (mut in_a_row, mut last_trial) = (0, None::<Instant>);
        for (step, ms) in steps {
            now += Duration::from_millis(ms);
            match step {
                0 => match breaker.admit(now) {
                    Admission::Free => prop_assert!(in_a_row < 8, "free after {in_a_row}"),
                    Admission::Trial => {
                        prop_assert!(in_a_row >= 8);
                        prop_assert!(last_trial.is_none_or(|last| now - last >= Duration::from_secs(1)));
                        last_trial = Some(now);
                    }
                    Admission::Denied => {
                        prop_assert!(last_trial.is_some_and(|last| now - last < Duration::from_secs(1)));
                    }
                },
                1 if in_a_row % 5 == 4 => {
                    breaker.answered();
                    (in_a_row, last_trial) = (0, None);
                }
                _ => {
                    breaker.silent(Admission::Free, now);
                    in_a_row += 1;
                }
            }
        }
    }
}

/// A message with a record of each kind and an alias.
fn sample() -> Vec<u8> {
    use hickory_resolver::proto::rr::rdata::{A, AAAA, CNAME, MX};
    let name = |text| Name::from_ascii(text).unwrap();
    let mut message = Message::query();
    let data = [
        RData::CNAME(CNAME(name("e.example."))),
        RData::MX(MX::new(0, Name::root())),
        RData::A(A::new(127, 0, 0, 2)),
        RData::AAAA(AAAA::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)),
        RData::PTR(PTR(name("host.example."))),
    ];
    message.add_answers(data.into_iter().map(|data| Record::from_rdata(name("q.example."), 60, data)));
    message.to_vec().unwrap()
}
