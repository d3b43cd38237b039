//! Messages in chunks (BDAT, RFC 3030) through the guard to a real Postfix and a real Exim: from Exim, which sends them so by
//! itself, and from an attacker.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may panic")]

use smtp_guard_tests::clients::{self, Mail, PYTHON};
use smtp_guard_tests::postfix::header;
use smtp_guard_tests::{Exim, Guard, Host, Postfix, Server, World, run, wait_for};

/// Sends EHLO and, after its answer, standard input: what stands before a record separator after the reply to what stands
/// before that. Prints the replies.
const SCRIPT: &str = "
import socket, sys
host, port = sys.argv[1].rsplit(':', 1)
stream = socket.create_connection((host, int(port)), 10)
replies = stream.makefile('rb')
def heard():
    while True:
        line = replies.readline()
        if not line:
            sys.exit()
        if line[3:4] != b'-':
            return line
heard()
stream.sendall(b'EHLO client.example\\r\\n')
heard()
first, *rest = sys.stdin.buffer.read().split(b'\\x1e')
stream.sendall(first)
for part in rest:
    sys.stdout.buffer.write(heard())
    stream.sendall(part)
while True:
    sys.stdout.buffer.write(heard())
";

/// The replies to `bytes`, sent from `host` to `server`.
fn send(world: &World, host: Host, server: &str, bytes: &str) -> Vec<String> {
    let output = run(world.on(host, PYTHON).args(["-c", SCRIPT, server]), bytes).ok();
    output.lines().map(str::to_owned).collect()
}

fn guarded() -> String {
    format!("{}:25", World::EDGE_FOR_CLIENT)
}

const ENVELOPE: &str = "MAIL FROM:<a@client.example>\r\nRCPT TO:<alice@example.org>\r\n";

/// The chunks of a message.
fn chunks(pieces: &[&str]) -> String {
    let last = pieces.len() - 1;
    let line = |index| if index == last { " LAST" } else { "" };
    pieces.iter().enumerate().map(|(index, piece)| format!("BDAT {}{}\r\n{piece}", piece.len(), line(index))).collect()
}

fn body_of(message: &str) -> String {
    message.replace("\r\n", "\n").split_once("\n\n").map(|(_, body)| body.to_owned()).unwrap_or_default()
}

type Start = fn(&World) -> Box<dyn Server>;

const BACKENDS: [(&str, Start); 2] =
    [("Postfix", |world| Box::new(Postfix::start(world, ""))), ("Exim", |world| Box::new(Exim::start(world, "")))];

#[test]
#[ignore = "needs root and BPF"]
fn exim_delivers_in_chunks() {
    for (name, start) in BACKENDS {
        let world = World::new();
        let backend = start(&world);
        let guard = Guard::start(&world, &[("backend.profile", "\"generic\"")]);
        let client = Exim::client(&world, World::EDGE_FOR_CLIENT, "");
        let large = "A line of text, neither long nor short, but many of it.\n..dots\n.\n".repeat(4000);
        for (n, body) in [large.as_str(), "\n.\n..\n.a\ntrailing \t\n\nend\n\n"].into_iter().enumerate() {
            let id = format!("<{n}@client.example>");
            let message =
                format!("From: a@client.example\nTo: alice@example.org\nSubject: x\nMessage-Id: {id}\n\n{body}");
            let mail = Mail {
                server: "127.0.0.1:25",
                recipients: &["alice@example.org", "bob@example.org"],
                message: &message,
            };
            clients::smtplib(&world, &mail, None);
            let messages = backend.expect(2 * (n + 1));
            let these: Vec<_> = messages.iter().filter(|message| message.contains(&id)).collect();
            assert_eq!(these.len(), 2, "{name}");
            for message in these {
                assert_eq!(body_of(message), body, "{name}");
            }
        }
        let sent = || (client.queued() == 0).then_some(());
        wait_for("Exim knows that it was delivered", sent, || client.log());
        // K: CHUNKING was used.
        let log = client.log();
        let delivered: Vec<_> = log.lines().filter(|line| line.contains(" => ") || line.contains(" -> ")).collect();
        assert!(delivered.len() == 4 && delivered.iter().all(|line| line.contains(" K ")), "{name}: {delivered:#?}");
        assert_eq!(guard.metric("smtp_guard_messages_total{outcome=\"accepted\"}"), 2.0, "{name}");
        println!("chunks: {} through the guard to {} ok", client.version(), backend.version());
    }
}

