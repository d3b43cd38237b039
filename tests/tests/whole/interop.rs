//! The guard between real programs: each server as the backend, each client in front of it.
//!
//! A [`Link`] says how client and backend are connected; logins are elsewhere. What is printed
//! (`interop ...: NAME VERSION ok`) is the table of docs/tested-with.md. Dovecot takes no mail from strangers but by LMTP, so it
//! is a backend behind Postfix.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may panic")]

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;
use std::process::Command;

use smtp_guard_tests::clients::{self, Mail};
use smtp_guard_tests::dovecot::Behind;
use smtp_guard_tests::guard::netkit;
use smtp_guard_tests::pki::{Pair, Pki};
use smtp_guard_tests::postfix::header;
use smtp_guard_tests::{
    Dovecot, Exim, Guard, Host, Opensmtpd, Postfix, Server, World, exim, run, two_at_a_time, wait_for,
};

/// How the guard is connected with its clients and with its backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Link {
    Plain,
    /// On both sides, and whoever can verifies the certificate.
    StartTls,
}

const LINKS: [Link; 2] = [Link::Plain, Link::StartTls];

/// The certificates of a test.
struct Certificates {
    pki: Pki,
    backend: Pair,
}

impl Link {
    fn certificates(self) -> Option<Certificates> {
        let pki = Pki::new();
        let backend = pki.issue("backend", &[World::BACKEND]);
        (self == Self::StartTls).then_some(Certificates { pki, backend })
    }
}

/// A guard for these certificates; without them it neither offers nor asks for TLS.
fn guard<'w>(world: &'w World, certificates: Option<&Certificates>) -> Guard<'w> {
    let profile = ("backend.profile", "\"generic\"");
    let Some(Certificates { pki, .. }) = certificates else {
        return Guard::start(world, &[profile, ("backend.tls", "\"off\"")]);
    };
    let own = pki.issue("guard", &["mx.example.org", World::EDGE_FOR_CLIENT]).guard();
    let ca = format!("\"{}\"", pki.ca().display());
    let settings = [("+", own.as_str()), profile, ("backend.tls", "\"verified\""), ("backend.tls_ca", &ca)];
    Guard::start(world, &settings)
}

/// How the guard notes the client and the protocol that it spoke.
fn assert_traced(name: &str, link: Link, message: &str) {
    let protocols = if link == Link::StartTls { &["ESMTPS"][..] } else { &["ESMTP", "SMTP"] };
    let by = |protocol: &&str| message.contains(&format!("by mx.example.org (smtp-guard) with {protocol} id"));
    assert!(message.contains("from client.example ([10.77.2.2])"), "{name}: {message}");
    assert!(protocols.iter().any(by), "{name} without {protocols:?}: {message}");
}

/// The guard, where the honest client reaches it.
fn server() -> String {
    format!("{}:25", World::EDGE_FOR_CLIENT)
}

/// A message with the Message-Id `id`.
fn message(id: &str, body: &str) -> String {
    format!(
        "From: a@client.example\nTo: alice@example.org\nSubject: interop\nMessage-Id: {id}\n\
         Date: Thu, 01 Jan 2026 00:00:00 +0000\nMIME-Version: 1.0\n\
         Content-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: 8bit\n\n{body}"
    )
}

/// A body that is easily damaged: dots at line starts, lines of the longest length (998 octets), 8-bit text, white space
/// at line ends, empty lines at both ends, an mbox separator.
fn delicate() -> String {
    let long = "x".repeat(994);
    format!("\n.\n..\n.a\n \ntrailing \t\nüml €\n{long}xx\u{fc}\n..{long}xx\n\nFrom here\nend\n\n")
}

