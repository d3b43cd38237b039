//! Bytes to [`Packet`]: Ethernet, VLAN tags, IPv4 with options, IPv6 with a bounded chain of extension headers, TCP. Knows
//! no maps.
//!
//! VLAN tags: the stack takes off any number of them, where their VLAN is 0 without any set-up. More than [`VLAN_TAGS`] are
//! malformed, since the stack would look behind them and we don't.
//!
//! Sources: a segment from an address that can't be one (multicast, broadcast, unspecified) is malformed; the stack drops it as
//! well. An IPv6 address that stands for an IPv4 one is that ([`embedded_v4`]).
//!
//! Fragments: the first one carries the ports and the flags, and is judged like a whole packet. Later ones carry neither and
//! pass: without the first the stack can't put them together. A first fragment may be too short to show ports and flags, or a
//! second one may overwrite them (RFC 1858, RFC 7112). Both are malformed: they exist to get past filters.
//!
//! Lengths: a packet that claims more bytes than it has, or fewer than its headers take, is malformed. The stack would drop it
//! as well, but later. Bytes behind its end are padding and no lie. A length of 0 is no lie either: packets above 64 KiB that
//! the driver or the stack has put together have no better (BIG TCP). Only what is for a guarded port is looked at so closely:
//! the rest is the stack's.

use crate::abi::{Family, Source, embedded_v4};
use crate::frame::Frame;

const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;
const ETHERTYPE_VLAN: u16 = 0x8100;
const ETHERTYPE_QINQ: u16 = 0x88a8;
/// Bytes of an Ethernet header.
const ETHERNET: usize = 14;
/// VLAN tags that are looked behind. Networks have one or two.
const VLAN_TAGS: usize = 32;

const PROTOCOL_TCP: u8 = 6;
const NEXT_HOP_BY_HOP: u8 = 0;
const NEXT_ROUTING: u8 = 43;
const NEXT_FRAGMENT: u8 = 44;
const NEXT_AUTH: u8 = 51;
const NEXT_DESTINATION: u8 = 60;
/// Extension headers that are followed. Hosts send one or two; a longer chain is malformed.
const EXTENSION_HEADERS: usize = 6;

const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;

/// A packet, as far as we read it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packet {
    /// Not TCP over IP to a guarded port, or a fragment without the ports.
    Other,
    /// A packet that lies about its lengths, hides its ports, or comes from nobody.
    Malformed(Family),
    Tcp(Segment),
}

/// A TCP segment, as far as it is judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    pub source: Address,
    /// Destination port, host order.
    pub port: u16,
    /// SYN without ACK, FIN and RST: asks for a new connection.
    pub opens: bool,
}

/// The address a packet says it comes from, in host order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Address {
    V4(u32),
    V6 { high: u64, low: u64 },
}

impl Address {
    /// The address whose halves are these.
    #[inline(always)]
    pub const fn v6(high: u64, low: u64) -> Self {
        match embedded_v4(high, low) {
            Some(v4) => Self::V4(v4),
            None => Self::V6 { high, low },
        }
    }

    /// Whether a connection can come from it; [`crate::abi::no_source`] says it in words.
    #[inline(always)]
    pub const fn is_source(&self) -> bool {
        match self {
            Self::V4(addr) => *addr != 0 && *addr != u32::MAX && *addr >> 28 != 0xe,
            // The range of multicast is also where the keys of IPv4 sources live.
            Self::V6 { high, low } => *high >> 56 != 0xff && *high | *low != 0,
        }
    }

    /// Its family.
    #[inline(always)]
    pub const fn family(&self) -> Family {
        match self {
            Self::V4(_) => Family::V4,
            Self::V6 { .. } => Family::V6,
        }
    }

    /// The source of this address: the key of limits and bans.
    #[inline(always)]
    pub fn source(&self, ipv6_mask: u64) -> Source {
        match self {
            Self::V4(addr) => Source::v4(*addr),
            Self::V6 { high, .. } => Source::v6(*high, ipv6_mask),
        }
    }
}

/// Parses the packet from its Ethernet header on, as far as it is for a port that is `guarded`.
#[inline(always)]
pub fn parse(frame: &impl Frame, guarded: impl Fn(u16) -> bool) -> Packet {
    // The case that is nearly all packets, at offsets that are constants, and the port looked up once.
    if let Some(port) = plain_port(frame) {
        return if guarded(port) { ipv4(frame, ETHERNET, |_| true) } else { Packet::Other };
    }
    // What is too short for Ethernet never reaches a TCP socket.
    let Some(mut ethertype) = frame.load_u16(12) else {
        return Packet::Other;
    };
    let mut offset = ETHERNET;
    for _ in 0..VLAN_TAGS {
        if ethertype != ETHERTYPE_VLAN && ethertype != ETHERTYPE_QINQ {
            break;
        }
        let Some(inner) = frame.load_u16(offset + 2) else {
            return Packet::Other;
        };
        ethertype = inner;
        offset += 4;
    }
    // What follows is one path, not one for each number of tags.
    let offset = frame.blurred(offset);
    match ethertype {
        ETHERTYPE_IPV4 => ipv4(frame, offset, guarded),
        ETHERTYPE_IPV6 => ipv6(frame, offset, guarded),
        // Whose family isn't seen.
        ETHERTYPE_VLAN | ETHERTYPE_QINQ => Packet::Malformed(Family::V4),
        _ => Packet::Other,
    }
}