#[test]
#[ignore = "needs root and BPF"]
fn chunks_arrive_as_they_would_without_the_guard() {
    let table: [(&str, &[&str]); 7] = [
        ("whole", &["Subject: x\r\n\r\ntext\r\n"]),
        ("cut anywhere", &["Subject: x\r", "\n\r\n.", "\r\n..\r", "\n", "text\r\n", ""]),
        ("no end of the last line", &["Subject: x\r\n\r\ntext"]),
        // Not in headers: there Exim takes it for white space.
        ("bare LF", &["Subject: x\r\n\r\nline\nline\n"]),
        ("an end for whoever is lax", &["Subject: x\r\n\r\ntext\n.\nMAIL FROM:<evil@x>\nDATA\n"]),
        ("an end", &["Subject: x\r\n\r\ntext\r\n.\r\nMAIL FROM:<evil@x>\r\nDATA\r\n"]),
        ("empty lines", &["Subject: x\r\n\r\n\n\n", "\n.\n", "\n"]),
    ];
    for (name, start) in BACKENDS {
        let world = World::new();
        let backend = start(&world);
        let guard = Guard::start(&world, &[("backend.profile", "\"generic\"")]);
        let direct = format!("{}:25", World::BACKEND);
        for (n, (what, pieces)) in table.iter().enumerate() {
            let mut bodies = Vec::new();
            for (way, (host, server)) in [("direct", (Host::Edge, &direct)), ("guarded", (Host::Client, &guarded()))] {
                let id = format!("X-Way: {way}.{n}\r\n");
                let with_id = format!("{id}{}", pieces[0]);
                let pieces = [&[with_id.as_str()], &pieces[1..]].concat();
                // Exim wants its answers heard before the next command.
                let commands = format!("{ENVELOPE}{}NOOP\r\nQUIT\r\n", chunks(&pieces));
                let commands = ["RCPT", "BDAT", "NOOP", "QUIT"]
                    .iter()
                    .fold(commands, |text, verb| text.replace(verb, &format!("\x1e{verb}")));
                let replies = send(&world, host, server, &commands);
                let codes: Vec<_> = replies.iter().map(|reply| &reply[..3]).collect();
                let expected = [&["250"].repeat(3 + pieces.len())[..], &["221"]].concat();
                assert_eq!(codes, expected, "{name}, {way}: {what}: {replies:#?}");
                let messages = backend.expect(2 * n + bodies.len() + 1);
                let found: Vec<_> = messages.iter().filter(|message| message.contains(id.trim())).collect();
                let [message] = found[..] else { panic!("{name}, {way}: {what}: {found:#?}") };
                assert_eq!(header(message, "Subject").as_deref(), Some("x"), "{name}, {way}: {what}: {message}");
                bodies.push(body_of(message));
            }
            assert_eq!(bodies[0], bodies[1], "{name}: {what}");
        }
        assert!(!backend.log().contains("evil"), "{name}: {}", backend.log());
        assert_eq!(guard.metric("smtp_guard_messages_total{outcome=\"accepted\"}"), 7.0, "{name}");
    }
}

#[test]
#[ignore = "needs root and BPF"]
fn no_byte_of_a_refused_chunk_is_a_command() {
    const EVIL: &str = "MAIL FROM:<evil@x>\r\nRCPT TO:<bob@example.org>\r\nDATA\r\nevil\r\n.\r\nBDAT 3 LAST\r\n";
    let world = World::new();
    let postfix = Postfix::start(&world, "");
    let changes = [("limits.message_size", "\"1KiB\""), ("harvest.delay", "\"0s\"")];
    let guard = Guard::start(&world, &changes);
    let evil = |text: &str| text.replace("EVIL", &chunks(&[EVIL])).replace("ENVELOPE", ENVELOPE);
    let big = "x".repeat(1200);
    let table = [
        ("before MAIL", evil("EVILNOOP\r\nQUIT\r\n"), "503 250 221"),
        ("without a recipient", evil("MAIL FROM:<>\r\nEVILNOOP\r\nQUIT\r\n"), "250 554 250 221"),
        (
            "for nobody who exists",
            evil("MAIL FROM:<>\r\nRCPT TO:<nobody@example.org>\r\nEVILNOOP\r\nQUIT\r\n"),
            "250 550 554 250 221",
        ),
        ("behind RSET", evil("ENVELOPEBDAT 1\r\naRSET\r\nEVILNOOP\r\nQUIT\r\n"), "250 250 250 250 503 250 221"),
        ("behind a NUL", evil("ENVELOPEBDAT 1\r\n\0EVILNOOP\r\nQUIT\r\n"), "250 250 550 550 250 221"),
        ("too large", evil(&format!("ENVELOPE{}EVILNOOP\r\nQUIT\r\n", chunks(&[&big]))), "250 250 552 503 250 221"),
        ("far too large", evil("ENVELOPEBDAT 9999999999999 LAST\r\nEVIL"), "250 250 552"),
        ("no length", evil("ENVELOPEBDAT +3 LAST\r\nEVIL"), "250 250 501"),
        ("a bare LF behind it", evil("ENVELOPEBDAT 300 LAST\nEVIL"), "250 250 501"),
    ];
    for (name, bytes, expected) in table {
        let replies = send(&world, Host::Client, &guarded(), &bytes);
        let codes: Vec<_> = replies.iter().map(|reply| &reply[..3]).collect();
        assert!(codes.join(" ").starts_with(expected), "{name}: {replies:#?}");
    }
    let taken =
        send(&world, Host::Client, &guarded(), &format!("{ENVELOPE}{}QUIT\r\n", chunks(&["Subject: x\r\n\r\n", EVIL])));
    assert_eq!(taken.len(), 5, "{taken:#?}");
    assert_eq!(body_of(&postfix.expect(1)[0]).trim_end(), EVIL.replace("\r\n", "\n").trim_end());
    assert!(!postfix.log().contains("evil"), "{}", postfix.log());
    assert_eq!(guard.metric("smtp_guard_messages_total{outcome=\"accepted\"}"), 1.0);
}
