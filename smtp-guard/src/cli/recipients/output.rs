//! The table's file: replaced as a whole, with the owner and mode that it had; a new one belongs to the group of its directory.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, fchown};
use std::path::Path;

use anyhow::{Context as _, bail};

/// Read by the guard's group.
const MODE: u32 = 0o640;

/// Puts `text` in the place of the file at `path`; what became of it. Unless `force`, not where less than half of the entries that
/// there are would be left: that is a mail server which can't tell, more often than one with fewer users.
pub(super) fn replace(path: &Path, text: &str, force: bool) -> anyhow::Result<String> {
    let entries = entries(text);
    let before = match fs::read_to_string(path) {
        Ok(before) => Some(before),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(error.into()),
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
