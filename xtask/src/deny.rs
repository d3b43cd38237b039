//! cargo-deny, by `deny.toml`: which licences, crates and registries may come into the build. Its fourth part, advisories, needs
//! a database from the Internet and isn't run.

use std::path::PathBuf;
use std::process::Command;

use crate::{root, setup, step, target};

const VERSION: &str = "0.20.2";
/// What is checked.
const PARTS: [&str; 3] = ["bans", "licenses", "sources"];

/// Runs the check, and builds cargo-deny for it if it isn't there.
pub(crate) fn check() -> anyhow::Result<()> {
    setup::tool(&program(), "cargo-deny", VERSION, &["--no-default-features"], &[])?;
    let mut command = Command::new(program());
    command.current_dir(root()).args(["--locked", "check"]).args(PARTS);
    step::run("deny", "checking licences, crates and registries", &mut command)
}

fn program() -> PathBuf {
    target().join("tools/bin/cargo-deny")
}
