//! Keys and values of the maps, as both planes see them (those of samples: [`crate::event`]). All are `repr(C)` or transparent, with explicit padding.
//!
//! Byte order: every integer is in the host's order; a network-order value is converted where the packet is read.
//! Time: nanoseconds of CLOCK_BOOTTIME (`bpf_ktime_get_boot_ns`), so a ban ends on time although the host slept.

use core::fmt;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::rate::Bucket;

/// Version of everything in this file, and of the layouts in `filter.rs`, `lists.rs` and `near.rs`. It names the pin directory
/// (`v5`), so planes of different versions never meet.
pub const ABI_VERSION: u32 = 5;

/// Words of the map PORTS: one bit for each port.
pub const PORT_WORDS: u32 = 1024;

/// Networks that each of the maps EXEMPT_V4 and EXEMPT_V6 holds.
pub const EXEMPT_ENTRIES: u32 = 4096;

/// Networks that the map NETWORKS holds.
pub const NETWORK_ENTRIES: u32 = 65_536;

/// Key of the map NETWORKS, a trie: the first `length` bits of the [`Source`] `bits`, both families in one.
#[inline(always)]
pub const fn network_key(length: u32, bits: u64) -> [u32; 3] {
    [length, ((bits >> 32) as u32).to_be(), (bits as u32).to_be()]
}

/// The unit that is counted and banned: one IPv4 address, or one IPv6 prefix of at most /64.
///
/// An IPv6 source is the upper 64 bits of its address under the prefix mask. An IPv4 source is `0xff04_0000` above the
/// address: that is the range of IPv6 multicast, which is never a valid source, so the two families can't collide and
/// one map serves both.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Source(pub u64);

impl Source {
    const V4_TAG: u64 = 0xff04_0000_0000_0000;
    const V4_TAG_MASK: u64 = 0xffff_ffff_0000_0000;
    /// The source that no packet has: reserved multicast (ff00::).
    pub const NOBODY: Self = Self(0xff00_0000_0000_0000);

    /// The source of an IPv4 address given in host order.
    pub const fn v4(addr: u32) -> Self {
        Self(Self::V4_TAG | addr as u64)
    }

    /// The source of an IPv6 address: `high` is its upper half in host order, `mask` the prefix mask of the same shape.
    pub const fn v6(high: u64, mask: u64) -> Self {
        Self(high & mask)
    }

    /// The source of `ip`, as its [`canonical`] address has it. All of IPv6 multicast is one source, [`Self::NOBODY`].
    pub fn of(ip: IpAddr, ipv6_mask: u64) -> Self {
        match canonical(ip) {
            IpAddr::V4(v4) => Self::v4(v4.to_bits()),
            // Else it would be the key of an IPv4 source.
            IpAddr::V6(v6) if v6.is_multicast() => Self::NOBODY,
            IpAddr::V6(v6) => Self::v6((v6.to_bits() >> 64) as u64, ipv6_mask),
        }
    }

    /// The family that this source belongs to.
    pub const fn family(self) -> Family {
        if self.0 & Self::V4_TAG_MASK == Self::V4_TAG { Family::V4 } else { Family::V6 }
    }

    /// The address, or the first address of the IPv6 prefix.
    pub const fn network(self) -> IpAddr {
        match self.family() {
            Family::V4 => IpAddr::V4(Ipv4Addr::from_bits(self.0 as u32)),
            Family::V6 => IpAddr::V6(Ipv6Addr::from_bits((self.0 as u128) << 64)),
        }
    }
}

/// The IPv4 address that an IPv6 address in halves stands for: IPv4-mapped (`::ffff:0:0/96`), or behind the well-known prefix of
/// NAT64 (`64:ff9b::/96`, RFC 6052 section 2.1). Behind NAT64 all of IPv4 is one /64: there each IPv4 host is a source of its own.
#[inline(always)]
pub const fn embedded_v4(high: u64, low: u64) -> Option<u32> {
    const NAT64: u64 = 0x0064_ff9b_0000_0000;
    let is_mapped = high == 0 && low >> 32 == 0xffff;
    let is_nat64 = high == NAT64 && low >> 32 == 0;
    if is_mapped || is_nat64 { Some(low as u32) } else { None }
}

