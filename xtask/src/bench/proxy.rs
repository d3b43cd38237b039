//! `cargo xtask bench proxy`: the time of mail through the guard, beside proxies that read nothing and beside none.
//!
//! smtp-source sends the same load to each peer in turn; behind each stands the same smtp-sink. All of it runs in network,
//! process and mount namespaces of its own, whose first process waits for the bench: whatever ends the bench ends all that
//! it started. Files are in `target/xtask/bench-proxy`.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

use self::load::{LOADS, Load};
use self::peer::{Peer, Running};
use self::table::Sample;
use super::machine;
use crate::{build, setup, target};

mod beside;
mod client;
mod far;
mod load;
mod peer;
mod table;

/// Rounds that a table takes at least.
const LEAST_ROUNDS: u32 = 5;
/// The address that the peers are reached at. A client that connects to it comes from it, too: a stranger, unlike loopback.
const EDGE: &str = "198.51.100.1";
/// The same for a client without a reverse DNS entry.
const NAMELESS: &str = "198.51.100.9";
/// A client that is exempt: who asks for nobody but recipients that don't exist would be banned, and who makes hundreds of TLS
/// handshakes slowed down.
const EXEMPT: &str = "198.51.100.7";
/// Local ports of connections; below are those of servers.
const EPHEMERAL: &str = "10000 65000";
/// After a load, until connections are closed everywhere and their CPU time is counted.
const SETTLE: Duration = Duration::from_millis(100);

/// The load that is measured.
#[derive(Debug, clap::Args)]
pub(crate) struct Wanted {
    /// Each of all loads through all proxies; a table takes 5
    #[arg(long, default_value_t = 5)]
    rounds: u32,
    /// A guard that is built already, in place of a new one
    #[arg(long)]
    guard: Option<PathBuf>,
    /// Another build of the guard, measured beside it
    #[arg(long)]
    before: Option<PathBuf>,
    /// Only loads whose name has this in it
    #[arg(long, default_value = "")]
    load: String,
    /// Only the sessions with a mail server that is far away
    #[arg(long)]
    far: bool,
}

/// Builds the guard in its release, unless there is one, and starts the bench in namespaces of its own.
pub(crate) fn outside(wanted: Wanted) -> anyhow::Result<()> {
    let Wanted { rounds, guard, before, load, far } = wanted;
    if rounds == 0 {
        bail!("without a round there is nothing to tell");
    }
    if !LOADS.iter().any(|known| known.name.contains(&load)) {
        let names: Vec<_> = LOADS.iter().map(|known| known.name).collect();
        bail!("no load has {load:?} in its name; there are: {}", names.join(", "));
    }
    if !rustix::process::geteuid().is_root() {
        bail!("namespaces need root: sudo -E cargo xtask bench proxy");
    }
    setup::bench_proxy()?;
    let guard = match guard {
        Some(guard) => guard,
        None => build::build(true)?,
    };
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--", "unshare", "--net", "--pid", "--mount", "--fork", "--kill-child"]);
    // The shell is the first process: when it ends, the kernel kills all others.
    command.args(["--mount-proc", "sh", "-c", "\"$@\"; exit $?", "bench"]);
    command.arg(env::current_exe()?).args(["bench", "proxy", "--inside", "--rounds", &rounds.to_string(), "--guard"]);
    command.arg(guard).args(far.then_some("--far")).args(["--load", &load]);
    command.args(before.iter().flat_map(|before| ["--before".as_ref(), before.as_os_str()]));
    let status = command.status().context("cannot start setpriv")?;
    if !status.success() {
        bail!("the bench failed ({status}); what the programs wrote is in {}", folder().display());
    }
    fs::remove_dir_all(folder()).context("cannot remove the bench's files")
}

/// The bench itself, in its namespaces.
pub(crate) fn inside(wanted: &Wanted) -> anyhow::Result<()> {
    let Wanted { rounds, guard: Some(guard), before, load: part, far } = wanted else { bail!("no guard to measure") };
    let rounds = *rounds;
    let folder = folder();
    if folder.exists() {
        fs::remove_dir_all(&folder).context("cannot remove the files of an earlier bench")?;
    }
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    network()?;
    peer::files(&folder)?;
    let _dns = peer::dns(&folder)?;
    if *far {
        println!("{}", far::measure(rounds, &folder, guard)?);
        return Ok(());
    }
    let _sinks = peer::sinks(&folder)?;
    let start = |peer: &Peer| match (peer, before) {
        (Peer::Before, None) => None,
        (Peer::Before, Some(before)) => Some(peer.start(&folder, before)),
        _ => Some(peer.start(&folder, guard)),
    };
    let peers = Peer::ALL.iter().filter_map(start).collect::<anyhow::Result<Vec<_>>>()?;
    for running in &peers {
        if running.peer.checks() {
            // A guard that checks nothing would be a fine figure.
            running.refuses(EDGE, &load::WITHOUT_DOMAIN, "450 4.1.8")?;
            running.refuses(NAMELESS, &load::PROBE, "450 4.7.")?;
        }
        running.send(EDGE, &load::WARM)?;
    }
    let _stunnel = peer::stunnel(&folder)?;
    let (machine, busy) = (machine(), Busy::now()?);
    let mut samples = Vec::new();
    for round in 0..rounds {
        for load in LOADS.iter().filter(|load| load.name.contains(part.as_str())) {
            eprint!("round {} of {rounds}, {}:", round + 1, load.name);
            // Nobody is always the first, nor always behind the same one.
            for n in 0..peers.len() {
                let running = &peers[(n + round as usize) % peers.len()];
                if !running.peer.takes(load.client) {
                    continue;
                }
                let sample = measure(running, load, round)?;
                eprint!(" {} {:.2} s;", running.peer.short(), sample.seconds);
                samples.push(sample);
            }
            eprintln!();
        }
    }
    let far = if part.is_empty() { far::measure(rounds, &folder, guard)? } else { String::new() };
    let others = Busy::now()?.others(&busy) * 100.0;
    let load_after = super::read("/proc/loadavg");
    println!("{}\n", table::markdown(&samples));
    println!("{far}\n");
    println!("{}\n", table::beside(&samples));
    println!("Rounds: {rounds}. Medians, on {machine}; load at the end {}.", load_after.trim());
    println!("Programs that aren't the bench's took {others:.0} % of all CPU time meanwhile.");
    println!("{}", table::noise(&samples));
    println!("{}.", peer::versions(guard)?.join(", "));
    for running in peers.iter().filter(|running| running.peer != Peer::Nothing) {
        let calls = [&load::FEW, &load::FEW_IN_A_SESSION].map(|load| {
            Ok(format!("{:.1} ({})", running.system_calls(load, &folder)? / f64::from(load.messages), load.name))
        });
        let calls = calls.into_iter().collect::<anyhow::Result<Vec<_>>>()?;
        println!("System calls for a message, {}: {}.", running.peer.name(), calls.join(", "));
    }
    if rounds < LEAST_ROUNDS {
        println!("Fewer than {LEAST_ROUNDS} rounds: no table to show around.");
    }
    Ok(())
}

