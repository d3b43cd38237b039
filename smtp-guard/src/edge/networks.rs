//! The kernel's map of banned networks, and the word in SETTINGS that says whether anybody needs to look there. This process is
//! the only one that writes the map.
//!
//! What is to be in the map comes from `bans/networks.rs`: the program asks for the narrowest network only.

use std::collections::HashSet;

use aya::maps::{LpmTrie, MapData};
use smtp_guard_ebpf::abi::{Ban, network_key};

use super::banned::words;
use super::error::EdgeError;
use super::pins::Pins;
use super::{maps, sys};
use crate::key::Net;

pub(super) const MAP: &str = "NETWORKS";
/// Words of a value.
const WORDS: usize = size_of::<Ban>() / 8;
/// Networks that are written at a call.
const BATCH: usize = 4096;

/// Writes all of `bans`, reads them back, and has the program look. Returns those that the map has no room for.
pub(super) fn write(pins: &Pins, bans: &[(Net, Ban)]) -> Result<Vec<Net>, EdgeError> {
    let map = open(pins)?;
    let failed = || EdgeError::pin("writing", pins.map(MAP));
    let mut outside = Vec::new();
    let mut rest = bans;
    while !rest.is_empty() {
        let batch = &rest[..rest.len().min(BATCH)];
        let keys: Vec<[u32; 3]> = batch.iter().map(|(net, _)| key(*net)).collect();
        let values: Vec<u64> = batch.iter().flat_map(|(_, ban)| words(*ban)).collect();
        let done = match map.write_some(&keys, &values) {
            Ok(()) => batch.len(),
            Err((before, error)) if error.raw_os_error() == Some(libc::ENOSPC) => {
                // Those after it may be there already.
                outside.push(batch[before].0);
                before + 1
            }
            Err((_, error)) => return Err(failed()(error)),
        };
        rest = &rest[done..];
    }
    let without_room: HashSet<Net> = outside.iter().copied().collect();
    for (net, ban) in bans.iter().filter(|(net, _)| !without_room.contains(net)) {
        match map.read(key(*net)) {
            Ok(found) if found == words(*ban) => {}
            _ => return Err(EdgeError::NotWritten { entry: net.to_string() }),
        }
    }
    maps::announce_networks(pins)?;
    Ok(outside)
}

/// Removes `nets`, those that are there.
pub(super) fn remove(pins: &Pins, nets: &[Net]) -> Result<(), EdgeError> {
    let map = open(pins)?;
    for net in nets {
        map.remove(key(*net)).map_err(EdgeError::pin("lifting a ban in", pins.map(MAP)))?;
    }
    maps::announce_networks(pins)
}

/// All that the map holds. What no version of this program has written is left out.
pub(super) fn all(pins: &Pins) -> Result<Vec<(Net, Ban)>, EdgeError> {
    let trie: LpmTrie<MapData, [u8; 8], [u8; size_of::<Ban>()]> =
        maps::open(pins, MAP)?.try_into().map_err(EdgeError::map(MAP))?;
    let mut found = Vec::new();
    for entry in trie.iter() {
        let (key, value) = entry.map_err(EdgeError::map(MAP))?;
        if let Some(net) = Net::of_bits(key.prefix_len(), u64::from_be_bytes(key.data())) {
            found.push((net, Ban::from_bytes(value)));
        }
    }
    Ok(found)
}

fn open(pins: &Pins) -> Result<sys::WordMap<[u32; 3]>, EdgeError> {
    sys::WordMap::open(&pins.map(MAP), WORDS).map_err(EdgeError::pin("opening", pins.map(MAP)))
}

fn key(net: Net) -> [u32; 3] {
    let (length, bits) = net.bits();
    network_key(length, bits)
}
