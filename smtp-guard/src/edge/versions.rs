//! From one ABI version to another: the links go on, with the new program behind them, and so do bans and block lists.
//!
//! Maps of another version can't be used as they are, since a version number says that something in them means something
//! else. What is known to mean the same is copied before any link changes, so that whoever was dropped is dropped at every
//! moment. Connections from before are in no count: their sockets are marked in a map that is gone.

use smtp_guard_ebpf::abi::{Ban, Source};

use super::banned::Banned;
use super::error::EdgeError;
use super::pins::Pins;
use super::{lists, maps};

/// Versions whose BANS and LISTS mean what this version's do. None of them has NETWORKS.
const SAME: [u32; 3] = [2, 3, 4];

/// Copies what can be copied of the newest of `others` into the fresh maps of `pins`, which have room for `room` bans: those
/// that end last. Returns the number of bans.
pub(super) fn carry(others: &[Pins], pins: &Pins, room: u32) -> Result<usize, EdgeError> {
    let Some(other) = others.iter().find(|other| SAME.contains(&other.version())) else {
        return Ok(0);
    };
    let mut bans: Vec<_> = maps::all::<{ size_of::<Ban>() }>(other, "BANS")?
        .into_iter()
        // Checked against an exempt list with another count of versions.
        .map(|(source, value)| (Source(source), Ban { spares: 0, ..Ban::from_bytes(value) }))
        .collect();
    bans.sort_unstable_by_key(|(_, ban)| std::cmp::Reverse(ban.until_ns));
    bans.truncate(room as usize);
    Banned::open(pins)?.write(pins, &bans)?;
    lists::copy(other, pins)?;
    Ok(bans.len())
}
