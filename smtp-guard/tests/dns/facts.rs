//! Answers, right and wrong, and what is made of them.

use RecordType::{A, AAAA, MX, PTR};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::{RData, RecordType};

use crate::server::Act::{
    Code, Found, Garbage, NoData, NoEdns, NxDomain, Records, Referral, Silent, Truncated, WrongCase, WrongId,
    WrongQuestion,
};
use crate::server::{a, aaaa, cname, mx, ptr, raw_ptr, record};
use crate::{Bench, Called, Confirmed, HASTY, Line, Listed, PATIENT, Reverse, Sender, check, run};

const MX_ONLY: &[&str] = &["udp MX d.example"];
const ALL: &[&str] = &["udp A d.example", "udp AAAA d.example", "udp MX d.example"];
const OVER_TCP: &[&str] = &["tcp MX d.example", "udp MX d.example"];

/// What is found out of `d.example`.
fn domain(script: &[Line], found: &str, questions: &[&str]) {
    check(script, Sender("d.example"), PATIENT, found, questions);
}

#[test]
fn a_domain_exists_with_mx_or_a_or_aaaa() {
    let none = |kind| ("d.example", kind, NoData);
    let found = |kind, data| ("d.example", kind, Found(vec![data]));
    domain(&[found(MX, mx(10, "m.example"))], "Ok(Exists)", MX_ONLY);
    domain(&[none(MX), found(A, a("192.0.2.1")), none(AAAA)], "Ok(Exists)", ALL);
    domain(&[none(MX), none(A), found(AAAA, aaaa("2001:db8::1"))], "Ok(Exists)", ALL);
    domain(&[none(MX), none(A), none(AAAA)], "Ok(Missing)", ALL);
    domain(&[("d.example", MX, NxDomain)], "Ok(Missing)", MX_ONLY);
    for (case, question) in [
        ("D.Example", "udp MX d.example"),
        ("xn--bcher-kva.example", "udp MX xn--bcher-kva.example"),
        ("no.such.example", "udp MX no.such.example"),
    ] {
        let script = [("d.example", MX, Found(vec![mx(1, "m.example")]))];
        let result = if case == "D.Example" { "Ok(Exists)" } else { "Ok(Missing)" };
        check(&script, Sender(case), PATIENT, result, &[question]);
    }
}

#[test]
fn what_cannot_be_a_domain_is_not_looked_up() {
    let long = format!("{}.example", "a".repeat(64));
    for domain in ["", "org", ".", "a..example", "a b.example", "192.0.2.1", "x.localhost", "x.invalid", &long] {
        check(&[], Sender(domain), PATIENT, "Ok(Missing)", &[]);
    }
}

#[test]
fn null_mx_is_exactly_one_record() {
    for (records, found) in [
        (vec![mx(0, ".")], "Ok(NullMx)"),
        (vec![mx(10, ".")], "Ok(Exists)"),
        (vec![mx(0, "."), mx(0, "m.example")], "Ok(Exists)"),
        (vec![mx(0, "."), mx(10, ".")], "Ok(Exists)"),
        (vec![mx(0, "m.example")], "Ok(Exists)"),
    ] {
        domain(&[("d.example", MX, Found(records))], found, MX_ONLY);
    }
}

#[test]
fn a_failure_counts_where_it_could_change_the_answer() {
    let script = |mail, four, six| [("d.example", MX, mail), ("d.example", A, four), ("d.example", AAAA, six)];
    let fails = || Code(ResponseCode::ServFail);
    let four = || Found(vec![a("192.0.2.1")]);
    let six = || Found(vec![aaaa("2001:db8::1")]);
    domain(&script(fails(), four(), six()), "Err(ServFail)", MX_ONLY);
    domain(&script(Code(ResponseCode::Refused), four(), six()), "Err(Refused)", MX_ONLY);
    let plain = ["udp MX d.example", "udp-plain MX d.example"];
    domain(&script(Code(ResponseCode::NotImp), four(), six()), "Err(Code(4))", &plain);
    domain(&script(Referral, four(), six()), "Err(Malformed(Referral))", MX_ONLY);
    domain(&script(NoData, fails(), six()), "Ok(Exists)", ALL);
    domain(&script(NoData, four(), fails()), "Ok(Exists)", ALL);
    domain(&script(NoData, NoData, fails()), "Err(ServFail)", ALL);
    domain(&script(NoData, fails(), NoData), "Err(ServFail)", ALL);
    // The answer doesn't wait for the silence beside it.
    domain(&script(NoData, Silent, six()), "Ok(Exists)", ALL);
    check(&script(NoData, Silent, NoData), Sender("d.example"), HASTY, "Err(TimedOut)", ALL);
    check(&script(Silent, four(), six()), Sender("d.example"), HASTY, "Err(TimedOut)", MX_ONLY);
}

