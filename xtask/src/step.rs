//! A step: a program that may take long. One line when it starts, a sign of life while it runs, its time when it ends;
//! its output goes to a file, whose tail is shown only when it fails.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

use crate::target;

const LOOK: Duration = Duration::from_millis(50);
const SIGN_OF_LIFE: Duration = Duration::from_secs(15);
const TAIL: usize = 40;

/// Runs `command` as the step `name`, said in the words of `what`.
pub(crate) fn run(name: &str, what: &str, command: &mut Command) -> anyhow::Result<()> {
    let logs = target().join("xtask");
    fs::create_dir_all(&logs).with_context(|| format!("cannot create {}", logs.display()))?;
    let log = logs.join(format!("{name}.log"));
    let output = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
    let errors = output.try_clone()?;
    let program = command.get_program().to_string_lossy().into_owned();
    let started = Instant::now();
    eprintln!("xtask: {what} ...");
    let mut child = command
        .stdin(Stdio::null())
        .stdout(output)
        .stderr(errors)
        .spawn()
        .with_context(|| format!("cannot start {program}"))?;
    let mut said = started;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if said.elapsed() >= SIGN_OF_LIFE {
            said = Instant::now();
            eprintln!("xtask: {what} ... {} s so far ({})", started.elapsed().as_secs(), log.display());
        }
        std::thread::sleep(LOOK);
    };
    let seconds = started.elapsed().as_secs_f64();
    if status.success() {
        eprintln!("xtask: {what}: done in {seconds:.1} s");
        return Ok(());
    }
    eprintln!("{}", tail(&log));
    bail!("{what} failed after {seconds:.1} s ({status}); all of its output is in {}", log.display());
}

fn tail(log: &Path) -> String {
    let text = fs::read(log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(TAIL)..].join("\n")
}
