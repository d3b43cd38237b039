//! The programs in the kernel: the same verdicts as on the host, and maps that are walked and swept.

use std::net::IpAddr;
use std::path::PathBuf;

use aya::Ebpf;
use aya::maps::HashMap;
use aya::programs::{TestRun as _, TestRunOptions, Xdp};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use smtp_guard_ebpf::abi::{Ban, Family, Source};
use smtp_guard_ebpf::decide::{Findings, Verdict, decide};
use smtp_guard_ebpf::parse::{Address, parse};
use smtp_guard_ebpf::reason::Reason;

use super::pins::Pins;
use super::{KernelPlane, load, maps, unload};
use crate::clock::Instant;
use crate::config::Config;

const PORT: u16 = 2525;
const CEILING: u32 = 3;

/// Maps and programs of their own, attached to nothing.
struct World {
    object: Ebpf,
    config: Config,
    plane: KernelPlane,
    directory: PathBuf,
}

impl World {
    fn new(name: &str) -> Self {
        let directory = PathBuf::from(format!("/sys/fs/bpf/sg-unit-{}-{name}", std::process::id()));
        let mut config = Config::builtin();
        config.listen[0].address.set_port(PORT);
        config.exempt = ["10.0.0.0/8", "2001:db8:0:5::/64"].iter().map(|net| net.parse().unwrap()).collect();
        config.edge.connections = CEILING;
        config.edge.max_sources = 20_000;
        config.edge.pin_directory = directory.clone();
        let pins = Pins::new(&directory);
        pins.create().unwrap();
        let object = load::open_object(&pins, &config).unwrap();
        maps::configure(&pins, &config).unwrap();
        let plane = KernelPlane::open(&directory).unwrap().unwrap();
        Self { object, config, plane, directory }
    }

    fn set_established(&self, source: Source, count: u64) {
        let map = maps::open(&Pins::new(&self.directory), "CONNS").unwrap();
        let mut conns: HashMap<_, u64, u64> = map.try_into().unwrap();
        conns.insert(source.0, count, 0).unwrap();
    }

    fn source(&self, ip: IpAddr) -> Source {
        self.config.limits.ipv6_prefix.source(ip)
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = unload(&self.directory);
    }
}

/// What the maps hold, on the host.
impl Findings for World {
    fn guarded(&self, port: u16) -> bool {
        port == PORT
    }
    fn source(&self, address: &Address) -> Source {
        address.source(self.config.limits.ipv6_prefix.mask())
    }
    fn ban(&self, source: Source) -> Option<Ban> {
        let found = self.plane.bans_in_map().unwrap().into_iter().find(|(banned, _, _)| *banned == source);
        found.map(|(_, until, reason)| Ban { until_ns: until.as_ns(), reason: reason as u32, _pad: 0 })
    }
    fn exempt(&self, address: &Address) -> bool {
        self.config.exempt.contains(match address {
            Address::V4(addr) => IpAddr::V4((*addr).into()),
            Address::V6(addr) => IpAddr::V6((*addr).into()),
        })
    }
    fn established(&self, source: Source) -> u64 {
        self.plane.established_of(source).unwrap()
    }
    fn ceiling(&self) -> u32 {
        CEILING
    }
    fn now_ns(&self) -> u64 {
        Instant::now().as_ns()
    }
}

/// Each of both families: nothing against it, banned, ban over, at the ceiling, below it, banned but exempt, full but exempt.
const SOURCES: [&str; 14] = [
    "192.0.2.1",
    "192.0.2.2",
    "192.0.2.3",
    "192.0.2.4",
    "192.0.2.5",
    "10.0.0.2",
    "10.0.0.4",
    "2001:db8:0:1::1",
    "2001:db8:0:2::1",
    "2001:db8:0:3::1",
    "2001:db8:0:4::1",
    "2001:db8:0:6::1",
    "2001:db8:0:5::2",
    "2001:db8:0:5::4",
];

fn packet(source: IpAddr, vlans: usize, options: usize, extensions: &[u8], flags: u8, guarded: bool) -> Vec<u8> {
    let mut packet = vec![2; 12];
    packet.extend([0x81, 0, 0, 1].repeat(vlans));
    match source {
        IpAddr::V4(source) => {
            packet.extend([0x08, 0, 0x45 + options as u8, 0, 0, 0, 0, 0, 0, 0, 64, 6, 0, 0]);
            packet.extend(source.octets());
            packet.extend([10, 0, 0, 1]);
            packet.extend([1].repeat(options * 4));
        }
        IpAddr::V6(source) => {
            let next = |n: usize| extensions.get(n).copied().unwrap_or(6);
            packet.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 60, next(0), 64]);
            packet.extend(source.octets());
            packet.extend([0xfd; 16]);
            for n in 1..=extensions.len() {
                packet.extend([next(n), 0, 0, 0, 0, 0, 0, 0]);
            }
        }
    }
    packet.extend([0x9c, 0x40]);
    packet.extend(if guarded { PORT } else { 80 }.to_be_bytes());
    packet.extend([0, 0, 0, 0, 0, 0, 0, 0, 0x50, flags, 0, 0, 0, 0, 0, 0]);
    packet
}