#[test]
fn lies_on_the_wire_are_no_answers() {
    let found = || Box::new(Found(vec![mx(10, "m.example")]));
    let plain = ["udp MX d.example", "udp-plain MX d.example"];
    domain(&[("d.example", MX, Garbage)], "Err(Malformed(Unreadable))", &plain);
    domain(&[("d.example", MX, Truncated(found()))], "Ok(Exists)", OVER_TCP);
    domain(&[("d.example", MX, Truncated(Box::new(NxDomain)))], "Ok(Missing)", OVER_TCP);
    // A forger who can't see the question doesn't know its case: the answer is fetched where he can't reach.
    domain(&[("d.example", MX, WrongCase(found()))], "Ok(Exists)", OVER_TCP);
    for lie in [WrongId(found()), WrongQuestion(found()), Truncated(Box::new(Silent))] {
        let questions = if matches!(lie, Truncated(_)) { OVER_TCP } else { MX_ONLY };
        check(&[("d.example", MX, lie)], Sender("d.example"), HASTY, "Err(TimedOut)", questions);
    }
    // Another's records are none of ours.
    let other = |data| Records(vec![record("other.example", data)]);
    let script = [
        ("d.example", MX, other(mx(10, "m.example"))),
        ("d.example", A, other(a("192.0.2.1"))),
        ("d.example", AAAA, NoData),
    ];
    domain(&script, "Ok(Missing)", ALL);
}

#[test]
fn aliases_are_followed_and_circles_end() {
    let chain = vec![record("d.example", cname("e.example")), record("e.example", mx(10, "m.example"))];
    domain(&[("d.example", MX, Records(chain))], "Ok(Exists)", MX_ONLY);
    let alias = |target| Found(vec![cname(target)]);
    let null = [("d.example", MX, alias("e.example")), ("e.example", MX, Found(vec![mx(0, ".")]))];
    domain(&null, "Ok(NullMx)", &["udp MX d.example", "udp MX e.example"]);
    domain(&[("d.example", MX, alias("gone.example"))], "Ok(Missing)", &["udp MX d.example", "udp MX gone.example"]);
    let circle = [("d.example", MX, alias("e.example")), ("e.example", MX, alias("d.example"))];
    domain(&circle, "Err(Malformed(Aliases))", &["udp MX d.example", "udp MX e.example"]);
    let names: Vec<_> = (0..100).map(|n| format!("{n}.example")).collect();
    let long: Vec<_> = names.windows(2).map(|pair| (pair[0].as_str(), MX, alias(&pair[1]))).collect();
    let questions: Vec<_> = names[..8].iter().map(|name| format!("udp MX {name}")).collect();
    let questions: Vec<_> = questions.iter().map(String::as_str).collect();
    check(&long, Sender("0.example"), PATIENT, "Err(Malformed(Aliases))", &questions);
    domain(&[("d.example", MX, alias("d.example"))], "Ok(Missing)", ALL);
}

const FOUR: &str = "1.2.0.192.in-addr.arpa";
const SIX: &str = "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa";

const SIXTEEN: [&str; 16] =
    ["h0", "h1", "h2", "h3", "h4", "h5", "h6", "h7", "h8", "h9", "h10", "h11", "h12", "h13", "h14", "h15"];

/// The first of many names.
fn sixteen() -> Vec<String> {
    SIXTEEN.map(|host| format!("{host}.example")).into()
}

fn names(names: &[impl std::fmt::Debug], forward: &str) -> String {
    format!("Ok(Names {{ names: {names:?}, forward: {forward} }})")
}

