//! Backends that no real server can be made to be: models of lax ones, and fakes between the sockets of the guard's relay.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test may panic")]

mod balancer;
mod client;
mod connections;
mod early;
mod endless;
mod faults;
mod lax;
mod logins;
mod pipelining;
mod places;
mod readers;
mod reuse;
mod room;
mod smuggling;
mod stalls;
mod unknowns;

#[path = "../long/mod.rs"]
mod long;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use smtp_guard::addr::BackendAddr;
use smtp_guard::config::Config;
use smtp_guard::descriptors::Plan;
use smtp_guard::edge::bans::BanTable;
use smtp_guard::events::{Bus, What};
use smtp_guard::feedback::{self, Meter};
use smtp_guard::observe::metrics::Metrics;
use smtp_guard::relay::{self, Bound, Shared};
use smtp_guard::snapshot::Snapshot;
use smtp_guard::store::Sqlite;

/// Runs a guard in front of `backend` for as long as `test` takes, which gets its address.
fn with_guard(backend: SocketAddr, test: impl FnOnce(SocketAddr)) {
    with_configured_guard(backend, |_| {}, test);
}

/// The same, with another configuration.
fn with_configured_guard(backend: SocketAddr, change: impl FnOnce(&mut Config), test: impl FnOnce(SocketAddr)) {
    with_measured_guard(backend, change, |guard, _| test(guard));
}

/// The same, with what the guard counts.
fn with_measured_guard(backend: SocketAddr, change: impl FnOnce(&mut Config), test: impl FnOnce(SocketAddr, &Metrics)) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let (state, metrics) = (tempfile::tempdir().unwrap(), Metrics::new());
    test(runtime.block_on(async { start(backend, change, state.path(), metrics.clone()) }), &metrics);
}

fn start(
    backend: SocketAddr,
    change: impl FnOnce(&mut Config),
    state: &std::path::Path,
    metrics: Metrics,
) -> SocketAddr {
    let mut config = Config::builtin();
    config.backend.servers = vec![BackendAddr::Address(backend)];
    config.relay.domains = vec!["example.org".to_owned()];
    config.listen[0].address = "127.0.0.1:0".parse().unwrap();
    change(&mut config);
    let config = Arc::new(config);
    let bans = Arc::new(BanTable::new(None, 10));
    let store = Box::new(Sqlite::open(state, config.limits.ipv6_prefix).unwrap());
    let snapshot = Arc::new(Snapshot::new(Arc::clone(&config), None));
    let (feedback, _) =
        feedback::start(Arc::clone(&snapshot), Arc::clone(&bans), store, Arc::new(Nobody), Arc::new(feedback::Alone));
    let bound = Bound::bind(&config.listen).unwrap();
    let address = bound.addresses()[0];
    let listeners = bound.listen().unwrap();
    let plan = Plan::whole(config.limits.total_connections);
    let (stopper, stop) = relay::stop();
    let shared = Shared::new(snapshot, feedback, metrics, Bus::default(), bans, &plan).unwrap();
    tokio::spawn(async move {
        listeners.serve(shared, stop, Duration::ZERO).await;
        drop(stopper);
    });
    address
}

struct Nobody;

impl Meter for Nobody {
    fn foreign(&self, _: Option<smtp_guard::gate::Ignored>) {}
    fn reported(&self, _: smtp_guard::offence::ReportKind) {}
    fn tell(&self, _: What) {}
    fn report_lost(&self) {}
    fn ban_latency(&self, _: Duration) {}
    fn bound_reached(&self, _: smtp_guard::bound::Bound) {}
}
