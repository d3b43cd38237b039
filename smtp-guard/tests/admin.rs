//! The admin API over a real Unix socket: the command line's client on one side, a stand-in for the ledger on the other.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that can't go on has failed")]

mod json_page;

use std::collections::BTreeMap;
use std::io::{BufRead as _, Read as _, Write as _};
use std::net::IpAddr;
use std::ops::Bound::{Excluded, Unbounded};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use json_page::Page;
use smtp_guard::addr::Ipv6Prefix;
use smtp_guard::blocklist::State;
use smtp_guard::bound::Bound;
use smtp_guard::cli::admin_client::AdminClient;
use smtp_guard::clock::{Instant, WallTime};
use smtp_guard::config::{Config, Limits};
use smtp_guard::decision::{Decision, Entry, Explanation, Imported, Kept, Name, Operator, Part};
use smtp_guard::edge::events::Sample;
use smtp_guard::events::{Bus, KEPT, What};
use smtp_guard::fleet::FleetStatus;
use smtp_guard::gate::Ignored;
use smtp_guard::key::User;
use smtp_guard::key::Who;
use smtp_guard::observe::admin::{self, Add, Control, Refusal, Socket};
use smtp_guard::observe::attempt::{Attempt, Rehearsal, Step};
use smtp_guard::observe::drops::Drops;
use smtp_guard::observe::follow::{FOLLOWERS, Follow, Line};
use smtp_guard::observe::live::SessionView;
use smtp_guard::observe::metrics::Metrics;
use smtp_guard::observe::reload::Reloaded;
use smtp_guard::observe::status::{
    Bans, Certificate, Configuration, Kernel, Listener, Overview, Recipients, Running, Server,
};
use smtp_guard::rates::accounts::{AccountList, AccountView, Accounts, HeldUsers, Hold};
use smtp_guard::session::Outcome;
use smtp_guard_ebpf::abi::Family;
use smtp_guard_ebpf::reason::Reason;

/// One server that nobody has looked at yet.
#[derive(Debug, Default)]
struct One {
    connections: AtomicU64,
    fleet: Option<FleetStatus>,
}

impl Running for One {
    fn sessions(&self, _most: usize) -> Vec<SessionView> {
        Vec::new()
    }

    fn listeners(&self) -> Vec<Listener> {
        vec![Listener { address: String::from("127.0.0.1:2525"), accepted: 0 }]
    }

    fn connections_limit(&self) -> u64 {
        0
    }

    fn limits(&self) -> Vec<(&'static str, u64)> {
        Vec::new()
    }

    fn store_failures(&self) -> u64 {
        0
    }

    fn servers(&self) -> Vec<Server> {
        vec![Server {
            address: String::from("127.0.0.1:2526"),
            answers: false,
            connections: 0,
            round_trip_seconds: None,
        }]
    }

    fn connections(&self) -> u64 {
        self.connections.load(Ordering::Relaxed)
    }

    fn bans(&self) -> Bans {
        Bans { all: 3, networks: 1 }
    }

    fn held_users(&self) -> HeldUsers {
        HeldUsers { count: 1, names: vec![String::from("ann")] }
    }

    fn recipients(&self) -> Recipients {
        Recipients { known: None, last_read: None, catch_all: Vec::new(), unknown_wordings: Vec::new(), trouble: None }
    }

    fn fleet(&self) -> Option<FleetStatus> {
        self.fleet.clone()
    }

    fn webhook(&self) -> Option<smtp_guard_core::webhook::WebhookStatus> {
        None
    }

    fn is_dns_silent(&self) -> bool {
        false
    }

    fn tls_trouble(&self) -> Option<String> {
        None
    }

    fn store_trouble(&self) -> Option<String> {
        None
    }

    fn blocklists(&self) -> Vec<State> {
        Vec::new()
    }

    fn kernel(&self) -> Kernel {
        Kernel { present: false, text: String::from("no [edge] interfaces are configured") }
    }

    fn packets(&self) -> Vec<(Reason, Family, u64)> {
        Vec::new()
    }

