//! The I/O of lists: a file that is read whole or not at all, and the addresses of this host.

use std::fs::File;
use std::io::{self, Read as _};
use std::net::IpAddr;
use std::path::Path;

use super::MAX_FILE;
use super::fault::ListError;
use super::list::{List, parse};
use super::protected::Protected;
use crate::stamp::Stamp;

/// Reads the list in `path`, and what the file was then. Takes about half a second for a million entries, so it is not
/// for a thread that others wait for.
pub fn load(path: &Path, protected: &Protected) -> Result<(List, Stamp), ListError> {
    let failed = |source| ListError::Read { path: path.to_owned(), source };
    let file = File::open(path).map_err(failed)?;
    let data = file.metadata().map_err(failed)?;
    if !data.is_file() {
        return Err(failed(io::Error::other("it is not a regular file")));
    }
    if data.len() > MAX_FILE {
        return Err(ListError::TooLarge { path: path.to_owned() });
    }
    // Of a file that grows meanwhile no more is read than was announced.
    let mut bytes = Vec::with_capacity(usize::try_from(data.len()).unwrap_or_default().saturating_add(1));
    file.take(data.len()).read_to_end(&mut bytes).map_err(failed)?;
    let stamp = Stamp::from(&data);
    if Stamp::of(path) != Some(stamp) {
        return Err(ListError::Changed { path: path.to_owned() });
    }
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
