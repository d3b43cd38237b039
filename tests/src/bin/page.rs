//! The status page outside of tests: `cargo xtask screenshots` has its pictures taken, `cargo xtask bench page` what it costs. Guard,
//! clients and attackers are in namespaces of this run's own.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test tool fails by panicking")]

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::Parser;
use smtp_guard_tests::browser::{Page, Screen};
use smtp_guard_tests::pki::Pki;
use smtp_guard_tests::probe::{SYN, raw, send};
use smtp_guard_tests::sink::Sink;
use smtp_guard_tests::{Guard, Host, Named, World, guard::netkit, run, wait_for};

const URL: &str = "http://127.0.0.1:9925/";
const DESK: Screen = Screen { width: 1280, height: 1000, dark: false, scale: 1.0 };
const PHONE: Screen = Screen { width: 360, height: 780, dark: false, scale: 2.0 };

/// What the pictures show of DNS: `nowhere.example` isn't there.
const ZONE: &str = "good.example. MX 10 mail.good.example.\nmail.good.example. A 10.77.2.2\nclient.example. A 10.77.2.2\n\
                    attacker.example. MX 10 mail.good.example.\n2.2.77.10.in-addr.arpa. PTR mail.good.example.\n";
/// Seconds of traffic before the first picture.
const TRAFFIC: u32 = 75;

/// Banned sources that the flood comes from: more than are told apart.
const SOURCES: u32 = 8_192;
/// Packets of the flood a second.
const FLOOD: u32 = 20_000;

#[derive(Parser)]
enum Arguments {
    /// Writes the pictures of docs/images
    Pictures { folder: PathBuf },
    /// CPU and memory of the guard under a flood, with the page open and without
    Cost {
        #[arg(long, default_value_t = 5)]
        rounds: usize,
        /// Of each state
        #[arg(long, default_value_t = 20)]
        seconds: u64,
    },
}

fn main() {
    match Arguments::parse() {
        Arguments::Pictures { folder } => pictures(&folder),
        Arguments::Cost { rounds, seconds } => cost(rounds, Duration::from_secs(seconds)),
    }
}

/// A guard that knows alice and bob.
fn start<'w>(world: &'w World, folder: &Path, more: &[(&str, &str)]) -> Guard<'w> {
    let known = folder.join("recipients");
    fs::write(&known, "alice@example.org\nbob@example.org\n").unwrap();
    Guard::start(world, &[&[("recipients.known", quoted(&known).as_str())], more].concat())
}

fn quoted(path: &Path) -> String {
    format!("{:?}", path.display().to_string())
}

/// Says `lines` from `host`.
fn say(world: &World, host: Host, lines: &[String]) {
    let edge = if host == Host::Attacker { World::EDGE_FOR_ATTACKER } else { World::EDGE_FOR_CLIENT };
    run(world.on(host, &netkit()).args(["dialogue", &format!("{edge}:25")]), &lines.join("\n")).ok();
}

/// Asks for `recipients` on behalf of `sender`.
fn ask(world: &World, host: Host, sender: &str, recipients: impl Iterator<Item = String>) {
    let mut lines = vec!["EHLO there.example".to_owned(), format!("MAIL FROM:<{sender}>")];
    lines.extend(recipients.map(|recipient| format!("RCPT TO:<{recipient}>")));
    lines.push("QUIT".to_owned());
    say(world, host, &lines);
}

fn mail(world: &World, count: u32) {
    let edge = format!("{}:25", World::EDGE_FOR_CLIENT);
    run(world.on(Host::Client, &netkit()).args(["mail", &edge, "message", &count.to_string()]), "").ok();
}

fn flood(world: &World, from: &str, packets: u32) {
    let edge = format!("{}:25", World::EDGE_FOR_ATTACKER);
    run(world.on(Host::Attacker, &netkit()).args(["spoof-syn", &edge, from, &packets.to_string()]), "").ok();
}

