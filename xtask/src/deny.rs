//! cargo-deny, by `deny.toml`: which licences, crates and registries may come into the build. Its fourth part, advisories, needs
//! a database from the Internet and isn't run.

use std::path::PathBuf;
use std::process::Command;

use crate::build::cargo;
use crate::{root, step, target};

const VERSION: &str = "0.20.2";
/// What is checked.
const PARTS: [&str; 3] = ["bans", "licenses", "sources"];
/// Unoptimised: 100 s of processor time for the build, and 3 s for the check.
const PROFILE: [&str; 4] = ["opt-level=0", "debug=false", "lto=false", "codegen-units=16"];

/// Runs the check, and builds cargo-deny for it if it isn't there.
pub(crate) fn check() -> anyhow::Result<()> {
    install()?;
    let mut command = Command::new(program());
    command.current_dir(root()).args(["--locked", "check"]).args(PARTS);
    step::run("deny", "checking licences, crates and registries", &mut command)
}

fn program() -> PathBuf {
    target().join("tools/bin/cargo-deny")
}

fn install() -> anyhow::Result<()> {
    let version = Command::new(program()).arg("--version").output();
    if version.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).trim().ends_with(VERSION)) {
        return Ok(());
    }
    let mut command = crate::test::nice(cargo());
    command.args(["install", "cargo-deny", "--version", VERSION, "--locked", "--force", "--no-default-features"]);
    for setting in PROFILE {
        command.args(["--config", &format!("profile.release.{setting}")]);
    }
    command.arg("--root").arg(target().join("tools")).arg("--target-dir").arg(target().join("tools/build"));
    step::run("cargo-deny", "building cargo-deny (once)", &mut command)
}
