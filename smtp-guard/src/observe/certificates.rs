//! The time that our certificates last, for metrics and `status`.

use serde::{Deserialize, Serialize};

use crate::clock::WallTime;

/// One of our certificates.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Certificate {
    pub file: String,
    /// Until it ends; below zero it has ended.
    pub remaining_seconds: i64,
    /// When it ends.
    pub not_after: WallTime,
}
