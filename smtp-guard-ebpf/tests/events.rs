//! Samples of what is dropped, as both planes read them.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::net::IpAddr;

use proptest::prelude::*;
use smtp_guard_ebpf::event::{Dropped, Sampling};
use smtp_guard_ebpf::parse::Address;

/// As the kernel writes it into the ring buffer.
fn bytes(dropped: &Dropped) -> Vec<u8> {
    let mut bytes = Vec::new();
    for word in [dropped.at_ns, dropped.high, dropped.low, dropped.stands_for] {
        bytes.extend(word.to_ne_bytes());
    }
    bytes.extend(dropped.reason.to_ne_bytes());
    bytes.extend(dropped.port.to_ne_bytes());
    bytes.extend([0, 0]);
    bytes
}

#[track_caller]
fn check(address: Address, ip: &str) {
    let (high, low) = Dropped::halves(&address);
    let dropped = Dropped { at_ns: 1, high, low, stands_for: 2, reason: 3, port: 25, _pad: 0 };
    assert_eq!(dropped.ip(), ip.parse::<IpAddr>().unwrap());
    assert_eq!(Dropped::from_bytes(&bytes(&dropped)), Some(dropped));
}

#[test]
fn the_source_is_read_as_it_was_written() {
    check(Address::V4(0xc000_0201), "192.0.2.1");
    check(Address::V4(0), "0.0.0.0");
    check(Address::V4(u32::MAX), "255.255.255.255");
    check(Address::V6 { high: 0x2001_0db8 << 32, low: 1 }, "2001:db8::1");
    check(Address::V6 { high: 0, low: u64::MAX }, "::ffff:ffff:ffff:ffff");
    assert_eq!(Dropped::from_bytes(&[0; Dropped::SIZE - 1]), None);
    assert_eq!(Dropped::from_bytes(&[0; Dropped::SIZE + 1]), None);
}

proptest! {
    /// However ticks and room fall: one sample a tick at most, and every packet is in one sample or still to be told.
    #[test]
    fn every_drop_is_told_once(drops in prop::collection::vec((0u64..3, prop::bool::weighted(0.8)), 0..200)) {
        let (mut state, mut tick) = (Sampling::default(), 1);
        let (mut told, mut lost, mut ticks) = (0, 0, std::collections::HashSet::new());
        for (n, (passes, room)) in drops.iter().enumerate() {
            tick += passes;
            if state.is_due(tick) {
                prop_assert!(ticks.insert(tick), "twice in tick {}", tick);
                told += if *room { state.since } else { 0 };
                lost += u64::from(!room);
                state.told(*room);
            }
            prop_assert_eq!(told + state.since, n as u64 + 1);
        }
        prop_assert_eq!(state.lost, lost);
    }
}
