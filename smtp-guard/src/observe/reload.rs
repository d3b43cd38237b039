//! Question and answer of `smtp-guard reload`.

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

/// The outcome of a reload, or of a rehearsal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reloaded {
    /// The generation in force; of a dry run the one that stays in force.
    pub generation: u64,
    pub dry_run: bool,
    /// The file that was read, with its drop-ins: the guard's, whatever file the command was given.
    pub file: String,
    /// The keys that differ between the configuration in force and the file.
    pub changes: Vec<Change>,
    /// Settings that are valid and probably mistakes, and steps that the operator has to take himself.
    pub warnings: Vec<String>,
    /// Sessions that go on by an earlier generation.
    pub earlier_sessions: u64,
}
