//! A step: a program that may take long. One line when it starts, a sign of life while it runs, its time when it ends;
//! its output goes to a file, whose tail is shown only when it fails.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

use crate::target;

const LOOK: Duration = Duration::from_millis(50);
const SIGN_OF_LIFE: Duration = Duration::from_secs(30);
/// After this a step is killed: nothing that is run takes half as long.
const LONGEST: Duration = Duration::from_secs(2 * 3600);
const TAIL: usize = 40;

/// What was done so far, in the order of its end: what, and how many seconds it took.
static DONE: Mutex<Vec<(String, f64)>> = Mutex::new(Vec::new());

/// A step that has ended.
struct Ended {
    status: ExitStatus,
    seconds: f64,
    log: PathBuf,
}

/// Runs `command` as the step `name`, said in the words of `what`.
pub(crate) fn run(name: &str, what: &str, command: &mut Command) -> anyhow::Result<()> {
    let Ended { status, seconds, log } = finish(name, what, command)?;
    if status.success() {
        return Ok(());
    }
    eprintln!("{}", tail(&log));
    bail!("{what} failed after {seconds:.1} s ({status}); all of its output is in {}", log.display());
}

/// The same for a program whose output is wanted: whether it succeeded, and all that it wrote.
pub(crate) fn output(name: &str, what: &str, command: &mut Command) -> anyhow::Result<(bool, String)> {
    let Ended { status, log, .. } = finish(name, what, command)?;
    Ok((status.success(), read(&log)))
}

/// Notes a step that is no program.
pub(crate) fn note(what: &str, started: Instant) {
    if let Ok(mut done) = DONE.lock() {
        done.push((what.to_owned(), started.elapsed().as_secs_f64()));
    }
}

/// How long each step took. Steps that ran side by side add up to more than the whole, which is the last line.
pub(crate) fn table(started: Instant) -> String {
    let done = DONE.lock().map(|done| done.clone()).unwrap_or_default();
    let all = ("all of it".to_owned(), started.elapsed().as_secs_f64());
    // What took no time has nothing to tell.
    let rows = done.iter().filter(|(_, seconds)| *seconds >= 1.0).chain([&all]);
    rows.map(|(what, seconds)| format!("{seconds:7.1} s  {what}\n")).collect()
}

fn finish(name: &str, what: &str, command: &mut Command) -> anyhow::Result<Ended> {
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
        if started.elapsed() > LONGEST {
            eprintln!("xtask: {what}: killed after {} s", LONGEST.as_secs());
            child.kill()?;
        }
        std::thread::sleep(LOOK);
    };
    let seconds = started.elapsed().as_secs_f64();
    note(what, started);
    if status.success() {
        eprintln!("xtask: {what}: done in {seconds:.1} s");
    }
    Ok(Ended { status, seconds, log })
}

fn read(log: &Path) -> String {
    fs::read(log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}

fn tail(log: &Path) -> String {
    let text = read(log);
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(TAIL)..].join("\n")
}
