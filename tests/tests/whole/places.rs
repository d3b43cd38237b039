//! One network takes all connections that it can get; honest strangers are served to the dot meanwhile.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

use smtp_guard_tests::sink::Sink;
use smtp_guard_tests::{Guard, Host, World};
use socket2::{Domain, Socket, Type};

/// A client at an address of its own.
struct Client(BufReader<TcpStream>);

impl Client {
    /// Connects from `from`, on the host that this thread is on; `None`: it wasn't let through.
    fn connect(from: IpAddr, server: &str) -> Option<Self> {
        let server: SocketAddr = server.parse().unwrap();
        let socket = Socket::new(Domain::for_address(server), Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::new(from, 0).into()).unwrap();
        socket.connect_timeout(&server.into(), Duration::from_secs(10)).ok()?;
        let stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        Some(Self(BufReader::new(stream)))
    }

    /// The code of the next reply; empty once the connection is closed.
    fn code(&mut self) -> String {
        loop {
            let mut line = String::new();
            match self.0.read_line(&mut line) {
                Ok(0) | Err(_) => return String::new(),
                Ok(_) if line.as_bytes().get(3) == Some(&b'-') => {}
                Ok(_) => return line[..3].to_owned(),
            }
        }
    }

    fn say(&mut self, line: &str) -> String {
        // Where it was closed, the reply tells.
        let _ = self.0.get_mut().write_all(format!("{line}\r\n").as_bytes());
        self.code()
    }
}

#[test]
#[ignore = "needs root and BPF"]
fn c2_honest_strangers_are_served_while_one_48_holds_all_it_can_get() {
    let world = World::new();
    let _sink = Sink::start(&world, 25, &[]);
    let guard = Guard::start(&world, &[("limits.total_connections", "400")]);
    // Each host is at home at many addresses: 25 /64s of one /48, and 30 networks.
    world.sysctl(Host::Attacker, "ipv6/ip_nonlocal_bind", "1");
    world.ip(Host::Attacker, &["-6", "route", "add", "local", "fd77:1:0:8000::/49", "dev", "lo"]);
    world.ip(Host::Edge, &["-6", "route", "add", "fd77:1:0:8000::/49", "via", "fd77:1::2", "dev", "att0"]);
    world.ip(Host::Client, &["route", "add", "local", "198.18.0.0/16", "dev", "lo"]);
    world.ip(Host::Edge, &["route", "add", "198.18.0.0/16", "via", World::CLIENT, "dev", "cli0"]);
    std::thread::scope(|scope| {
        let greedy = scope.spawn(|| {
            world.enter(Host::Attacker);
            let server = format!("[{}]:25", World::EDGE_FOR_ATTACKER_V6);
            let sources = (0..500).map(|n| format!("fd77:1:0:8{:03x}::1", n % 25).parse().unwrap());
            let mut held: Vec<_> = sources.filter_map(|from| Client::connect(from, &server)).collect();
            held.iter_mut().for_each(|client| _ = client.code());
            let still = held.iter_mut().filter_map(|client| (client.say("EHLO x") == "250").then_some(())).count();
            (held, still)
        });
        let (held, still) = greedy.join().unwrap();
        // Of 400, a tenth is kept for sources with a history.
        assert_eq!(still, 360);
        let honest = scope.spawn(|| {
            world.enter(Host::Client);
            let server = format!("{}:25", World::EDGE_FOR_CLIENT);
            let mut clients = Vec::new();
            for n in 0..30 {
                let mut client = Client::connect(format!("198.18.{n}.1").parse().unwrap(), &server).unwrap();
                let mut said = vec![client.code()];
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
                // It stays, as a sender with more mail does.
                clients.push(client);
            }
        });
        honest.join().unwrap();
        drop(held);
    });
    let status = guard.json(&["status"]);
    let bounds = status["bounds"].as_array().unwrap();
    let total = bounds.iter().find(|bound| bound["name"] == "total_connections").unwrap();
    assert!(total["limit"] == 400 && total["count"].as_u64().unwrap() >= 170, "{status:#}");
}
