//! `cargo xtask test`: everything that is checked, in the order in which it is cheapest to find a fault.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};

use crate::build::{self, OBJECT, cargo};
use crate::{fuzz, root, setup, step, structure, target};

/// Sums of the `test result:` lines.
#[derive(Debug, Default, PartialEq, Eq)]
struct Counts {
    passed: u64,
    failed: u64,
    skipped: u64,
}

/// Runs all tests, or those on the host only, or those whose name contains `filter`.
pub(crate) fn test(host: bool, filter: Option<&str>) -> anyhow::Result<()> {
    if !host {
        setup::test()?;
    }
    let binary = build::build(false)?;
    if filter.is_none() {
        let mut fmt = cargo_command(&["fmt", "--all", "--check"]);
        step::run("fmt", "checking the format", &mut fmt)?;
        let lints = ["clippy", "--locked", "--workspace", "--all-targets", "--", "-D", "warnings"];
        step::run("clippy", "checking the lints", &mut cargo_command(&lints))?;
        structure::check(&root())?;
    }
    let permitted = if host { Err("--host".to_owned()) } else { permitted(&binary) };
    let mut counts = Counts::default();
    let mut failed = Vec::new();
    for (package, threads) in
        [("smtp-guard-ebpf", None), ("smtp-guard", None), ("xtask", None), ("smtp-guard-tests", Some("2"))]
    {
        let mut command = cargo_command(&["test", "--locked", "--no-fail-fast", "--package", package]);
        command.env("SMTP_GUARD_BIN", &binary);
        command.args(filter).arg("--");
        if permitted.is_ok() {
            command.arg("--include-ignored");
        }
        if let Some(threads) = threads {
            // The figures that these tests measure are part of their result.
            command.args(["--test-threads", threads, "--show-output"]);
        }
        if !stream(&mut command, &mut counts).with_context(|| format!("testing {package}"))? {
            failed.push(package);
        }
    }
    let fuzzed = if host || filter.is_some() { Ok(()) } else { fuzz::fuzz(None, fuzz::TEST) };
    if let Err(why) = permitted {
        println!("skipped {} tests that need root and BPF: {why}", counts.skipped);
    }
    println!("{} passed, {} failed, {} skipped", counts.passed, counts.failed, counts.skipped);
    if !failed.is_empty() {
        bail!("tests failed in {}", failed.join(", "));
    }
    fuzzed
}

/// Whether eBPF programs can be loaded here, or why not.
fn permitted(binary: &std::path::Path) -> Result<(), String> {
    if !rustix::process::geteuid().is_root() {
        return Err("not root".to_owned());
    }
    match Command::new(binary).args(["edge", "probe"]).output() {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

fn cargo_command(arguments: &[&str]) -> Command {
    let mut command = Command::new(cargo());
    command.current_dir(root()).env(OBJECT, build::object_path()).env("CARGO_TARGET_DIR", target()).args(arguments);
    command
}

/// Runs `command` with its output as it comes, and adds its results up. `false` if it failed.
fn stream(command: &mut Command, counts: &mut Counts) -> anyhow::Result<bool> {
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
    if let Some(output) = child.stdout.take() {
        for line in BufReader::new(output).lines() {
            let line = line?;
            println!("{line}");
            counts.add(&line);
        }
    }
    Ok(child.wait()?.success())
}

impl Counts {
    /// Adds a line like `test result: ok. 92 passed; 0 failed; 3 ignored; ...`; other lines are nothing.
    fn add(&mut self, line: &str) {
        let Some(results) = line.strip_prefix("test result: ") else {
            return;
        };
        let number = |what: &str| -> u64 {
            let part = results.split([';', '.']).map(str::trim).find_map(|part| part.strip_suffix(what));
            part.and_then(|number| number.trim().parse().ok()).unwrap_or(0)
        };
        self.passed += number(" passed");
        self.failed += number(" failed");
        self.skipped += number(" ignored");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_added_up() {
        let mut counts = Counts::default();
        for line in [
            "running 3 tests",
            "test result: ok. 92 passed; 0 failed; 3 ignored; 0 measured; 0 filtered out; finished in 8.13s",
            "test result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured; 7 filtered out; finished in 0.1s",
        ] {
            counts.add(line);
        }
        assert_eq!(counts, Counts { passed: 93, failed: 2, skipped: 3 });
    }

    /// What `--include-ignored` relies on: nothing else is ignored.
    const KERNEL_TESTS: &str = "needs root and BPF";

    #[test]
    fn every_ignored_test_says_why() {
        let mut found = 0;
        for file in structure::rust_files(&root()) {
            let text = std::fs::read_to_string(&file).unwrap();
            for line in text.lines().filter(|line| line.trim_start().starts_with("#[ignore")) {
                assert!(line.contains(KERNEL_TESTS), "{}: {line}", file.display());
                found += 1;
            }
        }
        assert!(found > 0, "there are kernel tests");
    }
}
