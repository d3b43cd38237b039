//! Block lists as the kernel looks them up: one array of words, written by user space, read by the same code in both.
//!
//! # Two halves
//! The array has room for two whole sets of lists. A new set is written to the half that nobody reads; one byte of
//! [`Head`] then makes it the one that is read. A packet reads that byte once, so it is judged by one set or the other.
//!
//! # IPv4
//! A word covers 32 networks of /24: its low half marks those that are listed whole, its high half those that are listed
//! in part. Most packets end there, whatever the number of entries. A network that is listed in part has one more word,
//! found by counting: its word's base and the bits below its own. That word holds up to seven last octets, or the number
//! of a bitmap of 256 bits.
//!
//! # IPv6
//! A hashed filter has a bit for the address' /32 and one for its /48. If both are clear, nothing in that /32 is listed.
//! Else the sorted bounds of listed ranges are searched: the address is listed if an odd number of bounds is at or below
//! it.
//!
//! # Rejected
//! - Tries (LPM): 100 ns for a thousand prefixes, and 1,700 for a million (measured).
//! - A hash by address: two cache misses and 100 bytes an entry, and it has to be emptied before it can be filled again.

/// Words of one map element: 4 KiB, so that a set is written in few calls.
pub const CHUNK: usize = 512;

/// Networks of /24 that can be listed in part.
pub const PARTIAL: u32 = 1 << 20;
/// Networks among these with more than [`OCTETS`] addresses listed.
pub const BITMAPS: u32 = 1 << 15;
/// Bounds of IPv6 ranges: two for each that doesn't touch another.
pub const BOUNDS: u32 = 1 << 19;
/// Binary logarithm of the bits of the filter.
pub const FILTER_SHIFT: u32 = 22;
/// Last octets in one word of a /24 that is listed in part.
pub const OCTETS: usize = 7;

/// Words of one bitmap.
pub const BITMAP_WORDS: u32 = 4;

// Where the parts of a half begin, in words.
pub const V4: u32 = 0;
pub const BASES: u32 = V4 + (1 << 19);
pub const DETAILS: u32 = BASES + (1 << 18);
pub const BITMAP: u32 = DETAILS + PARTIAL;
pub const FILTER: u32 = BITMAP + BITMAPS * BITMAP_WORDS;
pub const BOUND: u32 = FILTER + (1 << (FILTER_SHIFT - 6));
/// Words of a half.
pub const HALF: u32 = BOUND + BOUNDS * 2;
/// The halves begin behind the element that holds [`Head`].
pub const FIRST: u32 = CHUNK as u32;
/// Elements of the map.
pub const ELEMENTS: u32 = (FIRST + HALF * 2) / CHUNK as u32;

/// In a detail's highest byte: the rest is the number of a bitmap.
pub const IS_BITMAP: u64 = 0xff << 56;

// Words of the first element.
/// Which half is read, 0 or 1. Only its lowest byte ever changes, so it is never seen half written.
pub const ACTIVE: usize = 0;
/// The heads of the halves: two words each.
pub const HEADS: usize = 8;

/// A half's data beside its words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Head {
    /// Whether anything is listed.
    pub any: bool,
    /// Version of the exempt list that was left out of the lists; 0: none was.
    pub spares: u32,
    /// Binary logarithm of the number of bounds, rounded up; the rest of them is padded with the highest address.
    pub bound_bits: u32,
    /// Where the search begins: 0. It comes from the map because the verifier follows every path of a search whose
    /// beginning it knows, and there are more than it allows.
    pub begin: u32,
}

impl Head {
    /// As its two words.
    pub const fn to_words(self) -> [u64; 2] {
        [(self.any as u64) << 32 | self.spares as u64, (self.begin as u64) << 32 | self.bound_bits as u64]
    }

    /// From its two words.
    #[inline(always)]
    pub const fn from_words(words: [u64; 2]) -> Self {
        Self {
            any: words[0] >> 32 != 0,
            spares: words[0] as u32,
            bound_bits: words[1] as u32,
            begin: (words[1] >> 32) as u32,
        }
    }
}

/// The words of one half.
pub trait Words {
    /// The word at `index`, below [`HALF`]; 0 beyond it.
    fn word(&self, index: u32) -> u64;
}

/// Whether the IPv4 address is listed.
#[inline(always)]
pub fn v4(words: &impl Words, addr: u32) -> bool {
    let group = addr >> 13;
    let (word, bit) = (words.word(V4 + group), addr >> 8 & 31);
    if word >> bit & 1 == 1 {
        return true;
    }
    if word >> 32 >> bit & 1 == 0 {
        return false;
    }
    let below = ((word >> 32) as u32 & ((1 << bit) - 1)).count_ones();
    let base = (words.word(BASES + (group >> 1)) >> ((group & 1) * 32)) as u32;
    let octet = u64::from(addr & 0xff);
    let detail = words.word(DETAILS + ((base + below) & (PARTIAL - 1)));
    if detail & IS_BITMAP == IS_BITMAP {
        let number = detail as u32 & (BITMAPS - 1);
        return words.word(BITMAP + number * BITMAP_WORDS + (octet as u32 >> 6)) >> (octet & 63) & 1 == 1;
    }
    // All seven at once: a byte that is equal becomes 0, and a 0 is found by the borrow that it causes. What is found
    // too much lies above one that is right.
    const ONES: u64 = 0x0001_0101_0101_0101;
    let differs = detail ^ (octet * ONES);
    differs.wrapping_sub(ONES) & !differs & (ONES << 7) != 0
}

/// The bit of the filter that stands for the /32 (`high >> 32`) or the /48 (`high >> 16`) of an address.
#[inline(always)]
pub const fn filter_bit(prefix: u64) -> u32 {
    (prefix.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - FILTER_SHIFT)) as u32
}

/// The prefix of a /48, told apart from that of a /32.
#[inline(always)]
pub const fn prefix_48(high: u64) -> u64 {
    high >> 16 | 1 << 63
}

/// Whether the IPv6 address is listed.
#[inline(always)]
pub fn v6(words: &impl Words, head: Head, high: u64, low: u64) -> bool {
    let set = |bit: u32| words.word(FILTER + (bit >> 6)) >> (bit & 63) & 1 == 1;
    if !set(filter_bit(high >> 32)) && !set(filter_bit(prefix_48(high))) {
        return false;
    }
    // How many bounds are at or below the address: the last step of the search is 1, so it ends between two.
    let mut found = head.begin;
    for bits in (0..BOUNDS.trailing_zeros()).rev() {
        if bits >= head.bound_bits {
            continue;
        }
        let at = found.wrapping_add((1 << bits) - 1) & (BOUNDS - 1);
        let bound = (words.word(BOUND + at * 2), words.word(BOUND + at * 2 + 1));
        if bound <= (high, low) {
            found = found.wrapping_add(1 << bits);
        }
    }
    found & 1 == 1
}

const _: () = assert!((FIRST + HALF * 2).is_multiple_of(CHUNK as u32));
const _: () = assert!(BOUNDS.is_power_of_two() && PARTIAL.is_power_of_two() && BITMAPS.is_power_of_two());
