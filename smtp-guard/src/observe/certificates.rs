//! How long our certificates last, for metrics and `status`.

use std::fmt::Debug;

use serde::{Deserialize, Serialize};

use crate::clock::WallTime;

/// One of our certificates.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Certificate {
    pub file: String,
    /// Whole days until it ends; below zero it has ended.
    pub days: i64,
}

/// Who knows our certificates.
pub trait Certificates: Debug + Send + Sync {
    /// All of them as they are at `now`.
    fn certificates(&self, now: WallTime) -> Vec<Certificate>;
}
