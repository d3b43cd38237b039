//! Facts from DNS by a real BIND: right answers, a server that freezes, dies and comes back, and zones that are dead, also many of
//! them at once.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::net::{IpAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use smtp_guard::bound::Bound;
use smtp_guard::facts::dns::{Failure, Kind, Meter, Resolver, Told, Zone};
use smtp_guard_tests::{Guard, Host, Named, World, wait_for};
use tokio::time::Instant;

use crate::places::{Backend, Client, Served, Stopping, at_home_everywhere, tell};

/// Long enough for anything that is answered.
const PATIENT: Duration = Duration::from_secs(20);
/// What a silent server costs.
const FAIR: Duration = Duration::from_millis(1500);

const ZONE: &str = r#"
mx.example. MX 10 mail.mx.example.
mail.mx.example. A 192.0.2.1
mail.mx.example. AAAA 2001:db8::1
a.example. A 192.0.2.2
six.example. AAAA 2001:db8::2
null.example. MX 0 .
two.example. MX 0 .
two.example. MX 10 mail.mx.example.
ten.example. MX 10 .
text.example. TXT "no mail here"
deep.empty.example. A 192.0.2.3
alias.example. CNAME mx.example.
dangling.example. CNAME gone.example.
circle.example. CNAME elcric.example.
elcric.example. CNAME circle.example.
xn--bcher-kva.example. MX 10 mail.mx.example.
1.2.0.192.in-addr.arpa. PTR Mail.MX.example.
2.2.0.192.in-addr.arpa. PTR mail.mx.example.
3.2.0.192.in-addr.arpa. CNAME 3.0-63.2.0.192.in-addr.arpa.
3.0-63.2.0.192.in-addr.arpa. PTR a.example.
4.2.0.192.in-addr.arpa. PTR a\013\010b.example.
5.2.0.192.in-addr.arpa. TXT "no name"
1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa. PTR mail.mx.example.
2.0.0.127.bl.example. A 127.0.0.2
1.2.0.192.bl.example. A 127.0.0.4
2.2.0.192.bl.example. A 127.0.0.99
3.2.0.192.bl.example. A 127.255.255.254
4.2.0.192.bl.example. A 192.0.2.80
1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.bl.example. A 127.0.0.3
"#;

const FACTS: &[(&str, &str, &str)] = &[
    ("sender", "mx.example", "Ok(Exists)"),
    ("sender", "MX.EXAMPLE", "Ok(Exists)"),
    ("sender", "a.example", "Ok(Exists)"),
    ("sender", "six.example", "Ok(Exists)"),
    ("sender", "null.example", "Ok(NullMx)"),
    ("sender", "two.example", "Ok(Exists)"),
    ("sender", "ten.example", "Ok(Exists)"),
    ("sender", "alias.example", "Ok(Exists)"),
    ("sender", "xn--bcher-kva.example", "Ok(Exists)"),
    ("sender", "text.example", "Ok(Missing)"),
    ("sender", "empty.example", "Ok(Missing)"),
    ("sender", "gone.example", "Ok(Missing)"),
    ("sender", "dangling.example", "Ok(Missing)"),
    ("sender", "circle.example", "Err(ServFail)"),
    ("reverse", "192.0.2.1", "Ok(Names { names: [\"mail.mx.example\"], forward: Some(Confirmed) })"),
    ("reverse", "::ffff:192.0.2.1", "Ok(Names { names: [\"mail.mx.example\"], forward: Some(Confirmed) })"),
    ("reverse", "2001:db8::1", "Ok(Names { names: [\"mail.mx.example\"], forward: Some(Confirmed) })"),
    ("reverse", "192.0.2.2", "Ok(Names { names: [\"mail.mx.example\"], forward: Some(Mismatch) })"),
    ("reverse", "192.0.2.3", "Ok(Names { names: [\"a.example\"], forward: Some(Mismatch) })"),
    ("reverse", "192.0.2.4", "Ok(None)"),
    ("reverse", "192.0.2.5", "Ok(None)"),
    ("reverse", "192.0.2.6", "Ok(None)"),
    // Its 100 names (more BIND takes no longer) come over TCP, in an order of its choice.
    ("names", "192.0.2.200", "16 names of 100"),
    ("listed", "127.0.0.2", "Ok(Some(127.0.0.2))"),
    ("listed", "192.0.2.1", "Ok(Some(127.0.0.4))"),
    ("listed", "192.0.2.2", "Ok(None)"),
    ("listed", "192.0.2.3", "Err(ListRefuses)"),
    ("listed", "192.0.2.4", "Ok(None)"),
    ("listed", "192.0.2.5", "Ok(None)"),
    ("listed", "2001:db8::1", "Ok(Some(127.0.0.3))"),
];

/// Counts look-ups that were not even tried.
#[derive(Default)]
struct Denied(AtomicUsize);

