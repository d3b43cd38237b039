//! Another configuration while the guard runs.

mod effects;

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead as _, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use rustix::process::Signal;
use serde_json::Value as Json;
use smtp_guard::config::{Config, Machine, keys as rows};
use toml::{Table, Value};

use crate::{BINARY, Backend, Guard, backend, connect, long, send, status};

/// A guard whose file is rewritten.
struct World {
    directory: tempfile::TempDir,
    guard: Guard,
    file: Table,
}

impl World {
    fn new(more: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let log = fs::File::create(directory.path().join("log")).unwrap();
        let guard = Guard::start(directory.path(), more, "", log.into());
        let file = fs::read_to_string(&guard.config).unwrap().parse().unwrap();
        Self { directory, guard, file }
    }

    /// What the command with these words says.
    fn said(&self, words: &[&str]) -> String {
        let output = self.ask(words);
        String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
    }

    /// What a session at `address`, `try` or the metrics say where `effect` would show.
    fn shows(&self, effect: &Effect, address: SocketAddr) -> String {
        match effect {
            Effect::Session(said, _) => {
                let mut dialogue = Dialogue::open(address);
                let greeting = dialogue.hear();
                said.iter().map(|line| dialogue.say(line)).last().unwrap_or(greeting)
            }
            Effect::Try(words, _) => self.said(&["try"].into_iter().chain(words.split(' ')).collect::<Vec<_>>()),
            Effect::Page(path, _) => self.http(path),
            Effect::Opened(_) => {
                let before = self.opened();
                let now = || [0, 1].map(|how| self.opened()[how] - before[how]);
                // A connection comes back a moment after its message was taken.
                let opens = |sent: u64| {
                    send(connect(address), false);
                    now().iter().sum::<u64>() == sent
                };
                if (1..=10).all(opens) { format!("one for each, {} early", now()[1]) } else { "used again".to_owned() }
            }
            _ => String::new(),
        }
    }

    /// What `path` of the metrics' address in the file answers.
    fn http(&self, path: &str) -> String {
        let mut http = connect(self.file["metrics"]["listen"].as_str().unwrap().parse().unwrap());
        http.write_all(format!("GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n").as_bytes()).unwrap();
        let mut answer = String::new();
        http.read_to_string(&mut answer).unwrap();
        answer
    }

    /// Connections to the backend that were opened for sessions: at MAIL, and before.
    fn opened(&self) -> [u64; 2] {
        let metrics = self.http("/metrics");
        ["opened", "early"].map(|how| {
            let name = format!("smtp_guard_backend_connections_total{{how=\"{how}\"}} ");
            metrics.lines().find_map(|line| line.strip_prefix(&name)).unwrap().parse().unwrap()
        })
    }

    /// What the keys that are changed for `key` need beside it.
    fn prepare(&mut self, key: &str) {
        match key {
            "checks.dnsbl" => {
                let list = [("zone", text("bl.example.net")), ("weight", Value::Integer(1))];
                let list = list.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
                self.set("dnsbl", Some(Value::Array(vec![Value::Table(list)])));
            }
            "backend.connect_early" => self.set("backend.reuse", Some(Value::Boolean(false))),
            "dns.servers" => self.set("checks.sender_domain", Some(text("observe"))),
            "harvest.ban" => {
                self.set("recipients.traps", Some(list(&["trap@example.org"])));
                self.set("relay.networks", None);
                self.set("listen.0.proxy_protocol", Some(list(&["127.0.0.1"])));
            }
            _ => return,
        }
        self.reload();
    }

