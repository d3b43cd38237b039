//! The table's file: replaced as a whole, with the owner and mode that it had; a new one belongs to the group of its directory.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, fchown};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use smtp_guard_core::facts::recipients::MAX_FILE;

use crate::file;

/// Read by the guard's group.
const MODE: u32 = 0o640;

/// Puts `text` in the place of the file at `path`; what became of it. Unless `force`, not where less than half of the entries that
/// there are would be left: that is a mail server which can't tell, more often than one with fewer users.
pub(super) fn replace(path: &Path, text: &str, force: bool) -> anyhow::Result<String> {
    let path = &target(path)?;
    let entries = entries(text);
    let before = match file::read(path, MAX_FILE) {
        Ok((before, _)) => Some(String::from_utf8_lossy(&before).into_owned()),
        Err(error) if error.is_missing() => None,
        Err(error) => return Err(error).context("what is there can't be read"),
    };
    if let Some(before) = &before {
        let count = self::entries(before);
        if entries * 2 < count && !force {
            bail!("{entries} entries would take the place of {count}: --force replaces it all the same");
        }
        if before == text {
            return Ok(format!("{entries} entries, as before"));
        }
    }
    write(path, text.as_bytes()).context("it can't be written")?;
    Ok(format!("{entries} entries"))
}

/// The file that `path` is a name of: a symbolic link stays one, and its target is replaced.
pub(in crate::cli) fn target(path: &Path) -> anyhow::Result<PathBuf> {
    if fs::symlink_metadata(path).is_ok_and(|data| data.is_symlink()) {
        return fs::canonicalize(path).context("it is a symbolic link, and its target can't be found");
    }
    Ok(path.to_owned())
}

fn entries(text: &str) -> usize {
    text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).count()
}

/// Writes the file at `path` as a whole: at every moment there is the old one or the new one.
pub(in crate::cli) fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_string_lossy();
    let fresh = path.with_file_name(format!(".{name}.{}", std::process::id()));
    let written = fill(&fresh, path, bytes).and_then(|()| fs::rename(&fresh, path));
    if written.is_err() {
        // Whatever is left of it is of no use.
        let _ = fs::remove_file(&fresh);
    }
    written
}

fn fill(fresh: &Path, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file: File = OpenOptions::new().write(true).create_new(true).mode(MODE).open(fresh)?;
    // Whoever may not give a file away has only his own anyway.
    if let Ok(before) = fs::metadata(path) {
        file.set_permissions(fs::Permissions::from_mode(before.mode() & 0o777))?;
        let _ = fchown(&file, Some(before.uid()), Some(before.gid()));
    } else if let Some(directory) = path.parent().and_then(|directory| fs::metadata(directory).ok()) {
        // That of /etc/smtp-guard is the guard's.
        let _ = fchown(&file, None, Some(directory.gid()));
    }
    file.write_all(bytes)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether a table of `before` entries is replaced by one of `after`.
    fn check(before: usize, after: usize, force: bool, replaced: bool) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("recipients");
        let text = |count: usize| (0..count).map(|n| format!("u{n}@example.org\n")).collect::<String>();
        if before > 0 {
            fs::write(&path, text(before)).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o604)).unwrap();
        }
        let done = replace(&path, &text(after), force);
        assert_eq!(done.is_ok(), replaced, "{before} {after} {done:?}");
        let expected = if replaced { after } else { before };
        assert_eq!(fs::read_to_string(&path).unwrap(), text(expected));
        let mode = fs::metadata(&path).unwrap().mode() & 0o777;
        assert_eq!(mode, if before > 0 { 0o604 } else { MODE });
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left beside it");
    }

    /// The file that `make` leaves at a path is reported like this, and holds this then.
    #[track_caller]
    fn check_there(make: impl FnOnce(&Path), force: bool, expected: Result<&str, &str>) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("recipients");
        make(&path);
        let before = fs::symlink_metadata(&path).unwrap().file_type();
        match (replace(&path, "a@example.org\n", force), expected) {
            (Ok(said), Ok(expected)) => {
                assert_eq!(said, expected);
                assert_eq!(fs::read_to_string(&path).unwrap(), "a@example.org\n");
            }
            (Err(error), Err(expected)) => assert!(format!("{error:#}").contains(expected), "{error:#}"),
            (done, _) => panic!("{done:?}"),
        }
        assert_eq!(fs::symlink_metadata(&path).unwrap().file_type(), before);
    }

    #[test]
    fn what_is_no_file_of_recipients_stays_and_a_link_stays_one() {
        let fifo = |path: &Path| assert!(std::process::Command::new("mkfifo").arg(path).status().unwrap().success());
        check_there(fifo, true, Err("it is a FIFO, not a regular file"));
        check_there(|path| fs::create_dir(path).unwrap(), true, Err("it is a directory, not a regular file"));
        let huge = |path: &Path| File::create(path).unwrap().set_len(MAX_FILE + 1).unwrap();
        check_there(huge, false, Err("it has more than"));
        let link = |to: &'static str| move |path: &Path| std::os::unix::fs::symlink(to, path).unwrap();
        check_there(link("/nowhere/recipients"), false, Err("its target can't be found"));
        check_there(link("/dev/null"), true, Err("it is a device, not a regular file"));
        let to_a_file = |path: &Path| {
            fs::write(path.with_file_name("target"), "").unwrap();
            std::os::unix::fs::symlink("target", path).unwrap();
        };
        check_there(to_a_file, false, Ok("1 entries"));
        check_there(|path| fs::write(path, b"\xff@example.org\n").unwrap(), false, Ok("1 entries"));
    }

    #[test]
    fn a_table_is_replaced_whole_and_never_by_half_of_it_unasked() {
        check(0, 3, false, true);
        check(10, 5, false, true);
        check(10, 4, false, false);
        check(10, 4, true, true);
        check(10, 10, false, true);
        check(10, 100, false, true);
    }
}
