//! The peers, the sink behind them, and the DNS server: how each is set up, and what it takes.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal, kill_process};

use super::load::{Client, Load};
use super::{EDGE, EXEMPT, beside, run};

const SINK_PORT: u16 = 2500;
/// That of a sink that knows no recipient.
const NOBODY_PORT: u16 = 2510;
/// What is added to a peer's port where clients speak TLS; where they speak to stunnel, which does; and where the sink behind it
/// knows no recipient.
const TLS: u16 = 200;
const STUNNEL: u16 = 300;
const NOBODY: u16 = 400;
/// For a program that starts.
const PATIENCE: Duration = Duration::from_secs(20);
const LOOK: Duration = Duration::from_millis(20);
/// Until strace has all threads.
const ATTACHED: Duration = Duration::from_secs(1);
/// Of CPU times in /proc: ticks a second, the same on all of Debian's architectures.
const TICKS: f64 = 100.0;
const STREAM_MODULE: &str = "/usr/lib/nginx/modules/ngx_stream_module.so";

/// A peer before the sink.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Peer {
    Nothing,
    Haproxy,
    Nginx,
    /// Before its queue: smtpd_proxy_filter.
    Postfix,
    /// With connections to the backend used again, or not.
    Guard {
        reuse: bool,
    },
    /// Another build of the guard, with connections used again.
    Before,
}

impl Peer {
    pub(super) const ALL: [Self; 7] = [
        Self::Nothing,
        Self::Haproxy,
        Self::Nginx,
        Self::Postfix,
        Self::Guard { reuse: false },
        Self::Guard { reuse: true },
        Self::Before,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Nothing => "no proxy",
            Self::Haproxy => "HAProxy, TCP mode",
            Self::Nginx => "nginx, stream",
            Self::Postfix => "Postfix, proxy filter",
            Self::Guard { reuse: false } => "guard, `reuse = false`",
            Self::Guard { reuse: true } => "guard, `reuse = true`",
            Self::Before => "guard, another build",
        }
    }

    /// Names its files, too.
    pub(super) fn short(self) -> &'static str {
        match self {
            Self::Nothing => "none",
            Self::Haproxy => "haproxy",
            Self::Nginx => "nginx",
            Self::Postfix => "postfix",
            Self::Guard { reuse: false } => "guard",
            Self::Guard { reuse: true } => "guard-reuse",
            Self::Before => "guard-before",
        }
    }

    pub(super) fn checks(self) -> bool {
        matches!(self, Self::Postfix | Self::Guard { .. } | Self::Before)
    }

    /// Whether it can do what `client` wants; Postfix, which is no proxy of connections, is asked for mail only.
    pub(super) fn takes(self, client: Client) -> bool {
        match (self, client) {
            (Self::Nothing, Client::Tls) | (Self::Postfix, Client::Tls | Client::Refused) => false,
            (_, Client::Source | Client::Tls | Client::Pipelining | Client::Refused) => true,
        }
    }

    fn port(self) -> u16 {
        match self {
            Self::Nothing => SINK_PORT,
            Self::Haproxy => 2501,
            Self::Nginx => 2502,
            Self::Guard { reuse: false } => 2503,
            Self::Guard { reuse: true } => 2504,
            Self::Postfix => 2505,
            Self::Before => 2506,
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
            Self::Postfix => start_postfix(name, folder, port)?,
            Self::Guard { reuse } => start_guard(name, folder, guard, port, SINK_PORT, (reuse, true), "none")?,
            Self::Before => start_guard(name, folder, guard, port, SINK_PORT, (true, true), "none")?,
        };
        Ok(Running { peer: self, program: Some(program) })
    }
}

/// HAProxy on `port`, in front of the server on `backend`.
pub(super) fn start_haproxy(name: &'static str, folder: &Path, port: u16, backend: u16) -> anyhow::Result<Program> {
    let config = configured(name, folder, &haproxy(port, backend, folder))?;
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
    (reuse, early): (bool, bool),
    identity: &str,
) -> anyhow::Result<Program> {
    let state = folder.join(format!("{name}.state"));
    fs::create_dir(&state)?;
    let config = configured(name, folder, &smtp_guard(port, backend, folder, &state, (reuse, early), identity))?;
    let mut command = Command::new(guard);
    command.arg("run").arg("--config").arg(&config);
    Program::start(name, &mut command, folder, port)
}

