//! Programs, run to their end or in the background. None outlives its test.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// For a program that runs to its end.
const LONGEST: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(10);

/// The result of a program that has ended.
#[derive(Debug)]
pub struct Run {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

impl Run {
    /// Standard output of a program that must have succeeded.
    pub fn ok(self) -> String {
        assert!(self.status.success(), "{self:#?}");
        self.stdout
    }

    /// The exit code; -1 after a signal.
    pub fn code(&self) -> i32 {
        self.status.code().unwrap_or(-1)
    }
}

/// Runs `command` with `input` on its standard input, for at most a minute.
pub fn run(command: &mut Command, input: &str) -> Run {
    run_for(command, input, LONGEST)
}

/// The same, for at most `longest`.
pub fn run_for(command: &mut Command, input: &str, longest: Duration) -> Run {
    let folder = tempfile::tempdir().unwrap();
    let (out, err) = (folder.path().join("out"), folder.path().join("err"));
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(File::create(&out).unwrap())
        .stderr(File::create(&err).unwrap())
        .spawn()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    // A program that doesn't read its input is none the worse for it.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let started = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if started.elapsed() > longest {
            child.kill().unwrap();
        }
        std::thread::sleep(LOOK);
    };
    let read = |path| String::from_utf8_lossy(&fs::read(path).unwrap()).into_owned();
    Run { status, stdout: read(out), stderr: read(err) }
}

/// Waits until `look` finds something, or panics with `what` and `detail` after a bound.
pub fn wait_for<T>(what: &str, look: impl FnMut() -> Option<T>, detail: impl FnOnce() -> String) -> T {
    wait_up_to(Duration::from_secs(20), what, look, detail)
}

/// Waits for something slow, up to a time.
pub fn wait_up_to<T>(
    bound: Duration,
    what: &str,
    mut look: impl FnMut() -> Option<T>,
    detail: impl FnOnce() -> String,
) -> T {
    let started = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        if started.elapsed() > bound {
            panic!("waited in vain: {what}\n{}", detail());
        }
        std::thread::sleep(LOOK);
    }
}

/// Does `check` for each row of `table`, two at a time: rows that have a world of their own mostly wait.
pub fn two_at_a_time<T: Sync>(table: &[T], check: impl Fn(&T) + Sync) {
    let next = AtomicUsize::new(0);
    let work = || {
        while let Some(row) = table.get(next.fetch_add(1, Ordering::Relaxed)) {
            check(row);
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(work);
        scope.spawn(work);
    });
}

/// A program in the background, with its output in a file.
#[derive(Debug)]
pub struct Program {
    child: Child,
    output: PathBuf,
}

impl Program {
    /// Starts `command`; standard output and error go to `output`.
    pub fn start(command: &mut Command, output: PathBuf) -> Self {
        let file = File::options().create(true).append(true).open(&output).unwrap();
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone().unwrap())
            .stderr(file)
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        Self { child, output }
    }

    /// The output so far.
    pub fn output(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.output).unwrap()).into_owned()
    }

    /// Waits until `text` stands in its output.
    pub fn wait_for(&mut self, text: &str) {
        let output = self.output.clone();
        let child = &mut self.child;
        let look = || {
            let written = fs::read(&output).unwrap();
            let found = String::from_utf8_lossy(&written).contains(text);
            let ended = child.try_wait().unwrap();
            assert!(
                found || ended.is_none(),
                "ended ({ended:?}) without {text:?}:\n{}",
                String::from_utf8_lossy(&written)
            );
            found.then_some(())
        };
        wait_for(text, look, || String::from_utf8_lossy(&fs::read(&output).unwrap()).into_owned());
    }

    /// Its process.
    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Panics with its output if it has ended.
    pub fn assert_runs(&mut self) {
        let ended = self.child.try_wait().unwrap();
        assert!(ended.is_none(), "ended ({ended:?}):\n{}", self.output());
    }

    /// SIGKILL: no chance to clean up.
    pub fn kill9(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Sends `signal`.
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits until it has ended by itself.
    pub fn wait_for_end(&mut self) {
        let (child, output) = (&mut self.child, &self.output);
        let ended = || child.try_wait().unwrap().map(|_| ());
        wait_for("the end of the program", ended, || String::from_utf8_lossy(&fs::read(output).unwrap()).into_owned());
    }

    /// SIGTERM, and SIGKILL if that doesn't help.
    pub fn end(&mut self) {
        if self.child.try_wait().unwrap().is_some() {
            return;
        }
        let _ = kill_process(self.pid(), Signal::TERM);
        let started = Instant::now();
        while self.child.try_wait().unwrap().is_none() {
            if started.elapsed() > Duration::from_secs(15) {
                let _ = self.child.kill();
            }
            std::thread::sleep(LOOK);
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.end();
    }
}