fn pictures(folder: &Path) {
    fs::create_dir_all(folder).unwrap();
    let (world, files) = (World::new(), tempfile::tempdir().unwrap());
    let _sink = Sink::start(&world, 25, &[]);
    let _named = Named::start(&world, ZONE);
    let list = files.path().join("drop.netset");
    fs::write(&list, (0..200).map(|n| format!("203.0.{n}.0/24\n")).collect::<String>()).unwrap();
    let pki = Pki::new();
    let pair = pki.issue("mx", &["mx.example.org"]);
    let more = [
        ("checks.sender_domain", "\"enforce\""),
        ("checks.ptr", "\"observe\""),
        ("dns.servers", &format!("[\"{}\"]", World::BACKEND)),
        ("tls.certificate", &quoted(&pair.certificate)),
        ("tls.key", &quoted(&pair.key)),
        ("+", &format!("[[blocklist]]\nname = \"drop\"\nfile = {}", quoted(&list))),
    ];
    let guard = start(&world, files.path(), &more);
    for (source, reason) in [
        ("198.51.100.23", "scans for open relays"),
        ("2001:db8:7::/64", "asked for by postmaster"),
        ("192.0.2.0/24", "spam run"),
    ] {
        guard.command(&["decisions", "add", source, "--for", "9h", "--reason", reason]).ok();
    }
    guard.command(&["accounts", "hold", "carol@example.org", "--reason", "its password is on a list"]).ok();
    world.enter(Host::Edge);
    let page = Page::open(URL, DESK, true);
    page.wait("the stream", "live", |text| text == "Live");
    for second in 0..TRAFFIC {
        traffic(&world, second);
        std::thread::sleep(Duration::from_millis(700));
    }
    for (name, screen) in [("light", DESK), ("dark", Screen { dark: true, ..DESK }), ("phone", PHONE)] {
        page.show_on(screen);
        for second in 0..3 {
            traffic(&world, TRAFFIC + second);
            std::thread::sleep(Duration::from_millis(700));
        }
        page.photograph(&folder.join(format!("status-page-{name}.png")));
    }
}

/// What clients and attackers do in a second.
fn traffic(world: &World, second: u32) {
    mail(world, 2 + second * 7 % 5);
    if second.is_multiple_of(3) {
        ask(world, Host::Client, "x@nowhere.example", ["alice@example.org".to_owned()].into_iter());
    }
    if second % 10 == 4 {
        ask(world, Host::Client, "a@client.example", ["someone@elsewhere.example".to_owned()].into_iter());
    }
    if second == 30 {
        ask(world, Host::Attacker, "x@attacker.example", (0..30).map(|n| format!("guess{n}@example.org")));
    }
    if second == 60 {
        ask(world, Host::Client, "b@client.example", (0..6).map(|n| format!("former{n}@example.org")));
    }
    if second > 30 {
        flood(world, World::ATTACKER, 900 + second * 13 % 7 * 160);
    }
    if second > 12 {
        flood(world, "198.51.100.23", 300 + second * 5 % 11 * 20);
    }
    if second.is_multiple_of(4) {
        flood(world, "203.0.113.9", 120);
        flood(world, "192.0.2.77", 60);
    }
}

