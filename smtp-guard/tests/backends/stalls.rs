//! A backend that takes no message data: how much of it the guard takes from a client all the same, and how much memory of the
//! kernel that costs.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::{Resource, getrlimit, setrlimit};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use smtp_guard::config::{BackendTls, Config};
use socket2::{Domain, Socket, Type};

use crate::client::Client;
use crate::with_configured_guard;

/// Bytes that the kernel holds for the backend's side and for the client's own.
const ENDS: usize = 16 * 1024;
/// Kernel memory of the guard for a session whose backend doesn't read.
const MOST: usize = 64 * 1024;
/// What a segment carries on a network.
const ETHERNET: u32 = 1460;

/// Bytes that a client gets rid of only where nothing bounds it.
const NO_BOUND: usize = 16 * 1024 * 1024;

/// How the ends of a connection are set up.
#[derive(Clone, Copy, Debug)]
struct Setup {
    /// Bytes of message data that the backend reads before it stops.
    reads: usize,
    /// Its receive buffer; `None`: the kernel's own.
    buffer: Option<usize>,
    /// What a segment carries on both sides; `None`: what loopback has.
    segment: Option<u32>,
    v6: bool,
    tls: bool,
    /// The message comes as one large chunk.
    chunk: bool,
}

const SILENT: Setup = Setup { reads: 0, buffer: None, segment: None, v6: false, tls: false, chunk: false };

impl Setup {
    /// A socket that listens, or is to be connected.
    fn socket(&self) -> Socket {
        let socket = Socket::new(if self.v6 { Domain::IPV6 } else { Domain::IPV4 }, Type::STREAM, None).unwrap();
        if let Some(segment) = self.segment {
            socket.set_tcp_mss(segment).unwrap();
        }
        socket
    }

    fn loopback(&self) -> SocketAddr {
        if self.v6 { "[::1]:0" } else { "127.0.0.1:0" }.parse().unwrap()
    }

    /// The backend.
    fn start(self) -> SocketAddr {
        let listener = self.socket();
        if let Some(buffer) = self.buffer {
            listener.set_recv_buffer_size(buffer).unwrap();
        }
        listener.bind(&self.loopback().into()).unwrap();
        listener.listen(128).unwrap();
        let listener: std::net::TcpListener = listener.into();
        let address = listener.local_addr().unwrap();
        let made = rcgen::generate_simple_self_signed(["backend.example".to_owned()]).unwrap();
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
        let config = ServerConfig::builder().with_no_client_auth();
        let config = Arc::new(config.with_single_cert(vec![made.cert.der().clone()], key).unwrap());
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let config = Arc::clone(&config);
                std::thread::spawn(move || {
                    stream.write_all(b"220 x\r\n")?;
                    if !self.serve(&mut stream)? {
                        let connection = ServerConnection::new(config).unwrap();
                        self.serve(&mut StreamOwned::new(connection, stream))?;
                    }
                    std::io::Result::Ok(())
                });
            }
        });
        address
    }

    /// Serves to the end of the connection, or of what it reads. `false`: TLS is to follow.
    fn serve(self, stream: &mut (impl Read + Write)) -> std::io::Result<bool> {
        loop {
            let mut line = Vec::new();
            while !line.ends_with(b"\n") {
                let mut byte = [0];
                stream.read_exact(&mut byte)?;
                line.extend(byte);
            }
            match line.get(..4) {
                Some(b"EHLO") if self.tls => stream.write_all(b"250-x\r\n250 STARTTLS\r\n")?,
                Some(b"STAR") => {
                    stream.write_all(b"220 go\r\n")?;
                    return Ok(false);
                }
                Some(b"QUIT") => return Ok(true),
                Some(b"DATA") => {
                    stream.write_all(b"354 go\r\n")?;
                    std::io::copy(&mut stream.take(self.reads as u64), &mut std::io::sink())?;
                    loop {
                        std::thread::park();
                    }
                }
                _ => stream.write_all(b"250 ok\r\n")?,
            }
        }
    }
}

/// A client that may send message data.
fn in_data(guard: SocketAddr, setup: &Setup) -> TcpStream {
    let client = setup.socket();
    client.set_send_buffer_size(ENDS).unwrap();
    client.connect(&guard.into()).unwrap();
    let mut client = Client::over(client.into());
    assert_eq!(client.code(), 220);
    for (line, expected) in [
        ("EHLO client.example", 250),
        ("MAIL FROM:<a@client.example>", 250),
        ("RCPT TO:<b@example.org>", 250),
        // A chunk is answered at its end.
        if setup.chunk { ("BDAT 20000000", 0) } else { ("DATA", 354) },
    ] {
        client.send(line);
        assert!(expected == 0 || client.code() == expected, "{line}");
    }
    client.into_stream()
}

/// Message data of at least `least` bytes.
fn lines(least: usize) -> Vec<u8> {
    let line = "x".repeat(76) + "\r\n";
    line.repeat(least / line.len() + 1).into_bytes()
}

/// Sends `data` to each of `clients` again and again, until nobody could send anything for `quiet`: the bytes that each got rid of.
fn send_all(clients: &[TcpStream], data: &[u8], quiet: Duration) -> Vec<usize> {
    clients.iter().for_each(|client| client.set_nonblocking(true).unwrap());
    let mut taken = vec![0; clients.len()];
    let mut since = Instant::now();
    while since.elapsed() < quiet {
        let before = taken.clone();
        for (mut client, taken) in clients.iter().zip(&mut taken) {
            match client.write(data) {
                Ok(more) => {
                    *taken += more;
                    assert!(*taken < NO_BOUND, "there is no bound");
                }
                Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}"),
            }
        }
        if taken == before {
            std::thread::sleep(Duration::from_millis(10));
        } else {
            since = Instant::now();
        }
    }
    taken
}

