//! The same verdicts in the kernel as on the host, packet by packet, whatever the packets are.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use aya::maps::{MapData, PerCpuArray};
use aya::programs::{TestRun as _, TestRunOptions, Xdp};
use ipnet::IpNet;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use smtp_guard_ebpf::abi::{Ban, Connections, Family, Source};
use smtp_guard_ebpf::decide::{Findings, Verdict, decide};
use smtp_guard_ebpf::parse::{Address, parse};
use smtp_guard_ebpf::rate::Bucket;
use smtp_guard_ebpf::reason::Reason;

use super::{CEILING, PORT, RATE, World};
use crate::addr::NetSet;
use crate::clock::Instant;
use crate::edge::lists::{self, Entry};
use crate::edge::pins::Pins;
use crate::edge::{load, maps};
use crate::key::{Key, Net};

/// Packets that both judge.
const PACKETS: u32 = 120_000;

/// What the maps hold, on the host.
struct Model {
    ipv6_mask: u64,
    listed: Vec<IpNet>,
    bans: HashMap<Source, Ban>,
    networks: Vec<(Net, Ban)>,
    exempt: NetSet,
    connections: HashMap<Source, Connections>,
}

impl Findings for Model {
    fn source(&self, address: &Address) -> Source {
        address.source(self.ipv6_mask)
    }
    fn listed(&self, address: &Address) -> Option<u32> {
        let ip = ip(address);
        (self.listed.iter().any(|net| net.contains(&ip)) && !self.exempt.contains(ip)).then_some(1)
    }
    fn ban(&self, source: Source) -> Option<Ban> {
        self.bans.get(&source).copied()
    }
    fn network_ban(&self, source: Source) -> Option<Ban> {
        let around = self.networks.iter().filter(|(net, _)| net.holds(source));
        around.max_by_key(|(net, _)| net.bits().0).map(|(_, ban)| *ban)
    }
    fn exempt_version(&self) -> u32 {
        1
    }
    fn exempt(&self, address: &Address) -> bool {
        self.exempt.contains(ip(address))
    }
    fn connections(&self, source: Source) -> Option<Connections> {
        self.connections.get(&source).copied()
    }
    fn ceiling(&self) -> u32 {
        CEILING
    }
    fn bucket(&self) -> Bucket {
        Bucket::new(RATE * 2, 60_000_000_000)
    }
    fn now_ns(&self) -> u64 {
        crate::clock::now().as_ns()
    }
}

fn ip(address: &Address) -> IpAddr {
    match address {
        Address::V4(addr) => IpAddr::V4((*addr).into()),
        Address::V6 { high, low } => IpAddr::V6((u128::from(*high) << 64 | u128::from(*low)).into()),
    }
}

/// What is listed, of both families. Exempt networks are in it, and are cut out.
const LISTED: [&str; 9] = [
    "198.51.100.0/24",
    "198.18.0.0/15",
    "203.0.113.16/29",
    "203.0.113.77/32",
    "203.0.114.0/25",
    "10.0.0.0/8",
    "2001:db8:1::/48",
    "2001:db8:2:3::/64",
    "2001:db8::/62",
];

/// Networks that are banned until then. An exempt network lies in the third, and a part of the first is over.
const NETWORKS: [(&str, u64); 6] = [
    ("203.0.112.0/22", u64::MAX),
    ("203.0.115.0/24", 1),
    ("10.0.0.0/8", u64::MAX),
    ("2001:db8:0:2::/63", u64::MAX),
    ("2001:db8:4000::/34", u64::MAX),
    ("2001:db9::/32", 1),
];

/// Of both families: nothing against it, banned, ban over, at the ceiling, below it, banned but exempt, full but exempt, too
/// many in a minute, not too many; and listed ones with what lies beside them, IPv4 behind NAT64, and what is no source.
const SOURCES: [&str; 43] = [
    "192.0.2.1",
    "192.0.2.2",
    "192.0.2.3",
    "192.0.2.4",
    "192.0.2.5",
    "10.0.0.2",
    "10.0.0.4",
    "192.0.2.8",
    "192.0.2.9",
    "2001:db8:0:11::1",
    "2001:db8:0:12::1",
    "2001:db8:0:13::1",
    "2001:db8:0:14::1",
    "2001:db8:0:16::1",
    "2001:db8:0:15::2",
    "2001:db8:0:15::4",
    "2001:db8:0:18::4",
    "2001:db8:0:19::4",
    "198.51.100.7",
    "198.19.255.255",
    "203.0.113.17",
    "203.0.113.24",
    "203.0.113.77",
    "203.0.114.127",
    "203.0.114.128",
    "2001:db8:1:ffff::1",
    "2001:db8:2:3::1",
    "2001:db8:2:4::1",
    "2001:db8:0:3::1",
    "2001:db8:0:4::1",
    "2001:db8:0:5::1",
    "64:ff9b::192.0.2.2",
    "64:ff9b::198.51.100.7",
    "64:ff9b::192.0.2.9",
    "ff04:0:c000:202::1",
    "255.255.255.255",
    "203.0.112.1",
    "203.0.115.1",
    "203.0.116.1",
    "10.9.9.9",
    "2001:db8:4000::1",
    "2001:db8:8000::1",
    "2001:db9::1",
];
/// Those that something of their own is known of.
const KNOWN: usize = 18;

