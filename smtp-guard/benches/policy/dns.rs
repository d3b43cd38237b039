//! Look-ups with a server that answers at once, after a while, or not at all.

use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use smtp_guard::bound::Bound;
use smtp_guard::facts::dns::{Kind, Meter, Resolver, Told};

use super::median;

/// Look-ups of each kind.
const LOOKUPS: u32 = 1001;
const SLOW: Duration = Duration::from_millis(100);
/// `dns.timeout` as it is by default.
const TIMEOUT: Duration = Duration::from_secs(5);
/// What the server does when it should say nothing.
const DEAD: u64 = u64::MAX;

struct Nobody;

impl Meter for Nobody {
    fn lookup(&self, _: Kind, _: Told) {}
    fn bound_reached(&self, _: Bound) {}
}

pub(super) fn run() {
    let (delay_ms, address) = server();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let resolver = Resolver::new(&[address], Arc::new(Nobody)).unwrap();
    let timed = |domain: String| {
        let started = Instant::now();
        let deadline = tokio::time::Instant::now() + TIMEOUT;
        let result = runtime.block_on(resolver.sender_domain(&domain, deadline));
        (started.elapsed(), result.is_ok())
    };
    let check = |domain: String, ok: bool| {
        let (time, is_ok) = timed(domain);
        assert_eq!(is_ok, ok);
        time
    };
    let fresh = median((0..LOOKUPS).map(|n| check(format!("d{n}.example"), true)));
    let known = median((0..LOOKUPS).map(|_| check("d1.example".to_owned(), true)));
    println!("sender's domain, DNS alive: {} us at first, {} ns when known", fresh.as_micros(), known.as_nanos());
    delay_ms.store(u64::try_from(SLOW.as_millis()).unwrap(), Ordering::Relaxed);
    let slow = median((0..21).map(|n| check(format!("s{n}.example"), true)));
    println!("sender's domain, DNS slow by {} ms: {} ms", SLOW.as_millis(), slow.as_millis());
    delay_ms.store(DEAD, Ordering::Relaxed);
    // Eight at once find out.
    let first: Vec<_> = (0..8)
        .map(|n| {
            let (resolver, domain) = (resolver.clone(), format!("x{n}.example"));
            runtime.spawn(async move {
                let started = Instant::now();
                let deadline = tokio::time::Instant::now() + TIMEOUT;
                assert!(resolver.sender_domain(&domain, deadline).await.is_err());
                started.elapsed()
            })
        })
        .collect();
    let first = median(first.into_iter().map(|task| runtime.block_on(task).unwrap()));
    // One of these is the trial, and waits; the others are what counts.
    let trial = resolver.clone();
    runtime.spawn(async move { trial.sender_domain("trial.example", tokio::time::Instant::now() + TIMEOUT).await });
    std::thread::sleep(Duration::from_millis(10));
    let then = median((0..LOOKUPS).map(|n| check(format!("y{n}.example"), false)));
    println!("sender's domain, DNS dead: {} ms once, then {} ns", first.as_millis(), then.as_nanos());
}

/// A server with one answer for everybody: an MX. Its delay can be changed.
fn server() -> (Arc<AtomicU64>, std::net::SocketAddr) {
    let delay_ms = Arc::new(AtomicU64::new(0));
    let socket = UdpSocket::bind((IpAddr::V4(Ipv4Addr::LOCALHOST), 0)).unwrap();
    let address = socket.local_addr().unwrap();
    let delay = Arc::clone(&delay_ms);
    std::thread::spawn(move || {
        let mut bytes = [0; 1500];
        loop {
            let (length, client) = socket.recv_from(&mut bytes).unwrap();
            match delay.load(Ordering::Relaxed) {
                DEAD => continue,
                ms => std::thread::sleep(Duration::from_millis(ms)),
            }
            socket.send_to(&answer(&bytes[..length]), client).unwrap();
        }
    });
    (delay_ms, address)
}

/// RFC 1035 4.1: the question again, and `MX 10 .example`, whatever was asked.
fn answer(query: &[u8]) -> Vec<u8> {
    // The name ends with an empty label; type and class follow.
    let name = query[12..].iter().position(|byte| *byte == 0).unwrap();
    let question = &query[12..12 + name + 5];
    let mut answer = Vec::from(&query[..2]);
    answer.extend([0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0]);
    answer.extend_from_slice(question);
    // The question's name, MX, IN, 60 s, 5 bytes: preference 10, a label of one letter.
    answer.extend([0xc0, 0x0c, 0, 15, 0, 1, 0, 0, 0, 60, 0, 5, 0, 10, 1, b'm', 0]);
    answer
}
