//! Samples of the packets that the kernel drops, never all.
//!
//! Each CPU reports the first packet that it drops in a tick of the clock (1 to 10 ms). So user space reads at most a
//! thousand samples a second of each CPU, however many packets are dropped. A sample has the number of packets that it
//! stands for, so that sums over samples are sums over packets. The counters count every packet; the samples name their
//! sources.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::parse::Address;

/// Bytes of the ring buffer EVENTS: 5,000 samples. When nobody reads it is full, and samples are lost, which is counted.
pub const EVENTS_BYTES: u32 = 256 * 1024;

/// A dropped packet, as it is in the ring buffer EVENTS.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dropped {
    /// When, in ns of CLOCK_BOOTTIME.
    pub at_ns: u64,
    /// The source's address: of IPv6 its halves, of IPv4 its 32 bits in `low` and [`Self::V4`] in `high`.
    pub high: u64,
    pub low: u64,
    /// Packets that were dropped on this CPU since the sample before, this one included.
    pub stands_for: u64,
    /// [`crate::reason::Reason`] by number.
    pub reason: u32,
    /// Destination port.
    pub port: u16,
    pub _pad: u16,
}

impl Dropped {
    /// Bytes of a sample.
    pub const SIZE: usize = size_of::<Self>();
    /// The upper half of no IPv6 source: that of multicast.
    const V4: u64 = u64::MAX;

    /// The fields that hold `address`.
    #[inline(always)]
    pub const fn halves(address: &Address) -> (u64, u64) {
        match address {
            Address::V4(addr) => (Self::V4, *addr as u64),
            Address::V6 { high, low } => (*high, *low),
        }
    }

    /// The source's address.
    pub const fn ip(&self) -> IpAddr {
        match self.high {
            Self::V4 => IpAddr::V4(Ipv4Addr::from_bits(self.low as u32)),
            high => IpAddr::V6(Ipv6Addr::from_bits((high as u128) << 64 | self.low as u128)),
        }
    }

    /// From the bytes of the ring buffer; `None` where there are more or fewer.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; Self::SIZE] = bytes.try_into().ok()?;
        let word = |at: usize| u64::from_ne_bytes(core::array::from_fn(|n| bytes[at + n]));
        Some(Self {
            at_ns: word(0),
            high: word(8),
            low: word(16),
            stands_for: word(24),
            reason: u32::from_ne_bytes([bytes[32], bytes[33], bytes[34], bytes[35]]),
            port: u16::from_ne_bytes([bytes[36], bytes[37]]),
            _pad: 0,
        })
    }
}

/// Value of the map SAMPLES (one entry, per CPU).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sampling {
    /// The tick in which the last sample was taken.
    pub tick: u64,
    /// Packets that were dropped since.
    pub since: u64,
    /// Samples for which the ring buffer had no room.
    pub lost: u64,
}

impl Sampling {
    /// Takes note of a dropped packet: whether it is the first one in `tick`, and is to be told.
    #[inline(always)]
    pub const fn is_due(&mut self, tick: u64) -> bool {
        self.since += 1;
        if self.tick == tick {
            return false;
        }
        self.tick = tick;
        true
    }

    /// Takes note of whether the sample found room. One that was lost is told by the next.
    #[inline(always)]
    pub const fn told(&mut self, found_room: bool) {
        if found_room {
            self.since = 0;
        } else {
            self.lost += 1;
        }
    }
}

const _: () = assert!(size_of::<Dropped>() == 40 && core::mem::offset_of!(Dropped, reason) == 32);
const _: () = assert!(size_of::<Sampling>() == 24 && core::mem::offset_of!(Sampling, lost) == 16);
const _: () = assert!(EVENTS_BYTES.is_power_of_two());
