//! Four hosts in namespaces of their own: attacker and honest client in front of the edge, the backend behind it.
//!
//! ```text
//! attacker 10.77.1.2 ---- att0 edge 10.77.1.1
//! client   10.77.2.2 ---- cli0 edge 10.77.2.1      edge 10.77.3.1 bak0 ---- backend 10.77.3.2
//! ```
//! IPv6 likewise: `fd77:1::/64` and so on; the attacker also has a second address in its /64 and one in another.

use std::fs;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::process::run;

/// Where ip(8) keeps the names of namespaces.
const NAMES: &str = "/run/netns";
const BPFFS: &str = "/sys/fs/bpf";

static NEXT: AtomicU32 = AtomicU32::new(0);

/// One of the hosts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Host {
    Attacker,
    Client,
    Edge,
    Backend,
}

impl Host {
    const ALL: [Self; 4] = [Self::Attacker, Self::Client, Self::Edge, Self::Backend];

    fn letter(self) -> char {
        match self {
            Self::Attacker => 'a',
            Self::Client => 'c',
            Self::Edge => 'e',
            Self::Backend => 'b',
        }
    }
}

/// The namespaces of one test.
#[derive(Debug)]
pub struct World {
    /// Names everything that the test makes outside its folder.
    pub id: String,
}

impl World {
    pub const ATTACKER: &str = "10.77.1.2";
    pub const CLIENT: &str = "10.77.2.2";
    pub const BACKEND: &str = "10.77.3.2";
    /// The edge, as attacker and client reach it.
    pub const EDGE_FOR_ATTACKER: &str = "10.77.1.1";
    pub const EDGE_FOR_CLIENT: &str = "10.77.2.1";
    pub const EDGE_FOR_ATTACKER_V6: &str = "fd77:1::1";
    pub const EDGE_FOR_CLIENT_V6: &str = "fd77:2::1";
    /// The first two share a /64.
    pub const ATTACKER_V6: [&str; 3] = ["fd77:1::2", "fd77:1::3", "fd77:1:0:1::2"];
    pub const CLIENT_V6: &str = "fd77:2::2";

    /// Makes the hosts and the cables between them.
    pub fn new() -> Self {
        remove_leftovers();
        mount_bpffs();
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let world = Self { id: format!("{}-{number}", std::process::id()) };
        for host in Host::ALL {
            ip(&["netns", "add", &world.name(host)]);
            ip(&["-n", &world.name(host), "link", "set", "lo", "up"]);
        }
        for (host, device, net) in [(Host::Attacker, "att0", 1), (Host::Client, "cli0", 2), (Host::Backend, "bak0", 3)]
        {
            let (there, edge) = (world.name(host), world.name(Host::Edge));
            ip(&["link", "add", "eth0", "netns", &there, "type", "veth", "peer", "name", device, "netns", &edge]);
            for (name, device, last) in [(&edge, device, 1), (&there, "eth0", 2)] {
                ip(&["-n", name, "addr", "add", &format!("10.77.{net}.{last}/24"), "dev", device]);
                ip(&["-n", name, "addr", "add", &format!("fd77:{net}::{last}/64"), "dev", device, "nodad"]);
                ip(&["-n", name, "link", "set", device, "up"]);
            }
        }
        let (attacker, edge) = (world.name(Host::Attacker), world.name(Host::Edge));
        ip(&["-n", &attacker, "addr", "add", "fd77:1::3/64", "dev", "eth0", "nodad"]);
        ip(&["-n", &attacker, "addr", "add", "fd77:1:0:1::2/64", "dev", "eth0", "nodad"]);
        ip(&["-n", &edge, "addr", "add", "fd77:1:0:1::1/64", "dev", "att0", "nodad"]);
        // Spoofed sources must reach the guard, not be sorted out before it.
        for file in ["all", "att0"] {
            world.sysctl(Host::Edge, &format!("ipv4/conf/{file}/rp_filter"), "0");
        }
        world
    }

    /// `program` on `host`. nsenter changes the network only: the BPF filesystem stays visible, other than with `ip netns
    /// exec`.
    pub fn on(&self, host: Host, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={NAMES}/{}", self.name(host))).arg(program);
        command
    }

    /// Moves the calling thread to `host`: sockets that it opens from now on are there.
    pub fn enter(&self, host: Host) {
        let namespace = fs::File::open(Path::new(NAMES).join(self.name(host))).unwrap();
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
    }