    /// What the guard wrote to its log.
    fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap()
    }

    /// Waits until what comes after the first `seen` bytes of the log has `expected`; sessions come and go meanwhile.
    fn wait_for_log(&mut self, seen: usize, expected: &str) {
        let (address, log) = (self.guard.address, self.directory.path().join("log"));
        self.guard.wait(&format!("{expected:?} stands in the log"), || {
            Dialogue::open(address).say("QUIT");
            fs::read_to_string(&log).unwrap()[seen..].contains(expected)
        });
    }

    fn config(&self) -> PathBuf {
        self.guard.config.clone()
    }

    /// Sets `key` (`limits.recipients`; tables of which there are several by their number: `listen.0.role`), or takes it out.
    fn set(&mut self, key: &str, value: Option<Value>) {
        let (path, name) = key.rsplit_once('.').unwrap_or(("", key));
        let mut table = Value::Table(std::mem::take(&mut self.file));
        let mut place = &mut table;
        for step in path.split('.').filter(|step| !step.is_empty()) {
            place = match step.parse::<usize>() {
                Ok(index) => &mut place[index],
                Err(_) => place.as_table_mut().unwrap().entry(step).or_insert(Value::Table(Table::new())),
            };
        }
        let place = place.as_table_mut().unwrap();
        match value {
            Some(value) => drop(place.insert(name.to_owned(), value)),
            None => drop(place.remove(name)),
        }
        let Value::Table(file) = table else { panic!("it was one") };
        self.file = file;
        self.write();
    }

    fn write(&self) {
        let new = self.directory.path().join("new");
        fs::write(&new, toml::to_string(&self.file).unwrap()).unwrap();
        fs::rename(new, self.config()).unwrap();
    }

    fn ask(&self, words: &[&str]) -> Output {
        Command::new(BINARY).args(words).arg("--config").arg(self.config()).output().unwrap()
    }

    /// The keys that a reload says it changed, those that wait for a restart with a `!`.
    #[track_caller]
    fn reload(&self) -> Vec<String> {
        let output = self.ask(&["reload", "--json"]);
        assert!(output.status.success(), "{output:?}");
        let told: Json = serde_json::from_slice(&output.stdout).unwrap();
        let key = |change: &Json| {
            let waits = if change["restart"].is_null() { "" } else { "!" };
            format!("{waits}{}", change["key"].as_str().unwrap())
        };
        told["changes"].as_array().unwrap().iter().map(key).collect()
    }
}

/// A session that is spoken line by line.
struct Dialogue<S = TcpStream>(BufReader<S>);

impl Dialogue {
    fn open(address: SocketAddr) -> Self {
        Self::over(connect(address))
    }
}

impl<S: Read + Write> Dialogue<S> {
    fn over(stream: S) -> Self {
        Self(BufReader::new(stream))
    }

    /// The next reply, all of its lines.
    fn hear(&mut self) -> String {
        let mut reply = String::new();
        loop {
            let start = reply.len();
            self.0.read_line(&mut reply).unwrap();
            if reply.as_bytes().get(start + 3) != Some(&b'-') {
                return reply;
            }
        }
    }

    fn say(&mut self, line: &str) -> String {
        self.0.get_mut().write_all(format!("{line}\r\n").as_bytes()).unwrap();
        self.hear()
    }
}

