//! The peers, the sink behind them, and the DNS server: how each is set up, and what it takes.

use std::fs::{self, File};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal, kill_process};

use super::load::Load;
use super::{EDGE, run};

const SINK_PORT: u16 = 2500;
/// For a program that starts.
const PATIENCE: Duration = Duration::from_secs(20);
const LOOK: Duration = Duration::from_millis(20);
/// Until strace has all threads.
const ATTACHED: Duration = Duration::from_secs(1);
/// Seconds after which a load is given up.
const LONGEST: &str = "300";
/// Of CPU times in /proc: ticks a second, the same on all of Debian's architectures.
const TICKS: f64 = 100.0;
const STREAM_MODULE: &str = "/usr/lib/nginx/modules/ngx_stream_module.so";

/// What stands before the sink.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Peer {
    Nothing,
    Haproxy,
    Nginx,
    /// With connections to the backend used again, or not.
    Guard {
        reuse: bool,
    },
}

impl Peer {
    pub(super) const ALL: [Self; 5] =
        [Self::Nothing, Self::Haproxy, Self::Nginx, Self::Guard { reuse: false }, Self::Guard { reuse: true }];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Nothing => "no proxy",
            Self::Haproxy => "HAProxy, TCP mode",
            Self::Nginx => "nginx, stream",
            Self::Guard { reuse: false } => "guard, `reuse = false`",
            Self::Guard { reuse: true } => "guard, `reuse = true`",
        }
    }

    /// Names its files, too.
    pub(super) fn short(self) -> &'static str {
        match self {
            Self::Nothing => "none",
            Self::Haproxy => "haproxy",
            Self::Nginx => "nginx",
            Self::Guard { reuse: false } => "guard",
            Self::Guard { reuse: true } => "guard-reuse",
        }
    }

    pub(super) fn checks(self) -> bool {
        matches!(self, Self::Guard { .. })
    }

    fn port(self) -> u16 {
        match self {
            Self::Nothing => SINK_PORT,
            Self::Haproxy => 2501,
            Self::Nginx => 2502,
            Self::Guard { reuse: false } => 2503,
            Self::Guard { reuse: true } => 2504,
        }
    }

    /// Starts it, and waits until it listens.
    pub(super) fn start(self, folder: &Path, guard: &Path) -> anyhow::Result<Running> {
        let (name, port) = (self.short(), self.port());
        let program = match self {
            Self::Nothing => return Ok(Running { peer: self, program: None }),
            Self::Haproxy => start_haproxy(name, folder, port, SINK_PORT)?,
            Self::Nginx => {
                let config = configured(name, folder, &nginx(port, folder))?;
                let mut command = Command::new("nginx");
                command.arg("-p").arg(folder).arg("-c").arg(&config);
                Program::start(name, &mut command, folder, port)?
            }
            Self::Guard { reuse } => start_guard(name, folder, guard, port, SINK_PORT, reuse, "none")?,
        };
        Ok(Running { peer: self, program: Some(program) })
    }
}

/// HAProxy on `port`, in front of the server on `backend`.
pub(super) fn start_haproxy(name: &'static str, folder: &Path, port: u16, backend: u16) -> anyhow::Result<Program> {
    let config = configured(name, folder, &haproxy(port, backend))?;
    let mut command = Command::new("haproxy");
    command.arg("-db").arg("-f").arg(&config);
    Program::start(name, &mut command, folder, port)
}

/// The guard on `port`, in front of the server on `backend`.
pub(super) fn start_guard(
    name: &'static str,
    folder: &Path,
    guard: &Path,
    port: u16,
    backend: u16,
    reuse: bool,
    identity: &str,
) -> anyhow::Result<Program> {
    let state = folder.join(format!("{name}.state"));
    fs::create_dir(&state)?;
    let config = configured(name, folder, &smtp_guard(port, backend, &state, reuse, identity))?;
    let mut command = Command::new(guard);
    command.arg("run").arg("--config").arg(&config);
    Program::start(name, &mut command, folder, port)
}

fn configured(name: &str, folder: &Path, text: &str) -> anyhow::Result<PathBuf> {
    let config = folder.join(format!("{name}.conf"));
    fs::write(&config, text)?;
    Ok(config)
}

