//! The kernel's map of bans with the filter before it, as one table. This process is the only one that writes it.
//!
//! The filter (BANNED) has a bit set for each source in BANS, and a bit that is set without one costs a look-up, nothing
//! else. So a bit is set before its ban is written; bits of bans that were lifted stay until a quarter as many are stale
//! as there are bans, and then the filter is made anew. A writer that begins does that as well: it trusts no other.

use std::collections::HashMap;
use std::io;

use smtp_guard_ebpf::abi::{BANNED_ELEMENTS, BANNED_SHIFT, BANNED_WORDS, Ban, Source, banned_bit};

use super::error::EdgeError;
use super::pins::Pins;
use super::{maps, sys};

/// Words of a value of BANS.
const BAN_WORDS: usize = size_of::<Ban>() / 8;
/// Bans that are written at a call.
const BATCH: usize = 4096;
/// Stale bits that are kept in any case: making the filter anew takes about a millisecond.
const STALE: usize = 4096;

#[derive(Debug)]
pub(super) struct Banned {
    bans: sys::WordMap<u64>,
    filter: sys::WordMap<u32>,
    words: Vec<u64>,
    /// Bans in the map, and bits that are set for none.
    live: usize,
    stale: usize,
}

/// What [`Banned::write`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Written {
    pub written: usize,
    /// The map was full: bans that ended soonest made room for so many others.
    pub displaced: usize,
}

impl Banned {
    /// Opens both maps, and makes the filter anew from the bans that are there.
    pub(super) fn open(pins: &Pins) -> Result<Self, EdgeError> {
        let failed = |map| EdgeError::pin("opening", pins.map(map));
        let mut banned = Self {
            bans: sys::WordMap::open(&pins.map("BANS"), BAN_WORDS).map_err(failed("BANS"))?,
            filter: sys::WordMap::open(&pins.map("BANNED"), BANNED_WORDS).map_err(failed("BANNED"))?,
            words: Vec::new(),
            live: 0,
            stale: 0,
        };
        banned.renew(pins)?;
        Ok(banned)
    }

    /// Writes all of `bans`, later ones over earlier ones, and reads them back.
    pub(super) fn write(&mut self, pins: &Pins, bans: &[(Source, Ban)]) -> Result<Written, EdgeError> {
        self.set(pins, bans)?;
        let mut done = Written::default();
        let mut rest = bans;
        while !rest.is_empty() {
            let batch = &rest[..rest.len().min(BATCH)];
            let keys: Vec<u64> = batch.iter().map(|(source, _)| source.0).collect();
            let values: Vec<u64> = batch.iter().flat_map(|(_, ban)| words(*ban)).collect();
            let written = match self.bans.write_some(&keys, &values) {
                Ok(()) => batch.len(),
                Err((before, error)) if is_full(&error) => {
                    let displaced = self.make_room(pins, bans, rest.len() - before)?;
                    if displaced == 0 {
                        return Err(EdgeError::pin("writing", pins.map("BANS"))(error));
                    }
                    done.displaced += displaced;
                    before
                }
                Err((_, error)) => return Err(EdgeError::pin("writing", pins.map("BANS"))(error)),
            };
            done.written += written;
            rest = &rest[written..];
        }
        self.live += done.written;
        self.read_back(pins, bans)?;
        Ok(done)
    }

    /// Takes note that a ban was removed from the map.
    pub(super) fn removed(&mut self, pins: &Pins) -> Result<(), EdgeError> {
        self.live = self.live.saturating_sub(1);
        self.stale += 1;
        if self.stale > STALE.max(self.live / 4) { self.renew(pins) } else { Ok(()) }
    }

