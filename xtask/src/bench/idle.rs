//! `cargo xtask bench idle`: resident memory of sessions that say EHLO and then nothing, and what is given back after them.
//!
//! The guard listens on loopback, without a backend: who says no more than EHLO needs none. Under TLS each client is an `openssl
//! s_client`, which says EHLO, STARTTLS, and EHLO again.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::{connect, machine};
use crate::{build, target};

const PORT: u16 = 2505;
/// Sessions at once in clear text, and under TLS.
const SESSIONS: [u32; 2] = [9_000, 500];
/// Sessions that come and go before anything is measured: what the guard needs once is there then.
const WARM: u32 = 50;
/// For a guard that starts, and for an answer.
const PATIENCE: Duration = Duration::from_secs(20);
/// Until what a session needs only at its beginning is gone.
const SETTLE: Duration = Duration::from_secs(2);
/// Seconds after the last session has ended.
const AFTER: [u64; 3] = [5, 30, 60];
/// Descriptors of this process and of the guard besides those of sessions.
const SPARE: u64 = 1_000;

/// A guard that is ended with the bench.
struct Guard(Child);

impl Drop for Guard {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A client's end of a session, which ends with it.
enum Held {
    Clear(#[expect(dead_code, reason = "held, not read")] TcpStream),
    Tls { client: Child, says: ChildStdin, hears: ChildStdout },
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Self::Tls { client, .. } = self {
            let _ = client.kill();
            let _ = client.wait();
        }
    }
}

/// Measures `sessions` at once, of the guard at `guard` or of one that is built.
pub(crate) fn run(sessions: Option<u32>, tls: bool, guard: Option<PathBuf>) -> anyhow::Result<()> {
    let sessions = sessions.unwrap_or(SESSIONS[usize::from(tls)]);
    let session = |n| if tls { session_under_tls(n) } else { Ok(Held::Clear(session(n)?)) };
    let guard = match guard {
        Some(guard) => guard,
        None => build::build(true)?,
    };
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    // Under TLS the two ends of a pipe.
    let needed = u64::from(sessions) * if tls { 2 } else { 1 } + SPARE;
    if maximum.is_some_and(|maximum| maximum < needed) {
        bail!("{sessions} sessions need {needed} descriptors: `ulimit -Hn {needed}` first, or --sessions with less");
    }
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).context("cannot have more descriptors")?;
    let folder = target().join("xtask/bench-idle");
    if folder.exists() {
        fs::remove_dir_all(&folder).context("cannot remove the files of an earlier bench")?;
    }
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let machine = machine();
    super::proxy::certificate(&folder)?;
    let guard = start(&guard, &folder, sessions)?;
    for _ in 0..WARM {
        session(0)?;
    }
    std::thread::sleep(SETTLE);
    let before = resident(&guard)?;
    let mut held = Vec::new();
    for n in 0..sessions {
        held.push(session(n)?);
    }
    std::thread::sleep(SETTLE);
    let during = resident(&guard)?;
    println!("on {machine}");
    println!("before: {:.1} MiB", before / 1024.0);
    let each = (during - before) / f64::from(sessions);
    let how = if tls { "under TLS" } else { "in clear text" };
    println!("{sessions} idle sessions, {how}: {:.1} MiB, {each:.2} KiB each", during / 1024.0);
    drop(held);
    let ended = Instant::now();
    for after in AFTER {
        std::thread::sleep(Duration::from_secs(after).saturating_sub(ended.elapsed()));
        println!("{after} s after they have ended: {:.1} MiB", resident(&guard)? / 1024.0);
    }
    drop(guard);
    fs::remove_dir_all(folder).context("cannot remove the bench's files")
}

fn start(guard: &Path, folder: &Path, sessions: u32) -> anyhow::Result<Guard> {
    let (config, state) = (folder.join("smtp-guard.toml"), folder.join("state"));
    fs::create_dir(&state)?;
    let files = folder.display();
    let (shown, total) = (state.display(), sessions.saturating_add(1_000));
    fs::write(
        &config,
        format!(
            "hostname = \"mx.example.org\"\n[[listen]]\naddress = \"127.0.0.1:{PORT}\"\n[backend]\nservers = [\"127.0.0.1:1\"]\n\
             [relay]\ndomains = [\"example.org\"]\n[limits]\nconnections = 1000\nconnections_per_minute = 100000\n\
             network_connections = 0\ntotal_connections = {total}\n[edge]\nconnections = 2000\n[tls]\ncertificate = \"{files}/certificate.pem\"\nkey = \"{files}/key.pem\"\n[checks]\ngreeting_delay = \"0s\"\n[metrics]\nlisten = \"\"\n\
             [admin]\nsocket = \"{shown}/admin.sock\"\n[state]\ndirectory = \"{shown}\"\n",
        ),
    )?;
    let log = File::create(folder.join("log"))?;
    let mut command = Command::new(guard);
    command.arg("run").arg("--config").arg(&config).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    let guard = Guard(command.spawn().context("cannot start the guard")?);
    let started = Instant::now();
    while TcpStream::connect((Ipv4Addr::LOCALHOST, PORT)).is_err() {
        if started.elapsed() > PATIENCE {
            bail!("the guard doesn't listen; what it said is in {}", folder.join("log").display());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(guard)
}

/// A session of the `n`th client, after the answer to its EHLO.
fn session(n: u32) -> anyhow::Result<TcpStream> {
    let mut client = connect(address(n), (Ipv4Addr::LOCALHOST, PORT).into())?;
    client.set_read_timeout(Some(PATIENCE))?;
    let mut answer = [0; 1024];
    for (say, expected) in [(&b""[..], "220"), (b"EHLO client.example\r\n", "250")] {
        client.write_all(say)?;
        let length = client.read(&mut answer).context("the guard doesn't answer")?;
        let answer = String::from_utf8_lossy(&answer[..length]);
        if !answer.starts_with(expected) {
            bail!("the guard answers {:?}", answer.trim_end());
        }
    }
    Ok(client)
}

/// The same under TLS.
fn session_under_tls(n: u32) -> anyhow::Result<Held> {
    let mut command = Command::new("openssl");
    command.args(["s_client", "-quiet", "-starttls", "smtp", "-connect", &format!("127.0.0.1:{PORT}")]);
    command.args(["-bind", &format!("{}:0", address(n))]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut client = command.spawn().context("cannot start openssl")?;
    let (says, hears) = (client.stdin.take(), client.stdout.take());
    let (Some(says), Some(hears)) = (says, hears) else { bail!("openssl has no pipes") };
    let mut held = Held::Tls { client, says, hears };
    if let Held::Tls { says, hears, .. } = &mut held {
        says.write_all(b"EHLO client.example\r\n")?;
        let mut answer = Vec::new();
        // The last line of the answer to EHLO.
        while !answer.windows(5).any(|text| text == b"\n250 ") {
            let mut part = [0; 1024];
            match hears.read(&mut part).context("openssl can't be read")? {
                0 => bail!("the guard answers {:?} under TLS", String::from_utf8_lossy(&answer).trim_end()),
                read => answer.extend_from_slice(&part[..read]),
            }
        }
    }
    Ok(held)
}

/// Of the `n`th client. Each address has 500 of them.
fn address(n: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(Ipv4Addr::new(127, 1, 0, 1).to_bits() + ((n / 500) << 8))
}

/// KiB of the guard in memory.
fn resident(guard: &Guard) -> anyhow::Result<f64> {
    let status = fs::read_to_string(format!("/proc/{}/status", guard.0.id())).context("the guard is gone")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}
