//! Checked loads from a packet. The XDP context implements [`Frame`] in the kernel, `&[u8]` on the host: everything
//! above this file is the same code in both.

/// Offsets from here on are never loaded: Ethernet, VLAN tags, IPv6 with its bounded extension headers and TCP fit in, and
/// the verifier wants an upper bound. A power of two.
pub const MAX_OFFSET: usize = 4096;

/// A packet, from its Ethernet header on.
pub trait Frame {
    /// `N` bytes at `offset`, or `None` where the packet ends before them or `offset` is [`MAX_OFFSET`] or more.
    fn load<const N: usize>(&self, offset: usize) -> Option<[u8; N]>;

    /// Whether the packet has `end` bytes, those behind its linear part included (`xdp.frags`).
    fn reaches(&self, end: usize) -> bool;

    /// `offset`, which is below [`MAX_OFFSET`], as a number that the verifier knows no more of: else it goes through what follows
    /// once for each value that `offset` can have.
    #[inline(always)]
    fn blurred(&self, offset: usize) -> usize {
        offset
    }

    /// Two bytes at `offset`, in network order.
    #[inline(always)]
    fn load_u16(&self, offset: usize) -> Option<u16> {
        self.load(offset).map(u16::from_be_bytes)
    }
}

impl Frame for &[u8] {
    fn load<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        if offset >= MAX_OFFSET {
            return None;
        }
        self.get(offset..offset.checked_add(N)?)?.try_into().ok()
    }

    fn reaches(&self, end: usize) -> bool {
        self.len() >= end
    }
}
