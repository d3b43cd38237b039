//! The programs in the kernel, attached to nothing: verdicts, and maps that are walked and swept.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use aya::Ebpf;
use aya::maps::{HashMap, PerCpuHashMap};
use ipnet::IpNet;
use smtp_guard_ebpf::abi::{Connections, EXEMPT_ENTRIES, Source};
use smtp_guard_ebpf::filter::{Bit, KNOWN, WORDS};
use smtp_guard_ebpf::reason::Reason;

use super::bans::KernelBans;
use super::pins::{Pins, XDP};
use super::{EdgeError, KernelPlane, Refreshed, Written, load, maps, sys, unload};
use crate::clock::Instant;
use crate::config::Config;

mod events;
mod near;
mod networks;
mod swap;
mod verdicts;

/// Sources that the maps hold.
const ROOM: u32 = 20_000;

const PORT: u16 = 2525;
const CEILING: u32 = 3;
/// The proxy's; the kernel's is twice that.
const RATE: u32 = 5;

/// Maps and programs of their own, attached to nothing.
struct World {
    object: Ebpf,
    config: Config,
    plane: KernelPlane,
    directory: PathBuf,
    _pinned: Pinned,
}

/// What is pinned in a directory, until the test ends.
struct Pinned(PathBuf);

impl Drop for Pinned {
    fn drop(&mut self) {
        let _ = unload(&self.0);
    }
}

impl World {
    fn new(name: &str) -> Self {
        let directory = PathBuf::from(format!("/sys/fs/bpf/sg-unit-{}-{name}", std::process::id()));
        let mut config = Config::builtin();
        config.listen[0].address.set_port(PORT);
        config.exempt =
            ["10.0.0.0/8", "2001:db8:0:15::/64", "2001:db8:0:2::/63"].iter().map(|net| net.parse().unwrap()).collect();
        config.edge.connections = CEILING;
        config.limits.connections_per_minute = RATE;
        config.edge.max_sources = ROOM;
        // Attached to nothing, but wanted.
        config.edge.interfaces = vec!["lo".to_owned()];
        config.edge.pin_directory = directory.clone();
        let pins = Pins::new(&directory);
        let pinned = Pinned(directory.clone());
        pins.create().unwrap();
        let mut object = load::open_object(&pins, &config).unwrap();
        let program = load::xdp(&mut object).unwrap();
        program.load().unwrap();
        program.pin(pins.program(XDP)).unwrap();
        let plane = KernelPlane::open(&directory).unwrap().unwrap();
        plane.configure(&config).unwrap();
        Self { object, config, plane, directory, _pinned: pinned }
    }

    fn set_connections(&self, source: Source, count: u64, full_ns: u64) {
        let map = maps::open(&Pins::new(&self.directory), "CONNS").unwrap();
        let mut conns: HashMap<_, u64, [u8; 16]> = map.try_into().unwrap();
        conns.insert(source.0, Connections { count, full_ns }.to_bytes(), 0).unwrap();
        // As the counting program does.
        let (Bit { element, word, mask }, map) = (KNOWN.bit(source), self.known());
        let mut words = map.read(element).unwrap();
        words[word] |= mask;
        map.write(&[element], &words).unwrap();
    }

    fn known(&self) -> sys::WordMap<u32> {
        sys::WordMap::open(&Pins::new(&self.directory).map("KNOWN"), WORDS).unwrap()
    }

    fn source(&self, ip: IpAddr) -> Source {
        self.config.limits.ipv6_prefix.source(ip)
    }
}

/// A segment without data from `source` to the guarded port.
fn packet(source: IpAddr) -> Vec<u8> {
    let mut packet = vec![2; 12];
    match source {
        IpAddr::V4(source) => {
            packet.extend([0x08, 0, 0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0]);
            packet.extend(source.octets());
            packet.extend([10, 0, 0, 1]);
        }
        IpAddr::V6(source) => {
            packet.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 20, 6, 64]);
            packet.extend(source.octets());
            packet.extend([0xfd; 16]);
        }
    }
    packet.extend([0x9c, 0x40]);
    packet.extend(PORT.to_be_bytes());
    packet.extend([0, 0, 0, 0, 0, 0, 0, 0, 0x50, 0x10, 0, 0, 0, 0, 0, 0]);
    packet
}

#[test]
#[ignore = "needs root and BPF"]
fn idle_sources_are_swept_and_others_stay() {
    // More than three batches.
    const SOURCES: u32 = 3 * maps::BATCH as u32 + 7;
    let world = World::new("sweep");
    for n in 0..SOURCES {
        world.set_connections(Source::v4(n), u64::from(n % 3 == 0), u64::from(n % 3));
    }
    // Below 0, as a reader may see it for a moment: stands for none, but is not ours to remove.
    world.set_connections(Source::v4(SOURCES), u64::MAX, 0);
    // Its bucket isn't full yet.
    world.set_connections(Source::v4(SOURCES + 1), 0, u64::MAX);
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
    // Few as they are, bits of those that went are left until the filter is made again.
    let known = |n: u32| {
        let Bit { element, word, mask } = KNOWN.bit(Source::v4(n));
        world.known().read(element).unwrap()[word] & mask != 0
    };
    assert!((0..SOURCES + 2).all(known));
    super::sweep::renew(&Pins::new(&world.directory)).unwrap();
    assert!((0..SOURCES + 2).filter(|n| n % 3 == 0 || *n >= SOURCES).all(known));
    let left = (0..SOURCES).filter(|n| n % 3 != 0).filter(|n| known(*n)).count();
    assert!(left < removed / 100, "{left} of {removed} share a bit with one that is there");
}

