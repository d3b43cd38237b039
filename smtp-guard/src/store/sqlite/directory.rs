//! The state directory: ours alone, and private.
//!
//! It holds addresses that clients asked for, so others may not read it. A guard that may be root writes it, so no link
//! in it is followed and nothing of another user's is touched.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

use super::StoreError;

/// The mode of a directory that we make; bits beyond it are taken from one that we have used.
const DIRECTORY: u32 = 0o750;
/// The mode of files.
const FILE: u32 = 0o600;
const LOCK: &str = "lock";
/// Bytes of the secret.
const SECRET: usize = 16;

/// Makes `directory` where it is missing; refuses one of another user.
pub(super) fn prepare(directory: &Path) -> Result<(), StoreError> {
    let failed = |source| StoreError::Directory { directory: directory.to_owned(), source };
    if !directory.exists() {
        DirBuilder::new().recursive(true).mode(DIRECTORY).create(directory).map_err(failed)?;
    }
    let data = fs::metadata(directory).map_err(failed)?;
    is_ours(directory, data.uid())?;
    // One that was ours before. (Any other may be /tmp, by mistake.)
    if data.mode() & 0o7777 & !DIRECTORY != 0 && directory.join(LOCK).exists() {
        fs::set_permissions(directory, Permissions::from_mode(data.mode() & DIRECTORY)).map_err(failed)?;
    }
    Ok(())
}

/// The lock that says that this guard has `directory`. The kernel lifts it when the process ends, however it ends.
pub(super) fn lock(directory: &Path) -> Result<File, StoreError> {
    let path = directory.join(LOCK);
    let mut file = open(&path)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            return Err(StoreError::InUse { directory: directory.to_owned(), holder: holder(&path) });
        }
        // It doesn't say that another guard is there: it is tried again.
        Err(TryLockError::Error(source)) => return Err(StoreError::Directory { directory: path, source }),
    }
    // For people; on a full disk it stays empty.
    let _ = file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id()));
    Ok(file)
}

/// Makes the file at `path` where it is missing, so that only we may read it. Others that SQLite puts beside it get its mode.
pub(super) fn own_file(path: &Path) -> Result<(), StoreError> {
    open(path)?;
    for suffix in ["-wal", "-shm"] {
        let beside = with_suffix(path, suffix);
        if beside.symlink_metadata().is_ok() {
            open(&beside)?;
        }
    }
    Ok(())
}

/// The secret of this installation, made where there is none. Where it can't be kept there is one for this run: what was counted
/// before can't be compared with it then.
pub(super) fn secret(directory: &Path) -> [u8; SECRET] {
    kept_secret(&directory.join("secret")).unwrap_or_else(|error| {
        tracing::warn!(%error, "the secret that addresses are counted under can't be kept: counts don't survive a restart");
        fresh_secret().unwrap_or_default()
    })
}

fn kept_secret(path: &Path) -> Result<[u8; SECRET], StoreError> {
    let failed = |source| StoreError::Directory { directory: path.to_owned(), source };
    let mut file = open(path)?;
    let mut secret = [0; SECRET];
    match file.read_exact(&mut secret) {
        Ok(()) => Ok(secret),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            let secret = fresh_secret().map_err(failed)?;
            file.set_len(0).and_then(|()| file.rewind()).and_then(|()| file.write_all(&secret)).map_err(failed)?;
            Ok(secret)
        }
        Err(error) => Err(failed(error)),
    }
}

fn fresh_secret() -> io::Result<[u8; SECRET]> {
    let mut secret = [0; SECRET];
    File::open("/dev/urandom")?.read_exact(&mut secret)?;
    Ok(secret)
}

