//! Files of each format, good and bad, and what is read of them.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;
use proptest::prelude::*;

use super::*;
use crate::addr::{canonical, canonical_net};
use crate::config::Config;

mod decisions;
mod entries;
mod sets;

/// Protects 192.0.2.128/25 beside what is private.
fn protected() -> Protected {
    let mut config = Config::builtin();
    config.exempt = ["192.0.2.128/25".parse().unwrap()].into_iter().collect();
    Protected::new(&config, &[])
}

/// What `text` is read as: its entries in order, its refusals as `line: a part of the reason`, what is skipped.
#[track_caller]
fn check(text: impl AsRef<[u8]>, format: Format, entries: &[&str], refusals: &[&str], skipped: usize) {
    let text = text.as_ref();
    let shown = text.escape_ascii();
    let list = parse(text, &protected()).unwrap_or_else(|fault| panic!("{fault}\n{shown}"));
    assert_eq!(list.format, format, "{shown}");
    assert_eq!(list.spans().map(|span| span.to_string()).collect::<Vec<_>>(), entries, "{shown}");
    assert_eq!((list.refused, list.skipped), (refusals.len(), skipped), "{:?}\n{shown}", list.refusals);
    for (refusal, expected) in list.refusals.iter().zip(refusals) {
        let (line, why) = expected.split_once(": ").unwrap();
        assert!(
            refusal.line.to_string() == line && refusal.to_string().contains(why),
            "{refusal}, not {expected}\n{shown}"
        );
    }
}

/// `text` is refused as a whole, with `words`.
#[track_caller]
fn refused(text: impl AsRef<[u8]>, words: &str) {
    let text = text.as_ref();
    match parse(text, &protected()) {
        Ok(list) => panic!("read as {list:?}: {}", text.escape_ascii()),
        Err(fault) => assert!(fault.to_string().contains(words), "{fault}\n{}", text.escape_ascii()),
    }
}

#[test]
fn netsets() {
    use Format::Netset;
    check("198.51.100.7", Netset, &["198.51.100.7"], &[], 0);
    let text =
        "# from FireHOL; made today\n#\n\n198.51.100.0/24\n  203.0.113.9 # why\n2001:db8::/32#x\n::ffff:203.0.113.10\n";
    let entries = ["198.51.100.0/24", "203.0.113.9", "203.0.113.10", "2001:db8::/32"];
    check(text, Netset, &entries, &[], 0);
    check(text.replace('\n', "\r\n"), Netset, &entries, &[], 0);
    check(format!("\u{feff}{text}"), Netset, &entries, &[], 0);
    check([text.as_bytes(), b"# \xe9t\xe9\n"].concat(), Netset, &entries, &[], 0);
    // The widest of those that hold each other is the entry.
    check(
        "198.51.100.7\n198.51.100.0/24\n198.51.100.7\n198.51.101.0/24",
        Netset,
        &["198.51.100.0/24", "198.51.101.0/24"],
        &[],
        0,
    );
}

#[test]
fn entries_that_must_not_be_blocked_are_refused_by_line() {
    let text = "203.0.113.0/24\n10.1.2.3\n0.0.0.0/0\n192.0.2.0/24\n192.0.2.200\n192.0.2.1\n2000::/15\nfe80::1\nhost\n1.2.3\n\
                198.51.100.7 and more\n203.0.0.0/16\n64.0.0.0/7\n";
    check(
        text,
        Format::Netset,
        &["192.0.2.1", "203.0.0.0/16"],
        &[
            "2: 10.1.2.3: 10.0.0.0/8 is not a public address (private)",
            "3: wider than /8",
            "4: 192.0.2.128/25 is in use here (exempt)",
            "5: 192.0.2.128/25 is in use here (exempt)",
            "7: wider than /8 (IPv6: /16)",
            "8: link-local",
            "9: host: not an address or network",
            "10: not an address or network",
            "11: not an address or network",
            "13: wider than /8",
        ],
        0,
    );
    let many = format!("198.51.100.7\n{}", "10.0.0.1\n".repeat(100));
    let list = parse(many.as_bytes(), &protected()).unwrap();
    assert_eq!((list.len(), list.refused, list.refusals.len()), (1, 100, MAX_REFUSALS));
}