/// A client gets rid of at most `most` bytes after `others` have sent as much as they can.
fn check(name: &str, setup: Setup, chunk: usize, others: usize, most: usize) {
    let configure = |config: &mut Config| config.limits.connections = 40;
    with_configured_guard(Setup { buffer: Some(ENDS), ..SILENT }.start(), configure, |guard| {
        let others: Vec<_> = (0..others).map(|_| in_data(guard, &setup)).collect();
        send_all(&others, &lines(32 * 1024), Duration::from_secs(1));
        let client = in_data(guard, &setup);
        let taken = send_all(&[client], &lines(chunk), Duration::from_secs(2))[0];
        println!("{name}: {taken} bytes");
        assert!(taken <= most, "{name}: {taken}");
    });
}

#[test]
fn c4_a_client_can_not_fill_the_kernel_while_the_backend_does_not_read() {
    check("large writes of many", SILENT, 64 * 1024, 20, 160 * 1024);
    check("small writes of many", SILENT, 1, 20, 160 * 1024);
    check("large chunks of many", Setup { chunk: true, ..SILENT }, 64 * 1024, 20, 160 * 1024);
    // The first ones have larger windows and queues, of which there are as many as there is room for.
    check("large writes of one", SILENT, 64 * 1024, 0, 512 * 1024);
}

/// Memory that the kernel has for sockets from or to one of `ports`, and how many they are; `None` without ss(8).
///
/// Counted is what skmem of ss(8) calls r, f, w, o and bl: what waits to be read, what is set aside, what waits to be sent or
/// acknowledged, options, and what came while the socket was in use.
fn memory(filter: &str) -> Option<(usize, usize)> {
    let output = Command::new("ss").args(["-tmnOH", "state", "established", filter]).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let sockets = text.lines().filter_map(|line| line.split_once("skmem:(")?.1.split_once(')'));
    let figure = |part: &str| -> Option<usize> {
        let (name, figure) = part.split_at(part.find(|c: char| c.is_ascii_digit())?);
        // The kernel's figure is signed, and may be below zero for a moment.
        let bytes = figure.parse::<u32>().unwrap().cast_signed();
        ["r", "f", "w", "o", "bl"].contains(&name).then(|| usize::try_from(bytes).unwrap_or(0))
    };
    let of = |skmem: &str| skmem.split(',').filter_map(figure).sum::<usize>();
    let sizes: Vec<_> = sockets.map(|(skmem, _)| of(skmem)).collect();
    Some((sizes.iter().sum(), sizes.len()))
}

/// 300 sessions in DATA that send what they can cost at most [`MOST`] each.
fn check_memory(name: &str, setup: Setup) {
    const SESSIONS: usize = 300;
    let backend = setup.start();
    let configure = |config: &mut Config| {
        config.listen[0].address = setup.loopback();
        config.limits.connections = 1000;
        config.backend.connections = 1000;
        config.backend.tls = if setup.tls { BackendTls::Required } else { BackendTls::Off };
    };
    with_configured_guard(backend, configure, |guard| {
        let clients: Vec<_> = (0..SESSIONS).map(|_| in_data(guard, &setup)).collect();
        send_all(&clients, &lines(32 * 1024), Duration::from_secs(1));
        let of = |filter: String| memory(&filter);
        let (Some((ahead, clients)), Some((behind, backends))) =
            (of(format!("sport = :{}", guard.port())), of(format!("dport = :{}", backend.port())))
        else {
            println!("{name}: not measured, since there is no ss(8)");
            return;
        };
        assert!(clients >= SESSIONS && backends >= SESSIONS, "{name}: {clients} and {backends} sockets");
        let each = [ahead, behind, ahead + behind].map(|bytes| bytes / SESSIONS);
        println!("{name}: {each:?} bytes of kernel memory a session: towards the client, towards the backend, both");
        assert!(each[2] <= MOST, "{name}: {each:?}");
    });
}

#[test]
fn c4_the_kernel_holds_64_kib_a_session_whatever_backend_stops() {
    // Sessions have four ends each.
    let mut files = getrlimit(Resource::Nofile);
    files.current = files.maximum;
    setrlimit(Resource::Nofile, files).unwrap();
    let setups = [
        ("silent at once", SILENT),
        ("a chunk", Setup { chunk: true, ..SILENT }),
        ("a chunk, reads what its kernel has taken", Setup { chunk: true, reads: 64 * 1024, ..SILENT }),
        ("reads a little", Setup { reads: 4 * 1024, ..SILENT }),
        ("reads what its kernel has taken", Setup { reads: 64 * 1024, ..SILENT }),
        ("reads much", Setup { reads: 512 * 1024, ..SILENT }),
        ("a small window", Setup { buffer: Some(4 * 1024), ..SILENT }),
        ("a large window", Setup { buffer: Some(256 * 1024), ..SILENT }),
        ("segments of a network", Setup { segment: Some(ETHERNET), ..SILENT }),
        (
            "segments of a network, reads what its kernel has taken",
            Setup { reads: 64 * 1024, segment: Some(ETHERNET), ..SILENT },
        ),
        ("IPv6", Setup { v6: true, ..SILENT }),
        ("TLS", Setup { tls: true, ..SILENT }),
        ("TLS, reads what its kernel has taken", Setup { tls: true, reads: 64 * 1024, ..SILENT }),
    ];
    // They mostly wait.
    for some in setups.chunks(6) {
        std::thread::scope(|scope| {
            for (name, setup) in some {
                scope.spawn(|| check_memory(name, *setup));
            }
        });
    }
}
