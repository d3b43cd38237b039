//! The recipient table: a file of one address or `@domain` a line.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Bytes of the file: a million addresses are about 30 MB.
const MAX_FILE: u64 = 256 * 1024 * 1024;

/// The recipients that exist.
#[derive(Debug, Default)]
pub struct KnownRecipients {
    /// `local@domain` or `@domain`, lower case.
    entries: HashSet<Box<str>>,
}

/// Why the table can't be used.
#[derive(Debug, thiserror::Error)]
pub enum RecipientsError {
    #[error("cannot read the recipient table {path}: {source}; check [recipients] known", path = .path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("the recipient table {path} has more than {MAX_FILE} bytes", path = .path.display())]
    TooLarge { path: PathBuf },
    #[error("the recipient table {path} is empty: every recipient would be refused; fill it, or take [recipients] known out", path = .path.display())]
    Empty { path: PathBuf },
    #[error("{path}:{line}: {text:?} is neither an address (user@example.org) nor a whole domain (@example.org)", path = .path.display())]
    Line { path: PathBuf, line: usize, text: String },
}

impl KnownRecipients {
    /// Reads `path`. Blank lines and what follows a `#` don't count.
    pub fn load(path: &Path) -> Result<Self, RecipientsError> {
        let failed = |source| RecipientsError::Read { path: path.to_owned(), source };
        if fs::metadata(path).map_err(failed)?.len() > MAX_FILE {
            return Err(RecipientsError::TooLarge { path: path.to_owned() });
        }
        let text = fs::read_to_string(path).map_err(failed)?;
        let mut entries = HashSet::new();
        for (index, line) in text.lines().enumerate() {
            let entry = line.split('#').next().unwrap_or_default().trim();
            if entry.is_empty() {
                continue;
            }
            if !is_entry(entry) {
                let text = entry.chars().take(80).collect();
                return Err(RecipientsError::Line { path: path.to_owned(), line: index + 1, text });
            }
            entries.insert(entry.to_lowercase().into_boxed_str());
        }
        if entries.is_empty() {
            return Err(RecipientsError::Empty { path: path.to_owned() });
        }
        Ok(Self { entries })
    }

    /// Whether `recipient` exists; it is `local@domain` in lower case. `user+anything` may be an address of `user`: the
    /// backend knows, and asking it costs nobody a message.
    pub fn lookup(&self, recipient: &str) -> bool {
        if self.entries.contains(recipient) {
            return true;
        }
        let Some(at) = recipient.rfind('@') else {
            return false;
        };
        let (local, domain) = recipient.split_at(at);
        let user = local.split_once('+').map(|(user, _)| [user, domain].concat());
        self.entries.contains(domain) || user.is_some_and(|user| self.entries.contains(user.as_str()))
    }

    /// Addresses and domains in the table.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether it is empty; a table that was loaded never is.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

fn is_entry(entry: &str) -> bool {
    let Some((_, domain)) = entry.rsplit_once('@') else {
        return false;
    };
    !domain.is_empty() && !entry.contains(|c: char| c.is_whitespace() || c.is_control())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str) -> Result<KnownRecipients, RecipientsError> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("recipients");
        fs::write(&path, text).unwrap();
        KnownRecipients::load(&path)
    }

    #[test]
    fn addresses_and_domains_are_found() {
        let known = load("# all of us\nAlice@Example.org\n\n@all.example # catch-all\n  bob@example.org  \n").unwrap();
        for (recipient, found) in [
            ("alice@example.org", true),
            ("bob@example.org", true),
            ("carol@example.org", false),
            ("alice+lists@example.org", true),
            ("alice+a+b@example.org", true),
            ("+alice@example.org", false),
            ("carol+alice@example.org", false),
            ("anyone@all.example", true),
            ("@example.org", false),
            ("", false),
        ] {
            assert_eq!(known.lookup(recipient), found, "{recipient}");
        }
    }

    #[test]
    fn a_bad_line_is_named() {
        for (text, line) in [("a@b.example\nnonsense\n", ":2:"), ("a b@c.example", ":1:"), ("\n\nuser@", ":3:")] {
            let error = load(text).unwrap_err().to_string();
            assert!(error.contains(line), "{error}");
        }
        assert!(load("# nobody\n").unwrap_err().to_string().contains("is empty"));
    }
}
