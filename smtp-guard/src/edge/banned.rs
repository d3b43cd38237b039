//! The kernel's map of bans, the filter before it, and the near bans beside it, as one table. This process is the only
//! one that writes it.
//!
//! The filter (BANNED) has a bit set for each source in BANS. A bit that is set without a ban costs one look-up and
//! nothing else. So a bit is set before its ban is written, and stays when the ban is lifted. When a quarter as many bits
//! are stale as there are bans, filter and NEAR are made again.
//!
//! NEAR is asked before BANS, and instead of it if it has all bans of its sources. A ban is in force once it is in NEAR,
//! or once its element says that it isn't complete; both are written after BANS. A lifted ban leaves NEAR first.
//!
//! A writer that begins makes both again as well: it trusts no other.

use std::collections::HashMap;
use std::io;

use smtp_guard_ebpf::abi::{Ban, Source};
use smtp_guard_ebpf::filter::{BANNED, Bit, WORDS};

use super::error::EdgeError;
use super::near::Near;
use super::pins::Pins;
use super::{maps, sys};

/// Words of a value of BANS.
const BAN_WORDS: usize = size_of::<Ban>() / 8;
/// Bans that are written at a call.
const BATCH: usize = 4096;
/// Stale bits that are kept in any case.
const STALE: usize = 4096;

#[derive(Debug)]
pub(super) struct Banned {
    bans: sys::WordMap<u64>,
    near: Near,
    filter: sys::WordMap<u32>,
    /// The filter's content.
    words: Vec<u64>,
    /// Bans in the map, and bits that are set for none.
    live: usize,
    stale: usize,
}

/// The outcome of [`Banned::write`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Written {
    pub written: usize,
    /// The map was full: bans that ended soonest made room for so many others.
    pub displaced: usize,
}

impl Banned {
    /// Opens the maps, and makes filter and NEAR again from the bans that are there.
    pub(super) fn open(pins: &Pins) -> Result<Self, EdgeError> {
        let failed = |map| EdgeError::pin("opening", pins.map(map));
        let filter = sys::WordMap::open(&pins.map("BANNED"), WORDS).map_err(failed("BANNED"))?;
        let found = all(pins)?;
        Ok(Self {
            bans: sys::WordMap::open(&pins.map("BANS"), BAN_WORDS).map_err(failed("BANS"))?,
            words: renew(pins, &filter, &found)?,
            near: Near::open(pins, &found)?,
            filter,
            live: found.len(),
            stale: 0,
        })
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
        self.near.put(pins, bans)?;
        self.read_back(pins, bans)?;
        Ok(done)
    }

    /// Removes the bans of `sources`, those that there are: how many.
    pub(super) fn remove(&mut self, pins: &Pins, sources: &[Source]) -> Result<usize, EdgeError> {
        let removed = self.take(pins, sources, "lifting a ban in")?;
        if self.stale > STALE.max(self.live / 4) {
            let bans = all(pins)?;
            (self.words, self.live, self.stale) = (renew(pins, &self.filter, &bans)?, bans.len(), 0);
            self.near.renew(pins, &bans)?;
        }
        Ok(removed)
    }

    /// Takes the bans of `sources` out of the maps, as a part of `doing`. Their bits stay.
    fn take(&mut self, pins: &Pins, sources: &[Source], doing: &'static str) -> Result<usize, EdgeError> {
        self.near.remove(pins, sources.iter().copied())?;
        let mut removed = 0;
        for source in sources {
            removed += usize::from(self.bans.remove(source.0).map_err(EdgeError::pin(doing, pins.map("BANS")))?);
        }
        self.live = self.live.saturating_sub(removed);
        self.stale += removed;
        Ok(removed)
    }

    /// Sets the bits of `bans`.
    fn set(&mut self, pins: &Pins, bans: &[(Source, Ban)]) -> Result<(), EdgeError> {
        let mut changed: Vec<u32> = Vec::new();
        for (source, _) in bans {
            let Bit { element, word, mask } = BANNED.bit(*source);
            let word = &mut self.words[element as usize * WORDS + word];
            if *word & mask == 0 {
                *word |= mask;
                changed.push(element);
            }
        }
        changed.sort_unstable();
        changed.dedup();
        let element = |index: &u32| &self.words[*index as usize * WORDS..][..WORDS];
        let words: Vec<u64> = changed.iter().flat_map(element).copied().collect();
        self.filter.write(&changed, &words).map_err(EdgeError::pin("writing", pins.map("BANNED")))
    }

    /// Removes the bans that end soonest, at most `wanted`, but none of `keep`. Returns how many.
    fn make_room(&mut self, pins: &Pins, keep: &[(Source, Ban)], wanted: usize) -> Result<usize, EdgeError> {
        let keep: HashMap<u64, ()> = keep.iter().map(|(source, _)| (source.0, ())).collect();
        let others = all(pins)?.into_iter().filter(|(source, _)| !keep.contains_key(&source.0));
        let mut found: Vec<(u64, Source)> = others.map(|(source, ban)| (ban.until_ns, source)).collect();
        found.sort_unstable();
        found.truncate(wanted);
        let soonest: Vec<_> = found.into_iter().map(|(_, source)| source).collect();
        self.take(pins, &soonest, "making room in")
    }

    /// Reads `bans` back: one by one where they are few, else by walking over the map.
    fn read_back(&self, pins: &Pins, bans: &[(Source, Ban)]) -> Result<(), EdgeError> {
        let wrong = |source: &Source| EdgeError::NotWritten { entry: format!("{source:?}") };
        let wanted: HashMap<Source, Ban> = bans.iter().copied().collect();
        // A walk is over all bans that there are, and over all room for them.
        if wanted.len() <= BATCH {
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
        let Bit { element, word, mask } = BANNED.bit(*source);
        let filtered = self.filter.read(element).map_err(failed)?[word] & mask != 0;
        let near = self.near.holds(*source).map_err(EdgeError::pin("reading", pins.map("NEAR")))?;
        if filtered && near { Ok(()) } else { Err(wrong(source)) }
    }
}

/// The bans that there are.
fn all(pins: &Pins) -> Result<Vec<(Source, Ban)>, EdgeError> {
    let bans = maps::all::<{ size_of::<Ban>() }>(pins, "BANS")?.into_iter();
    Ok(bans.map(|(source, value)| (Source(source), Ban::from_bytes(value))).collect())
}

/// Writes the filter again for `bans`, which are all. Returns what it holds.
fn renew(pins: &Pins, filter: &sys::WordMap<u32>, bans: &[(Source, Ban)]) -> Result<Vec<u64>, EdgeError> {
    let mut words = vec![0u64; BANNED.elements() as usize * WORDS];
    for (source, _) in bans {
        let Bit { element, word, mask } = BANNED.bit(*source);
        words[element as usize * WORDS + word] |= mask;
    }
    // Each word has the bits of all bans at every moment, as before.
    let elements: Vec<u32> = (0..BANNED.elements()).collect();
    filter.write(&elements, &words).map_err(EdgeError::pin("writing", pins.map("BANNED")))?;
    Ok(words)
}

pub(super) fn words(ban: Ban) -> [u64; BAN_WORDS] {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = ban.to_bytes();
    [u64::from_ne_bytes([a, b, c, d, e, f, g, h]), u64::from_ne_bytes([i, j, k, l, m, n, o, p])]
}

/// How the kernel says that a hash map has no room.
fn is_full(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::E2BIG | libc::ENOMEM))
}
