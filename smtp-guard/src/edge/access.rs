//! Access to the pinned maps: root, and the group that the proxy runs in.
//!
//! A process without capabilities may read and write a map whose file it may open (since Linux 5.19, where
//! kernel.unprivileged_bpf_disabled is set). So the maps that the proxy uses are handed to its group; links and programs,
//! which could take the filter away, stay root's alone.

use std::fmt;
use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::Path;

use nix::unistd::Group;

use super::error::EdgeError;
use super::pins::{MAPS, Pins};

/// Maps that only the programs use. The proxy opens all others.
const OF_PROGRAMS: [&str; 2] = ["CLOCK", "COUNTED"];

/// The outcome of [`grant`].
pub(super) enum Granted {
    /// The group may open the maps. `passage` is a directory on the way that was opened for everybody to pass.
    To { group: String, passage: Option<String> },
    /// There is no such group: only root may.
    NoGroup { group: String },
    /// None is configured: only root may.
    Nobody,
}

impl fmt::Display for Granted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::To { group, passage } => {
                write!(f, "open to root and to group {group}")?;
                passage.as_ref().map_or(Ok(()), |path| write!(f, "; {path} may be passed by everybody now"))
            }
            Self::NoGroup { group } => write!(f, "open to root only, since there is no group {group} (edge.group)"),
            Self::Nobody => write!(f, "open to root only"),
        }
    }
}

/// Hands the maps to `group`, by name or number; where it is empty, only root may open them.
pub(super) fn grant(pins: &Pins, group: &str) -> Result<Granted, EdgeError> {
    if group.is_empty() {
        set(pins, 0, 0)?;
        return Ok(Granted::Nobody);
    }
    let Some(number) = number(group) else {
        set(pins, 0, 0)?;
        return Ok(Granted::NoGroup { group: group.to_owned() });
    };
    set(pins, number, 0o060)?;
    let mut passage = None;
    for directory in pins.directory().ancestors().skip(2) {
        let Ok(metadata) = fs::metadata(directory) else { break };
        // The file system is mounted for root alone in most systems. To pass a directory isn't to read it.
        if metadata.mode() & 0o001 == 0 && super::pins::on_bpffs(directory) {
            let mode = Permissions::from_mode(metadata.mode() & 0o7777 | 0o011);
            fs::set_permissions(directory, mode).map_err(EdgeError::pin("opening the way to", directory))?;
            passage = Some(directory.display().to_string());
        }
    }
    Ok(Granted::To { group: group.to_owned(), passage })
}

/// Gives directory and maps to group `number`, with `bits` for it.
fn set(pins: &Pins, number: u32, bits: u32) -> Result<(), EdgeError> {
    let hand = |path: &Path, mode: u32| {
        let done = chown(path, None, Some(number));
        done.and_then(|()| fs::set_permissions(path, Permissions::from_mode(mode)))
            .map_err(EdgeError::pin("handing over", path))
    };
    if let Some(parent) = pins.directory().parent() {
        // To be passed, not read: who can open it can lock out those that load.
        hand(parent, if bits == 0 { 0o700 } else { 0o710 })?;
    }
    hand(pins.directory(), 0o700 | if bits == 0 { 0 } else { 0o050 })?;
    let shared = MAPS.iter().filter(|map| !OF_PROGRAMS.contains(map));
    shared.into_iter().try_for_each(|map| hand(&pins.map(map), 0o600 | bits))
}

fn number(group: &str) -> Option<u32> {
    if let Ok(number) = group.parse() {
        return Some(number);
    }
    Group::from_name(group).ok().flatten().map(|group| group.gid.as_raw())
}
