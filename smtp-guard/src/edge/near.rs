//! The kernel's map NEAR, as [`smtp_guard_ebpf::near`] wants it written. This process is the only one that writes it.

use std::io;

use smtp_guard_ebpf::abi::{Ban, Source};
use smtp_guard_ebpf::near::{COMPLETE, ELEMENTS, SLOTS, WORDS, element, is_free, pack};

use super::error::EdgeError;
use super::pins::Pins;
use super::sys::WordMap;

const MAP: &str = "NEAR";

#[derive(Debug)]
pub(super) struct Near {
    map: WordMap<u32>,
    /// The map's content.
    words: Vec<u64>,
}

impl Near {
    /// Opens the map and [`renew`](Self::renew)s it.
    pub(super) fn open(pins: &Pins, bans: &[(Source, Ban)]) -> Result<Self, EdgeError> {
        let map = WordMap::open(&pins.map(MAP), WORDS).map_err(EdgeError::pin("opening", pins.map(MAP)))?;
        let words = map.read_all(ELEMENTS).map_err(EdgeError::pin("reading", pins.map(MAP)))?;
        let mut near = Self { map, words };
        near.renew(pins, bans)?;
        Ok(near)
    }

    /// Writes the map again: it has those of `bans`, which are all that there are, that it has room for.
    ///
    /// In steps of which a reader may see any part: BANS is asked instead from the first to the last, so that no ban is out of
    /// force and nobody has another one's.
    pub(super) fn renew(&mut self, pins: &Pins, bans: &[(Source, Ban)]) -> Result<(), EdgeError> {
        let incomplete = |at, word| if at == WORDS - 1 { word & !COMPLETE } else { word };
        let sources = |at, word| if at < SLOTS { word } else { 0 };
        let step = |near: &Self, elements: &[u32], part: &dyn Fn(usize, u64) -> u64| {
            let words = elements.iter().flat_map(|at| near.words_of(*at).iter().enumerate());
            near.map.write(elements, &words.map(|(at, word)| part(at, *word)).collect::<Vec<_>>()).map_err(failed(pins))
        };
        let all: Vec<u32> = (0..ELEMENTS).collect();
        let used: Vec<u32> = all.iter().filter(|at| self.words_of(**at) != [0; WORDS]).copied().collect();
        step(self, &used, &incomplete)?;
        step(self, &used, &sources)?;
        self.words.fill(0);
        self.words.iter_mut().skip(WORDS - 1).step_by(WORDS).for_each(|word| *word = COMPLETE);
        let Placed { elements, .. } = self.place(bans);
        step(self, &elements, &sources)?;
        step(self, &elements, &incomplete)?;
        self.write(&all).map_err(failed(pins))
    }

    /// Writes `bans`, later ones over earlier ones. They are in BANS already.
    pub(super) fn put(&mut self, pins: &Pins, bans: &[(Source, Ban)]) -> Result<(), EdgeError> {
        let Placed { elements, new } = self.place(bans);
        // Sources come first, in slots that are free still.
        let keep = |word: &mut u64| std::mem::replace(word, *word & COMPLETE);
        let packed: Vec<_> = new.iter().map(|at| keep(&mut self.words[*at])).collect();
        let first = self.write(&elements);
        for (at, word) in new.into_iter().zip(packed) {
            self.words[at] = word;
        }
        first.and_then(|()| self.write(&elements)).map_err(failed(pins))
    }

    /// Removes those of `sources` that are there.
    pub(super) fn remove(&mut self, pins: &Pins, sources: impl Iterator<Item = Source>) -> Result<(), EdgeError> {
        let mut elements = Vec::new();
        for source in sources {
            let at = element(source);
            let words = &mut self.words[at as usize * WORDS..][..WORDS];
            if let Some(slot) = slot_of(words, source) {
                words[SLOTS + slot] &= COMPLETE;
                elements.push(at);
            }
        }
        self.write(&once(elements)).map_err(failed(pins))
    }

    /// Gives `bans` their slots; an element that has none left isn't complete from then on.
    fn place(&mut self, bans: &[(Source, Ban)]) -> Placed {
        let (mut elements, mut new) = (Vec::new(), Vec::new());
        for (source, ban) in bans {
            let at = element(*source);
            let words = &mut self.words[at as usize * WORDS..][..WORDS];
            let known = slot_of(words, *source);
            elements.push(at);
            let Some(slot) = known.or_else(|| (0..SLOTS).find(|slot| is_free(words[SLOTS + slot]))) else {
                words[WORDS - 1] &= !COMPLETE;
                continue;
            };
            words[slot] = source.0;
            words[SLOTS + slot] = pack(*ban) | words[SLOTS + slot] & COMPLETE;
            if known.is_none() {
                new.push(at as usize * WORDS + SLOTS + slot);
            }
        }
        Placed { elements: once(elements), new }
    }

    /// Whether the map holds what it should where `source` may be.
    pub(super) fn holds(&self, source: Source) -> io::Result<bool> {
        let at = element(source);
        Ok(self.map.read(at)? == self.words_of(at))
    }

    fn words_of(&self, element: u32) -> &[u64] {
        &self.words[element as usize * WORDS..][..WORDS]
    }

    fn write(&self, elements: &[u32]) -> io::Result<()> {
        let words: Vec<u64> = elements.iter().flat_map(|at| self.words_of(*at)).copied().collect();
        self.map.write(elements, &words)
    }
}

/// The outcome of [`Near::place`].
struct Placed {
    /// Each once.
    elements: Vec<u32>,
    /// The second words of slots that were free.
    new: Vec<usize>,
}

fn once(mut elements: Vec<u32>) -> Vec<u32> {
    elements.sort_unstable();
    elements.dedup();
    elements
}

/// The slot that has a ban of `source`.
fn slot_of(words: &[u64], source: Source) -> Option<usize> {
    (0..SLOTS).find(|slot| words[*slot] == source.0 && !is_free(words[SLOTS + slot]))
}

fn failed(pins: &Pins) -> impl FnOnce(io::Error) -> EdgeError + use<> {
    EdgeError::pin("writing", pins.map(MAP))
}