/// Fills the maps and the model with the same.
fn fill(world: &World) -> Model {
    let mut model = Model {
        ipv6_mask: world.config.limits.ipv6_prefix.mask(),
        listed: LISTED.iter().map(|net| net.parse().unwrap()).collect(),
        bans: HashMap::new(),
        networks: Vec::new(),
        exempt: world.config.untouchable(),
        connections: HashMap::new(),
    };
    lists::replace(&world.plane, model.listed.iter().map(|net| Entry { net: *net, list: 0 })).unwrap();
    let mut ban = |source, until_ns| {
        world.plane.ban(source, Instant::from_ns(until_ns), Reason::Harvest).unwrap();
        model.bans.insert(source, Ban { until_ns, reason: Reason::Harvest as u32, spares: 0 });
    };
    let networks = NETWORKS.map(|(net, until_ns)| {
        let who = net.parse().unwrap();
        let net = Key::of(who, world.config.limits.ipv6_prefix).unwrap().network().unwrap();
        (net, Ban { until_ns, reason: Reason::Operator as u32, spares: 0 })
    });
    let bans = networks.map(|(net, ban)| (net, Instant::from_ns(ban.until_ns), Reason::Operator));
    assert_eq!(world.plane.ban_networks(&bans).unwrap(), []);
    model.networks = networks.to_vec();
    let mut connections = |source, count, full_ns| {
        world.set_connections(source, count, full_ns);
        model.connections.insert(source, Connections { count, full_ns });
    };
    let now = crate::clock::now().as_ns();
    for (index, text) in SOURCES[..KNOWN].iter().enumerate() {
        let source = world.source(text.parse().unwrap());
        match index % 9 {
            1 | 5 => ban(source, u64::MAX),
            2 => ban(source, 1),
            3 | 6 => connections(source, u64::from(CEILING), 1),
            4 => connections(source, u64::from(CEILING) - 1, 1),
            7 => connections(source, 0, u64::MAX),
            8 => connections(source, 1, now),
            _ => {}
        }
    }
    model
}

/// A packet to be built. Its lengths are true.
#[derive(Clone, Debug)]
struct Build {
    source: IpAddr,
    vlans: Vec<u16>,
    /// Words of options in the IPv4 header.
    options: usize,
    /// Extension headers of IPv6: number, and how much longer than the shortest.
    extensions: Vec<(u8, u8)>,
    fragment: u16,
    protocol: u8,
    port: u16,
    flags: u8,
    /// Bytes behind the TCP header.
    data: usize,
    /// Bytes behind the packet.
    padding: usize,
}

impl Build {
    fn bytes(&self) -> Vec<u8> {
        let mut packet = vec![2; 12];
        for tag in &self.vlans {
            packet.extend(tag.to_be_bytes());
            packet.extend([0, 1]);
        }
        let tcp = 20 + self.data;
        match self.source {
            IpAddr::V4(source) => {
                let header = 20 + self.options * 4;
                packet.extend([0x08, 0, 0x40 + (header / 4) as u8, 0]);
                packet.extend(((header + tcp) as u16).to_be_bytes());
                packet.extend([0, 0]);
                packet.extend(self.fragment.to_be_bytes());
                packet.extend([64, self.protocol, 0, 0]);
                packet.extend(source.octets());
                packet.extend([10, 0, 0, 1]);
                packet.extend([1].repeat(self.options * 4));
            }
            IpAddr::V6(source) => {
                let next = |n: usize| self.extensions.get(n).map_or(self.protocol, |(next, _)| *next);
                let mut chain = Vec::new();
                for (n, (kind, more)) in self.extensions.iter().enumerate() {
                    let words = match kind {
                        44 => 1,
                        51 => usize::from(more % 4) + 1,
                        _ => usize::from(more % 4) + 1,
                    };
                    let length = if *kind == 51 { words * 2 - 2 } else { words - 1 };
                    chain.extend([next(n + 1), length as u8]);
                    chain.extend(if *kind == 44 { self.fragment.to_be_bytes() } else { [0, 0] });
                    chain.extend(vec![0; words * 8 - 4]);
                }
                packet.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
                packet.extend(((chain.len() + tcp) as u16).to_be_bytes());
                packet.extend([next(0), 64]);
                packet.extend(source.octets());
                packet.extend([0xfd; 16]);
                packet.extend(chain);
            }
        }
        packet.extend([0x9c, 0x40]);
        packet.extend(self.port.to_be_bytes());
        packet.extend([0, 0, 0, 0, 0, 0, 0, 0, 0x50, self.flags, 0, 0, 0, 0, 0, 0]);
        packet.extend(vec![0xaa; self.data + self.padding]);
        packet
    }
}