#[test]
#[ignore = "needs root and BPF"]
fn all_bans_are_read_however_many() {
    let world = World::new("bans");
    let ban = |n: u32| (Source::v4(n), Instant::from_ns(u64::from(n) + 1), Reason::Operator);
    let bans: Vec<_> = (0..ROOM / 2).map(ban).collect();
    let written = |written, displaced| Written { written, displaced };
    assert_eq!(world.plane.ban_all(&bans).unwrap(), written(bans.len(), 0));
    let found = || {
        let mut found = world.plane.bans_in_map().unwrap();
        found.sort_unstable_by_key(|(source, _, _)| *source);
        found
    };
    assert_eq!(found(), bans);
    assert_eq!(world.plane.unban_all(&[Source::v4(17)]).unwrap(), 1);
    assert_eq!(world.plane.unban_all(&[Source::v4(17)]).unwrap(), 0, "twice is no error");
    assert_eq!(found().len(), bans.len() - 1);
    // More than there is room for: those that end soonest go, and only as many as must.
    let more: Vec<_> = (ROOM..ROOM + ROOM / 2 + 11).map(ban).collect();
    assert_eq!(world.plane.ban_all(&more).unwrap(), written(more.len(), 10));
    let kept: Vec<_> =
        (0..ROOM / 2).filter(|n| *n > 9 && *n != 17).chain(ROOM..ROOM + ROOM / 2 + 11).map(ban).collect();
    assert_eq!(found(), kept);
    assert_eq!(world.plane.ban_all(&[ban(u32::MAX)]).unwrap(), written(1, 1));
    let mut left: Vec<_> = found().into_iter().map(|(source, _, _)| source).collect();
    let there = left.len();
    left.push(Source::v4(17));
    assert_eq!(world.plane.unban_all(&left).unwrap(), there, "one of them isn't there");
    assert_eq!(found(), []);
}

/// The kernel would write a value for each CPU, where there is room for one.
#[test]
#[ignore = "needs root and BPF"]
fn e4_a_map_of_another_type_is_refused_before_it_is_read() {
    let world = World::new("types");
    let pins = Pins::new(&world.directory);
    let refused = |name, error: String| assert!(error.contains("map type"), "{name}: {error}");
    fs::remove_file(pins.map("BANS")).unwrap();
    let per_cpu = PerCpuHashMap::<_, u64, [u8; 16]>::create(16, 0).unwrap();
    per_cpu.pin(pins.map("BANS")).unwrap();
    refused("all bans", world.plane.bans_in_map().unwrap_err().to_string());
    refused("one ban", world.plane.ban(Source::v4(1), Instant::NEVER, Reason::Operator).unwrap_err().to_string());
    let open = |name: &str, words| sys::WordMap::<u32>::open(&pins.map(name), words).unwrap_err().to_string();
    // An array per CPU with the same sizes.
    refused("CLOCK", open("CLOCK", 2));
    fs::remove_file(pins.map("BANNED")).unwrap();
    let hash = HashMap::<_, u32, [u8; WORDS * 8]>::create(16, 0).unwrap();
    hash.pin(pins.map("BANNED")).unwrap();
    refused("BANNED", open("BANNED", WORDS));
    let shape = maps::check_shape(&pins, "BANS", ROOM).unwrap_err().to_string();
    assert!(shape.contains("another shape"), "{shape}");
}

/// Another's exempt list may be in force there: what it bans must not be judged by that.
#[test]
#[ignore = "needs root and BPF"]
fn a_plane_that_cannot_be_configured_is_not_used_until_it_can() {
    let world = World::new("configure");
    let plane = KernelPlane::awaited(&world.directory, &EdgeError::NoInterface);
    let refresh = |config| KernelBans::refresh(&plane, config);
    let mut too_many = world.config.clone();
    let nets = (0..=EXEMPT_ENTRIES).map(|n| IpNet::new_assert(Ipv4Addr::from_bits(n << 8).into(), 24));
    too_many.exempt = nets.collect();
    for _ in 0..2 {
        let error = refresh(&too_many).unwrap_err();
        assert_eq!(plane.absence(), Some(error.to_string()));
        let banned = plane.ban(Source::v4(1), Instant::NEVER, Reason::Operator);
        assert!(matches!(banned, Err(EdgeError::NotLoaded { .. })), "{banned:?}");
    }
    assert_eq!([refresh(&world.config).unwrap(), refresh(&too_many).unwrap()], [Refreshed::Anew, Refreshed::Same]);
    assert_eq!(plane.absence(), None);
    plane.ban(Source::v4(1), Instant::NEVER, Reason::Operator).unwrap();
    unload(&world.directory).unwrap();
    assert_eq!(refresh(&world.config).unwrap(), Refreshed::Gone);
    assert!(plane.absence().is_some());
}

#[test]
#[ignore = "needs root and BPF"]
fn counts_without_sockets_are_taken_back() {
    let world = World::new("reconcile");
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let mut config = world.config.clone();
    config.listen[0].address.set_port(listener.local_addr().unwrap().port());
    world.plane.configure(&config).unwrap();
    let held: Vec<_> = (0..3).map(|_| std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap()).collect();
    let (right, wrong, low) = (Source::v4(0x7f00_0001), Source::v4(1), Source::v4(2));
    world.set_connections(right, 5, 77);
    world.set_connections(wrong, 4, 0);
    world.set_connections(low, 0, 0);
    for pass in 1..=5 {
        let mut taken_back = world.plane.reconcile().unwrap();
        taken_back.sort_unstable();
        assert_eq!(taken_back, if pass == 3 { vec![(wrong, 4), (right, 2)] } else { vec![] }, "pass {pass}");
    }
    assert_eq!(world.plane.established().unwrap(), [(right, 3)]);
    drop(held);
}
