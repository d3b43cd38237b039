//! Packets on the host: what they are parsed to, and what becomes of them. The kernel runs the same code.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;
use smtp_guard_ebpf::abi::{Ban, Connections, Family, Source, established, no_source};
use smtp_guard_ebpf::decide::{Findings, Verdict, decide};
use smtp_guard_ebpf::parse::{Address, Packet, Segment, parse};
use smtp_guard_ebpf::rate::Bucket;
use smtp_guard_ebpf::reason::Reason;

const SYN: u8 = 0x02;
const ACK: u8 = 0x10;

/// A packet to be built.
#[derive(Clone)]
struct Build {
    vlans: Vec<u16>,
    source: IpAddr,
    port: u16,
    flags: u8,
    options: usize,
    extensions: Vec<(u8, Vec<u8>)>,
    fragment: u16,
    protocol: u8,
}

fn from(source: &str) -> Build {
    Build {
        vlans: Vec::new(),
        source: source.parse().unwrap(),
        port: 25,
        flags: SYN,
        options: 0,
        extensions: Vec::new(),
        fragment: 0,
        protocol: 6,
    }
}

impl Build {
    fn bytes(&self) -> Vec<u8> {
        let mut packet = vec![0; 12];
        for tag in &self.vlans {
            packet.extend(tag.to_be_bytes());
            packet.extend([0, 1]);
        }
        let mut tcp = vec![0; 20];
        tcp[0..2].copy_from_slice(&40_000u16.to_be_bytes());
        tcp[2..4].copy_from_slice(&self.port.to_be_bytes());
        tcp[12] = 5 << 4;
        tcp[13] = self.flags;
        match self.source {
            IpAddr::V4(source) => {
                packet.extend([0x08, 0x00]);
                let header = 20 + self.options;
                packet.push(0x40 | (header / 4) as u8);
                packet.push(0);
                packet.extend(((header + tcp.len()) as u16).to_be_bytes());
                packet.extend([0, 0]);
                packet.extend(self.fragment.to_be_bytes());
                packet.extend([64, self.protocol, 0, 0]);
                packet.extend(source.octets());
                packet.extend(Ipv4Addr::LOCALHOST.octets());
                packet.extend(vec![1; self.options]);
            }
            IpAddr::V6(source) => {
                let payload: usize = self.extensions.iter().map(|(_, data)| data.len() + 1).sum();
                packet.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
                packet.extend(((payload + tcp.len()) as u16).to_be_bytes());
                packet.push(self.extensions.first().map_or(self.protocol, |(next, _)| *next));
                packet.push(64);
                packet.extend(source.octets());
                packet.extend(Ipv6Addr::LOCALHOST.octets());
                for (index, (_, data)) in self.extensions.iter().enumerate() {
                    packet.push(self.extensions.get(index + 1).map_or(self.protocol, |(next, _)| *next));
                    packet.extend(data);
                }
            }
        }
        packet.extend(tcp);
        packet
    }
}

fn segment(source: &str, port: u16, opens: bool) -> Packet {
    let source = match source.parse().unwrap() {
        IpAddr::V4(v4) => Address::V4(v4.to_bits()),
        IpAddr::V6(v6) => Address::V6 { high: (v6.to_bits() >> 64) as u64, low: v6.to_bits() as u64 },
    };
    Packet::Tcp(Segment { source, port, opens })
}

fn guarded(port: u16) -> bool {
    matches!(port, 25 | 587)
}

fn check(name: &str, packet: &[u8], expected: Packet) {
    assert_eq!(parse(&packet, guarded), expected, "{name}");
}

