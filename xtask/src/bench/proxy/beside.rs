//! Clients beside a load: slow ones, or an attack. Paced, so that it takes about as much of the machine whatever
//! stands before the sink; it ends with the load.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::EDGE;
use super::client::Client;
use super::load::Beside;

/// Of 50 sessions, about 5 %.
const SLOW: u8 = 3;
/// Between two lines of a slow client.
const LINE: Duration = Duration::from_millis(50);
/// Of a slow message: nobody gets that far.
const LINES: u32 = 100_000;
/// Sources that guess recipients, and guesses in a session.
const HARVESTERS: u8 = 8;
const GUESSES: u32 = 5;
/// Sources that connect and go.
const FLOODERS: u8 = 4;
/// Between two sessions of a harvester, and two connections of a flooder: together 80 and 1,000 a second at most.
const GUESS: Duration = Duration::from_millis(100);
const CONNECT: Duration = Duration::from_millis(4);
/// A harvester that is delayed for longer goes.
const PATIENCE: Duration = Duration::from_millis(200);
/// Addresses of the above are in this network, from here on.
const NETWORK: [u8; 3] = [198, 51, 100];
const FIRST: u8 = 20;

/// The addresses that this needs.
pub(super) fn addresses() -> impl Iterator<Item = Ipv4Addr> {
    (FIRST..FIRST + HARVESTERS + FLOODERS).map(address)
}

/// Runs `work` beside it, against the server at `to`.
pub(super) fn run<T>(beside: Beside, to: SocketAddr, work: impl FnOnce() -> T) -> T {
    let over = AtomicBool::new(false);
    let goes_on = || !over.load(Ordering::Relaxed);
    thread::scope(|threads| {
        // Whatever fails here is what the server does to such clients.
        match beside {
            Beside::Nothing => {}
            Beside::Slow => (0..SLOW).for_each(|_| {
                threads.spawn(move || paced(LINE, &goes_on, || _ = slow(to, &goes_on)));
            }),
            Beside::Attack => {
                for n in 0..HARVESTERS {
                    threads.spawn(move || paced(GUESS, &goes_on, || _ = harvest(address(FIRST + n), to)));
                }
                for n in HARVESTERS..HARVESTERS + FLOODERS {
                    let flood = move || _ = Client::connect(address(FIRST + n), to);
                    threads.spawn(move || paced(CONNECT, &goes_on, flood));
                }
            }
        }
        let result = work();
        over.store(true, Ordering::Relaxed);
        result
    })
}

fn address(last: u8) -> Ipv4Addr {
    let [a, b, c] = NETWORK;
    Ipv4Addr::new(a, b, c, last)
}

/// Does `work` once in `pace`; what was late isn't made up for.
fn paced(pace: Duration, goes_on: &impl Fn() -> bool, work: impl Fn()) {
    while goes_on() {
        let began = Instant::now();
        work();
        thread::sleep(pace.saturating_sub(began.elapsed()));
    }
}

/// A message, a line at a time.
fn slow(to: SocketAddr, goes_on: &impl Fn() -> bool) -> anyhow::Result<()> {
    let mut client = Client::connect(EDGE.parse()?, to)?;
    client.expect("220")?;
    for (line, code) in [
        ("EHLO mx.sender.example", "250"),
        ("MAIL FROM:<a@sender.example>", "250"),
        ("RCPT TO:<bob@example.org>", "250"),
        ("DATA", "354"),
    ] {
        client.say(line, code)?;
    }
    for _ in 0..LINES {
        if !goes_on() {
            break;
        }
        client.write("a line that takes its time\r\n")?;
        thread::sleep(LINE);
    }
    Ok(())
}

fn harvest(from: Ipv4Addr, to: SocketAddr) -> anyhow::Result<()> {
    let mut client = Client::connect(from, to)?;
    client.waits(PATIENCE)?;
    client.expect("220")?;
    client.say("EHLO mx.sender.example", "250")?;
    let guesses: String = (0..GUESSES).map(|n| format!("RCPT TO:<nobody{n}@example.org>\r\n")).collect();
    client.write(&format!("MAIL FROM:<a@sender.example>\r\n{guesses}"))?;
    client.expect("250")?;
    (0..GUESSES).try_for_each(|_| client.expect("5"))
}
