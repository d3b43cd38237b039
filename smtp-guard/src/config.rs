//! The files that the configuration is read from. What it means is `smtp_guard_core::config`.

use std::path::{Path, PathBuf};
use std::{env, io};

pub use smtp_guard_core::config::*;

use crate::file::{self, FileError};

/// Names the configuration where the command line doesn't.
pub const CONFIG_VARIABLE: &str = "SMTP_GUARD_CONFIG";
/// Where the configuration is when neither says.
pub const DEFAULT_PATH: &str = "/etc/smtp-guard/smtp-guard.toml";

/// Bytes of a configuration, drop-ins included.
pub const FILE_BYTES: u64 = 1 << 20;
/// Drop-ins of a configuration.
const DROP_INS: usize = 64;

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("{}: {source}; {}", path.display(), advice(source))]
    Read { path: PathBuf, source: FileError },
    #[error(transparent)]
    Bad(#[from] Report),
}

/// The next step where a configuration can't be read.
pub(crate) fn advice(source: &FileError) -> String {
    if source.is_denied() {
        return String::from(
            "run this as root, or as a member of the file's group (`namei -l` shows owners and modes)",
        );
    }
    if let FileError::NotRegular(kind) = source {
        return format!("name a file, not a {kind}");
    }
    format!("the file is named by --config, else by ${CONFIG_VARIABLE}, else it is {DEFAULT_PATH}")
}

/// The configuration in the file `path` and its drop-ins.
pub fn load(path: &Path) -> Result<Config, ConfigError> {
    Ok(Config::merged(&files(path)?, &machine())?)
}

/// The file `path` and its drop-ins, whatever they say. The drop-ins are what [`drop_in_directory`] holds that ends in `.toml`, in the
/// order of their names; what begins with a dot is left out.
pub fn files(path: &Path) -> Result<Vec<ConfigFile>, ConfigError> {
    let mut left = FILE_BYTES;
    let mut read = |path: &Path| -> Result<ConfigFile, ConfigError> {
        let failed = |source| ConfigError::Read { path: path.to_owned(), source };
        let (bytes, _) = file::read(path, left).map_err(failed)?;
        left = left.saturating_sub(bytes.len() as u64);
        let text = String::from_utf8(bytes).map_err(|error| failed(io::Error::other(error.utf8_error()).into()))?;
        Ok(ConfigFile { path: path.to_owned(), text })
    };
    let main = read(path)?;
    let drop_ins = drop_ins(path)?;
    std::iter::once(Ok(main)).chain(drop_ins.iter().map(|path| read(path))).collect()
}

/// Where the drop-ins of the file `path` are: `/etc/smtp-guard/smtp-guard.toml.d`.
pub fn drop_in_directory(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".d");
    name.into()
}

/// The drop-ins of the file `path`, in their order.
fn drop_ins(path: &Path) -> Result<Vec<PathBuf>, ConfigError> {
    let directory = drop_in_directory(path);
    let failed = |source: io::Error| ConfigError::Read { path: directory.clone(), source: source.into() };
    let entries = match std::fs::read_dir(&directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(error)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.map_err(failed)?.path();
        let hidden = path.file_name().is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
        if hidden || path.extension().is_none_or(|extension| extension != "toml") {
            continue;
        }
        if found.len() == DROP_INS {
            return Err(failed(io::Error::other(format!("it has more than {DROP_INS} drop-ins"))));
        }
        found.push(path);
    }
    found.sort_unstable();
    Ok(found)
}

/// The file that the command line or [`CONFIG_VARIABLE`] named, else [`DEFAULT_PATH`] if it is there, else
/// [`Config::builtin_on`] this machine.
pub fn find(path: Option<&Path>) -> Result<(Config, Origin), ConfigError> {
    let (path, named) = match path {
        Some(path) => (path, true),
        None => (Path::new(DEFAULT_PATH), false),
    };
    match load(path) {
        Ok(config) => Ok((config, Origin::File(path.to_owned()))),
        Err(ConfigError::Read { source, .. }) if !named && source.is_missing() => {
            Ok((Config::builtin_on(&machine()), Origin::Builtin))
        }
        Err(error) => Err(error),
    }
}

/// The file that [`find`] reads where `path` is named, or nothing: an absolute path.
pub fn named(path: Option<&Path>) -> PathBuf {
    let path = path.unwrap_or(Path::new(DEFAULT_PATH));
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

/// The admin socket of the guard that was started with the file that [`find`] finds, also where that can't be used any more: then
/// as far as it can be read.
pub fn find_socket(path: Option<&Path>) -> Result<(PathBuf, Option<String>), ConfigError> {
    let file = path.unwrap_or(Path::new(DEFAULT_PATH));
    match find(path) {
        Ok((config, origin)) => Ok((config.admin.socket, origin.missing())),
        Err(ConfigError::Bad(_)) => {
            let socket = files(file)?.iter().rev().find_map(|file| {
                let (document, _) = toml::de::DeTable::parse_recoverable(&file.text);
                let admin = document.get_ref().get("admin")?.get_ref().as_table()?;
                admin.get("socket")?.get_ref().as_str().map(PathBuf::from)
            });
            Ok((socket.unwrap_or_else(|| Admin::default().socket), None))
        }
        Err(error) => Err(error),
    }
}

/// This machine, and this user's directory on it.
pub fn machine() -> Machine {
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    Machine { name, directory: user_directory() }
}

/// `$XDG_STATE_HOME/smtp-guard`, else `~/.local/state/smtp-guard`, else a directory of the user's own below `/tmp`.
fn user_directory() -> PathBuf {
    let absolute = |name| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    if let Some(state) = absolute("XDG_STATE_HOME") {
        return state.join("smtp-guard");
    }
    if let Some(home) = absolute("HOME") {
        return home.join(".local/state/smtp-guard");
    }
    let user = rustix::process::geteuid().as_raw();
    env::temp_dir().join(format!("smtp-guard-{user}"))
}

/// Where a configuration came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    File(PathBuf),
    /// No file: see [`Config::builtin`].
    Builtin,
}

