//! Files of the repository that are written from tables in the code.

use std::path::{Path, PathBuf};
use std::{env, fs};

/// Set by `cargo xtask docs`: what is out of date is written.
const WRITE: &str = "SMTP_GUARD_WRITE_DOCS";

/// The file at `path` of the repository.
pub(crate) fn path(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

/// Whether the file at `name` of the repository says `expected`.
#[track_caller]
pub(crate) fn check(name: &str, expected: &str) {
    let path = path(name);
    if env::var_os(WRITE).is_some() {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, expected).unwrap();
    }
    let written = fs::read_to_string(&path).unwrap_or_default();
    assert!(written == expected, "{name} is out of date: `cargo xtask docs` writes it");
}