#[test]
fn packets_are_parsed() {
    const MALFORMED_V4: Packet = Packet::Malformed(Family::V4);
    const MALFORMED_V6: Packet = Packet::Malformed(Family::V6);
    let v4 = from("192.0.2.1");
    let v6 = from("2001:db8::1");
    let hop = (0u8, vec![0; 7]);
    let fragment =
        |offset_and_more: u16| (44u8, [vec![0], offset_and_more.to_be_bytes().to_vec(), vec![0; 4]].concat());
    let syn4 = segment("192.0.2.1", 25, true);
    let syn6 = segment("2001:db8::1", 25, true);
    let table = [
        ("IPv4", v4.clone(), syn4),
        ("IPv4 with options", Build { options: 40, ..v4.clone() }, syn4),
        ("one VLAN tag", Build { vlans: vec![0x8100], ..v4.clone() }, syn4),
        ("two VLAN tags", Build { vlans: vec![0x88a8, 0x8100], ..v4.clone() }, syn4),
        ("UDP", Build { protocol: 17, ..v4.clone() }, Packet::Other),
        ("SYN-ACK", Build { flags: SYN | ACK, ..v4.clone() }, segment("192.0.2.1", 25, false)),
        ("SYN with ECN", Build { flags: SYN | 0xc0, ..v4.clone() }, syn4),
        ("ACK", Build { flags: ACK, port: 587, ..v4.clone() }, segment("192.0.2.1", 587, false)),
        ("another port", Build { port: 80, ..v4.clone() }, Packet::Other),
        ("IPv6, another port", Build { port: 80, ..v6.clone() }, Packet::Other),
        ("first fragment", Build { fragment: 0x2000, ..v4.clone() }, syn4),
        ("a fragment over the flags", Build { fragment: 1, ..v4.clone() }, MALFORMED_V4),
        ("a later fragment", Build { fragment: 100, ..v4.clone() }, Packet::Other),
        ("IPv6", v6.clone(), syn6),
        ("IPv6, two extension headers", Build { extensions: vec![hop.clone(), hop.clone()], ..v6.clone() }, syn6),
        ("IPv6, six extension headers", Build { extensions: vec![hop.clone(); 6], ..v6.clone() }, syn6),
        ("IPv6, too many extension headers", Build { extensions: vec![hop.clone(); 7], ..v6.clone() }, MALFORMED_V6),
        ("IPv6, first fragment", Build { extensions: vec![fragment(1)], ..v6.clone() }, syn6),
        ("IPv6, later fragment", Build { extensions: vec![fragment(8)], ..v6.clone() }, Packet::Other),
        ("ICMPv6", Build { protocol: 58, ..v6.clone() }, Packet::Other),
    ];
    for (name, build, expected) in table {
        check(name, &build.bytes(), expected);
    }
    for length in 0..14 {
        check("a runt", &v4.bytes()[..length], Packet::Other);
    }
    for length in 14..54 {
        check("IPv4 cut short", &v4.bytes()[..length], MALFORMED_V4);
    }
    for length in 14..74 {
        check("IPv6 cut short", &v6.bytes()[..length], MALFORMED_V6);
    }
    let padded = [v4.bytes(), vec![0; 6]].concat();
    check("padding behind the end", &padded, syn4);
    // Bytes that are changed, and what comes of it.
    for (name, build, changes, expected) in [
        ("header length below 20", &v4, &[(14, 0x44)][..], MALFORMED_V4),
        ("header length beyond the packet", &v4, &[(14, 0x4f)], MALFORMED_V4),
        ("version 5", &v4, &[(14, 0x55)], MALFORMED_V4),
        ("total length beyond the packet", &v4, &[(17, 41)], MALFORMED_V4),
        ("total length without TCP's header", &v4, &[(17, 39)], MALFORMED_V4),
        ("total length below the IP header", &v4, &[(17, 10)], MALFORMED_V4),
        ("a packet above 64 KiB has total length 0", &v4, &[(16, 0), (17, 0)], syn4),
        ("TCP header length below 20", &v4, &[(46, 0x40)], MALFORMED_V4),
        ("TCP header length beyond the packet", &v4, &[(46, 0x60)], MALFORMED_V4),
        ("another port, total length beyond the packet", &v4, &[(17, 41), (37, 26)], Packet::Other),
        ("payload length beyond the packet", &v6, &[(19, 21)], MALFORMED_V6),
        ("payload length without TCP's header", &v6, &[(19, 19)], MALFORMED_V6),
        ("payload length 0 of a jumbogram", &v6, &[(19, 0)], syn6),
        ("IPv6, TCP header length below 20", &v6, &[(66, 0x40)], MALFORMED_V6),
    ] {
        let mut bytes = build.bytes();
        for (at, byte) in changes {
            bytes[*at] = *byte;
        }
        check(name, &bytes, expected);
    }
}