    fn certificates(&self, _now: WallTime) -> Vec<Certificate> {
        Vec::new()
    }

    fn warnings(&self) -> Vec<String> {
        Vec::new()
    }

    fn configuration(&self) -> Configuration {
        Configuration {
            generation: 1,
            since: WallTime::from_ms(0),
            last_reload: None,
            waiting: Vec::new(),
            earlier_sessions: 0,
        }
    }
}

/// Decisions in memory. 192.0.2.99 is exempt; 192.0.2.98 finds the ledger gone. Accounts are real ones.
#[derive(Clone, Default)]
struct Ledger(Arc<Mutex<BTreeMap<Who, Decision>>>, Arc<Accounts>);

fn limits() -> Limits {
    Config::builtin().limits
}

const EXEMPT: &str = "192.0.2.99";
const GONE: &str = "192.0.2.98";

impl Control for Ledger {
    async fn decisions(&self, after: Option<String>) -> Result<Part, Refusal> {
        let all = self.0.lock().unwrap();
        let after = after.map(|after| after.parse::<Who>().map_err(|_| Refusal::Bad(format!("{after:?} is no place"))));
        let after = after.transpose()?.map_or(Unbounded, Excluded);
        let decisions: Vec<_> = all.range((after, Unbounded)).map(|(_, decision)| decision.clone()).take(2).collect();
        let next = decisions.get(1).map(|decision| decision.source.clone());
        Ok(Part { decisions, next })
    }

    async fn latest(&self) -> Result<Vec<Decision>, Refusal> {
        Ok(self.0.lock().unwrap().values().cloned().collect())
    }

    async fn suspects(&self) -> Result<Vec<smtp_guard::decision::Suspect>, Refusal> {
        Ok(Vec::new())
    }

    async fn add(&self, ip: Who, length: Duration, text: String, by: Operator) -> Result<Kept<Decision>, Refusal> {
        assert_eq!(
            by,
            Operator { uid: Some(rustix::process::getuid().as_raw()), local: false },
            "whoever runs the client"
        );
        match ip.to_string().as_str() {
            EXEMPT => return Err(Refusal::Refused(format!("{ip} is exempt"))),
            GONE => return Err(Refusal::Unavailable(String::from("the ledger has stopped"))),
            _ => {}
        }
        let decision = Decision {
            source: ip.to_string(),
            reason: String::from("operator"),
            text,
            origin: String::from("operator"),
            origin_name: None,
            made: WallTime::from_ms(0),
            until: WallTime::from_ms(i64::try_from(length.as_millis()).unwrap()),
            repeat: 1,
            evidence: Vec::new(),
        };
        self.0.lock().unwrap().insert(ip, decision.clone());
        Ok(saved(decision))
    }

    async fn import(
        &self,
        _: Name,
        entries: Vec<Entry>,
        text: String,
        by: Operator,
    ) -> Result<Kept<Imported>, Refusal> {
        let mut done = Imported::default();
        for (place, Entry { who, seconds, text: own }) in entries.into_iter().enumerate() {
            let length = Duration::from_secs(seconds.unwrap_or_default());
            match self.add(who, length, own.unwrap_or_else(|| text.clone()), by).await {
                Ok(_) => done.added += 1,
                Err(Refusal::Refused(why)) => done.refused.push((place, why)),
                Err(unavailable) => return Err(unavailable),
            }
        }
        Ok(saved(done))
    }

    async fn delete(&self, ip: Who, _: Operator) -> Result<Option<Kept<Decision>>, Refusal> {
        Ok(self.0.lock().unwrap().remove(&ip).map(saved))
    }

    async fn delete_all(&self, _: Operator) -> Result<Kept<usize>, Refusal> {
        Ok(saved(std::mem::take(&mut *self.0.lock().unwrap()).len()))
    }

    async fn accounts(&self) -> Result<AccountList, Refusal> {
        Ok(self.1.list(&limits(), &smtp_guard::clock::both(), admin::ACCOUNTS))
    }

