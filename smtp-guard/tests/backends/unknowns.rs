//! Dictionary traffic from many sources: what the backend has refused to some doesn't reach it from the next.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use socket2::{Domain, Socket, Type};

use crate::client::Client;
use crate::with_configured_guard;

/// A backend with one mailbox; it counts how often it is asked for a recipient.
#[derive(Default)]
struct Backend {
    asked: AtomicU32,
}

impl Backend {
    fn serve(&self, mut stream: TcpStream) -> std::io::Result<()> {
        stream.write_all(b"220 x\r\n")?;
        for line in BufReader::new(stream.try_clone()?).lines() {
            let line = line?;
            let answer: &[u8] = match line.get(..4).unwrap_or_default() {
                "EHLO" => b"250-x\r\n250 SIZE\r\n",
                "RCPT" => {
                    self.asked.fetch_add(1, Ordering::Relaxed);
                    if line.contains("<real@") { b"250 ok\r\n" } else { b"550 5.1.1 never heard of\r\n" }
                }
                _ => b"250 ok\r\n",
            };
            stream.write_all(answer)?;
        }
        Ok(())
    }
}

/// What the client 127.0.0.`source` hears when it asks on behalf of `sender` for `recipient`.
fn ask(guard: SocketAddr, source: u8, sender: &str, recipient: &str) -> String {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from((Ipv4Addr::new(127, 0, 0, source), 0)).into()).unwrap();
    socket.connect(&guard.into()).unwrap();
    let mut client = Client::over(socket.into());
    client.code();
    client.say("HELO client.example");
    client.say(&format!("MAIL FROM:<{sender}>"));
    client.send(&format!("RCPT TO:<{recipient}@example.org>"));
    client.reply()
}

#[test]
fn what_was_refused_to_two_clients_and_two_senders_is_not_asked_again() {
    const THEIRS: &str = "550 5.1.1 never heard of";
    const OURS: &str = "550 5.1.1 <";
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let backend = Arc::new(Backend::default());
    let served = Arc::clone(&backend);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let backend = Arc::clone(&served);
            std::thread::spawn(move || backend.serve(stream));
        }
    });
    let change = |config: &mut smtp_guard::config::Config| {
        config.harvest.delay = Duration::ZERO;
        config.checks.greeting_delay = Duration::ZERO;
    };
    with_configured_guard(address, change, |guard| {
        for (source, sender, recipient, reply, asked) in [
            (1, "a@client.example", "guess", THEIRS, 1),
            (1, "b@client.example", "guess", THEIRS, 2),
            (2, "A@client.example", "GUESS", THEIRS, 3),
            (2, "A@client.example", "guess", OURS, 3),
            (2, "a@client.example", "other", THEIRS, 4),
            (3, "A@CLIENT.example", "other", THEIRS, 5),
            (3, "a@client.example", "other", THEIRS, 6),
            (3, "b@client.example", "other", THEIRS, 7),
            (4, "c@client.example", "other", OURS, 7),
            (4, "c@client.example", "real", "250 ", 8),
        ] {
            let heard = ask(guard, source, sender, recipient);
            assert!(heard.starts_with(reply), "127.0.0.{source} {sender} {recipient}: {heard}");
            assert_eq!(backend.asked.load(Ordering::Relaxed), asked, "127.0.0.{source} {sender} {recipient}");
        }
    });
}
