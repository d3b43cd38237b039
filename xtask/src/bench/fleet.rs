//! `cargo xtask bench fleet`: what a fleet of three guards takes and gives, by a binary of `tests` in namespaces of its own.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, bail};

use super::machine;
use crate::build::{self, OBJECT, cargo};
use crate::{root, setup, step, target};

/// Measures the guard at `guard`, or one that is built.
pub(crate) fn run(guard: Option<PathBuf>) -> anyhow::Result<()> {
    if !rustix::process::geteuid().is_root() {
        bail!("namespaces need root: sudo -E cargo xtask bench fleet");
    }
    setup::bench_fleet()?;
    let guard = match guard {
        Some(guard) => guard,
        None => build::build(true)?,
    };
    let mut compile = Command::new(cargo());
    compile.current_dir(root()).env(OBJECT, build::object_path()).env("CARGO_TARGET_DIR", target());
    compile.args(["build", "--locked", "--package", "smtp-guard-tests", "--bin", "fleet", "--bin", "netkit"]);
    step::run("bench-fleet", "building the bench", &mut compile)?;
    println!("on {}", machine());
    let status = Command::new(target().join("debug/fleet")).env("SMTP_GUARD_BIN", &guard).status();
    let status = status.context("cannot start the bench")?;
    if !status.success() {
        bail!("the bench failed ({status})");
    }
    Ok(())
}
