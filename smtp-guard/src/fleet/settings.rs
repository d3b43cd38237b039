//! The fleet's settings from the configuration, and from the files that it names.

use std::path::{Path, PathBuf};

use smtp_guard_core::fleet::message::{KEY, Seal};

use crate::config::{self, Config, Share};
use crate::file::{self, FileError};

/// Bytes of a key or a password.
const SECRET: u64 = 4096;
/// Bytes of a list of authorities.
const AUTHORITIES: u64 = 4 << 20;

/// Why the fleet can't be joined as it is configured.
#[derive(Debug, thiserror::Error)]
pub enum FleetError {
    #[error("cannot read {}: {source}; check {key}, and who may read the file", path.display())]
    Read { key: &'static str, path: PathBuf, source: FileError },
    #[error("{} is too short for a fleet's key: it has less than {KEY} bytes; make one by `openssl rand -hex 32`", .0.display())]
    Key(PathBuf),
    #[error("{} holds no password: it isn't text", .0.display())]
    Password(PathBuf),
}

impl FleetError {
    /// The key of the configuration, and the file that it names.
    pub fn place(&self) -> (&'static str, &Path) {
        match self {
            Self::Read { key, path, .. } => (key, path),
            Self::Key(path) => ("fleet.key_file", path),
            Self::Password(path) => ("fleet.password_file", path),
        }
    }
}

/// The fleet's settings.
#[derive(Clone)]
pub struct Settings {
    pub(super) config: config::Fleet,
    pub(super) password: Option<String>,
    pub(super) authorities: Option<Vec<u8>>,
    key: Vec<u8>,
    pub(super) seal: Seal,
}

impl std::fmt::Debug for Settings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Settings").field("config", &self.config).finish_non_exhaustive()
    }
}

impl PartialEq for Settings {
    fn eq(&self, other: &Self) -> bool {
        let of = |settings: &Self| (settings.password.clone(), settings.authorities.clone(), settings.key.clone());
        self.config == other.config && of(self) == of(other)
    }
}

impl Settings {
    /// Those of `config`; `None`: it names no fleet. Reads files.
    pub fn load(config: &Config) -> Result<Option<Self>, FleetError> {
        let config = config.fleet.clone();
        let Some(path) = config.key_file.clone().filter(|_| !config.url.is_empty() && config.share != Share::Off)
        else {
            return Ok(None);
        };
        let key = read("fleet.key_file", &path, SECRET)?;
        let seal = Seal::new(&config.name, &key).ok_or(FleetError::Key(path))?;
        let password = config.password_file.as_deref().map(password).transpose()?;
        let authorities = config.tls_ca.as_deref().map(|path| read("fleet.tls_ca", path, AUTHORITIES)).transpose()?;
        Ok(Some(Self { config, password, authorities, key, seal }))
    }

    /// The seal of the fleet.
    pub fn seal(&self) -> &Seal {
        &self.seal
    }
}

fn password(path: &Path) -> Result<String, FleetError> {
    let bytes = read("fleet.password_file", path, SECRET)?;
    let text = String::from_utf8(bytes).map_err(|_| FleetError::Password(path.to_owned()))?;
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}

fn read(key: &'static str, path: &Path, most: u64) -> Result<Vec<u8>, FleetError> {
    let bytes = file::read(path, most).map_err(|source| FleetError::Read { key, path: path.to_owned(), source })?;
    Ok(bytes.0)
}
