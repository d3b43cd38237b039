//! The eBPF object: how it is built, and what must be in it.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, bail};

use crate::setup::{self, Toolchain};
use crate::{root, step, target};

const OBJDUMP: &str = "/usr/lib/llvm-22/bin/llvm-objdump";

/// Builds the object and checks it. Returns its path.
pub(crate) fn build(toolchain: &Toolchain) -> anyhow::Result<PathBuf> {
    let flags = [
        format!("-Clinker={}", setup::linker_path().display()),
        "-Clink-arg=--btf".to_owned(),
        "-Ctarget-cpu=v3".to_owned(),
        // Headers are read in words. Without it each word is put together from bytes: the kernels that we load on read
        // misaligned words, and the verifier refuses them where they don't.
        "-Clink-arg=--cpu-features=+allows-misaligned-mem-access".to_owned(),
        "-Cdebuginfo=2".to_owned(),
        format!("--cfg=bpf_target_arch=\"{}\"", std::env::consts::ARCH),
    ];
    let folder = target().join("bpf");
    let mut command = setup::compiler(toolchain);
    command
        .current_dir(root())
        // The variables of the cargo that runs us are not for the one that builds the object.
        .env_remove("RUSTUP_TOOLCHAIN")
        .env_remove("RUSTFLAGS")
        .env_remove("CARGO_TARGET_DIR")
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}"))
        .args(["--release", "--locked", "--target", "bpfel-unknown-none", "--package", "smtp-guard-ebpf"])
        .args(["--bins", "--target-dir"])
        .arg(&folder);
    step::run("ebpf", "building the kernel plane", &mut command)?;
    let object = folder.join("bpfel-unknown-none/release/smtp-guard-ebpf");
    check_atomics(&object)?;
    Ok(object)
}

/// LLVM 22.1.8 turns a relaxed fetch_add whose result is used into something else, silently: so look at the code.
fn check_atomics(object: &PathBuf) -> anyhow::Result<()> {
    let output = Command::new(OBJDUMP)
        .arg("--disassemble")
        .arg(object)
        .output()
        .with_context(|| format!("cannot run {OBJDUMP}; it is in the package llvm-22"))?;
    let code = String::from_utf8_lossy(&output.stdout);
    let found = code.matches("atomic_fetch_add((u64").count();
    if !output.status.success() || found < 2 {
        bail!("{}: expected atomic_fetch_add in the counting program, found {found}", object.display());
    }
    Ok(())
}
