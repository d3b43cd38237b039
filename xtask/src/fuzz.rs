//! `cargo xtask fuzz`: the targets in `fuzz/targets`, built with coverage counters and run for a while.
//!
//! They need libFuzzer, which a crate brings along, and a C++ compiler; no nightly toolchain: the compiler's coverage
//! pass is asked for by name. What a run finds out is kept in `target/fuzz/corpus` and taken up by the next one; the seeds
//! in `fuzz/corpus` are only read.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail};

use crate::build::cargo;
use crate::{root, setup, step, target};

/// Coverage as libFuzzer reads it: edges, and what is compared with what.
const FLAGS: &[&str] = &[
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "--cfg=fuzzing",
];
/// What bounds one input: bytes of it, MB that are in use, and seconds it may take.
const INPUT: [&str; 3] = ["-max_len=2048", "-rss_limit_mb=1024", "-timeout=10"];

/// How long one target is run.
#[derive(Clone, Copy)]
pub(crate) struct Bounds {
    pub(crate) seconds: u64,
    /// Inputs at most.
    pub(crate) runs: Option<u64>,
}

/// As a part of `cargo xtask test --long`.
pub(crate) const TEST: Bounds = Bounds { seconds: 10, runs: Some(5_000_000) };

/// Builds all targets and runs those, or the one called `name`.
pub(crate) fn fuzz(name: Option<&str>, bounds: Bounds) -> anyhow::Result<()> {
    setup::test()?;
    let all = targets(&root());
    let wanted: Vec<_> = all.iter().filter(|target| name.is_none_or(|name| name == *target)).collect();
    if wanted.is_empty() {
        bail!("there is no fuzz target of that name; there are: {}", all.join(", "));
    }
    format()?;
    let binaries = build()?;
    // Each has its turn, whatever was found before.
    let run = |target: &&String| run(target, &binaries.join(target), bounds).err();
    let faults: Vec<_> = wanted.iter().filter_map(run).map(|error| format!("{error:#}")).collect();
    if !faults.is_empty() {
        bail!("{}", faults.join("; "));
    }
    Ok(())
}

/// Checks how the targets are formatted: they are no part of the workspace.
pub(crate) fn format() -> anyhow::Result<()> {
    let mut fmt = Command::new(cargo());
    fmt.current_dir(root().join("fuzz")).args(["fmt", "--check"]);
    step::run("fuzz-fmt", "checking the format of the fuzz targets", &mut fmt)
}

/// The names of all targets.
fn targets(root: &Path) -> Vec<String> {
    let files = fs::read_dir(root.join("fuzz/targets")).into_iter().flatten().flatten().map(|entry| entry.path());
    let files = files.filter(|path| path.extension().is_some_and(|extension| extension == "rs"));
    let mut names: Vec<_> = files.filter_map(|path| Some(path.file_stem()?.to_str()?.to_owned())).collect();
    names.sort();
    names
}

/// Builds the targets. Returns the folder that they are in.
fn build() -> anyhow::Result<PathBuf> {
    let host = host()?;
    let folder = target().join("fuzz/build");
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    // What is fuzzed is what is built: the versions are those of the workspace.
    let (ours, theirs, used) = (root().join("Cargo.lock"), root().join("fuzz/Cargo.lock"), folder.join("Cargo.lock"));
    let versions = fs::read(&ours).with_context(|| format!("cannot read {}", ours.display()))?;
    if !theirs.exists() || fs::read(&used).ok().as_ref() != Some(&versions) {
        fs::write(&theirs, &versions).with_context(|| format!("cannot write {}", theirs.display()))?;
        fs::write(&used, &versions).with_context(|| format!("cannot write {}", used.display()))?;
    }
    let mut command = Command::new(cargo());
    // With a target named, the flags are for the targets only: build scripts must not ask for coverage.
    command
        .current_dir(root().join("fuzz"))
        .env("CARGO_ENCODED_RUSTFLAGS", FLAGS.join("\x1f"))
        .env("CARGO_TARGET_DIR", &folder)
        .args(["build", "--release", "--bins", "--target", &host]);
    step::run("fuzz-build", "building the fuzz targets (minutes, the first time)", &mut command)?;
    Ok(folder.join(host).join("release"))
}

/// What the compiler calls this machine.
fn host() -> anyhow::Result<String> {
    let output = Command::new("rustc").arg("-vV").output().context("cannot start rustc")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let host = text.lines().find_map(|line| line.strip_prefix("host: ")).context("rustc does not say its host")?;
    Ok(host.to_owned())
}

/// Runs one target.
fn run(name: &str, binary: &Path, bounds: Bounds) -> anyhow::Result<()> {
    let (corpus, artifacts) = (target().join("fuzz/corpus").join(name), target().join("fuzz/artifacts").join(name));
    for folder in [&corpus, &artifacts] {
        fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    }
    let Bounds { seconds, runs } = bounds;
    let mut command = Command::new(binary);
    command.args(INPUT).arg("-print_final_stats=1").arg(format!("-max_total_time={seconds}"));
    command.args(runs.map(|runs| format!("-runs={runs}")));
    // The path ends in a slash: a folder, not the beginning of a name.
    command.arg(format!("-artifact_prefix={}/", artifacts.display()));
    command.arg(&corpus).arg(root().join("fuzz/corpus").join(name));
    let step = format!("fuzz-{name}");
    let before = files(&artifacts);
    let result = step::run(&step, &format!("fuzzing {name} for {seconds} s"), &mut command);
    let found = files(&artifacts).into_iter().find(|file| !before.contains(file));
    let Some(found) = found else {
        result.with_context(|| format!("the fuzz target {name} failed, and left no input behind"))?;
        let log = target().join("xtask").join(format!("{step}.log"));
        let executions = executions(&fs::read_to_string(&log).unwrap_or_default());
        let executions = executions.with_context(|| format!("{} does not say how often it ran", log.display()))?;
        println!("fuzz {name}: {executions} executions, no fault");
        return Ok(());
    };
    bail!(
        "fuzzing {name} found a fault. The input is {input}; to see it again: {binary} {input}; when it is mended, keep \
         the input as fuzz/corpus/{name}/WHAT-IT-SHOWS",
        input = found.display(),
        binary = binary.display(),
    );
}

fn files(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

/// What libFuzzer says at its end.
fn executions(log: &str) -> Option<u64> {
    log.lines().find_map(|line| line.strip_prefix("stat::number_of_executed_units:")?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn executions_are_read_from_the_log() {
        let log = "#2\tINITED cov: 3\nDone 950682 runs in 26 second(s)\nstat::number_of_executed_units: 950682\n";
        assert_eq!(executions(log), Some(950_682));
        assert_eq!(executions("ERROR: libFuzzer: deadly signal\n"), None);
    }

    #[test]
    fn every_target_is_built_and_has_seeds() {
        let targets = targets(&root());
        assert!(["command", "data", "reply", "session"].iter().all(|name| targets.contains(&(*name).to_owned())));
        let manifest = fs::read_to_string(root().join("fuzz/Cargo.toml")).unwrap();
        for name in targets {
            assert!(manifest.contains(&format!("path = \"targets/{name}.rs\"")), "{name} is not in fuzz/Cargo.toml");
            let test = fs::read_to_string(root().join("smtp-guard/tests/fuzz/main.rs")).unwrap();
            assert!(test.contains(&format!("fuzz/targets/{name}.rs\"]")), "{name} is no test of smtp-guard/tests/fuzz");
            let seeds = files(&root().join("fuzz/corpus").join(&name)).len();
            assert!(seeds >= 12, "{name} has {seeds} seeds");
        }
    }
}
