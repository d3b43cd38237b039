//! One network takes all connections that it can get, or many take all connections to the backend; honest strangers are
//! served to the dot meanwhile.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use smtp_guard_tests::sink::Sink;
use smtp_guard_tests::{Guard, Host, World, long, wait_for};
use socket2::{Domain, Socket, Type};

/// A client at an address of its own.
pub(crate) struct Client(BufReader<TcpStream>);

impl Client {
    /// Connects from `from`, on the host that this thread is on; `None`: it wasn't let through.
    pub(crate) fn connect(from: IpAddr, server: &str) -> Option<Self> {
        let server: SocketAddr = server.parse().unwrap();
        let socket = Socket::new(Domain::for_address(server), Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::new(from, 0).into()).unwrap();
        socket.connect_timeout(&server.into(), Duration::from_secs(10)).ok()?;
        let stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        Some(Self(BufReader::new(stream)))
    }

    /// The code of the next reply; empty once the connection is closed.
    pub(crate) fn code(&mut self) -> String {
        loop {
            let mut line = String::new();
            match self.0.read_line(&mut line) {
                Ok(0) | Err(_) => return String::new(),
                Ok(_) if line.as_bytes().get(3) == Some(&b'-') => {}
                Ok(_) => return line[..3].to_owned(),
            }
        }
    }

    /// What has come, without waiting: the code of its last whole line.
    fn heard(&mut self) -> Option<String> {
        self.0.get_ref().set_nonblocking(true).unwrap();
        let mut bytes = [0; 4096];
        let read = self.0.get_mut().read(&mut bytes);
        self.0.get_ref().set_nonblocking(false).unwrap();
        let text = String::from_utf8_lossy(&bytes[..read.ok()?]).into_owned();
        Some(text.lines().last().unwrap_or_default().chars().take(3).collect())
    }

    pub(crate) fn say(&mut self, line: &str) -> String {
        self.send(line);
        self.code()
    }

    /// Says it without waiting for the reply. Where the connection was closed, the reply tells.
    fn send(&mut self, line: &str) {
        let _ = self.0.get_mut().write_all(format!("{line}\r\n").as_bytes());
    }
}

/// How long a client waited for the greeting, and then for the answer to its dot.
pub(crate) struct Served {
    pub(crate) greeting: Duration,
    pub(crate) dot: Duration,
}

/// 30 honest strangers of one network each, on the client's host: each sends a message, and stays as a sender with more mail does.
fn honest(world: &World, at_once: bool) -> Vec<Served> {
    let deliver = |n: usize| {
        world.enter(Host::Client);
        let server = format!("{}:25", World::EDGE_FOR_CLIENT);
        let began = Instant::now();
        let mut client = Client::connect(format!("198.18.{n}.1").parse().unwrap(), &server).unwrap();
        let mut said = vec![client.code()];
        let greeting = began.elapsed();
        for line in [
            "EHLO client.example",
            "MAIL FROM:<a@client.example>",
            "RCPT TO:<b@example.org>",
            "DATA",
            "Subject: x\r\n\r\nx\r\n.",
        ] {
            said.push(client.say(line));
        }
        assert_eq!(said, ["220", "250", "250", "250", "354", "250"], "{n}");
        (client, Served { greeting, dot: began.elapsed() })
    };
    std::thread::scope(|scope| {
        let mut served = Vec::new();
        if at_once {
            let clients: Vec<_> = (0..30).map(|n| scope.spawn(move || deliver(n))).collect();
            served.extend(clients.into_iter().map(|client| client.join().unwrap()));
        } else {
            served = scope.spawn(|| (0..30).map(deliver).collect()).join().unwrap();
        }
        served.into_iter().map(|(_stays, served)| served).collect()
    })
}

/// Figures to be printed: nothing is asserted of them.
pub(crate) fn tell(what: &str, served: &[Served]) {
    for (name, time) in
        [("the greeting", (|served| served.greeting) as fn(&Served) -> Duration), ("the dot", |served| served.dot)]
    {
        let mut times: Vec<_> = served.iter().map(time).collect();
        times.sort();
        println!(
            "{what}: from connect to {name}: {:?} in the middle, {:?} at most",
            times[times.len() / 2],
            times[times.len() - 1]
        );
    }
}

