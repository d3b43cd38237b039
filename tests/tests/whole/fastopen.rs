//! Counts under TCP Fast Open and Multipath TCP, which bring sockets into being in ways of their own.
//!
//! With Fast Open a client's SYN may carry a cookie from an earlier connection. The server's socket then exists from the
//! SYN on, and is counted from then on, as the server can use it from then on. Here sysctl switches on Fast Open for all
//! listeners of the edge; the guard itself never asks for it.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may panic")]

use std::io::Read as _;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use smtp_guard::edge::KernelPlane;
use smtp_guard_tests::forge::{Forger, SYN, Segment};
use smtp_guard_tests::{Guard, Host, StandIn, World, run, wait_for};
use socket2::{Domain, Protocol, Socket, Type};

/// Client and server, and all listeners without asking (Documentation/networking/ip-sysctl.rst, tcp_fastopen).
const FAST_OPEN: &str = "1027";
const MSG_FASTOPEN: i32 = 0x2000_0000;

/// What each family is tried with: where from, the edge, and a client that is about to vanish.
const PATHS: [(Host, &str, &str); 2] = [
    (Host::Attacker, World::EDGE_FOR_ATTACKER, "10.77.1.66"),
    (Host::Client, World::EDGE_FOR_CLIENT_V6, "fd77:2:0:66::66"),
];

/// A loaded kernel plane, a server in the guard's place, Fast Open for all.
fn edge(world: &World) -> (Guard<'_>, StandIn) {
    let guard = Guard::configured(world, &[("edge.connections", "100"), ("limits.connections", "50")]);
    guard.command(&["edge", "load"]).ok();
    world.sysctl(Host::Edge, "ipv4/tcp_fastopen", FAST_OPEN);
    (guard, StandIn::start(world))
}

fn at(ip: &str, port: u16) -> SocketAddr {
    SocketAddr::new(ip.parse().unwrap(), port)
}

/// On `host`, and back when it is done: a thread stays where it went.
fn on<T: Send>(world: &World, host: Host, work: impl FnOnce() -> T + Send) -> T {
    let there = || {
        world.enter(host);
        work()
    };
    std::thread::scope(|scope| scope.spawn(there).join()).unwrap()
}

/// One connection whose data goes with the SYN where the client has a cookie, else one that brings it a cookie.
fn fast_open(from: Option<IpAddr>, to: SocketAddr) -> Socket {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP)).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    if let Some(from) = from {
        socket.bind(&SocketAddr::new(from, 0).into()).unwrap();
    }
    socket.send_to_with_flags(b"NOOP\r\n", &to.into(), MSG_FASTOPEN).unwrap();
    let mut greeting = [0; 64];
    let length = (&socket).read(&mut greeting).unwrap();
    assert!(greeting[..length].starts_with(b"220"), "{:?}", &greeting[..length]);
    socket
}

/// Connections of the edge that began with a SYN which had cookie and data.
fn by_syn(world: &World) -> u64 {
    world.counter(Host::Edge, "TcpExt", "TCPFastOpenPassive")
}

#[test]
#[ignore = "needs root and BPF"]
fn fast_open_counts_each_connection_once() {
    let world = World::new();
    let (guard, _server) = edge(&world);
    for (host, edge, _) in PATHS {
        let open = || on(&world, host, || fast_open(None, at(edge, 25)));
        let first = open();
        guard.settle(1);
        drop(first);
        guard.settle(0);
        let before = by_syn(&world);
        for reset in [false, true] {
            let mut held = Vec::new();
            for n in 1..=9 {
                held.push(open());
                guard.settle(n);
            }
            assert_eq!(world.sockets(&["established", "syn-recv"]), 9);
            for socket in held {
                socket.set_linger(reset.then_some(Duration::ZERO)).unwrap();
            }
            guard.settle(0);
        }
        assert_eq!(by_syn(&world) - before, 18, "their data went with the SYN");
    }
    assert_eq!(guard.packets("not_counted"), 0);
}

