//! A backend that takes no message data: how much of it the guard takes from a client all the same.

use std::io::{BufRead as _, BufReader, ErrorKind, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use smtp_guard::config::Config;
use socket2::{Domain, Socket, Type};

use crate::with_configured_guard;

/// Bytes that the kernel holds for the backend's side and for the client's own.
const ENDS: usize = 16 * 1024;

/// A backend that reads nothing after its 354.
fn start() -> SocketAddr {
    let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    listener.set_recv_buffer_size(ENDS).unwrap();
    listener.bind(&"127.0.0.1:0".parse::<SocketAddr>().unwrap().into()).unwrap();
    listener.listen(16).unwrap();
    let listener: std::net::TcpListener = listener.into();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || serve(stream));
        }
    });
    address
}

fn serve(mut stream: TcpStream) -> std::io::Result<()> {
    stream.write_all(b"220 x\r\n")?;
    for line in BufReader::with_capacity(16, stream.try_clone()?).lines() {
        if line? == "DATA" {
            stream.write_all(b"354 go\r\n")?;
            loop {
                std::thread::park();
            }
        }
        stream.write_all(b"250 ok\r\n")?;
    }
    Ok(())
}

/// A client that may send message data.
fn in_data(guard: SocketAddr) -> TcpStream {
    let client = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    client.set_send_buffer_size(ENDS).unwrap();
    client.connect(&guard.into()).unwrap();
    let mut client: TcpStream = client.into();
    let mut replies = BufReader::new(client.try_clone().unwrap());
    let mut code = move || loop {
        let mut line = String::new();
        replies.read_line(&mut line).unwrap();
        if line.as_bytes().get(3) != Some(&b'-') {
            return line[..3].to_owned();
        }
    };
    assert_eq!(code(), "220");
    for (line, expected) in [
        ("EHLO client.example", "250"),
        ("MAIL FROM:<a@client.example>", "250"),
        ("RCPT TO:<b@example.org>", "250"),
        ("DATA", "354"),
    ] {
        client.write_all(format!("{line}\r\n").as_bytes()).unwrap();
        assert_eq!(code(), expected, "{line}");
    }
    client
}

/// A client gets rid of at most so many bytes while `others` are in DATA, too.
fn check(name: &str, chunk: usize, others: usize, most: usize) {
    let configure = |config: &mut Config| config.limits.connections = 40;
    with_configured_guard(start(), configure, |guard| {
        let _others: Vec<_> = (0..others).map(|_| in_data(guard)).collect();
        let mut client = in_data(guard);
        client.set_nonblocking(true).unwrap();
        let data = "x".repeat(76) + "\r\n";
        let data = data.repeat(chunk / data.len() + 1);
        let (mut taken, mut since) = (0, Instant::now());
        while since.elapsed() < Duration::from_secs(2) {
            match client.write(data.as_bytes()) {
                Ok(more) => (taken, since) = (taken + more, Instant::now()),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    std::thread::sleep(Duration::from_millis(10));
                }
                Err(error) => panic!("{name}: {error}"),
            }
            assert!(taken <= most, "{name}: {taken}");
        }
    });
}

#[test]
fn c4_a_client_can_not_fill_the_kernel_while_the_backend_does_not_read() {
    check("large writes of many", 64 * 1024, 20, 160 * 1024);
    check("small writes of many", 1, 20, 160 * 1024);
}
