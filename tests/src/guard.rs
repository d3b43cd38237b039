//! The guard under test: its configuration, its commands, its life and death.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::Duration;

use serde_json::Value;

use crate::json_page::Page;
use crate::netns::{Host, World};
use crate::process::{Program, Run, run, wait_for};

/// A guard on the edge of a [`World`], with pins of its own.
#[derive(Debug)]
pub struct Guard<'w> {
    world: &'w World,
    folder: tempfile::TempDir,
    program: Option<Program>,
    environment: Vec<(String, String)>,
}

impl<'w> Guard<'w> {
    /// Writes the configuration, loads the kernel plane and starts the guard. `changes` are `section.key = value` pairs,
    /// the value as TOML has it; what belongs to the key `+` is appended as it is.
    pub fn start(world: &'w World, changes: &[(&str, &str)]) -> Self {
        let mut guard = Self::configured(world, changes);
        guard.command(&["edge", "load"]).ok();
        guard.run();
        guard
    }

    /// Writes the configuration only.
    pub fn configured(world: &'w World, changes: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let guard = Self { world, folder, program: None, environment: Vec::new() };
        guard.configure(changes);
        guard
    }

    /// The proxy is started with these variables from now on.
    pub fn set_environment(&mut self, variables: &[(&str, &str)]) {
        self.environment = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    }

    /// Writes the configuration again.
    pub fn configure(&self, changes: &[(&str, &str)]) {
        let path = self.folder.path().display();
        let mut sections: BTreeMap<&str, BTreeMap<&str, String>> = BTreeMap::new();
        let defaults = [
            (".hostname", "\"mx.example.org\"".to_owned()),
            ("backend.servers", format!("[\"{}:25\"]", World::BACKEND)),
            ("backend.profile", "\"postfix\"".to_owned()),
            ("backend.identity", "\"none\"".to_owned()),
            ("relay.domains", "[\"example.org\"]".to_owned()),
            ("limits.failed_commands", "100".to_owned()),
            ("harvest.delay", "\"0s\"".to_owned()),
            // Tests about checks turn them on.
            ("checks.sender_domain", "\"off\"".to_owned()),
            ("checks.ptr", "\"off\"".to_owned()),
            ("checks.greeting_delay", "\"0s\"".to_owned()),
            ("edge.interfaces", "[\"att0\", \"cli0\"]".to_owned()),
            ("edge.pin_directory", format!("\"{}\"", self.pins().display())),
            ("edge.max_sources", "10000".to_owned()),
            ("metrics.listen", "\"127.0.0.1:9925\"".to_owned()),
            ("admin.socket", format!("\"{path}/admin.sock\"")),
            ("state.directory", format!("\"{path}/state\"")),
        ];
        let (more, changes): (Vec<_>, Vec<_>) = changes.iter().partition(|(key, _)| *key == "+");
        let changes = changes.iter().map(|(key, value)| (*key, (*value).to_owned()));
        for (key, value) in defaults.into_iter().chain(changes) {
            let (section, key) = key.split_once('.').unwrap();
            sections.entry(section).or_default().insert(key, value);
        }
        let mut text = String::new();
        for (key, value) in sections.remove("").unwrap() {
            text += &format!("{key} = {value}\n");
        }
        for address in ["0.0.0.0:25", "[::]:25"] {
            text += &format!("[[listen]]\naddress = \"{address}\"\n");
        }
        for (section, entries) in sections {
            text += &format!("[{section}]\n");
            for (key, value) in entries {
                text += &format!("{key} = {value}\n");
            }
        }
        for (_, lines) in more {
            text += &format!("{lines}\n");
        }
        fs::write(self.config(), text).unwrap();
    }

    /// Starts the proxy and waits until it serves.
    pub fn run(&mut self) {
        let mut command = self.world.on(Host::Edge, &binary());
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        let log = self.folder.path().join("log");
        let _ = fs::remove_file(&log);
        let mut program = Program::start(command.args(["run", "--config"]).arg(self.config()), log);
        program.wait_for("smtp-guard runs");
        // From its beginning: the opposite ends in the same words.
        let json = !fs::read_to_string(self.config()).unwrap().contains("\nformat = ");
        program.wait_for(if json { "\"backend answers\"" } else { "]: backend answers" });
        self.program = Some(program);
    }

    /// Starts the proxy without waiting for a backend.
    pub fn run_without_backend(&mut self) {
        let mut command = self.world.on(Host::Edge, &binary());
        let mut program =
            Program::start(command.args(["run", "--config"]).arg(self.config()), self.folder.path().join("log"));
        program.wait_for("smtp-guard runs");
        self.program = Some(program);
    }

    /// SIGKILL to the proxy.
    pub fn kill9(&mut self) {
        self.program.take().expect("the guard runs").kill9();
    }

    /// SIGTERM, without waiting for what comes of it.
    pub fn terminate(&self) {
        self.program.as_ref().expect("the guard runs").signal(rustix::process::Signal::TERM);
    }

    /// Waits until the proxy has ended by itself.
    pub fn wait_for_end(&mut self) {
        self.program.as_mut().expect("the guard runs").wait_for_end();
        self.program = None;
    }