/// A cookie for `client`, which `host` has as an address for as long as that takes.
fn cookie(world: &World, host: Host, client: &str, edge: &str) -> Vec<u8> {
    let prefix = if client.contains(':') { format!("{client}/64") } else { format!("{client}/24") };
    world.ip(host, &["addr", "add", &prefix, "dev", "eth0", "nodad"]);
    drop(on(world, host, || fast_open(Some(client.parse().unwrap()), at(edge, 25))));
    let metrics = world.ip(host, &["tcp_metrics", "show", edge]);
    let line = metrics.lines().find(|line| line.contains(&format!("source {client}"))).unwrap_or(&metrics);
    let hex = line.split_once("fo_cookie ").unwrap_or_else(|| panic!("no cookie: {metrics}")).1;
    let hex = hex.split_whitespace().next().unwrap();
    world.ip(host, &["addr", "del", &prefix, "dev", "eth0"]);
    (0..hex.len() / 2).map(|n| u8::from_str_radix(&hex[2 * n..2 * n + 2], 16).unwrap()).collect()
}

#[test]
#[ignore = "needs root and BPF"]
fn fast_open_handshakes_that_never_complete_are_counted_while_they_last() {
    const PENDING: u64 = 7;
    let world = World::new();
    let (guard, _server) = edge(&world);
    let plane = KernelPlane::open(&guard.pins()).unwrap().unwrap();
    for (host, edge, client) in PATHS {
        let device = if host == Host::Attacker { "att0" } else { "cli0" };
        if client.contains(':') {
            world.ip(Host::Edge, &["route", "add", "fd77:2:0:66::/64", "dev", device]);
        }
        let cookie = cookie(&world, host, client, edge);
        guard.settle(0);
        let syns = |cookie: &[u8], ports: std::ops::Range<u16>| {
            on(&world, host, || {
                let forger = Forger::new();
                for port in ports {
                    let (from, to) = (at(client, port), at(edge, 25));
                    forger.send(&Segment { from, to, flags: SYN, sequence: 1000, cookie, data: b"NOOP\r\n" });
                }
            });
        };
        // Nobody answers for the vanished client: neither ARP nor RST.
        let nobody = ["lladdr", "02:00:00:00:00:66", "dev", device, "nud", "permanent"];
        world.ip(Host::Edge, &[&["neigh", "replace", client][..], &nobody].concat());

        // A cookie that is none: half-open and counted nowhere, as any forged SYN.
        world.sysctl(Host::Edge, "ipv4/tcp_synack_retries", "1");
        let before = by_syn(&world);
        syns(&[0x55; 8], 2000..2000 + PENDING as u16);
        assert_eq!((guard.established(), by_syn(&world) - before), (0, 0));

        // With a cookie. The server has them, so they count, and are none that reconciliation takes back.
        world.sysctl(Host::Edge, "ipv4/tcp_synack_retries", "5");
        syns(&cookie, 3000..3000 + PENDING as u16);
        guard.settle(PENDING);
        assert_eq!(by_syn(&world) - before, PENDING);
        for _ in 0..5 {
            let taken_back = on(&world, Host::Edge, || plane.reconcile()).unwrap();
            assert_eq!(taken_back, [], "half-open by Fast Open is a connection, by a plain SYN it is none");
        }
        guard.settle(PENDING);

        // The client is back, knows nothing of them, and says so when the next SYN-ACK comes: RST before any ACK.
        let prefix = if client.contains(':') { format!("{client}/64") } else { format!("{client}/24") };
        world.ip(host, &["addr", "add", &prefix, "dev", "eth0", "nodad"]);
        world.ip(Host::Edge, &["neigh", "del", client, "dev", device]);
        guard.settle(0);
        assert_eq!(world.counter(Host::Edge, "TcpExt", "TCPFastOpenPassive") - before, PENDING);
        world.ip(host, &["addr", "del", &prefix, "dev", "eth0"]);

        // And without it: given up after the last SYN-ACK, some seconds at this setting.
        world.sysctl(Host::Edge, "ipv4/tcp_synack_retries", "1");
        world.ip(Host::Edge, &[&["neigh", "replace", client][..], &nobody].concat());
        syns(&cookie, 4000..4000 + PENDING as u16);
        guard.settle(PENDING);
        guard.settle(0);
    }
    assert_eq!(guard.packets("not_counted"), 0);
}

