//! Keys whose effect takes a guard of its own to be seen, and mostly somebody beside it: a backend, a resolver or a Dovecot that
//! does as its row says.
//!
//! A session that began before the reload is the control where a key bounds a wait: it keeps the earlier value, and so hears
//! nothing yet.

use std::collections::VecDeque;
use std::io::{BufRead as _, BufReader, ErrorKind, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use serde_json::Value as Json;
use toml::{Table, Value};

use super::{Dialogue, World, certificate, list, ms, text};
use crate::webhook::{self, Receiver};
use crate::{Guard, PATIENCE, connect, long};

/// A key, and what shows that it changed while the guard ran.
type Row = (&'static str, fn(&mut Stage));

pub(super) const ROWS: &[Row] = &[
    ("drain", drain),
    ("backend.profile", profile),
    ("backend.connect_timeout", connect_timeout),
    ("auth.via", via),
    ("auth.dovecot_socket", dovecot_socket),
    ("auth.failures", failures),
    ("auth.failure_window", failure_window),
    ("auth.ban", ban),
    ("limits.session_time", session_time),
    ("harvest.window", harvest_window),
    ("harvest.ban_max", ban_max),
    ("checks.dnsbl_threshold", dnsbl_threshold),
    ("checks.success_notices", success_notices),
    ("dns.timeout", dns_timeout),
    ("events.webhook", webhook_url),
    ("events.secret_file", webhook_secret),
    ("events.tls_ca", webhook_authority),
    ("events.kinds", webhook_kinds),
    ("events.timeout", webhook_timeout),
];

#[test]
fn keys_that_are_seen_from_outside_only_with_somebody_beside_the_guard() {
    thread::scope(|scope| {
        let check = |(key, show): &Row| {
            let mut stage = Stage { world: World::new(""), key, changed: false };
            show(&mut stage);
            assert!(stage.changed, "{key} was changed");
        };
        // Side by side: most of them wait for something.
        let rows: Vec<_> = ROWS.iter().map(|row| (row.0, scope.spawn(move || check(row)))).collect();
        let failed: Vec<_> = rows.into_iter().filter_map(|(key, row)| row.join().is_err().then_some(key)).collect();
        assert_eq!(failed, [""; 0]);
    });
}

/// A guard, and the key that a row is about.
pub(super) struct Stage {
    world: World,
    key: &'static str,
    changed: bool,
}

impl Stage {
    /// What stands in the file before the key changes.
    fn begin(&mut self, keys: &[(&str, Value)]) {
        keys.iter().for_each(|(key, value)| self.world.set(key, Some(value.clone())));
        self.world.reload();
    }

    /// The key gets another value, and nothing else does.
    fn change(&mut self, value: Value) {
        self.world.set(self.key, Some(value));
        assert_eq!(self.world.reload(), [self.key]);
        self.changed = true;
    }

    fn open(&self) -> Dialogue {
        let mut dialogue = Dialogue::open(self.world.guard.address);
        dialogue.hear();
        dialogue
    }

    /// Waits until `seen` is what `of` makes of an answer to `words`, which is what somebody decided in a task of its own.
    fn wait_for<T: PartialEq + std::fmt::Debug>(&mut self, words: &[&str], of: impl Fn(&Json) -> T, seen: &T) {
        let World { directory, guard, .. } = &mut self.world;
        let config = directory.path().join("smtp-guard.toml");
        guard.wait(&format!("{}: {words:?} says {seen:?}", self.key), || {
            let output = std::process::Command::new(crate::BINARY).args(words).arg("--config").arg(&config).output();
            of(&serde_json::from_slice(&output.unwrap().stdout).unwrap()) == *seen
        });
    }

    /// Waits until what the ledger says of `source` has `seen` in `field`. A source that it doesn't know has none of anything.
    fn counted(&mut self, source: &str, field: &str, seen: u64) {
        let of = |told: &Json| told["ledger"][field].as_u64().unwrap_or(0);
        self.wait_for(&["explain", source, "--json"], of, &seen);
    }

    /// Waits until there is one ban, which lasts so many milliseconds; or none.
    fn banned(&mut self, length: Option<i64>) {
        let of = |told: &Json| {
            let ban = told["decisions"].get(0)?;
            Some(ms(&ban["until"]) - ms(&ban["made"]))
        };
        self.wait_for(&["decisions", "list", "--json"], of, &length);
    }
}

/// Whom a balancer brings.
const STRANGER: &str = "203.0.113.7";
const MAIL: [&str; 2] = ["HELO c", "MAIL FROM:<a@b.example>"];

/// More than anybody waits here.
fn never() -> Value {
    text("5m")
}

impl<S: std::io::Read + std::io::Write> Dialogue<S> {
    /// Says all of `said`; the answer to the last of it.
    fn all<'a>(&mut self, said: impl IntoIterator<Item = &'a str>) -> String {
        said.into_iter().map(|line| self.say(line)).last().unwrap()
    }
}

impl Dialogue {
    /// Says `line` and waits for nothing.
    fn begin(&mut self, line: &str) {
        self.0.get_mut().write_all(format!("{line}\r\n").as_bytes()).unwrap();
    }

    /// Whether nothing was said, and the connection stands.
    fn waits(&mut self) -> bool {
        self.0.get_mut().set_nonblocking(true).unwrap();
        let peeked = self.0.get_mut().peek(&mut [0]);
        matches!(peeked, Err(error) if error.kind() == ErrorKind::WouldBlock)
    }
}

fn drain(stage: &mut Stage) {
    stage.begin(&[("drain", never())]);
    let mut under_way = stage.open();
    assert!(under_way.all(MAIL).starts_with("250"));
    stage.change(text("0s"));
    std::mem::replace(&mut stage.world.guard, Guard::nobody()).ends();
}

fn profile(stage: &mut Stage) {
    let refuse = |line: &str| if line.starts_with("RCPT") { "550 Unrouteable address" } else { "250 ok" };
    let (address, _) = server(refuse);
    stage.begin(&[("backend.servers", list(&[&address.to_string()])), ("harvest.delay", text("0s"))]);
    let ask = |stage: &Stage, name: &str| {
        let asked = format!("RCPT TO:<{name}@example.org>");
        assert!(stage.open().all(MAIL.into_iter().chain([asked.as_str()])).starts_with("550"));
    };
    ask(stage, "one");
    stage.change(text("exim"));
    ask(stage, "two");
    // Reports come in the order in which they were made: the first would be there.
    stage.wait_for(
        &["explain", "127.0.0.1", "--json"],
        |told| told["ledger"]["sample"].as_array().is_some_and(|sample| !sample.is_empty()),
        &true,
    );
    stage.counted("127.0.0.1", "unknown_recipients", 1);
}

fn connect_timeout(stage: &mut Stage) {
    // One that is asked and doesn't answer, as its queue is full.
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    socket.listen(0).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    let fill = || TcpStream::connect_timeout(&address, Duration::from_millis(50)).ok();
    let _full: Vec<_> = std::iter::from_fn(fill).collect();
    stage.begin(&[("backend.servers", list(&[&address.to_string()])), ("backend.connect_timeout", never())]);
    let mut early = stage.open();
    early.say("HELO c");
    early.begin(MAIL[1]);
    stage.change(text("100ms"));
    assert!(stage.open().all(MAIL).starts_with("451"));
    assert!(early.waits(), "it began with five minutes");
}

/// A backend that says what `answer` makes of each line, but for the greeting; and what it has heard.
fn server(answer: fn(&str) -> &'static str) -> (SocketAddr, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (address, heard) = (listener.local_addr().unwrap(), Arc::<Mutex<Vec<_>>>::default());
    let kept = Arc::clone(&heard);
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let kept = Arc::clone(&kept);
            thread::spawn(move || {
                let lines = BufReader::new(stream.try_clone().unwrap()).lines();
                let mut gone = stream.write_all(b"220 x\r\n").is_err();
                for line in lines.map_while(Result::ok) {
                    gone = gone || stream.write_all(format!("{}\r\n", answer(&line)).as_bytes()).is_err();
                    kept.lock().unwrap().push(line);
                    if gone {
                        break;
                    }
                }
            });
        }
    });
    (address, heard)
}

