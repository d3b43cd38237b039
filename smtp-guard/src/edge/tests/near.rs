//! Bans that share an element of NEAR, and more of them than it has slots. Each is in force from its ban to its end, wherever
//! it stands.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use aya::programs::{TestRun as _, TestRunOptions};
use smtp_guard_ebpf::abi::Source;
use smtp_guard_ebpf::near::{COMPLETE, SLOTS, WORDS, element};
use smtp_guard_ebpf::reason::Reason;

use super::{World, packet};
use crate::clock::Instant;
use crate::edge::pins::Pins;
use crate::edge::{KernelPlane, load, sys};

#[test]
#[ignore = "needs root and BPF"]
fn bans_that_share_an_element_are_in_force_each() {
    let mut world = World::new("near");
    let at = |bits: u32| element(Source::v4(bits));
    let first = 0xcb00_7100;
    let sources: Vec<u32> = (first..).filter(|bits| at(*bits) == at(first)).take(SLOTS * 2 + 1).collect();
    let mut banned = BTreeSet::new();
    let mut state = 1u64;
    for step in 0..400 {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let bits = sources[(state >> 33) as usize % sources.len()];
        if step % 100 == 99 {
            // Another process takes over.
            world.plane = KernelPlane::open(&world.directory).unwrap().unwrap();
            world.plane.configure(&world.config).unwrap();
        }
        match state >> 60 {
            0..7 => assert_eq!(world.plane.unban_all(&[Source::v4(bits)]).unwrap(), usize::from(banned.remove(&bits))),
            // One that is over is none.
            7 => {
                world.plane.ban(Source::v4(bits), Instant::from_ns(1), Reason::Operator).unwrap();
                assert!(!is_dropped(&mut world, bits), "step {step}");
                world.plane.unban_all(&[Source::v4(bits)]).unwrap();
                banned.remove(&bits);
            }
            _ => {
                world.plane.ban(Source::v4(bits), Instant::NEVER, Reason::Operator).unwrap();
                banned.insert(bits);
            }
        }
        for bits in &sources {
            let dropped = is_dropped(&mut world, *bits);
            assert_eq!(dropped, banned.contains(bits), "step {step}: {}", Ipv4Addr::from_bits(*bits));
        }
    }
}

/// Else all elements would end so, and BANS be asked for every source that the filter lets through.
#[test]
#[ignore = "needs root and BPF"]
fn an_element_that_had_too_many_has_all_again() {
    let world = World::new("again");
    let at = element(Source::v4(0));
    let crowd = (0..).map(Source::v4).filter(|source| element(*source) == at).take(SLOTS + 1);
    // As many bits as are stale before the filter is made again, and one more.
    let others = (0..).map(Source::v4).filter(|source| element(*source) != at).take(4096 + 1);
    let sources: Vec<_> = crowd.chain(others).collect();
    let bans: Vec<_> = sources.iter().map(|source| (*source, Instant::NEVER, Reason::Operator)).collect();
    let is_complete = || {
        let near = sys::WordMap::<u32>::open(&Pins::new(&world.directory).map("NEAR"), WORDS).unwrap();
        near.read(at).unwrap()[WORDS - 1] & COMPLETE != 0
    };
    world.plane.ban_all(&bans[..SLOTS]).unwrap();
    assert!(is_complete());
    world.plane.ban_all(&bans).unwrap();
    assert!(!is_complete());
    assert_eq!(world.plane.unban_all(&sources).unwrap(), sources.len(), "together");
    assert!(is_complete());
    world.plane.ban_all(&bans).unwrap();
    assert!(!is_complete());
    for source in &sources {
        assert_eq!(world.plane.unban_all(&[*source]).unwrap(), 1, "one by one");
    }
    assert!(is_complete());
}

fn is_dropped(world: &mut World, bits: u32) -> bool {
    const XDP_DROP: u32 = 1;
    let packet = packet(IpAddr::V4(Ipv4Addr::from_bits(bits)));
    let options = TestRunOptions { data_in: Some(&packet), ..TestRunOptions::new() };
    load::xdp(&mut world.object).unwrap().test_run(options).unwrap().return_value == XDP_DROP
}
