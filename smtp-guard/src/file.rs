//! One way to read a file that somebody else writes: certificates, recipients, block lists, the configuration.
//!
//! Nothing that stands at the path can stop the guard:
//!
//! - The file is opened without blocking: a FIFO would wait for a writer.
//! - It must be a regular file: a device may have no end.
//! - It is read up to a bound.
//! - A thread of its own reads it, and is waited for only so long: a network file system may stall for ever.
//!
//! A thread that was given up ends when its system call does. Until then the same path is not tried again, so there is at
//! most one such thread for each path in the configuration.

use std::collections::BTreeSet;
use std::fs::{File, FileType, OpenOptions};
use std::io::{self, Read as _, Take};
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::mpsc::sync_channel;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rustix::fs::OFlags;

use crate::stamp::{self, Stamp};

/// How long a small file may take.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// Why a file was not read.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("it is a {0}, not a regular file")]
    NotRegular(&'static str),
    #[error("it has more than {0} bytes")]
    TooLarge(u64),
    #[error("it changed while it was read; write it under another name and rename it")]
    Changed,
    #[error("it could not be read within {} s: its file system does not answer", .0.as_secs())]
    Late(Duration),
    #[error("an earlier attempt to read it has not ended yet: its file system does not answer")]
    Stuck,
}

impl FileError {
    /// Whether there is no such file.
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Io(error) if error.kind() == io::ErrorKind::NotFound)
    }

    /// Whether this user may not read it.
    pub fn is_denied(&self) -> bool {
        matches!(self, Self::Io(error) if error.kind() == io::ErrorKind::PermissionDenied)
    }
}

/// Paths that are being read, those included that were given up.
static UNDER_WAY: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

/// The content of the file at `path`, of at most `most` bytes, and what the file was then. Blocks for [`PATIENCE`] at most,
/// so it is not for a runtime thread.
pub fn read(path: &Path, most: u64) -> Result<(Vec<u8>, Stamp), FileError> {
    let (bytes, stamp) = read_by(path, most, PATIENCE, |mut file| {
        let mut bytes = Vec::with_capacity(usize::try_from(file.limit()).unwrap_or_default().saturating_add(1));
        file.read_to_end(&mut bytes).map(|_| bytes)
    })?;
    Ok((bytes?, stamp))
}

/// Reads the file at `path`, of at most `most` bytes, by `take`; also returns the file's identity then. `take` runs in a thread of its
/// own. Blocks for `patience` at most.
pub fn read_by<T: Send + 'static>(
    path: &Path,
    most: u64,
    patience: Duration,
    take: impl FnOnce(Take<File>) -> T + Send + 'static,
) -> Result<(T, Stamp), FileError> {
    let under_way = UnderWay::begin(path)?;
    let (sender, receiver) = sync_channel(1);
    let path = path.to_owned();
    std::thread::Builder::new().name("file".to_owned()).spawn(move || {
        let result = read_here(&path, most, take);
        drop(under_way);
        // Nobody may wait for it any more.
        let _ = sender.send(result);
    })?;
    receiver.recv_timeout(patience).unwrap_or(Err(FileError::Late(patience)))
}

fn read_here<T>(path: &Path, most: u64, take: impl FnOnce(Take<File>) -> T) -> Result<(T, Stamp), FileError> {
    let flags = i32::try_from((OFlags::NONBLOCK | OFlags::NOCTTY).bits()).unwrap_or_default();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    let data = file.metadata()?;
    if !data.is_file() {
        return Err(FileError::NotRegular(kind(data.file_type())));
    }
    if data.len() > most {
        return Err(FileError::TooLarge(most));
    }
    let stamp = stamp::of_data(&data);
    // Of a file that grows meanwhile no more is read than was announced.
    let taken = take(file.take(data.len()));
    if stamp::of(path) != Some(stamp) {
        return Err(FileError::Changed);
    }
    Ok((taken, stamp))
}

fn kind(of: FileType) -> &'static str {
    if of.is_dir() {
        "directory"
    } else if of.is_fifo() {
        "FIFO"
    } else {
        "device"
    }
}

/// The entry of a path in [`UNDER_WAY`]; taken out when dropped.
struct UnderWay(PathBuf);

impl UnderWay {
    /// Waits for another reader of the same path no longer than that may take itself.
    fn begin(path: &Path) -> Result<Self, FileError> {
        let begun = std::time::Instant::now();
        while !UNDER_WAY.lock().unwrap_or_else(PoisonError::into_inner).insert(path.to_owned()) {
            if begun.elapsed() > PATIENCE {
                return Err(FileError::Stuck);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(Self(path.to_owned()))
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        UNDER_WAY.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use rustix::fs::{CWD, Mode, mknodat};

    use super::*;

    /// A path with this content is read like this.
    fn check(make: impl FnOnce(&Path), expected: Result<&str, &str>) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        make(&path);
        let found = read(&path, 10).map(|(bytes, _)| String::from_utf8(bytes).unwrap()).map_err(|e| e.to_string());
        match expected {
            Ok(text) => assert_eq!(found.as_deref(), Ok(text)),
            Err(words) => assert!(found.as_ref().is_err_and(|error| error.contains(words)), "{words}: {found:?}"),
        }
    }

    #[test]
    fn d2_whatever_stands_there_is_read_or_refused_at_once() {
        check(|path| fs::write(path, "content").unwrap(), Ok("content"));
        check(|path| fs::write(path, "").unwrap(), Ok(""));
        check(|path| fs::write(path, "content that is long").unwrap(), Err("more than 10 bytes"));
        check(|_| {}, Err("No such file"));
        check(|path| fs::create_dir(path).unwrap(), Err("a directory, not"));
        check(|path| mknodat(CWD, path, rustix::fs::FileType::Fifo, Mode::RUSR, 0).unwrap(), Err("a FIFO, not"));
        check(|path| symlink("/dev/zero", path).unwrap(), Err("a device, not"));
        check(|path| symlink("/dev/null", path).unwrap(), Err("not a regular file"));
        check(|path| drop(std::os::unix::net::UnixListener::bind(path).unwrap()), Err("No such device"));
        check(|path| symlink(path.with_extension("nowhere"), path).unwrap(), Err("No such file"));
    }

    #[test]
    fn d2_a_file_system_that_stalls_is_given_up_and_tried_again_when_it_answers() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, "content").unwrap();
        let (answer, stalled) = std::sync::mpsc::channel();
        let late = read_by(&path, 10, Duration::from_millis(50), move |_| stalled.recv().unwrap());
        assert!(matches!(late, Err(FileError::Late(_))), "{late:?}");
        answer.send(()).unwrap();
        assert_eq!(read(&path, 10).unwrap().0, b"content", "once the first attempt has ended");
    }

    #[test]
    fn a_file_that_changes_meanwhile_is_no_file_yet() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, "content").unwrap();
        let changed = path.clone();
        let found = read_by(&path, 10, PATIENCE, move |_| fs::write(&changed, "more").unwrap());
        assert!(matches!(found, Err(FileError::Changed)), "{found:?}");
    }
}
