//! The door: `gate::admit` with the places, bans and lists of this guard. The listener lets in by it, `try` only asks.

use smtp_guard_ebpf::reason::Reason;

use super::sources::Seat;
use super::{Generation, Shared};
use crate::addr::ClientAddr;
use crate::clock::Instant;
use crate::config::Listen;
use crate::gate::{self, Arrival, Door, Tally};
use crate::session::replies;
use crate::wire::reply::Reply;

/// `addr` at one of `listeners`, as `generation` has it.
pub(super) fn arrival<'a>(
    shared: &Shared,
    generation: &Generation,
    addr: ClientAddr,
    listeners: impl IntoIterator<Item = &'a Listen>,
    now: Instant,
) -> Arrival {
    Arrival::new(addr, listeners, &generation.snapshot, shared.feedback.marks(), now)
}

/// Lets `arrival` in and counts it, or says why not.
pub(super) fn admit(shared: &Shared, generation: &Generation, arrival: &Arrival, now: Instant) -> Result<Seat, Reason> {
    let place = || shared.sources.enter(&generation.limits(), arrival.source, arrival.standing, now);
    judge(shared, generation, arrival, now, Tally::Count, place)
}

/// The outcome of [`admit`], without a change.
pub(super) fn would_admit(
    shared: &Shared,
    generation: &Generation,
    arrival: &Arrival,
    now: Instant,
) -> Result<(), Reason> {
    let place = || shared.sources.peek(&generation.limits(), arrival.source, arrival.standing, now);
    judge(shared, generation, arrival, now, Tally::Peek, place)
}

fn judge<P>(
    shared: &Shared,
    generation: &Generation,
    arrival: &Arrival,
    now: Instant,
    tally: Tally,
    place: impl FnOnce() -> Result<P, Reason>,
) -> Result<P, Reason> {
    let lists = shared.blocklists.load();
    let door = Door {
        snapshot: &generation.snapshot,
        counters: shared.feedback.counters(),
        lists: &lists,
        banned: &|source| shared.bans.banned(source, now).map(|(reason, _until)| reason),
    };
    gate::admit(&door, arrival, now, tally, place)
}

/// The reply to a client that isn't let in.
pub(super) fn reply(reason: Reason) -> Reply {
    match reason {
        Reason::TotalConnections => replies::full(),
        Reason::NetworkConnections => replies::crowded(),
        Reason::Connections | Reason::ConnectionRate => replies::busy(),
        Reason::Listed => replies::listed(),
        Reason::NoListener => replies::no_listener(),
        _ => replies::banned(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::blocklist::{Named, Protected, Table};
    use crate::config::Config;
    use crate::descriptors::Plan;
    use crate::edge::bans::BanTable;
    use crate::observe::metrics::Metrics;
    use crate::snapshot::Snapshot;

    /// Arrivals that are judged in one guard.
    const ARRIVALS: usize = 1_000;

    /// A guard with few places, a rate, an exempt host, hosts of ours, and a list.
    fn guard(limits: [u32; 3], rate: u32) -> Arc<Shared> {
        let mut config = Config::builtin();
        config.exempt = ["192.0.2.0/30".parse().unwrap()].into_iter().collect();
        config.relay.networks = ["192.0.2.16/30".parse().unwrap()].into_iter().collect();
        (config.limits.connections, config.limits.network_connections) = (limits[0], limits[1]);
        config.limits.connections_per_minute = rate;
        let config = Arc::new(config);
        let protected = Protected::new(&Config::builtin(), &[]);
        let list = crate::blocklist::parse(b"192.0.2.8/30\n", &protected).unwrap();
        let bans = Arc::new(BanTable::new(None, 100));
        let feedback = crate::feedback::tests::alone(&config, &bans);
        let snapshot = Arc::new(Snapshot::new(config, None));
        let shared = Shared::new(
            snapshot,
            feedback,
            Metrics::new(),
            crate::events::Bus::default(),
            bans,
            &Plan::whole(limits[2]),
        )
        .unwrap();
        let named = Named { name: "list".to_owned(), file: "/list".into(), list: Arc::new(list) };
        shared.blocklists.store(Arc::new(Table::new(vec![named])));
        shared
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

        /// 100 guards of 1,000 arrivals: who only looks is told what who comes is told, whatever came before.
        #[test]
        fn try_and_listener_give_the_same_verdict(
            limits in [1u32..5, 0u32..12, 1u32..20], rate in 0u32..6,
            events in prop::collection::vec((0u8..40, 0u8..10, 0u64..3_000), ARRIVALS),
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let _entered = runtime.enter();
            let shared = guard(limits, rate);
            let generation = shared.current();
            let (mut now, mut seats) = (Instant::from_ns(1), VecDeque::new());
            for (host, what, ms) in events {
                now = now.after(std::time::Duration::from_millis(ms));
                let addr = ClientAddr::new((std::net::Ipv4Addr::new(192, 0, 2, host), 25).into());
                let source = generation.snapshot.source(addr.ip());
                match what {
                    0 => drop(shared.bans.apply(source, now.after(std::time::Duration::from_secs(20)), Reason::Harvest)),
                    1 => shared.feedback.marks().history(source, true),
                    2 => drop(seats.pop_front()),
                    _ => {}
                }
                let arrival = arrival(&shared, &generation, addr, &generation.config().listen, now);
                let tried = would_admit(&shared, &generation, &arrival, now);
                let admitted = admit(&shared, &generation, &arrival, now);
                prop_assert_eq!(tried, admitted.as_ref().map(drop).map_err(|reason| *reason), "{} {:?}", host, arrival);
                seats.extend(admitted.ok());
            }
        }
    }
}
