//! `cargo xtask test`: everything that is checked. What compiles nothing comes first; then all is built at once; then the tests of
//! the whole, and those of backends that stall, mostly wait: each has a lane beside what only needs the processor. Whichever lane is
//! done takes what is left.

use std::collections::VecDeque;
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;
use std::thread;
use std::time::Instant;

use anyhow::{Context as _, bail};

use crate::build::{self, Binary, Tests, workspace};
use crate::{bench, deny, fuzz, kernels, object, prose, root, setup, step, structure, systemd, target};

/// Tells the tests to do all there is: a million traces, a hundred kills, all seeds of the trial.
const LONG: &str = "SMTP_GUARD_LONG";
/// The binary of the tests of the whole; and how many of them run at once. Many measure something, and print it.
const WHOLE: (&str, &str) = ("smtp-guard-tests: whole", "5");
/// The binary of tests that wait for nearly all of their time: for backends that say nothing.
const WAITING: &str = "smtp-guard: backends";
/// Tests whose peers give up soon: DNS servers have 2.5 s for an answer, by the resolver's own clock.
const HASTY: &str = "smtp-guard: dns";
/// Of what runs beside [`WHOLE`] and [`HASTY`], whose peers wait for an answer.
const NICE: &str = "10";

/// The scope of a test run.
pub(crate) struct Scope<'a> {
    /// Only what needs no kernel and no other programs.
    pub(crate) host: bool,
    /// Long tests as well, in full.
    pub(crate) long: bool,
    /// Only tests whose name contains this, and nothing else.
    pub(crate) filter: Option<&'a str>,
}

/// Sums of the `test result:` lines.
#[derive(Debug, Default, PartialEq, Eq)]
struct Counts {
    passed: u64,
    failed: u64,
    skipped: u64,
}

/// What came of everything so far.
#[derive(Default)]
struct Results {
    counts: Counts,
    failures: Vec<String>,
}

/// Runs what is in `scope`.
pub(crate) fn test(scope: &Scope<'_>) -> anyhow::Result<()> {
    let started = Instant::now();
    let all = scope.filter.is_none();
    if all {
        structure::check(&root())?;
        prose::check(&root())?;
        step::run("fmt", "checking the format", &mut workspace(&["fmt", "--all", "--check"]))?;
        fuzz::format()?;
    }
    let tests = prepare(scope)?;
    let permitted = if scope.host { Err("--host".to_owned()) } else { permitted(&tests.guard) };
    let results = Mutex::new(Results::default());
    let run = |binary: &Binary| {
        let (text, outcome) = match run(binary, &tests.guard, scope, permitted.is_ok()) {
            Ok((success, text)) => (text, success.then_some(()).with_context(|| format!("tests of {}", binary.name))),
            Err(error) => (String::new(), Err(error)),
        };
        let Ok(mut results) = results.lock() else { return };
        // As one piece: another lane has its own.
        println!("\n=== {}\n{text}", binary.name);
        text.lines().for_each(|line| results.counts.add(line));
        results.failures.extend(outcome.err().map(|error| format!("{error:#}")));
    };
    let also = |outcome: anyhow::Result<()>| {
        if let (Err(error), Ok(mut results)) = (outcome, results.lock()) {
            results.failures.push(format!("{error:#}"));
        }
    };
    let (whole, others): (Vec<_>, Vec<_>) = tests.binaries.iter().partition(|binary| binary.name == WHOLE.0);
    let (waiting, others): (Vec<_>, Vec<_>) = others.into_iter().partition(|binary| binary.name == WAITING);
    let mut jobs: VecDeque<Box<dyn FnOnce() + Send + '_>> = VecDeque::new();
    others.into_iter().for_each(|binary| jobs.push_back(Box::new(|| run(binary))));
    if all && !scope.host && permitted.is_ok() {
        jobs.push_back(Box::new(|| also(kernels::test(scope.long, &tests))));
        jobs.push_back(Box::new(|| also(systemd::test(scope.long, &tests.guard))));
    }
    if all {
        jobs.push_back(Box::new(|| also(clippy())));
        jobs.push_back(Box::new(|| also(deny::check())));
    }
    let jobs = Mutex::new(jobs);
    let next = || jobs.lock().ok().and_then(|mut jobs| jobs.pop_front());
    thread::scope(|lanes| {
        for first in [waiting, whole] {
            lanes.spawn(|| {
                first.into_iter().for_each(&run);
                std::iter::from_fn(next).for_each(|job| job());
            });
        }
        std::iter::from_fn(next).for_each(|job| job());
    });
    drop(jobs);
    if all && !scope.host && scope.long {
        also(fuzz::fuzz(None, fuzz::TEST));
        also(bench::instructions::run(false));
    }
    let Results { counts, failures } = results.into_inner().context("a lane panicked")?;
    println!("\n{}", step::table(started));
    if let Err(why) = permitted {
        println!("skipped {} tests that need root and BPF: {why}", counts.skipped);
    }
    println!("{} passed, {} failed, {} skipped", counts.passed, counts.failed, counts.skipped);
    if !failures.is_empty() {
        bail!("{}", failures.join("; "));
    }
    Ok(())
}

