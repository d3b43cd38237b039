//! Block lists in the kernel: a whole set replaces the one before, while packets are judged by either.
//!
//! Entries come here checked: what they are read from, and which are refused, is decided elsewhere. Exempt networks are
//! cut out of them here, so an address that is exempt is never listed, whatever a list says.
//!
//! # Bounds
//! What [`smtp_guard_ebpf::lists`] has room for. A set that is larger changes nothing, and the error says what there is
//! too much of.

mod image;
mod ranges;

use std::time::{Duration, Instant};

use ipnet::IpNet;
use smtp_guard_ebpf::lists::{ACTIVE, CHUNK, ELEMENTS, FIRST, HALF, HEADS, Head};

use self::image::Image;
use self::ranges::Ranges;
use super::error::EdgeError;
use super::load::lock;
use super::pins::Pins;
use super::plane::KernelPlane;
use super::{maps, sys};

pub(super) const MAP: &str = "LISTS";
/// Elements that are written at a call: 4 MiB.
const BATCH: usize = 1024;

/// Where the kernel can't say when its programs have ended.
const PATIENCE: Duration = Duration::from_millis(200);

/// One network of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    pub net: IpNet,
    /// Number of the list that has it.
    pub list: u32,
}

/// The outcome of [`replace`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Replaced {
    /// Entries of each list, by its number.
    pub entries: Vec<usize>,
    /// Exempt networks that overlapped an entry, and were cut out.
    pub spared: usize,
    /// IPv4 networks of /24 that are listed whole, and in part.
    pub whole: usize,
    pub partial: usize,
    /// IPv6 ranges that don't touch each other.
    pub ranges: usize,
    /// Time that sorting and building took, and writing.
    pub built_in: Duration,
    pub written_in: Duration,
}

/// Makes `entries` the lists that the kernel judges by, instead of those before. Takes tenths of a second for a million,
/// so it is not for a thread that others wait for. Where it fails, the lists are those before.
pub fn replace(plane: &KernelPlane, entries: impl IntoIterator<Item = Entry>) -> Result<Replaced, EdgeError> {
    let started = Instant::now();
    // Opened before the exempt list is asked for: where the plane is loaded again in between, this is the old one's map.
    let map = open(plane.pins())?;
    let exempt = plane.exempt();
    let mut replaced = Replaced::default();
    let (mut v4, mut v6) = (Ranges::default(), Ranges::default());
    for Entry { net, list } in entries {
        let list = list as usize;
        if replaced.entries.len() <= list {
            replaced.entries.resize(list + 1, 0);
        }
        replaced.entries[list] += 1;
        match net {
            IpNet::V4(net) => v4.add(net.network().to_bits().into(), net.broadcast().to_bits().into()),
            IpNet::V6(net) => v6.add(net.network().to_bits(), net.broadcast().to_bits()),
        }
    }
    v4.merge();
    v6.merge();
    if let Some((nets, _)) = &exempt {
        for net in nets.iter() {
            let cut = match net {
                IpNet::V4(net) => v4.cut(net.network().to_bits().into(), net.broadcast().to_bits().into()),
                IpNet::V6(net) => v6.cut(net.network().to_bits(), net.broadcast().to_bits()),
            };
            replaced.spared += usize::from(cut);
        }
    }
    let image = Image::build(v4.as_slice(), v6.as_slice(), exempt.map_or(0, |(_, version)| version))?;
    (replaced.whole, replaced.partial) = (image.whole, image.partial);
    replaced.ranges = v6.as_slice().len();
    replaced.built_in = started.elapsed();
    let started = Instant::now();
    write(plane, &map, &image)?;
    replaced.written_in = started.elapsed();
    Ok(replaced)
}

/// Writes `image` to the half that isn't read, then has it read.
fn write(plane: &KernelPlane, map: &sys::WordMap<u32>, image: &Image) -> Result<(), EdgeError> {
    let pins = plane.pins();
    let failed = || EdgeError::pin("writing", pins.map(MAP));
    // Two writers at once would write to the same half.
    let _lock = lock(pins.directory())?;
    let mut first = map.read(0).map_err(failed())?;
    let half = (first[ACTIVE] as usize + 1) % 2;
    // A packet that was being judged when this half was read has been judged by now.
    wait();
    let base = (FIRST + half as u32 * HALF) / CHUNK as u32;
    for (at, words) in image.parts() {
        let keys: Vec<u32> = (base + at / CHUNK as u32..).take(words.len() / CHUNK).collect();
        for (keys, words) in keys.chunks(BATCH).zip(words.chunks(BATCH * CHUNK)) {
            map.write(keys, words).map_err(failed())?;
        }
    }
    // The half's head before the byte that has it read: each is a write of its own.
    first[HEADS + half * 2..][..2].copy_from_slice(&image.head.to_words());
    map.write(&[0], &first).map_err(failed())?;
    wait();
    first[ACTIVE] = half as u64;
    map.write(&[0], &first).map_err(failed())
}

/// Copies the lists of one plane to another that is not in use yet, as they are. Nothing is taken as checked against the
/// exempt list there.
pub(super) fn copy(from: &Pins, to: &Pins) -> Result<(), EdgeError> {
    let (source, target) = (open(from)?, open(to)?);
    for index in (0..ELEMENTS).rev() {
        let mut words = source.read(index).map_err(EdgeError::pin("reading", from.map(MAP)))?;
        if index == 0 {
            for half in words[HEADS..].chunks_mut(2).take(2) {
                let head = Head { spares: 0, ..Head::from_words([half[0], half[1]]) };
                half.copy_from_slice(&head.to_words());
            }
        }
        target.write(&[index], &words).map_err(EdgeError::pin("writing", to.map(MAP)))?;
    }
    Ok(())
}

/// Waits until every program that may still read the other half has ended.
fn wait() {
    if sys::wait_for_programs().is_err() {
        // A kernel with CPUs that take no ticks, or a filter of system calls, refuses. Programs run for microseconds.
        std::thread::sleep(PATIENCE);
    }
}

/// The head of the lists that are read.
pub fn head(plane: &KernelPlane) -> Result<Head, EdgeError> {
    let first = open(plane.pins())?.read(0).map_err(EdgeError::pin("reading", plane.pins().map(MAP)))?;
    let at = HEADS + (first[ACTIVE] as usize & 1) * 2;
    Ok(Head::from_words([first[at], first[at + 1]]))
}

/// The kernel's number for the map of lists: another one means that the plane was loaded again, and has none. `None`: it is
/// not loaded, or not known to be.
pub fn id(plane: &KernelPlane) -> Option<u32> {
    plane.is_current().then(|| maps::id(plane.pins(), MAP).ok())?
}

fn open(pins: &Pins) -> Result<sys::WordMap<u32>, EdgeError> {
    let path = pins.map(MAP);
    sys::WordMap::open(&path, CHUNK).map_err(EdgeError::pin("opening", path))
}

const _: () = assert!(maps::LIST_VALUE as usize == CHUNK * 8);