    /// A command of the guard, on the edge, with this configuration.
    pub fn command(&self, arguments: &[&str]) -> Run {
        run(self.world.on(Host::Edge, &binary()).args(arguments).arg("--config").arg(self.config()), "")
    }

    /// The JSON that a command prints.
    pub fn json(&self, arguments: &[&str]) -> Value {
        let mut all = arguments.to_vec();
        all.push("--json");
        let answer = serde_json::from_str(&self.command(&all).ok()).unwrap();
        check_answer(arguments, &answer);
        answer
    }

    /// The admin socket's answer to `body`, as HTTP has it.
    pub fn post(&self, path: &str, body: &Value) -> String {
        let (mut socket, body) =
            (UnixStream::connect(self.folder.path().join("admin.sock")).unwrap(), body.to_string());
        let length = body.len();
        let head = "Host: smtp-guard\r\nConnection: close\r\nContent-Type: application/json";
        write!(socket, "POST {path} HTTP/1.1\r\n{head}\r\nContent-Length: {length}\r\n\r\n{body}").unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).unwrap();
        answer
    }

    /// Established connections as the kernel counts them.
    pub fn established(&self) -> u64 {
        self.json(&["edge", "status"])["connections"].as_u64().unwrap()
    }

    /// Waits until the kernel counts exactly `established` connections.
    pub fn settle(&self, established: u64) {
        let now = || (self.established() == established).then_some(());
        wait_for(&format!("{established} established"), now, || format!("{:#}", self.json(&["edge", "status"])));
    }

    /// Packets that the kernel judged for `reason`, over both families.
    pub fn packets(&self, reason: &str) -> u64 {
        let status = self.json(&["edge", "status"]);
        let packets = status["kernel_packets"].as_array().unwrap().iter();
        packets.filter(|entry| entry["reason"] == reason).map(|entry| entry["count"].as_u64().unwrap()).sum()
    }

    /// The metrics, as scraped.
    pub fn metrics(&self) -> String {
        run(self.world.on(Host::Edge, &netkit()).args(["get", "127.0.0.1:9925", "/metrics"]), "").ok()
    }

    /// The metrics, as scraped by whoever accepts `accept`.
    pub fn metrics_as(&self, accept: &str) -> String {
        let words = ["get", "127.0.0.1:9925", "/metrics", "--accept", accept];
        run(self.world.on(Host::Edge, &netkit()).args(words), "").ok()
    }

    /// The value of the sample whose line begins with `name`.
    pub fn metric(&self, name: &str) -> f64 {
        let metrics = self.metrics();
        let line = metrics.lines().find(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(' ')));
        let line = line.unwrap_or_else(|| panic!("no {name} in\n{metrics}"));
        line.rsplit(' ').next().unwrap().parse().unwrap()
    }

    /// Its process.
    pub fn pid(&self) -> i32 {
        self.program.as_ref().expect("the guard runs").pid().as_raw_nonzero().get()
    }

    /// The log since the last start. The guard writes a little later: this waits until the log doesn't grow any more, or not soon.
    pub fn log(&self) -> String {
        let read = || self.program.as_ref().map(Program::output).unwrap_or_default();
        let mut log = read();
        for _ in 0..10 {
            thread::sleep(Duration::from_millis(30));
            let before = std::mem::replace(&mut log, read());
            if before == log {
                break;
            }
        }
        log
    }

    /// Where its programs and maps are pinned.
    pub fn pins(&self) -> PathBuf {
        PathBuf::from(format!("/sys/fs/bpf/sg-{}", self.world.id))
    }

    /// Its configuration file.
    pub fn config(&self) -> PathBuf {
        self.folder.path().join("smtp-guard.toml")
    }
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        self.program = None;
        if self.pins().exists() {
            let unloaded = Command::new(binary()).args(["edge", "unload", "--config"]).arg(self.config()).output();
            if !unloaded.is_ok_and(|output| output.status.success()) {
                eprintln!("{} is left behind", self.pins().display());
            }
        }
    }
}

/// The binary under test.
pub fn binary() -> String {
    std::env::var("SMTP_GUARD_BIN").unwrap_or_else(|_| beside("smtp-guard"))
}

/// The tests' own network tool.
pub fn netkit() -> String {
    beside("netkit")
}

/// The project's tool. It is built by whoever runs it for these tests.
pub fn xtask() -> String {
    beside("xtask")
}

/// A binary in the folder that the tests' binaries are built into, whether a test asks or one of them.
pub(crate) fn beside(name: &str) -> String {
    let this = std::env::current_exe().unwrap();
    let folder = this.ancestors().skip(1).find(|folder| !folder.ends_with("deps")).unwrap();
    folder.join(name).display().to_string()
}

/// `answer` is what the command of `arguments` may say as JSON: docs/json.md has each field with its type.
#[track_caller]
pub fn check_answer(arguments: &[&str], answer: &Value) {
    if !matches!(arguments, ["config", "show", ..]) {
        Page::read().check_command(arguments, answer);
    }
}
