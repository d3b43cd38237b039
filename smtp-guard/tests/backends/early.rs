//! A connection that is opened at EHLO, for a MAIL that may come: for whom, what becomes of it, and that no client notices when it fails.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use smtp_guard::config::{Config, Identity};

use crate::client::Client;
use crate::logins;
use crate::with_configured_guard;

/// What the backend does to connections for a client that has not said MAIL on them.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Odd {
    No,
    /// Turns the first one away.
    TurnsAway,
    /// Refuses the first client by its address.
    Refuses,
    /// Closes the first one while it waits.
    Closes,
    /// Says 421 on the first one while it waits.
    SaysGoodbye,
    /// Answers the first one's EHLO after a second.
    Slow,
}

/// What each connection on behalf of a client heard; `end` at last, where the guard has closed it.
type Heard = Arc<Mutex<Vec<Vec<String>>>>;

struct Backend {
    address: SocketAddr,
    heard: Heard,
}

impl Backend {
    fn start(odd: Odd) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (address, heard) = (listener.local_addr().unwrap(), Heard::default());
        let hears = Arc::clone(&heard);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let heard = Arc::clone(&hears);
                std::thread::spawn(move || serve(&stream, odd, &heard));
            }
        });
        Self { address, heard }
    }

    fn heard(&self) -> Vec<Vec<String>> {
        self.heard.lock().unwrap().clone()
    }

    /// Waits until what was heard is as it should be.
    #[track_caller]
    fn wait(&self, name: &str, is: impl Fn(&[Vec<String>]) -> bool) {
        let until = Instant::now() + Duration::from_secs(20);
        while !is(&self.heard()) {
            assert!(Instant::now() < until, "{name}: {:#?}", self.heard());
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

fn serve(mut stream: &TcpStream, odd: Odd, heard: &Heard) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    // What the guard asks for itself has no name.
    let mut number = None;
    stream.write_all(b"220 x\r\n")?;
    while let Some(Ok(line)) = lines.next() {
        if line.starts_with("XCLIENT") && line.contains("HELO=") {
            let mut heard = heard.lock().unwrap();
            number = Some(heard.len());
            heard.push(Vec::new());
        }
        if let Some(number) = number {
            heard.lock().unwrap()[number].push(line.clone());
        }
        let first = number == Some(0);
        match line.split([' ', ':']).next().unwrap_or_default() {
            "EHLO" if number.is_none() => stream.write_all(b"250-x\r\n250 XCLIENT ADDR HELO\r\n")?,
            "EHLO" => {
                if first && odd == Odd::Slow {
                    std::thread::sleep(Duration::from_secs(1));
                }
                stream.write_all(b"250-x\r\n250 SIZE\r\n")?;
                if first && odd == Odd::SaysGoodbye {
                    stream.write_all(b"421 4.4.2 too slow\r\n")?;
                }
                if first && matches!(odd, Odd::Closes | Odd::SaysGoodbye) {
                    return Ok(());
                }
            }
            "XCLIENT" if first && odd == Odd::TurnsAway => return Ok(()),
            "XCLIENT" if first && odd == Odd::Refuses => stream.write_all(b"550 5.7.1 not you\r\n")?,
            "XCLIENT" => stream.write_all(b"220 x\r\n")?,
            "DATA" => {
                stream.write_all(b"354 go\r\n")?;
                while lines.next().transpose()?.is_some_and(|line| line != ".") {}
                stream.write_all(b"250 taken\r\n")?;
            }
            "QUIT" => return stream.write_all(b"221 bye\r\n"),
            _ => stream.write_all(b"250 ok\r\n")?,
        }
    }
    if let Some(number) = number {
        heard.lock().unwrap()[number].push("end".to_owned());
    }
    Ok(())
}

/// Of no history; and exempt.
const STRANGER: &str = "198.51.100.1";
const FRIEND: &str = "203.0.113.7";

fn with_guard(backend: &Backend, change: impl FnOnce(&mut Config), test: impl FnOnce(SocketAddr)) {
    let configure = |config: &mut Config| {
        config.listen[0].balancers = ["127.0.0.1/32".parse().unwrap()].into_iter().collect();
        config.exempt = ["203.0.113.0/24".parse().unwrap()].into_iter().collect();
        config.backend.identity = Identity::Xclient;
        config.backend.reuse = false;
        change(config);
    };
    with_configured_guard(backend.address, configure, |guard| {
        // Nothing is opened before the guard's own look has found the server well.
        std::thread::sleep(Duration::from_millis(500));
        test(guard);
    });
}

fn greet(guard: SocketAddr, address: &str, helo: &str) -> Client {
    let mut client = Client::behind_balancer(guard, address);
    assert_eq!((client.code(), client.say(&format!("EHLO {helo}"))), (220, 250));
    client
}

fn deliver(client: &mut Client, name: &str) {
    let envelope = [("MAIL FROM:<a@client.example>", 250), ("RCPT TO:<b@example.org>", 250), ("DATA", 354)];
    for (line, code) in envelope.into_iter().chain([("Subject: x\r\n\r\nx\r\n.", 250)]) {
        assert_eq!(client.say(line), code, "{name}: {line}");
    }
}

fn begins(line: &str, verb: &str) -> bool {
    line.starts_with(verb)
}

/// Connections that said `verb`.
fn said(heard: &[Vec<String>], verb: &str) -> usize {
    heard.iter().filter(|lines| lines.iter().any(|line| begins(line, verb))).count()
}

#[test]
fn a_likely_sender_finds_a_connection_at_its_mail_and_a_stranger_causes_none() {
    let backend = Backend::start(Odd::No);
    with_guard(
        &backend,
        |_| {},
        |guard| {
            let mut stranger = greet(guard, STRANGER, "c.example");
            let mut friend = greet(guard, FRIEND, "f.example");
            backend
                .wait("EHLO", |heard| heard.len() == 1 && heard[0].last().is_some_and(|line| line == "EHLO f.example"));
            deliver(&mut friend, "the same connection");
            assert_eq!(backend.heard().len(), 1);
            deliver(&mut stranger, "a stranger");
            assert_eq!(backend.heard().len(), 2);
            // Its mail was accepted: it is a known sender by now.
            drop(stranger);
            let until = Instant::now() + Duration::from_secs(20);
            while backend.heard().len() < 3 {
                assert!(Instant::now() < until, "the next session of a known sender");
                greet(guard, STRANGER, "c.example");
                std::thread::sleep(Duration::from_millis(50));
            }
        },
    );
    let off = Backend::start(Odd::No);
    with_guard(
        &off,
        |config| config.backend.connect_early = false,
        |guard| {
            let mut friend = greet(guard, FRIEND, "f.example");
            std::thread::sleep(Duration::from_millis(300));
            assert_eq!(off.heard(), Vec::<Vec<String>>::new());
            deliver(&mut friend, "turned off");
        },
    );
}

/// What becomes of a connection over which nothing is asked.
fn check_unused(name: &str, go_on: impl FnOnce(Client)) {
    let backend = Backend::start(Odd::No);
    with_guard(
        &backend,
        |_| {},
        |guard| {
            go_on(greet(guard, FRIEND, "f.example"));
            backend.wait(name, |heard| said(heard, "QUIT") == 1);
        },
    );
    assert_eq!(said(&backend.heard(), "MAIL"), 0, "{name}");
}

#[test]
fn a_connection_that_is_not_used_ends_by_quit() {
    check_unused("QUIT", |mut client| assert_eq!(client.say("QUIT"), 221));
    check_unused("vanishes", drop);
    let (tell, told) = std::sync::mpsc::channel();
    check_unused("idle", |client| tell.send(client).unwrap());
    drop(told);
    check_unused("another name", |mut client| {
        assert_eq!(client.say("EHLO g.example"), 250);
        // The next one is opened at once, and ends with its client.
        std::mem::forget(client);
    });
}

#[test]
fn the_server_hears_the_name_that_the_client_has_said_last() {
    let backend = Backend::start(Odd::No);
    with_guard(
        &backend,
        |_| {},
        |guard| {
            let mut client = greet(guard, FRIEND, "f.example");
            deliver(&mut client, "first name");
            assert_eq!(client.say("EHLO g.example"), 250);
            deliver(&mut client, "second name");
            assert_eq!(client.say("EHLO g.example"), 250);
            deliver(&mut client, "the same name");
        },
    );
    let heard = backend.heard();
    for (number, (name, messages)) in [("f.example", 1), ("g.example", 2)].into_iter().enumerate() {
        assert!(heard[number][0].contains(&format!("HELO={name}")), "{heard:#?}");
        let mails = heard[number].iter().filter(|line| begins(line, "MAIL")).count();
        assert_eq!(mails, messages, "{heard:#?}");
    }
    assert_eq!(heard.len(), 2, "{heard:#?}");
}

/// Whatever comes of the early connection, mail is taken.
fn check_odd(odd: Odd, pause: Duration, mails: usize) {
    let backend = Backend::start(odd);
    with_guard(
        &backend,
        |_| {},
        |guard| {
            let mut client = greet(guard, FRIEND, "f.example");
            backend.wait("EHLO", |heard| heard.len() == 1);
            std::thread::sleep(pause);
            deliver(&mut client, &format!("{odd:?}, after {pause:?}"));
        },
    );
    let heard = backend.heard();
    assert_eq!((said(&heard, "MAIL"), heard.len()), (1, mails), "{odd:?}, after {pause:?}: {heard:#?}");
}

#[test]
fn an_early_connection_that_fails_is_noticed_by_nobody() {
    for pause in [Duration::ZERO, Duration::from_millis(300)] {
        check_odd(Odd::No, pause, 1);
        check_odd(Odd::Slow, pause, 1);
        for odd in [Odd::TurnsAway, Odd::Refuses, Odd::Closes, Odd::SaysGoodbye] {
            check_odd(odd, pause, 2);
        }
    }
}

#[test]
fn nothing_is_opened_early_where_a_connection_waits() {
    let backend = Backend::start(Odd::No);
    with_guard(
        &backend,
        |config| config.backend.reuse = true,
        |guard| {
            // The server takes one XCLIENT on a connection, so the same client has to come again.
            let mut client = greet(guard, FRIEND, "f.example");
            for n in 0..3 {
                deliver(&mut client, &format!("message {n}"));
                assert_eq!(client.say("QUIT"), 221);
                client = greet(guard, FRIEND, "f.example");
            }
            // One that was opened early and not used waits as well.
            assert_eq!(client.say("QUIT"), 221);
        },
    );
    assert_eq!((backend.heard().len(), said(&backend.heard(), "MAIL")), (1, 1), "{:#?}", backend.heard());
}

#[test]
fn early_connections_leave_half_of_the_places_and_give_way_first() {
    let backend = Backend::start(Odd::No);
    with_guard(
        &backend,
        |config| config.backend.connections = 4,
        |guard| {
            let mut early: Vec<_> = (0..4).map(|n| greet(guard, FRIEND, &format!("f{n}.example"))).collect();
            backend.wait("half of them", |heard| heard.len() == 2);
            std::thread::sleep(Duration::from_millis(300));
            assert_eq!(backend.heard().len(), 2, "no more than half");
            // The third one finds no place that is free.
            let mut strangers: Vec<_> = (0..4).map(|n| greet(guard, &format!("198.18.{n}.1"), "s.example")).collect();
            for stranger in &mut strangers {
                assert_eq!(stranger.say("MAIL FROM:<a@client.example>"), 250);
            }
            let gave_way = |heard: &[Vec<String>]| {
                heard[..2].iter().filter(|lines| lines.iter().any(|line| line == "QUIT")).count()
            };
            backend.wait("both have given way", |heard| gave_way(heard) == 2);
            // Their clients' mail is served all the same, once there is room.
            drop(strangers);
            for client in &mut early {
                deliver(client, "an early one");
            }
        },
    );
}

/// A client that says `name` under TLS after another one in clear text: so many connections were opened for it.
fn check_starttls(name: &str, connections: usize) {
    let folder = tempfile::tempdir().unwrap();
    let (tls, trusted) = logins::certificate(folder.path());
    let backend = Backend::start(Odd::No);
    with_guard(
        &backend,
        |config| config.tls = Some(tls),
        |guard| {
            let mut client = greet(guard, FRIEND, "f.example");
            backend.wait("EHLO", |heard| heard.len() == 1);
            assert_eq!(client.say("STARTTLS"), 220);
            let mut client = logins::Client::over(client.into_stream(), &trusted);
            for line in [&format!("EHLO {name}"), "MAIL FROM:<a@client.example>", "RCPT TO:<b@example.org>"] {
                assert!(client.say(line).starts_with("250"), "{name}: {line}");
            }
        },
    );
    let heard = backend.heard();
    assert_eq!((heard.len(), said(&heard, "MAIL")), (connections, 1), "{name}: {heard:#?}");
    let mails = heard.iter().find(|lines| lines.iter().any(|line| begins(line, "MAIL"))).unwrap();
    assert!(mails[0].contains(&format!("HELO={name}")), "{name}: {heard:#?}");
}

#[test]
fn what_was_said_in_clear_text_counts_for_nothing() {
    check_starttls("f.example", 1);
    check_starttls("g.example", 2);
}

#[test]
fn a_client_that_dawdles_in_its_handshake_keeps_nobody_from_a_place() {
    let folder = tempfile::tempdir().unwrap();
    let (tls, _) = logins::certificate(folder.path());
    let backend = Backend::start(Odd::No);
    let configure = |config: &mut Config| (config.tls, config.backend.connections) = (Some(tls), 2);
    with_guard(&backend, configure, |guard| {
        let mut dawdler = greet(guard, FRIEND, "f.example");
        backend.wait("EHLO", |heard| heard.len() == 1);
        assert_eq!(dawdler.say("STARTTLS"), 220);
        let mut others = [1, 2].map(|n| greet(guard, &format!("198.18.{n}.1"), "s.example"));
        for other in &mut others {
            assert_eq!(other.say("MAIL FROM:<a@client.example>"), 250);
        }
        assert_eq!(said(&backend.heard()[..1], "QUIT"), 1);
    });
}
