//! The stamp of a file: tells whether it is still the one that was read.

use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

pub use smtp_guard_core::stamp::Stamp;

/// The stamp of the file at `path`, if there is one.
pub fn of(path: &Path) -> Option<Stamp> {
    fs::metadata(path).ok().map(|data| of_data(&data))
}

/// The stamp of a file with this metadata.
pub fn of_data(data: &Metadata) -> Stamp {
    Stamp { inode: data.ino(), bytes: data.len(), seconds: data.mtime(), nanoseconds: data.mtime_nsec() }
}
