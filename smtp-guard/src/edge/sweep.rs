//! Removes entries of CONNS whose sources have no connections, and then their bits in KNOWN
//! ([`smtp_guard_ebpf::filter::KNOWN`]).
//!
//! The kernel leaves such entries in the map, because it can't remove one without the risk that a connection begins on
//! another CPU in between. If they were never removed, the map would be full one day, and every new source would be
//! without a ceiling. Here the risk is the same, but only for a microsecond in a pass of the map, and not at each last
//! close. So nobody can aim at it. Such a connection isn't counted while it lasts, and nothing else is wrong.
//!
//! The kernel sets bits of KNOWN meanwhile, and a bit can be lost in two ways. It is set between our reading and writing of an
//! element. Or its entry was removed, while a new one came behind the walk. The SYNs of that source then pass unjudged until
//! its next connection sets the bit again. The counts themselves stay exact.

use smtp_guard_ebpf::abi::{Connections, Source};
use smtp_guard_ebpf::filter::{Bit, KNOWN, WORDS};

use super::error::EdgeError;
use super::maps;
use super::pins::Pins;
use super::sys::WordMap;

/// Entries that may go before their bits do: a fiftieth of the filter.
const STALE: usize = 40_000;

/// How far the map was swept.
#[derive(Default)]
pub(super) struct Sweep {
    /// Where the next pass begins; `None`: at the first bucket.
    bucket: Option<u32>,
    /// Entries that were removed, and their bits weren't.
    stale: usize,
}

impl Sweep {
    /// Looks at the next [`maps::BATCH`] entries at most, and has `remove` remove the idle ones that are idle still. Returns
    /// how many. Takes 1 ms or less, and some more where bits are cleared.
    pub(super) fn pass(
        &mut self,
        pins: &Pins,
        mut remove: impl FnMut(u64, &dyn Fn(Connections) -> bool) -> Result<bool, EdgeError>,
    ) -> Result<usize, EdgeError> {
        let mut entries = maps::entries(pins, "CONNS", self.bucket, maps::BATCH)?;
        let batch = entries.next_batch().map_err(EdgeError::pin("reading", pins.map("CONNS")))?;
        // A bucket that is full needs no entry.
        let now = crate::clock::now().as_ns();
        let is_idle = |Connections { count, full_ns }| count == 0 && full_ns <= now;
        let idle: Vec<u64> =
            batch.filter(|(_, value)| is_idle(Connections::from_bytes(*value))).map(|(source, _)| source).collect();
        self.bucket = entries.bucket();
        let mut removed = 0;
        for source in idle {
            removed += usize::from(remove(source, &is_idle)?);
        }
        self.stale += removed;
        if self.stale > STALE {
            renew(pins)?;
            self.stale = 0;
        }
        Ok(removed)
    }
}

/// Makes the filter that of the entries there are.
pub(super) fn renew(pins: &Pins) -> Result<(), EdgeError> {
    let failed = |what| EdgeError::pin(what, pins.map("KNOWN"));
    let map = WordMap::<u32>::open(&pins.map("KNOWN"), WORDS).map_err(failed("opening"))?;
    // Bits that are set from here on are none of ours.
    let before = map.read_all(KNOWN.elements()).map_err(failed("reading"))?;
    let mut wanted = vec![0u64; KNOWN.elements() as usize * WORDS];
    for (source, _) in maps::all::<{ size_of::<Connections>() }>(pins, "CONNS")? {
        let Bit { element, word, mask } = KNOWN.bit(Source(source));
        wanted[element as usize * WORDS + word] |= mask;
    }
    for (element, (before, wanted)) in (0..).zip(before.chunks(WORDS).zip(wanted.chunks(WORDS))) {
        let stale: Vec<u64> = before.iter().zip(wanted).map(|(before, wanted)| before & !wanted).collect();
        if stale != [0; WORDS] {
            let found = map.read(element).map_err(failed("reading"))?;
            let kept: Vec<u64> = found.iter().zip(stale).map(|(found, stale)| found & !stale).collect();
            map.write(&[element], &kept).map_err(failed("writing"))?;
        }
    }
    Ok(())
}
