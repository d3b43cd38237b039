//! One message a session to a mail server that is far away: what round trips cost.
//!
//! The server is the bench's own. It answers [`ROUND_TRIP`] after it was asked; its greeting comes later by the handshake, which
//! loopback doesn't delay. Clients come one after the other; each says all that a sender says, one command at a time or its envelope at
//! once, and is timed from connecting to the answer at the dot. They are beside the proxy, or as far away from it as the server: then they
//! hear each answer so much later.

use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::thread;
use std::time::Duration;

use super::client;
use super::peer::{self, Program};
use super::table::median;

const ROUND_TRIP: Duration = Duration::from_millis(10);
const PORT: u16 = 4600;
/// Sessions of each kind in each round, and before the first one: the guard has a history of its client then.
const SESSIONS: u32 = 25;
const WARM: u32 = 5;

const PEERS: [(&str, u16); 6] = [
    ("no proxy", PORT),
    ("HAProxy, TCP mode", 4601),
    ("guard, `reuse` and `connect_early = false`", 4602),
    ("guard, `reuse = false`", 4603),
    ("guard, `reuse = true`", 4604),
    ("guard, `reuse = true`, XCLIENT", 4605),
];
const HAPROXY: usize = 1;
/// Of each guard: its files, whether it uses connections again, whether it opens them before MAIL, and what it tells of its client.
const GUARDS: [(&str, (bool, bool), &str); 4] = [
    ("far-guard-late", (false, false), "none"),
    ("far-guard", (false, true), "none"),
    ("far-guard-reuse", (true, true), "none"),
    ("far-guard-xclient", (true, true), "xclient"),
];

/// How a client sends its envelope, and how far away it is.
const CLIENTS: [(&str, bool, Duration); 3] = [
    ("one command at a time", false, Duration::ZERO),
    ("pipelining", true, Duration::ZERO),
    ("one command at a time, 10 ms away", false, ROUND_TRIP),
];

/// The table of all rounds.
pub(super) fn measure(rounds: u32, folder: &Path, guard: &Path) -> anyhow::Result<String> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, PORT))?;
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // Whoever hangs up is done.
            thread::spawn(move || serve(&stream));
        }
    });
    let _programs = start(folder, guard)?;
    for (_, port) in PEERS {
        for _ in 0..WARM {
            session(port, false, Duration::ZERO)?;
        }
    }
    // By client and peer: the median of each round.
    let mut times = vec![vec![Vec::new(); PEERS.len()]; CLIENTS.len()];
    for round in 0..rounds as usize {
        for (client, (name, pipelines, away)) in CLIENTS.into_iter().enumerate() {
            eprintln!("round {} of {rounds}, {ROUND_TRIP:?} to the backend, {name}", round + 1);
            for n in 0..PEERS.len() {
                let peer = (n + round) % PEERS.len();
                let seconds = (0..SESSIONS)
                    .map(|_| session(PEERS[peer].1, pipelines, away))
                    .collect::<anyhow::Result<Vec<_>>>()?;
                times[client][peer].push(median(seconds.into_iter()));
            }
        }
    }
    Ok(table(&times))
}

fn table(times: &[Vec<Vec<f64>>]) -> String {
    let mut text = format!(
        "| client, {} ms to the backend | through | time of a session | against HAProxy |\n|---|---|---|---|\n",
        ROUND_TRIP.as_millis()
    );
    for ((client, ..), peers) in CLIENTS.iter().zip(times) {
        for ((name, _), own) in PEERS.iter().zip(peers) {
            let ratio = median(own.iter().zip(&peers[HAPROXY]).map(|(own, haproxy)| own / haproxy));
            let time = median(own.iter().copied()) * 1e3;
            let _ = writeln!(text, "| {client} | {name} | {time:.0} ms | {ratio:.2}x |");
        }
    }
    text.trim_end().to_owned()
}

fn start(folder: &Path, guard: &Path) -> anyhow::Result<Vec<Program>> {
    let mut programs = Vec::new();
    for (n, (_, port)) in PEERS.into_iter().enumerate().skip(HAPROXY) {
        programs.push(match n {
            HAPROXY => peer::start_haproxy("far-haproxy", folder, port, PORT)?,
            n => {
                let (name, keys, identity) = GUARDS[n - HAPROXY - 1];
                peer::start_guard(name, folder, guard, port, PORT, keys, identity)?
            }
        });
    }
    Ok(programs)
}

/// A mail server that takes everything. It answers late, and all that was asked at once at the same time.
fn serve(mut stream: &TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    thread::sleep(ROUND_TRIP * 2);
    stream.write_all(b"220 far.example ESMTP\r\n")?;
    let (mut unread, mut buffer, mut in_data) = (String::new(), [0; 16 * 1024], false);
    loop {
        let read = stream.read(&mut buffer)?;
        if read == 0 {
            return Ok(());
        }
        unread += &String::from_utf8_lossy(&buffer[..read]);
        let mut answers = String::new();
        while let Some((line, rest)) = unread.split_once("\r\n") {
            answers += match line.get(..4).unwrap_or(line).to_ascii_uppercase().as_str() {
                "." if in_data => {
                    in_data = false;
                    "250 2.0.0 taken\r\n"
                }
                _ if in_data => "",
                "EHLO" => "250-far.example\r\n250-PIPELINING\r\n250-8BITMIME\r\n250 XCLIENT NAME ADDR PROTO HELO\r\n",
                "XCLI" => "220 far.example ESMTP\r\n",
                "DATA" => {
                    in_data = true;
                    "354 go\r\n"
                }
                "QUIT" => "221 2.0.0 bye\r\n",
                _ => "250 2.0.0 ok\r\n",
            };
            unread = rest.to_owned();
        }
        if !answers.is_empty() {
            thread::sleep(ROUND_TRIP);
            stream.write_all(answers.as_bytes())?;
        }
    }
}

/// Seconds of a session with one message, of a client that hears each answer later by `away`.
fn session(port: u16, pipelines: bool, away: Duration) -> anyhow::Result<f64> {
    let from = super::EDGE.parse::<Ipv4Addr>()?;
    // The server itself is on loopback only.
    let to = if port == PORT { Ipv4Addr::LOCALHOST } else { from };
    client::message(from, (to, port).into(), pipelines, away)
}