/// Makes attacker and client be at home at many addresses: fd78::/16 and 198.19.0.0/16, and 198.18.0.0/16.
pub(crate) fn at_home_everywhere(world: &World) {
    world.sysctl(Host::Attacker, "ipv6/ip_nonlocal_bind", "1");
    world.ip(Host::Attacker, &["-6", "route", "add", "local", "fd78::/16", "dev", "lo"]);
    world.ip(Host::Edge, &["-6", "route", "add", "fd78::/16", "via", "fd77:1::2", "dev", "att0"]);
    world.ip(Host::Attacker, &["route", "add", "local", "198.19.0.0/16", "dev", "lo"]);
    world.ip(Host::Edge, &["route", "add", "198.19.0.0/16", "via", World::ATTACKER, "dev", "att0"]);
    world.ip(Host::Client, &["route", "add", "local", "198.18.0.0/16", "dev", "lo"]);
    world.ip(Host::Edge, &["route", "add", "198.18.0.0/16", "via", World::CLIENT, "dev", "cli0"]);
}

/// The address of the `n`th connection, of which 20 come from each /64 and `each` from each /48.
fn source(n: usize, each: usize) -> IpAddr {
    format!("fd78:{:x}:0:{:x}::1", n / each, n % each / 20).parse().unwrap()
}

#[test]
#[ignore = "needs root and BPF"]
fn c2_honest_strangers_are_served_while_one_48_holds_all_it_can_get() {
    let world = World::new();
    let _sink = Sink::start(&world, 25, &[]);
    let guard = Guard::start(&world, &[("limits.total_connections", "400")]);
    at_home_everywhere(&world);
    let served = std::thread::scope(|scope| {
        let greedy = scope.spawn(|| {
            world.enter(Host::Attacker);
            let server = format!("[{}]:25", World::EDGE_FOR_ATTACKER_V6);
            let mut held: Vec<_> = (0..500).filter_map(|n| Client::connect(source(n, 500), &server)).collect();
            held.iter_mut().for_each(|client| _ = client.code());
            let still = held.iter_mut().filter_map(|client| (client.say("EHLO x") == "250").then_some(())).count();
            (held, still)
        });
        let (held, still) = greedy.join().unwrap();
        // Of 400, a tenth is kept for known senders.
        assert_eq!(still, 360);
        let served = honest(&world, false);
        drop(held);
        served
    });
    tell("30 strangers one after another beside 360 connections of one /48", &served);
    let status = guard.json(&["status"]);
    let bounds = status["bounds"].as_array().unwrap();
    let total = bounds.iter().find(|bound| bound["name"] == "total_connections").unwrap();
    assert!(total["limit"] == 400 && total["count"].as_u64().unwrap() >= 170, "{status:#}");
}

/// A backend that takes all mail, and has the kernel count its connections whenever one is made.
pub(crate) struct Backend {
    most: Arc<AtomicUsize>,
    ends: Arc<AtomicBool>,
    listening: Option<std::thread::JoinHandle<()>>,
}

impl Backend {
    pub(crate) fn start(world: &World) -> Self {
        let (most, ends) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let (counted, over) = (Arc::clone(&most), Arc::clone(&ends));
        let listening = std::thread::scope(|scope| {
            let listen = || {
                world.enter(Host::Backend);
                let listener = TcpListener::bind((World::BACKEND, 25)).unwrap();
                std::thread::spawn(move || {
                    for stream in listener.incoming().flatten() {
                        if over.load(Ordering::Relaxed) {
                            return;
                        }
                        counted.fetch_max(established(), Ordering::Relaxed);
                        std::thread::spawn(move || serve(&stream));
                    }
                })
            };
            scope.spawn(listen).join().unwrap()
        });
        Self { most, ends, listening: Some(listening) }
    }

    /// Ends it.
    pub(crate) fn end(mut self, world: &World) {
        self.ends.store(true, Ordering::Relaxed);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                world.enter(Host::Backend);
                let _ = TcpStream::connect((World::BACKEND, 25));
            });
        });
        if let Some(listening) = self.listening.take() {
            listening.join().unwrap();
        }
    }
}