impl Meter for Denied {
    fn lookup(&self, _: Kind, told: Told) {
        self.0.fetch_add(usize::from(told == Told::Failed(Failure::ServersSilent)), Ordering::Relaxed);
    }

    fn bound_reached(&self, _: Bound) {}
}

async fn ask(resolver: &Resolver, kind: &str, what: &str, patience: Duration) -> String {
    let deadline = Instant::now() + patience;
    let client = || what.parse().unwrap();
    match kind {
        "sender" => format!("{:?}", resolver.sender_domain(what, deadline).await),
        "reverse" => format!("{:?}", resolver.reverse(client(), true, deadline).await),
        "names" => {
            let found = format!("{:?}", resolver.reverse(client(), false, deadline).await);
            format!("{} names of 100", found.matches(".many.example").count())
        }
        _ => {
            let replies = vec!["127.0.0.2".parse().unwrap()..="127.0.0.11".parse().unwrap()];
            let zone = Zone { name: "bl.example".into(), weight: 1, replies };
            format!("{:?}", resolver.listed(&zone, client(), deadline).await)
        }
    }
}

/// What becomes of look-ups for `count` domains of `zone` that nobody has asked for before, all at once.
async fn fresh(resolver: &Resolver, zone: &str, count: usize, patience: Duration) -> Vec<String> {
    let mut asked = Vec::new();
    for n in 0..count {
        let (resolver, domain) = (resolver.clone(), format!("n{n}.{zone}"));
        asked.push(tokio::spawn(async move { ask(&resolver, "sender", &domain, patience).await }));
    }
    let mut found = Vec::new();
    for asked in asked {
        found.push(asked.await.unwrap());
    }
    found
}

/// The server has fallen silent: a few look-ups wait in vain, then hardly any is tried; what is known stays known.
async fn silent(resolver: &Resolver, denied: &Denied, word: &str) {
    let before = denied.0.load(Ordering::Relaxed);
    let first = fresh(resolver, &format!("first.{word}.example"), 8, FAIR).await;
    assert!(first.iter().all(|found| found == "Err(TimedOut)"), "{first:?}");
    let later = fresh(resolver, &format!("later.{word}.example"), 100, FAIR).await;
    assert!(later.iter().all(|found| found.starts_with("Err(")), "{later:?}");
    assert!(denied.0.load(Ordering::Relaxed) - before > 50, "{later:?}");
    assert_eq!(ask(resolver, "sender", "mx.example", FAIR).await, "Ok(Exists)");
}

/// The server answers again: one trial finds it out, then all are served.
async fn back(resolver: &Resolver, word: &str) {
    for n in 0..100 {
        if ask(resolver, "sender", &format!("try{n}.{word}.example"), FAIR).await == "Ok(Missing)" {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let found = fresh(resolver, &format!("back.{word}.example"), 20, PATIENT).await;
    assert_eq!(found, ["Ok(Missing)"; 20]);
}

#[test]
#[ignore = "needs root and BPF"]
fn bind_answers_freezes_dies_and_comes_back() {
    let world = World::new();
    let many = (0..100).map(|n| format!("200.2.0.192.in-addr.arpa. PTR h{n}.many.example.\n"));
    let mut named = Named::start(&world, &(ZONE.to_owned() + &many.collect::<String>()));
    println!("{}", Named::version());
    world.enter(Host::Edge);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let denied = Arc::<Denied>::default();
        let server = format!("{}:53", World::BACKEND).parse().unwrap();
        let resolver = Resolver::new(&[server], Arc::clone(&denied) as Arc<dyn Meter>).unwrap();
        for (kind, what, found) in FACTS {
            let answer = ask(&resolver, kind, what, PATIENT).await;
            assert_eq!(answer, *found, "{kind} {what}\n{}", named.log());
        }
        // Zones of strangers are dead, as many as there may be; the server isn't.
        for round in 0..3 {
            let dead = fresh(&resolver, &format!("r{round}.dead"), 10, FAIR).await;
            assert!(dead.iter().all(|found| found.starts_with("Err(")), "{dead:?}");
            assert_eq!(ask(&resolver, "sender", &format!("no{round}.example"), PATIENT).await, "Ok(Missing)");
        }
        named.freeze();
        silent(&resolver, &denied, "frozen").await;
        named.thaw();
        back(&resolver, "thawed").await;
        named.kill9();
        silent(&resolver, &denied, "killed").await;
        named.restart(&world);
        back(&resolver, "restarted").await;
    });
}

/// Sources that ask for dead zones, and sessions of each.
const HOSTILE: [usize; 2] = [14, 20];
/// Clean senders, and as many that are listed.
const SENDERS: usize = 30;
/// Zones whose server never answers.
const DEAD: usize = 50;