#[test]
fn f2_what_is_behind_any_vlan_tags_is_judged() {
    for source in ["192.0.2.1", "2001:db8::1"] {
        let behind = |vlans: &[u16]| Build { vlans: vlans.to_vec(), ..from(source) }.bytes();
        let syn = segment(source, 25, true);
        for count in 0..=32 {
            for tag in [0x8100, 0x88a8] {
                check(&format!("{count} tags {tag:x}"), &behind(&vec![tag; count]), syn);
            }
        }
        check("802.1ad over two 802.1Q", &behind(&[0x88a8, 0x8100, 0x8100]), syn);
        check(
            "another port behind three tags",
            &Build { vlans: vec![0x8100; 3], port: 80, ..from(source) }.bytes(),
            Packet::Other,
        );
        check(
            "UDP behind three tags",
            &Build { vlans: vec![0x8100; 3], protocol: 17, ..from(source) }.bytes(),
            Packet::Other,
        );
        // Not a tag for the stack, which passes it to nobody.
        check("an old double tag", &behind(&[0x9100]), Packet::Other);
        // The stack would look behind these, and what we can't see must not get there.
        check("33 tags", &behind(&[0x8100; 33]), Packet::Malformed(Family::V4));
        let cut = &behind(&[0x8100; 3])[..24];
        check("the end among the tags", cut, Packet::Other);
    }
}

#[test]
fn f3_nobody_sends_from_a_multicast_address() {
    const MALFORMED_V4: Packet = Packet::Malformed(Family::V4);
    const MALFORMED_V6: Packet = Packet::Malformed(Family::V6);
    for (source, expected) in [
        ("0.0.0.0", MALFORMED_V4),
        ("255.255.255.255", MALFORMED_V4),
        ("224.0.0.1", MALFORMED_V4),
        ("239.255.255.255", MALFORMED_V4),
        ("::", MALFORMED_V6),
        ("ff04:0:c000:201::1", MALFORMED_V6),
        ("ff02::1", MALFORMED_V6),
        ("64:ff9b::224.0.0.1", MALFORMED_V4),
        // Of the same kinds' neighbourhood.
        ("0.0.0.1", segment("0.0.0.1", 25, true)),
        ("223.255.255.255", segment("223.255.255.255", 25, true)),
        ("240.0.0.0", segment("240.0.0.0", 25, true)),
        ("255.255.255.254", segment("255.255.255.254", 25, true)),
        ("::1", segment("::1", 25, true)),
        ("fe80::1", segment("fe80::1", 25, true)),
    ] {
        check(source, &from(source).bytes(), expected);
        // What isn't for us is the stack's.
        for other in [Build { port: 80, ..from(source) }, Build { protocol: 17, ..from(source) }] {
            check(source, &other.bytes(), Packet::Other);
        }
    }
}

