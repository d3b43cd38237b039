//! `cargo xtask screenshots` and `cargo xtask bench page`: the status page of a guard with traffic, by a binary of `tests` in
//! namespaces of its own.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, bail};

use crate::bench::machine;
use crate::build::{self, OBJECT, cargo};
use crate::{root, setup, step, target};

/// Takes the pictures of docs/images.
pub(crate) fn screenshots(guard: Option<PathBuf>) -> anyhow::Result<()> {
    setup::screenshots()?;
    run(guard, false, Command::new(target().join("debug/page")).arg("pictures").arg(root().join("docs/images")))
}

/// Measures what the page costs.
pub(crate) fn bench(guard: Option<PathBuf>) -> anyhow::Result<()> {
    setup::bench_page()?;
    println!("on {}", machine());
    run(guard, true, Command::new(target().join("debug/page")).arg("cost"))
}

fn run(guard: Option<PathBuf>, release: bool, command: &mut Command) -> anyhow::Result<()> {
    if !rustix::process::geteuid().is_root() {
        bail!("namespaces need root: sudo -E cargo xtask ...");
    }
    let guard = guard.map_or_else(|| build::build(release), Ok)?;
    let mut compile = Command::new(cargo());
    compile.current_dir(root()).env(OBJECT, build::object_path()).env("CARGO_TARGET_DIR", target());
    compile.args(["build", "--locked", "--package", "smtp-guard-tests", "--bin", "page", "--bin", "netkit"]);
    step::run("page", "building what looks at the page", &mut compile)?;
    let status = command.env("SMTP_GUARD_BIN", &guard).status().context("cannot start what looks at the page")?;
    if !status.success() {
        bail!("it failed ({status})");
    }
    Ok(())
}