/// The address that is counted, banned and looked up for `ip`: the IPv4 address that it stands for, where it does.
pub const fn canonical(ip: IpAddr) -> IpAddr {
    if let IpAddr::V6(v6) = ip
        && let Some(v4) = embedded_v4((v6.to_bits() >> 64) as u64, v6.to_bits() as u64)
    {
        return IpAddr::V4(Ipv4Addr::from_bits(v4));
    }
    ip
}

/// The kind of address that `ip` is, in words, if no connection can come from it; `None`: one can.
///
/// The kernel plane takes a packet from such an address for malformed ([`crate::parse`]), as the stack does.
pub const fn no_source(ip: IpAddr) -> Option<&'static str> {
    match canonical(ip) {
        IpAddr::V4(v4) if v4.is_unspecified() => Some("the unspecified address"),
        IpAddr::V4(v4) if v4.is_broadcast() => Some("the broadcast address"),
        IpAddr::V4(v4) if v4.is_multicast() => Some("a multicast address"),
        IpAddr::V6(v6) if v6.is_unspecified() => Some("the unspecified address"),
        IpAddr::V6(v6) if v6.is_multicast() => Some("a multicast address"),
        IpAddr::V4(_) | IpAddr::V6(_) => None,
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.network(), f)
    }
}

/// The mask of an IPv6 prefix of `length` bits (0 to 64) over the upper half of an address.
pub const fn ipv6_mask(length: u8) -> u64 {
    match length {
        0 => 0,
        1..=63 => u64::MAX << (64 - length as u32),
        _ => u64::MAX,
    }
}

/// Address family, as the second index of the counters.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Family {
    V4 = 0,
    V6 = 1,
}

impl Family {
    /// Both, in the order of their numbers.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// The metric label.
    pub const fn label(self) -> &'static str {
        match self {
            Self::V4 => "ipv4",
            Self::V6 => "ipv6",
        }
    }
}

/// Value of the maps BANS, keyed by [`Source`], and NETWORKS, keyed by [`network_key`].
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ban {
    /// When the ban ends, in ns of CLOCK_BOOTTIME. `u64::MAX` never ends.
    pub until_ns: u64,
    /// [`crate::reason::Reason`] by number.
    pub reason: u32,
    /// Version of the exempt list ([`Settings::exempt_version`]) that holds no address of this source or network; 0: not
    /// known.
    pub spares: u32,
}

impl Ban {
    /// The value as the map holds it.
    pub const fn to_bytes(self) -> [u8; 16] {
        let [a, b, c, d, e, f, g, h] = self.until_ns.to_ne_bytes();
        let [i, j, k, l] = self.reason.to_ne_bytes();
        let [m, n, o, p] = self.spares.to_ne_bytes();
        [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p]
    }

    /// The value that the map holds.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = bytes;
        Self {
            until_ns: u64::from_ne_bytes([a, b, c, d, e, f, g, h]),
            reason: u32::from_ne_bytes([i, j, k, l]),
            spares: u32::from_ne_bytes([m, n, o, p]),
        }
    }
}

/// Value of the map CONNS, keyed by [`Source`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Connections {
    /// Established ones; see [`established`].
    pub count: u64,
    /// When the bucket of new ones is full again ([`crate::rate`]), in ns of CLOCK_BOOTTIME.
    pub full_ns: u64,
}

impl Connections {
    /// The value as the map holds it.
    pub const fn to_bytes(self) -> [u8; 16] {
        let [a, b, c, d, e, f, g, h] = self.count.to_ne_bytes();
        let [i, j, k, l, m, n, o, p] = self.full_ns.to_ne_bytes();
        [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p]
    }