/// The action of `guard_xdp` on `packet`, and what it counted.
fn run(world: &mut World, packet: &[u8]) -> (u32, Vec<(Reason, Family, u64)>) {
    let before = world.plane.counters().unwrap();
    let program: &mut Xdp = world.object.program_mut("guard_xdp").unwrap().try_into().unwrap();
    let result = program.test_run(TestRunOptions { data_in: Some(packet), ..TestRunOptions::new() }).unwrap();
    let old = |what| before.iter().find(|(reason, family, _)| (*reason, *family) == what).map_or(0, |(_, _, n)| *n);
    let after = world.plane.counters().unwrap().into_iter();
    let counted = after.map(|(reason, family, n)| (reason, family, n - old((reason, family))));
    (result.return_value, counted.filter(|(_, _, n)| *n > 0).collect())
}

#[test]
#[ignore = "needs root and BPF"]
fn host_and_kernel_judge_alike() {
    const XDP_DROP: u32 = 1;
    const XDP_PASS: u32 = 2;
    let mut world = World::new("verdicts");
    load::xdp(&mut world.object).unwrap();
    for (index, text) in SOURCES.iter().enumerate() {
        let source = world.source(text.parse().unwrap());
        match index % 7 {
            1 | 5 => world.plane.ban(source, Instant::from_ns(u64::MAX), Reason::Harvest).unwrap(),
            2 => world.plane.ban(source, Instant::from_ns(1), Reason::Harvest).unwrap(),
            3 | 6 => world.set_established(source, u64::from(CEILING)),
            4 => world.set_established(source, u64::from(CEILING) - 1),
            _ => {}
        }
    }
    let packets = (
        prop::sample::select(&SOURCES[..]),
        (0usize..4, 0usize..11, prop::collection::vec(prop::sample::select(vec![0u8, 43, 44, 51, 60, 59]), 0..9)),
        prop_oneof![Just(0x02u8), Just(0xc2), Just(0x12), any::<u8>()],
        prop::bool::weighted(0.9),
        prop::collection::vec((12usize..90, any::<u8>()), 0..3),
        prop_oneof![3 => Just(200usize), 1 => 14usize..140],
    );
    let mut seen = std::collections::HashSet::new();
    let mut runner = TestRunner::new(ProptestConfig { cases: 4000, failure_persistence: None, ..Default::default() });
    let world = std::cell::RefCell::new(&mut world);
    let seen_by = std::cell::RefCell::new(&mut seen);
    let outcome = runner.run(&packets, |(source, (vlans, options, extensions), flags, guarded, changes, cut)| {
        let mut bytes = packet(source.parse().unwrap(), vlans, options, &extensions, flags, guarded);
        for (at, byte) in changes {
            if let Some(place) = bytes.get_mut(at) {
                *place = byte;
            }
        }
        bytes.truncate(cut);
        let mut world = world.borrow_mut();
        let verdict = decide(&parse(&&bytes[..]), &**world);
        seen_by.borrow_mut().insert(match verdict {
            Verdict::Ignore => None,
            Verdict::Pass(reason, family) | Verdict::Drop(reason, family) => Some((reason, family)),
        });
        let expected = match verdict {
            Verdict::Ignore => (XDP_PASS, vec![]),
            Verdict::Pass(reason, family) => (XDP_PASS, vec![(reason, family, 1)]),
            Verdict::Drop(reason, family) => (XDP_DROP, vec![(reason, family, 1)]),
        };
        prop_assert_eq!(run(&mut world, &bytes), expected, "{:02x?}", bytes);
        Ok(())
    });
    outcome.unwrap();
    for reason in [Reason::Clean, Reason::Exempt, Reason::Malformed, Reason::Connections, Reason::Harvest] {
        for family in Family::ALL {
            assert!(seen.contains(&Some((reason, family))), "{reason:?} {family:?} was never met");
        }
    }
}

#[test]
#[ignore = "needs root and BPF"]
fn idle_sources_are_swept_and_others_stay() {
    // More than three batches.
    const SOURCES: u32 = 3 * maps::BATCH as u32 + 7;
    let world = World::new("sweep");
    for n in 0..SOURCES {
        world.set_established(Source::v4(n), u64::from(n % 3 == 0));
    }
    // Below 0, as a reader may see it for a moment: stands for none, but is not ours to remove.
    world.set_established(Source::v4(SOURCES), u64::MAX);
    let kept = SOURCES.div_ceil(3) as usize;
    let mut removed = 0;
    for _ in 0..100 {
        removed += world.plane.sweep_idle().unwrap();
    }
    assert_eq!(removed, SOURCES as usize - kept);
    let mut established = world.plane.established().unwrap();
    established.sort_unstable();
    assert_eq!(established, (0..SOURCES).step_by(3).map(|n| (Source::v4(n), 1)).collect::<Vec<_>>());
    assert_eq!(world.plane.established_of(Source::v4(SOURCES)).unwrap(), 0);
    assert_eq!(world.plane.established_of(Source::v4(1)).unwrap(), 0);
}

#[test]
#[ignore = "needs root and BPF"]
fn all_bans_are_read_however_many() {
    let world = World::new("bans");
    let bans: Vec<_> =
        (0..5000).map(|n| (Source::v4(n), Instant::from_ns(u64::from(n) + 1), Reason::Operator)).collect();
    for (source, until, reason) in &bans {
        world.plane.ban(*source, *until, *reason).unwrap();
    }
    let mut found = world.plane.bans_in_map().unwrap();
    found.sort_unstable_by_key(|(source, _, _)| *source);
    assert_eq!(found, bans);
    assert!(world.plane.unban(Source::v4(17)).unwrap());
    assert!(!world.plane.unban(Source::v4(17)).unwrap(), "twice is no error");
    assert_eq!(world.plane.bans_in_map().unwrap().len(), 4999);
}
