//! Files of block lists, of any format.
//!
//! - Nothing panics, whatever stands in the file.
//! - What is taken is sorted and apart, no wider than allowed, and touches nothing that is protected.
//! - Written as a netset, it is read as the same.
#![no_main]

use std::fmt::Write as _;
use std::sync::{Arc, LazyLock};

use libfuzzer_sys::fuzz_target;
use smtp_guard::blocklist::{Format, List, MAX_REFUSALS, Named, Protected, Table, parse};
use smtp_guard::config::Config;

static PROTECTED: LazyLock<Protected> = LazyLock::new(|| {
    let mut config = Config::builtin();
    config.exempt = ["192.0.2.128/25", "2001:db8:1::/48"].iter().map(|net| net.parse().expect("a network")).collect();
    Protected::new(&config, &[])
});

fuzz_target!(|data: &[u8]| {
    let Ok(list) = parse(data, &PROTECTED) else { return };
    assert!(list.refusals.len() <= MAX_REFUSALS.min(list.refused));
    assert!(list.refusals.iter().all(|refusal| refusal.line > 0 && !refusal.to_string().chars().any(char::is_control)));
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
