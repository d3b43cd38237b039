//! `cargo xtask trial`: builds and runs the trial of the harvest detector, a binary of `tests`.

use std::process::Command;

use anyhow::{Context as _, bail};

use crate::build::cargo;
use crate::{root, step, target};

/// Prints the tables; with `check`, compares them with those of docs/harvest-trial.md instead.
pub(crate) fn trial(seed: Option<u64>, json: bool, check: bool) -> anyhow::Result<()> {
    let mut build = Command::new(cargo());
    build.current_dir(root()).env("CARGO_TARGET_DIR", target());
    build.args(["build", "--locked", "--release", "--package", "smtp-guard-tests", "--bin", "trial"]);
    step::run("trial", "building the trial", &mut build)?;
    let binary = target().join("release/trial");
    let mut command = Command::new(&binary);
    if let Some(seed) = seed {
        command.arg("--seed").arg(seed.to_string());
    }
    if json {
        command.arg("--json");
    }
    if check {
        command.arg("--check").arg(root().join("docs/harvest-trial.md"));
    }
    let status = command.status().with_context(|| format!("cannot start {}", binary.display()))?;
    if !status.success() {
        bail!("the trial failed ({status})");
    }
    Ok(())
}