    async fn account(&self, user: User) -> Result<Option<AccountView>, Refusal> {
        Ok(self.1.view(&limits(), &user, &smtp_guard::clock::both()))
    }

    async fn hold(
        &self,
        user: User,
        length: Option<Duration>,
        text: String,
        _: Operator,
    ) -> Result<AccountView, Refusal> {
        let since = smtp_guard::clock::now();
        let until = length.map_or(Instant::NEVER, |length| since.after(length));
        self.1.hold(user.clone(), Hold { since, until, text }).unwrap();
        Ok(self.account(user).await?.unwrap())
    }

    async fn release(&self, user: User, _: Operator) -> Result<Option<AccountView>, Refusal> {
        let view = self.account(user.clone()).await?;
        self.1.release(&user);
        Ok(view)
    }

    async fn reload(&self, dry_run: bool, _: Operator) -> Result<Reloaded, Refusal> {
        if !dry_run {
            return Err(Refusal::Bad(String::from("error: limits.recipients must be 1 to 100000")));
        }
        let file = "/etc/smtp-guard/smtp-guard.toml".to_owned();
        Ok(Reloaded { generation: 1, dry_run, file, changes: Vec::new(), warnings: Vec::new(), earlier_sessions: 0 })
    }

    async fn attempt(&self, attempt: Attempt) -> Result<Rehearsal, Refusal> {
        let explanation = self.explain(attempt.ip).await?;
        let step = Step { said: format!("EHLO {}", attempt.helo), ..Step::default() };
        Ok(Rehearsal { by: None, explanation, rules: Vec::new(), found: Vec::new(), steps: vec![step] })
    }

    async fn explain(&self, ip: IpAddr) -> Result<Explanation, Refusal> {
        Ok(Explanation {
            source: ip.to_string(),
            exempt: ip.to_string() == EXEMPT,
            may_relay: false,
            familiar: false,
            decision: self.0.lock().unwrap().get(&ip.into()).cloned(),
            networks: Vec::new(),
            listed: Vec::new(),
            deferred_until: None,
            deferral: None,
            ledger: None,
            counts: Vec::new(),
            connections: Some(2),
            kernel: None,
            notes: Vec::new(),
        })
    }
}

fn saved<T>(what: T) -> Kept<T> {
    Kept { what, saved: true, unconfirmed: Vec::new() }
}

/// A guard's admin API in a runtime of its own.
struct Guard {
    directory: tempfile::TempDir,
    metrics: Metrics,
    running: Arc<One>,
    events: Bus,
    drops: Arc<Drops>,
    _runtime: tokio::runtime::Runtime,
}

impl Guard {
    fn start() -> Self {
        Self::of(None)
    }

    fn of(fleet: Option<FleetStatus>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let metrics = Metrics::new();
        let drops = Arc::new(Drops::new(Ipv6Prefix::default(), metrics.clone()));
        let running = Arc::new(One { fleet, ..One::default() });
        let counted = metrics.clone();
        let events = Bus::new(|_| {}, move || counted.bound_reached(Bound::EventBus));
        let overview = Overview {
            started: smtp_guard::clock::now(),
            running: Arc::clone(&running) as Arc<dyn Running>,
            metrics: metrics.clone(),
            events: events.clone(),
            bounds: metrics.bounds().clone(),
            drops: Arc::clone(&drops),
        };
        let socket = {
            let _entered = runtime.enter();
            Socket::bind(&directory.path().join("admin.sock")).unwrap()
        };
        runtime.spawn(admin::serve(socket, Ledger::default(), overview, 16));
        Self { directory, metrics, running, events, drops, _runtime: runtime }
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("admin.sock")
    }

    fn client(&self) -> AdminClient {
        AdminClient::new(self.socket())
    }

