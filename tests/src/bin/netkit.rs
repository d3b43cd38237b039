//! Network tools of the tests, run on a host: dialogues, connections that are held, raw packets, the probe.
//!
//! Bounded in count and time by its arguments; sends only where it is told to.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test tool fails by panicking")]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use clap::Parser;
use smtp_guard_tests::probe::{ACK, FIN, RST, SYN, answered, probe, raw, send};
use socket2::{Domain, Protocol, Socket, Type};

#[derive(Parser)]
enum Command {
    /// HTTP GET
    Get {
        address: SocketAddr,
        path: String,
        /// What is accepted
        #[arg(long)]
        accept: Option<String>,
    },
    /// Sends lines of standard input, each after the reply to the one before, and prints the replies; \r, \n and \0 are
    /// unescaped
    Dialogue {
        address: SocketAddr,
        /// Local address
        #[arg(long)]
        from: Option<IpAddr>,
        /// The first line is sent before the greeting, as a balancer does
        #[arg(long)]
        header: bool,
    },
    /// Sends messages in one session until it breaks, and prints the Message-Id of each that was acknowledged
    Mail { address: SocketAddr, name: String, count: u32 },
    /// Sends messages until standard input closes, each with a sender of its own and again until it was acknowledged; prints
    /// `+ ID` for that, and `? ID` where the connection was lost after the dot, before a reply
    Persist {
        address: SocketAddr,
        name: String,
        #[arg(value_enum)]
        manner: Manner,
    },
    /// Sends one message, and prints all replies to it
    Once {
        address: SocketAddr,
        #[arg(value_enum)]
        manner: Manner,
    },
    /// Opens connections at once, prints what became of them as JSON, and holds them until standard input closes
    Hold { address: SocketAddr, count: usize },
    /// Greets everyone and closes when they do, until standard input closes
    Listen { address: SocketAddr },
    /// Sends SYNs with another's address
    SpoofSyn { address: SocketAddrV4, from: Ipv4Addr, count: u32 },
    /// Sends RSTs and FINs with another's address to all of its ports
    ForgeRst { address: SocketAddrV4, from: Ipv4Addr },
    /// Harvests until banned, and prints the time from the crossing reply to the first dropped packet in us
    BanProbe { address: SocketAddrV4, from: Ipv4Addr, unknowns: u32 },
}

const TIMEOUT: Duration = Duration::from_secs(5);

fn main() {
    match Command::parse() {
        Command::Get { address, path, accept } => get(address, &path, accept.as_deref()),
        Command::Dialogue { address, from, header } => dialogue(address, from, header),
        Command::Mail { address, name, count } => mail(address, &name, count),
        Command::Persist { address, name, manner } => persist(address, &name, manner),
        Command::Once { address, manner } => once(address, manner),
        Command::Hold { address, count } => hold(address, count),
        Command::Listen { address } => listen(address),
        Command::SpoofSyn { address, from, count } => spoof_syn(address, from, count),
        Command::ForgeRst { address, from } => forge_rst(address, from),
        Command::BanProbe { address, from, unknowns } => ban_probe(address, from, unknowns),
    }
}

fn get(address: SocketAddr, path: &str, accept: Option<&str>) {
    let mut stream = TcpStream::connect_timeout(&address, TIMEOUT).unwrap();
    let accept = accept.map(|accept| format!("Accept: {accept}\r\n")).unwrap_or_default();
    write!(stream, "GET {path} HTTP/1.0\r\nHost: localhost\r\n{accept}\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    print!("{}", answer.split_once("\r\n\r\n").unwrap().1);
}

fn connect(address: SocketAddr, from: Option<IpAddr>) -> std::io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if let Some(from) = from {
        socket.bind(&SocketAddr::new(from, 0).into())?;
    }
    socket.connect_timeout(&address.into(), Duration::from_secs(2))?;
    socket.set_tcp_nodelay(true)?;
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(TIMEOUT))?;
    Ok(stream)
}

/// A whole reply, or what came instead of it.
fn reply(reader: &mut impl std::io::BufRead) -> Result<String, String> {
    let mut text = String::new();
    loop {
        let start = text.len();
        match reader.read_line(&mut text) {
            Ok(0) => return Err("CLOSED".to_owned()),
            Ok(_) if text.as_bytes()[start..].get(3) == Some(&b'-') => {}
            Ok(_) => return Ok(text),
            Err(error) => return Err(format!("{:?}", error.kind())),
        }
    }
}