fn builds() -> impl Strategy<Value = Build> {
    let source = prop_oneof![
        6 => prop::sample::select(&SOURCES[..]).prop_map(|text| text.parse().unwrap()),
        1 => any::<u32>().prop_map(|bits| IpAddr::V4(bits.into())),
        1 => any::<u128>().prop_map(|bits| IpAddr::V6(bits.into())),
    ];
    let headers = (
        prop_oneof![3 => 0usize..4, 1 => 0usize..40]
            .prop_flat_map(|tags| prop::collection::vec(prop::sample::select(vec![0x8100u16, 0x88a8, 0x8100]), tags)),
        prop_oneof![3 => Just(0usize), 2 => 0usize..11],
        prop::collection::vec((prop::sample::select(vec![0u8, 43, 44, 51, 60, 59]), 0u8..4), 0..8),
        prop_oneof![6 => Just(0u16), 1 => Just(0x2000), 1 => Just(1), 1 => any::<u16>()],
        prop_oneof![9 => Just(6u8), 1 => any::<u8>()],
    );
    let tcp = (
        prop_oneof![9 => Just(PORT), 1 => any::<u16>()],
        prop_oneof![3 => Just(0x02u8), 1 => Just(0xc2), 2 => Just(0x12), 2 => any::<u8>()],
        prop_oneof![3 => 0usize..64, 1 => 64usize..1400],
        0usize..8,
    );
    (source, headers, tcp).prop_map(
        |(source, (vlans, options, extensions, fragment, protocol), (port, flags, data, padding))| Build {
            source,
            vlans,
            options,
            extensions,
            fragment,
            protocol,
            port,
            flags,
            data,
            padding,
        },
    )
}

/// Bytes that are changed, and where the packet is cut off.
fn mutations() -> impl Strategy<Value = (Vec<(usize, u8)>, usize)> {
    let at = prop_oneof![4 => 12usize..90, 1 => 0usize..200];
    let changes = prop_oneof![
        2 => Just(Vec::new()),
        3 => prop::collection::vec((at, any::<u8>()), 1..4),
    ];
    (changes, prop_oneof![3 => Just(usize::MAX), 1 => 14usize..160])
}

/// The kernel's side: the program, and what its counters should be by now.
struct Kernel<'w> {
    program: &'w mut Xdp,
    counters: PerCpuArray<MapData, u64>,
    counted: HashMap<u32, u64>,
}

impl Kernel<'_> {
    fn check(&mut self, packet: &[u8], verdict: Verdict) -> Result<(), TestCaseError> {
        const XDP_DROP: u32 = 1;
        const XDP_PASS: u32 = 2;
        let (action, counted) = match verdict {
            Verdict::Ignore => (XDP_PASS, None),
            Verdict::Pass(reason, family) => (XDP_PASS, Some((reason, family))),
            Verdict::Drop(reason, family) => (XDP_DROP, Some((reason, family))),
        };
        let result = self.program.test_run(TestRunOptions { data_in: Some(packet), ..TestRunOptions::new() }).unwrap();
        prop_assert_eq!(result.return_value, action, "{:?} {:02x?}", verdict, packet);
        // Were another one counted, that one would be too high when its own turn comes.
        if let Some((reason, family)) = counted {
            let index = reason as u32 * 2 + family as u32;
            let count = self.counted.entry(index).or_default();
            *count += 1;
            let found: u64 = self.counters.get(&index, 0).unwrap().iter().sum();
            prop_assert_eq!(found, *count, "{:?} {:02x?}", verdict, packet);
        }
        Ok(())
    }
}

#[test]
#[ignore = "needs root and BPF"]
fn host_and_kernel_judge_alike() {
    let mut world = World::new("verdicts");
    let model = fill(&world);
    let counters = maps::open(&Pins::new(&world.directory), "COUNTERS").unwrap().try_into().unwrap();
    let program = load::xdp(&mut world.object).unwrap();
    let kernel = RefCell::new(Kernel { program, counters, counted: HashMap::new() });
    let seen = RefCell::new(HashSet::new());
    let config = ProptestConfig { cases: PACKETS, failure_persistence: None, ..Default::default() };
    let outcome = TestRunner::new(config).run(&(builds(), mutations()), |(build, (changes, cut))| {
        let mut bytes = build.bytes();
        for (at, byte) in changes {
            if let Some(place) = bytes.get_mut(at) {
                *place = byte;
            }
        }
        bytes.truncate(cut);
        let verdict = decide(&parse(&&bytes[..], |port| port == PORT), &model);
        seen.borrow_mut().insert(verdict);
        kernel.borrow_mut().check(&bytes, verdict)
    });
    outcome.unwrap();
    let (seen, pass, drop) = (seen.into_inner(), Verdict::Pass, Verdict::Drop);
    for family in Family::ALL {
        for verdict in [
            Verdict::Ignore,
            pass(Reason::Clean, family),
            pass(Reason::Exempt, family),
            drop(Reason::Malformed, family),
            drop(Reason::Listed, family),
            drop(Reason::Connections, family),
            drop(Reason::ConnectionRate, family),
            drop(Reason::Harvest, family),
            drop(Reason::Operator, family),
        ] {
            assert!(seen.contains(&verdict), "{verdict:?} was never met");
        }
    }
}
