//! Where the configuration is read from; what it means is `smtp_guard_core::config`.

use std::path::{Path, PathBuf};
use std::{env, io};

pub use smtp_guard_core::config::*;

use crate::file::{self, FileError};

/// Names the configuration where the command line doesn't.
pub const CONFIG_VARIABLE: &str = "SMTP_GUARD_CONFIG";
/// Where the configuration is when neither says.
pub const DEFAULT_PATH: &str = "/etc/smtp-guard/smtp-guard.toml";

/// Bytes of a configuration file.
pub const FILE_BYTES: u64 = 1 << 20;

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("{}: {source}; the file is named by --config, else by ${CONFIG_VARIABLE}, else it is {DEFAULT_PATH}", path.display())]
    Read { path: PathBuf, source: FileError },
    #[error(transparent)]
    Bad(#[from] Report),
}

/// The configuration in the file `path`.
pub fn load(path: &Path) -> Result<Config, ConfigError> {
    Ok(Config::parse(path, &text(path)?, &machine())?)
}

/// The text of the file `path`, whatever it says.
pub fn text(path: &Path) -> Result<String, ConfigError> {
    let read = |source| ConfigError::Read { path: path.to_owned(), source };
    let (bytes, _) = file::read(path, FILE_BYTES).map_err(read)?;
    String::from_utf8(bytes).map_err(|error| read(io::Error::other(error.utf8_error()).into()))
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

/// The admin socket of the guard that was started with the file that [`find`] finds, also where that can't be used any more: then
/// as far as it can be read.
pub fn find_socket(path: Option<&Path>) -> Result<(PathBuf, Option<String>), ConfigError> {
    let file = path.unwrap_or(Path::new(DEFAULT_PATH));
    match find(path) {
        Ok((config, origin)) => Ok((config.admin.socket, origin.missing())),
        Err(ConfigError::Bad(_)) => {
            let (bytes, _) =
                file::read(file, FILE_BYTES).map_err(|source| ConfigError::Read { path: file.to_owned(), source })?;
            let text = String::from_utf8_lossy(&bytes);
            let (document, _) = toml::de::DeTable::parse_recoverable(&text);
            let admin = document.get_ref().get("admin").and_then(|admin| admin.get_ref().as_table());
            let socket = admin.and_then(|admin| admin.get("socket")).and_then(|socket| socket.get_ref().as_str());
            Ok((socket.map_or_else(|| Admin::default().socket, PathBuf::from), None))
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
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_cannot_be_read_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let missing = directory.path().join("missing.toml");
        let error = load(&missing).unwrap_err().to_string();
        assert!(error.contains("missing.toml") && error.contains("--config"), "{error}");
        let large = directory.path().join("large.toml");
        std::fs::write(&large, "#".repeat(FILE_BYTES as usize + 1)).unwrap();
        assert!(matches!(load(&large), Err(ConfigError::Read { source: FileError::TooLarge(_), .. })));
    }
}