/// Where the effect of a key shows.
enum Effect {
    /// A session that begins now: what is said, and what the answer to the last line holds. The first answer is the greeting.
    Session(&'static [&'static str], &'static str),
    /// `try` with these words says so.
    Try(&'static str, &'static str),
    Status(&'static str),
    /// A line of the log from here on says so, while a session comes and goes.
    Log(&'static str),
    /// The address answers `GET /livez`.
    Http,
    /// What this path of the metrics' address answers holds this.
    Page(&'static str, &'static str),
    /// So many connections to the backend are opened for two messages, one after the other.
    Opened(&'static str),
    /// Who writes to a trap is banned for so many milliseconds.
    Banned(i64),
    /// The server is asked.
    Asked(UdpSocket),
    Restart,
}

fn text(text: &str) -> Value {
    Value::String(text.to_owned())
}

fn list(entries: &[&str]) -> Value {
    Value::Array(entries.iter().map(|entry| text(entry)).collect())
}

/// Keys, each with a value that it didn't have, and where that shows.
fn keys(world: &World) -> Vec<(&'static str, Value, Effect)> {
    use Effect::{Asked, Banned, Http, Log, Opened, Page, Restart, Session, Status, Try};
    let file = |name: &str, content: &str| {
        let path = world.directory.path().join(name);
        fs::write(&path, content).unwrap();
        text(path.to_str().unwrap())
    };
    let number = Value::Integer;
    let first = "--from 192.0.2.1";
    let mail = "--from 192.0.2.1 --mail-from a@b.example --rcpt-to u@example.org";
    let two = "--from 192.0.2.1 --mail-from a@b.example --rcpt-to u@example.org --rcpt-to v@example.org";
    let nobody = "--from 192.0.2.1 --mail-from a@b.example --rcpt-to nobody@example.org";
    let bare = &["HELO c", "MAIL FROM:<a@b.example>", "RCPT TO:<u@example.org>", "DATA", "bare\nnewline\r\n."];
    let sent = Session(&["HELO c", "MAIL FROM:<a@b.example>"], "250");
    let resolver = UdpSocket::bind("127.0.0.1:0").unwrap();
    let put_off = || Session(&["HELO c", "MAIL FROM:<a@b.example>"], "451");
    vec![
        ("hostname", text("mx2.example.org"), Session(&[], "220 mx2.example.org")),
        ("exempt", list(&["192.0.2.1"]), Try(first, "exempt: no limit")),
        ("listen.0.address", free(), Status("listening on")),
        ("listen.0.role", text("submission"), Session(&[], "220 ")),
        ("listen.0.proxy_protocol", list(&["192.0.2.9"]), Try("--from 192.0.2.9", "one of the balancers")),
        ("backend.servers", list(&[&backend().to_string()]), sent),
        ("backend.tls", text("required"), put_off()),
        ("backend.identity", text("xclient"), put_off()),
        ("backend.connections", number(7), Page("/metrics", "smtp_guard_bound_limit{bound=\"backend_connections\"} 7")),
        ("backend.reuse", Value::Boolean(false), Opened("one for each")),
        ("backend.connect_early", Value::Boolean(false), Opened("each, 0 early")),
        ("replies.contact", text("ask@example.org"), Try(nobody, "contact ask@example.org")),
        ("relay.domains", list(&["example.net"]), Try(mail, "Relay access denied")),
        ("relay.networks", list(&["192.0.2.0/24"]), Try(first, "relay.networks: may send anywhere")),
        (
            "relay.authenticated",
            Value::Boolean(false),
            Try(
                "--from 192.0.2.1 --user bob --mail-from a@b.example --rcpt-to u@elsewhere.example",
                "Relay access denied",
            ),
        ),
        ("recipients.known", file("known", "other@example.org\n"), Try(mail, "User unknown")),
        ("recipients.traps", list(&["u@example.org"]), Try(mail, "User unknown")),
        ("limits.ipv6_prefix", number(56), Restart),
        ("limits.connections", number(17), Try(first, "limits.connections: 0 of 17")),
        ("limits.connections_per_minute", number(1000), Try(first, "connections_per_minute: 0 of 1000")),
        ("limits.messages_per_hour", number(1000), Try(first, "messages_per_hour: 0 of 1000")),
        (
            "limits.user_messages_per_hour",
            number(7),
            Try("--from 192.0.2.1 --user bob", "limits.user_messages_per_hour: 0 of 7"),
        ),
        (
            "limits.user_recipients_per_hour",
            number(7),
            Try("--from 192.0.2.1 --user bob", "limits.user_recipients_per_hour: 0 of 7"),
        ),
        (
            "limits.user_networks_per_day",
            number(7),
            Try("--from 192.0.2.1 --user bob", "limits.user_networks_per_day: 0 of 7"),
        ),
        ("limits.recipients", number(1), Try(two, "Too many recipients")),
        ("limits.message_size", text("2MiB"), Session(&["EHLO c"], "SIZE 2097152")),
        ("limits.failed_commands", number(1), Session(&["NONSENSE"], "421")),
        ("limits.junk_commands", number(1), Session(&["HELO c", "NOOP", "NOOP"], "421")),
        ("limits.total_connections", number(50), Try(first, " of 50; ")),
        ("limits.network_connections", number(40), Try(first, "limits.network_connections: 0 of 40")),
        ("harvest.unknown_recipients", number(77), Try("--from 127.0.0.1", "unknown recipients of 77")),
        ("harvest.unknown_share", Value::Float(0.75), Try("--from 127.0.0.1", " % of 75 %")),
        ("harvest.delay", text("1s"), Try(nobody, "(after 1 s)")),
        ("harvest.ban", text("11m"), Banned(660_000)),
        ("checks.sender_domain", text("observe"), Try(first, "checks.sender_domain: observe")),
        ("checks.ptr", text("observe"), Try(first, "checks.ptr: observe")),
        ("checks.ptr_forward", text("observe"), Try(first, "checks.ptr_forward: observe")),
        ("checks.early_talker", text("off"), Try(first, "checks.early_talker: off")),
        ("checks.greeting_delay", text("1s"), Try(first, "checks.greeting_delay: 1 s")),
        ("checks.dnsbl", text("observe"), Try(first, "checks.dnsbl: observe")),
        ("checks.bare_newline", text("none"), Session(bare, "550")),
        ("checks.chunking", Value::Boolean(false), Session(&["EHLO c", "BDAT 0 LAST"], "521")),
        ("dns.servers", list(&[&resolver.local_addr().unwrap().to_string()]), Asked(resolver)),
        ("edge.mode", text("generic"), Restart),
        ("edge.max_sources", number(5000), Restart),
        ("edge.pin_directory", text("/sys/fs/bpf/elsewhere"), Restart),
        ("edge.group", text("nobody"), Restart),
        ("metrics.listen", free(), Http),
        ("metrics.page", text("off"), Page("/", "the status page is off")),
        ("state.directory", text("/nowhere"), Restart),
        ("log.format", text("kerio"), Log(" smtp-guard[")),
        ("log.level", text("trace"), Log("\"TRACE\"")),
    ]
}

/// An address that is free now.
fn free() -> Value {
    text(&crate::free().to_string())
}

/// Keys that neither the table above nor [`effects::ROWS`] try, and why.
const ELSEWHERE: &[(&str, &str)] = &[
    ("admin.socket", "it is what the guard is asked by: see config::difference"),
    ("backend.tls_ca", "needs tls = verified: see below"),
    ("backend.tls_name", "likewise"),
    ("edge.interfaces", "needs a kernel plane: see tests/tests/whole/reload.rs"),
    ("edge.connections", "likewise"),
    ("tls.certificate", "see below"),
    ("tls.key", "see below"),
    ("tls.also", "see below"),
    ("dnsbl", "a list of tables: see below"),
    ("blocklist", "a list of tables: see below"),
    ("fleet.url", "needs a server: see the tests of the whole"),
    ("fleet.sentinel", "likewise"),
    ("fleet.password_file", "likewise"),
    ("fleet.tls_ca", "likewise"),
    ("fleet.name", "likewise"),
    ("fleet.node", "likewise"),
    ("fleet.key_file", "likewise"),
    ("fleet.share", "likewise"),
    ("fleet.sample", "likewise"),
];

#[test]
fn every_key_changes_while_the_guard_runs_or_says_that_it_needs_a_restart() {
    let mut world = World::new("");
    // A known sender; recipients that are known, and nobody else.
    send(connect(world.guard.address), false);
    let known = world.directory.path().join("users");
    fs::write(&known, "b@example.org\nu@example.org\nv@example.org\n").unwrap();
    world.set("recipients.known", Some(text(known.to_str().unwrap())));
    world.set("relay.networks", Some(list(&["127.0.0.1"])));
    // Submission needs it.
    let [pem, key] = certificate(&world, "one.example");
    world.set("tls.certificate", Some(pem));
    world.set("tls.key", Some(key));
    world.set("auth.via", Some(text("dovecot")));
    world.set("metrics.listen", Some(free()));
    world.reload();
    let original = world.file.clone();
    let (restart, mut tried) = (rows::fixed().collect::<BTreeSet<_>>(), BTreeSet::new());
    for (key, value, effect) in keys(&world) {
        tried.insert(key.replace(".0.", "."));
        world.prepare(key);
        let before = world.file.clone();
        let before_log = world.log().len();
        let earlier = world.shows(&effect, world.guard.address);
        world.set(key, Some(value.clone()));
        assert_ne!(before, world.file, "{key} has that value already");
        let changed = world.reload();
        let is_of = |told: &String| told.trim_start_matches('!').split('[').next() == key.split('.').next();
        let waits = changed.iter().any(|told| told.starts_with('!'));
        assert!(changed.iter().any(|told| told.ends_with(key) || is_of(told)), "{key}: {changed:?}");
        assert_eq!(waits, restart.contains(key), "{key}: {changed:?}");
        let address = match key {
            "listen.0.address" => value.as_str().unwrap().parse().unwrap(),
            _ => world.guard.address,
        };
        let now = world.shows(&effect, address);
        match effect {
            Effect::Session(_, expected)
            | Effect::Try(_, expected)
            | Effect::Page(_, expected)
            | Effect::Opened(expected) => {
                assert!(now.contains(expected), "{key}: no {expected:?} in {now}");
                // Where the role or the server is another, the same is said.
                let same = matches!(key, "listen.0.role" | "backend.servers");
                assert!(same || !earlier.contains(expected), "{key}: {expected:?} was there before, in {earlier}");
            }
            Effect::Log(expected) => world.wait_for_log(before_log, expected),
            Effect::Http => {
                let answer = world.http("/livez");
                assert!(answer.lines().next().unwrap().contains(" 200 "), "{key}: {answer}");
            }
            Effect::Banned(expected) => {
                let mut dialogue = Dialogue::over(connect(address));
                dialogue.say("PROXY TCP4 203.0.113.7 127.0.0.1 4000 25");
                let said = ["HELO c", "MAIL FROM:<a@b.example>", "RCPT TO:<trap@example.org>"];
                let said = said.map(|line| dialogue.say(line));
                let config = world.config();
                world.guard.wait(&format!("the ban, after {said:?}"), || {
                    let output =
                        Command::new(BINARY).args(["decisions", "list", "--json", "--config"]).arg(&config).output();
                    let told: Json = serde_json::from_slice(&output.unwrap().stdout).unwrap();
                    let ban = &told["decisions"][0];
                    ms(&ban["until"]) - ms(&ban["made"]) == expected
                });
            }
            Effect::Asked(socket) => {
                socket.set_read_timeout(Some(std::time::Duration::from_secs(30))).unwrap();
                let question = thread::spawn(move || socket.recv(&mut [0; 512]));
                world.said(&[
                    "try",
                    "--from",
                    "192.0.2.1",
                    "--mail-from",
                    "a@asked.example",
                    "--rcpt-to",
                    "u@example.org",
                ]);
                assert!(question.join().unwrap().unwrap() > 12, "{key}");
            }
            Effect::Status(expected) => assert!(status(&world.config()).contains(expected), "{key}"),
            Effect::Restart => assert!(status(&world.config()).contains(&format!("needs a restart: {key}")), "{key}"),
        }
        if key == "listen.0.address" {
            assert!(TcpStream::connect(world.guard.address).is_err(), "the old door is closed");
            drop(connect(address));
        }
        world.file = original.clone();
        world.write();
        world.reload();
    }
    let said = format!("{} says what is in force", world.config().display());
    assert_eq!(world.said(&["config", "diff"]).lines().next(), Some(said.as_str()));
    // The list is whole: what `config show` shows, so that a new key is not forgotten.
    let shown = serde_json::to_value(Config::defaults(&Machine::default())).unwrap();
    let mut all = BTreeSet::new();
    for (table, keys) in shown.as_object().unwrap() {
        match keys {
            Json::Object(keys) => all.extend(keys.keys().map(|key| format!("{table}.{key}"))),
            _ => drop(all.insert(table.clone())),
        }
    }
    all.retain(|key| !matches!(key.as_str(), "listen" | "tls"));
    let others = effects::ROWS.iter().map(|(key, _)| key).chain(ELSEWHERE.iter().map(|(key, _)| key));
    let known = tried.iter().cloned().chain(others.map(|key| (*key).to_owned()));
    let known: BTreeSet<_> = known.collect();
    assert_eq!(all.difference(&known).collect::<Vec<_>>(), Vec::<&String>::new(), "keys that nobody tries");
    send(connect(world.guard.address), false);
    world.guard.ends();
}

/// A certificate of `name`, and its key, as files.
fn certificate(world: &World, name: &str) -> [Value; 2] {
    let made = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
    [("pem", made.cert.pem()), ("key", made.signing_key.serialize_pem())].map(|(kind, content)| {
        let path = world.directory.path().join(format!("{name}.{kind}"));
        fs::write(&path, content).unwrap();
        text(path.to_str().unwrap())
    })
}

#[test]
fn certificates_lists_and_servers_come_and_go() {
    let mut world = World::new("");
    let offers = |world: &World| {
        let mut dialogue = Dialogue::open(world.guard.address);
        dialogue.hear();
        dialogue.say("EHLO c").contains("STARTTLS")
    };
    let certificates =
        |world: &World| String::from_utf8(world.ask(&["status"]).stdout).unwrap().matches("certificate ").count();
    assert!(!offers(&world));
    let [pem, key] = certificate(&world, "one.example");
    let [other_pem, other_key] = certificate(&world, "two.example");
    let pair = |certificate: &Value, key: &Value| {
        Value::Table(Table::from_iter([
            ("certificate".to_owned(), certificate.clone()),
            ("key".to_owned(), key.clone()),
        ]))
    };
    world.set("tls", Some(pair(&pem, &key)));
    assert_eq!(world.reload(), ["tls.certificate", "tls.key"]);
    assert!(offers(&world));
    assert_eq!(certificates(&world), 1);
    world.set("tls.certificate", Some(other_pem.clone()));
    let refused = world.ask(&["reload"]);
    assert_eq!(refused.status.code(), Some(78), "a certificate without its key changes nothing: {refused:?}");
    assert!(String::from_utf8_lossy(&refused.stderr).contains("do not belong together"), "{refused:?}");
    assert!(offers(&world));
    world.set("tls.key", Some(other_key));
    assert_eq!(world.reload(), ["tls.certificate", "tls.key"]);
    world.set("tls", None);
    assert_eq!(world.reload(), ["tls.certificate", "tls.key"]);
    assert!(!offers(&world));

    world.set("backend.tls", Some(text("verified")));
    world.set("backend.tls_ca", Some(text("/nowhere")));
    let refused = world.ask(&["reload"]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("/nowhere"), "{refused:?}");
    world.set("backend.tls_ca", Some(pem));
    world.set("backend.tls_name", Some(text("one.example")));
    assert_eq!(world.reload(), ["backend.tls", "backend.tls_ca", "backend.tls_name"]);
    for key in ["backend.tls_ca", "backend.tls_name"] {
        world.set(key, None);
    }
    world.set("backend.tls", Some(text("off")));
    world.reload();

    let list = world.directory.path().join("list");
    fs::write(&list, "198.51.100.7\n198.51.100.8\n").unwrap();
    let entry = [("name", text("mine")), ("file", text(list.to_str().unwrap()))];
    let entry = Value::Table(entry.map(|(key, value)| (key.to_owned(), value)).into_iter().collect());
    world.set("blocklist", Some(Value::Array(vec![entry])));
    assert_eq!(world.reload(), ["blocklist[mine]"]);
    let tried = |world: &World, ip: &str| String::from_utf8(world.ask(&["try", "--from", ip]).stdout).unwrap();
    let said = tried(&world, "198.51.100.7");
    assert!(said.contains("blocklist mine: entry "), "in force when the reload says so: {said}");
    world.set("exempt", Some(Value::Array(vec![text("198.51.100.7")])));
    world.reload();
    assert!(tried(&world, "198.51.100.7").contains("exempt"), "the exempt list wins");
    assert!(tried(&world, "198.51.100.8").contains("blocklist mine: entry "));
    world.set("blocklist", None);
    assert_eq!(world.reload(), ["blocklist[mine]"]);
    assert!(tried(&world, "198.51.100.8").contains("220 mx.example.org"));

    let entry = [("zone", text("bl.example.net")), ("weight", Value::Integer(1))];
    let entry = Value::Table(entry.map(|(key, value)| (key.to_owned(), value)).into_iter().collect());
    world.set("dnsbl", Some(Value::Array(vec![entry])));
    assert_eq!(world.reload(), ["dnsbl[bl.example.net]"]);
    world.set("dnsbl.0.weight", Some(Value::Integer(2)));
    assert_eq!(world.reload(), ["dnsbl[bl.example.net].weight"]);
}

#[test]
fn a_bad_file_changes_nothing_and_says_where() {
    let mut world = World::new("");
    world.set("hostname", Some(text("mx2.example.org")));
    world.set("limits.recipients", Some(Value::Integer(0)));
    for words in [["reload"].as_slice(), &["reload", "--dry-run"], &["config", "diff"]] {
        let output = world.ask(words);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(78), "{words:?}: {said}");
        for part in ["limits.recipients must be", "smtp-guard.toml:", "^", "1 error"] {
            assert!(said.contains(part), "{words:?}: no {part:?} in {said}");
        }
    }
    // One that says where the guard is, and is good.
    let good = world.directory.path().join("good.toml");
    let bad = world.file.clone();
    world.set("limits.recipients", None);
    fs::copy(world.config(), &good).unwrap();
    world.file = bad;
    world.write();
    let refusals = |good: &std::path::Path| {
        let output = Command::new(BINARY).args(["status", "--json", "--config"]).arg(good).output().unwrap();
        let status: Json = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(status["configuration"]["generation"], 1);
        status["configuration"]["last_reload"]["at"].as_str().map(str::to_owned)
    };
    // The guard goes on to read its own.
    world.set("limits.recipients", None);
    for (words, says) in [(["reload", "--dry-run"].as_slice(), "can be used in place of"), (&["config", "diff"], "mx2")]
    {
        let output = Command::new(BINARY).args(words).arg("--config").arg(&good).output().unwrap();
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        let other = format!("the guard reads {}, not {}", world.config().display(), good.display());
        assert!(output.status.success() && said.contains(says) && said.contains(&other), "{words:?}: {said}");
        assert!(!world.said(words).contains("the guard reads"), "{words:?} with its own file");
    }
    world.set("limits.recipients", Some(Value::Integer(0)));
    let first = refusals(&good);
    assert!(first.is_some(), "a dry run is none, the other was refused");
    world.guard.signal(Signal::HUP);
    world.guard.wait("SIGHUP reads the file", || refusals(&good) != first);
    assert!(Dialogue::open(world.guard.address).hear().starts_with("220 mx.example.org"));
    assert!(status(&good).contains("the file was refused"));
    world.set("limits.recipients", None);
    // The address is somebody else's.
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    world.set("listen.0.address", Some(text(&taken.local_addr().unwrap().to_string())));
    let output = world.ask(&["reload"]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("another program holds it"), "{output:?}");
    assert!(Dialogue::open(world.guard.address).hear().starts_with("220 mx.example.org"));
    world.set("listen.0.address", Some(text(&world.guard.address.to_string())));
    assert_eq!(world.reload(), ["hostname"]);
    assert!(Dialogue::open(world.guard.address).hear().starts_with("220 mx2.example.org"));
}

#[test]
fn a_session_keeps_what_it_began_with_also_when_its_door_is_closed() {
    let mut world = World::new("");
    let mut early = Dialogue::open(world.guard.address);
    assert!(early.hear().starts_with("220 mx.example.org"));
    world.set("limits.recipients", Some(Value::Integer(1)));
    world.set("relay.domains", Some(list(&["example.net"])));
    world.set("listen.0.address", Some(free()));
    let address = world.file["listen"][0]["address"].as_str().unwrap().parse().unwrap();
    world.reload();
    assert!(status(&world.config()).contains("1 sessions go on by an earlier one"));
    let dialogue = |dialogue: &mut Dialogue, domain: &str| {
        let said = ["HELO c".to_owned(), "MAIL FROM:<a@b.example>".to_owned()];
        let recipients = ["u", "v"].map(|user| format!("RCPT TO:<{user}@{domain}>"));
        said.iter().chain(&recipients).map(|line| dialogue.say(line)[..3].to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(dialogue(&mut early, "example.org"), ["250", "250", "250", "250"]);
    let mut late = Dialogue::open(address);
    late.hear();
    assert_eq!(dialogue(&mut late, "example.net"), ["250", "250", "250", "452"]);
    drop(early);
    let mut waiting = Command::new(BINARY)
        .args(["reload", "--wait", "--config"])
        .arg(world.config())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    // The later one goes by the generation before that, until it is gone.
    let config = world.config();
    world.guard.wait("it is in force", || status(&config).contains("generation 3"));
    assert!(waiting.try_wait().unwrap().is_none());
    drop(late);
    assert!(waiting.wait().unwrap().success());
}

#[test]
fn an_address_may_take_the_place_of_another_on_the_same_port() {
    let mut world = World::new("");
    let port = world.guard.address.port();
    for (address, other_hears) in [(format!("0.0.0.0:{port}"), true), (format!("127.0.0.1:{port}"), false)] {
        let mut early = Dialogue::open(world.guard.address);
        early.hear();
        world.set("listen.0.address", Some(text(&address)));
        assert!(!world.ask(&["reload", "--dry-run"]).stdout.is_empty());
        assert_eq!(world.reload().len(), 2, "one goes, one comes");
        assert!(early.say("NOOP").starts_with("250"), "{address}");
        send(connect(world.guard.address), false);
        let other = SocketAddr::from(([127, 0, 0, 2], port));
        assert_eq!(TcpStream::connect(other).is_ok(), other_hears, "{address}");
        let taken = TcpListener::bind(world.guard.address);
        assert!(taken.is_err(), "nobody else can listen there");
    }
    let metrics = free();
    let port = metrics.as_str().unwrap().rsplit(':').next().unwrap().to_owned();
    for address in ["127.0.0.1", "0.0.0.0", "127.0.0.1"] {
        world.set("metrics.listen", Some(text(&format!("{address}:{port}"))));
        world.reload();
        assert!(TcpStream::connect(format!("127.0.0.1:{port}")).is_ok(), "{address}");
    }
}

#[test]
fn every_bound_tells_its_limit() {
    let mut world = World::new("");
    world.set("metrics.listen", Some(free()));
    world.set("checks.ptr", Some(text("observe")));
    world.reload();
    let metrics = world.http("/metrics");
    for bound in smtp_guard::bound::Bound::ALL {
        let name = format!("smtp_guard_bound_limit{{bound=\"{}\"}} ", bound.label());
        let limit = metrics.lines().find_map(|line| line.strip_prefix(&name));
        assert!(limit.is_some_and(|limit| limit.parse::<u64>().is_ok_and(|limit| limit > 0)), "{name}{limit:?}");
    }
}

/// What a session heard of its generation: the number in its greeting, and that in its answer to EHLO.
fn generations(dialogue: &mut Dialogue) -> [u64; 2] {
    let number = |text: &str, before: &str, after: char| {
        let start = text.find(before).unwrap() + before.len();
        text[start..].split(after).next().unwrap().trim().parse::<u64>().unwrap()
    };
    let greeting = dialogue.hear();
    let offered = dialogue.say("EHLO c");
    [number(&greeting, "220 g", '.'), number(&offered, "SIZE ", '\r') - 1_000_000]
}

#[test]
fn under_load_no_session_is_cut_none_judges_by_two_generations_and_no_message_is_lost_or_doubled() {
    let taken = Backend::start();
    let mut world = World::new("");
    let number = |world: &mut World, n: u64| {
        world.set("backend.servers", Some(list(&[&taken.address.to_string()])));
        world.set("hostname", Some(text(&format!("g{n}.example.org"))));
        world.set("limits.message_size", Some(text(&format!("{}B", 1_000_000 + n))));
    };
    number(&mut world, 1);
    world.reload();
    let (stop, accepted) = (AtomicBool::new(false), AtomicUsize::new(0));
    let address = world.guard.address;
    thread::scope(|scope| {
        for sender in 0..8 {
            let (stop, accepted) = (&stop, &accepted);
            scope.spawn(move || {
                for message in 0.. {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    let mut dialogue = Dialogue::open(address);
                    let [greeted, offered] = generations(&mut dialogue);
                    assert_eq!(greeted, offered, "one session, two generations");
                    for line in ["MAIL FROM:<a@b.example>", "RCPT TO:<u@example.org>", "DATA"] {
                        let heard = dialogue.say(line);
                        assert!(heard.starts_with(['2', '3']), "{line}: {heard}");
                    }
                    let heard = dialogue.say(&format!("Subject: {sender}.{message}\r\n\r\nx\r\n."));
                    assert!(heard.starts_with("250"), "{heard}");
                    accepted.fetch_add(1, Ordering::Relaxed);
                    assert!(dialogue.say("QUIT").starts_with("221"));
                }
            });
        }
        for n in 2..long::amount(40, 200) {
            if n % 5 == 0 {
                world.set("limits.recipients", Some(Value::Integer(0)));
                assert_eq!(world.ask(&["reload"]).status.code(), Some(78));
                world.set("limits.recipients", None);
            }
            number(&mut world, n);
            assert_eq!(world.reload(), ["hostname", "limits.message_size"], "{n}");
        }
        stop.store(true, Ordering::Relaxed);
    });
    let subjects = taken.subjects.lock().unwrap();
    let distinct: BTreeSet<_> = subjects.iter().collect();
    assert_eq!((subjects.len(), distinct.len()), (accepted.load(Ordering::Relaxed), subjects.len()));
    assert!(!subjects.is_empty());
}

#[test]
fn try_judges_by_a_file_that_is_not_in_force_and_at_every_kind_of_port() {
    let mut world = World::new("");
    let [pem, key] = certificate(&world, "one.example");
    world.set("tls.certificate", Some(pem));
    world.set("tls.key", Some(key));
    world.set("auth.via", Some(text("dovecot")));
    world.reload();
    let candidate = |world: &World, change: &dyn Fn(&mut World)| {
        let mut other =
            World { directory: tempfile::tempdir().unwrap(), guard: Guard::nobody(), file: world.file.clone() };
        other.guard.config = other.directory.path().join("new.toml");
        change(&mut other);
        other
    };
    let said = |file: &std::path::Path, words: &str| {
        let output = Command::new(BINARY).arg("try").args(words.split(' ')).arg("--config").arg(file).output().unwrap();
        String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
    };
    let mail = "--from 192.0.2.1 --mail-from a@b.example --rcpt-to u@example.org";
    let check = |change: &dyn Fn(&mut World), words: &str, parts: &[&str]| {
        let other = candidate(&world, change);
        let told = said(&other.config(), words);
        for part in parts {
            assert!(told.contains(part), "no {part:?} in {told}");
        }
    };
    check(
        &|new| new.set("relay.domains", Some(list(&["example.net"]))),
        mail,
        &["Judged by", "which is not in force: relay.domains", "Relay access denied"],
    );
    check(&|new| new.set("exempt", Some(list(&["192.0.2.1"]))), mail, &["exempt: no limit", "mail server's own reply"]);
    check(&|new| new.set("limits.messages_per_hour", Some(Value::Integer(9))), mail, &["messages_per_hour: 0 of 9"]);
    check(
        &|new| new.set("limits.recipients", Some(Value::Integer(0))),
        mail,
        &["limits.recipients must be", "new.toml:"],
    );
    check(&|new| new.write(), mail, &["220 mx.example.org", "mail server's own reply"]);
    let unchanged = said(&world.config(), mail);
    assert!(!unchanged.contains("Judged by"), "{unchanged}");
    check(
        &|new| new.set("listen.0.role", Some(text("submission"))),
        "--from 192.0.2.1 --role submission --mail-from a@b.example",
        &["> MAIL FROM", "530"],
    );
    check(
        &|new| new.set("listen.0.role", Some(text("submission"))),
        "--from 192.0.2.1 --role submission --user ann --mail-from a@b.example --rcpt-to x@y.example",
        &["AUTH as ann", "235", "mail server's own reply"],
    );
    check(&|new| new.write(), "--from 192.0.2.1 --role submissions", &["no [[listen]] has role = \"submissions\""]);
    check(
        &|new| new.set("listen.0.proxy_protocol", Some(list(&["192.0.2.77"]))),
        "--from 192.0.2.1",
        &["through a balancer (proxy_protocol), in whose header 192.0.2.1 stands"],
    );
    let status = status(&world.config());
    assert!(status.contains("generation 2"), "a try changes nothing: {status}");
}

/// Milliseconds since 1970 of a time in an answer.
fn ms(time: &Json) -> i64 {
    serde_json::from_value::<smtp_guard::clock::WallTime>(time.clone()).unwrap().as_ms()
}
