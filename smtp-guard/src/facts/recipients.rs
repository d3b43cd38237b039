//! The recipient table's file.

use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::time::Duration;

use smtp_guard_core::facts::recipients::{Fault, MAX_FILE};
pub use smtp_guard_core::facts::recipients::{KnownRecipients, LIFE, RECIPIENTS, Unknowns};

use crate::file::{self, FileError};

/// How long it may take to read.
const PATIENCE: Duration = Duration::from_secs(60);
/// Bytes that are read at once.
const READ: usize = 64 * 1024;

/// Why the table can't be used.
#[derive(Debug, thiserror::Error)]
pub enum RecipientsError {
    #[error("cannot read the recipient table {path}: {source}; check [recipients] known", path = .path.display())]
    Read { path: PathBuf, source: FileError },
    #[error("the recipient table {path} is empty: every recipient would be refused; fill it, or take [recipients] known out", path = .path.display())]
    Empty { path: PathBuf },
    #[error("{path}:{line}: {text:?} is neither an address (user@example.org) nor a whole domain (@example.org)", path = .path.display())]
    Line { path: PathBuf, line: usize, text: String },
}

impl RecipientsError {
    /// Whether another look at the same file may end otherwise.
    pub fn is_passing(&self) -> bool {
        matches!(self, Self::Read { source: FileError::Changed | FileError::Late(_) | FileError::Stuck, .. })
    }
}

/// Reads the table in `path`. Takes about a second for a million lines, so not for a thread that others wait for.
pub fn load(path: &Path) -> Result<KnownRecipients, RecipientsError> {
    let (table, stamp) = file::read_by(path, MAX_FILE, PATIENCE, |file| {
        let room = usize::try_from(file.limit()).unwrap_or_default().saturating_add(1);
        KnownRecipients::read(BufReader::with_capacity(READ, file), room)
    })
    .map_err(|source| RecipientsError::Read { path: path.to_owned(), source })?;
    let table = table.map_err(|fault| at(fault, path))?.with_stamp(stamp).read_at(crate::clock::wall());
    if table.is_empty() {
        return Err(RecipientsError::Empty { path: path.to_owned() });
    }
    Ok(table)
}

/// Domains that are named one by one.
const NAMED: usize = 10;

/// Warnings about served domains without an entry in the table, `missing`.
pub fn warnings(missing: &[impl AsRef<str>]) -> Vec<String> {
    let warning = |domain: &str| {
        format!(
            "{domain} has no entry in the table of recipients.known: every recipient of it is refused; \
             add its recipients (`smtp-guard recipients` exports them), or the line @{domain}, which takes any"
        )
    };
    let mut warnings: Vec<_> = missing.iter().take(NAMED).map(|domain| warning(domain.as_ref())).collect();
    if missing.len() > NAMED {
        warnings.push(format!("and {} more domains have no entry in the table", missing.len() - NAMED));
    }
    warnings
}

fn at(fault: Fault, path: &Path) -> RecipientsError {
    let path = path.to_owned();
    match fault {
        Fault::Read(source) => RecipientsError::Read { path, source: source.into() },
        Fault::Line(line, text) => RecipientsError::Line { path, line, text },
    }
}

#[cfg(test)]
mod tests;