/// Installs and builds what the tests need. Packages, and the file system of a machine, come beside what is built.
fn prepare(scope: &Scope<'_>) -> anyhow::Result<Tests> {
    let toolchain = setup::toolchain()?;
    thread::scope(|lanes| {
        let packages = (!scope.host).then(|| lanes.spawn(|| setup::test().and_then(|()| systemd::prepare())));
        setup::linker()?;
        object::build(&toolchain)?;
        let tests = build::tests()?;
        if let Some(packages) = packages {
            packages.join().map_err(|_| anyhow::anyhow!("the set-up panicked"))??;
        }
        Ok(tests)
    })
}

/// Runs the tests of `binary`: whether all passed, and what they said.
fn run(binary: &Binary, guard: &Path, scope: &Scope<'_>, permitted: bool) -> anyhow::Result<(bool, String)> {
    let whole = binary.name == WHOLE.0;
    let mut command = if whole || binary.name == HASTY { Command::new(&binary.path) } else { nice(&binary.path) };
    command.current_dir(&binary.folder).env("SMTP_GUARD_BIN", guard).env_remove(LONG);
    if scope.long {
        command.env(LONG, "1");
    }
    command.args(scope.filter);
    if permitted {
        command.arg("--include-ignored");
    }
    if whole {
        // The figures that these tests measure are part of their result.
        command.args(["--test-threads", WHOLE.1, "--show-output"]);
    }
    let name = binary.name.replace(": ", "-");
    step::output(&format!("test-{name}"), &format!("tests of {}", binary.name), &mut command)
}

/// A command that gives way to the tests of the whole.
pub(crate) fn nice(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new("nice");
    command.args(["-n", NICE]).arg(program);
    command
}

fn clippy() -> anyhow::Result<()> {
    let mut command = nice(build::cargo());
    command.current_dir(root()).env(build::OBJECT, build::object_path()).env("CARGO_TARGET_DIR", target());
    command.args(["clippy", "--locked", "--workspace", "--all-targets", "--", "-D", "warnings"]);
    step::run("clippy", "checking the lints", &mut command)
}

/// Whether eBPF programs can be loaded here, or why not.
fn permitted(binary: &Path) -> Result<(), String> {
    if !rustix::process::geteuid().is_root() {
        return Err("not root".to_owned());
    }
    match Command::new(binary).args(["edge", "probe"]).output() {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
        Err(error) => Err(error.to_string()),
    }
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
    const IGNORED: &str = "needs root";

    #[test]
    fn every_ignored_test_says_why() {
        let mut found = 0;
        for file in structure::rust_files(&root()) {
            let text = std::fs::read_to_string(&file).unwrap();
            for line in text.lines().filter(|line| line.trim_start().starts_with("#[ignore")) {
                assert!(line.contains(IGNORED), "{}: {line}", file.display());
                found += 1;
            }
        }
        assert!(found > 0, "there are kernel tests");
    }
}
