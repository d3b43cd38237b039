//! The guard between real programs: each server as the backend, each client in front of it.
//!
//! Without TLS and logins so far; a [`Link`] says how client and backend are connected. What is printed
//! (`interop ...: NAME VERSION ok`) is the table of the README. Dovecot takes no mail from strangers but by LMTP, so it
//! is a backend behind Postfix.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may panic")]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::Command;

use smtp_guard_tests::clients::{self, Mail};
use smtp_guard_tests::dovecot::Behind;
use smtp_guard_tests::guard::netkit;
use smtp_guard_tests::{Dovecot, Exim, Guard, Host, Opensmtpd, Postfix, Server, World, run, wait_for};

/// How the guard is connected with its clients and its backend. STARTTLS on either side will be further ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Link {
    Plain,
}

const LINKS: [Link; 1] = [Link::Plain];

impl Link {
    /// The guard's settings.
    fn guard(self) -> Vec<(&'static str, &'static str)> {
        match self {
            Self::Plain => vec![("backend.profile", "\"generic\"")],
        }
    }
}

/// The guard, where the honest client reaches it.
fn server() -> String {
    format!("{}:25", World::EDGE_FOR_CLIENT)
}

/// A message that is easily damaged: dots at line starts, a line of nearly the longest length, 8-bit text, white space at
/// line ends, empty lines at both ends. `NUMBER` is filled in.
fn message() -> String {
    let header = "\
                  From: a@client.example\nTo: alice@example.org\nSubject: interop\nMessage-Id: <NUMBER@client.example>\n\
                  Date: Thu, 01 Jan 2026 00:00:00 +0000\nMIME-Version: 1.0\n\
                  Content-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: 8bit\n";
    format!("{header}\n{}", body())
}

fn body() -> String {
    format!("\n.\n..\n.a\n \ntrailing \t\nüml €\n{}ü\n\nFrom here\nend\n\n", "x".repeat(990))
}

/// The body of a message as it was delivered.
fn body_of(message: &str) -> String {
    message.replace("\r\n", "\n").split_once("\n\n").map(|(_, body)| body.to_owned()).unwrap_or_default()
}

fn assert_whole(name: &str, messages: &[String]) {
    for message in messages {
        assert_eq!(body_of(message), body(), "{name} changed\n{message}");
    }
}

/// The last line of the reply to RCPT, asked from `host` at `address`.
fn words_for(world: &World, host: Host, address: &str, recipient: &str) -> String {
    let dialogue = format!("EHLO client.example\nMAIL FROM:<a@client.example>\nRCPT TO:<{recipient}>\nQUIT");
    let replies = run(world.on(host, &netkit()).args(["dialogue", address]), &dialogue).ok();
    let last: Vec<_> = replies.lines().filter(|line| line.as_bytes().get(3) != Some(&b'-')).collect();
    last.get(3).unwrap_or_else(|| panic!("no reply to RCPT:\n{replies}")).to_string()
}

type StartServer = fn(&World, Link) -> Box<dyn Server>;

/// The guard in front of a server: several messages in a session arrive once and whole, unknown recipients are refused
/// in the server's words.
fn check_backend(name: &str, start: StartServer, link: Link) {
    let world = World::new();
    let backend = start(&world, link);
    let guard = Guard::start(&world, &link.guard());

    let mail = Mail { server: &server(), recipients: &["alice@example.org", "bob@example.org"], message: &message() };
    clients::smtplib(&world, &mail, 3);
    let messages = backend.expect(6);
    assert_whole(name, &messages);
    let received =
        |message: &String| message.contains("from client.example ([10.77.2.2])\n\tby mx.example.org (smtp-guard)");
    assert!(messages.iter().all(received), "the guard's Received header is missing\n{}", messages[0]);

    for recipient in ["nobody@example.org", "postmaster2@example.org"] {
        let direct = words_for(&world, Host::Edge, &format!("{}:25", World::BACKEND), recipient);
        let guarded = words_for(&world, Host::Client, &server(), recipient);
        println!("interop unknown recipient: {name}: {direct} -> {guarded}");
        assert!(direct.starts_with('5'), "{name} accepts {recipient}: {direct}");
        assert_eq!(direct[..3], guarded[..3], "{name}");
        let words =
            |reply: &str| reply[3..].trim_start_matches([' ', '.', '0', '1', '2', '3', '4', '5', '7']).to_owned();
        assert_eq!(words(&direct), words(&guarded), "{name}");
    }
    assert_eq!(guard.metric("smtp_guard_messages_total{outcome=\"accepted\"}"), 3.0, "{name}");
    println!("interop backend, {link:?}: {} ok", backend.version());
}

#[test]
#[ignore = "needs root and BPF"]
fn in_front_of_postfix() {
    for link in LINKS {
        check_backend("Postfix", |world, _| Box::new(Postfix::start(world, "")), link);
    }
}

#[test]
#[ignore = "needs root and BPF"]
fn in_front_of_exim() {
    for link in LINKS {
        check_backend("Exim", |world, _| Box::new(Exim::start(world, "")), link);
    }
}

#[test]
#[ignore = "needs root and BPF"]
fn in_front_of_opensmtpd() {
    for link in LINKS {
        check_backend("OpenSMTPD", |world, _| Box::new(Opensmtpd::start(world, "")), link);
    }
}