#[test]
fn reverse_names_are_bounded_host_names() {
    let hostile: Vec<RData> = vec![
        raw_ptr(&[b"a\r\n250 ok", b"example"]),
        raw_ptr(&[b"\x1b]0;x", b"example"]),
        raw_ptr(&[b"a.b", b"example"]),
        raw_ptr(&[&[0xff; 63], b"example"]),
        raw_ptr(&[]),
    ];
    let longest = [&[b'a'; 63][..], &[b'a'; 63], &[b'a'; 63], &[b'a'; 61]];
    let long = "a".repeat(63);
    let long = format!("{long}.{long}.{long}.{}", "a".repeat(61));
    let many = (0..300).map(|n| ptr(&format!("h{n}.example"))).collect();
    for (targets, found) in [
        (vec![ptr("Mail.Example")], names(&["mail.example"], "None")),
        (vec![ptr("my_host.example")], names(&["my_host.example"], "None")),
        (vec![raw_ptr(&longest)], names(&[&long], "None")),
        (hostile.clone(), "Ok(None)".to_owned()),
        ([hostile, vec![ptr("a.example"), ptr("A.example")]].concat(), names(&["a.example"], "None")),
        (many, names(&sixteen(), "None")),
    ] {
        let (udp, tcp) = (format!("udp PTR {FOUR}"), format!("tcp PTR {FOUR}"));
        let questions = if targets.len() == 300 { vec![tcp.as_str(), &udp] } else { vec![udp.as_str()] };
        for client in ["192.0.2.1", "::ffff:192.0.2.1"] {
            check(&[(FOUR, PTR, Found(targets.clone()))], Reverse(client), PATIENT, &found, &questions);
        }
    }
}

#[test]
fn no_name_is_told_from_no_answer() {
    let (four, six) = (format!("udp PTR {FOUR}"), format!("udp PTR {SIX}"));
    for (act, patience, found) in [
        (NxDomain, PATIENT, "Ok(None)"),
        (NoData, PATIENT, "Ok(None)"),
        (Code(ResponseCode::ServFail), PATIENT, "Err(ServFail)"),
        (Code(ResponseCode::Refused), PATIENT, "Err(Refused)"),
        (Silent, HASTY, "Err(TimedOut)"),
    ] {
        check(&[(FOUR, PTR, act.clone())], Reverse("192.0.2.1"), patience, found, &[&four]);
        check(&[(SIX, PTR, act)], Confirmed("2001:db8::1"), patience, found, &[&six]);
    }
    for loopback in ["127.0.0.1", "::1", "127.9.9.9", "::ffff:127.0.0.1"] {
        check(&[], Confirmed(loopback), PATIENT, &names(&["localhost"], "Some(Confirmed)"), &[]);
    }
    // RFC 2317: the provider has delegated less than 256 addresses.
    let delegated = [
        (FOUR, PTR, Found(vec![cname("1.0-63.2.0.192.in-addr.arpa")])),
        ("1.0-63.2.0.192.in-addr.arpa", PTR, Found(vec![ptr("m.example")])),
    ];
    let questions = ["udp PTR 1.0-63.2.0.192.in-addr.arpa", &four];
    check(&delegated, Reverse("192.0.2.1"), PATIENT, &names(&["m.example"], "None"), &questions);
}

