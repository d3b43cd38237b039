//! Lists are replaced while packets are judged: each packet by one set or the other, never by half of one.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicBool, Ordering};

use aya::programs::{TestRun as _, TestRunOptions, Xdp};
use ipnet::{IpNet, Ipv4Net};

use super::{World, packet};
use crate::edge::lists::{self, Entry};
use crate::edge::load;

/// Networks that both sets have, and that each has alone.
const COMMON: u32 = 60_000;
/// How often the lists are replaced.
const SWAPS: u32 = 20;

/// The nth network: a /24, or one address of it, which is found by other means. `kind` keeps the sets apart.
fn net(kind: u32, n: u32) -> Ipv4Net {
    let bits = 0x2000_0000 + (n * 4 + kind) * 256;
    if n.is_multiple_of(2) { Ipv4Net::new_assert(bits.into(), 24) } else { Ipv4Net::new_assert((bits + 9).into(), 32) }
}

#[test]
#[ignore = "needs root and BPF"]
fn no_packet_is_judged_by_half_a_list() {
    const XDP_DROP: u32 = 1;
    const XDP_PASS: u32 = 2;
    let mut world = World::new("swap");
    // Kind 0 is in both, 1 and 2 in one each, 3 in neither. The sets differ in length, so every place in the words moves.
    let set = |own: u32| {
        let nets = (0..COMMON).flat_map(move |n| [(n % 3 != 0 || own == 1).then(|| net(own, n)), Some(net(0, n))]);
        nets.flatten().map(|net| Entry { net: IpNet::V4(net), list: own }).collect::<Vec<_>>()
    };
    let sets = [set(1), set(2)];
    lists::replace(&world.plane, sets[0].clone()).unwrap();
    let program: &mut Xdp = load::xdp(&mut world.object).unwrap();
    let plane = &world.plane;
    let done = AtomicBool::new(false);
    let (mut judged, mut seen) = (0u32, HashSet::new());
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for n in 0..SWAPS {
                lists::replace(plane, sets[(n as usize + 1) % 2].clone()).unwrap();
            }
            done.store(true, Ordering::Release);
        });
        while !done.load(Ordering::Acquire) {
            let (kind, n) = (judged % 4, (judged / 4).wrapping_mul(2_654_435_761) % COMMON);
            let source = Ipv4Addr::from_bits(net(kind, n).network().to_bits() & !0xff | 9);
            let packet = packet(IpAddr::V4(source));
            // Many runs of one packet: the verdict is that of the last.
            let options = TestRunOptions { data_in: Some(&packet), repeat: 8, ..TestRunOptions::new() };
            let action = program.test_run(options).unwrap().return_value;
            match kind {
                0 => assert_eq!(action, XDP_DROP, "{n} is in both"),
                3 => assert_eq!(action, XDP_PASS, "{n} is in neither"),
                _ => {
                    seen.insert((kind, action));
                }
            }
            judged += 1;
        }
    });
    assert_eq!(seen.len(), 4, "both sets were in force while packets were judged: {judged} packets");
}
