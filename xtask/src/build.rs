//! Both planes, and the edge commands that need them.

use std::env;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, bail};

use crate::{object, root, setup, step, target};

/// The variable that names the eBPF object to the user plane's build script.
pub(crate) const OBJECT: &str = "SMTP_GUARD_EBPF_OBJECT";

/// Builds both planes. Returns the binary.
pub(crate) fn build(release: bool) -> anyhow::Result<PathBuf> {
    let toolchain = setup::build()?;
    let object = object::build(&toolchain)?;
    let mut command = Command::new(cargo());
    command.current_dir(root()).env(OBJECT, &object).args(["build", "--locked", "--package", "smtp-guard"]);
    if release {
        command.arg("--release");
    }
    step::run("build", "building the user plane", &mut command)?;
    Ok(target().join(if release { "release" } else { "debug" }).join("smtp-guard"))
}

/// Where [`build`] leaves the object.
pub(crate) fn object_path() -> PathBuf {
    target().join("bpf/bpfel-unknown-none/release/smtp-guard-ebpf")
}

/// The cargo that runs us.
pub(crate) fn cargo() -> OsString {
    env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
}

/// `smtp-guard edge load` or `unload`, with a binary of this tree.
pub(crate) fn edge(command: &str, arguments: &[String]) -> anyhow::Result<()> {
    let binary = build(true)?;
    let status = Command::new(&binary)
        .args(["edge", command])
        .args(arguments)
        .status()
        .with_context(|| format!("cannot start {}", binary.display()))?;
    if !status.success() {
        bail!("smtp-guard edge {command} failed ({status})");
    }
    Ok(())
}