#[test]
fn one_name_that_leads_back_is_enough() {
    let asked = |kind: &str, hosts: &[&str]| -> Vec<String> {
        hosts.iter().map(|host| format!("udp {kind} {host}.example")).collect()
    };
    let two = || (FOUR, PTR, Found(vec![ptr("a.example"), ptr("b.example")]));
    let ours = || Found(vec![a("192.0.2.7"), a("192.0.2.1")]);
    let other = || Found(vec![a("192.0.2.2")]);
    for (first, second, patience, forward, called) in [
        (ours(), other(), PATIENT, "Some(Confirmed)", "Ok(Some(\"a.example\"))"),
        (other(), ours(), PATIENT, "Some(Confirmed)", "Ok(Some(\"b.example\"))"),
        (Silent, ours(), PATIENT, "Some(Confirmed)", "Ok(Some(\"b.example\"))"),
        (Code(ResponseCode::ServFail), ours(), PATIENT, "Some(Confirmed)", "Ok(Some(\"b.example\"))"),
        (other(), other(), PATIENT, "Some(Mismatch)", "Ok(None)"),
        (NxDomain, NoData, PATIENT, "Some(Mismatch)", "Ok(None)"),
        (other(), Code(ResponseCode::ServFail), PATIENT, "Some(Unknown(ServFail))", "Err(ServFail)"),
        (Silent, other(), HASTY, "Some(Unknown(TimedOut))", "Err(TimedOut)"),
    ] {
        let script = [two(), ("a.example", A, first), ("b.example", A, second)];
        let mut questions = asked("A", &["a", "b"]);
        questions.push(format!("udp PTR {FOUR}"));
        let questions: Vec<_> = questions.iter().map(String::as_str).collect();
        check(&script, Confirmed("192.0.2.1"), patience, &names(&["a.example", "b.example"], forward), &questions);
        check(&script, Called("192.0.2.1"), patience, called, &questions);
    }
    let six = [(SIX, PTR, Found(vec![ptr("a.example")])), ("a.example", AAAA, Found(vec![aaaa("2001:db8::1")]))];
    let questions = ["udp AAAA a.example".to_owned(), format!("udp PTR {SIX}")];
    let questions = questions.each_ref().map(String::as_str);
    check(&six, Confirmed("2001:db8::1"), PATIENT, &names(&["a.example"], "Some(Confirmed)"), &questions);
    // Many names cost no more than sixteen look-ups, and a name that claims to be this machine costs none.
    let many = || Found((0..300).map(|n| ptr(&format!("h{n}.example"))).collect());
    let mut questions = asked("A", &SIXTEEN);
    let (udp, tcp) = (format!("udp PTR {FOUR}"), format!("tcp PTR {FOUR}"));
    questions.extend([udp.clone(), tcp]);
    questions.sort();
    let questions: Vec<_> = questions.iter().map(String::as_str).collect();
    check(&[(FOUR, PTR, many())], Confirmed("192.0.2.1"), PATIENT, &names(&sixteen(), "Some(Mismatch)"), &questions);
    let local = [(FOUR, PTR, Found(vec![ptr("localhost"), ptr("x.localhost")]))];
    let found = names(&["localhost", "x.localhost"], "Some(Mismatch)");
    check(&local, Confirmed("192.0.2.1"), PATIENT, &found, &[&udp]);
}

#[test]
fn lists_are_believed_within_their_range_only() {
    let four = "1.2.0.192.bl.example";
    let six = &SIX.replace("ip6.arpa", "bl.example");
    for (act, found) in [
        (Found(vec![a("127.0.0.2")]), "Ok(Some(127.0.0.2))"),
        (Found(vec![a("127.0.0.1"), a("127.0.0.11")]), "Ok(Some(127.0.0.11))"),
        (Found(vec![a("127.0.0.12")]), "Ok(None)"),
        (Found(vec![a("192.0.2.80")]), "Ok(None)"),
        (Found(vec![a("192.0.2.80"), a("127.0.0.3")]), "Ok(Some(127.0.0.3))"),
        (Found(vec![a("127.255.255.254")]), "Err(ListRefuses)"),
        (Found(vec![a("127.0.0.2"), a("127.255.255.252")]), "Err(ListRefuses)"),
        (NxDomain, "Ok(None)"),
        (NoData, "Ok(None)"),
        (Code(ResponseCode::ServFail), "Err(ServFail)"),
        (Code(ResponseCode::Refused), "Err(Refused)"),
    ] {
        let question = format!("udp A {four}");
        for client in ["192.0.2.1", "::ffff:192.0.2.1"] {
            check(&[(four, A, act.clone())], Listed(client), PATIENT, found, &[&question]);
        }
        let question = format!("udp A {six}");
        check(&[(six, A, act)], Listed("2001:db8::1"), PATIENT, found, &[&question]);
    }
}

#[test]
fn a11_of_thirteen_names_any_may_lead_back() {
    let hosts = &SIXTEEN[..13];
    let pointers = || hosts.iter().map(|host| ptr(&format!("{host}.example"))).collect();
    for good in hosts {
        let good = format!("{good}.example");
        let script = [(FOUR, PTR, Found(pointers())), (good.as_str(), A, Found(vec![a("192.0.2.1")]))];
        run(async {
            let bench = Bench::new(&script).await;
            let found = bench.ask(Confirmed("192.0.2.1"), PATIENT).await;
            assert!(found.contains("forward: Some(Confirmed)"), "{good}: {found}");
        });
    }
}