    /// Writes the configuration by which commands find it.
    fn configure(&self) {
        let config = format!(
            "[[listen]]\naddress = \"127.0.0.1:2525\"\n[backend]\nservers = [\"127.0.0.1:2526\"]\n\
             [relay]\ndomains = [\"example.org\"]\n[admin]\nsocket = \"{}\"\n",
            self.socket().display()
        );
        std::fs::write(self.directory.path().join("guard.toml"), config).unwrap();
    }
}

fn add(ip: &str, seconds: u64, reason: &str) -> Add {
    Add { ip: ip.parse().unwrap(), seconds, reason: reason.to_owned(), local: false }
}

#[test]
fn a_fleet_is_shown_and_without_one_the_next_step_is() {
    let refused = Guard::start().client().fleet().unwrap_err().to_string();
    for words in ["this edge takes part in no fleet", "url, key_file and node", "smtp-guard reload"] {
        assert!(refused.contains(words), "{refused}");
    }
    let fleet = FleetStatus {
        name: "edge".to_owned(),
        node: "mx1".to_owned(),
        sends: true,
        receives: true,
        connected: false,
        since: WallTime::from_ms(0),
        trouble: Some("refused".to_owned()),
        server: None,
        clock_offset_seconds: None,
        kept: 1,
        lost: 0,
        reports_sent: 0,
        reports_heard: 0,
        decisions_known: 0,
        history_sources: 0,
        snapshots: 0,
        ignored: Vec::new(),
        nodes: Vec::new(),
    };
    let guard = Guard::of(Some(fleet.clone()));
    guard.metrics.foreign(Some(Ignored::Exempt));
    guard.client().add(&add("192.0.2.1", 3600, "by the operator here")).unwrap();
    let view = guard.client().fleet().unwrap();
    assert_eq!((view.fleet, view.in_force.len(), view.exempted), (fleet.clone(), 0, 1));
    assert_eq!(guard.client().status().unwrap().fleet, Some(fleet));
    let directory = guard.directory.path();
    guard.configure();
    for line in ["fleet status", "status", "top"] {
        check_documented(directory, &Page::read(), line);
    }
    check_cli(directory, "fleet status", 0, "fleet      edge: NOT connected since 1970-01-01 00:00:00 UTC");
    check_cli(directory, "status", 0, "fleet          edge: NOT connected since");
}

#[test]
fn decisions_are_made_listed_explained_and_lifted() {
    let guard = Guard::start();
    let client = guard.client();
    assert!(client.decisions().unwrap().is_empty());
    let made = client.add(&add("192.0.2.1", 3600, "too much")).unwrap().what;
    assert_eq!((made.source.as_str(), made.text.as_str()), ("192.0.2.1", "too much"));
    assert_eq!(made.until.as_ms(), 3_600_000);
    client.add(&add("::ffff:192.0.2.2", 1, "x")).unwrap();
    client.add(&add("2001:db8::1", 1, "x")).unwrap();
    client.add(&add("198.51.100.0/24", 1, "x")).unwrap();
    let sources: Vec<_> = client.decisions().unwrap().into_iter().map(|d| d.source).collect();
    // Two at a time; those that end first.
    assert_eq!(sources, ["192.0.2.2", "198.51.100.0/24", "2001:db8::1", "192.0.2.1"]);
    assert!(client.explain("192.0.2.1".parse().unwrap()).unwrap().decision.is_some());
    assert!(client.explain("2001:db8::2".parse().unwrap()).unwrap().decision.is_none());
    assert_eq!(client.delete("192.0.2.1".parse().unwrap(), false).unwrap().what.source, "192.0.2.1");
    assert_eq!(client.delete("198.51.100.0/24".parse().unwrap(), false).unwrap().what.source, "198.51.100.0/24");
    let error = client.delete("192.0.2.1".parse().unwrap(), false).unwrap_err();
    assert_eq!(error.to_string(), "192.0.2.1 is not blocked");
    assert_eq!(client.delete_all(false).unwrap().what.deleted, 2);
}

