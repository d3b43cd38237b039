//! A program in mount and process namespaces of its own: paths that are compiled into it lead into the test's folder,
//! and when it is dropped, all that it started is gone too.
//!
//! The first process of the room is a shell that waits for the program: the kernel kills all others when it ends, and
//! reports its end only when they are gone. So the program is always killed with -9, with no chance to clean up: what it
//! writes has to be in the test's folder. Needs root, and `/proc/PID/task/PID/children` of the kernel.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::{Pid, Signal, kill_process};

use crate::netns::{Host, World};
use crate::process::{Program, run, wait_for};

/// Pairs of what is seen and where, up to `--`; then the program.
const ENTER: &str = "
while [ \"$1\" != -- ]; do
    mount --bind \"$1\" \"$2\" || exit 70
    shift 2
done
shift
\"$@\"
exit $?";

/// A running program and what it started.
#[derive(Debug)]
pub struct Room {
    program: Program,
}

impl Room {
    /// Starts `words` on `host`. Each of `binds` is a file or folder, and the path where the program sees it instead of
    /// what is there; that path must exist. Standard output and error go to `output`.
    pub fn start(world: &World, host: Host, binds: &[(PathBuf, &str)], words: &[&str], output: PathBuf) -> Self {
        Self { program: Program::start(&mut Self::command(world, host, binds, words), output) }
    }

    /// The command that runs `words` in a room; see [`Room::start`].
    pub(crate) fn command(world: &World, host: Host, binds: &[(PathBuf, &str)], words: &[&str]) -> Command {
        let mut command = world.on(host, "unshare");
        command.args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", ENTER, "room"]);
        for (seen, place) in binds {
            command.arg(seen).arg(place);
        }
        command.arg("--").args(words);
        command
    }

    /// Waits until `text` stands in its output.
    pub fn wait_for(&mut self, text: &str) {
        self.program.wait_for(text);
    }

    /// Waits until something on its host listens on the TCP port `port`, over IPv4.
    pub fn wait_for_port(&mut self, port: u16) {
        let sockets = format!("/proc/{}/net/tcp", self.program.pid().as_raw_nonzero());
        let local = format!(":{port:04X}");
        // `0: 0203004D:0019 00000000:0000 0A ...`: number, local, remote, state; 0A is LISTEN.
        let listens = |line: &str| {
            let words: Vec<_> = line.split_whitespace().collect();
            words.get(1).is_some_and(|address| address.ends_with(&local)) && words.get(3) == Some(&"0A")
        };
        let program = &mut self.program;
        let looked = || {
            program.assert_runs();
            fs::read_to_string(&sockets).unwrap().lines().any(listens).then_some(())
        };
        wait_for(&format!("a listener on port {port}"), looked, || "nobody listens".to_owned());
    }

    /// The output so far.
    pub fn output(&self) -> String {
        self.program.output()
    }
}

impl Room {
    /// Kills all that is in it, and waits until it is gone.
    pub fn kill9(&mut self) {
        self.kill();
        self.program.wait_for_end();
    }

    /// Stops the program itself, not what it started, and waits until none of its threads runs any more: the signal is on
    /// its way for a while after it was sent.
    pub fn freeze(&self) {
        let pid = self.program_itself();
        kill_process(pid, Signal::STOP).unwrap();
        let threads = format!("/proc/{}/task", pid.as_raw_nonzero());
        let stopped = || {
            let mut states = fs::read_dir(&threads).unwrap().map(|thread| {
                let stat = fs::read_to_string(thread.unwrap().path().join("stat")).unwrap_or_default();
                // `123 (name) T ...`
                stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('T'))
            });
            states.all(|is_stopped| is_stopped).then_some(())
        };
        wait_for("all threads to stop", stopped, || threads.clone());
    }

    /// Lets it go on.
    pub fn thaw(&self) {
        kill_process(self.program_itself(), Signal::CONT).unwrap();
    }

    /// The shell's only child.
    fn program_itself(&self) -> Pid {
        let programs: Vec<_> = children(self.program.pid()).into_iter().flat_map(children).collect();
        assert_eq!(programs.len(), 1, "the shell has one child");
        programs[0]
    }

    fn kill(&self) {
        for first in children(self.program.pid()) {
            let _ = kill_process(first, Signal::KILL);
        }
    }
}

fn children(parent: Pid) -> Vec<Pid> {
    let pid = parent.as_raw_nonzero();
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    children.split_whitespace().filter_map(|pid| pid.parse().ok()).filter_map(Pid::from_raw).collect()
}

impl Drop for Room {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A program of a Debian package that is unpacked, not installed.
pub fn unpacked(package: &str, path: &str) -> PathBuf {
    let tools = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/tools");
    let found = tools.join(package).join(path);
    assert!(found.exists(), "{} is missing: cargo xtask test unpacks it", found.display());
    found.canonicalize().unwrap()
}

/// Files like /etc/passwd and /etc/group, with `users` before all others, each with a group of its name and number. Pairs for
/// [`Room::start`].
pub(crate) fn with_users(folder: &Path, users: &[(&str, u32)]) -> [(PathBuf, &'static str); 2] {
    [("passwd", "/etc/passwd"), ("group", "/etc/group")].map(|(name, place)| {
        let mut text = String::new();
        for (user, number) in users {
            text += &match name {
                "passwd" => format!("{user}:x:{number}:{number}::/nonexistent:/usr/sbin/nologin\n"),
                _ => format!("{user}:x:{number}:\n"),
            };
        }
        text += &fs::read_to_string(place).unwrap();
        fs::write(folder.join(name), text).unwrap();
        (folder.join(name), place)
    })
}

/// The first line of what `program` prints about itself that has `word` in it, in any case.
pub(crate) fn line_with(program: &mut Command, word: &str) -> String {
    let printed = run(program, "");
    let text = printed.stdout + &printed.stderr;
    let has = |line: &&str| line.to_lowercase().contains(&word.to_lowercase());
    text.lines().find(has).unwrap_or_else(|| panic!("no {word} in {text}")).to_owned()
}