impl Origin {
    /// Where a file was looked for in vain; `None` where there is one.
    pub fn missing(&self) -> Option<String> {
        match self {
            Self::File(_) => None,
            Self::Builtin => Some(format!(
                "neither --config nor ${CONFIG_VARIABLE} names a configuration, and there is no {DEFAULT_PATH}"
            )),
        }
    }
}

#[cfg(test)]
mod written {
    use std::fmt::Write as _;

    use super::*;
    use crate::bound::Bound;
    use crate::written::check;

    #[test]
    fn what_is_written_from_the_tables_is_up_to_date() {
        check("packaging/smtp-guard.toml", &keys::packaged());
        let mut reference = keys::reference();
        reference.push_str(
            "\n# Bounds\n\nEach is counted in `smtp_guard_bound_reached_total` when it is reached, and `smtp-guard status` shows it.\n\n\
             | bound | of what, and what happens beyond |\n|---|---|\n",
        );
        for bound in Bound::ALL {
            writeln!(reference, "| `{}` | {} |", bound.label(), bound.text()).unwrap();
        }
        check("docs/configuration.md", &reference);
    }

    /// The table of ARCHITECTURE.md says how large each is, which no other table does.
    #[test]
    fn what_bounds_what_has_every_bound() {
        let page = std::fs::read_to_string(crate::written::path("ARCHITECTURE.md")).unwrap();
        let (_, table) = page.split_once("### What bounds what").unwrap();
        let (table, _) = table.split_once("\n## ").unwrap();
        for bound in Bound::ALL {
            assert!(
                table.contains(&format!("`{}`", bound.label())),
                "ARCHITECTURE.md has no row for {}",
                bound.label()
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_file_that_cannot_be_read_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let missing = directory.path().join("missing.toml");
        let error = load(&missing).unwrap_err().to_string();
        assert!(error.contains("missing.toml") && error.contains("--config"), "{error}");
        let large = directory.path().join("large.toml");
        fs::write(&large, "#".repeat(FILE_BYTES as usize + 1)).unwrap();
        assert!(matches!(load(&large), Err(ConfigError::Read { source: FileError::TooLarge(_), .. })));
    }

    /// `files` finds these beside a main file, by name, where the directory of drop-ins has `names`.
    #[track_caller]
    fn check(names: &[&str], expected: Result<&[&str], &str>) {
        let directory = tempfile::tempdir().unwrap();
        let main = directory.path().join("guard.toml");
        fs::write(&main, "").unwrap();
        fs::create_dir(drop_in_directory(&main)).unwrap();
        for name in names {
            fs::write(drop_in_directory(&main).join(name), "").unwrap();
        }
        match (files(&main), expected) {
            (Ok(found), Ok(expected)) => {
                let found: Vec<_> = found.iter().map(|file| file.path.file_name().unwrap().to_str().unwrap()).collect();
                assert_eq!(found[0], "guard.toml");
                assert_eq!(found[1..], *expected);
            }
            (Err(error), Err(expected)) => assert!(error.to_string().contains(expected), "{error}"),
            (found, expected) => panic!("{found:?}, {expected:?}"),
        }
    }

    #[test]
    fn drop_ins_are_found_in_the_order_of_their_names() {
        check(&[], Ok(&[]));
        check(&["b.toml", "10-a.toml", "a.toml"], Ok(&["10-a.toml", "a.toml", "b.toml"]));
        check(&["a.toml~", "b.toml.dpkg-old", ".c.toml", ".d.toml.swp", "e"], Ok(&[]));
        let many: Vec<_> = (0..DROP_INS).map(|number| format!("{number:03}.toml")).collect();
        let mut many: Vec<_> = many.iter().map(String::as_str).collect();
        check(&many, Ok(&many));
        many.push("one-more.toml");
        check(&many, Err("more than 64 drop-ins"));
    }

    #[test]
    fn drop_ins_are_bounded_together() {
        let directory = tempfile::tempdir().unwrap();
        let main = directory.path().join("guard.toml");
        fs::write(&main, "#".repeat(FILE_BYTES as usize - 10)).unwrap();
        fs::create_dir(drop_in_directory(&main)).unwrap();
        let drop_in = drop_in_directory(&main).join("a.toml");
        fs::write(&drop_in, "#".repeat(10)).unwrap();
        assert_eq!(files(&main).unwrap().len(), 2);
        fs::write(&drop_in, "#".repeat(11)).unwrap();
        let error = files(&main).unwrap_err();
        assert!(error.to_string().contains("a.toml"), "{error}");
        assert!(matches!(error, ConfigError::Read { source: FileError::TooLarge(_), .. }));
    }

    #[test]
    fn a_socket_is_found_in_bad_files() {
        let directory = tempfile::tempdir().unwrap();
        let main = directory.path().join("guard.toml");
        fs::write(&main, "x = 1\nadmin.socket = \"/one\"\n").unwrap();
        assert_eq!(find_socket(Some(&main)).unwrap().0, Path::new("/one"));
        fs::create_dir(drop_in_directory(&main)).unwrap();
        fs::write(drop_in_directory(&main).join("a.toml"), "[admin]\nsocket = \"/two\"\n[\n").unwrap();
        assert_eq!(find_socket(Some(&main)).unwrap().0, Path::new("/two"));
    }
}
