//! A backend that talks nonsense: whatever it says and whenever, the client hears 4xx, and 250 only for what was taken.
//! A fake, because no real server can be made to do this.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use crate::client::Client;
use crate::with_guard;

/// What the backend says: to the connection, to EHLO, to each command, and at the dot. An empty answer closes.
#[derive(Clone, Copy)]
struct Backend {
    greeting: &'static [u8],
    ehlo: &'static [u8],
    mail: &'static [u8],
    rcpt: &'static [u8],
    data: &'static [u8],
    dot: &'static [u8],
}

const SOUND: Backend = Backend {
    greeting: b"220 x\r\n",
    ehlo: b"250-x\r\n250 SIZE\r\n",
    mail: b"250 ok\r\n",
    rcpt: b"250 ok\r\n",
    data: b"354 go\r\n",
    dot: b"250 taken\r\n",
};

impl Backend {
    fn serve(self, mut stream: &TcpStream) -> std::io::Result<()> {
        stream.write_all(self.greeting)?;
        let mut lines = BufReader::new(stream.try_clone()?).lines();
        while let Some(line) = lines.next().transpose()? {
            let answer = match line.get(..4).unwrap_or_default() {
                "EHLO" => self.ehlo,
                "MAIL" => self.mail,
                "RCPT" => self.rcpt,
                "DATA" => {
                    stream.write_all(self.data)?;
                    if !self.data.starts_with(b"354") {
                        continue;
                    }
                    while lines.next().transpose()?.is_some_and(|line| line != ".") {}
                    self.dot
                }
                _ => b"250 ok\r\n",
            };
            if answer.is_empty() {
                return Ok(());
            }
            stream.write_all(answer)?;
        }
        Ok(())
    }
}

/// Sends one message past `backend` in each manner, with and without PIPELINING behind the guard; the client must hear these codes to
/// MAIL, RCPT, DATA and at the dot.
fn check(name: &str, backend: Backend, expected: [&str; 4]) {
    for ehlo in [SOUND.ehlo, b"250-x\r\n250-SIZE\r\n250 PIPELINING\r\n"] {
        with_guard(start(Backend { ehlo, ..backend }), |guard| {
            // By then the guard knows what it may ask ahead.
            std::thread::sleep(Duration::from_millis(300));
            for (manner, groups) in MANNERS {
                check_manner(&format!("{name}, {manner}, {}", ehlo.len()), &send(guard, groups), expected);
            }
        });
    }
}

/// `heard`: what came of one manner.
fn check_manner(name: &str, heard: &[String], expected: [&str; 4]) {
    let [mail, rcpt, data, dot] = expected;
    assert_eq!(heard[..2], [mail, rcpt], "{name}");
    if name.contains("chunks") {
        // Where DATA isn't answered by 354, both chunks hear why. What goes wrong behind the 354 the first one may hear already.
        let (taken, last) = if data == "354" { ("250", dot) } else { (data, data) };
        let first = if heard[2] == last { last } else { taken };
        assert_eq!(heard[2..], [first, last], "{name}");
    } else if heard.len() == 3 {
        // It has sent DATA with its envelope, and no data without 354.
        assert_eq!((heard[2].as_str(), data == "354"), (data, false), "{name}");
    } else {
        assert_eq!(heard[2..], [data, dot], "{name}");
    }
}

/// Starts a backend that takes everything.
pub(crate) fn start_sound() -> SocketAddr {
    start(SOUND)
}

/// One connection of it.
pub(crate) fn serve_sound(stream: &TcpStream) -> std::io::Result<()> {
    SOUND.serve(stream)
}

fn start(backend: Backend) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // A guard that hangs up on nonsense does what it should.
            std::thread::spawn(move || backend.serve(&stream));
        }
    });
    address
}

const ENVELOPE: [&str; 2] = ["MAIL FROM:<a@client.example>\r\n", "RCPT TO:<b@example.org>\r\n"];
const DATA: [&str; 2] = ["DATA\r\n", "Subject: x\r\n\r\n.\r\n"];
const CHUNKS: [&str; 2] = ["BDAT 14\r\nSubject: x\r\n\r\n", "BDAT 6 LAST\r\nRSET\r\n"];

