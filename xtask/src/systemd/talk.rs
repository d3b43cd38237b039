//! Clients of the machine, and its DNS server: threads that are in the clients' network namespace.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream, UdpSocket};
use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{Scope, ScopedJoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketType, bind, connect, socket};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::machine::{DNS, GUARD, client};

/// Until a client gives up.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two connections of a client.
const BREATH: Duration = Duration::from_millis(10);
/// How long the guard waits for messages that are under way, as it is configured by default.
const DRAIN: Duration = Duration::from_secs(10);
/// The DNS server looks so often whether it is to end.
const LOOK: Duration = Duration::from_millis(100);

/// Runs `work` in a thread inside the network namespace `name`.
pub(super) fn inside<'scope, 'env, T: Send + 'scope>(
    scope: &'scope Scope<'scope, 'env>,
    name: String,
    work: impl FnOnce() -> anyhow::Result<T> + Send + 'scope,
) -> ScopedJoinHandle<'scope, anyhow::Result<T>> {
    scope.spawn(move || {
        let namespace = File::open(format!("/run/netns/{name}")).context("cannot open the network namespace")?;
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
        work()
    })
}

/// An SMTP client.
pub(super) struct Client {
    stream: BufReader<TcpStream>,
}

impl Client {
    /// Connects from the address that ends in `last`, and reads the greeting.
    pub(super) fn greeted(last: u8) -> anyhow::Result<Self> {
        let mut client = Self { stream: BufReader::new(connected(last, PATIENCE).context("cannot connect")?) };
        let greeting = client.reply()?;
        if !greeting.starts_with("220 ") {
            bail!("the greeting is {greeting}");
        }
        Ok(client)
    }

    /// Says `line`; the last line of the reply.
    pub(super) fn say(&mut self, line: &str) -> anyhow::Result<String> {
        self.stream.get_mut().write_all(format!("{line}\r\n").as_bytes()).with_context(|| format!("at {line}"))?;
        self.reply().with_context(|| format!("after {line}"))
    }

    /// Says `line`, to which there is no reply.
    pub(super) fn write(&mut self, line: &str) -> anyhow::Result<()> {
        Ok(self.stream.get_mut().write_all(format!("{line}\r\n").as_bytes())?)
    }

    /// Says `line`, and fails unless the reply begins with `code`.
    pub(super) fn expect(&mut self, line: &str, code: &str) -> anyhow::Result<()> {
        let reply = self.say(line)?;
        if !reply.starts_with(code) {
            bail!("{line} is answered {reply}");
        }
        Ok(())
    }

    fn reply(&mut self) -> anyhow::Result<String> {
        loop {
            let mut line = String::new();
            if self.stream.read_line(&mut line)? == 0 {
                bail!("the connection was closed");
            }
            if line.as_bytes().get(3) != Some(&b'-') {
                return Ok(line.trim_end().to_owned());
            }
        }
    }
}

/// Delivers a message from the address that ends in `last`.
pub(super) fn deliver(last: u8) -> anyhow::Result<()> {
    let mut client = Client::greeted(last)?;
    client.expect("EHLO client.example.net", "250")?;
    client.expect("MAIL FROM:<a@example.net>", "250")?;
    client.expect("RCPT TO:<user@example.org>", "250")?;
    client.expect("DATA", "354")?;
    client.write("From: a@example.net\r\nTo: user@example.org\r\nSubject: x\r\n\r\nx")?;
    client.expect(".", "250")?;
    client.expect("QUIT", "221")
}

/// Connects again and again from the address that ends in `last`, as long as `goes_on`; fails at the first that is refused, or that
/// hears anything but a greeting. Returns how many there were.
pub(super) fn visits(last: u8, goes_on: impl Fn() -> bool) -> anyhow::Result<u64> {
    let mut count = 0;
    while goes_on() {
        let mut client = Client::greeted(last).with_context(|| format!("connection {count} of an honest client"))?;
        // A guard that stops may have said 421 by then.
        let reply = client.say("QUIT")?;
        if !reply.starts_with("221") && !reply.starts_with("421") {
            bail!("QUIT is answered {reply}");
        }
        count += 1;
        std::thread::sleep(BREATH);
    }
    Ok(count)
}

/// Tries to connect again and again; fails at the first attempt that is answered. Returns how many there were.
pub(super) fn knocks(last: u8, goes_on: impl Fn() -> bool) -> anyhow::Result<u64> {
    let mut count = 0;
    while goes_on() {
        let found = attempt(last, Duration::from_millis(50))?;
        if found != Attempt::Silent {
            bail!("a packet of a blocked source gets through: {found:?} at attempt {count}");
        }
        count += 1;
    }
    Ok(count)
}

