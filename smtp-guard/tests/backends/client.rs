//! A client of the guard, or of a server by itself.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// A client. Where the other side has closed, what it writes is lost, and the next reply says so.
pub(crate) struct Client(BufReader<TcpStream>);

impl Client {
    pub(crate) fn connect(server: SocketAddr) -> Self {
        Self::over(TcpStream::connect(server).unwrap())
    }

    /// Connects as `address`, by a balancer's header.
    pub(crate) fn behind_balancer(guard: SocketAddr, address: &str) -> Self {
        let mut client = Self::connect(guard);
        let (family, other) = if address.contains(':') { (6, "2001:db8::25") } else { (4, "192.0.2.25") };
        client.send(&format!("PROXY TCP{family} {address} {other} 4000 25"));
        client
    }

    /// Over a connection that is open.
    pub(crate) fn over(stream: TcpStream) -> Self {
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        Self(BufReader::new(stream))
    }

    /// All lines of the next reply; nothing once the connection is closed.
    pub(crate) fn reply(&mut self) -> String {
        let mut text = String::new();
        loop {
            let start = text.len();
            match self.0.read_line(&mut text) {
                Ok(1..) if text.as_bytes()[start..].get(3) == Some(&b'-') => {}
                _ => return text,
            }
        }
    }

    /// The next reply's code; 0 once the connection is closed.
    pub(crate) fn code(&mut self) -> u16 {
        self.reply().get(..3).map_or(0, |code| code.parse().unwrap())
    }

    pub(crate) fn say(&mut self, line: &str) -> u16 {
        self.send(line);
        self.code()
    }

    pub(crate) fn send(&mut self, line: &str) {
        self.write(format!("{line}\r\n").as_bytes());
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) {
        let _ = self.0.get_mut().write_all(bytes);
    }

    /// The next line.
    pub(crate) fn line(&mut self) -> String {
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        line
    }

    pub(crate) fn into_stream(self) -> TcpStream {
        self.0.into_inner()
    }
}