fn dialogue(address: SocketAddr, from: Option<IpAddr>, header: bool) {
    let stream = match connect(address, from) {
        Ok(stream) => stream,
        Err(error) => return println!("NOT CONNECTED {:?}", error.kind()),
    };
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut writer = stream;
    let mut lines = std::io::stdin().lock().lines();
    // Who isn't a balancer may be reset before its header is even written.
    if header && write!(writer, "{}\r\n", lines.next().unwrap().unwrap()).is_err() {
        return println!("CLOSED");
    }
    loop {
        match reply(&mut reader) {
            Ok(text) => print!("{text}"),
            Err(what) => return println!("{what}"),
        }
        let Some(line) = lines.next() else { return };
        let line = line.unwrap().replace("\\r", "\r").replace("\\n", "\n").replace("\\0", "\0");
        if writer.write_all(format!("{line}\r\n").as_bytes()).is_err() {
            return println!("CLOSED");
        }
    }
}

fn mail(address: SocketAddr, name: &str, count: u32) {
    let mut stream = connect(address, None).unwrap();
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    reply(&mut reader).unwrap();
    let mut say = |line: &str, expected: &str| {
        let sent = stream.write_all(format!("{line}\r\n").as_bytes());
        sent.is_ok() && reply(&mut reader).is_ok_and(|reply| reply.starts_with(expected))
    };
    assert!(say("EHLO client.example", "250"));
    for n in 0..count {
        let id = format!("<{name}.{n}@client.example>");
        let taken = say("MAIL FROM:<a@client.example>", "250")
            && say("RCPT TO:<bob@example.org>", "250")
            && say("DATA", "354")
            && say(&format!("Message-Id: {id}\r\n\r\ntext\r\n."), "250");
        if !taken {
            return;
        }
        println!("{id}");
    }
}

/// How an attempt at a message ended.
enum Attempt {
    Taken,
    /// Refused, or lost before the dot.
    NotTaken,
    /// Lost after the dot.
    Unanswered,
}

fn persist(address: SocketAddr, name: &str, manner: Manner) {
    let stop = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&stop);
    std::thread::spawn(move || {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        told.store(true, Ordering::Relaxed);
    });
    for n in 0.. {
        let id = format!("{name}.{n}@client.example");
        loop {
            if stop.load(Ordering::Relaxed) {
                return;
            }
            match attempt(address, &id, manner, &mut Vec::new()) {
                Attempt::Taken => break println!("+ {id}"),
                Attempt::Unanswered => println!("? {id}"),
                Attempt::NotTaken => {}
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

fn once(address: SocketAddr, manner: Manner) {
    let mut heard = Vec::new();
    if let Attempt::Unanswered = attempt(address, "once@client.example", manner, &mut heard) {
        heard.push("CLOSED".to_owned());
    }
    heard.iter().for_each(|reply| println!("{}", reply.trim_end()));
}

/// Sends the message `id`. `heard`: the replies behind EHLO.
fn attempt(address: SocketAddr, id: &str, manner: Manner, heard: &mut Vec<String>) -> Attempt {
    let Ok(mut stream) = connect(address, None) else {
        return Attempt::NotTaken;
    };
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let greets = |sent: bool, reader: &mut BufReader<TcpStream>, code: &str| {
        sent && reply(reader).is_ok_and(|reply| reply.starts_with(code))
    };
    if !greets(true, &mut reader, "220") {
        return Attempt::NotTaken;
    }
    let sent = stream.write_all(b"EHLO client.example\r\n").is_ok();
    if !greets(sent, &mut reader, "250") {
        return Attempt::NotTaken;
    }
    let groups = manner.groups(id);
    for (n, group) in groups.iter().enumerate() {
        let last = n + 1 == groups.len();
        let sent = group.iter().map(|(text, _)| text.as_str()).collect::<String>();
        // A write that fails may have left all the same.
        if stream.write_all(sent.as_bytes()).is_err() && !last {
            return Attempt::NotTaken;
        }
        let mut taken = true;
        for (_, expected) in group {
            match reply(&mut reader) {
                Ok(reply) => {
                    taken &= reply.starts_with(expected);
                    heard.push(reply);
                }
                Err(_) if last => return Attempt::Unanswered,
                Err(_) => return Attempt::NotTaken,
            }
        }
        match (taken, last) {
            (true, true) => return Attempt::Taken,
            (true, false) => {}
            (false, _) => return Attempt::NotTaken,
        }
    }
    Attempt::NotTaken
}

/// How a client sends a message.
#[derive(Clone, Copy, clap::ValueEnum)]
enum Manner {
    /// One command at a time
    Lines,
    /// MAIL, RCPT and DATA at once
    Pipelined,
    /// By BDAT, one chunk at a time
    Chunks,
    /// MAIL, RCPT and two chunks at once
    PipelinedChunks,
}

impl Manner {
    /// What is sent at once, each part with the reply that it should have; the message ends with the last group.
    fn groups(self, id: &str) -> Vec<Vec<(String, &'static str)>> {
        let [mail, rcpt] = [format!("MAIL FROM:<{id}>\r\n"), "RCPT TO:<bob@example.org>\r\n".to_owned()];
        let (header, text) = (format!("Message-Id: <{id}>\r\n"), "\r\ntext\r\n");
        let data = ("DATA\r\n".to_owned(), "354");
        let message = (format!("{header}{text}.\r\n"), "250");
        let first = (format!("BDAT {}\r\n{header}", header.len()), "250");
        let second = (format!("BDAT {} LAST\r\n{text}", text.len()), "250");
        let (mail, rcpt) = ((mail, "250"), (rcpt, "250"));
        match self {
            Self::Lines => vec![vec![mail], vec![rcpt], vec![data], vec![message]],
            Self::Pipelined => vec![vec![mail, rcpt, data], vec![message]],
            Self::Chunks => vec![vec![mail], vec![rcpt], vec![first], vec![second]],
            Self::PipelinedChunks => vec![vec![mail, rcpt, first, second]],
        }
    }
}

fn hold(address: SocketAddr, count: usize) {
    let threads: Vec<_> = (0..count)
        .map(|_| {
            std::thread::spawn(move || {
                let Ok(stream) = connect(address, None) else {
                    return ("dropped", None);
                };
                let mut greeting = String::new();
                match BufReader::new(&stream).read_line(&mut greeting) {
                    Ok(_) if greeting.starts_with("220") => ("greeted", Some(stream)),
                    Ok(_) if greeting.starts_with("421") => ("refused", Some(stream)),
                    _ => ("closed", Some(stream)),
                }
            })
        })
        .collect();
    let results: Vec<_> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
    let count = |what| results.iter().filter(|(result, _)| *result == what).count();
    println!(
        "{{\"greeted\": {}, \"refused\": {}, \"dropped\": {}, \"closed\": {}}}",
        count("greeted"),
        count("refused"),
        count("dropped"),
        count("closed")
    );
    std::io::stdout().flush().unwrap();
    let mut rest = String::new();
    std::io::stdin().read_to_string(&mut rest).unwrap();
}

fn listen(address: SocketAddr) {
    let listener = std::net::TcpListener::bind(address).unwrap();
    println!("listening");
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                // Until the peer closes; then the connection is dropped. It may be reset before it is greeted.
                let _ = (&stream).write_all(b"220 here\r\n");
                let _ = std::io::copy(&mut (&stream), &mut std::io::sink());
            });
        }
    });
    let mut rest = String::new();
    std::io::stdin().read_to_string(&mut rest).unwrap();
}

