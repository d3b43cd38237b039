use std::io;

use hickory_resolver::net::ForwardNSData;
use hickory_resolver::proto::op::Query;
use hickory_resolver::proto::rr::rdata::{A, CNAME, MX, NS, PTR, SOA};

use super::*;

fn name(text: &str) -> Name {
    Name::from_ascii(text).unwrap()
}

fn record(owner: &str, ttl: u32, data: RData) -> Record {
    Record::from_rdata(name(owner), ttl, data)
}

fn mx(preference: u16, exchange: &str) -> RData {
    RData::MX(MX::new(preference, name(exchange)))
}

fn a(last: u8) -> RData {
    RData::A(A::new(192, 0, 2, last))
}

fn cname(target: &str) -> RData {
    RData::CNAME(CNAME(name(target)))
}

fn ptr(labels: &[&[u8]]) -> RData {
    RData::PTR(PTR(Name::from_labels(labels.iter().copied()).unwrap()))
}

fn addresses(last: &[u8]) -> Answer {
    Answer::Addresses(last.iter().map(|last| IpAddr::from([192, 0, 2, *last])).collect())
}

fn host_names(names: &[&str]) -> Answer {
    Answer::Names(names.iter().map(|name| Box::from(*name)).collect())
}

/// What is read when `records` come for a question after `q.example`.
fn check(kind: Kind, records: Vec<Record>, answer: Answer, ttl: u64, is_cut: bool) {
    let asked = name("q.example.");
    let lookup = Lookup::new_with_max_ttl(Query::query(asked.clone(), kind.record_type()), records.clone());
    let reading = Reading { answer, ttl: Duration::from_secs(ttl), is_cut };
    assert_eq!(read(kind, &asked, Ok(lookup)), Ok(reading), "{records:?}");
}

#[test]
fn null_mx_has_one_shape() {
    for (records, answer) in [
        (vec![mx(0, ".")], Answer::NullMx),
        (vec![mx(10, ".")], Answer::Mx),
        (vec![mx(0, "mail.example.")], Answer::Mx),
        (vec![mx(0, "."), mx(0, ".")], Answer::Mx),
        (vec![mx(0, "."), mx(10, "mail.example.")], Answer::Mx),
        (vec![a(1)], Answer::NoData),
    ] {
        let ttl = if answer == Answer::NoData { 0 } else { 60 };
        check(Kind::Mx, records.into_iter().map(|data| record("q.example.", 60, data)).collect(), answer, ttl, false);
    }
}

#[test]
fn only_records_of_the_name_and_its_aliases_count() {
    for (records, answer, ttl) in [
        (vec![record("Q.Example.", 60, a(1)), record("q.example.", 30, a(2))], addresses(&[1, 2]), 30),
        (vec![record("other.example.", 60, a(1))], Answer::NoData, 0),
        (vec![record("other.example.", 5, a(1)), record("q.example.", 60, a(2))], addresses(&[2]), 60),
        (
            vec![
                record("c.example.", 60, a(3)),
                record("q.example.", 20, cname("b.example.")),
                record("b.example.", 40, cname("c.example.")),
            ],
            addresses(&[3]),
            20,
        ),
        (
            vec![record("q.example.", 20, cname("b.example.")), record("b.example.", 40, cname("q.example."))],
            Answer::NoData,
            0,
        ),
        (vec![record("q.example.", 20, cname("q.example.")), record("q.example.", 9, a(1))], addresses(&[1]), 9),
        (vec![record("b.example.", 40, cname("c.example.")), record("c.example.", 60, a(1))], Answer::NoData, 0),
        (vec![], Answer::NoData, 0),
    ] {
        check(Kind::A, records, answer, ttl, false);
    }
}

#[test]
fn a_long_chain_of_aliases_ends() {
    let alias = |n: usize| record(&format!("{n}.example."), 60, cname(&format!("{}.example.", n + 1)));
    let mut records: Vec<_> = (1..1000).map(alias).collect();
    records.push(record("q.example.", 60, cname("1.example.")));
    records.push(record("1000.example.", 60, a(1)));
    check(Kind::A, records, Answer::NoData, 0, false);
}

