//! Room in the kernel for large messages, of which all sessions together have so much: it comes back from sessions that send none.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use smtp_guard::config::{AuthVia, Role};
use smtp_guard::observe::metrics::Metrics;

use crate::client::Client;
use crate::{logins, with_measured_guard};

/// Times that somebody tries to find room, a second apart.
const TRIES: usize = 40;

/// A server that takes every login and every message.
fn start() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || serve(&stream));
        }
    });
    address
}

fn serve(mut stream: &TcpStream) -> std::io::Result<()> {
    stream.write_all(b"220 x\r\n")?;
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    while let Some(line) = lines.next() {
        let answer: &[u8] = match line?.get(..4).unwrap_or_default() {
            "EHLO" => b"250-x\r\n250 AUTH PLAIN\r\n",
            "AUTH" => b"235 2.7.0 ok\r\n",
            "DATA" => {
                stream.write_all(b"354 go\r\n")?;
                while lines.next().is_some_and(|line| line.is_ok_and(|line| line != ".")) {}
                b"250 ok\r\n"
            }
            _ => b"250 ok\r\n",
        };
        stream.write_all(answer)?;
    }
    Ok(())
}

/// Says each line and hears its answer.
fn dialogue(say: &mut dyn FnMut(&str) -> String, lines: &[(&str, &str)]) {
    for (line, expected) in lines {
        let reply = say(line);
        assert!(reply.starts_with(expected), "{reply}");
    }
}

/// Comes to where a message may be sent.
fn begin(say: &mut dyn FnMut(&str) -> String) {
    dialogue(say, &[("MAIL FROM:<a@client.example>", "250"), ("RCPT TO:<b@example.org>", "250"), ("DATA", "354")]);
}

/// Sends a message that is read in several pieces.
fn end(say: &mut dyn FnMut(&str) -> String) {
    let line = "x".repeat(76) + "\r\n";
    dialogue(say, &[(&(line.repeat(64 * 1024 / line.len()) + "."), "250")]);
}

/// How often there was no room.
fn refused(metrics: &Metrics) -> u64 {
    let rooms = ["receive_windows", "send_queues"];
    metrics.bounds().view().iter().filter(|bound| rooms.contains(&bound.name.as_str())).map(|bound| bound.count).sum()
}

/// After more clients than there is room for have sent a message each and stay, another one has all room for its own.
fn check(logs_in: bool) {
    let files = tempfile::tempdir().unwrap();
    let (tls, trusted) = logins::certificate(files.path());
    with_measured_guard(
        start(),
        |config| {
            config.limits.connections = 100;
            config.listen[0].balancers = ["127.0.0.1/32".parse().unwrap()].into_iter().collect();
            if logs_in {
                config.listen[0].role = Role::Submissions;
                config.tls = Some(tls);
                config.auth.via = AuthVia::Backend;
            }
        },
        |guard, metrics| {
            let enter = || -> Box<dyn FnMut(&str) -> String> {
                if !logs_in {
                    let mut client = Client::behind_balancer(guard, "192.0.2.1");
                    assert_eq!((client.code(), client.say("EHLO x")), (220, 250));
                    return Box::new(move |line| {
                        client.send(line);
                        client.reply()
                    });
                }
                // AUTH is offered once the server was asked for it.
                let mut client = loop {
                    let mut client = logins::Client::connect(guard, "192.0.2.1", &trusted);
                    if client.say("EHLO x").contains("AUTH") {
                        break client;
                    }
                    std::thread::sleep(Duration::from_millis(50));
                };
                assert!(client.say(logins::LOGIN).starts_with("235"));
                Box::new(move |line| client.say(line))
            };
            let mut held: Vec<_> = (0..30).map(|_| enter()).collect();
            held.iter_mut().for_each(|say| begin(say));
            held.iter_mut().for_each(|say| end(say));
            assert!(refused(metrics) > 0, "they are too few");
            let has_room = |_| {
                std::thread::sleep(Duration::from_secs(1));
                let before = refused(metrics);
                let mut say = enter();
                begin(&mut say);
                end(&mut say);
                refused(metrics) == before
            };
            assert!((0..TRIES).any(has_room), "all room is held, log in: {logs_in}");
        },
    );
}

#[test]
fn c4_sessions_that_stay_after_their_message_hold_no_room() {
    check(false);
    check(true);
}
