//! Connections to the backend: how many, for how long, and what a client hears that the backend refuses by its address.
//! A balancer's header gives each client an address of its own.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use smtp_guard::addr::BackendAddr;
use smtp_guard::config::{Config, Identity};

use crate::client::Client;
use crate::with_configured_guard;

/// Whom the backends below don't like.
const REFUSED: &str = "192.0.2.66";

fn with_balancer(config: &mut Config) {
    config.listen[0].balancers = ["127.0.0.1/32".parse().unwrap()].into_iter().collect();
}

/// Serves each connection by `serve`.
fn start(serve: impl Fn(&TcpStream) -> std::io::Result<()> + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let serve = Arc::new(serve);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let serve = Arc::clone(&serve);
            std::thread::spawn(move || serve(&stream));
        }
    });
    address
}

/// A backend that takes all mail, with its connections now and at most.
fn counted() -> (SocketAddr, Arc<[AtomicUsize; 2]>) {
    let counts = Arc::new([AtomicUsize::new(0), AtomicUsize::new(0)]);
    let counting = Arc::clone(&counts);
    let address = start(move |stream| {
        let [now, most] = &*counting;
        most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        let served = crate::faults::serve_sound(stream);
        now.fetch_sub(1, Ordering::SeqCst);
        served
    });
    (address, counts)
}

fn deliver(client: &mut Client, name: &str) {
    for (line, code) in [
        ("MAIL FROM:<a@client.example>", 250),
        ("RCPT TO:<b@example.org>", 250),
        ("DATA", 354),
        ("Subject: x\r\n\r\nx\r\n.", 250),
    ] {
        assert_eq!(client.say(line), code, "{name}: {line}");
    }
}