/// What RCPT hears from `from` on behalf of `domain`; one who is taken sends a message. Where it took to the end.
fn deliver(from: IpAddr, domain: &str) -> (String, Served) {
    let began = std::time::Instant::now();
    let mut client = Client::connect(from, &format!("{}:25", World::EDGE_FOR_CLIENT)).unwrap();
    assert_eq!(client.code(), "220");
    let greeting = began.elapsed();
    assert_eq!(client.say("EHLO client.example"), "250");
    assert_eq!(client.say(&format!("MAIL FROM:<a@{domain}>")), "250");
    let mut said = client.say("RCPT TO:<alice@example.org>");
    if said == "250" {
        assert_eq!(client.say("DATA"), "354");
        said = client.say("Subject: x\r\n\r\nx\r\n.");
    }
    (said, Served { greeting, dot: began.elapsed() })
}

#[test]
#[ignore = "needs root and BPF"]
fn c1_dead_zones_of_some_keep_nobody_else_from_dns() {
    // More than there are sessions: only places for look-ups are rare.
    check_dead_zones("400");
}

#[test]
#[ignore = "needs root and BPF"]
fn c1_nor_from_a_backend_that_takes_fewer_connections_than_there_are_sessions() {
    check_dead_zones("90");
}

/// What 30 clean and 30 listed senders hear while [`HOSTILE`] ask for dead zones.
fn check_dead_zones(backend_connections: &str) {
    let world = World::new();
    let backend = Backend::start(&world);
    let mut zone = "ns.silent. A 10.77.3.1\n".to_owned();
    (0..DEAD).for_each(|n| zone += &format!("dead{n}. NS ns.silent.\n"));
    for n in 0..SENDERS {
        zone += &format!("clean{n}.example. MX 10 mail.clean{n}.example.\nmail.clean{n}.example. A 192.0.2.1\n");
        zone += &format!("1.{}.18.198.bl.example. A 127.0.0.2\n", SENDERS + n);
    }
    let _named = Named::start(&world, &zone);
    let servers = format!("[\"{}\"]", World::BACKEND);
    let guard = Guard::start(
        &world,
        &[
            ("dns.servers", &servers),
            ("backend.connections", backend_connections),
            ("checks.sender_domain", "\"enforce\""),
            ("checks.dnsbl", "\"enforce\""),
            ("+", "[[dnsbl]]\nzone = \"bl.example\""),
        ],
    );
    at_home_everywhere(&world);
    let (stop, asked) = (AtomicBool::new(false), AtomicUsize::new(0));
    let heard = std::thread::scope(|scope| {
        // Hears all questions, and never answers.
        let silent = scope.spawn(|| {
            world.enter(Host::Edge);
            UdpSocket::bind("10.77.3.1:53").unwrap()
        });
        let _silent = silent.join().unwrap();
        let (world, stop, asked) = (&world, &stop, &asked);
        let stopping = Stopping(stop);
        let [sources, sessions] = HOSTILE;
        for session in 0..sources * sessions {
            scope.spawn(move || {
                world.enter(Host::Attacker);
                let from = format!("198.19.{}.1", session % sources).parse().unwrap();
                while !stop.load(Ordering::Relaxed) {
                    let Some(mut client) = Client::connect(from, &format!("{}:25", World::EDGE_FOR_ATTACKER)) else {
                        continue;
                    };
                    let mut said = [client.code(), client.say("EHLO x")].concat();
                    while !said.is_empty() && !stop.load(Ordering::Relaxed) {
                        let n = asked.fetch_add(1, Ordering::Relaxed);
                        client.say(&format!("MAIL FROM:<a@n{n}.dead{}>", n % DEAD));
                        client.say("RCPT TO:<alice@example.org>");
                        said = client.say("RSET");
                    }
                }
            });
        }
        let all = || (asked.load(Ordering::Relaxed) >= sources * sessions).then_some(());
        wait_for("all sessions ask", all, || guard.metrics());
        let heard: Vec<_> = (0..2 * SENDERS)
            .map(|n| {
                let from = format!("198.18.{n}.1").parse().unwrap();
                scope.spawn(move || {
                    world.enter(Host::Client);
                    // Not all at once.
                    std::thread::sleep(Duration::from_millis(50) * (n % SENDERS) as u32);
                    deliver(from, &format!("clean{}.example", n % SENDERS))
                })
            })
            .collect();
        let heard: Vec<_> = heard.into_iter().map(|client| client.join().unwrap()).collect();
        drop(stopping);
        heard
    });
    let (codes, served): (Vec<_>, Vec<_>) = heard.into_iter().unzip();
    println!(
        "{backend_connections} connections to the backend, {} mails of dead zones begun",
        asked.load(Ordering::Relaxed)
    );
    tell("30 clean senders", &served[..SENDERS]);
    tell("30 listed senders, refused", &served[SENDERS..]);
    let of = |codes: &[String], class| codes.iter().filter(|code| code.starts_with(class)).count();
    let (clean, listed) = codes.split_at(SENDERS);
    assert_eq!((of(clean, '2'), of(listed, '5')), (SENDERS, SENDERS), "{codes:?}\n{}", guard.metrics());
    drop(guard);
    backend.end(&world);
}
