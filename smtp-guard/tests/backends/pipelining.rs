//! Pipelined commands go to the backend as they came. Whatever the backend makes of them, no message is taken that shouldn't be.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use smtp_guard::config::Identity;

use crate::client::Client;
use crate::with_configured_guard;

/// What the backend offers and says. An empty answer closes.
#[derive(Clone, Copy)]
struct Backend {
    /// In the answer to EHLO, of its first connection (which is the guard's own) and of the others.
    offers: [&'static str; 2],
    mail: &'static str,
    rcpt: &'static str,
    data: &'static str,
    dot: &'static str,
    /// Closes a connection after so many messages, without a word.
    lasts: usize,
}

const PIPELINES: &str = "250-x\r\n250 PIPELINING\r\n";
const SOUND: Backend = Backend {
    offers: [PIPELINES; 2],
    mail: "250 ok\r\n",
    rcpt: "250 ok\r\n",
    data: "354 go\r\n",
    dot: "250 taken\r\n",
    lasts: usize::MAX,
};

/// What was read at once within a session, between messages and within them, and how many messages ended with a dot.
#[derive(Default)]
struct Heard {
    reads: Vec<String>,
    data: Vec<String>,
    messages: usize,
}

impl Backend {
    fn start(self) -> (SocketAddr, Arc<Mutex<Heard>>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let heard = Arc::new(Mutex::new(Heard::default()));
        let hears = Arc::clone(&heard);
        std::thread::spawn(move || {
            for (n, stream) in listener.incoming().flatten().enumerate() {
                let heard = Arc::clone(&hears);
                std::thread::spawn(move || self.serve(&stream, self.offers[n.min(1)], &heard));
            }
        });
        (address, heard)
    }