/// `servers` with ten places each, of which a stranger may have nine: 30 sessions of three networks for each server hold all they
/// can get, and five honest strangers come.
fn check_held(servers: usize) {
    let backends: Vec<_> = (0..servers).map(|_| counted()).collect();
    let configure = |config: &mut Config| {
        with_balancer(config);
        config.backend.connections = 10;
        config.backend.servers = backends.iter().map(|(address, _)| BackendAddr::Address(*address)).collect();
    };
    with_configured_guard(backends[0].0, configure, |guard| {
        let mut held = Vec::new();
        for n in 0..30 * servers {
            let mut client = Client::behind_balancer(guard, &format!("2001:db8:{}:{n:x}::1", n % 3));
            assert_eq!((client.code(), client.say("EHLO x")), (220, 250));
            // Whoever finds no place waits: nobody looks at the answer.
            client.send("MAIL FROM:<a@client.example>");
            held.push(client);
        }
        // What one of them would have too many it has by then.
        let until = std::time::Instant::now() + Duration::from_secs(60);
        while backends.iter().any(|(_, counts)| counts[0].load(Ordering::SeqCst) < 9) {
            assert!(std::time::Instant::now() < until, "{backends:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
        std::thread::sleep(Duration::from_millis(500));
        // Two are the guard's own. (Later the count lags behind: a place is free before the backend sees the end.)
        assert!(backends.iter().all(|(_, counts)| counts[1].load(Ordering::SeqCst) <= 12), "{backends:?}");
        for n in 0..5 {
            let mut client = Client::behind_balancer(guard, &format!("198.18.{n}.1"));
            assert_eq!((client.code(), client.say("EHLO x")), (220, 250));
            deliver(&mut client, &format!("stranger {n}"));
        }
    });
}

#[test]
fn c3_honest_strangers_are_served_while_others_hold_all_they_can_get() {
    check_held(1);
    check_held(2);
}

#[test]
fn c3_a_session_without_a_transaction_gives_its_connection_back_and_has_another_for_its_next() {
    let (backend, counts) = counted();
    let configure = |config: &mut Config| {
        with_balancer(config);
        config.backend.connections = 1;
    };
    with_configured_guard(backend, configure, |guard| {
        let mut first = Client::behind_balancer(guard, "192.0.2.1");
        assert_eq!((first.code(), first.say("EHLO x")), (220, 250));
        assert_eq!((first.say("MAIL FROM:<a@client.example>"), first.say("RSET")), (250, 250));
        let until = std::time::Instant::now() + Duration::from_secs(60);
        while counts[0].load(Ordering::SeqCst) > 0 {
            assert!(std::time::Instant::now() < until, "kept");
            // Commands that lead nowhere don't hold it.
            assert_eq!(first.say("NOOP"), 250);
            std::thread::sleep(Duration::from_millis(800));
        }
        deliver(&mut first, "the next one");
    });
}

/// What the backend says of [`REFUSED`] where it learns of it, by PROXY or XCLIENT; to all others it says yes.
#[derive(Clone, Copy)]
struct Choosy {
    greeting: &'static str,
    ehlo: &'static str,
    xclient: &'static str,
    /// It says the same to everybody.
    all: bool,
}

const YES: Choosy = Choosy { greeting: "220 x", ehlo: "250-x\r\n250 XCLIENT ADDR HELO", xclient: "220 x", all: false };

impl Choosy {
    fn serve(self, identity: Identity, mut stream: &TcpStream) -> std::io::Result<()> {
        let mut lines = BufReader::new(stream.try_clone()?).lines();
        let mut known = self.all;
        if identity == Identity::ProxyV1 {
            let header = lines.next().transpose()?.unwrap_or_default();
            known |= header.contains(REFUSED);
        }
        let mut say = |yes: &str, no: &str, known: bool| {
            stream.write_all(if known { no } else { yes }.as_bytes())?;
            stream.write_all(b"\r\n")
        };
        say(YES.greeting, self.greeting, known)?;
        while let Some(line) = lines.next().transpose()? {
            match line.split(' ').next().unwrap_or_default() {
                "EHLO" | "HELO" => say(YES.ehlo, self.ehlo, known)?,
                "XCLIENT" => {
                    known |= line.contains(REFUSED);
                    say(YES.xclient, self.xclient, known)?;
                }
                "DATA" => {
                    say("354 go", "354 go", known)?;
                    while lines.next().transpose()?.is_some_and(|line| line != ".") {}
                    say("250 taken", "250 taken", known)?;
                }
                _ => say("250 ok", "250 ok", known)?,
            }
        }
        Ok(())
    }
}

/// What [`REFUSED`] hears to MAIL; whether another client is served after that.
fn check(name: &str, identity: Identity, backend: Choosy, expected: u16, words: &str, others: bool) {
    let configure = |config: &mut Config| {
        with_balancer(config);
        config.backend.identity = identity;
    };
    with_configured_guard(start(move |stream| backend.serve(identity, stream)), configure, |guard| {
        for _ in 0..2 {
            let mut client = Client::behind_balancer(guard, REFUSED);
            assert_eq!((client.code(), client.say("EHLO x")), (220, 250), "{name}");
            client.send("MAIL FROM:<a@client.example>");
            let heard = client.line();
            assert!(heard.starts_with(&expected.to_string()) && heard.contains(words), "{name}: {heard}");
        }
        let mut client = Client::behind_balancer(guard, "192.0.2.1");
        assert_eq!((client.code(), client.say("EHLO x")), (220, 250), "{name}");
        if others {
            deliver(&mut client, name);
        } else {
            assert_eq!(client.say("MAIL FROM:<a@client.example>"), 451, "{name}");
        }
    });
}

#[test]
fn a9_a_client_hears_the_backends_own_refusal_of_it() {
    let (proxy, xclient) = (Identity::ProxyV1, Identity::Xclient);
    let in_greeting = |greeting| Choosy { greeting, ..YES };
    let to_ehlo = |ehlo| Choosy { ehlo, ..YES };
    let to_xclient = |xclient| Choosy { xclient, ..YES };
    check("takes all", proxy, YES, 250, "ok", true);
    check("greeting", proxy, in_greeting("554 5.7.1 no mail from you"), 554, "no mail from you", true);
    check("greeting, for now", proxy, in_greeting("421 4.7.0 too many"), 451, "too many", true);
    check("EHLO", proxy, to_ehlo("501 5.5.2 what a name"), 501, "what a name", true);
    check("EHLO, for now", proxy, to_ehlo("450 4.7.1 not now"), 450, "not now", true);
    check("XCLIENT", xclient, to_xclient("554 5.7.1 no mail from you"), 554, "no mail from you", true);
    check("XCLIENT, for now", xclient, to_xclient("421 4.7.0 too many"), 451, "too many", true);
    check("EHLO after XCLIENT", xclient, to_ehlo("550 5.7.1 what a name"), 550, "what a name", true);
    // The command itself isn't understood: that is ours to mend.
    check("syntax", xclient, to_xclient("501 5.5.4 bad parameter"), 451, "", true);
    // Not for this client: all hear 4xx.
    check("all", proxy, Choosy { all: true, ..in_greeting("554 5.7.1 closed") }, 451, "", false);
    check("all, EHLO", proxy, Choosy { all: true, ..to_ehlo("502 5.5.1 what?") }, 451, "", false);
}

#[test]
fn a9_a_server_that_does_not_know_proxy_is_told_apart() {
    // It takes the header for a command and answers each.
    let backend = start(|mut stream| {
        stream.write_all(b"220 x\r\n")?;
        for line in BufReader::new(stream.try_clone()?).lines() {
            let answer: &[u8] = if line?.starts_with("PROXY") { b"502 5.5.2 what?\r\n" } else { b"250 ok\r\n" };
            stream.write_all(answer)?;
        }
        Ok(())
    });
    let configure = |config: &mut Config| {
        with_balancer(config);
        config.backend.identity = Identity::ProxyV1;
    };
    with_configured_guard(backend, configure, |guard| {
        let mut client = Client::behind_balancer(guard, "192.0.2.1");
        assert_eq!((client.code(), client.say("EHLO x")), (220, 250));
        assert_eq!(client.say("MAIL FROM:<a@client.example>"), 451);
    });
}