/// A peer that runs.
pub(super) struct Running {
    pub(super) peer: Peer,
    program: Option<Program>,
}

impl Running {
    /// Sends `load` through it. Whatever isn't accepted is an error.
    pub(super) fn send(&self, address: &str, load: &Load) -> anyhow::Result<()> {
        let mut command = Command::new("timeout");
        command.args([LONGEST, "smtp-source"]).args(load.arguments(address, self.peer.port()));
        run(&mut command).with_context(|| format!("{}, through {}", load.name, self.peer.name()))
    }

    /// An error unless `load` is refused with `reply`: were DNS dead, it would be another one.
    pub(super) fn refuses(&self, address: &str, load: &Load, reply: &str) -> anyhow::Result<()> {
        let unlike = || format!("{}: {} isn't answered by {reply}", self.peer.name(), load.name);
        match self.send(address, load) {
            Ok(()) => bail!(unlike()),
            Err(error) if format!("{error:#}").contains(reply) => Ok(()),
            Err(error) => Err(error).with_context(unlike),
        }
    }

    /// CPU seconds so far of all of its processes, in user space and in the kernel.
    pub(super) fn cpu(&self) -> anyhow::Result<f64> {
        self.sum(|folder| {
            let stat = fs::read_to_string(folder.join("stat"))?;
            // `123 (name) S ...`, and a name may have anything in it; utime and stime are the 14th and 15th.
            let rest = stat.rsplit(") ").next().unwrap_or_default();
            let times = rest.split_whitespace().skip(11).take(2).map(str::parse::<f64>);
            Ok(times.sum::<Result<f64, _>>()? / TICKS)
        })
    }

    /// Resident memory of all of its processes, in MiB.
    pub(super) fn rss(&self) -> anyhow::Result<f64> {
        self.sum(|folder| {
            let status = fs::read_to_string(folder.join("status"))?;
            let kib = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
            Ok(kib.trim().trim_end_matches(" kB").parse::<f64>()? / 1024.0)
        })
    }

    /// System calls of all of its processes while `load` goes through it, counted by strace.
    pub(super) fn system_calls(&self, load: &Load, folder: &Path) -> anyhow::Result<f64> {
        let output = folder.join(format!("{}.strace", self.peer.short()));
        let mut command = Command::new("strace");
        command.args(["-f", "-q", "-c", "-U", "calls,name", "-o"]).arg(&output);
        for pid in self.processes()? {
            command.args(["-p", &pid.to_string()]);
        }
        let mut strace = command.stdin(Stdio::null()).spawn().context("cannot start strace")?;
        std::thread::sleep(ATTACHED);
        let sent = self.send(EDGE, load);
        // As if by Ctrl-C: it leaves the processes alone and writes its table.
        kill_process(Pid::from_child(&strace), Signal::INT)?;
        strace.wait()?;
        sent?;
        let table = fs::read_to_string(&output).context("strace wrote no table")?;
        let total =
            table.lines().find_map(|line| line.trim().strip_suffix("total")).context("strace counted nothing")?;
        Ok(total.trim().parse()?)
    }

    fn sum(&self, read: impl Fn(&Path) -> anyhow::Result<f64>) -> anyhow::Result<f64> {
        let of = |pid: u32| {
            read(Path::new(&format!("/proc/{pid}"))).with_context(|| format!("{} is gone", self.peer.name()))
        };
        self.processes()?.into_iter().map(of).sum()
    }

    /// The program and what it started.
    fn processes(&self) -> anyhow::Result<Vec<u32>> {
        let Some(program) = &self.program else { return Ok(Vec::new()) };
        let first = program.child.id();
        let children = fs::read_to_string(format!("/proc/{first}/task/{first}/children"))?;
        let mut processes = vec![first];
        for child in children.split_whitespace() {
            processes.push(child.parse()?);
        }
        Ok(processes)
    }
}

/// A program in the background; its output is in a file.
pub(super) struct Program {
    child: Child,
}

