//! Programs that the bench runs, and waiting. None outlives it: those in the background get SIGKILL from the kernel when the
//! bench ends, by whatever way.

use std::io::{Read as _, Write as _};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use rustix::process::{Pid, getsid};
use signal_hook::consts::{SIGINT, SIGTERM};

use crate::lab::AUTOGROUP;

/// Between two looks whether the bench should end.
const LOOK: Duration = Duration::from_millis(50);
/// For what must come about by itself: a listener, a thread of the kernel.
const PATIENCE: Duration = Duration::from_secs(10);

static STOP: OnceLock<Arc<AtomicBool>> = OnceLock::new();

/// From now on Ctrl-C and SIGTERM end the bench at its next wait, by a panic, so that everything is removed.
pub(crate) fn end_on_signals() {
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(STOP.get_or_init(Arc::default))).unwrap();
    }
}

/// Sleeps. Returns how long it really was.
pub(crate) fn wait(time: Duration) -> Duration {
    let started = Instant::now();
    loop {
        assert!(!STOP.get().is_some_and(|stop| stop.load(Ordering::Relaxed)), "told to end");
        match time.checked_sub(started.elapsed()) {
            None | Some(Duration::ZERO) => return started.elapsed(),
            Some(left) => std::thread::sleep(left.min(LOOK)),
        }
    }
}

/// Waits until `look` finds something.
pub(crate) fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(started.elapsed() < PATIENCE, "waited in vain for {what}");
        wait(Duration::from_millis(5));
    }
}

/// Runs a program to its end. Returns what it printed.
pub(crate) fn run(program: &str, arguments: &[&str]) -> String {
    feed(program, arguments, "")
}

/// The same, with `input` on its standard input.
pub(crate) fn feed(program: &str, arguments: &[&str], input: &str) -> String {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|error| panic!("{program}: {error}"));
    // A program that doesn't read its input is none the worse for it.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A program in the background, in a session of its own.
pub(crate) struct Program {
    child: Child,
    words: String,
}

impl Program {
    pub(crate) fn start(words: &[&str]) -> Self {
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL", "--", "setsid"])
            .args(words)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let child = command.spawn().unwrap_or_else(|error| panic!("setpriv: {error}"));
        Self { child, words: words.join(" ") }
    }

    /// Gives its session the CPU time that this one has: see [`crate::lab::AUTOGROUP`].
    pub(crate) fn prefer(&self) {
        let pid = Pid::from_child(&self.child);
        wait_for("a session", || (getsid(Some(pid)) == Ok(pid)).then_some(()));
        let _ = std::fs::write(format!("/proc/{}/autogroup", self.pid()), AUTOGROUP);
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Panics if it has ended.
    pub(crate) fn assert_runs(&mut self) {
        if let Some(why) = self.ended() {
            panic!("{why}");
        }
    }

    /// Whether it has ended, and what it said.
    pub(crate) fn ended(&mut self) -> Option<String> {
        let status = self.child.try_wait().unwrap()?;
        let mut said = String::new();
        // Nothing more than what it said is lost where that can't be read.
        let _ = self.child.stderr.take().map(|mut stderr| stderr.read_to_string(&mut said));
        Some(format!("ended ({status}): {}: {}", self.words, said.trim_end()))
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