/// `decisions.db` and `-wal` make `decisions.db-wal`.
pub(super) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn open(path: &Path) -> Result<File, StoreError> {
    let failed = |source| StoreError::Directory { directory: path.to_owned(), source };
    let flags = i32::try_from((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits()).unwrap_or_default();
    let mut options = OpenOptions::new();
    options.create(true).truncate(false).read(true).write(true).mode(FILE).custom_flags(flags);
    let file = options.open(path).map_err(|error| match error.raw_os_error() {
        // ELOOP: a link. ENXIO: a socket, or a FIFO.
        Some(libc::ELOOP | libc::ENXIO) => StoreError::NotRegular { path: path.to_owned() },
        _ => failed(error),
    })?;
    let data = file.metadata().map_err(failed)?;
    if !data.is_file() {
        return Err(StoreError::NotRegular { path: path.to_owned() });
    }
    is_ours(path, data.uid())?;
    if data.mode() & 0o7777 != FILE {
        file.set_permissions(Permissions::from_mode(FILE)).map_err(failed)?;
    }
    Ok(file)
}

fn is_ours(path: &Path, owner: u32) -> Result<(), StoreError> {
    let user = rustix::process::geteuid().as_raw();
    if owner == user { Ok(()) } else { Err(StoreError::Foreign { path: path.to_owned(), owner, user }) }
}

/// The holder of the lock on `path`, in words: the kernel names it, for processes of this PID namespace.
fn holder(path: &Path) -> String {
    let inode = fs::metadata(path).map(|data| data.ino()).unwrap_or_default();
    let locks = fs::read_to_string("/proc/locks").unwrap_or_default();
    match locks.lines().find_map(|line| process(line, inode)) {
        Some(pid) => {
            let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            format!("process {pid} ({})", name.trim())
        }
        None => format!("process {}", fs::read_to_string(path).unwrap_or_default().trim()),
    }
}

/// The process of a line like `1: FLOCK  ADVISORY  WRITE 708 08:02:1234 0 EOF` that is about `inode`.
fn process(line: &str, inode: u64) -> Option<u32> {
    let words: Vec<_> = line.split_whitespace().collect();
    let about: u64 = words.get(5)?.rsplit(':').next()?.parse().ok()?;
    (words.get(1) == Some(&"FLOCK") && about == inode).then(|| words.get(4)?.parse().ok())?
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o777
    }

    #[test]
    fn e1_directory_and_files_are_private_also_those_of_an_older_version() {
        let folder = tempfile::tempdir().unwrap();
        let directory = folder.path().join("a/state");
        prepare(&directory).unwrap();
        assert_eq!(mode(&directory) & !0o750, 0);
        let database = directory.join("decisions.db");
        for name in ["decisions.db", "decisions.db-wal", "lock"] {
            fs::write(directory.join(name), "").unwrap();
            fs::set_permissions(directory.join(name), Permissions::from_mode(0o644)).unwrap();
        }
        fs::set_permissions(&directory, Permissions::from_mode(0o755)).unwrap();
        prepare(&directory).unwrap();
        drop(lock(&directory).unwrap());
        own_file(&database).unwrap();
        assert_eq!(mode(&directory), 0o750);
        for name in ["decisions.db", "decisions.db-wal", "lock"] {
            assert_eq!(mode(&directory.join(name)), 0o600, "{name}");
        }
        let strange = folder.path().join("strange");
        fs::create_dir(&strange).unwrap();
        fs::set_permissions(&strange, Permissions::from_mode(0o1777)).unwrap();
        prepare(&strange).unwrap();
        assert_eq!(mode(&strange), 0o777, "a directory that was never ours keeps its mode");
    }

    #[test]
    fn b4_the_secret_is_kept_private_and_another_one_elsewhere() {
        let [one, other] = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let secret = super::secret(one.path());
        assert_eq!(super::secret(one.path()), secret);
        assert_ne!(super::secret(other.path()), secret);
        assert_eq!(mode(&one.path().join("secret")), 0o600);
        fs::write(other.path().join("secret"), "short").unwrap();
        let again = super::secret(other.path());
        assert_eq!(super::secret(other.path()), again, "one that was cut short is made anew");
    }

    #[test]
    fn e2_a_lock_that_can_not_be_had_is_said_with_its_holder() {
        let folder = tempfile::tempdir().unwrap();
        let _held = lock(folder.path()).unwrap();
        let error = lock(folder.path()).unwrap_err().to_string();
        assert!(error.contains(&format!("process {} (", std::process::id())), "{error}");
        for (line, inode, expected) in [
            ("1: FLOCK  ADVISORY  WRITE 708 08:02:1234 0 EOF", 1234, Some(708)),
            ("1: FLOCK  ADVISORY  WRITE 708 08:02:1234 0 EOF", 123, None),
            ("1: POSIX  ADVISORY  WRITE 708 08:02:1234 0 EOF", 1234, None),
            ("", 0, None),
        ] {
            assert_eq!(process(line, inode), expected, "{line}");
        }
    }

    #[test]
    fn e3_nothing_of_others_is_touched_and_no_link_is_followed() {
        let folder = tempfile::tempdir().unwrap();
        let precious = folder.path().join("precious");
        fs::write(&precious, "precious").unwrap();
        for name in [LOCK, "decisions.db", "decisions.db-wal"] {
            let directory = tempfile::tempdir().unwrap();
            symlink(&precious, directory.path().join(name)).unwrap();
            let locked = lock(directory.path());
            let owned = own_file(&directory.path().join("decisions.db"));
            let refused = [locked.err(), owned.err()].into_iter().flatten().map(|error| error.to_string());
            let refused: Vec<_> = refused.collect();
            assert!(refused.len() == 1 && refused[0].contains("not a regular file"), "{name}: {refused:?}");
            assert_eq!(fs::read_to_string(&precious).unwrap(), "precious", "{name}");
        }
        let user = rustix::process::geteuid().as_raw();
        assert!(is_ours(&precious, user).is_ok());
        let error = is_ours(&precious, user + 1).unwrap_err().to_string();
        assert!(error.contains(&format!("belongs to user {}", user + 1)), "{error}");
    }
}
