//! The admin socket as a file: who may open it, and that only one guard has it.
//!
//! A lock on `<socket>.lock`, held as long as the process lives, tells whether another guard runs. The kernel lifts it
//! even after SIGKILL. So a socket file that a dead guard left behind is recognised without guessing, and two guards that
//! start together can't both win. The lock file stays: removing it would let two guards lock two files.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io;
use std::os::unix::fs::{
    DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _,
};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use tokio::net::UnixListener;

/// Why the admin socket can't be had.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    #[error("another instance is running: it answers at {}; stop it first, or set another admin.socket", .0.display())]
    AnotherInstance(PathBuf),
    #[error("admin.socket {}: there is something that isn't a socket; remove it, or set another path", .0.display())]
    NotASocket(PathBuf),
    #[error("admin.socket {}: its directory belongs to user {owner}, who could take the socket's place; choose a directory of your own", path.display())]
    Foreign { path: PathBuf, owner: u32 },
    #[error("admin.socket {}: {source}; the directory must be writable for the guard's user", path.display())]
    Io { path: PathBuf, source: io::Error },
}

/// The bound socket of this, the only guard on it.
#[derive(Debug)]
pub struct Socket {
    listener: UnixListener,
    file: SocketFile,
}

/// Removes the socket when the guard ends, if it still is the one it made.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    inode: u64,
    _lock: File,
}

impl Socket {
    /// Binds `path` with mode 0660, after removing the socket of a dead guard. Makes the directory of `path` (mode
    /// 0750) where it is missing. To be called inside the tokio runtime.
    pub fn bind(path: &Path) -> Result<Self, SocketError> {
        let io = |source| SocketError::Io { path: path.to_owned(), source };
        let directory = match path.parent() {
            Some(directory) if !directory.as_os_str().is_empty() => directory,
            _ => Path::new("."),
        };
        if !directory.exists() {
            let mut builder = DirBuilder::new();
            builder.recursive(true).mode(0o750).create(directory).map_err(io)?;
        }
        let owner = fs::metadata(directory).map_err(io)?.uid();
        if !trusted(owner, rustix::process::geteuid().as_raw()) {
            let path = path.to_owned();
            return Err(SocketError::Foreign { path, owner });
        }
        let lock = lock(path).map_err(io)?;
        let Some(lock) = lock else {
            return Err(SocketError::AnotherInstance(path.to_owned()));
        };
        match fs::symlink_metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(io(error)),
            Ok(meta) if !meta.file_type().is_socket() => return Err(SocketError::NotASocket(path.to_owned())),
            // Somebody without our lock may still listen there.
            Ok(_) if UnixStream::connect(path).is_ok() => return Err(SocketError::AnotherInstance(path.to_owned())),
            Ok(_) => fs::remove_file(path).map_err(io)?,
        }
        // Bound under another name first, so that nobody can connect before the mode is set.
        let fresh = with_suffix(path, ".new");
        _ = fs::remove_file(&fresh);
        let listener = UnixListener::bind(&fresh).map_err(io)?;
        let inode = fs::set_permissions(&fresh, Permissions::from_mode(0o660))
            .and_then(|()| fs::rename(&fresh, path))
            .and_then(|()| fs::symlink_metadata(path))
            .map_err(io)?
            .ino();
        let path = path.to_owned();
        let file = SocketFile { path, inode, _lock: lock };
        Ok(Self { listener, file })
    }

    pub(super) fn into_parts(self) -> (UnixListener, SocketFile) {
        (self.listener, self.file)
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if fs::symlink_metadata(&self.path).is_ok_and(|m| m.ino() == self.inode)
            && let Err(error) = fs::remove_file(&self.path)
        {
            tracing::warn!(socket = %self.path.display(), %error, "the admin socket could not be removed");
        }
    }
}

/// Whether `user` may keep its socket in a directory of `owner`. (Root looks after itself.)
fn trusted(owner: u32, user: u32) -> bool {
    owner == user || owner == 0 || user == 0
}

/// The lock of `path`, or `None` where another process holds it.
fn lock(path: &Path) -> io::Result<Option<File>> {
    let file =
        OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(with_suffix(path, ".lock"))?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_dead_guards_socket_is_replaced_and_a_live_one_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("run/admin.sock");
        let first = Socket::bind(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
        assert!(matches!(Socket::bind(&path), Err(SocketError::AnotherInstance(_))));
        drop(first);
        assert!(!path.exists());
        // What SIGKILL leaves behind: the file, without anybody listening.
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        drop(Socket::bind(&path).unwrap());
        // A stranger that listens without our lock.
        let stranger = std::os::unix::net::UnixListener::bind(&path).unwrap();
        assert!(matches!(Socket::bind(&path), Err(SocketError::AnotherInstance(_))));
        drop(stranger);
        fs::remove_file(&path).unwrap();
        fs::write(&path, "precious").unwrap();
        assert!(matches!(Socket::bind(&path), Err(SocketError::NotASocket(_))));
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    }

    #[test]
    fn a_directory_of_somebody_else_is_not_trusted() {
        for (owner, user, expected) in [(1000, 1000, true), (0, 1000, true), (1001, 1000, false), (1001, 0, true)] {
            assert_eq!(trusted(owner, user), expected, "{owner} {user}");
        }
    }
}