    fn serve(self, mut stream: &TcpStream, offers: &str, heard: &Mutex<Heard>) -> std::io::Result<()> {
        stream.write_all(b"220 x\r\n")?;
        let (mut buffer, mut unread, mut in_data, mut taken) = ([0; 4096], String::new(), false, 0);
        loop {
            let read = stream.read(&mut buffer)?;
            if read == 0 {
                return Ok(());
            }
            let text = String::from_utf8_lossy(&buffer[..read]).into_owned();
            unread += &text;
            if in_data {
                heard.lock().unwrap().data.push(text);
            } else if !text.starts_with("EHLO") && !text.starts_with("QUIT") {
                heard.lock().unwrap().reads.push(text);
            }
            // All answers at once, as a server does that reads ahead.
            let mut answers = String::new();
            while let Some((line, rest)) =
                unread.split_once("\r\n").map(|(line, rest)| (line.to_owned(), rest.to_owned()))
            {
                unread = rest;
                let answer = match line.get(..4).unwrap_or_default() {
                    _ if in_data && line != "." => continue,
                    _ if in_data => {
                        in_data = false;
                        taken += 1;
                        heard.lock().unwrap().messages += 1;
                        self.dot
                    }
                    "EHLO" => offers,
                    "MAIL" => self.mail,
                    "RCPT" => self.rcpt,
                    "DATA" => {
                        in_data = self.data.starts_with("354");
                        self.data
                    }
                    "QUIT" => return Ok(()),
                    _ => "250 ok\r\n",
                };
                if answer.is_empty() {
                    return stream.write_all(answers.as_bytes());
                }
                answers += answer;
            }
            stream.write_all(answers.as_bytes())?;
            if taken >= self.lasts && !in_data {
                return Ok(());
            }
        }
    }
}

const ENVELOPE: &str = "MAIL FROM:<a@client.example>\r\nRCPT TO:<b@example.org>\r\nDATA\r\n";

/// The codes that a client hears which sends its envelope at once: to MAIL, RCPT, DATA and, after a 354, at the dot.
fn send(guard: SocketAddr) -> Vec<u16> {
    let mut client = Client::connect(guard);
    client.code();
    client.say("EHLO client.example");
    client.write(ENVELOPE.as_bytes());
    let mut codes = vec![client.code(), client.code(), client.code()];
    if codes[2] == 354 {
        codes.push(client.say("Subject: x\r\n\r\nx\r\n."));
    }
    client.say("QUIT");
    codes
}

/// Two clients past `backend`: what each of them hears, what the backend read at once of each envelope, and how many messages it took.
fn check(name: &str, backend: Backend, expected: &[u16], reads: &[&str], messages: usize) {
    let (address, heard) = backend.start();
    let configure = |config: &mut smtp_guard::config::Config| {
        config.backend.identity = Identity::None;
        config.backend.reuse = true;
    };
    with_configured_guard(address, configure, |guard| {
        // The guard's own connection is the first one, by which it learns what may be asked ahead.
        std::thread::sleep(Duration::from_millis(500));
        for n in 0..2 {
            assert_eq!(send(guard), expected, "{name}, client {n}");
            std::thread::sleep(Duration::from_millis(100));
        }
    });
    let heard = heard.lock().unwrap();
    let parts: Vec<_> = heard
        .reads
        .iter()
        .filter(|text| text.starts_with("MAIL") || text.starts_with("RCPT") || text.starts_with("DATA"))
        .collect();
    let verbs: Vec<_> =
        parts.iter().map(|text| text.lines().filter_map(|line| line.get(..4)).collect::<Vec<_>>().join(" ")).collect();
    assert_eq!(verbs, [reads, reads].concat(), "{name}");
    assert_eq!(heard.messages, messages, "{name}");
    // The guard's own header goes out with what the client sent, and not without it.
    let whole = |text: &&String| text.starts_with("Received: ") && text.ends_with("\r\n.\r\n");
    assert_eq!((heard.data.len(), heard.data.iter().filter(whole).count()), (messages, messages), "{name}");
}

#[test]
fn an_envelope_is_one_write_and_never_becomes_a_message_that_was_refused() {
    let all = &["MAIL RCPT DATA"];
    let taken = &[250, 250, 354, 250];
    check("taken", SOUND, taken, all, 2);
    check(
        "a server without PIPELINING",
        Backend { offers: ["250 x\r\n"; 2], ..SOUND },
        taken,
        &["MAIL", "RCPT", "DATA"],
        2,
    );
    let changed = Backend { offers: [PIPELINES, "250 x\r\n"], ..SOUND };
    check("a server that has lost it", changed, taken, &["MAIL", "RCPT", "DATA"], 2);
    check(
        "refuses MAIL",
        Backend { mail: "550 5.7.1 no\r\n", rcpt: "503 x\r\n", data: "503 x\r\n", ..SOUND },
        &[550, 503, 503],
        all,
        0,
    );
    check("refuses MAIL, takes the rest", Backend { mail: "550 5.7.1 no\r\n", ..SOUND }, &[550, 503, 503], all, 0);
    check("refuses RCPT", Backend { rcpt: "550 5.7.1 no\r\n", data: "554 x\r\n", ..SOUND }, &[250, 550, 554], all, 0);
    check("refuses RCPT, wants the message", Backend { rcpt: "550 5.7.1 no\r\n", ..SOUND }, &[250, 550, 554], all, 0);
    check("refuses DATA", Backend { data: "554 5.7.1 no\r\n", ..SOUND }, &[250, 250, 554], all, 0);
    check("250 to DATA", Backend { data: "250 ok\r\n", ..SOUND }, &[250, 250, 451], all, 0);
    check("answers MAIL twice", Backend { mail: "250 ok\r\n250 ok\r\n", ..SOUND }, &[250, 250, 451], all, 0);
    check(
        "takes it before it has it",
        Backend { data: "354 go\r\n250 taken\r\n", ..SOUND },
        &[250, 250, 354, 451],
        all,
        0,
    );
    check("closes at RCPT", Backend { rcpt: "", ..SOUND }, &[250, 451, 451], all, 0);
    check("closes at DATA", Backend { data: "", ..SOUND }, &[250, 250, 451], all, 0);
}

#[test]
fn what_was_asked_over_a_connection_that_is_gone_is_asked_again() {
    // It closes when the guard has given the connection to the next client already, or before: nobody notices.
    check("closes after each", Backend { lasts: 1, ..SOUND }, &[250, 250, 354, 250], &["MAIL RCPT DATA"], 2);
}

#[test]
fn replies_that_do_not_fit_together_do_not_stop_a_session() {
    // As much as is read at once behind message data; it makes more than twice the replies that are gathered.
    const COMMANDS: usize = 2500;
    let (backend, _) = SOUND.start();
    with_configured_guard(
        backend,
        |config| config.limits.junk_commands = 10_000,
        |guard| {
            let mut client = Client::connect(guard);
            client.code();
            client.say("EHLO client.example");
            client.write(ENVELOPE.as_bytes());
            assert_eq!([client.code(), client.code(), client.code()], [250, 250, 354]);
            client.write(&[b"x\r\n.\r\n", "NOOP\r\n".repeat(COMMANDS).as_bytes()].concat());
            for n in 0..=COMMANDS {
                assert_eq!(client.code(), 250, "reply {n}");
            }
            assert_eq!(client.say("QUIT"), 221);
        },
    );
}