/// Bodies, by name. What a server does to the last of them is its own affair: the guard must make no difference.
fn bodies() -> [(&'static str, String); 6] {
    [
        ("delicate", delicate()),
        ("empty", String::new()),
        ("dots", ".\n.\n..\n...\n".to_owned()),
        ("controls", "a\x01b\x07c\x1b[2J\x7f\x0b\x0c\n\tend\n".to_owned()),
        ("large", "A line of text, neither long nor short, but many of it.\n".repeat(4000)),
        ("overlong", format!("{}\n.{}\nend\n", "y".repeat(5000), "z".repeat(2500))),
    ]
}

/// The body of a message as it was delivered.
fn body_of(message: &str) -> String {
    message.replace("\r\n", "\n").split_once("\n\n").map(|(_, body)| body.to_owned()).unwrap_or_default()
}

fn offers_8bit(world: &World, host: Host, address: &str) -> bool {
    let replies = run(world.on(host, &netkit()).args(["dialogue", address]), "EHLO client.example\nQUIT").ok();
    replies.contains("8BITMIME")
}

/// The last line of the reply to RCPT, asked from `host` at `address`.
fn words_for(world: &World, host: Host, address: &str, recipient: &str) -> String {
    let dialogue = format!("EHLO client.example\nMAIL FROM:<a@client.example>\nRCPT TO:<{recipient}>\nQUIT");
    let replies = run(world.on(host, &netkit()).args(["dialogue", address]), &dialogue).ok();
    let last: Vec<_> = replies.lines().filter(|line| line.as_bytes().get(3) != Some(&b'-')).collect();
    last.get(3).unwrap_or_else(|| panic!("no reply to RCPT:\n{replies}")).to_string()
}

/// Starts a backend; with the certificate it offers STARTTLS.
type StartServer = fn(&World, Option<&Pair>) -> Box<dyn Server>;

/// The guard in front of a server: several messages in a session arrive once and whole, unknown recipients are refused
/// in the server's words.
fn check_backend(name: &str, start: StartServer, link: Link) {
    let world = World::new();
    let certificates = link.certificates();
    let backend = start(&world, certificates.as_ref().map(|certificates| &certificates.backend));
    let guard = guard(&world, certificates.as_ref());
    let ca = certificates.as_ref().map(|certificates| certificates.pki.ca());

    let direct = format!("{}:25", World::BACKEND);
    assert_eq!(
        offers_8bit(&world, Host::Client, &server()),
        offers_8bit(&world, Host::Edge, &direct),
        "{name}: 8BITMIME"
    );
    let id = |name: &str, way: &str| format!("<{name}.{way}@client.example>");
    let all = |way: &str| bodies().map(|(name, body)| message(&id(name, way), &body));
    clients::session(
        &world,
        Host::Client,
        &server(),
        ca.as_deref(),
        &["alice@example.org", "bob@example.org"],
        &all("guarded"),
    );
    clients::session(&world, Host::Edge, &direct, None, &["alice@example.org"], &all("direct"));
    let messages = backend.expect(3 * bodies().len());
    for (body, original) in bodies() {
        let found = |way: &str| -> Vec<&String> {
            messages.iter().filter(|message| header(message, "Message-Id").unwrap() == id(body, way)).collect()
        };
        let [untouched] = found("direct")[..] else { panic!("{name}: {body} without the guard") };
        let [one, other] = found("guarded")[..] else { panic!("{name}: {body}") };
        for message in [one, other] {
            assert_eq!(body_of(message), body_of(untouched), "{name}: {body}");
            assert_traced(name, link, message);
        }
        assert!(body == "overlong" || body_of(one) == original, "{name}: {body} is not what was sent\n{one}");
    }

    for recipient in ["nobody@example.org", "postmaster2@example.org"] {
        let unguarded = words_for(&world, Host::Edge, &direct, recipient);
        let guarded = words_for(&world, Host::Client, &server(), recipient);
        println!("interop unknown recipient: {name}: {unguarded} -> {guarded}");
        assert!(unguarded.starts_with('5'), "{name} accepts {recipient}: {unguarded}");
        assert_eq!(unguarded[..3], guarded[..3], "{name}");
        let words =
            |reply: &str| reply[3..].trim_start_matches([' ', '.', '0', '1', '2', '3', '4', '5', '7']).to_owned();
        assert_eq!(words(&unguarded), words(&guarded), "{name}");
    }
    assert_eq!(guard.metric("smtp_guard_messages_total{outcome=\"accepted\"}"), bodies().len() as f64, "{name}");
    println!("interop backend, {link:?}: {} ok", backend.version());
}

#[test]
#[ignore = "needs root and BPF"]
fn in_front_of_postfix() {
    for link in LINKS {
        check_backend(
            "Postfix",
            |world, tls| Box::new(Postfix::start(world, &tls.map(Pair::postfix).unwrap_or_default())),
            link,
        );
    }
}

#[test]
#[ignore = "needs root and BPF"]
fn in_front_of_exim() {
    for link in LINKS {
        check_backend("Exim", |world, tls| Box::new(Exim::start(world, &tls.map(exim::tls).unwrap_or_default())), link);
    }
}

#[test]
#[ignore = "needs root and BPF"]
fn in_front_of_opensmtpd() {
    // Without TLS: it has none that works (see there).
    check_backend("OpenSMTPD", |world, _| Box::new(Opensmtpd::start(world, "")), Link::Plain);
}

#[test]
#[ignore = "needs root and BPF"]
fn in_front_of_dovecot() {
    for link in LINKS {
        check_backend(
            "Dovecot",
            |world, tls| Box::new(Behind::start(world, &tls.map(Pair::postfix).unwrap_or_default())),
            link,
        );
    }
}

/// Sends a message to the recipients given there through the guard, with the client itself or by way of a server that
/// is returned: it ends when the message has arrived. With the authority over STARTTLS only. Returns the client's name
/// and version; `None`: it doesn't speak TLS.
type Send = fn(&World, Option<&Path>, &Mail) -> Option<(String, Option<Box<dyn Server>>)>;

const GUARD: &str = World::EDGE_FOR_CLIENT;

/// In front of the guard, each by its name.
const CLIENTS: [(&str, Send); 7] = [
    ("swaks", |world, ca, mail| {
        clients::swaks(world, mail, if ca.is_some() { &["--tls"] } else { &[] });
        Some((clients::version("swaks"), None))
    }),
    ("msmtp", |world, ca, mail| {
        let trust = ca.map(|ca| format!("--tls-trust-file={}", ca.display()));
        let tls = trust.as_ref().map_or(vec!["--tls=off"], |trust| vec!["--tls=on", "--tls-starttls=on", trust]);
        clients::msmtp(world, mail, &[&["--auth=off"], &tls[..]].concat());
        Some((clients::version("msmtp"), None))
    }),
    ("smtplib", |world, ca, mail| {
        clients::smtplib(world, mail, ca);
        Some((format!("{} smtplib", clients::version(clients::PYTHON)), None))
    }),
    ("smtp-source", |world, ca, mail| {
        if ca.is_some() {
            return None;
        }
        clients::smtp_source(world, mail, &[]);
        let postfix = run(Command::new("postconf").args(["-h", "mail_version"]), "").ok();
        Some((format!("smtp-source of Postfix {}", postfix.trim()), None))
    }),
    ("Postfix", |world, ca, mail| {
        let tls = if ca.is_some() { "smtp_tls_security_level = encrypt\n" } else { "" };
        relayed(world, mail, Box::new(Postfix::client(world, GUARD, tls)))
    }),
    ("Exim", |world, ca, mail| {
        let tls = if ca.is_some() { exim::REQUIRE_TLS } else { "" };
        relayed(world, mail, Box::new(Exim::client(world, GUARD, tls)))
    }),
    // It takes what is offered.
    ("OpenSMTPD", |world, _, mail| relayed(world, mail, Box::new(Opensmtpd::client(world, GUARD, "")))),
];

/// Hands `mail` to a server on the client's host, which sends it on.
fn relayed(world: &World, mail: &Mail, client: Box<dyn Server>) -> Option<(String, Option<Box<dyn Server>>)> {
    clients::smtplib(world, &Mail { server: "127.0.0.1:25", ..*mail }, None);
    Some((client.version(), Some(client)))
}

/// A client delivers through the guard to Postfix: two more messages arrive, whole.
fn check_client(world: &World, postfix: &Postfix, name: &str, send: Send, link: Link, ca: Option<&Path>) {
    let id = format!("<{name}@client.example>");
    let message = message(&id, &delicate());
    let mail = Mail { server: &server(), recipients: &["alice@example.org", "carol@example.org"], message: &message };
    let before = postfix.messages().len();
    let Some((version, client)) = send(world, ca, &mail) else {
        return;
    };
    let messages = postfix.expect(before + 2);
    let these: Vec<_> = messages.into_iter().filter(|message| message.contains(&id)).collect();
    assert_eq!(these.len(), 2, "{name}");
    for message in &these {
        assert_eq!(body_of(message), delicate(), "{name} changed\n{message}");
        assert_traced(name, link, message);
    }
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
        let certificates = link.certificates();
        let tls = certificates.as_ref().map(|certificates| certificates.backend.postfix());
        let postfix = Postfix::start(&world, &tls.unwrap_or_default());
        let guard = guard(&world, certificates.as_ref());
        let ca = certificates.as_ref().map(|certificates| certificates.pki.ca());
        for (name, send) in CLIENTS {
            check_client(&world, &postfix, name, send, link, ca.as_deref());
        }
        assert_eq!(guard.metric("smtp_guard_messages_total{outcome=\"ambiguous\"}"), 0.0);
    }
}