/// Somebody who reads the stream until it is dropped.
struct Reader {
    stop: std::sync::Arc<AtomicBool>,
    bytes: std::sync::Arc<AtomicU64>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Reader {
    fn start() -> Self {
        let (stop, bytes) = (std::sync::Arc::<AtomicBool>::default(), std::sync::Arc::<AtomicU64>::default());
        let (stopped, read) = (stop.clone(), bytes.clone());
        // A thread is where the one is that starts it.
        let thread = std::thread::spawn(move || {
            let mut part = vec![0; 1 << 16];
            while !stopped.load(Ordering::Relaxed) {
                let mut stream = TcpStream::connect("127.0.0.1:9925").unwrap();
                stream.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
                stream.write_all(b"GET /page/stream HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
                while !stopped.load(Ordering::Relaxed) {
                    match stream.read(&mut part) {
                        Ok(0) => break,
                        Ok(length) => _ = read.fetch_add(length as u64, Ordering::Relaxed),
                        Err(_) => {}
                    }
                }
            }
        });
        Self { stop, bytes, thread: Some(thread) }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.take().unwrap().join();
    }
}

fn cost(rounds: usize, time: Duration) {
    let (world, files) = (World::new(), tempfile::tempdir().unwrap());
    let _sink = Sink::start(&world, 25, &[]);
    let guard = start(&world, files.path(), &[("edge.max_sources", "100000")]);
    let sources = files.path().join("banned");
    let address = |n: u32| Ipv4Addr::from_bits(Ipv4Addr::new(198, 18, 0, 1).to_bits() + n);
    fs::write(&sources, (0..SOURCES).map(|n| format!("{}\n", address(n))).collect::<String>()).unwrap();
    guard.command(&["decisions", "import", &sources.display().to_string(), "--for", "1d"]).ok();
    ask(&world, Host::Attacker, "x@attacker.example", (0..30).map(|n| format!("guess{n}@example.org")));
    let stop = AtomicBool::new(false);
    println!("load at the start {}", fs::read_to_string("/proc/loadavg").unwrap().trim());
    println!(
        "| readers | CPU of the guard, in parts of a core | its own memory | pages of its file | bytes a second to each |\n|---|---|---|---|---|"
    );
    std::thread::scope(|scope| {
        scope.spawn(|| {
            world.enter(Host::Attacker);
            let (socket, to) = (raw(), SocketAddrV4::new(World::EDGE_FOR_ATTACKER.parse().unwrap(), 25));
            let mut n = 0u32;
            while !stop.load(Ordering::Relaxed) {
                let begun = Instant::now();
                for _ in 0..FLOOD / 100 {
                    n = n.wrapping_add(1);
                    send(
                        &socket,
                        SocketAddrV4::new(address(n.wrapping_mul(2_654_435_761) % SOURCES), 1024),
                        to,
                        SYN,
                        n,
                    );
                }
                std::thread::sleep(Duration::from_millis(10).saturating_sub(begun.elapsed()));
            }
        });
        world.enter(Host::Edge);
        let before = guard.packets("operator");
        wait_for("the flood", || (guard.packets("operator") > before + 1000).then_some(()), || guard.log());
        // What is kept of those that are dropped grows at first, with or without the page.
        let mut memory = 0;
        for _ in 0..12 {
            std::thread::sleep(Duration::from_secs(10));
            let (now, _) = resident(&guard);
            if now < memory + 64 {
                break;
            }
            memory = now;
        }
        for readers in [0, 1, 8] {
            let mut measured: Vec<_> = (0..rounds).map(|_| measure(&guard, readers, time)).collect();
            measured.sort_by(|a, b| a.0.total_cmp(&b.0));
            let (least, most) = (measured[0].0, measured[rounds - 1].0);
            let (cpu, _, bytes) = measured[rounds / 2];
            let (own, file) = measured.iter().map(|(_, memory, _)| *memory).max().unwrap();
            println!("| {readers} | {cpu:.2} % ({least:.2} to {most:.2} %) | {own} KiB | {file} KiB | {bytes} |");
        }
        // As it is when nobody has looked for a while.
        std::thread::sleep(Duration::from_secs(20));
        let (cpu, (own, file), _) = measure(&guard, 0, time);
        println!("| none any more | {cpu:.2} % | {own} KiB | {file} KiB | |");
        stop.store(true, Ordering::Relaxed);
    });
    println!("\nLoad at the end {}", fs::read_to_string("/proc/loadavg").unwrap().trim());
}

/// CPU in parts of a core, memory as [`resident`] has it, and bytes a second to each reader.
fn measure(guard: &Guard, readers: usize, time: Duration) -> (f64, (u64, u64), u64) {
    let readers: Vec<_> = (0..readers).map(|_| Reader::start()).collect();
    std::thread::sleep(Duration::from_secs(2));
    let bytes = || readers.iter().map(|reader| reader.bytes.load(Ordering::Relaxed)).sum::<u64>();
    let (began, busy, had) = (Instant::now(), busy(guard), bytes());
    std::thread::sleep(time);
    let seconds = began.elapsed().as_secs_f64();
    let cpu = (self::busy(guard) - busy) as f64 / 1e9 / seconds * 100.0;
    let each = (bytes() - had) as f64 / seconds / readers.len().max(1) as f64;
    (cpu, resident(guard), each as u64)
}

/// Ns that all threads of the guard have run.
fn busy(guard: &Guard) -> u64 {
    let threads = fs::read_dir(format!("/proc/{}/task", guard.pid())).unwrap().flatten();
    let of = |thread: fs::DirEntry| {
        let text = fs::read_to_string(thread.path().join("schedstat")).ok()?;
        text.split(' ').next()?.parse::<u64>().ok()
    };
    threads.filter_map(of).sum()
}

/// KiB in memory: the guard's own, and pages of its file that were used, which the kernel takes back when it needs them.
fn resident(guard: &Guard) -> (u64, u64) {
    let status = fs::read_to_string(format!("/proc/{}/status", guard.pid())).unwrap();
    let of = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    };
    (of("RssAnon:"), of("RssFile:"))
}