#[test]
fn the_status_is_the_guards() {
    let guard = Guard::start();
    guard.running.connections.store(1, Ordering::Relaxed);
    guard.metrics.message(Outcome::Accepted);
    let status = guard.client().status().unwrap();
    assert_eq!(status.version, env!("CARGO_PKG_VERSION"));
    assert_eq!((status.connections, status.messages.accepted), (1, 1));
    assert_eq!((status.bans_active, status.networks_active), (3, 1));
    assert_eq!(status.held_users.names, ["ann"]);
    assert_eq!(status.kernel.text, "no [edge] interfaces are configured");
}

#[test]
fn the_live_view_is_the_guards() {
    let guard = Guard::start();
    let client = guard.client();
    guard.metrics.connection_opened();
    guard.running.connections.store(1, Ordering::Relaxed);
    guard.metrics.rejected(Reason::Relay);
    client.add(&add("192.0.2.1", 3600, "too much")).unwrap();
    let sample = Sample {
        at: smtp_guard::clock::now(),
        ip: "192.0.2.1".parse().unwrap(),
        port: 25,
        reason: Reason::Operator,
        stands_for: 9,
    };
    guard.drops.take(&[sample], smtp_guard::clock::now());
    let live = client.live().unwrap();
    assert_eq!((live.instance, live.connections_total, live.status.connections), (std::process::id(), 1, 1));
    assert!(live.rejections.iter().any(|counted| counted.reason == "relay" && counted.count == 1), "{live:?}");
    assert_eq!((live.kernel_packets.as_slice(), live.decisions[0].source.as_str()), ([].as_slice(), "192.0.2.1"));
    assert_eq!((live.drops.by_source[0].reason.as_str(), live.drops.by_source[0].packets), ("operator", 9));
}

/// The numbers of the events that `client` is shown by `asked`, at most `most`, and how many were missed.
fn shown(client: &AdminClient, asked: Follow, most: usize) -> (Vec<u64>, u64) {
    let (mut numbers, mut missed) = (Vec::new(), 0);
    let enough = client.events(asked, |line| {
        match line {
            Line::Event(event) => numbers.push(event.number),
            Line::Lost { lost } => missed += lost,
        }
        if numbers.len() < most { Ok(()) } else { Err(std::io::Error::other("enough").into()) }
    });
    assert!(enough.is_ok() || numbers.len() == most, "{enough:?}");
    (numbers, missed)
}

fn happen(events: &Bus, times: u64) {
    for _ in 0..times {
        events.publish(WallTime::from_ms(0), What::UserReleased { user: String::from("ann") });
    }
}

#[test]
fn events_are_shown_and_followed() {
    let guard = Guard::start();
    let (client, kept) = (guard.client(), KEPT as u64);
    let (now, all) = (Follow::default(), usize::MAX);
    assert_eq!(shown(&client, now, all), (vec![], 0));
    happen(&guard.events, kept + 5);
    assert_eq!(shown(&client, now, all), ((6..=kept + 5).collect(), 0));
    assert_eq!(shown(&client, Follow { after: Some(kept + 2), ..now }, all), ((kept + 3..=kept + 5).collect(), 0));
    assert_eq!(shown(&client, Follow { after: Some(2), ..now }, 1), (vec![6], 3), "it came too late for some");
    let follow = Follow { follow: true, after: None };
    assert_eq!(shown(&client, follow, 10), ((kept - 4..=kept + 5).collect(), 0));
    let after = Some(kept + 5);
    let (follower, events) = (guard.client(), guard.events.clone());
    let waiting = std::thread::spawn(move || shown(&follower, Follow { follow: true, after }, 3));
    happen(&events, 3);
    assert_eq!(waiting.join().unwrap(), (vec![kept + 6, kept + 7, kept + 8], 0));
    check(&guard, "GET /events?after=x", "", 400, "");
}

