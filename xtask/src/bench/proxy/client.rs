//! A client of the bench's own, for what smtp-source doesn't do: it pipelines, comes from any address of the bench, and goes on
//! after a refusal.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::bail;

use crate::bench::connect;

const LONGEST: Duration = Duration::from_secs(30);

/// A connection to a server, or to what stands before one.
pub(super) struct Client {
    stream: TcpStream,
    lines: BufReader<TcpStream>,
    /// By so much later it hears each answer than loopback brings it.
    away: Duration,
}

impl Client {
    /// Connects `from` an address, and waits for nothing.
    pub(super) fn connect(from: Ipv4Addr, to: SocketAddr) -> anyhow::Result<Self> {
        let stream = connect(from, to)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(LONGEST))?;
        Ok(Self { lines: BufReader::new(stream.try_clone()?), stream, away: Duration::ZERO })
    }

    /// No answer is waited for any longer.
    pub(super) fn waits(&self, longest: Duration) -> anyhow::Result<()> {
        Ok(self.stream.set_read_timeout(Some(longest))?)
    }

    /// Reads a reply.
    pub(super) fn expect(&mut self, code: &str) -> anyhow::Result<()> {
        loop {
            let mut line = String::new();
            if self.lines.read_line(&mut line)? == 0 {
                bail!("the session ended where {code} was expected");
            }
            if !line.starts_with(code) {
                bail!("{} instead of {code}", line.trim_end());
            }
            if line.as_bytes().get(3) != Some(&b'-') {
                std::thread::sleep(self.away);
                return Ok(());
            }
        }
    }

    pub(super) fn write(&mut self, text: &str) -> anyhow::Result<()> {
        Ok(self.stream.write_all(text.as_bytes())?)
    }

    pub(super) fn say(&mut self, line: &str, code: &str) -> anyhow::Result<()> {
        self.write(&format!("{line}\r\n"))?;
        self.expect(code)
    }
}

/// Seconds of a session with one message of 4 KiB, from connecting to the answer at the dot.
pub(super) fn message(from: Ipv4Addr, to: SocketAddr, pipelines: bool, away: Duration) -> anyhow::Result<f64> {
    let body = "x".repeat(78) + "\r\n";
    let text = format!("Subject: x\r\n\r\n{}.\r\n", body.repeat(50));
    let envelope = [("MAIL FROM:<a@sender.example>", "250"), ("RCPT TO:<bob@example.org>", "250"), ("DATA", "354")];
    let began = Instant::now();
    let mut client = Client { away, ..Client::connect(from, to)? };
    client.expect("220")?;
    client.say("EHLO mx.sender.example", "250")?;
    if pipelines {
        client.write(&envelope.map(|(line, _)| format!("{line}\r\n")).concat())?;
        envelope.iter().try_for_each(|(_, code)| client.expect(code))?;
    } else {
        envelope.iter().try_for_each(|(line, code)| client.say(line, code))?;
    }
    client.write(&text)?;
    client.expect("250")?;
    let seconds = began.elapsed().as_secs_f64();
    client.say("QUIT", "221")?;
    Ok(seconds)
}

/// A session that asks for `count` recipients that don't exist, all at once.
pub(super) fn refused(from: Ipv4Addr, to: SocketAddr, count: u32) -> anyhow::Result<()> {
    let mut client = Client::connect(from, to)?;
    client.expect("220")?;
    client.say("EHLO mx.sender.example", "250")?;
    client.say("MAIL FROM:<a@sender.example>", "250")?;
    let recipients: String = (0..count).map(|n| format!("RCPT TO:<nobody{n}@example.org>\r\n")).collect();
    client.write(&recipients)?;
    (0..count).try_for_each(|_| client.expect("5"))?;
    client.say("QUIT", "221")
}