/// A Dovecot at `path` that answers each attempt with `answer`: how many it has heard.
fn dovecot(path: &Path, answer: &'static str) -> Arc<Mutex<usize>> {
    let (listener, attempts) = (UnixListener::bind(path).unwrap(), Arc::<Mutex<usize>>::default());
    let counting = Arc::clone(&attempts);
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            _ = stream.write_all(b"VERSION\t1\t2\nMECH\tPLAIN\nDONE\n");
            let lines = BufReader::new(stream.try_clone().unwrap()).lines();
            for _ in lines.map_while(Result::ok).filter(|line| line.starts_with("AUTH\t")) {
                *counting.lock().unwrap() += 1;
                _ = stream.write_all(answer.as_bytes());
            }
        }
    });
    attempts
}

const YES: &str = "OK\t1\tuser=u\n";
const NO: &str = "FAIL\t1\tuser=u\n";

impl Stage {
    /// A port for users who come through a balancer, whom a Dovecot that says `answer` knows or doesn't: how many logins it has
    /// heard of.
    fn begin_for_users(&mut self, answer: &'static str) -> Arc<Mutex<usize>> {
        let socket = self.world.directory.path().join("dovecot");
        let attempts = dovecot(&socket, answer);
        let [pem, key] = certificate(&self.world, "mx.example.org");
        self.begin(&[
            ("tls.certificate", pem),
            ("tls.key", key),
            ("listen.0.role", text("submissions")),
            ("listen.0.proxy_protocol", list(&["127.0.0.1"])),
            ("auth.via", text("dovecot")),
            ("auth.dovecot_socket", text(socket.to_str().unwrap())),
        ]);
        attempts
    }

