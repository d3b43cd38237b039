//! `cargo xtask bench`: what is measured, beside what it is measured against.

use std::ffi::OsString;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::process::Command;

use anyhow::{Context as _, bail};

use crate::build::{self, OBJECT, cargo};
use crate::{object, root, setup, step, target};

pub(crate) mod fleet;
pub(crate) mod idle;
pub(crate) mod instructions;
pub(crate) mod proxy;

/// Where the bench finds the programs it compares with.
const BENCH_OBJECT: &str = "SMTP_GUARD_BENCH_OBJECT";

/// The kernel plane's paths, in a network and a mount namespace of their own.
pub(crate) fn kernel() -> anyhow::Result<()> {
    // The namespaces are the bench's alone: no other packet and no other program comes into its way.
    with_object("kernel", &["unshare", "--net", "--mount"])
}

/// A flood beside honest mail. The bench makes its namespaces itself.
pub(crate) fn flood() -> anyhow::Result<()> {
    with_object("flood", &[])
}

/// Builds the bench `name` and the programs that it loads, and runs it by `wrapper`.
fn with_object(name: &str, wrapper: &[&str]) -> anyhow::Result<()> {
    let toolchain = setup::build()?;
    setup::bench()?;
    object::build(&toolchain)?;
    let words = |wrapper: &[&str]| {
        let cargo = cargo();
        let mut words = wrapper.iter().map(OsString::from).chain([cargo]);
        let mut command = Command::new(words.next().unwrap_or_default());
        command.args(words).args(["bench", "--locked", "--package", "smtp-guard", "--bench", name]);
        command.current_dir(root()).env(OBJECT, build::object_path()).env("CARGO_TARGET_DIR", target());
        command.env(BENCH_OBJECT, build::object_path().with_file_name("smtp-guard-bench"));
        command
    };
    step::run("bench", "building the bench (minutes, the first time)", words(&[]).arg("--no-run"))?;
    let status = words(wrapper).status().context("cannot start the bench")?;
    if !status.success() {
        bail!("the bench failed ({status})");
    }
    Ok(())
}

/// Connections that end in every way there is, in namespaces of their own: the test `stress` at full size, with the same
/// binaries.
pub(crate) fn stress(connections: u64, seed: u64) -> anyhow::Result<()> {
    setup::test()?;
    let binary = build::build(false)?;
    let mut compile = Command::new(cargo());
    compile.current_dir(root()).env(OBJECT, build::object_path()).env("CARGO_TARGET_DIR", target());
    compile.args(["build", "--locked", "--package", "smtp-guard-tests", "--bin", "stress"]);
    step::run("bench-stress", "building the stress run", &mut compile)?;
    let mut command = Command::new(target().join("debug/stress"));
    command.env("SMTP_GUARD_BIN", &binary).arg("run");
    command.args(["--connections", &connections.to_string(), "--seed", &seed.to_string()]);
    let status = command.status().context("cannot start the stress run")?;
    if !status.success() {
        bail!("the stress run failed ({status})");
    }
    Ok(())
}

/// Measures policy in user space.
pub(crate) fn policy() -> anyhow::Result<()> {
    let arguments = ["bench", "--locked", "--package", "smtp-guard", "--bench", "policy"];
    let command = || {
        let mut command = Command::new(cargo());
        command.current_dir(root()).args(arguments).env("CARGO_TARGET_DIR", target());
        command
    };
    step::run("bench-policy", "building the bench (minutes, the first time)", command().arg("--no-run"))?;
    let status = command().status().context("cannot start cargo")?;
    if !status.success() {
        bail!("the bench failed ({status})");
    }
    Ok(())
}

/// What a bench ran on: CPUs, kernel and load.
/// A connection `from` an address of this host.
fn connect(from: Ipv4Addr, to: SocketAddr) -> anyhow::Result<TcpStream> {
    use rustix::net::{AddressFamily, SocketType, bind, connect, socket};
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None)?;
    bind(&socket, &SocketAddr::from((from, 0)))?;
    connect(&socket, &to).with_context(|| format!("cannot connect to {to}"))?;
    Ok(TcpStream::from(socket))
}

pub(crate) fn machine() -> String {
    let cpu = read("/proc/cpuinfo");
    let name = cpu.lines().find_map(|line| line.strip_prefix("model name\t: ")).unwrap_or("unknown CPU").to_owned();
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let (kernel, load) = (read("/proc/sys/kernel/osrelease"), read("/proc/loadavg"));
    format!("{cpus} x {name}, Linux {}; load at the start {}", kernel.trim(), load.trim())
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}