#[test]
fn a11_who_does_not_know_edns_is_asked_without() {
    let found = || Box::new(Found(vec![mx(10, "m.example")]));
    let plain = ["udp MX d.example", "udp-plain MX d.example"];
    let over_tcp = ["tcp-plain MX d.example", "udp MX d.example", "udp-plain MX d.example"];
    for code in [ResponseCode::FormErr, ResponseCode::NotImp] {
        let script = |act| [("d.example", MX, NoEdns(code, act))];
        domain(&script(found()), "Ok(Exists)", &plain);
        domain(&script(Box::new(NxDomain)), "Ok(Missing)", &plain);
        domain(&script(Box::new(Found(vec![mx(0, ".")]))), "Ok(NullMx)", &plain);
        domain(&script(Box::new(Code(ResponseCode::ServFail))), &format!("Err(Code({}))", u16::from(code)), &plain);
        domain(&script(Box::new(Truncated(found()))), "Ok(Exists)", &over_tcp);
    }
    // All kinds of questions.
    let no = |act| NoEdns(ResponseCode::FormErr, Box::new(act));
    let script = [
        (FOUR, PTR, no(Found(vec![ptr("a.example")]))),
        ("a.example", A, no(Found(vec![a("192.0.2.1")]))),
        ("1.2.0.192.bl.example", A, no(Found(vec![a("127.0.0.2")]))),
    ];
    run(async {
        let bench = Bench::new(&script).await;
        let found = bench.ask(Confirmed("192.0.2.1"), PATIENT).await;
        assert_eq!(found, names(&["a.example"], "Some(Confirmed)"));
        assert_eq!(bench.ask(Listed("192.0.2.1"), PATIENT).await, "Ok(Some(127.0.0.2))");
    });
}

#[test]
fn a11_what_real_zones_hold() {
    // Aliases before and behind what they lead to, in any case.
    let odd = vec![
        record("M.Example", a("192.0.2.1")),
        record("E.Example", mx(10, "m.example")),
        record("D.EXAMPLE", cname("e.Example")),
    ];
    domain(&[("d.example", MX, Records(odd))], "Ok(Exists)", MX_ONLY);
    // A mail server that is an alias, or that no question can be asked for: there is one, and its owner's mail is his.
    for target in ["alias.example", ".", "192.0.2.1", "_dmarc.example"] {
        domain(&[("d.example", MX, Found(vec![mx(10, target)]))], "Ok(Exists)", MX_ONLY);
    }
    // Text and signatures beside an answer.
    let text = RData::TXT(hickory_resolver::proto::rr::rdata::TXT::new(vec!["v=spf1 -all".to_owned()]));
    domain(&[("d.example", MX, Found(vec![text.clone(), mx(10, "m.example")]))], "Ok(Exists)", MX_ONLY);
    domain(
        &[("d.example", MX, Found(vec![text.clone()])), ("d.example", A, NoData), ("d.example", AAAA, NoData)],
        "Ok(Missing)",
        ALL,
    );
    let six = Found(vec![aaaa("2001:db8::1")]);
    domain(&[("d.example", MX, NoData), ("d.example", A, NxDomain), ("d.example", AAAA, six)], "Ok(Exists)", ALL);
    // A list whose entry is an alias, or has text beside it.
    let four = "1.2.0.192.bl.example";
    let question = format!("udp A {four}");
    for (records, found) in [
        (vec![record(four, cname("x.bl.example")), record("x.bl.example", a("127.0.0.4"))], "Ok(Some(127.0.0.4))"),
        (vec![record("x.bl.example", a("127.0.0.4")), record(four, cname("X.BL.example"))], "Ok(Some(127.0.0.4))"),
        (vec![record(four, text), record(four, a("127.0.0.2"))], "Ok(Some(127.0.0.2))"),
        (vec![record("x.bl.example", a("127.0.0.4"))], "Ok(None)"),
        (vec![record(four, a("127.0.0.1"))], "Ok(None)"),
        (vec![record(four, a("127.0.0.0"))], "Ok(None)"),
    ] {
        check(&[(four, A, Records(records))], Listed("192.0.2.1"), PATIENT, found, &[&question]);
    }
}