    /// What a user hears to his password.
    fn log_in(&mut self) -> String {
        let mut stream = connect(self.world.guard.address);
        stream.write_all(format!("PROXY TCP4 {STRANGER} 127.0.0.1 4000 465\r\n").as_bytes()).unwrap();
        let mut roots = RootCertStore::empty();
        let pem = self.world.directory.path().join("mx.example.org.pem");
        roots.add(CertificateDer::from_pem_file(pem).unwrap()).unwrap();
        let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        let name = ServerName::try_from("mx.example.org").unwrap();
        let connection = ClientConnection::new(Arc::new(config), name).unwrap();
        let mut dialogue = Dialogue::over(StreamOwned::new(connection, stream));
        dialogue.hear();
        let offered = dialogue.say("EHLO c");
        if offered.contains("AUTH") { dialogue.say("AUTH PLAIN AHUAcA==") } else { offered }
    }
}

fn via(stage: &mut Stage) {
    let takes = |line: &str| match line.get(..4) {
        Some("EHLO") => "250-x\r\n250 AUTH PLAIN",
        Some("AUTH") => "535 not here",
        _ => "250 ok",
    };
    let (address, heard) = server(takes);
    stage.begin(&[("backend.servers", list(&[&address.to_string()]))]);
    let attempts = stage.begin_for_users(YES);
    assert!(stage.log_in().starts_with("235"));
    assert_eq!(*attempts.lock().unwrap(), 1);
    assert!(!heard.lock().unwrap().iter().any(|line| line.starts_with("AUTH")));
    stage.change(text("backend"));
    // It is offered once the backend was asked for it.
    let ends = Instant::now() + PATIENCE;
    while stage.log_in().starts_with("250") {
        assert!(Instant::now() < ends, "AUTH is offered");
        thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(*attempts.lock().unwrap(), 1, "Dovecot is asked no more");
    assert!(heard.lock().unwrap().iter().any(|line| line.starts_with("AUTH PLAIN")));
}

fn dovecot_socket(stage: &mut Stage) {
    let attempts = stage.begin_for_users(NO);
    assert!(stage.log_in().starts_with("535"));
    let elsewhere = stage.world.directory.path().join("elsewhere");
    let others = dovecot(&elsewhere, YES);
    stage.change(text(elsewhere.to_str().unwrap()));
    assert!(stage.log_in().starts_with("235"));
    assert_eq!([attempts, others].map(|of| *of.lock().unwrap()), [1, 1]);
}

fn failures(stage: &mut Stage) {
    stage.begin_for_users(NO);
    stage.log_in();
    stage.counted(STRANGER, "failed_logins", 1);
    stage.change(Value::Integer(2));
    stage.log_in();
    stage.banned(Some(300_000));
}

fn failure_window(stage: &mut Stage) {
    stage.begin(&[("auth.failure_window", text("1d"))]);
    stage.begin_for_users(NO);
    stage.log_in();
    stage.counted(STRANGER, "failed_logins", 1);
    stage.change(text("1s"));
    stage.counted(STRANGER, "failed_logins", 0);
}

fn ban(stage: &mut Stage) {
    stage.begin(&[("auth.failures", Value::Integer(1))]);
    stage.begin_for_users(NO);
    stage.change(text("11m"));
    stage.log_in();
    stage.banned(Some(660_000));
}

/// A minute is the least that it can be: the long run waits for it. Any length, by a clock of its own, has
/// `tests/session/bounds.rs`, `a_session_ends_when_its_time_is_over`.
fn session_time(stage: &mut Stage) {
    let mut early = stage.open();
    stage.change(text("1m"));
    let mut late = stage.open();
    if long::amount(false, true) {
        late.0.get_ref().set_read_timeout(Some(Duration::from_secs(180))).unwrap();
        assert!(late.hear().starts_with("421"));
    }
    assert!(early.waits(), "it began with an hour");
}

fn harvest_window(stage: &mut Stage) {
    let known = stage.world.directory.path().join("known");
    std::fs::write(&known, "other@example.org\n").unwrap();
    stage.begin(&[
        ("recipients.known", text(known.to_str().unwrap())),
        ("harvest.delay", text("0s")),
        ("harvest.window", text("1d")),
    ]);
    assert!(stage.open().all(MAIL.into_iter().chain(["RCPT TO:<nobody@example.org>"])).starts_with("550"));
    stage.counted("127.0.0.1", "unknown_recipients", 1);
    stage.change(text("1s"));
    stage.counted("127.0.0.1", "unknown_recipients", 0);
}

fn ban_max(stage: &mut Stage) {
    stage.begin(&[
        ("recipients.traps", list(&["trap@example.org"])),
        ("listen.0.proxy_protocol", list(&["127.0.0.1"])),
        ("harvest.ban", text("1s")),
    ]);
    let trapped = |stage: &Stage| {
        let mut dialogue = Dialogue::over(connect(stage.world.guard.address));
        dialogue.say(&format!("PROXY TCP4 {STRANGER} 127.0.0.1 4000 25"));
        let mut heard = dialogue.all(MAIL.into_iter().chain(["RCPT TO:<trap@example.org>"]));
        while !heard.starts_with("421") {
            heard = dialogue.hear();
        }
    };
    trapped(stage);
    stage.banned(None);
    // The second ban would last for twice as long.
    stage.begin(&[("harvest.ban", text("40m"))]);
    stage.change(text("1h"));
    trapped(stage);
    stage.banned(Some(3_600_000));
}

fn dnsbl_threshold(stage: &mut Stage) {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let resolver = list(&[&socket.local_addr().unwrap().to_string()]);
    thread::spawn(move || {
        let mut question = [0; 512];
        while let Ok((length, asker)) = socket.recv_from(&mut question) {
            _ = listed(&question[..length]).map(|answer| socket.send_to(&answer, asker));
        }
    });
    let entry = [("zone", text("bl.example.net")), ("weight", Value::Integer(2))];
    let entry = Value::Table(entry.map(|(key, value)| (key.to_owned(), value)).into_iter().collect::<Table>());
    stage.begin(&[("dns.servers", resolver), ("dnsbl", Value::Array(vec![entry]))]);
    let mail = "try --from 192.0.2.1 --mail-from a@b.example --rcpt-to u@example.org";
    let said = |stage: &Stage| stage.world.said(&mail.split(' ').collect::<Vec<_>>());
    assert!(said(stage).contains("554"), "{}", said(stage));
    stage.change(Value::Integer(3));
    assert!(said(stage).contains("mail server's own reply"), "{}", said(stage));
}

/// The answer of a block list that has every address.
fn listed(question: &[u8]) -> Option<Vec<u8>> {
    const HEADER: usize = 12;
    let mut rest: VecDeque<u8> = question.get(HEADER..)?.iter().copied().collect();
    let mut end = HEADER;
    // Labels; then type and class.
    loop {
        let length = usize::from(rest.pop_front()?);
        end += 1 + length;
        rest.drain(..length.min(rest.len()));
        if length == 0 {
            break;
        }
    }
    let is_a = rest.iter().take(2).eq(&[0, 1]);
    let mut answer = question.get(..end + 4)?.to_vec();
    // An answer, recursion available; one question, and what is found.
    answer[2] |= 0x80;
    answer[3] = 0x80;
    answer[4..HEADER].copy_from_slice(&[0, 1, 0, u8::from(is_a), 0, 0, 0, 0]);
    if is_a {
        // Of the name in the question, A, IN, for a minute, four bytes.
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 127, 0, 0, 2]);
    }
    Some(answer)
}