/// The destination port of IPv4 without VLAN tags, options and later fragments. The long way says the same of such a packet,
/// but takes longer where the port isn't guarded (`cargo xtask bench kernel`: 11 ns over an empty program, and 5 to 9 with this).
#[inline(always)]
fn plain_port(frame: &impl Frame) -> Option<u16> {
    const HEADERS: usize = ETHERNET + 20 + TCP_HEADER;
    let header = frame.load::<HEADERS>(0)?;
    let at = |offset: usize| u16::from_be_bytes([header[offset], header[offset + 1]]);
    let port = at(ETHERNET + 20 + 2);
    let is_plain = at(12) == ETHERTYPE_IPV4
        && header[ETHERNET] == 0x45
        && header[ETHERNET + 9] == PROTOCOL_TCP
        && at(ETHERNET + 6) << 3 == 0;
    is_plain.then_some(port)
}

#[inline(always)]
fn ipv4(frame: &impl Frame, offset: usize, guarded: impl Fn(u16) -> bool) -> Packet {
    const MALFORMED: Packet = Packet::Malformed(Family::V4);
    // Whole headers at a time: one check of bounds each, which the verifier can follow.
    let Some(header) = frame.load::<20>(offset) else {
        return MALFORMED;
    };
    let [version_ihl, _, t0, t1, _, _, f0, f1, _, protocol, _, _, a, b, c, d, ..] = header;
    let length = usize::from(version_ihl & 0x0f) * 4;
    if version_ihl >> 4 != 4 || length < 20 {
        return MALFORMED;
    }
    if protocol != PROTOCOL_TCP {
        return Packet::Other;
    }
    match u16::from_be_bytes([f0, f1]) & 0x1fff {
        0 => {}
        // Would overwrite the flags of the first fragment.
        1 => return MALFORMED,
        _ => return Packet::Other,
    }
    let total = usize::from(u16::from_be_bytes([t0, t1]));
    let claim = Claim::of(frame, offset, total);
    tcp(frame, offset + length, claim, Address::V4(u32::from_be_bytes([a, b, c, d])), guarded)
}

#[inline(always)]
fn ipv6(frame: &impl Frame, offset: usize, guarded: impl Fn(u16) -> bool) -> Packet {
    const MALFORMED: Packet = Packet::Malformed(Family::V6);
    let Some(header) = frame.load::<24>(offset) else {
        return MALFORMED;
    };
    let [version, _, _, _, p0, p1, mut next, _, source @ ..] = header;
    if version >> 4 != 6 {
        return MALFORMED;
    }
    let payload = usize::from(u16::from_be_bytes([p0, p1]));
    let begin = offset + 40;
    let mut at = begin;
    for _ in 0..=EXTENSION_HEADERS {
        if next == PROTOCOL_TCP {
            let source = u128::from_be_bytes(source);
            let source = Address::v6((source >> 64) as u64, source as u64);
            return tcp(frame, at, Claim::of(frame, begin, payload), source, guarded);
        }
        if !matches!(next, NEXT_HOP_BY_HOP | NEXT_ROUTING | NEXT_DESTINATION | NEXT_AUTH | NEXT_FRAGMENT) {
            return Packet::Other;
        }
        // The shortest has eight bytes.
        let Some([following, length, f0, f1, ..]) = frame.load::<8>(at) else {
            return MALFORMED;
        };
        if next == NEXT_FRAGMENT {
            if u16::from_be_bytes([f0, f1]) & 0xfff8 != 0 {
                return Packet::Other;
            }
            at += 8;
        } else if next == NEXT_AUTH {
            at += (usize::from(length) + 2) * 4;
        } else {
            at += (usize::from(length) + 1) * 8;
        }
        next = following;
    }
    MALFORMED
}

/// Where the IP header says that the packet ends.
struct Claim {
    /// `usize::MAX`: it doesn't say.
    end: usize,
    /// Whether the packet reaches until there.
    holds: bool,
}

impl Claim {
    /// The segment that ends `length` bytes after `begin`; 0: not told.
    #[inline(always)]
    fn of(frame: &impl Frame, begin: usize, length: usize) -> Self {
        if length == 0 {
            return Self { end: usize::MAX, holds: true };
        }
        Self { end: begin + length, holds: frame.reaches(begin + length) }
    }
}

/// Bytes of a TCP header without options.
const TCP_HEADER: usize = 20;

#[inline(always)]
fn tcp(frame: &impl Frame, offset: usize, claim: Claim, source: Address, guarded: impl Fn(u16) -> bool) -> Packet {
    let Some(header) = frame.load::<TCP_HEADER>(offset) else {
        return Packet::Malformed(source.family());
    };
    let [_, _, p0, p1, _, _, _, _, _, _, _, _, data, flags, ..] = header;
    let port = u16::from_be_bytes([p0, p1]);
    if !guarded(port) {
        return Packet::Other;
    }
    let length = usize::from(data >> 4) * 4;
    if length < TCP_HEADER || offset + length > claim.end || !claim.holds || !source.is_source() {
        return Packet::Malformed(source.family());
    }
    let opens = flags & (SYN | ACK | FIN | RST) == SYN;
    Packet::Tcp(Segment { source, port, opens })
}