/// Asks to follow and reads nothing yet.
fn follow(guard: &Guard) -> UnixStream {
    let mut stream = UnixStream::connect(guard.socket()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream.write_all(b"GET /events?follow=true&after=0 HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let mut head = [0; 12];
    stream.read_exact(&mut head).unwrap();
    assert_eq!(&head, b"HTTP/1.1 200");
    stream
}

#[test]
fn a_follower_that_does_not_read_misses_events_and_there_are_only_a_few_followers() {
    let guard = Guard::start();
    let mut followers: Vec<_> = (0..FOLLOWERS).map(|_| follow(&guard)).collect();
    check(&guard, "GET /events?follow=true", "", 503, "no room for more");
    let times = 40 * KEPT as u64;
    happen(&guard.events, times);
    let (mut seen, mut lost, mut rest) = (0, 0, String::new());
    let mut slow = std::io::BufReader::new(followers.remove(0));
    while seen + lost < times {
        rest.clear();
        assert!(slow.read_line(&mut rest).unwrap() > 0, "{seen} {lost}");
        // The rest is how HTTP says where a part begins.
        match serde_json::from_str::<Line>(&rest) {
            Ok(Line::Event(event)) => {
                seen += 1;
                assert_eq!(event.number, seen + lost);
            }
            Ok(Line::Lost { lost: more }) => lost += more,
            Err(_) => {}
        }
    }
    assert_eq!(seen + lost, times);
    assert!(lost > 0);
    let reached: Vec<_> = guard.metrics.bounds().view().into_iter().map(|bound| bound.name).collect();
    assert_eq!(reached, ["event_bus", "event_followers"]);
}

/// What `client` would never send: `request` is answered with `status`, and with JSON whose error holds `error`.
#[track_caller]
fn check(guard: &Guard, request: &str, body: &str, status: u16, error: &str) {
    let mut stream = UnixStream::connect(guard.socket()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let length = body.len();
    let head = format!("{request} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    // A body that is too long is refused before it has been read.
    _ = stream.write_all(body.as_bytes());
    let mut reply = Vec::new();
    _ = stream.read_to_end(&mut reply);
    let reply = String::from_utf8(reply).unwrap();
    assert!(reply.starts_with(&format!("HTTP/1.1 {status} ")), "{request} {body:.80}: {reply}");
    let (_, body) = reply.split_once("\r\n\r\n").unwrap();
    let failure: admin::Failure = serde_json::from_str(body).unwrap();
    assert!(failure.error.contains(error), "{request}: {}", failure.error);
}

#[test]
fn bad_requests_get_an_error_that_says_why() {
    let guard = Guard::start();
    let ban = |ip: &str, seconds: &str, reason: &str| {
        format!("{{\"ip\": \"{ip}\", \"seconds\": {seconds}, \"reason\": \"{reason}\"}}")
    };
    let post = "POST /decisions";
    check(&guard, post, "", 400, "is not a valid ban");
    check(&guard, post, "{", 400, "is not a valid ban");
    check(&guard, post, "{\"ip\": \"192.0.2.1\", \"seconds\": 1, \"reason\": \"\", \"x\": 1}", 400, "unknown field");
    check(&guard, post, &ban("nobody", "1", "x"), 400, "is not a valid ban");
    check(&guard, post, &ban("ff04:0:c000:201::1", "1", "x"), 400, "ff04:0:c000:201::1 is a multicast address");
    check(&guard, post, &ban("0.0.0.0", "1", "x"), 400, "is the unspecified address");
    check(&guard, post, &ban("192.0.2.1", "0", "x"), 400, "seconds must be");
    check(&guard, post, &ban("192.0.2.1", "99999999999", "x"), 400, "seconds must be");
    check(&guard, post, &ban("192.0.2.1", "-1", "x"), 400, "is not a valid ban");
    check(&guard, post, &ban("192.0.2.1", "1", &"x".repeat(101)), 400, "longer than 100 bytes");
    check(&guard, post, &ban("192.0.2.1", "1", "\\u001b[2J"), 400, "control characters");
    check(&guard, post, &ban("192.0.2.1", "1", &"x".repeat(5000)), 413, "");
    check(&guard, post, &ban(EXEMPT, "1", "x"), 409, "is exempt");
    check(&guard, post, &ban(GONE, "1", "x"), 503, "has stopped");
    check(&guard, "DELETE /decisions/nobody", "", 400, "not an address or network");
    check(&guard, "DELETE /decisions/%1b%5b2J", "", 400, "\\x1b[2J");
    check(&guard, "DELETE /decisions/192.0.2.1", "", 404, "is not blocked");
    check(&guard, "GET /explain/192.0.2.0%2F24", "", 400, "not an IP address");
    let hold = |user: &str, seconds: &str, reason: &str| {
        format!("{{\"user\": \"{user}\", \"seconds\": {seconds}, \"reason\": \"{reason}\"}}")
    };
    let post = "POST /accounts";
    check(&guard, post, "{}", 400, "is not a valid hold");
    check(&guard, post, &hold(" ", "1", "x"), 400, "is not the name of a user");
    check(&guard, post, &hold("b\\u001bb", "1", "x"), 400, "is not the name of a user");
    check(&guard, post, &hold("bob", "0", "x"), 400, "seconds must be");
    check(&guard, post, &hold("bob", "null", &"x".repeat(101)), 400, "longer than 100 bytes");
    check(&guard, post, &hold("bob", "null", &"x".repeat(5000)), 413, "");
    check(&guard, "GET /accounts/%20", "", 400, "is not the name of a user");
    check(&guard, "GET /accounts/bob", "", 404, "nothing is counted of a user bob");
    check(&guard, "DELETE /accounts/bob%2fx", "", 404, "nothing is counted of a user bob/x");
    check(&guard, "PUT /accounts", "", 405, "no such method");
    check(&guard, "GET /nothing", "", 404, "no such path");
    check(&guard, "DELETE /decisions/192.0.2.0/24", "", 404, "192.0.2.0/24 is not blocked");
    check(&guard, "DELETE /decisions/192.0.2.0/33", "", 400, "not an address or network");
    check(&guard, "PUT /decisions", "", 405, "no such method");
    let import = "POST /decisions/import";
    let entries = |entries: &str| format!("{{\"entries\": [{entries}], \"reason\": \"x\"}}");
    check(&guard, import, "{", 400, "is not a valid import");
    check(&guard, import, &entries("{\"who\": \"192.0.2.0/33\"}"), 400, "give an address or a network");
    check(&guard, import, &entries("{\"who\": \"192.0.2.1\", \"seconds\": 0}"), 400, "seconds must be");
    let long = format!("{{\"who\": \"192.0.2.1\", \"text\": \"{}\"}}", "x".repeat(101));
    check(&guard, import, &entries(&long), 400, "longer than 100 bytes");
    let many = vec!["{\"who\": \"192.0.2.1\"}"; admin::IMPORT_ENTRIES + 1].join(",");
    check(&guard, import, &entries(&many), 400, "more than 8192 entries");
    check(&guard, import, &" ".repeat(5 << 20), 413, "");
    check(&guard, "GET /decisions?after=x", "", 422, "no place");
    check(&guard, "GET /decisions?before=x", "", 400, "unknown field");
    check(&guard, "GET /decisions/import", "", 405, "no such method");
}

/// The command line in front of a guard that answers: exit code, and a part of what it says.
#[track_caller]
fn check_cli(directory: &Path, line: &str, code: i32, said: &str) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_smtp-guard"));
    let words = line.split_whitespace().map(|word| word.replace('_', " "));
    command.args(words).arg("--config").arg(directory.join("guard.toml"));
    let output = command.output().unwrap();
    let text = if code == 0 { &output.stdout } else { &output.stderr };
    let text = String::from_utf8_lossy(text);
    assert_eq!(output.status.code(), Some(code), "{line}: {output:?}");
    assert!(text.contains(said), "{line}: {text}");
}

#[test]
fn the_command_line_speaks_to_it() {
    let guard = Guard::start();
    let directory = guard.directory.path();
    guard.configure();
    check_cli(directory, "decisions list", 0, "nobody is blocked");
    check_cli(directory, "decisions add 192.0.2.1 --for 1h --reason too_much", 0, "blocked until 1970-01-01 01:00:00");
    check_cli(directory, "decisions list", 0, "192.0.2.1  operator  operator  1970-01-01 01:00:00 UTC");
    check_cli(directory, "decisions list --json", 0, "\"reason\": \"operator\"");
    check_cli(directory, "explain 192.0.2.1", 0, "192.0.2.1 is blocked: blocked by the administrator.\nWhy: too much");
    check_cli(directory, "explain 192.0.2.1 --json", 0, "\"connections\": 2");
    check_cli(directory, "decisions add 192.0.2.99 --for 1h --reason x", 1, "192.0.2.99 is exempt");
    check_cli(directory, "decisions delete 192.0.2.1", 0, "no longer blocked");
    check_cli(directory, "decisions delete 192.0.2.1", 1, "192.0.2.1 is not blocked");
    check_cli(directory, "decisions delete --all", 0, "0 decisions lifted");
    check_cli(directory, "accounts list", 0, "no user has sent anything recently");
    check_cli(
        directory,
        "accounts hold Dom/B\u{e9}b@Example.org --reason stolen_password",
        0,
        "dom/béb@example.org is held until released",
    );
    check_cli(directory, "accounts list", 0, "user_held  operator");
    check_cli(directory, "accounts list --json", 0, "\"reason\": \"user_held\"");
    check_cli(directory, "explain DOM/b\u{e9}b@example.org", 0, "User dom/béb@example.org is held: stolen password.");
    check_cli(directory, "explain dom/b\u{e9}b@example.org --json", 0, "\"origin\": \"operator\"");
    check_cli(directory, "accounts release DOM/b\u{e9}b@example.org", 0, "is released");
    check_cli(directory, "accounts release bob", 1, "nothing is counted of a user bob");
    check_cli(directory, "accounts hold bob --for 1h", 0, "bob is held until 2");
    check_cli(directory, "status", 0, "kernel plane   absent: no [edge] interfaces are configured");
    check_cli(directory, "status --json", 0, "\"listeners\"");
}

/// Runs the command `line` by the configuration in `directory`, for programs.
fn as_json(directory: &Path, line: &str) -> std::process::Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_smtp-guard"));
    command.args(line.split_whitespace()).args(["--json", "--config"]).arg(directory.join("guard.toml"));
    command.output().unwrap()
}

/// What the command `line` prints is as docs/json.md has it.
#[track_caller]
fn check_documented(directory: &Path, page: &Page, line: &str) {
    let output = as_json(directory, line);
    let answers = serde_json::Deserializer::from_slice(&output.stdout).into_iter::<serde_json::Value>();
    let answers: Vec<_> = answers.collect::<Result<_, _>>().unwrap_or_else(|_| panic!("{line}: {output:?}"));
    assert!(!answers.is_empty(), "{line}: {output:?}");
    let words: Vec<_> = line.split_whitespace().collect();
    answers.iter().for_each(|answer| page.check_command(&words, answer));
}

#[test]
fn each_field_of_an_answer_is_documented() {
    let guard = Guard::start();
    let directory = guard.directory.path();
    guard.configure();
    let page = Page::read();
    let happened = What::AllLifted { count: 3 };
    guard.events.publish(WallTime::from_ms(0), happened);
    for line in [
        "check",
        "check --connect",
        "accounts hold bob --for 1h",
        "decisions add 192.0.2.1 --for 1h --reason x",
        "decisions list",
        "decisions list --all",
        "explain 192.0.2.1",
        "explain bob",
        "accounts list",
        "accounts hold ann",
        "accounts release ann",
        "status",
        "top",
        "events",
        "try --from 192.0.2.1",
        "reload --dry-run",
        "config diff",
        "decisions delete 192.0.2.1",
        "decisions delete --all",
    ] {
        check_documented(directory, &page, line);
    }
    let output = as_json(directory, "config show --defaults");
    assert!(output.status.success(), "{output:?}");
    let shown: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(shown["version"], 2, "{shown:#}");
}
