//! The kernel boundary.
pub mod bans;

use std::fmt;
use std::path::Path;

use crate::config::Config;

#[derive(Debug, thiserror::Error)]
#[error("not built yet")]
pub struct EdgeError;

#[derive(Debug, serde::Serialize)]
pub struct Loaded;

impl fmt::Display for Loaded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("loaded")
    }
}

#[derive(Debug, serde::Serialize)]
pub struct Status;

#[derive(Debug)]
pub struct KernelPlane;

pub fn load(_config: &Config) -> Result<Loaded, EdgeError> {
    Err(EdgeError)
}

pub fn unload(_pins: &Path) -> Result<Vec<String>, EdgeError> {
    Err(EdgeError)
}

impl KernelPlane {
    pub fn open(_pins: &Path) -> Result<Option<Self>, EdgeError> {
        Ok(None)
    }

    pub fn status(&self) -> Result<Status, EdgeError> {
        Err(EdgeError)
    }
}