#[test]
#[ignore = "needs root and BPF"]
fn in_front_of_dovecot() {
    for link in LINKS {
        check_backend("Dovecot", |world, _| Box::new(Behind::start(world, "")), link);
    }
}

/// Sends a message to the recipients given there through the guard, with the client itself or by way of a server that
/// is returned: it ends when the message has arrived. With it the client's name and version.
type Send = fn(&World, Link, &Mail) -> (String, Option<Box<dyn Server>>);

/// In front of the guard, each by its name.
const CLIENTS: [(&str, Send); 7] = [
    ("swaks", |world, _, mail| {
        clients::swaks(world, mail, &[]);
        (clients::version("swaks"), None)
    }),
    ("msmtp", |world, _, mail| {
        clients::msmtp(world, mail, &["--auth=off", "--tls=off"]);
        (clients::version("msmtp"), None)
    }),
    ("smtplib", |world, _, mail| {
        clients::smtplib(world, mail, 1);
        (format!("{} smtplib", clients::version(clients::PYTHON)), None)
    }),
    ("smtp-source", |world, _, mail| {
        clients::smtp_source(world, mail, &[]);
        let postfix = run(Command::new("postconf").args(["-h", "mail_version"]), "").ok();
        (format!("smtp-source of Postfix {}", postfix.trim()), None)
    }),
    ("Postfix", |world, _, mail| relayed(world, mail, Box::new(Postfix::client(world, World::EDGE_FOR_CLIENT, "")))),
    ("Exim", |world, _, mail| relayed(world, mail, Box::new(Exim::client(world, World::EDGE_FOR_CLIENT, "")))),
    ("OpenSMTPD", |world, _, mail| {
        relayed(world, mail, Box::new(Opensmtpd::client(world, World::EDGE_FOR_CLIENT, "")))
    }),
];

/// Hands `mail` to a server on the client's host, which sends it on.
fn relayed(world: &World, mail: &Mail, client: Box<dyn Server>) -> (String, Option<Box<dyn Server>>) {
    clients::smtplib(world, &Mail { server: "127.0.0.1:25", ..*mail }, 1);
    (client.version(), Some(client))
}

/// A client delivers through the guard to Postfix, which so far has `before` messages: two more arrive, whole.
fn check_client(world: &World, postfix: &Postfix, name: &str, send: Send, link: Link, before: usize) {
    let id = format!("<{name}.{link:?}@client.example>");
    let message = message().replace("<NUMBER@client.example>", &id);
    let mail = Mail { server: &server(), recipients: &["alice@example.org", "carol@example.org"], message: &message };
    let (version, client) = send(world, link, &mail);
    let messages = postfix.expect(before + 2);
    let these: Vec<_> = messages.into_iter().filter(|message| message.contains(&id)).collect();
    assert_eq!(these.len(), 2, "{name}");
    assert_whole(name, &these);
    if let Some(client) = client {
        let sent = || (client.queued() == 0).then_some(());
        wait_for(&format!("{name} knows that it was delivered"), sent, || client.log());
    }
    println!("interop client, {link:?}: {version} ok");
}

#[test]
#[ignore = "needs root and BPF"]
fn behind_each_client() {
    for link in LINKS {
        let world = World::new();
        let postfix = Postfix::start(&world, "");
        let guard = Guard::start(&world, &link.guard());
        for (index, (name, send)) in CLIENTS.into_iter().enumerate() {
            check_client(&world, &postfix, name, send, link, 2 * index);
        }
        assert_eq!(guard.metric("smtp_guard_messages_total{outcome=\"ambiguous\"}"), 0.0);
    }
}

/// What a server is started as, on the host where it runs.
type StartAny = fn(&World) -> Box<dyn Server>;

#[test]
#[ignore = "needs root and BPF"]
fn servers_leave_nothing_behind_when_a_test_panics() {
    let table: [(Host, StartAny); 7] = [
        (Host::Backend, |world| Box::new(Postfix::start(world, ""))),
        (Host::Backend, |world| Box::new(Exim::start(world, ""))),
        (Host::Backend, |world| Box::new(Opensmtpd::start(world, ""))),
        (Host::Backend, |world| Box::new(Dovecot::start(world, ""))),
        (Host::Client, |world| Box::new(Postfix::client(world, World::EDGE_FOR_CLIENT, ""))),
        (Host::Client, |world| Box::new(Exim::client(world, World::EDGE_FOR_CLIENT, ""))),
        (Host::Client, |world| Box::new(Opensmtpd::client(world, World::EDGE_FOR_CLIENT, ""))),
    ];
    for (host, start) in table {
        let world = World::new();
        let mut folder = None;
        let panicked = catch_unwind(AssertUnwindSafe(|| {
            let server = start(&world);
            assert!(!world.programs(host).is_empty());
            folder = Some(server.mailboxes().folder().to_path_buf());
            panic!("on purpose: {}", server.version());
        }));
        let said = panicked.unwrap_err().downcast::<String>().unwrap();
        assert!(said.starts_with("on purpose"), "{said}");
        assert_eq!(world.programs(host), Vec::<String>::new(), "{said}");
        let folder = folder.unwrap();
        assert!(!folder.parent().unwrap().exists(), "{said}: {}", folder.display());
    }
}
