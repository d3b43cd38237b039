//! `cargo xtask run`: the guard in front of the built-in sink, with nothing to configure.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal, kill_process};
use signal_hook::consts::{SIGINT, SIGTERM};

use crate::{build, target};

const GUARD: &str = "127.0.0.1:2525";
const SINK: &str = "127.0.0.1:2526";
const METRICS: &str = "127.0.0.1:9925";
/// What a guard on this machine is configured by. Commands without a configuration of their own ask that guard.
const INSTALLED: &str = "/etc/smtp-guard/smtp-guard.toml";
/// The same, by the environment.
const CONFIG: &str = "SMTP_GUARD_CONFIG";
/// For the guard to greet after its start.
const START: Duration = Duration::from_secs(20);
/// For a child to end after SIGTERM: the guard lets transactions end for 10 s.
const END: Duration = Duration::from_secs(15);
const LOOK: Duration = Duration::from_millis(50);

/// Sets up, builds, runs until Ctrl-C, and takes everything down again.
pub(crate) fn run(name: &str, binary: Option<PathBuf>) -> anyhow::Result<()> {
    for (address, what) in [(GUARD, "the guard"), (SINK, "the sink"), (METRICS, "the metrics")] {
        TcpListener::bind(address)
            .with_context(|| format!("{address}, where {what} shall listen, is taken (`ss -ltnp` shows by whom)"))?;
    }
    let binary = binary.map_or_else(|| build::build(false), Ok)?;
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&stop))?;
    }
    let folder = target().join("xtask").join(name);
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let config = folder.join("smtp-guard.toml");
    let unasked = unasked(&binary);
    fs::write(&config, configuration(name, &folder, unasked.as_deref()))
        .with_context(|| format!("cannot write {}", config.display()))?;
    let maildir = target().join("maildir");
    // Where commands don't find the guard by themselves they are told.
    let options = if unasked.is_some() { String::new() } else { format!(" --config {}", shown(&config)) };
    let lines = lines(&binary, &options, &maildir);

    let mut sink =
        Program::start("sink", Command::new(&binary).args(["sink", "--listen", SINK, "--maildir"]).arg(&maildir))?;
    let mut guard = Program::start("guard", Command::new(&binary).arg("run").arg("--config").arg(&config))?;
    let result = serve(&mut guard, &mut sink, &stop, &lines);
    eprintln!("\nxtask: stopping");
    guard.end();
    sink.end();
    unload(&binary, &config)?;
    result
}

fn serve(guard: &mut Program, sink: &mut Program, stop: &AtomicBool, lines: &str) -> anyhow::Result<()> {
    let started = Instant::now();
    while !greets() {
        if stop.load(Ordering::Relaxed) {
            return Ok(());
        }
        guard.check()?;
        if started.elapsed() > START {
            bail!("the guard did not greet on {GUARD} within {} s", START.as_secs());
        }
        std::thread::sleep(LOOK);
    }
    eprintln!("{lines}");
    while !stop.load(Ordering::Relaxed) {
        guard.check()?;
        sink.check()?;
        std::thread::sleep(LOOK);
    }
    Ok(())
}

/// The admin socket that commands ask without a configuration: the user's own. `None` where they would find another guard's.
fn unasked(binary: &Path) -> Option<PathBuf> {
    if Path::new(INSTALLED).exists() || std::env::var_os(CONFIG).is_some() {
        return None;
    }
    let shown = Command::new(binary).args(["config", "show"]).output().ok().filter(|output| output.status.success())?;
    let shown = String::from_utf8(shown.stdout).ok()?;
    let (_, admin) = shown.split_once("\n[admin]\n")?;
    let socket = admin.lines().find_map(|line| line.strip_prefix("socket = \"")?.strip_suffix('"'))?;
    Some(PathBuf::from(socket))
}

fn configuration(name: &str, folder: &Path, socket: Option<&Path>) -> String {
    let socket = socket.map_or_else(|| folder.join("admin.sock"), Path::to_path_buf);
    let values = [
        ("{GUARD}", GUARD),
        ("{SINK}", SINK),
        ("{METRICS}", METRICS),
        ("{PINS}", &format!("/sys/fs/bpf/{name}")),
        ("{socket}", &socket.display().to_string()),
        ("{folder}", &folder.display().to_string()),
    ];
    values.iter().fold(include_str!("run.toml").to_owned(), |text, (name, value)| text.replace(name, value))
}