/// A server that is told the client's address as `identity` says: it notes it, or the guard doesn't use it.
fn check_identity(name: &str, start: fn(&World) -> Box<dyn Server>, identity: &str, told: bool) {
    let world = World::new();
    let backend = start(&world);
    let word = format!("\"{identity}\"");
    let mut guard = Guard::configured(&world, &[("backend.profile", "\"generic\""), ("backend.identity", &word)]);
    guard.command(&["edge", "load"]).ok();
    if !told {
        guard.run_without_backend();
        let refused = words_for(&world, Host::Client, &server(), "alice@example.org");
        // To RCPT: MAIL was refused.
        assert!(refused.starts_with("503"), "{name}, {identity}: {refused}");
        let complaint = || guard.log().contains("choose another backend.identity").then_some(());
        wait_for("the complaint", complaint, || guard.log());
        assert_eq!(backend.mailboxes().messages().len(), 0, "{name}, {identity}");
        println!("interop identity {identity}, not understood: {} ok", backend.version());
        return;
    }
    guard.run();
    let message = message("<identity@client.example>", "text\n");
    let mail = Mail { server: &server(), recipients: &["alice@example.org"], message: &message };
    clients::smtplib(&world, &mail, None);
    let received = header(&backend.expect(1)[0], "Received").unwrap();
    assert!(received.contains("10.77.2.2"), "{name}, {identity}: {received}");
    assert!(!received.contains("10.77.3.1"), "{name}, {identity}: {received}");
    println!("interop identity {identity}: {} ok", backend.version());
}

