//! Who gets a place when others take all they can. A balancer's header gives each client an address of its own.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::with_configured_guard;

/// A client behind a balancer.
pub(crate) struct Client(BufReader<TcpStream>);

impl Client {
    /// Connects as `address`.
    pub(crate) fn connect(guard: SocketAddr, address: &str) -> Self {
        let mut stream = TcpStream::connect(guard).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let (family, other) = if address.contains(':') { (6, "2001:db8::25") } else { (4, "192.0.2.25") };
        stream.write_all(format!("PROXY TCP{family} {address} {other} 4000 25\r\n").as_bytes()).unwrap();
        Self(BufReader::new(stream))
    }

    /// The next reply's code; 0 once the connection is closed.
    pub(crate) fn code(&mut self) -> u16 {
        loop {
            let mut line = String::new();
            match self.0.read_line(&mut line) {
                Ok(0) | Err(_) => return 0,
                Ok(_) if line.as_bytes().get(3) == Some(&b'-') => {}
                Ok(_) => return line[..3].parse().unwrap(),
            }
        }
    }

    pub(crate) fn say(&mut self, line: &str) -> u16 {
        self.send(line);
        self.code()
    }

    pub(crate) fn send(&mut self, line: &str) {
        // Where the guard has closed, the reply says so.
        let _ = self.0.get_mut().write_all(format!("{line}\r\n").as_bytes());
    }

    /// The next line.
    pub(crate) fn line(&mut self) -> String {
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        line
    }
}

/// With room for 40, of a network 20: `sessions` connections of `greedy` that each `say` something end up with so many
/// `places`, and ten strangers of ten networks are served to the dot meanwhile.
fn check(name: &str, greedy: impl Fn(u32) -> String, sessions: u32, places: usize, say: &[&str]) {
    with_configured_guard(
        crate::faults::start_sound(),
        |config| {
            config.listen[0].balancers = ["127.0.0.1/32".parse().unwrap()].into_iter().collect();
            config.limits.total_connections = 40;
            config.limits.network_connections = 20;
        },
        |guard| {
            let mut held = Vec::new();
            for n in 0..sessions {
                let mut client = Client::connect(guard, &greedy(n));
                if client.code() == 220 {
                    say.iter().for_each(|line| _ = client.say(line));
                    held.push(client);
                }
            }
            let still = held.iter_mut().map(|client| client.say("NOOP")).filter(|code| *code == 250).count();
            assert_eq!(still, places, "{name}");
            let mut honest = Vec::new();
            for n in 0..10 {
                let mut client = Client::connect(guard, &format!("198.18.{n}.1"));
                assert_eq!(client.code(), 220, "{name}: {n}");
                for (line, code) in [
                    ("EHLO client.example", 250),
                    ("MAIL FROM:<a@client.example>", 250),
                    ("RCPT TO:<b@example.org>", 250),
                    ("DATA", 354),
                    ("Subject: x\r\n\r\nx\r\n.", 250),
                ] {
                    assert_eq!(client.say(line), code, "{name}: {n}, {line}");
                }
                honest.push(client);
            }
        },
    );
}

#[test]
fn c2_honest_strangers_are_served_while_others_hold_all_they_can_get() {
    let idle = ["EHLO x"].as_slice();
    let stalled = ["EHLO x", "MAIL FROM:<a@client.example>"].as_slice();
    check("a /48", |n| format!("2001:db8:7:{n:x}::1"), 60, 18, idle);
    check("a /24", |n| format!("192.0.2.{}", 1 + n % 4), 60, 18, idle);
    check("two /24", |n| format!("203.0.{}.{}", n % 2, 1 + n % 3), 90, 36, idle);
    check("many networks", |n| format!("203.{n}.0.1"), 60, 36, idle);
    check("transactions", |n| format!("2001:db8:7:{n:x}::1"), 60, 18, stalled);
}
