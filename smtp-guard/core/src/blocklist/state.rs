//! The state of a list as it is told: in `status`, in metrics, and by the commands that read lists themselves.

use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::list::List;
use crate::clock::WallTime;

/// A list of the configuration, and how it stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    pub name: String,
    pub file: PathBuf,
    /// `None`: it was never read, so nothing of it is in force.
    pub read: Option<Read>,
    /// Why it could not be read when that was last tried; what was read before is in force.
    pub error: Option<String>,
}

/// The content that was read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Read {
    pub at: WallTime,
    pub format: String,
    /// Entries in force.
    pub entries: usize,
    /// Entries that were refused, by line in the log.
    pub refused: usize,
    /// Entries that are no bans of addresses.
    pub skipped: usize,
}

impl Read {
    /// The state of `list`, which was read at `at`.
    pub fn of(list: &List, at: WallTime) -> Self {
        Self {
            at,
            format: list.format.label().to_owned(),
            entries: list.len(),
            refused: list.refused,
            skipped: list.skipped,
        }
    }
}

/// `netset, 1523 entries, 2 refused`.
impl fmt::Display for Read {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { at: _, format, entries, refused, skipped } = self;
        write!(f, "{format}, {entries} {}", if *entries == 1 { "entry" } else { "entries" })?;
        for (count, what) in [(refused, "refused"), (skipped, "skipped")] {
            if *count > 0 {
                write!(f, ", {count} {what}")?;
            }
        }
        Ok(())
    }
}

/// One line without the name.
impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.read, &self.error) {
            (Some(read), None) => write!(f, "{read}"),
            (Some(read), Some(error)) => write!(f, "{read}; the old version stays: {error}"),
            (None, Some(error)) => write!(f, "not in force: {error}"),
            (None, None) => f.write_str("not read yet"),
        }
    }
}
