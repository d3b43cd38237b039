//! Files of block lists, of any format, and the same files read as decisions (`decisions import`).
//!
//! - Nothing panics, whatever stands in the file.
//! - What is taken is sorted and apart, no wider than allowed, and touches nothing that is protected.
//! - Written as a netset, it is read as the same.
//! - Decisions are what a list would be, but for what is over, each with its line and a text that can be shown.
#![no_main]

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Arc, LazyLock};

use libfuzzer_sys::fuzz_target;
use smtp_guard_core::blocklist::{
    Format, List, MAX_ENTRY_REFUSALS, MAX_REFUSALS, Named, Protected, Refusal, Span, Table, parse, parse_entries,
};
use smtp_guard_core::clock::WallTime;
use smtp_guard_core::config::Config;

static PROTECTED: LazyLock<Protected> = LazyLock::new(|| {
    let mut config = Config::builtin();
    config.exempt = ["192.0.2.128/25", "2001:db8:1::/48"].iter().map(|net| net.parse().expect("a network")).collect();
    Protected::new(&config, &[])
});

fuzz_target!(|data: &[u8]| {
    decisions(data);
    let Ok(list) = parse(data, &PROTECTED) else { return };
    assert!(list.refusals.len() <= MAX_REFUSALS.min(list.refused));
    assert!(list.refusals.iter().all(can_be_shown));
    let spans: Vec<_> = list.spans().collect();
    assert!(spans.windows(2).all(|pair| pair[0].ends().1 < pair[1].ends().0), "{spans:?}");
    assert!(spans.iter().all(|span| !span.is_too_wide()));
    if spans.is_empty() {
        return;
    }
    let mut netset = String::new();
    let nets = |list: &List| list.spans().flat_map(|span| span.nets()).collect::<Vec<_>>();
    for net in nets(&list) {
        writeln!(netset, "{net}").expect("memory");
    }
    let again = parse(netset.as_bytes(), &PROTECTED).expect("what was taken is a list");
    assert_eq!((again.format, again.refused), (Format::Netset, 0));
    assert_eq!(nets(&again), nets(&list));
    let table = Table::new(vec![Named { name: "a".to_owned(), file: "/a".into(), list: Arc::new(again) }]);
    for span in spans {
        let (first, last) = span.ends();
        assert!(table.has(first) && table.has(last) && table.listings(first).len() == 1);
    }
});

/// The file as decisions that end when it says.
fn decisions(data: &[u8]) {
    let Ok(entries) = parse_entries(data, WallTime::from_ms(1_795_518_000_000)) else { return };
    assert!(entries.refusals.len() <= MAX_ENTRY_REFUSALS.min(entries.refused));
    assert!(entries.refusals.iter().all(can_be_shown));
    assert!(entries.entries.iter().all(|entry| entry.line > 0 && !entry.span.is_too_wide()));
    if entries.format == Format::Decisions {
        return;
    }
    let list = parse(data, &Protected::internet()).expect("what makes decisions makes a list");
    let spans: Vec<_> = list.spans().collect();
    for entry in &entries.entries {
        assert!(is_covered(entry.span, &spans), "{entry:?}");
    }
}

/// Whether all of `span` is in `spans`: in one of them, or in several that touch, as those that overlap are cut.
fn is_covered(span: Span, spans: &[Span]) -> bool {
    let (first, last) = span.ends();
    let mut next = Some(first);
    while let Some(at) = next {
        let Some((_, end)) = spans.iter().map(|span| span.ends()).find(|(from, to)| *from <= at && at <= *to) else {
            return false;
        };
        next = if end < last { after(end) } else { None };
    }
    true
}

fn after(ip: IpAddr) -> Option<IpAddr> {
    match ip {
        IpAddr::V4(ip) => ip.to_bits().checked_add(1).map(|bits| Ipv4Addr::from_bits(bits).into()),
        IpAddr::V6(ip) => ip.to_bits().checked_add(1).map(|bits| Ipv6Addr::from_bits(bits).into()),
    }
}

fn can_be_shown(refusal: &Refusal) -> bool {
    refusal.line > 0 && !refusal.to_string().chars().any(char::is_control)
}