fn success_notices(stage: &mut Stage) {
    let takes = |line: &str| if line.starts_with("EHLO") { "250-x\r\n250 DSN" } else { "250 ok" };
    let (address, heard) = server(takes);
    stage.begin(&[("backend.servers", list(&[&address.to_string()]))]);
    let passed_on = |stage: &mut Stage| {
        // They are offered once the backend was asked for them.
        let World { guard, .. } = &mut stage.world;
        let address = guard.address;
        guard.wait("DSN is offered", || {
            let mut dialogue = Dialogue::open(address);
            dialogue.hear();
            dialogue.say("EHLO c").contains("DSN")
        });
        let asked = "RCPT TO:<u@example.org> NOTIFY=SUCCESS";
        assert!(stage.open().all(["EHLO c", MAIL[1], asked]).starts_with("250"));
        heard.lock().unwrap().iter().any(|line| line.starts_with("RCPT") && line.ends_with("NOTIFY=SUCCESS"))
    };
    assert!(!passed_on(stage));
    stage.change(text("all"));
    assert!(passed_on(stage));
}

fn dns_timeout(stage: &mut Stage) {
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    stage.begin(&[
        ("dns.servers", list(&[&silent.local_addr().unwrap().to_string()])),
        ("checks.sender_domain", text("enforce")),
        ("dns.timeout", text("1m")),
    ]);
    let mut early = stage.open();
    assert!(early.all(["HELO c", "MAIL FROM:<a@early.example>"]).starts_with("250"));
    early.begin("RCPT TO:<u@example.org>");
    stage.change(text("2s"));
    assert!(stage.open().all(MAIL.into_iter().chain(["RCPT TO:<u@example.org>"])).starts_with("450"));
    assert!(early.waits(), "it began with a minute");
}

