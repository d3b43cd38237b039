//! The laboratory of the flood: two network namespaces, a cable between them, and a CPU for each side.
//!
//! ```text
//! CPU 0                                 CPU 1
//! generator --- inet0 10.77.0.2 ===== edge0 10.77.0.1 --- filter --- smtp-sink
//!                  |                     (NAPI thread)
//!             smtp-source (CPU 1)
//! ```
//! The namespaces have no names: processes hold them, and they vanish with these. The main thread is in the edge's
//! namespace.
//!
//! A thread of the kernel (threaded NAPI) serves the edge's end of the cable. It is bound to CPU 1 and has real-time
//! priority: like the interrupt of a network card, it comes before all else that runs there. By default the generator's
//! CPU would do that work, and the mail would not feel the flood.

use std::fs::{self, File};
use std::os::fd::AsFd as _;

use rustix::process::Pid;
use rustix::thread::{CpuSet, LinkNameSpaceType, move_into_link_name_space, sched_setaffinity};

use crate::process::{Program, run, wait_for};

/// The generator's.
pub(crate) const GENERATOR_CPU: usize = 0;
/// Of the edge, of mail, and of the bench itself.
const EDGE_CPU: usize = 1;
pub(crate) const EDGE_DEVICE: &str = "edge0";
pub(crate) const INET_DEVICE: &str = "inet0";
pub(crate) const EDGE_ADDRESS: &str = "10.77.0.1";
const INET_ADDRESS: &str = "10.77.0.2";
pub(crate) const EDGE_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
pub(crate) const INET_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
/// Holders of namespaces end by themselves then, in seconds.
const LONGEST: &str = "1800";
/// The autogroup's nice value of the bench: other sessions of the machine get the time that is left over. Written to
/// /proc/PID/autogroup. A kernel without autogroups goes by nice(1) alone, and the machine should be idle.
pub(crate) const AUTOGROUP: &str = "-20";
const OWN_AUTOGROUP: &str = "/proc/self/autogroup";

pub(crate) struct Lab {
    /// Hold the namespaces.
    inet: Program,
    edge: Program,
    /// What this process' session had before.
    autogroup: String,
}

/// Frames at the edge's end of the cable, since it is there.
#[derive(Clone, Copy)]
pub(crate) struct Frames {
    pub(crate) received: u64,
    /// There was no room for them: never received.
    pub(crate) lost: u64,
}

impl Lab {
    pub(crate) fn new() -> Self {
        assert!(std::thread::available_parallelism().is_ok_and(|cpus| cpus.get() >= 2), "two CPUs are needed");
        // `/autogroup-8 nice 0`
        let before = fs::read_to_string(OWN_AUTOGROUP).unwrap_or_default();
        let autogroup = before.trim().rsplit(' ').next().unwrap_or_default().to_owned();
        let lab = Self { inet: namespace(), edge: namespace(), autogroup };
        let _ = fs::write(OWN_AUTOGROUP, AUTOGROUP);
        enter(&net_path(&lab.edge));
        bind(None, EDGE_CPU);
        // What the bench itself does, it does at once: it mostly sleeps. Not so the programs that it runs.
        run("chrt", &["--fifo", "--reset-on-fork", "--pid", "1", &std::process::id().to_string()]);
        let mac = |mac: [u8; 6]| mac.map(|octet| format!("{octet:02x}")).join(":");
        let (near, far, there) = (mac(EDGE_MAC), mac(INET_MAC), lab.inet.pid());
        let peer = format!("peer name {INET_DEVICE} address {far} netns {there}");
        lab.at_edge(&format!("ip link add {EDGE_DEVICE} address {near} type veth {peer}"));
        lab.at_edge(&format!("ip addr add {EDGE_ADDRESS}/24 dev {EDGE_DEVICE}"));
        lab.in_inet(&format!("ip addr add {INET_ADDRESS}/24 dev {INET_DEVICE}"));
        for device in ["lo", EDGE_DEVICE] {
            lab.at_edge(&format!("ip link set {device} up"));
        }
        lab.in_inet(&format!("ip link set {INET_DEVICE} up"));
        // Answers to the flood go back into the cable, where nobody takes them.
        lab.at_edge(&format!("ip route add default via {INET_ADDRESS}"));
        lab.at_edge(&format!("ip neigh replace {INET_ADDRESS} lladdr {far} dev {EDGE_DEVICE}"));
        lab.in_inet(&format!("ip neigh replace {EDGE_ADDRESS} lladdr {near} dev {INET_DEVICE}"));
        // Forged sources must reach the filter, not be sorted out before it.
        for device in ["all", EDGE_DEVICE] {
            fs::write(format!("/proc/sys/net/ipv4/conf/{device}/rp_filter"), "0").unwrap();
        }
        // A connection for each message: ports must not run out.
        let net = lab.inet_path();
        let settings = move || {
            enter(&net);
            fs::write("/proc/sys/net/ipv4/tcp_tw_reuse", "1").unwrap();
            fs::write("/proc/sys/net/ipv4/ip_local_port_range", "1024 65535").unwrap();
        };
        std::thread::spawn(settings).join().unwrap();
        lab
    }