/// Whether the guard says 220.
fn greets() -> bool {
    let Ok(address) = GUARD.parse::<SocketAddr>() else {
        return false;
    };
    let Ok(mut stream) = TcpStream::connect_timeout(&address, LOOK) else {
        return false;
    };
    let mut greeting = [0; 3];
    let greeted = stream.set_read_timeout(Some(Duration::from_secs(2))).is_ok()
        && stream.read_exact(&mut greeting).is_ok()
        && &greeting == b"220";
    // So that it doesn't count as a client that vanished; whether it hears this doesn't matter.
    let _ = stream.write_all(b"QUIT\r\n");
    greeted
}

/// What to type next. A test of the whole types it.
fn lines(binary: &Path, options: &str, maildir: &Path) -> String {
    let tool = shown(binary);
    let swaks = Command::new("swaks").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok();
    // bash speaks TCP, so nothing else need be there. A client that speaks ahead of the answer to EHLO is refused.
    let (host, port) = GUARD.split_once(':').unwrap_or_default();
    let talk = format!("timeout 12 bash -c 'exec 3<>/dev/tcp/{host}/{port}; cat <&3 & cat >&3'");
    let send = if swaks {
        format!("swaks --server {GUARD} --from you@example.com --to alice@example.org")
    } else {
        format!(
            "(for line in 'EHLO me' 'MAIL FROM:<you@example.com>' 'RCPT TO:<alice@example.org>' DATA 'Subject: hi\\r\\n\\r\\nhello\\r\\n.' QUIT; do printf \"$line\\r\\n\"; sleep 0.3; done) | {talk}"
        )
    };
    format!(
        r#"
The guard listens on {GUARD}, relays example.org to the sink on {SINK}; mail arrives in {maildir}/new.
Metrics: http://{METRICS}/metrics, status page: http://{METRICS}/

Try in another terminal:
  1. Send a message:
     {send}
  2. Harvest (the sink refuses recipients that begin with "unknown"); after the tenth the kernel drops 127.0.0.1:
     (printf 'EHLO me\r\n'; sleep 1; printf 'MAIL FROM:<x@example.com>\r\n'; for i in $(seq 12); do printf "RCPT TO:<unknown$i@example.org>\r\n"; done; sleep 8) | {talk}
  3. See why, and lift it:
     {tool} explain 127.0.0.1{options}
     {tool} decisions list{options}
     {tool} decisions delete 127.0.0.1{options}
  4. Watch it live:
     {tool} top{options}
Ctrl-C ends everything and removes the kernel plane.
"#,
        maildir = shown(maildir),
    )
}

/// A path as short as it can be typed from here.
fn shown(path: &Path) -> String {
    let here = std::env::current_dir().unwrap_or_default();
    path.strip_prefix(here).unwrap_or(path).display().to_string()
}

/// The guard leaves the kernel plane standing when it ends, as it should; a trial run doesn't.
fn unload(binary: &PathBuf, config: &Path) -> anyhow::Result<()> {
    let output = Command::new(binary).args(["edge", "unload", "--config"]).arg(config).output()?;
    if !output.status.success() {
        bail!("the kernel plane was not removed: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

/// A child that is ended when it is dropped.
struct Program {
    name: &'static str,
    child: Child,
}

impl Program {
    fn start(name: &'static str, command: &mut Command) -> anyhow::Result<Self> {
        let child = command.stdin(Stdio::null()).spawn().with_context(|| format!("cannot start the {name}"))?;
        Ok(Self { name, child })
    }

    /// An error if it has ended.
    fn check(&mut self) -> anyhow::Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => bail!("the {} has ended ({status}); why stands above", self.name),
        }
    }

    /// SIGTERM, and SIGKILL when that doesn't help.
    fn end(&mut self) {
        if let Ok(None) = self.child.try_wait()
            && let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw)
        {
            // It may have ended in this moment.
            let _ = kill_process(pid, Signal::TERM);
        }
        let started = Instant::now();
        while let Ok(None) = self.child.try_wait() {
            if started.elapsed() > END {
                eprintln!("xtask: the {} does not end: killing it", self.name);
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