#[test]
fn what_is_no_list_is_refused_as_a_whole() {
    for text in ["", "\n\n", "<html><body>503</body></html>", "[default]\nx", "\0\0\0", "a,b,c\n1,2,3"] {
        refused(text, if text.starts_with('[') { "not JSON" } else { "no format that is known" });
    }
    refused(format!("{}198.51.100.7\n", "nonsense\n".repeat(30)), "no format that is known");
    refused("198.51.100.7\nx\ny\n", "2 of its 3 entries can't be read, the first is line 2: x:");
    check("198.51.100.7\nx\n", Format::Netset, &["198.51.100.7"], &["2: not an address"], 0);
    // Entries that are only not wanted make no list wrong.
    check("10.0.0.1\n10.0.0.2\n", Format::Netset, &[], &["1: private", "2: private"], 0);
}

#[test]
fn a6_a_list_without_entries_is_an_empty_list() {
    check("# Spamhaus EDROP\n# empty\n", Format::Netset, &[], &[], 0);
    check("\u{feff}#\r\n\r\n", Format::Netset, &[], &[], 0);
    check("; Spamhaus EDROP List 2026/11/28\n; Expires: never\n", Format::DropText, &[], &[], 0);
    check("{\"type\":\"metadata\",\"timestamp\":1,\"size\":0,\"records\":0}\n", Format::DropJson, &[], &[], 0);
    check(
        "id,source,ip,reason,action,country,as,events_count,expiration,simulated,alert_id\n",
        Format::CrowdsecCsv,
        &[],
        &[],
        0,
    );
    check("null\n", Format::CrowdsecJson, &[], &[], 0);
    check("[]", Format::CrowdsecJson, &[], &[], 0);
    check("create x hash:net family inet\n", Format::IpsetSave, &[], &[], 0);
    refused("# an error page\n<html>", "no format that is known");
}

#[test]
fn spamhaus_drop_as_text() {
    let text =
        "; Spamhaus DROP List\n; Expires: today\n198.51.100.0/24 ; SBL1\n203.0.113.0/25 ; SBL2\n10.0.0.0/8 ; SBL3\n";
    check(text, Format::DropText, &["198.51.100.0/24", "203.0.113.0/25"], &["5: private"], 0);
    check("198.51.100.0/24;SBL1", Format::DropText, &["198.51.100.0/24"], &[], 0);
}

#[test]
fn spamhaus_drop_as_json_lines() {
    use Format::DropJson;
    const RECORDS: &str = "{\"cidr\":\"198.51.100.0/24\",\"sblid\":\"SBL1\",\"rir\":\"apnic\"}\n{\"cidr\":\"2001:db8::/32\",\"sblid\":\"SBL2\"}\n";
    let end = |records: u32| {
        format!("{{\"type\":\"metadata\",\"timestamp\":1,\"size\":2,\"records\":{records},\"copyright\":\"(c)\"}}\n")
    };
    let entries = ["198.51.100.0/24", "2001:db8::/32"];
    check(RECORDS.to_owned() + &end(2), DropJson, &entries, &[], 0);
    check((RECORDS.to_owned() + &end(2)).replace('\n', "\r\n"), DropJson, &entries, &[], 0);
    check(end(0), DropJson, &[], &[], 0);
    let v6 = format!("{{\"cidr\":\"2001:dba::/32\"}}\n{}", end(1));
    check(RECORDS.to_owned() + &end(2) + &v6, DropJson, &["198.51.100.0/24", "2001:db8::/32", "2001:dba::/32"], &[], 0);
    let odd = format!("{RECORDS}{{\"cidr\":\"10.0.0.0/8\"}}\n{{\"asn\":1}}\n{}", end(4));
    check(odd, DropJson, &entries, &["3: private", "4: no record with a cidr"], 0);
    refused(RECORDS, "without its count of records");
    refused(RECORDS.to_owned() + &end(3), "line 3 says that 3 records stand before it, and there are 2");
    refused(RECORDS.to_owned() + "{\"type\":\"metadata\"}", "without its count of records");
    refused(RECORDS.to_owned() + &end(2) + RECORDS, "without its count of records");
    let whole = RECORDS.to_owned() + &end(2);
    for cut in 1..whole.len() - 2 {
        assert!(parse(&whole.as_bytes()[..cut], &protected()).is_err(), "cut after {cut} bytes");
    }
}