    /// The value that the map holds.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = bytes;
        Self {
            count: u64::from_ne_bytes([a, b, c, d, e, f, g, h]),
            full_ns: u64::from_ne_bytes([i, j, k, l, m, n, o, p]),
        }
    }
}

/// Connections that the count in a value of the map CONNS stands for.
///
/// A value below 0 stands for none: where an entry was removed while it was in use, a connection is given back that the
/// new entry never counted. The program that finds it so gives it back itself, but a reader may look in between.
pub const fn established(value: u64) -> u64 {
    if value > i64::MAX as u64 { 0 } else { value }
}

/// Value of the map SETTINGS (one entry): what the programs need from the configuration.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// [`ABI_VERSION`] of the writer.
    pub abi: u32,
    /// Established connections that a source may have before its SYNs are refused; 0: no ceiling.
    pub connections: u32,
    /// Mask over the upper half of an IPv6 address, see [`ipv6_mask`].
    pub ipv6_mask: u64,
    /// Cookie of the network namespace whose sockets are counted; 0: all.
    pub netns_cookie: u64,
    /// Changes with the exempt list, and is never 0 once that is written. What was checked against this version of the
    /// list needs no look-up in it.
    pub exempt_version: u32,
    /// Whether NETWORKS may hold anything; 0: nobody needs to look.
    pub networks: u32,
    /// New connections of a source.
    pub rate_interval_ns: u64,
    pub rate_burst_ns: u64,
}

impl Settings {
    /// Bytes of a value.
    pub const SIZE: usize = size_of::<Self>();

    /// The value as the map holds it.
    pub fn to_bytes(self) -> [u8; Self::SIZE] {
        let mut bytes = [0; Self::SIZE];
        bytes[0..4].copy_from_slice(&self.abi.to_ne_bytes());
        bytes[4..8].copy_from_slice(&self.connections.to_ne_bytes());
        bytes[8..16].copy_from_slice(&self.ipv6_mask.to_ne_bytes());
        bytes[16..24].copy_from_slice(&self.netns_cookie.to_ne_bytes());
        bytes[24..28].copy_from_slice(&self.exempt_version.to_ne_bytes());
        bytes[28..32].copy_from_slice(&self.networks.to_ne_bytes());
        bytes[32..40].copy_from_slice(&self.rate_interval_ns.to_ne_bytes());
        bytes[40..48].copy_from_slice(&self.rate_burst_ns.to_ne_bytes());
        bytes
    }

    /// The value that the map holds.
    pub fn from_bytes(bytes: [u8; Self::SIZE]) -> Self {
        let word = |at: usize| u64::from_ne_bytes(core::array::from_fn(|n| bytes[at + n]));
        let half = |at: usize| u32::from_ne_bytes(core::array::from_fn(|n| bytes[at + n]));
        Self {
            abi: half(0),
            connections: half(4),
            ipv6_mask: word(8),
            netns_cookie: word(16),
            exempt_version: half(24),
            networks: half(28),
            rate_interval_ns: word(32),
            rate_burst_ns: word(40),
        }
    }

    /// The bucket of new connections.
    #[inline(always)]
    pub const fn bucket(&self) -> Bucket {
        Bucket { interval_ns: self.rate_interval_ns, burst_ns: self.rate_burst_ns }
    }
}

const _: () = assert!(size_of::<Source>() == 8);
const _: () = assert!(size_of::<Ban>() == 16 && core::mem::offset_of!(Ban, reason) == 8);
const _: () = assert!(size_of::<Connections>() == 16 && core::mem::offset_of!(Connections, full_ns) == 8);
const _: () = assert!(size_of::<Settings>() == 48 && core::mem::offset_of!(Settings, ipv6_mask) == 8);
const _: () = assert!(core::mem::offset_of!(Settings, rate_interval_ns) == 32);
