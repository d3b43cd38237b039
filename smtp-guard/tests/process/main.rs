//! The compiled guard as a process: what its host does to it must not stop the mail.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that can't go on has failed")]

mod certificates;
mod descriptors;
mod events;
mod logs;
#[path = "../long/mod.rs"]
mod long;
mod page;
mod places;
mod reload;
mod restart;
mod troubles;
mod webhook;

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const BINARY: &str = env!("CARGO_BIN_EXE_smtp-guard");
/// For anything to happen, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A guard in front of a backend that takes everything. Ends with the test.
struct Guard {
    child: Child,
    address: SocketAddr,
    config: PathBuf,
}

impl Guard {
    /// Starts one whose configuration is in `directory`, and waits until it serves clients and commands. `more` is appended to its
    /// configuration; `shell` stands before its command; `stderr` takes its log.
    fn start(directory: &Path, more: &str, shell: &str, stderr: Stdio) -> Self {
        let address = free();
        let config = configure(directory, address, more);
        let run = format!("{shell} exec {BINARY} --config {} run", config.display());
        let child = Command::new("sh").args(["-c", &run]).stdout(Stdio::null()).stderr(stderr).spawn().unwrap();
        let mut guard = Self { child, address, config };
        guard.wait("it listens", || TcpStream::connect(address).is_ok());
        // Last of all it hears commands.
        guard.wait("it answers", || UnixStream::connect(directory.join("admin.sock")).is_ok());
        guard
    }

    /// None: a stand-in where only the file matters.
    fn nobody() -> Self {
        let child = Command::new("true").spawn().unwrap();
        Self { child, address: SocketAddr::from((Ipv4Addr::LOCALHOST, 1)), config: PathBuf::new() }
    }

    /// Waits until `happened`.
    fn wait(&mut self, what: &str, mut happened: impl FnMut() -> bool) {
        let ends = Instant::now() + PATIENCE;
        while !happened() {
            assert_eq!(self.child.try_wait().unwrap(), None, "it ended before {what}");
            assert!(Instant::now() < ends, "{what}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn signal(&self, signal: rustix::process::Signal) {
        let pid = i32::try_from(self.child.id()).ok().and_then(rustix::process::Pid::from_raw).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// SIGTERM ends it.
    fn ends(mut self) {
        self.signal(rustix::process::Signal::TERM);
        let ends = Instant::now() + PATIENCE;
        while self.child.try_wait().unwrap().is_none() {
            assert!(Instant::now() < ends, "SIGTERM ends it");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Writes a configuration into `directory` by which a guard listens on `address`; `more` is appended to it.
fn configure(directory: &Path, address: SocketAddr, more: &str) -> PathBuf {
    let (backend, folder) = (backend(), directory.display());
    let state =
        if more.contains("[state]") { String::new() } else { format!("[state]\ndirectory = \"{folder}/state\"\n") };
    // A port for users asks for somebody who knows them.
    let via = if more.contains("submission") { "dovecot" } else { "off" };
    let text = format!(
        "hostname = \"mx.example.org\"\n[[listen]]\naddress = \"{address}\"\n[backend]\nservers = [\"{backend}\"]\n\
         identity = \"none\"\ntls = \"off\"\n[relay]\ndomains = [\"example.org\"]\n[auth]\nvia = \"{via}\"\n[checks]\n\
         sender_domain = \"off\"\nptr = \"off\"\ngreeting_delay = \"0s\"\n[metrics]\nlisten = \"\"\n[admin]\n\
         socket = \"{folder}/admin.sock\"\n{state}{more}"
    );
    let config = directory.join("smtp-guard.toml");
    std::fs::write(&config, text).unwrap();
    config
}

/// An address that is free now, and that nobody else is told of: neither another test nor, below the kernel's range, a connection.
fn free() -> SocketAddr {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    const FIRST: u16 = 10_000;
    const PORTS: u16 = 20_000;
    // Other tests run beside this process.
    let start = u16::try_from(std::process::id() % u32::from(PORTS)).unwrap();
    let next = || FIRST + (start + NEXT.fetch_add(1, Ordering::Relaxed)) % PORTS;
    let mut addresses = std::iter::repeat_with(|| SocketAddr::from((Ipv4Addr::LOCALHOST, next())));
    addresses.find(|address| TcpListener::bind(address).is_ok()).unwrap()
}

/// A command with the configuration `config`.
fn command(config: &Path, word: &str) -> Output {
    Command::new(BINARY).arg("--config").arg(config).arg(word).output().unwrap()
}

/// What the guard of `config` says of itself.
fn status(config: &Path) -> String {
    let status = command(config, "status");
    assert!(status.status.success(), "{status:?}");
    String::from_utf8(status.stdout).unwrap()
}

/// A backend that takes everything, and keeps the subjects.
struct Backend {
    address: SocketAddr,
    subjects: Arc<Mutex<Vec<String>>>,
}

impl Backend {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (address, subjects) = (listener.local_addr().unwrap(), Arc::default());
        let kept: Arc<Mutex<Vec<String>>> = Arc::clone(&subjects);
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let kept = Arc::clone(&kept);
                std::thread::spawn(move || {
                    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
                    let _ = stream.write_all(b"220 x\r\n");
                    while let Some(Ok(line)) = lines.next() {
                        let answer: &[u8] = if line == "DATA" { b"354 go\r\n" } else { b"250 ok\r\n" };
                        let _ = stream.write_all(answer);
                        if line == "DATA" {
                            let message: Vec<_> =
                                lines.by_ref().map_while(Result::ok).take_while(|line| line != ".").collect();
                            kept.lock()
                                .unwrap()
                                .extend(message.into_iter().filter(|line| line.starts_with("Subject: ")));
                            let _ = stream.write_all(b"250 taken\r\n");
                        }
                    }
                });
            }
        });
        Self { address, subjects }
    }
}

/// One of which nobody asks what it took.
fn backend() -> SocketAddr {
    Backend::start().address
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    stream
}

/// Sends a message over `stream`. `greeted`: the greeting was read.
fn send(stream: TcpStream, greeted: bool) {
    let mut reader = BufReader::new(stream);
    let hear = |reader: &mut BufReader<TcpStream>, expected: &str| {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        assert!(line.starts_with(expected), "{expected}: {line}");
    };
    if !greeted {
        hear(&mut reader, "220");
    }
    for said in ["HELO c", "MAIL FROM:<a@b.example>", "RCPT TO:<b@example.org>", "DATA", "Subject: x\r\n\r\nx\r\n."] {
        reader.get_mut().write_all(format!("{said}\r\n").as_bytes()).unwrap();
        hear(&mut reader, if said == "DATA" { "354" } else { "250" });
    }
}