    /// Sets the bits of `bans`.
    fn set(&mut self, pins: &Pins, bans: &[(Source, Ban)]) -> Result<(), EdgeError> {
        let mut changed: Vec<u32> = Vec::new();
        for (source, _) in bans {
            let bit = banned_bit(*source) as usize;
            let word = &mut self.words[bit >> 6];
            if *word >> (bit & 63) & 1 == 0 {
                *word |= 1 << (bit & 63);
                changed.push((bit / (64 * BANNED_WORDS)) as u32);
            }
        }
        changed.sort_unstable();
        changed.dedup();
        let element = |index: &u32| &self.words[*index as usize * BANNED_WORDS..][..BANNED_WORDS];
        let words: Vec<u64> = changed.iter().flat_map(element).copied().collect();
        self.filter.write(&changed, &words).map_err(EdgeError::pin("writing", pins.map("BANNED")))
    }

    fn renew(&mut self, pins: &Pins) -> Result<(), EdgeError> {
        let mut words = vec![0u64; 1 << (BANNED_SHIFT - 6)];
        let bans = maps::all::<{ size_of::<Ban>() }>(pins, "BANS")?;
        for (source, _) in &bans {
            let bit = banned_bit(Source(*source)) as usize;
            words[bit >> 6] |= 1 << (bit & 63);
        }
        // Each word has the bits of all bans at every moment, as before.
        let elements: Vec<u32> = (0..BANNED_ELEMENTS).collect();
        self.filter.write(&elements, &words).map_err(EdgeError::pin("writing", pins.map("BANNED")))?;
        (self.words, self.live, self.stale) = (words, bans.len(), 0);
        Ok(())
    }

    /// Removes the bans that end soonest, at most `wanted`, but none of `keep`. Returns how many.
    fn make_room(&mut self, pins: &Pins, keep: &[(Source, Ban)], wanted: usize) -> Result<usize, EdgeError> {
        let keep: HashMap<u64, ()> = keep.iter().map(|(source, _)| (source.0, ())).collect();
        let mut found: Vec<(u64, u64)> = maps::all::<{ size_of::<Ban>() }>(pins, "BANS")?
            .into_iter()
            .filter(|(source, _)| !keep.contains_key(source))
            .map(|(source, value)| (Ban::from_bytes(value).until_ns, source))
            .collect();
        found.sort_unstable();
        found.truncate(wanted);
        for (_, source) in &found {
            self.bans.remove(*source).map_err(EdgeError::pin("making room in", pins.map("BANS")))?;
        }
        self.live = self.live.saturating_sub(found.len());
        self.stale += found.len();
        Ok(found.len())
    }

    /// Reads `bans` back: one by one where they are few, else by walking over the map.
    fn read_back(&self, pins: &Pins, bans: &[(Source, Ban)]) -> Result<(), EdgeError> {
        let wrong = |source: &Source| EdgeError::NotWritten { entry: format!("{source:?}") };
        let wanted: HashMap<Source, Ban> = bans.iter().copied().collect();
        if wanted.len() <= BATCH / 16 {
            for (source, ban) in &wanted {
                match self.bans.read(source.0) {
                    Ok(found) if found == words(*ban) => {}
                    _ => return Err(wrong(source)),
                }
            }
        } else {
            let found: HashMap<u64, [u8; size_of::<Ban>()]> = maps::all(pins, "BANS")?.into_iter().collect();
            if let Some((source, _)) = wanted.iter().find(|(source, ban)| found.get(&source.0) != Some(&ban.to_bytes()))
            {
                return Err(wrong(source));
            }
        }
        let (Some((source, _)), failed) = (bans.last(), EdgeError::pin("reading", pins.map("BANNED"))) else {
            return Ok(());
        };
        let bit = banned_bit(*source);
        let element = self.filter.read(bit / (64 * BANNED_WORDS as u32)).map_err(failed)?;
        if element[(bit >> 6) as usize % BANNED_WORDS] >> (bit & 63) & 1 == 0 {
            return Err(wrong(source));
        }
        Ok(())
    }
}

fn words(ban: Ban) -> [u64; BAN_WORDS] {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = ban.to_bytes();
    [u64::from_ne_bytes([a, b, c, d, e, f, g, h]), u64::from_ne_bytes([i, j, k, l, m, n, o, p])]
}

/// How the kernel says that a hash map has no room.
fn is_full(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::E2BIG | libc::ENOMEM))
}
