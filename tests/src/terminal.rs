//! A terminal that can be looked at and typed into: tmux, with a server of its own in the test's folder.

use std::path::{Path, PathBuf};

use crate::netns::{Host, World};
use crate::process::{run, wait_for};

/// Shows what was there before the program, and how it ended, beside what it leaves on the screen.
const SCRIPT: &str = "echo before; \"$@\"; echo \"exit=$?\"; exec sleep 600";

/// A terminal with a program on it.
#[derive(Debug)]
pub struct Terminal<'w> {
    world: &'w World,
    socket: PathBuf,
}

impl<'w> Terminal<'w> {
    /// Runs `words` on the edge, on a terminal of `columns` and `rows`. Its socket is made in `folder`.
    pub fn start(world: &'w World, folder: &Path, (columns, rows): (u16, u16), words: &[&str]) -> Self {
        let terminal = Self { world, socket: folder.join("tmux.sock") };
        let (columns, rows) = (columns.to_string(), rows.to_string());
        let mut arguments = vec!["new-session", "-d", "-x", &columns, "-y", &rows, "sh", "-c", SCRIPT, "terminal"];
        arguments.extend(words);
        terminal.tmux(&arguments);
        terminal
    }

    /// The screen's text.
    pub fn screen(&self) -> String {
        self.tmux(&["capture-pane", "-p"])
    }

    /// Types `key`, as tmux names it.
    pub fn key(&self, key: &str) {
        self.tmux(&["send-keys", key]);
    }

    /// Changes its size.
    pub fn resize(&self, (columns, rows): (u16, u16)) {
        self.tmux(&["resize-window", "-x", &columns.to_string(), "-y", &rows.to_string()]);
    }

    /// Whether the program is on the other screen, from which the first one comes back.
    pub fn is_on_other_screen(&self) -> bool {
        self.tmux(&["display-message", "-p", "#{alternate_on}"]).trim() == "1"
    }

    /// Waits until `look` finds something on the screen.
    pub fn wait_until<T>(&self, what: &str, look: impl Fn(&str) -> Option<T>) -> T {
        wait_for(what, || look(&self.screen()), || self.screen())
    }

    /// Waits until `text` stands on the screen.
    pub fn wait_for(&self, text: &str) {
        self.wait_until(text, |screen| screen.contains(text).then_some(()));
    }

    fn tmux(&self, arguments: &[&str]) -> String {
        let mut command = self.world.on(Host::Edge, "tmux");
        // UTF-8 whatever the locale; no configuration of the user's.
        run(command.args(["-u", "-f", "/dev/null", "-S"]).arg(&self.socket).args(arguments), "").ok()
    }
}

impl Drop for Terminal<'_> {
    fn drop(&mut self) {
        let mut command = self.world.on(Host::Edge, "tmux");
        let ended = command.arg("-S").arg(&self.socket).arg("kill-server").output();
        if !ended.is_ok_and(|output| output.status.success()) {
            eprintln!("the terminal on {} is left behind", self.socket.display());
        }
    }
}
