//! The I/O of lists: a file that is read whole or not at all, and the addresses of this host.

use std::net::IpAddr;
use std::path::Path;

use super::MAX_FILE;
use super::fault::ListError;
use super::list::{List, parse};
use super::protected::Protected;
use crate::file;
use crate::stamp::Stamp;

/// Reads the list in `path`, and what the file was then. Takes about half a second for a million entries, so it is not
/// for a thread that others wait for.
pub fn load(path: &Path, protected: &Protected) -> Result<(List, Stamp), ListError> {
    let (bytes, stamp) =
        file::read(path, MAX_FILE).map_err(|source| ListError::Read { path: path.to_owned(), source })?;
    let list = parse(&bytes, protected).map_err(|fault| ListError::Content { path: path.to_owned(), fault })?;
    Ok((list, stamp))
}

/// The addresses of this host's interfaces. What can't be learned is said in the log, and the rest is protected.
pub fn own_addresses() -> Vec<IpAddr> {
    match if_addrs::get_if_addrs() {
        Ok(interfaces) => interfaces.iter().map(if_addrs::Interface::ip).collect(),
        Err(error) => {
            tracing::warn!(%error, "the addresses of this host can't be read: no block list is held against them");
            Vec::new()
        }
    }
}
