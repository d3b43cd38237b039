//! `cargo xtask bench instructions`: the instructions of the hot loops, counted by callgrind, against a committed baseline.
//!
//! Times on a shared machine say little about a few per cent; a count of instructions is the same in each run. It isn't the
//! same on each machine (libraries choose by what the CPU can do), so what is told is what moved by more than [`TOLERANCE`].

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};

use crate::build::cargo;
use crate::{root, setup, step, target};

/// Per cent by which a count may grow.
const TOLERANCE: f64 = 5.0;
const BASELINE: &str = "smtp-guard/core/benches/instructions.baseline";
const HEAD: &str =
    "# Instructions for one unit of each case; `cargo xtask bench instructions --save` writes this file.\n";

/// A case, as the bench lists it.
struct Case {
    name: String,
    units: u32,
    unit: String,
}

/// Counts all cases. More than the baseline has, and more than a little, is an error; with `save` the counts become the baseline.
pub(crate) fn run(save: bool) -> anyhow::Result<()> {
    setup::bench_instructions()?;
    let binary = build()?;
    let list = Command::new(&binary).output().context("cannot start the bench")?;
    let cases = cases(&String::from_utf8_lossy(&list.stdout))?;
    let path = root().join(BASELINE);
    let baseline = if save { String::new() } else { read(&path)? };
    let (mut text, mut worse) = (HEAD.to_owned(), Vec::new());
    println!("| case | instructions | baseline | | one unit |\n|---|---|---|---|---|");
    for Case { name, units, unit } in cases {
        let now = count(&binary, &name)? / f64::from(units);
        text.push_str(&format!("{name}\t{now:.1}\n"));
        let Some(before) = of(&baseline, &name) else {
            println!("| {name} | {now:.1} | | | {unit} |");
            if !save {
                bail!("{BASELINE} doesn't have {name}; write it anew with `cargo xtask bench instructions --save`");
            }
            continue;
        };
        let change = (now / before - 1.0) * 100.0;
        println!("| {name} | {now:.1} | {before:.1} | {change:+.1} % | {unit} |");
        if change > TOLERANCE {
            worse.push(format!("{name} ({change:+.1} %)"));
        }
    }
    if save {
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        println!("written: {BASELINE}");
    }
    if !worse.is_empty() {
        bail!(
            "more instructions than {BASELINE} has, by over {TOLERANCE} %: {}. Where that is worth it, write the file anew with \
             `cargo xtask bench instructions --save` and say why in the commit",
            worse.join(", ")
        );
    }
    Ok(())
}

/// Builds the bench. Returns where it is.
fn build() -> anyhow::Result<PathBuf> {
    let mut command = Command::new(cargo());
    command.current_dir(root()).env("CARGO_TARGET_DIR", target());
    command.args(["bench", "--locked", "--package", "smtp-guard-core", "--features", "testing"]);
    command.args(["--bench", "instructions", "--no-run"]);
    step::run("bench-instructions", "building the bench of the hot loops", &mut command)?;
    let output = command.args(["--message-format", "json"]).stdout(Stdio::piped()).stderr(Stdio::null()).output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let path = text.lines().filter_map(|line| line.split("\"executable\":\"").nth(1)?.split('"').next()).next_back();
    path.map(PathBuf::from).context("cargo doesn't say where the bench is")
}

/// The lines that the bench lists its cases by: name, units, what one is.
fn cases(text: &str) -> anyhow::Result<Vec<Case>> {
    let line = |line: &str| {
        let mut words = line.split('\t');
        let (name, units, unit) = (words.next()?, words.next()?.parse().ok()?, words.next()?);
        Some(Case { name: name.to_owned(), units, unit: unit.to_owned() })
    };
    let cases: Option<Vec<_>> = text.lines().map(line).collect();
    cases.filter(|cases| !cases.is_empty()).context("the bench doesn't list its cases")
}

/// Instructions within the case `name`.
fn count(binary: &Path, name: &str) -> anyhow::Result<f64> {
    let file = target().join("xtask").join(format!("instructions-{name}"));
    let mut command = Command::new("valgrind");
    command.args(["--tool=callgrind", "--toggle-collect=instructions::counted", "--collect-atstart=no"]);
    command.arg(format!("--callgrind-out-file={}", file.display())).arg(binary).arg(name);
    step::run(&format!("instructions-{name}"), &format!("counting {name}"), &mut command)?;
    let text = read(&file)?;
    let total = total(&text).filter(|total| *total > 0.0);
    total.with_context(|| format!("{} has no instructions: is there a function `counted`?", file.display()))
}

/// What callgrind has counted: `totals: 123` or `summary: 123`.
fn total(text: &str) -> Option<f64> {
    let line = |line: &str| line.strip_prefix("totals:").or_else(|| line.strip_prefix("summary:"))?.trim().parse().ok();
    text.lines().rev().find_map(line)
}

/// The instructions of `name` in a baseline.
fn of(baseline: &str, name: &str) -> Option<f64> {
    baseline.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('\t')?.parse().ok())
}

fn read(path: &Path) -> anyhow::Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_counted_and_kept_is_read() {
        assert_eq!(total("events: Ir\n\nfn=(0)\n0 1\n\ntotals: 4711\n"), Some(4711.0));
        assert_eq!(total("events: Ir\n"), None);
        let baseline = format!("{HEAD}body\t12.5\nbodies\t3.0\n");
        assert_eq!(
            (of(&baseline, "body"), of(&baseline, "bod"), of(&baseline, "bodies")),
            (Some(12.5), None, Some(3.0))
        );
        assert!(cases("").is_err() && cases("body\tmany\ta KiB\n").is_err());
        let cases = cases("body\t1024\ta KiB\n").unwrap();
        assert_eq!((cases[0].name.as_str(), cases[0].units, cases[0].unit.as_str()), ("body", 1024, "a KiB"));
    }

    #[test]
    fn every_case_has_a_baseline() {
        let text = fs::read_to_string(root().join("smtp-guard/core/benches/instructions.rs")).unwrap();
        let baseline = fs::read_to_string(root().join(BASELINE)).unwrap();
        let names: Vec<_> = baseline.lines().filter_map(|line| line.split_once('\t')).map(|(name, _)| name).collect();
        let cases = text.lines().filter_map(|line| line.strip_prefix("    (\"")?.split('"').next());
        assert_eq!(names, cases.collect::<Vec<_>>());
    }
}