    /// Writes `value` to `/proc/sys/net/NAME` of `host`.
    pub fn sysctl(&self, host: Host, name: &str, value: &str) {
        let write = format!("echo '{value}' > /proc/sys/net/{name}");
        run(self.on(host, "sh").args(["-c", &write]), "").ok();
    }

    /// A counter of the kernel's TCP on `host`, by the name it has in `/proc/net/netstat` or `snmp`.
    pub fn counter(&self, host: Host, group: &str, name: &str) -> u64 {
        let files = run(self.on(host, "cat").args(["/proc/net/snmp", "/proc/net/netstat"]), "").ok();
        let mut lines = files.lines().filter_map(|line| line.strip_prefix(group)?.strip_prefix(": "));
        let (names, values) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
        let mut pairs = names.split(' ').zip(values.split(' '));
        pairs.find(|(found, _)| *found == name).and_then(|(_, value)| value.parse().ok()).unwrap_or(0)
    }

    /// Connections on port 25 of the edge in one of `states`, as ss(8) names them.
    pub fn sockets(&self, states: &[&str]) -> usize {
        let mut command = self.on(Host::Edge, "ss");
        command.arg("-Htn");
        for state in states {
            command.args(["state", state]);
        }
        run(command.arg("sport = :25"), "").ok().lines().count()
    }

    /// Has packets of all CPUs spread over all CPUs on `device` of the edge (RPS).
    pub fn spread(&self, device: &str) {
        // By ip(8), since `/sys` of another namespace shows the devices of that.
        let cpus = (1u64 << std::thread::available_parallelism().map_or(1, usize::from).min(63)) - 1;
        let write = format!("echo {cpus:x} > /sys/class/net/{device}/queues/rx-0/rps_cpus");
        ip(&["netns", "exec", &self.name(Host::Edge), "sh", "-c", &write]);
    }

    /// ip(8) on `host`.
    pub fn ip(&self, host: Host, arguments: &[&str]) -> String {
        let mut all = vec!["-n"];
        let name = self.name(host);
        all.push(&name);
        all.extend(arguments);
        ip(&all)
    }

    /// Process ids of what runs on `host`.
    pub fn programs(&self, host: Host) -> Vec<String> {
        ip(&["netns", "pids", &self.name(host)]).lines().map(str::to_owned).collect()
    }

    pub(crate) fn name(&self, host: Host) -> String {
        format!("sg-{}-{}", self.id, host.letter())
    }
}

impl Default for World {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for host in Host::ALL {
            // Deleting the last name of a namespace deletes its cables as well.
            let _ = Command::new("ip").args(["netns", "del", &self.name(host)]).status();
        }
    }
}

pub(crate) fn ip(arguments: &[&str]) -> String {
    run(Command::new("ip").args(arguments), "").ok()
}

/// What tests left behind whose process is gone: programs, namespaces, pins. (A test that is killed drops nothing.)
fn remove_leftovers() {
    for name in names_of_the_dead(NAMES) {
        let programs = Command::new("ip").args(["netns", "pids", &name]).output();
        let programs = programs.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
        for pid in programs.lines().filter_map(|line| line.trim().parse().ok()).filter_map(Pid::from_raw) {
            let _ = kill_process(pid, Signal::KILL);
        }
        let _ = Command::new("ip").args(["netns", "del", &name]).status();
    }
    for name in names_of_the_dead(BPFFS) {
        let _ = fs::remove_dir_all(Path::new(BPFFS).join(name));
    }
}

/// Entries `sg-PID-...` of `folder` whose process is gone.
fn names_of_the_dead(folder: &str) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    let dead = |name: &String| {
        let pid = name.strip_prefix("sg-").and_then(|rest| rest.split('-').next());
        pid.is_some_and(|pid| pid.parse::<u32>().is_ok() && !Path::new("/proc").join(pid).exists())
    };
    names.filter(dead).collect()
}

fn mount_bpffs() {
    let mounts = fs::read_to_string("/proc/mounts").unwrap();
    if !mounts.lines().any(|line| line.split(' ').nth(1) == Some(BPFFS)) {
        run(Command::new("mount").args(["-t", "bpf", "bpf", BPFFS]), "").ok();
    }
}