fn measure(running: &Running, load: &'static Load, round: u32) -> anyhow::Result<Sample> {
    let before = running.cpu()?;
    let started = Instant::now();
    running.send(EDGE, load)?;
    let seconds = started.elapsed().as_secs_f64();
    std::thread::sleep(SETTLE);
    let cpu = running.cpu()? - before;
    Ok(Sample {
        peer: running.peer,
        load: load.name,
        round,
        messages: load.messages,
        seconds,
        cpu,
        rss: running.rss()?,
    })
}

/// CPU time since the machine started, in ticks.
struct Busy {
    all: f64,
    /// Nobody's, or waiting for a disk.
    idle: f64,
    /// Of the processes of this namespace, and of those that have ended.
    own: f64,
}

impl Busy {
    fn now() -> anyhow::Result<Self> {
        let stat = fs::read_to_string("/proc/stat")?;
        let ticks = stat.lines().next().unwrap_or_default().split_whitespace().skip(1).take(8);
        let ticks = ticks.map(str::parse::<f64>).collect::<Result<Vec<_>, _>>()?;
        // Order: user, nice, system, idle, iowait, irq, softirq, steal.
        let idle = ticks.iter().skip(3).take(2).sum();
        let mut own = 0.0;
        for entry in fs::read_dir("/proc")? {
            let path = entry?.path();
            // Others are no processes, or one of them again (`self`).
            let is_process =
                path.file_name().is_some_and(|name| name.as_encoded_bytes().iter().all(u8::is_ascii_digit));
            if !is_process {
                continue;
            }
            // Whatever ends meanwhile is in its parent's times.
            let Ok(stat) = fs::read_to_string(path.join("stat")) else { continue };
            let rest = stat.rsplit(") ").next().unwrap_or_default();
            // Its own times, and those of its children that have ended.
            own += rest.split_whitespace().skip(11).take(4).flat_map(str::parse::<f64>).sum::<f64>();
        }
        Ok(Self { all: ticks.iter().sum(), idle, own })
    }

    /// The share of other programs since `before`.
    fn others(&self, before: &Self) -> f64 {
        let all = self.all - before.all;
        ((all - (self.idle - before.idle) - (self.own - before.own)) / all).max(0.0)
    }
}

/// Loopback with the addresses of the bench.
fn network() -> anyhow::Result<()> {
    run(Command::new("ip").args(["link", "set", "lo", "up"]))?;
    let own = [EDGE, NAMELESS, EXEMPT].map(str::to_owned);
    for address in own.into_iter().chain(beside::addresses().map(|address| address.to_string())) {
        run(Command::new("ip").args(["addr", "add", &format!("{address}/32"), "dev", "lo"]))?;
    }
    for (name, value) in [("ip_local_port_range", EPHEMERAL), ("tcp_tw_reuse", "1")] {
        fs::write(format!("/proc/sys/net/ipv4/{name}"), value).with_context(|| format!("cannot set {name}"))?;
    }
    Ok(())
}

/// Makes a certificate of `mx.example.org` in `folder`. Returns where it is, and its key.
pub(super) fn certificate(folder: &Path) -> anyhow::Result<(PathBuf, PathBuf)> {
    let (certificate, key) = (folder.join("certificate.pem"), folder.join("key.pem"));
    let mut command = Command::new("openssl");
    command.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30"]);
    command.args(["-subj", "/CN=mx.example.org", "-addext", "subjectAltName=DNS:mx.example.org"]);
    run(command.arg("-keyout").arg(&key).arg("-out").arg(&certificate))?;
    Ok((certificate, key))
}

/// Runs a program to its end. What it said is in the error.
fn run(command: &mut Command) -> anyhow::Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("cannot start {program}"))?;
    if !output.status.success() {
        let said = [output.stdout, output.stderr].concat();
        bail!("{program} failed ({}): {}", output.status, String::from_utf8_lossy(&said).trim_end());
    }
    Ok(())
}

fn folder() -> PathBuf {
    target().join("xtask/bench-proxy")
}