fn networks() -> impl Strategy<Value = BTreeSet<IpNet>> {
    let net = (any::<IpAddr>(), 8u8..=128).prop_map(|(ip, length)| {
        let length = if ip.is_ipv4() { 8 + length % 25 } else { length.max(16) };
        IpNet::new(ip, length).unwrap().trunc()
    });
    prop::collection::btree_set(net, 1..40)
}

proptest! {
    /// Written in each format, the same entries are read.
    #[test]
    fn what_is_written_is_read(nets in networks(), asked: IpAddr) {
        let nothing = Protected::new(&Config::builtin(), &[]);
        let lines = |line: &dyn Fn(&IpNet) -> String| nets.iter().map(line).collect::<String>();
        let family = |net: &IpNet| if net.addr().is_ipv4() { "4" } else { "6" };
        let files = [
            (Format::Netset, lines(&|net| format!("{net}\n"))),
            (Format::DropText, lines(&|net| format!("{net} ; SBL\n"))),
            (Format::DropJson, lines(&|net| format!("{{\"cidr\":\"{net}\"}}\n")) + &format!("{{\"type\":\"metadata\",\"records\":{}}}", nets.len())),
            (Format::CrowdsecCsv, "duration,scope,value\n".to_owned() + &lines(&|net| format!("4h,range,{net}\n"))),
            (Format::CrowdsecJson, format!("[{}]", lines(&|net| format!("{{\"value\":\"{net}\",\"type\":\"ban\"}},")).trim_end_matches(','))),
            (Format::IpsetSave, "create a4 hash:net family inet\ncreate a6 hash:net family inet6\n".to_owned()
                + &lines(&|net| format!("add a{} {net}\n", family(net)))),
        ];
        let mut expected: Option<Vec<Span>> = None;
        for (format, text) in files {
            let list = parse(text.as_bytes(), &nothing).unwrap();
            prop_assert_eq!(list.format, format);
            let spans: Vec<_> = list.spans().collect();
            prop_assert_eq!(expected.get_or_insert_with(|| spans.clone()), &spans, "{}", text);
        }
        let table = Table::new(vec![Named {
            name: "a".to_owned(),
            file: "/a".into(),
            list: parse(lines(&|net| format!("{net}\n")).as_bytes(), &nothing).unwrap().into(),
        }]);
        let mut candidates = vec![canonical(asked)];
        candidates.extend(nets.iter().map(IpNet::addr));
        for ip in candidates {
            let holds = |net: &IpNet| canonical_net(*net).contains(&canonical(ip));
            let taken = |net: &IpNet| !Span::from(*net).is_too_wide() && nothing.objection((*net).into()).is_none();
            let listed = nets.iter().any(|net| holds(net) && taken(net));
            prop_assert_eq!(table.has(ip), listed, "{}", ip);
            prop_assert_eq!(table.listings(ip).len() == 1, table.has(ip));
        }
    }

    #[test]
    fn no_bytes_are_too_odd(bytes in prop::collection::vec(any::<u8>(), 0..400), which in 0usize..6) {
        const BEGINNINGS: [&str; 6] = [
            "", "198.51.100.1\n", "{\"cidr\":\"198.51.100.0/24\"}\n", "[{\"value\":\"", "id,ip,action\n1,Ip:198.51.100.1,ban\n",
            "create a hash:net\nadd a 198.51.100.0/24\nadd a ",
        ];
        let text = [BEGINNINGS[which].as_bytes(), &bytes].concat();
        if let Ok(list) = parse(&text, &protected()) {
            prop_assert!(list.spans().all(|span| protected().objection(span).is_none() && !span.is_too_wide()));
        }
    }
}