impl Program {
    fn start(name: &'static str, command: &mut Command, folder: &Path, port: u16) -> anyhow::Result<Self> {
        let path = folder.join(format!("{name}.log"));
        let output = File::create(&path)?;
        let errors = output.try_clone()?;
        let child = command.stdin(Stdio::null()).stdout(output).stderr(errors).spawn();
        let mut program = Self { child: child.with_context(|| format!("cannot start {name}"))? };
        let started = Instant::now();
        while TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], port))).is_err() {
            let ended = program.child.try_wait()?;
            if ended.is_some() || started.elapsed() > PATIENCE {
                let said = fs::read_to_string(&path).unwrap_or_default();
                bail!("{name} doesn't listen on port {port} ({ended:?}): {}", said.trim_end());
            }
            std::thread::sleep(LOOK);
        }
        Ok(program)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The mail server: it takes everything and keeps nothing.
pub(super) fn sink(folder: &Path) -> anyhow::Result<Program> {
    let mut command = Command::new("smtp-sink");
    // As root it wants to be told whom to become.
    command.args(["-u", "nobody", "-m", "1000", &format!("0.0.0.0:{SINK_PORT}"), "1000"]);
    Program::start("smtp-sink", &mut command, folder, SINK_PORT)
}

/// The DNS server: the senders' domain, and the name of the client.
pub(super) fn dns(folder: &Path) -> anyhow::Result<Program> {
    let mut command = Command::new("dnsmasq");
    command.args(["--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--user=root"]);
    command.args(["--pid-file=", "--listen-address=127.0.0.1", "--bind-interfaces"]);
    // What isn't said here doesn't exist.
    command.args(["--local=/example/", "--local=/in-addr.arpa/"]);
    command.args(["--mx-host=sender.example,mx.sender.example", &format!("--host-record=mx.sender.example,{EDGE}")]);
    Program::start("dnsmasq", &mut command, folder, 53)
}

fn haproxy(port: u16, backend: u16) -> String {
    format!(
        "global
    maxconn 4000
defaults
    mode tcp
    timeout connect 10s
    timeout client 5m
    timeout server 5m
listen smtp
    bind 0.0.0.0:{port}
    server sink 127.0.0.1:{backend}
"
    )
}

fn nginx(port: u16, folder: &Path) -> String {
    let folder = folder.display();
    format!(
        "load_module {STREAM_MODULE};
daemon off;
user root;
worker_processes auto;
pid {folder}/nginx.pid;
error_log {folder}/nginx.errors;
events {{ worker_connections 4000; }}
stream {{ server {{ listen 0.0.0.0:{port}; proxy_pass 127.0.0.1:{SINK_PORT}; }} }}
"
    )
}

/// All checks that need DNS are in force. Limits that one client with 50 sessions would meet are out of its way.
fn smtp_guard(port: u16, backend: u16, state: &Path, reuse: bool, identity: &str) -> String {
    let state = state.display();
    format!(
        "hostname = \"mx.example.org\"
[[listen]]
address = \"0.0.0.0:{port}\"
[backend]
servers = [\"127.0.0.1:{backend}\"]
identity = \"{identity}\"
tls = \"off\"
reuse = {reuse}
[relay]
domains = [\"example.org\"]
[limits]
connections = 1000
network_connections = 0
[edge]
connections = 2000
[checks]
ptr = \"enforce\"
sender_domain = \"enforce\"
greeting_delay = \"0s\"
[dns]
servers = [\"127.0.0.1:53\"]
[metrics]
listen = \"\"
[admin]
socket = \"{state}/admin.sock\"
[state]
directory = \"{state}\"
[log]
level = \"info\"
"
    )
}

/// What was measured.
pub(super) fn versions(guard: &Path) -> anyhow::Result<Vec<String>> {
    let asked: [(PathBuf, &str); 4] = [
        ("haproxy".into(), "-v"),
        ("nginx".into(), "-v"),
        ("dnsmasq".into(), "--version"),
        (guard.to_owned(), "--version"),
    ];
    let first = |(program, flag): (PathBuf, &str)| {
        let output = Command::new(&program).arg(flag).output();
        let output = output.with_context(|| format!("cannot start {}", program.display()))?;
        let said = [output.stdout, output.stderr].concat();
        let line = String::from_utf8_lossy(&said).lines().next().unwrap_or_default().trim().to_owned();
        Ok(line.split("  ").next().unwrap_or_default().trim_start_matches("nginx version: ").to_owned())
    };
    asked.into_iter().map(first).collect()
}