/// Receivers of events, of which the first is told. The kind of event is one that a row can cause by itself.
fn begin_with_webhook(stage: &mut Stage, first: &Receiver) {
    let folder = stage.world.directory.path().to_owned();
    stage.begin(&[
        ("events.webhook", text(&format!("http://{}/", first.address))),
        ("events.secret_file", text(webhook::secret(&folder).to_str().unwrap())),
        ("events.kinds", list(&["banned"])),
    ]);
}

fn cause(stage: &Stage, words: &[&str]) {
    assert!(stage.world.ask(words).status.success(), "{words:?}");
}

fn webhook_url(stage: &mut Stage) {
    let (first, second) = (Receiver::start(&[]), Receiver::start(&[]));
    begin_with_webhook(stage, &first);
    cause(stage, &["decisions", "add", "20.0.2.1", "--for", "1h"]);
    first.hears("banned");
    stage.change(text(&format!("http://{}/", second.address)));
    cause(stage, &["decisions", "add", "20.0.2.2", "--for", "1h"]);
    second.hears("banned");
    assert_eq!(first.requests().len(), 1);
}

fn webhook_secret(stage: &mut Stage) {
    let receiver = Receiver::start(&[]);
    begin_with_webhook(stage, &receiver);
    cause(stage, &["decisions", "add", "20.0.2.1", "--for", "1h"]);
    assert!(receiver.hears("banned").is_signed(webhook::SECRET));
    let (path, other) = (stage.world.directory.path().join("other.key"), "another secret, which is as long as that");
    std::fs::write(&path, other).unwrap();
    stage.change(text(path.to_str().unwrap()));
    cause(stage, &["decisions", "add", "20.0.2.2", "--for", "1h"]);
    receiver.wait("another signature", |requests| requests.iter().any(|r| r.is_signed(other)).then_some(()));
    // The content of the same file, as well.
    std::fs::write(&path, webhook::SECRET).unwrap();
    stage.world.reload();
    cause(stage, &["decisions", "add", "20.0.2.3", "--for", "1h"]);
    receiver.wait("the first signature", |requests| {
        (requests.len() == 3 && requests[2].is_signed(webhook::SECRET)).then_some(())
    });
}