/// What a client sends at once, until it has all answers: one line at a time, or as much as may be pipelined. Data that answers 354 is
/// left out by a client that pipelines, where there is none.
const MANNERS: [(&str, &[&[&str]]); 4] = [
    ("line by line", &[&[ENVELOPE[0]], &[ENVELOPE[1]], &[DATA[0]], &[DATA[1]]]),
    ("chunks", &[&[ENVELOPE[0]], &[ENVELOPE[1]], &[CHUNKS[0]], &[CHUNKS[1]]]),
    ("pipelined", &[&[ENVELOPE[0], ENVELOPE[1], DATA[0]], &[DATA[1]]]),
    ("chunks, pipelined", &[&[ENVELOPE[0], ENVELOPE[1], CHUNKS[0], CHUNKS[1]]]),
];

/// The codes that a client hears to MAIL, RCPT and the two parts of the message. One that sends line by line goes on as a client does that
/// looks at nothing.
fn send(guard: SocketAddr, groups: &[&[&str]]) -> Vec<String> {
    let mut client = Client::connect(guard);
    client.code();
    client.say("EHLO client.example");
    let mut heard: Vec<String> = Vec::new();
    for group in groups {
        if group[0] == DATA[1] && groups.len() == 2 && heard.last().is_some_and(|code| code != "354") {
            break;
        }
        client.write(group.concat().as_bytes());
        heard.extend(group.iter().map(|_| client.code().to_string()));
    }
    heard
}

#[test]
fn nonsense_is_deferred_and_never_taken_for_a_yes() {
    const LOST: [&str; 4] = ["451", "503", "503", "500"];
    static ENDLESS: [u8; 200_000] = [b'x'; 200_000];
    let table = [
        ("a sound one", SOUND, ["250", "250", "354", "250"]),
        ("no SMTP", Backend { greeting: b"\0\xffhello\r\n", ..SOUND }, LOST),
        ("turns us away", Backend { greeting: b"554 no\r\n", ..SOUND }, LOST),
        ("closes at MAIL", Backend { mail: b"", ..SOUND }, LOST),
        ("354 to MAIL", Backend { mail: b"354 go\r\n", ..SOUND }, LOST),
        ("a reply without end", Backend { mail: &ENDLESS, ..SOUND }, LOST),
        ("two codes in a reply", Backend { mail: b"250-a\r\n550 b\r\n", ..SOUND }, LOST),
        ("bare LF", Backend { mail: b"250 ok\n", ..SOUND }, LOST),
        ("refuses MAIL", Backend { mail: b"550 5.7.1 no\r\n", ..SOUND }, ["550", "503", "503", "500"]),
        ("421 at RCPT", Backend { rcpt: b"421 bye\r\n", ..SOUND }, ["250", "451", "451", "500"]),
        ("250 to DATA", Backend { data: b"250 ok\r\n", ..SOUND }, ["250", "250", "451", "500"]),
        (
            "takes it before it has it",
            Backend { data: b"354 go\r\n250 taken\r\n", ..SOUND },
            ["250", "250", "354", "451"],
        ),
        ("dies at the dot", Backend { dot: b"", ..SOUND }, ["250", "250", "354", "451"]),
        ("421 at the dot", Backend { dot: b"421 bye\r\n", ..SOUND }, ["250", "250", "354", "451"]),
        ("354 at the dot", Backend { dot: b"354 again\r\n", ..SOUND }, ["250", "250", "354", "451"]),
        ("two codes at the dot", Backend { dot: b"250-a\r\n550 b\r\n", ..SOUND }, ["250", "250", "354", "451"]),
        ("refuses at the dot", Backend { dot: b"550 5.7.1 spam\r\n", ..SOUND }, ["250", "250", "354", "550"]),
    ];
    for (name, backend, expected) in table {
        check(name, backend, expected);
    }
}
