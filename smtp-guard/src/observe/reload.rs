//! What `smtp-guard reload` asks, and what it is told.

use serde::{Deserialize, Serialize};

use crate::config::Change;

/// A question: the configuration is read again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reload {
    /// Only says what would change.
    #[serde(default)]
    pub dry_run: bool,
}

/// What came of a reload, or would.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reloaded {
    /// The generation in force; of a dry run the one that stays in force.
    pub generation: u64,
    pub dry_run: bool,
    /// What was read, and its drop-ins: the file of the guard, whatever file the command was given.
    pub file: String,
    /// What differs between what was in force and the file.
    pub changes: Vec<Change>,
    /// What is valid and probably not meant so, and what the operator has to do himself.
    pub warnings: Vec<String>,
    /// Sessions that go on by an earlier generation.
    pub earlier_sessions: u64,
}
