//! A real Redis on a host of its own, and cables from it to the edges of several worlds.
//!
//! ```text
//! redis 10.78.N.1 ---- red0 edge 10.78.N.2      for the world number N, counted from 1
//! ```
//! All edges also reach it by one address.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::Command;

use rustix::process::Signal;

use crate::netns::{Host, World, ip};
use crate::process::{Program, Run, run};

/// Its port.
pub const PORT: u16 = 6379;

/// Options of each of them.
const COMMON: [&str; 8] = ["--bind", "0.0.0.0", "--protected-mode", "no", "--save", "", "--appendonly", "no"];

/// The server, and its host.
#[derive(Debug)]
pub struct Redis<'w> {
    worlds: Vec<&'w World>,
    program: Option<Program>,
    folder: tempfile::TempDir,
    host: String,
    server: PathBuf,
    options: Vec<String>,
}

impl<'w> Redis<'w> {
    /// Where all edges reach it.
    pub const ADDRESS: &'static str = "10.79.0.1";

    /// Makes its host with a cable to the edge of each of `worlds`, and starts it with `options`.
    pub fn start(worlds: &[&'w World], options: &[&str]) -> Self {
        let mut redis = Self::stopped(worlds, options);
        redis.run();
        redis
    }

    /// Makes its host only.
    pub fn stopped(worlds: &[&'w World], options: &[&str]) -> Self {
        let host = format!("sg-{}-r", worlds[0].id);
        ip(&["netns", "add", &host]);
        ip(&["-n", &host, "link", "set", "lo", "up"]);
        ip(&["-n", &host, "addr", "add", &format!("{}/32", Self::ADDRESS), "dev", "lo"]);
        for (number, world) in (1..).zip(worlds) {
            let (edge, device) = (world.name(Host::Edge), format!("edge{number}"));
            ip(&["link", "add", &device, "netns", &host, "type", "veth", "peer", "name", "red0", "netns", &edge]);
            for (name, device, last) in [(&host, &*device, 1), (&edge, "red0", 2)] {
                ip(&["-n", name, "addr", "add", &format!("10.78.{number}.{last}/24"), "dev", device]);
                ip(&["-n", name, "link", "set", device, "up"]);
            }
            ip(&["-n", &edge, "route", "add", Self::ADDRESS, "via", &format!("10.78.{number}.1")]);
        }
        let options = options.iter().map(|option| (*option).to_owned()).collect();
        let (server, folder) = (PathBuf::from("redis-server"), tempfile::tempdir().unwrap());
        Self { worlds: worlds.to_vec(), program: None, folder, host, server, options }
    }

    /// Uses the program `server` from the next start on.
    pub fn be(&mut self, server: PathBuf) {
        self.server = server;
    }

    /// Starts it, and waits until it answers.
    pub fn run(&mut self) {
        let mut command = self.on(&self.server);
        command.args(["--port", &PORT.to_string(), "--dir"]).arg(self.folder.path()).args(COMMON).args(&self.options);
        let log = self.folder.path().join("log");
        let _ = std::fs::remove_file(&log);
        let mut program = Program::start(&mut command, log);
        program.wait_for("Ready to accept connections");
        self.program = Some(program);
    }

    /// Starts another one beside it, on `port`, and waits until it says `ready`. `options` may begin with a configuration file.
    pub fn beside(&self, port: u16, options: &[&str], ready: &str) -> Program {
        let folder = self.folder.path().join(port.to_string());
        std::fs::create_dir(&folder).unwrap();
        let mut command = self.on(&self.server);
        command.args(options).args(["--port", &port.to_string(), "--dir"]).arg(&folder).args(COMMON);
        let mut program = Program::start(&mut command, folder.join("log"));
        program.wait_for(ready);
        program
    }

    /// Its URL, as the edge of the `world`th of its worlds reaches it.
    pub fn url(&self, world: usize) -> String {
        format!("redis://10.78.{}.1:{PORT}", world + 1)
    }

    /// Its process.
    pub fn pid(&self) -> i32 {
        self.program.as_ref().expect("it runs").pid().as_raw_nonzero().get()
    }

    /// SIGKILL.
    pub fn kill9(&mut self) {
        self.program.take().expect("it runs").kill9();
    }

    /// Stops it without killing it: its connections stay open, and nobody answers.
    pub fn freeze(&self) {
        self.program.as_ref().expect("it runs").signal(Signal::STOP);
    }

    /// The end of [`Self::freeze`].
    pub fn thaw(&self) {
        self.program.as_ref().expect("it runs").signal(Signal::CONT);
    }

    /// Cuts the cable to the edge of the `world`th of its worlds, or mends it.
    pub fn cut(&self, world: usize, is_cut: bool) {
        let state = if is_cut { "down" } else { "up" };
        self.worlds[world].ip(Host::Edge, &["link", "set", "red0", state]);
    }

    /// redis-cli(1) with `words`.
    pub fn cli(&self, words: &[&str]) -> Run {
        self.cli_of(PORT, words)
    }

    /// The same, for the one on `port`.
    pub fn cli_of(&self, port: u16, words: &[&str]) -> Run {
        run(self.on("redis-cli").args(["-p", &port.to_string()]).args(words), "")
    }

    /// Runs a script of Lua with one key and `arguments`, any bytes: they are handed over as digits.
    pub fn script(&self, lua: &str, key: &str, arguments: &[&[u8]]) -> String {
        let bytes = "local function bytes(n) return (ARGV[n]:gsub('..', function(h) return string.char(tonumber(h, 16)) end)) end";
        let (lua, hex) = (format!("{bytes} {lua}"), |argument: &&[u8]| {
            argument.iter().map(|byte| format!("{byte:02x}")).collect::<String>()
        });
        let arguments: Vec<_> = arguments.iter().map(hex).collect();
        let words = ["EVAL", &lua, "1", key].into_iter().chain(arguments.iter().map(String::as_str));
        self.cli(&words.collect::<Vec<_>>()).ok().trim().to_owned()
    }

    /// Its first line about itself.
    pub fn version() -> String {
        run(Command::new("redis-server").arg("--version"), "").ok().trim().to_owned()
    }

    fn on(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{}", self.host)).arg(program);
        command
    }
}

impl Drop for Redis<'_> {
    fn drop(&mut self) {
        if let Some(program) = &self.program {
            program.signal(Signal::CONT);
        }
        self.program = None;
        let _ = Command::new("ip").args(["netns", "del", &self.host]).status();
    }
}