fn webhook_kinds(stage: &mut Stage) {
    let receiver = Receiver::start(&[]);
    begin_with_webhook(stage, &receiver);
    cause(stage, &["accounts", "hold", "ann", "--for", "1h"]);
    cause(stage, &["decisions", "add", "20.0.2.1", "--for", "1h"]);
    receiver.hears("banned");
    stage.change(list(&["user_held"]));
    cause(stage, &["decisions", "add", "20.0.2.2", "--for", "1h"]);
    cause(stage, &["accounts", "hold", "bob", "--for", "1h"]);
    receiver.hears("user_held");
    assert_eq!(receiver.requests().iter().map(|r| r.kinds().len()).sum::<usize>(), 2);
}

fn webhook_timeout(stage: &mut Stage) {
    let receiver = Receiver::start(&[webhook::Deed::Hang, webhook::Deed::Hang]);
    stage.begin(&[("events.timeout", text("1m"))]);
    begin_with_webhook(stage, &receiver);
    stage.change(text("100ms"));
    cause(stage, &["decisions", "add", "20.0.2.1", "--for", "1h"]);
    receiver.wait("it is tried again", |requests| (requests.len() > 1).then_some(()));
}

fn webhook_authority(stage: &mut Stage) {
    let [pem, key] = certificate(&stage.world, "localhost");
    let folder = stage.world.directory.path().to_owned();
    std::fs::copy(pem.as_str().unwrap(), folder.join("cert.pem")).unwrap();
    std::fs::copy(key.as_str().unwrap(), folder.join("key.pem")).unwrap();
    let receiver = Receiver::secured(&folder);
    stage.begin(&[
        ("events.webhook", text(&format!("https://localhost:{}/", receiver.address.port()))),
        ("events.secret_file", text(webhook::secret(&folder).to_str().unwrap())),
        ("events.kinds", list(&["banned"])),
    ]);
    cause(stage, &["decisions", "add", "20.0.2.1", "--for", "1h"]);
    let trouble = |told: &Json| told["webhook"]["trouble"].is_string();
    stage.wait_for(&["status", "--json"], trouble, &true);
    assert!(receiver.requests().is_empty());
    stage.change(pem);
    receiver.hears("banned");
}