/// Delivers a message that takes as long as `goes_on`, but at most so long that the guard waits for it.
pub(super) fn long_message(last: u8, under_way: &AtomicBool, goes_on: impl Fn() -> bool) -> anyhow::Result<()> {
    let mut client = Client::greeted(last)?;
    client.expect("EHLO client.example.net", "250")?;
    client.expect("MAIL FROM:<a@example.net>", "250")?;
    client.expect("RCPT TO:<user@example.org>", "250")?;
    client.expect("DATA", "354")?;
    under_way.store(true, Ordering::Relaxed);
    let begun = Instant::now();
    while goes_on() && begun.elapsed() < DRAIN / 2 {
        client.write("a line")?;
        std::thread::sleep(LOOK);
    }
    client.expect(".", "250")
}

/// The outcome of a connection attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Attempt {
    Connected,
    Refused,
    /// Nothing was heard: the packets are dropped.
    Silent,
}

/// Tries to connect from the address that ends in `last`, for so long.
pub(super) fn attempt(last: u8, patience: Duration) -> anyhow::Result<Attempt> {
    match connected(last, patience) {
        Ok(_) => Ok(Attempt::Connected),
        Err(error) => match error.kind() {
            io::ErrorKind::ConnectionRefused => Ok(Attempt::Refused),
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Ok(Attempt::Silent),
            // EINPROGRESS: the time for it is over.
            _ if error.raw_os_error() == Some(rustix::io::Errno::INPROGRESS.raw_os_error()) => Ok(Attempt::Silent),
            _ => Err(error).context("cannot connect"),
        },
    }
}

fn connected(last: u8, patience: Duration) -> io::Result<TcpStream> {
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None)?;
    // Of a connect() as well.
    set_socket_timeout(&socket, Timeout::Send, Some(patience))?;
    set_socket_timeout(&socket, Timeout::Recv, Some(PATIENCE))?;
    bind(&socket, &SocketAddrV4::new(Ipv4Addr::from(client(last)), 0))?;
    connect(&socket, &SocketAddrV4::new(Ipv4Addr::from(GUARD), 25))?;
    Ok(TcpStream::from(socket))
}

/// A DNS server that knows an A record of every name, and nothing else. Ends with `stop`.
pub(super) fn dns(stop: &AtomicBool) -> anyhow::Result<()> {
    let socket = UdpSocket::bind((Ipv4Addr::from(DNS), 53)).context("cannot open port 53")?;
    socket.set_read_timeout(Some(LOOK))?;
    let mut question = [0; 512];
    while !stop.load(Ordering::Relaxed) {
        // Nothing came, or a client is gone.
        let Ok((length, from)) = socket.recv_from(&mut question) else { continue };
        if let Some(answer) = answer(&question[..length]) {
            _ = socket.send_to(&answer, from);
        }
    }
    Ok(())
}

/// The answer to one question (RFC 1035 4.1).
fn answer(question: &[u8]) -> Option<Vec<u8>> {
    let header = question.get(..12)?;
    let labels = question.get(12..)?;
    let mut end = 0;
    while *labels.get(end)? > 0 {
        end += 1 + usize::from(labels[end]);
    }
    // The name's final zero, type and class.
    let asked = labels.get(..end + 5)?;
    let is_a = asked.get(end + 1..end + 3)? == [0, 1];
    let mut answer = header[..2].to_vec();
    // A response, authoritative, recursion available; one question.
    answer.extend([0x85, 0x80, 0, 1, 0, u8::from(is_a), 0, 0, 0, 0]);
    answer.extend(asked);
    if is_a {
        // The name by its place, A, IN, 60 seconds, four bytes.
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
        answer.extend(client(10));
    }
    Some(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_are_answered() {
        let question = |kind: u8| {
            let mut bytes = vec![7, 9, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, b'a', 2, b'b', b'c', 0, 0, kind, 0, 1];
            // What EDNS adds is left out.
            bytes.extend([0, 0, 41]);
            bytes
        };
        let found = answer(&question(1)).unwrap();
        assert_eq!((found[0], found[1], found[7]), (7, 9, 1));
        assert_eq!(found[12..22], question(1)[12..22]);
        assert_eq!(found[found.len() - 4..], [198, 18, 0, 10]);
        assert_eq!(answer(&question(15)).unwrap().len(), 22, "no MX record");
        assert!(answer(&[0; 12]).is_none() && answer(&[1; 20]).is_none());
    }
}