/// Postfix on `port`. Its programs may enter no folder of root's: a file system of its own, which only the bench sees, has its files.
fn start_postfix(name: &'static str, folder: &Path, port: u16) -> anyhow::Result<Program> {
    let own = Path::new("/mnt");
    run(Command::new("mount").args(["-t", "tmpfs", "-o", "mode=755", "none"]).arg(own))?;
    for part in ["etc", "queue", "data"] {
        fs::create_dir(own.join(part))?;
    }
    run(Command::new("chown").arg("postfix").arg(own.join("data")))?;
    fs::write(own.join("etc/main.cf"), MAIN_CF)?;
    fs::write(own.join("etc/master.cf"), master_cf(port))?;
    let mut command = Command::new("postfix");
    command.arg("-c").arg(own.join("etc")).arg("start-fg");
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
    /// Sends `load` through it. Whatever isn't answered as it should be is an error.
    pub(super) fn send(&self, address: &str, load: &Load) -> anyhow::Result<()> {
        let (from, port) = (address.parse::<Ipv4Addr>()?, self.peer.port());
        let (from, to) = match (load.client, self.peer) {
            (Client::Source | Client::Pipelining, _) => (from, (from, port)),
            (Client::Tls, _) => (from, (Ipv4Addr::LOCALHOST, port + STUNNEL)),
            (Client::Refused, Peer::Guard { .. } | Peer::Before) => (EXEMPT.parse()?, (from, port)),
            (Client::Refused, Peer::Nothing) => (EXEMPT.parse()?, (from, NOBODY_PORT)),
            (Client::Refused, _) => (EXEMPT.parse()?, (from, port + NOBODY)),
        };
        let sent = beside::run(load.beside, to.into(), || load.send(from, to.into()));
        sent.with_context(|| format!("{}, through {}", load.name, self.peer.name()))
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
            // `123 (name) S ...`, and a name may have anything in it; utime and stime are the 14th and 15th. The two behind them
            // are those of children that have ended.
            let rest = stat.rsplit(") ").next().unwrap_or_default();
            let times = rest.split_whitespace().skip(11).take(4).map(str::parse::<f64>);
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
            let folder = format!("/proc/{pid}");
            let value = read(Path::new(&folder));
            // Of many, one ends now and then: Postfix' do.
            let gone = !Path::new(&folder).exists() && self.peer == Peer::Postfix;
            if gone { Ok(0.0) } else { value.with_context(|| format!("{} is gone", self.peer.name())) }
        };
        self.processes()?.into_iter().map(of).sum()
    }

    /// The program, and all that it and those started.
    fn processes(&self) -> anyhow::Result<Vec<u32>> {
        let Some(program) = &self.program else { return Ok(Vec::new()) };
        let mut processes = vec![program.child.id()];
        let mut next = 0;
        while let Some(process) = processes.get(next) {
            // One that has ended meanwhile has none.
            let children = fs::read_to_string(format!("/proc/{process}/task/{process}/children")).unwrap_or_default();
            for child in children.split_whitespace() {
                processes.push(child.parse()?);
            }
            next += 1;
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

/// The mail server: it takes everything and keeps nothing; and another one that knows no recipient.
pub(super) fn sinks(folder: &Path) -> anyhow::Result<[Program; 2]> {
    let sink = |name, port, refused: &[&str]| {
        let mut command = Command::new("smtp-sink");
        // As root it wants to be told whom to become.
        command.args(["-u", "nobody", "-m", "1000"]).args(refused).args([&format!("0.0.0.0:{port}"), "1000"]);
        Program::start(name, &mut command, folder, port)
    };
    Ok([sink("smtp-sink", SINK_PORT, &[])?, sink("smtp-sink-nobody", NOBODY_PORT, &["-f", "RCPT"])?])
}

/// Writes the files that all peers need: a certificate, and the recipients that there are.
pub(super) fn files(folder: &Path) -> anyhow::Result<()> {
    let (certificate, key) = super::certificate(folder)?;
    // HAProxy has both in one file.
    fs::write(folder.join("both.pem"), [fs::read(certificate)?, fs::read(key)?].concat())?;
    // smtp-source puts a number before the address where it sends to many.
    let known: String = (0..100).map(|n| format!("{n}bob@example.org\n")).collect();
    Ok(fs::write(folder.join("known"), known + "bob@example.org\n")?)
}

/// TLS for smtp-source, towards all peers that take it.
pub(super) fn stunnel(folder: &Path) -> anyhow::Result<Program> {
    let mut text = String::from("foreground = yes\npid =\nsyslog = no\ndebug = 3\n");
    let mut last = 0;
    for peer in Peer::ALL.into_iter().filter(|peer| peer.takes(Client::Tls)) {
        let (name, port) = (peer.short(), peer.port());
        // The guard is asked by STARTTLS, as mail servers do; the others have nothing to ask.
        let (plain, ask) =
            if let Peer::Guard { .. } | Peer::Before = peer { (0, "protocol = smtp\n") } else { (TLS, "") };
        last = port + STUNNEL;
        let server = port + plain;
        text += &format!("[{name}]\nclient = yes\naccept = 127.0.0.1:{last}\nconnect = {EDGE}:{server}\n");
        // The guard slows a stranger down who makes that many handshakes.
        text += &format!("local = {EXEMPT}\n{ask}");
    }
    let config = configured("stunnel", folder, &text)?;
    Program::start("stunnel", Command::new("stunnel4").arg(config), folder, last)
}

/// The DNS server: the senders' domain, and the name of the client.
pub(super) fn dns(folder: &Path) -> anyhow::Result<Program> {
    let mut command = Command::new("dnsmasq");
    command.args(["--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--user=root"]);
    command.args(["--pid-file=", "--listen-address=127.0.0.1", "--bind-interfaces"]);
    // What isn't said here doesn't exist.
    command.args(["--local=/example/", "--local=/in-addr.arpa/"]);
    command.args(["--mx-host=sender.example,mx.sender.example", &format!("--host-record=mx.sender.example,{EDGE}")]);
    // Postfix knows no other way to choose its DNS server. The mount is the bench's own.
    let resolver = folder.join("resolv.conf");
    fs::write(&resolver, "nameserver 127.0.0.1\n")?;
    run(Command::new("mount").arg("--bind").arg(&resolver).arg("/etc/resolv.conf"))?;
    Program::start("dnsmasq", &mut command, folder, 53)
}

fn haproxy(port: u16, backend: u16, folder: &Path) -> String {
    let (tls, nobody, folder) = (port + TLS, port + NOBODY, folder.display());
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
    bind 0.0.0.0:{tls} ssl crt {folder}/both.pem
    server sink 127.0.0.1:{backend}
listen nobody
    bind 0.0.0.0:{nobody}
    server sink 127.0.0.1:{NOBODY_PORT}
"
    )
}

fn nginx(port: u16, folder: &Path) -> String {
    let (tls, nobody, folder) = (port + TLS, port + NOBODY, folder.display());
    format!(
        "load_module {STREAM_MODULE};
daemon off;
user root;
worker_processes auto;
pid {folder}/nginx.pid;
error_log {folder}/nginx.errors;
events {{ worker_connections 4000; }}
stream {{
    server {{ listen 0.0.0.0:{port}; proxy_pass 127.0.0.1:{SINK_PORT}; }}
    server {{ listen 0.0.0.0:{nobody}; proxy_pass 127.0.0.1:{NOBODY_PORT}; }}
    server {{
        listen 0.0.0.0:{tls} ssl;
        ssl_certificate {folder}/certificate.pem;
        ssl_certificate_key {folder}/key.pem;
        proxy_pass 127.0.0.1:{SINK_PORT};
    }}
}}
"
    )
}

/// The checks of the guard, by Postfix' names.
const MAIN_CF: &str = "compatibility_level = 3.6
queue_directory = /mnt/queue
data_directory = /mnt/data
maillog_file = /mnt/log
maillog_file_prefixes = /mnt
myhostname = mx.example.org
mydestination =
mynetworks = 127.0.0.1/32
relay_domains = example.org
smtpd_relay_restrictions = reject_unauth_destination
smtpd_sender_restrictions = reject_unknown_sender_domain
smtpd_client_restrictions = reject_unknown_reverse_client_hostname
smtpd_client_connection_count_limit = 0
alias_maps =
alias_database =
";

fn master_cf(port: u16) -> String {
    format!(
        "0.0.0.0:{port} inet n - n - 100 smtpd
  -o smtpd_proxy_filter=127.0.0.1:{SINK_PORT}
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
proxymap unix - - n - - proxymap
anvil unix - - n - 1 anvil
tlsmgr unix - - n 1000? 1 tlsmgr
postlog unix-dgram n - n - 1 postlogd
"
    )
}

/// All checks that need DNS are in force. Limits that one client with 50 sessions would meet are out of its way.
fn smtp_guard(
    port: u16,
    backend: u16,
    folder: &Path,
    state: &Path,
    (reuse, early): (bool, bool),
    identity: &str,
) -> String {
    let (folder, state) = (folder.display(), state.display());
    format!(
        "hostname = \"mx.example.org\"
exempt = [\"{EXEMPT}\"]
[[listen]]
address = \"0.0.0.0:{port}\"
[backend]
servers = [\"127.0.0.1:{backend}\"]
identity = \"{identity}\"
tls = \"off\"
reuse = {reuse}
connect_early = {early}
[tls]
certificate = \"{folder}/certificate.pem\"
key = \"{folder}/key.pem\"
[relay]
domains = [\"example.org\"]
[recipients]
known = \"{folder}/known\"
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

/// The versions of the programs that were measured.
pub(super) fn versions(guard: &Path) -> anyhow::Result<Vec<String>> {
    let asked: [(&Path, &[&str]); 6] = [
        (Path::new("haproxy"), &["-v"]),
        (Path::new("nginx"), &["-v"]),
        (Path::new("postconf"), &["mail_version"]),
        (Path::new("stunnel4"), &["-version"]),
        (Path::new("dnsmasq"), &["--version"]),
        (guard, &["--version"]),
    ];
    let first = |(program, flags): (&Path, &[&str])| {
        let output = Command::new(program).args(flags).output();
        let output = output.with_context(|| format!("cannot start {}", program.display()))?;
        let said = [output.stdout, output.stderr].concat();
        // stunnel counts what it sets up before it says its name.
        let text = String::from_utf8_lossy(&said);
        let line = text.lines().find(|line| !line.contains("Initializing")).unwrap_or_default().trim();
        Ok(line
            .split("  ")
            .next()
            .unwrap_or_default()
            .replace("nginx version: ", "")
            .replace("mail_version =", "Postfix"))
    };
    asked.into_iter().map(first).collect()
}