#[test]
fn an_ipv4_host_behind_nat64_is_that_host() {
    for (source, stands_for) in [
        ("64:ff9b::192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        // Other prefixes are somebody's own.
        ("64:ff9b::1:c000:201", "64:ff9b::1:c000:201"),
        ("64:ff9b:1::192.0.2.1", "64:ff9b:1::192.0.2.1"),
        ("::192.0.2.1", "::192.0.2.1"),
    ] {
        check(source, &from(source).bytes(), segment(stands_for, 25, true));
        let [source, stands_for] = [source, stands_for].map(|ip| Source::of(ip.parse().unwrap(), u64::MAX));
        assert_eq!(source, stands_for);
    }
}

/// The maps, on the host.
#[derive(Clone, Default)]
struct Maps {
    listed: Option<u32>,
    bans: HashMap<Source, Ban>,
    network: Option<Ban>,
    exempt: Vec<Address>,
    exempt_version: u32,
    connections: HashMap<Source, Connections>,
    ceiling: u32,
    /// In a minute of 600 ns.
    rate: u32,
    now_ns: u64,
}

impl Findings for Maps {
    fn source(&self, address: &Address) -> Source {
        address.source(u64::MAX)
    }
    fn listed(&self, _address: &Address) -> Option<u32> {
        self.listed
    }
    fn ban(&self, source: Source) -> Option<Ban> {
        self.bans.get(&source).copied()
    }
    fn network_ban(&self, _source: Source) -> Option<Ban> {
        self.network
    }
    fn exempt_version(&self) -> u32 {
        self.exempt_version
    }
    fn exempt(&self, address: &Address) -> bool {
        self.exempt.contains(address)
    }
    fn connections(&self, source: Source) -> Option<Connections> {
        self.connections.get(&source).copied()
    }
    fn ceiling(&self) -> u32 {
        self.ceiling
    }
    fn bucket(&self) -> Bucket {
        Bucket::new(self.rate, 600)
    }
    fn now_ns(&self) -> u64 {
        self.now_ns
    }
}

#[test]
fn verdicts_in_their_order() {
    let address = Address::V4(Ipv4Addr::new(192, 0, 2, 1).to_bits());
    let source = address.source(u64::MAX);
    let ban = Ban { until_ns: 100, reason: Reason::Harvest as u32, spares: 7 };
    let banned = || Maps { bans: [(source, ban)].into(), ..Maps::default() };
    let network = Ban { until_ns: 200, reason: Reason::Operator as u32, spares: 7 };
    let within = || Maps { network: Some(network), ..Maps::default() };
    let has = |count, full_ns| [(source, Connections { count, full_ns })].into();
    let full = || Maps { connections: has(3, 0), ceiling: 3, ..Maps::default() };
    let fast = || Maps { connections: has(0, 1000), rate: 6, now_ns: 499, ..Maps::default() };
    let listed = || Maps { listed: Some(7), ..Maps::default() };
    let exempt = |maps: Maps| Maps { exempt: vec![address], ..maps };
    let version = |exempt_version, maps: Maps| Maps { exempt_version, ..maps };
    let syn = segment("192.0.2.1", 25, true);
    let ack = segment("192.0.2.1", 25, false);
    let pass = |reason| Verdict::Pass(reason, Family::V4);
    let drop = |reason| Verdict::Drop(reason, Family::V4);
    let table = [
        ("not ours", Packet::Other, banned(), Verdict::Ignore),
        ("malformed", Packet::Malformed(Family::V4), Maps::default(), drop(Reason::Malformed)),
        ("nothing against it", syn, Maps::default(), pass(Reason::Clean)),
        ("listed", ack, listed(), drop(Reason::Listed)),
        ("listed, but exempt", ack, exempt(listed()), pass(Reason::Exempt)),
        ("listed, and checked against an older exempt list", ack, exempt(version(8, listed())), pass(Reason::Exempt)),
        ("listed, and checked against this exempt list", ack, exempt(version(7, listed())), drop(Reason::Listed)),
        ("listed without a check", ack, exempt(Maps { listed: Some(0), ..Maps::default() }), pass(Reason::Exempt)),
        ("listed and banned", ack, Maps { bans: banned().bans, ..listed() }, drop(Reason::Listed)),
        ("banned", ack, banned(), drop(Reason::Harvest)),
        ("ban over", ack, Maps { now_ns: 100, ..banned() }, pass(Reason::Clean)),
        ("banned, but exempt", ack, exempt(banned()), pass(Reason::Exempt)),
        ("banned, and checked against this exempt list", ack, exempt(version(7, banned())), drop(Reason::Harvest)),
        ("in a banned network", ack, within(), drop(Reason::Operator)),
        ("in a banned network, whose ban is over", ack, Maps { now_ns: 200, ..within() }, pass(Reason::Clean)),
        ("banned in a banned network", ack, Maps { bans: banned().bans, ..within() }, drop(Reason::Harvest)),
        (
            "own ban over in a banned network",
            ack,
            Maps { bans: banned().bans, now_ns: 100, ..within() },
            drop(Reason::Operator),
        ),
        ("in a banned network, but exempt", ack, exempt(within()), pass(Reason::Exempt)),
        ("in a banned network, and checked", ack, exempt(version(7, within())), drop(Reason::Operator)),
        (
            "in a banned network and at the ceiling",
            syn,
            Maps { network: Some(network), ..full() },
            drop(Reason::Operator),
        ),
        ("at the ceiling", syn, full(), drop(Reason::Connections)),
        ("at the ceiling, but not a new one", ack, full(), pass(Reason::Clean)),
        ("below the ceiling", syn, Maps { ceiling: 4, ..full() }, pass(Reason::Clean)),
        ("no ceiling", syn, Maps { ceiling: 0, ..full() }, pass(Reason::Clean)),
        ("at the ceiling, but exempt", syn, exempt(full()), pass(Reason::Exempt)),
        ("banned and at the ceiling", syn, Maps { bans: banned().bans, ..full() }, drop(Reason::Harvest)),
        ("too many in a minute", syn, fast(), drop(Reason::ConnectionRate)),
        ("too many in a minute, but not a new one", ack, fast(), pass(Reason::Clean)),
        ("one became free", syn, Maps { now_ns: 500, ..fast() }, pass(Reason::Clean)),
        ("no rate", syn, Maps { rate: 0, ..fast() }, pass(Reason::Clean)),
        ("too many in a minute, but exempt", syn, exempt(fast()), pass(Reason::Exempt)),
    ];
    for (name, packet, maps, verdict) in table {
        assert_eq!(decide(&packet, &maps), verdict, "{name}");
    }
}

#[test]
fn a_bucket_lets_through_what_it_holds_and_fills_again() {
    const MINUTE: u64 = 60_000_000_000;
    for (count, window) in [(1, MINUTE), (7, MINUTE), (60, MINUTE), (1000, MINUTE), (3, 1)] {
        let bucket = Bucket::new(count, window);
        let (mut full, mut passed) = (0, 0u64);
        // One connection tried each interval's tenth, for three windows.
        let step = (bucket.interval_ns / 10).max(1);
        let mut now = 1_000_000;
        let end = now + window * 3;
        let mut first = 0;
        while now < end {
            if !bucket.is_empty(full, now) {
                full = bucket.charge(full, now);
                passed += 1;
            } else if first == 0 {
                first = passed;
            }
            now += step;
        }
        assert!(passed <= u64::from(count) * 4, "{count}: {passed}");
        if window == MINUTE {
            assert!((u64::from(count)..=u64::from(count) * 10 / 9 + 1).contains(&first), "{count}: {first} at once");
            assert!(passed + 1 >= u64::from(count) * 4 - u64::from(count) / 9, "{count}: {passed}");
        }
        // However often it is charged while it is empty, one becomes free after one interval.
        for _ in 0..1000 {
            full = bucket.charge(full, now);
        }
        assert!(bucket.is_empty(full, now) && !bucket.is_empty(full, now + bucket.interval_ns), "{count}");
    }
    let none = Bucket::new(0, MINUTE);
    assert!(!none.is_empty(u64::MAX, 0));
}

#[test]
fn sources_and_bans_survive_the_map() {
    for (address, text) in
        [("192.0.2.1", "192.0.2.1"), ("2001:db8:1:2:3::4", "2001:db8:1:2::"), ("::ffff:192.0.2.1", "192.0.2.1")]
    {
        let source = Source::of(address.parse().unwrap(), u64::MAX);
        assert_eq!(source.network(), text.parse::<IpAddr>().unwrap());
    }
    for (value, connections) in [(0, 0), (1, 1), (u64::MAX, 0), (u64::MAX - 5, 0)] {
        assert_eq!(established(value), connections);
    }
    let ban = Ban { until_ns: 0x0102_0304_0506_0708, reason: 10, spares: 3 };
    assert_eq!(Ban::from_bytes(ban.to_bytes()), ban);
    for reason in Reason::ALL {
        assert_eq!(Reason::from_number(*reason as u32), Some(*reason));
        assert_eq!(Reason::from_label(reason.label()), Some(*reason));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20_000, failure_persistence: None, ..ProptestConfig::default() })]

    /// Both planes have one notion of what is no source, and of whose key an address has.
    #[test]
    fn both_planes_know_the_same_sources(
        bits in any::<u128>(), v4 in any::<u32>(),
        prefix in prop::sample::select(vec![0, 0xffff << 32, 0x0064_ff9b << 96, 0xff04 << 112, 0x2001_0db8 << 96]),
    ) {
        for bits in [bits, prefix | u128::from(v4), prefix | bits >> 16] {
            let ip = Ipv6Addr::from_bits(bits);
            let address = Address::v6((bits >> 64) as u64, bits as u64);
            prop_assert_eq!(address.is_source(), no_source(ip.into()).is_none(), "{}", ip);
            if address.is_source() {
                prop_assert_eq!(address.source(u64::MAX << 16), Source::of(ip.into(), u64::MAX << 16));
            } else if !ip.is_multicast() {
                prop_assert!(Source::of(ip.into(), u64::MAX) != Source::NOBODY);
            }
        }
        let ip = Ipv4Addr::from_bits(v4);
        prop_assert_eq!(Address::V4(v4).is_source(), no_source(ip.into()).is_none());
    }

    /// Mutated packets: nothing panics, what comes out as a segment has its port where the packet says, and a VLAN tag more
    /// changes nothing, which takes plain packets the long way.
    #[test]
    fn any_packet_is_survived(
        v6 in any::<bool>(), vlans in 0usize..4, options in 0usize..11, extensions in prop::collection::vec(prop::sample::select(vec![0u8, 43, 44, 51, 60, 59]), 0..8),
        port in prop_oneof![Just(25u16), Just(443)], fragment in prop_oneof![3 => Just(0u16), 1 => Just(1), 1 => any::<u16>()],
        changes in prop::collection::vec((0usize..140, any::<u8>()), 0..6), cut in 0usize..160,
    ) {
        let build = Build {
            vlans: vec![0x8100; vlans],
            port,
            fragment,
            options: options * 4,
            extensions: extensions.into_iter().map(|next| (next, vec![0; 7])).collect(),
            ..from(if v6 { "2001:db8::1" } else { "192.0.2.1" })
        };
        let mut bytes = build.bytes();
        for (at, byte) in changes {
            if let Some(place) = bytes.get_mut(at) {
                *place = byte;
            }
        }
        bytes.truncate(cut);
        if let Packet::Tcp(segment) = parse(&&bytes[..], |_| true) {
            let port = segment.port.to_be_bytes();
            prop_assert!(bytes.windows(2).any(|pair| pair == port));
            prop_assert!(bytes.len() >= 54);
        }
        let is_tag = |chunk: &&[u8]| matches!(chunk, [0x81, 0, ..] | [0x88, 0xa8, ..]);
        let tags = bytes.get(12..).map(|rest| rest.chunks(4).take_while(is_tag).count());
        // Not one too many.
        if bytes.len() >= 14 && tags < Some(32) {
            let tagged = [&bytes[..12], &[0x81, 0, 0, 1], &bytes[12..]].concat();
            prop_assert_eq!(parse(&&bytes[..], guarded), parse(&&tagged[..], guarded));
        }
    }
}