#[test]
#[ignore = "needs root and BPF"]
fn backends_learn_who_the_client_is_or_get_no_mail() {
    const EXIM_PROXY: StartAny = |world| Box::new(Exim::start(world, "hosts_proxy = 10.77.3.1"));
    const EXIM: StartAny = |world| Box::new(Exim::start(world, ""));
    const OPENSMTPD_PROXY: StartAny = |world| Box::new(Opensmtpd::start(world, "proxy-v2"));
    const OPENSMTPD: StartAny = |world| Box::new(Opensmtpd::start(world, ""));
    let table = [
        ("Exim", EXIM_PROXY, "proxy-v1", true),
        ("Exim", EXIM_PROXY, "proxy-v2", true),
        ("OpenSMTPD", OPENSMTPD_PROXY, "proxy-v2", true),
        ("Exim", EXIM, "proxy-v1", false),
        ("Exim", EXIM, "proxy-v2", false),
        ("Exim", EXIM, "xclient", false),
        ("OpenSMTPD", OPENSMTPD, "proxy-v1", false),
        ("OpenSMTPD", OPENSMTPD, "proxy-v2", false),
        ("OpenSMTPD", OPENSMTPD, "xclient", false),
    ];
    two_at_a_time(&table, |(name, start, identity, told)| check_identity(name, *start, identity, *told));
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
            // As a panic, but without its words on standard error.
            resume_unwind(Box::new(format!("on purpose: {}", server.version())));
        }));
        let said = panicked.unwrap_err().downcast::<String>().unwrap();
        assert!(said.starts_with("on purpose"), "{said}");
        assert_eq!(world.programs(host), Vec::<String>::new(), "{said}");
        let folder = folder.unwrap();
        assert!(!folder.parent().unwrap().exists(), "{said}: {}", folder.display());
    }
}
