//! Bans that are found with one line of the cache: four of them in an element of the map NEAR.
//!
//! BANS holds every ban. To find one there costs two lines of memory that no cache holds, each with a miss of the TLB. That was
//! 500 ns a packet under a flood of 65,536 banned sources (measured). NEAR has room for most of a quarter of a million. An
//! element notes whether it has all bans of its sources. If it does, a source that isn't in it isn't banned. If it doesn't, or
//! is still empty, BANS is asked: that is slower, and never wrong.
//!
//! Only user space writes NEAR, and a reader may see an element half written. So a slot is free if its second word has no
//! time. A ban is written source first and that word last, and removed by that word alone.

use crate::abi::{Ban, Source};
use crate::filter::hash;

/// Binary logarithm of the elements.
const SHIFT: u32 = 16;
/// Elements of the map: 4 MiB.
pub const ELEMENTS: u32 = 1 << SHIFT;
/// Bans of an element.
pub const SLOTS: usize = 4;
/// Words of an element: the sources of all slots, then [`pack`]ed bans of all slots.
pub const WORDS: usize = SLOTS * 2;

/// Bit of an element's last word: all bans of its sources are here.
pub const COMPLETE: u64 = 1;
/// Bits of a packed ban below its time, which is in units of 2^20 ns.
const TIME_SHIFT: u32 = 20;
const REASON_SHIFT: u32 = 14;
const SPARES_SHIFT: u32 = 1;
const SPARES: u32 = (1 << (REASON_SHIFT - SPARES_SHIFT)) - 1;

/// An element's answer about a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    Ban(Ban),
    /// There is no ban.
    Nothing,
    /// BANS may have one.
    Elsewhere,
}

/// The element where `source` may be.
#[inline(always)]
pub const fn element(source: Source) -> u32 {
    (hash(source) >> (64 - SHIFT)) as u32
}

/// A ban as one word, without [`COMPLETE`].
///
/// It ends up to 1.05 ms later. A version of the exempt list with more than 13 bits becomes 0, so the list is asked.
pub const fn pack(ban: Ban) -> u64 {
    let spares = if ban.spares > SPARES { 0 } else { ban.spares as u64 };
    // One that ended in the first millisecond after the start ends in the second.
    let time = if ban.until_ns >> TIME_SHIFT == 0 { 1 } else { ban.until_ns >> TIME_SHIFT };
    time << TIME_SHIFT | (ban.reason as u64 & 0x3f) << REASON_SHIFT | spares << SPARES_SHIFT
}

/// Whether a slot with this second word has no ban.
#[inline(always)]
pub const fn is_free(word: u64) -> bool {
    word >> TIME_SHIFT == 0
}

/// The ban of a word.
#[inline(always)]
const fn unpack(word: u64) -> Ban {
    Ban {
        until_ns: word | ((1 << TIME_SHIFT) - 1),
        reason: (word >> REASON_SHIFT) as u32 & 0x3f,
        spares: (word >> SPARES_SHIFT) as u32 & SPARES,
    }
}

/// Looks for `source` in its element.
#[inline(always)]
pub fn find(element: &[u64; WORDS], source: Source) -> Found {
    for slot in 0..SLOTS {
        let word = element[SLOTS + slot];
        if element[slot] == source.0 && !is_free(word) {
            return Found::Ban(unpack(word));
        }
    }
    if element[WORDS - 1] & COMPLETE == 0 { Found::Elsewhere } else { Found::Nothing }
}

const _: () = assert!(crate::reason::MAX_REASONS == 64 && WORDS == 8);

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(ban: Ban, until_ns: u64, spares: u32) {
        let word = pack(ban);
        assert!(word & COMPLETE == 0 && !is_free(word));
        assert_eq!(unpack(word | COMPLETE), Ban { until_ns, spares, ..ban });
    }

    #[test]
    fn a_word_is_a_ban() {
        check(Ban { until_ns: u64::MAX, reason: 63, spares: 1 }, u64::MAX, 1);
        check(Ban { until_ns: 5 << 20, reason: 1, spares: 8_191 }, (6 << 20) - 1, 8_191);
        check(Ban { until_ns: (6 << 20) - 1, reason: 0, spares: 8_192 }, (6 << 20) - 1, 0);
        check(Ban { until_ns: 1, reason: 0, spares: 0 }, (2 << 20) - 1, 0);
    }

    #[test]
    fn an_element_says_what_it_knows() {
        let ban = Ban { until_ns: u64::MAX, reason: 2, spares: 3 };
        for (flag, other) in [(0, Found::Elsewhere), (COMPLETE, Found::Nothing)] {
            let mut element = [0; WORDS];
            element[WORDS - 1] = flag;
            for slot in 0..SLOTS {
                element[slot] = slot as u64;
                assert_eq!(find(&element, Source(slot as u64)), other, "a source without its second word");
                element[SLOTS + slot] |= pack(ban);
                assert_eq!(find(&element, Source(slot as u64)), Found::Ban(ban));
            }
            assert_eq!(find(&element, Source(4)), other);
        }
    }
}
