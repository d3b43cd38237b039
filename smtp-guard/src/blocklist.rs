//! The I/O of block lists: a file that is read whole or not at all, and the addresses of this host.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

pub use smtp_guard_core::blocklist::*;

use crate::bound::Bound;
use crate::file::{self, FileError};
use crate::stamp::Stamp;

/// Why a list was refused as a whole.
#[derive(Debug, thiserror::Error)]
pub enum ListError {
    #[error("cannot read the block list {path}: {source}; check [[blocklist]] file, and who may read it", path = .path.display())]
    Read { path: PathBuf, source: FileError },
    #[error("the block list {path} can't be used: {fault}", path = .path.display())]
    Content { path: PathBuf, fault: Fault },
}

impl ListError {
    /// The bound that was reached, if that is why.
    pub fn bound(&self) -> Option<Bound> {
        match self {
            Self::Read { source: FileError::TooLarge(_), .. } => Some(Bound::BlocklistFile),
            Self::Content { fault: Fault::TooMany | Fault::TooManyTogether, .. } => Some(Bound::BlocklistEntries),
            _ => None,
        }
    }

    /// Whether another look at the same file may end otherwise.
    pub fn is_passing(&self) -> bool {
        matches!(self, Self::Read { source: FileError::Changed | FileError::Late(_) | FileError::Stuck, .. })
    }
}

/// Reads the list in `path`, and what the file was then. Takes about half a second for a million entries, so it is not
/// for a thread that others wait for.
pub fn load(path: &Path, protected: &Protected) -> Result<(List, Stamp), ListError> {
    let (bytes, stamp) =
        file::read(path, MAX_FILE).map_err(|source| ListError::Read { path: path.to_owned(), source })?;
    let list = parse(&bytes, protected).map_err(|fault| ListError::Content { path: path.to_owned(), fault })?;
    Ok((list, stamp))
}

/// The addresses of this host's interfaces, and of its default gateways. What can't be learned is said in the log, and the rest
/// is protected.
pub fn own_addresses() -> Vec<IpAddr> {
    let interfaces = if_addrs::get_if_addrs().unwrap_or_else(|error| {
        tracing::warn!(%error, "the addresses of this host can't be read: no block list is held against them");
        Vec::new()
    });
    let own = interfaces.iter().map(if_addrs::Interface::ip);
    own.chain(crate::routes::default_routes().into_iter().filter_map(|route| route.gateway)).collect()
}
