//! The price of banned networks: a packet that nothing else judges, and the drop, beside a plane without any.

use std::net::Ipv4Addr;

use ipnet::{IpNet, Ipv4Net};
use smtp_guard::addr::Ipv6Prefix;
use smtp_guard::clock::Instant;
use smtp_guard::key::{Key, Net};
use smtp_guard_ebpf::reason::Reason;

use super::subject::{Case, Packet, Subjects};
use super::world::World;
use super::{REPEAT, ROUNDS, Row};

/// Networks in force, none first.
const COUNTS: [u32; 4] = [0, 1, 1_000, 65_536];
/// In the first of them.
const WITHIN: &str = "16.0.1.9";

pub(crate) fn measure(subjects: &mut Subjects, world: &World) -> Vec<Row> {
    let all: Vec<Net> = (0..COUNTS[3]).map(net).collect();
    let data = |source: &str| Packet::tcp(source.parse().unwrap(), 25, 0x10);
    let (clean, clean_v6, within) = (data("203.0.113.9"), data("2001:dba:77::9"), data(WITHIN));
    let mut times = COUNTS.map(|_| [Vec::new(), Vec::new(), Vec::new()]);
    for round in 0..=ROUNDS {
        for (count, times) in COUNTS.into_iter().zip(&mut times) {
            let (there, others) = all.split_at(count as usize);
            world.plane.unban_networks(others).unwrap();
            let bans: Vec<_> = there.iter().map(|net| (*net, Instant::NEVER, Reason::Operator)).collect();
            assert_eq!(world.plane.ban_networks(&bans).unwrap(), []);
            let drops = if count > 0 { 1 } else { 2 };
            let cases = [
                Case::new(|s| &mut s.guard, &clean, 2),
                Case::new(|s| &mut s.guard, &clean_v6, 2),
                Case::new(|s| &mut s.guard, &within, drops),
            ];
            for (case, times) in cases.iter().zip(times) {
                let time = case.run(subjects, REPEAT);
                // The first round warms up.
                if round > 0 {
                    times.push(time);
                }
            }
        }
    }
    world.plane.unban_networks(&all).unwrap();
    let medians = times.map(|cases| {
        cases.map(|mut times| {
            times.sort_by(f64::total_cmp);
            times[times.len() / 2]
        })
    });
    let [none, counts @ ..] = medians;
    let named = COUNTS[1..].iter().zip(counts);
    named
        .flat_map(|(count, times)| {
            ["data, clean", "data, clean, IPv6", "drop in one"].into_iter().zip(times).zip(none).map(
                move |((name, time), none)| {
                    Row::ratio(&format!("{name}, networks: {count}"), time, "no networks", none, None)
                },
            )
        })
        .collect()
}

/// A /24 of 16.0.0.0/8 and those after it.
fn net(n: u32) -> Net {
    let net = IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::from_bits(0x1000_0100 + (n << 8)), 24));
    Key::of(net.into(), Ipv6Prefix::default()).unwrap().network().unwrap()
}