#[test]
#[ignore = "needs root and BPF"]
fn a_burst_of_fast_opens_stays_below_the_ceiling() {
    const CEILING: u64 = 6;
    let world = World::new();
    let guard = Guard::configured(&world, &[("edge.connections", "6"), ("limits.connections", "5")]);
    guard.command(&["edge", "load"]).ok();
    world.sysctl(Host::Edge, "ipv4/tcp_fastopen", FAST_OPEN);
    let _server = StandIn::start(&world);
    let (host, edge, _) = PATHS[0];
    drop(on(&world, host, || fast_open(None, at(edge, 25))));
    guard.settle(0);
    let tried = on(&world, host, || {
        let try_one = |_| {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP)).unwrap();
            socket.set_nonblocking(true).unwrap();
            let sent = socket.send_to_with_flags(b"NOOP\r\n", &at(edge, 25).into(), MSG_FASTOPEN);
            (socket, sent.is_ok())
        };
        (0..60).map(try_one).collect::<Vec<_>>()
    });
    assert!(tried.iter().all(|(_, sent)| *sent), "each had its cookie");
    // Each is counted with its SYN, so the next SYN finds it counted: none is in flight.
    guard.settle(CEILING);
    drop(tried);
    guard.settle(0);
}

#[test]
#[ignore = "needs root and BPF"]
fn multipath_connections_count_by_subflow() {
    let world = World::new();
    let guard = Guard::configured(&world, &[]);
    guard.command(&["edge", "load"]).ok();
    let Ok(listener) = on(&world, Host::Edge, || -> std::io::Result<Socket> {
        let socket = Socket::new(Domain::IPV6, Type::STREAM, Some(Protocol::MPTCP))?;
        socket.bind(&at("::", 25).into())?;
        socket.listen(64)?;
        Ok(socket)
    }) else {
        return println!("Multipath TCP: not there");
    };
    // A second way from an address that is another source.
    world.ip(Host::Attacker, &["mptcp", "limits", "set", "subflow", "1"]);
    world.ip(Host::Edge, &["mptcp", "limits", "set", "subflow", "1"]);
    world.ip(Host::Attacker, &["mptcp", "endpoint", "add", World::ATTACKER_V6[2], "dev", "eth0", "subflow"]);
    for (host, edge, subflows) in
        [(Host::Attacker, World::EDGE_FOR_ATTACKER_V6, 2), (Host::Client, World::EDGE_FOR_CLIENT, 1)]
    {
        for reset in [false, true] {
            let clients: Vec<Socket> = on(&world, host, || {
                let client = |_| {
                    let to = at(edge, 25);
                    let client = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::MPTCP)).unwrap();
                    client.connect_timeout(&to.into(), Duration::from_secs(5)).unwrap();
                    client.send(b"NOOP\r\n").unwrap();
                    client
                };
                (0..4).map(client).collect()
            });
            let servers: Vec<Socket> = clients.iter().map(|_| listener.accept().unwrap().0).collect();
            for server in &servers {
                // The second way is opened once data came through the first.
                server.send(b"250 ok\r\n").unwrap();
            }
            guard.settle(4 * subflows);
            for client in clients {
                client.set_linger(reset.then_some(Duration::ZERO)).unwrap();
            }
            for mut server in servers {
                server.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
                let _ = server.read_to_end(&mut Vec::new());
            }
            guard.settle(0);
        }
    }
    let multipath = world.counter(Host::Edge, "MPTcpExt", "MPCapableACKRX");
    assert_eq!(multipath, 16, "they were Multipath TCP");
    let joined = || (world.counter(Host::Edge, "MPTcpExt", "MPJoinAckRx") == 8).then_some(());
    wait_for("eight second ways", joined, || run(world.on(Host::Edge, "nstat").arg("-az"), "").stdout);
    assert_eq!(guard.packets("not_counted"), 0);
}