#[test]
fn a11_hostile_pointers_leave_at_most_sixteen_host_names() {
    let hostile: [&[&[u8]]; 7] = [
        &[b"a\r\nb", b"example"],
        &[b"\0", b"example"],
        &[b"a.b", b"example"],
        &[b"\x1b[31m", b"example"],
        &[b"\xff\xfe", b"example"],
        &[b"192", b"0", b"2", b"1"],
        &[],
    ];
    let of = |targets: Vec<RData>| targets.into_iter().map(|data| record("q.example.", 60, data)).collect();
    check(Kind::Ptr, of(hostile.map(ptr).into()), host_names(&[]), 60, false);
    let mut mixed: Vec<_> = hostile.map(ptr).into();
    mixed.push(ptr(&[b"My_Host", b"Example"]));
    mixed.push(ptr(&[b"my_host", b"example"]));
    check(Kind::Ptr, of(mixed), host_names(&["my_host.example"]), 60, false);
    let many = (0..300).map(|n| ptr(&[format!("h{n}").as_bytes(), b"example"])).collect();
    let first: Vec<_> = (0..16).map(|n| format!("h{n}.example")).collect();
    let first: Vec<_> = first.iter().map(String::as_str).collect();
    check(Kind::Ptr, of(many), host_names(&first), 60, true);
}

#[test]
fn addresses_are_bounded() {
    let records = (0..1000_u32).map(|n| RData::A(A::from(std::net::Ipv4Addr::from(n))));
    let records: Vec<_> = records.map(|data| record("q.example.", 60, data)).collect();
    let kept = Answer::Addresses((0..256_u32).map(|n| IpAddr::V4(n.into())).collect());
    assert!(kept.bytes() <= 4608, "{}", kept.bytes());
    check(Kind::A, records, kept, 60, true);
}

fn refer(none: &mut NoRecords) {
    let ns = record("example.", 60, RData::NS(NS(name("ns.example."))));
    none.ns = Some([ForwardNSData { ns, glue: [].into() }].into());
}

/// The end of a chain of aliases.
fn elsewhere(none: &mut NoRecords) {
    *none.query = Query::query(name("e.example."), RecordType::A);
}

fn soa() -> Option<Box<Record<SOA>>> {
    let soa = SOA::new(name("ns.example."), name("h.example."), 1, 1, 1, 1, 60);
    Some(Box::new(Record::from_rdata(name("example."), 60, soa)))
}

#[test]
fn nothing_found_is_told_from_nothing_known() {
    let none = |code, change: fn(&mut NoRecords)| {
        let mut none = NoRecords::new(Query::query(name("q.example."), RecordType::A), code);
        change(&mut none);
        NetError::from(none)
    };
    let negative = |answer, ttl| Ok(Reading::negative(answer, Some(ttl)));
    let code = |code| NetError::Dns(DnsError::ResponseCode(code));
    let io = |kind| NetError::from(io::Error::from(kind));
    for (error, reading) in [
        (none(ResponseCode::NXDomain, |_| {}), negative(Answer::NoName, 0)),
        (none(ResponseCode::NoError, |_| {}), negative(Answer::NoData, 0)),
        (none(ResponseCode::NXDomain, |none| none.negative_ttl = Some(9)), negative(Answer::NoName, 9)),
        (none(ResponseCode::NoError, elsewhere), Err(Failure::Malformed(Flaw::Aliases))),
        (none(ResponseCode::NXDomain, elsewhere), negative(Answer::NoName, 0)),
        (
            none(ResponseCode::NoError, |none| {
                elsewhere(none);
                none.soa = soa();
            }),
            negative(Answer::NoData, 0),
        ),
        (none(ResponseCode::NoError, refer), Err(Failure::Malformed(Flaw::Referral))),
        (
            none(ResponseCode::NoError, |none| {
                refer(none);
                none.soa = soa();
            }),
            negative(Answer::NoData, 0),
        ),
        (none(ResponseCode::Unknown(99), |_| {}), Err(Failure::Code(99))),
        (code(ResponseCode::ServFail), Err(Failure::ServFail)),
        (code(ResponseCode::Refused), Err(Failure::Refused)),
        (code(ResponseCode::NotImp), Err(Failure::Code(4))),
        (NetError::Timeout, Err(Failure::TimedOut)),
        (NetError::Busy, Err(Failure::Busy)),
        (NetError::Truncated, Err(Failure::Malformed(Flaw::Truncated))),
        (NetError::QueryCaseMismatch, Err(Failure::Malformed(Flaw::Unreadable))),
        (io(io::ErrorKind::HostUnreachable), Err(Failure::Network(io::ErrorKind::HostUnreachable))),
        (NetError::Message("anything"), Err(Failure::Network(io::ErrorKind::Other))),
    ] {
        assert_eq!(read(Kind::A, &name("q.example."), Err(error)), reading);
    }
}
