//! Bits before the hash maps: where a source's bit is clear, the map has no entry of it and needn't be asked.
//!
//! A hash map with room for a million sources has 16 MiB of buckets. So a look-up misses the cache and the TLB even where it
//! finds nothing. A filter is small enough to stay in the cache. Many sources share a bit, so one that is set says nothing.

use crate::abi::Source;

/// Words of an element: one line of the cache.
pub const WORDS: usize = 8;

/// Before the bans: 128 KiB, so that it stays in a CPU's own cache; what passes it by chance costs one line more (`near.rs`).
/// Written by user space, which sets a bit before a ban and clears it after.
pub const BANNED: Filter = Filter { shift: 20 };
/// Before CONNS: 256 KiB. Set by the counting program, cleared by user space once the entry is gone.
pub const KNOWN: Filter = Filter { shift: 21 };

/// The size of a filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Filter {
    /// Binary logarithm of its bits.
    shift: u32,
}

/// Where a bit is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bit {
    pub element: u32,
    /// The word of the element, below [`WORDS`].
    pub word: usize,
    pub mask: u64,
}

impl Filter {
    /// Elements of the map.
    pub const fn elements(self) -> u32 {
        1 << (self.shift - 9)
    }

    /// The bit of `source`, and of others.
    #[inline(always)]
    pub const fn bit(self, source: Source) -> Bit {
        let at = hash(source) >> (64 - self.shift);
        Bit { element: (at >> 9) as u32, word: (at >> 6) as usize % WORDS, mask: 1 << (at & 63) }
    }
}

/// Spreads sources over the high bits.
#[inline(always)]
pub(crate) const fn hash(source: Source) -> u64 {
    source.0.wrapping_mul(0x9e37_79b9_7f4a_7c15)
}