    /// Words that run a program on the other side.
    pub(crate) fn inet_words<'a>(&self, net: &'a mut String, words: &[&'a str]) -> Vec<&'a str> {
        *net = format!("--net={}", net_path(&self.inet));
        ["nsenter", net].into_iter().chain(words.iter().copied()).collect()
    }

    /// Runs the words of `line` here, and there.
    fn at_edge(&self, line: &str) {
        let words: Vec<_> = line.split(' ').collect();
        run(words[0], &words[1..]);
    }

    fn in_inet(&self, line: &str) {
        let mut net = String::new();
        let words = self.inet_words(&mut net, &line.split(' ').collect::<Vec<_>>());
        run(words[0], &words[1..]);
    }

    /// The namespace of the other side, for [`enter`].
    pub(crate) fn inet_path(&self) -> String {
        net_path(&self.inet)
    }

    /// Has the edge's end served by a thread on CPU 1, after an XDP program was attached. Returns the thread.
    pub(crate) fn serve(&self) -> Napi {
        // /sys shows the namespace that it was mounted in.
        let threaded = format!("mount -t sysfs sysfs /sys && echo 1 > /sys/class/net/{EDGE_DEVICE}/threaded");
        run("unshare", &["--mount", "sh", "-c", &threaded]);
        let pid = wait_for("the thread that serves the edge", || napi_threads().pop());
        assert_eq!(napi_threads().len(), 1, "another bench is running, or the cable has several queues");
        bind(Pid::from_raw(pid), EDGE_CPU);
        run("chrt", &["--fifo", "--pid", "50", &pid.to_string()]);
        Napi { pid }
    }

    pub(crate) fn frames(&self) -> Frames {
        let text = fs::read_to_string("/proc/thread-self/net/dev").unwrap();
        let line = text.lines().find_map(|line| line.trim().strip_prefix(EDGE_DEVICE)).unwrap();
        let fields: Vec<u64> = line[1..].split_whitespace().map(|field| field.parse().unwrap()).collect();
        // bytes packets errors dropped
        Frames { received: fields[1], lost: fields[3] }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let _ = fs::write(OWN_AUTOGROUP, &self.autogroup);
    }
}

/// The thread of the kernel that serves the edge's end.
pub(crate) struct Napi {
    pid: i32,
}

impl Napi {
    /// CPU time that it has had, in ns.
    pub(crate) fn cpu_ns(&self) -> u64 {
        let text = fs::read_to_string(format!("/proc/{}/schedstat", self.pid)).unwrap();
        text.split(' ').next().unwrap().parse().unwrap()
    }
}

/// Time that the edge's CPU had nothing to do, in s.
pub(crate) fn idle() -> f64 {
    let text = fs::read_to_string("/proc/stat").unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(&format!("cpu{EDGE_CPU} "))).unwrap();
    // user nice system idle iowait, in ticks of USER_HZ
    line.split(' ').skip(3).take(2).map(|ticks| ticks.parse::<f64>().unwrap()).sum::<f64>() / 100.0
}

/// Number of the interface, in the calling thread's namespace.
pub(crate) fn interface(name: &str) -> u32 {
    let socket = std::net::UdpSocket::bind(("0.0.0.0", 0)).unwrap();
    rustix::net::netdevice::name_to_index(&socket, name).unwrap()
}

fn napi_threads() -> Vec<i32> {
    let prefix = format!("napi/{EDGE_DEVICE}-");
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.starts_with(&prefix)))
        .collect()
}

/// Binds a thread, or the calling one, to `cpu`. What it starts is bound as well.
pub(crate) fn bind(thread: Option<Pid>, cpu: usize) {
    let mut cpus = CpuSet::new();
    cpus.set(cpu);
    sched_setaffinity(thread, &cpus).unwrap();
}

/// Moves the calling thread to the namespace `net`.
pub(crate) fn enter(net: &str) {
    let namespace = File::open(net).unwrap();
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
}

/// A process in a network namespace of its own.
fn namespace() -> Program {
    let holder = Program::start(&["unshare", "--net", "sleep", LONGEST]);
    let ours = fs::read_link("/proc/thread-self/ns/net").unwrap();
    wait_for("a network namespace", || {
        // Until unshare has done it, the holder is where we are.
        let theirs = fs::read_link(net_path(&holder)).ok()?;
        let name = fs::read_to_string(format!("/proc/{}/comm", holder.pid())).ok()?;
        (theirs != ours && name.trim() == "sleep").then_some(())
    });
    holder
}

fn net_path(holder: &Program) -> String {
    format!("/proc/{}/ns/net", holder.pid())
}