fn spoof_syn(to: SocketAddrV4, from: Ipv4Addr, count: u32) {
    let socket = raw();
    for n in 0..count {
        let port = 1024 + (n % 60_000) as u16;
        send(&socket, SocketAddrV4::new(from, port), to, SYN, n.wrapping_mul(2_654_435_761));
    }
}

fn forge_rst(to: SocketAddrV4, from: Ipv4Addr) {
    let socket = raw();
    for port in 1024..=u16::MAX {
        send(&socket, SocketAddrV4::new(from, port), to, RST, 12_345);
        send(&socket, SocketAddrV4::new(from, port), to, FIN | ACK, 12_345);
    }
}

fn ban_probe(to: SocketAddrV4, from: Ipv4Addr, unknowns: u32) {
    let stream = connect(to.into(), Some(from.into())).unwrap();
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut writer = stream;
    reply(&mut reader).unwrap();
    let mut say = |line: &str| {
        writer.write_all(line.as_bytes()).unwrap();
        reply(&mut reader)
    };
    say("EHLO probe\r\n").unwrap();
    say("MAIL FROM:<probe@probe.example>\r\n").unwrap();
    for n in 1..unknowns {
        assert!(say(&format!("RCPT TO:<probe{n}@example.org>\r\n")).unwrap().starts_with("550"));
    }
    let stop = Arc::new(AtomicBool::new(false));
    let listener = std::thread::spawn({
        let stop = Arc::clone(&stop);
        move || answered(to, &stop)
    });
    let sender = std::thread::spawn({
        let stop = Arc::clone(&stop);
        move || probe(from, to, &stop)
    });
    std::thread::sleep(Duration::from_millis(100));
    let crossing = say("RCPT TO:<probe-last@example.org>\r\n");
    let replied = Instant::now();
    std::thread::sleep(Duration::from_millis(200));
    stop.store(true, Ordering::Relaxed);
    let sent = sender.join().unwrap();
    let answered = listener.join().unwrap();
    let last = sent.iter().rposition(|(port, _)| answered[usize::from(*port)]).expect("no probe was ever answered");
    let (_, first_dropped) = sent.get(last + 1).expect("the source was not banned");
    assert!(sent.len() - last > 100, "the probes went on being answered");
    let crossing = crossing.unwrap_or_else(|what| what);
    eprintln!("crossing reply: {}", crossing.trim());
    eprintln!("{} probes before the drop, {} after", last + 1, sent.len() - last - 1);
    println!("{}", first_dropped.saturating_duration_since(replied).as_micros());
}
