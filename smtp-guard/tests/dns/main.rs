//! Facts from DNS, held against a server on loopback that lies, fails and falls silent. What a look-up costs is counted in
//! the questions that the server saw, not in time.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test may panic")]

mod facts;
mod fairness;
mod limits;
mod server;
mod silence;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hickory_resolver::proto::rr::RecordType;
use smtp_guard::bound::Bound;
use smtp_guard::facts::dns::{Kind, Meter, Resolver, Told, Zone};
use tokio::time::Instant;

use server::{Act, Server};

/// Longer than anything that is answered takes.
const PATIENT: Duration = Duration::from_secs(60);
/// Enough for loopback, and not so long that the servers are blamed for it.
const HASTY: Duration = Duration::from_millis(800);

type Line<'a> = (&'a str, RecordType, Act);

/// Everything that was counted: `mx found`, `bound dns_lookups`.
#[derive(Debug, Default)]
pub(crate) struct Counts(Mutex<BTreeMap<String, usize>>);

impl Counts {
    fn of(&self, what: &str) -> usize {
        self.0.lock().unwrap().get(what).copied().unwrap_or_default()
    }

    fn add(&self, what: String) {
        *self.0.lock().unwrap().entry(what).or_default() += 1;
    }
}

impl Meter for Counts {
    fn lookup(&self, kind: Kind, told: Told) {
        self.add(format!("{} {}", kind.label(), told.label()));
    }

    fn bound_reached(&self, bound: Bound) {
        self.add(format!("bound {}", bound.label()));
    }
}

/// A fact that is asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Ask<'a> {
    Sender(&'a str),
    Reverse(&'a str),
    Confirmed(&'a str),
    Called(&'a str),
    /// In `bl.example`, whose replies are 127.0.0.2 to 127.0.0.11.
    Listed(&'a str),
}
use Ask::{Called, Confirmed, Listed, Reverse, Sender};

/// A server with its script, and a resolver that knows no other.
pub(crate) struct Bench {
    server: Server,
    resolver: Resolver,
    counts: Arc<Counts>,
}

impl Bench {
    async fn new(script: &[Line<'_>]) -> Self {
        let server = Server::start(script).await;
        let counts = Arc::<Counts>::default();
        let resolver = Resolver::new(&[server.address], Arc::clone(&counts) as Arc<dyn Meter>).unwrap();
        Self { server, resolver, counts }
    }

    /// What is found out within `patience`, as Rust prints it.
    async fn ask(&self, ask: Ask<'_>, patience: Duration) -> String {
        let (resolver, deadline) = (&self.resolver, Instant::now() + patience);
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        match ask {
            Sender(domain) => format!("{:?}", resolver.sender_domain(domain, deadline).await),
            Reverse(client) => format!("{:?}", resolver.reverse(ip(client), false, deadline).await),
            Called(client) => format!("{:?}", resolver.name(ip(client), deadline).await),
            Confirmed(client) => format!("{:?}", resolver.reverse(ip(client), true, deadline).await),
            Listed(client) => {
                let replies = vec!["127.0.0.2".parse().unwrap()..="127.0.0.11".parse().unwrap()];
                let zone = Zone { name: "bl.example".into(), weight: 1, replies };
                format!("{:?}", resolver.listed(&zone, ip(client), deadline).await)
            }
        }
    }

    /// The different questions that the server saw.
    fn questions(&self) -> Vec<String> {
        let mut asked = self.server.asked();
        asked.sort();
        asked.dedup();
        asked
    }
}

/// Runs `test` on a runtime of its own.
fn run(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test);
}

/// What is found out with `script`, and which questions it takes.
fn check(script: &[Line], ask: Ask, patience: Duration, found: &str, questions: &[&str]) {
    run(async {
        let bench = Bench::new(script).await;
        assert_eq!(bench.ask(ask, patience).await, found, "{ask:?} with {script:?}; asked: {:?}", bench.server.asked());
        assert_eq!(bench.questions(), questions, "{ask:?} with {script:?}");
    });
}