/// Connections to port 25 of this thread's host that neither side has closed.
fn established() -> usize {
    // `0: 0203004D:0019 0103004D:A0B2 01 ...`: number, local, remote, state; 01 is ESTABLISHED.
    let sockets = std::fs::read_to_string("/proc/thread-self/net/tcp").unwrap();
    let lines = sockets.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    lines.filter(|words| words.len() > 3 && words[1].ends_with(":0019") && words[3] == "01").count()
}

fn serve(mut stream: &TcpStream) -> std::io::Result<()> {
    stream.write_all(b"220 x\r\n")?;
    let mut data = false;
    for line in BufReader::new(stream).lines() {
        let line = line?;
        let verb = line.get(..4).unwrap_or_default();
        let answer: &[u8] = match (data, verb) {
            (true, _) if line == "." => b"250 taken\r\n",
            (true, _) => continue,
            (false, "DATA") => b"354 go on\r\n",
            (false, "QUIT") => b"221 bye\r\n",
            (false, _) => b"250 ok\r\n",
        };
        data = verb == "DATA" && !data;
        stream.write_all(answer)?;
        if answer.starts_with(b"221") {
            break;
        }
    }
    Ok(())
}

/// What strangers of a network may have by default: of `limits.network_connections` all but a tenth, here in whole /64s.
const OF_NETWORK: usize = 440;
/// `backend.connections` by default, and those of the guard itself.
const BACKEND: [usize; 2] = [90, 2];

#[test]
#[ignore = "needs root and BPF"]
fn c3_thousands_that_say_mail_share_the_backend_with_honest_strangers() {
    let sessions = long::amount(1_000, 9_983);
    // Each is a descriptor here.
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).unwrap();
    let world = World::new();
    let backend = Backend::start(&world);
    let total = (sessions * 10 / 9 + 100).to_string();
    let guard = Guard::start(&world, &[("limits.total_connections", &total)]);
    at_home_everywhere(&world);
    let stop = AtomicBool::new(false);
    let (ready, is_ready) = std::sync::mpsc::channel();
    let (served, again) = std::thread::scope(|scope| {
        let (world, stop) = (&world, &stop);
        let stopping = Stopping(stop);
        let greedy = scope.spawn(move || {
            world.enter(Host::Attacker);
            let server = format!("[{}]:25", World::EDGE_FOR_ATTACKER_V6);
            let mut held = Vec::new();
            for n in 0..sessions {
                let mut client = Client::connect(source(n, OF_NETWORK), &server).unwrap();
                assert_eq!((client.code(), client.say("EHLO x")), ("220".to_owned(), "250".to_owned()), "{n}");
                client.send("MAIL FROM:<a@client.example>");
                held.push(client);
            }
            ready.send(()).unwrap();
            // Whoever is told to come back does so at once.
            let mut again = 0;
            while !stop.load(Ordering::Relaxed) {
                for client in &mut held {
                    if client.heard().is_some_and(|code| code.starts_with('4')) {
                        client.send("MAIL FROM:<a@client.example>");
                        again += 1;
                    }
                }
                std::thread::sleep(Duration::from_millis(50));
            }
            again
        });
        is_ready.recv().unwrap();
        let full = || (established_on(world) >= BACKEND[0] * 9 / 10).then_some(());
        wait_for("strangers hold what they may have", full, || guard.metrics());
        let served = [honest(world, false), honest(world, true)];
        drop(stopping);
        (served, greedy.join().unwrap())
    });
    let most = backend.most.load(Ordering::Relaxed);
    println!(
        "{sessions} sessions that say MAIL, and again when told to ({again} times): {most} connections to the backend at most"
    );
    tell("30 strangers one after another beside them", &served[0]);
    tell("30 strangers at once beside them", &served[1]);
    assert!(most <= BACKEND.iter().sum(), "{most}");
    drop(guard);
    backend.end(&world);
}

/// Stops others when it is dropped, also by a panic.
pub(crate) struct Stopping<'a>(pub(crate) &'a AtomicBool);

impl Drop for Stopping<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Connections to the backend now.
fn established_on(world: &World) -> usize {
    std::thread::scope(|scope| {
        let count = || {
            world.enter(Host::Backend);
            established()
        };
        scope.spawn(count).join().unwrap()
    })
}
