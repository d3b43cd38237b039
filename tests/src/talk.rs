//! A dialogue that the test leads line by line.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Stdio};

use crate::guard::netkit;
use crate::netns::{Host, World};
use crate::process::wait_for;

/// A client under way.
#[derive(Debug)]
pub struct Talk {
    child: Child,
    input: Option<ChildStdin>,
    output: PathBuf,
    _folder: tempfile::TempDir,
}

impl Talk {
    /// Connects from `host` to `server` and waits for the greeting.
    pub fn begin(world: &World, host: Host, server: &str) -> Self {
        Self::with(world, host, &["dialogue", server])
    }

    /// The same from the host's address `from`.
    pub fn begin_from(world: &World, host: Host, server: &str, from: &str) -> Self {
        Self::with(world, host, &["dialogue", server, "--from", from])
    }

    fn with(world: &World, host: Host, arguments: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let output = folder.path().join("output");
        let mut command = world.on(host, &netkit());
        command.args(arguments).stdin(Stdio::piped()).stdout(File::create(&output).unwrap());
        let mut child = command.spawn().unwrap();
        let talk = Self { input: child.stdin.take(), child, output, _folder: folder };
        talk.wait_for("greeting", |said| said.contains("220 ") || said.contains("421 "));
        talk
    }

    /// Sends `line` and waits for a reply to it; returns that.
    pub fn say(&mut self, line: &str) -> String {
        let before = self.said().len();
        self.send(line);
        self.wait_for(line, |said| said.len() > before && said.ends_with('\n'));
        self.said()[before..].to_owned()
    }

    /// Sends `line` without waiting.
    pub fn send(&mut self, line: &str) {
        // A client whose connection is gone has ended: what it printed tells.
        let _ = writeln!(self.input.as_mut().unwrap(), "{line}");
    }

    /// All replies so far.
    pub fn said(&self) -> String {
        fs::read_to_string(&self.output).unwrap()
    }

    /// Waits until the replies are as `is` wants them.
    pub fn wait_for(&self, what: &str, is: impl Fn(&str) -> bool) {
        wait_for(what, || is(&self.said()).then_some(()), || self.said());
    }
}

impl Drop for Talk {
    fn drop(&mut self) {
        self.input = None;
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
