//! Who is let in: the one judgement of a connection, before it speaks. The listener acts on it, `try` only asks.
//!
//! The order of its steps is the order in which refusals are told: a client that is blocked hears so, also while the guard
//! is full. Places come before the rate, so that a connection that finds no place isn't counted against its source.

use smtp_guard_ebpf::reason::Reason;

use super::Shared;
use super::sources::{Seat, Standing};
use crate::addr::{ClientAddr, Source};
use crate::clock::Instant;
use crate::config::Listen;
use crate::rates::Room;
use crate::session::replies;
use crate::snapshot::Snapshot;
use crate::wire::reply::Reply;

/// A client at the door.
#[derive(Clone, Copy, Debug)]
pub(super) struct Arrival {
    addr: ClientAddr,
    source: Source,
    pub(super) standing: Standing,
}

impl Arrival {
    /// `addr` at one of `listeners`; `addr` is the client behind a balancer, or the balancer that speaks for itself.
    pub(super) fn new<'a>(
        addr: ClientAddr,
        listeners: impl IntoIterator<Item = &'a Listen>,
        shared: &Shared,
        snapshot: &Snapshot,
        now: Instant,
    ) -> Self {
        let source = addr.source(shared.prefix);
        let client = snapshot.client(addr.ip());
        // A balancer looks whether we are well: turned away, it would take us out of service.
        let balances = |listen: &Listen| listen.balancers.contains(addr.ip());
        let standing = if client.exempt || listeners.into_iter().any(balances) {
            Standing::Exempt
        } else if client.may_relay || shared.feedback.marks().of(source, now).familiar {
            Standing::Known
        } else {
            Standing::Stranger
        };
        Self { addr, source, standing }
    }

    /// What it is limited by.
    pub(super) fn source(&self) -> Source {
        self.source
    }
}

/// Lets `arrival` in and counts it, or says why not.
pub(super) fn admit(shared: &Shared, arrival: &Arrival, now: Instant) -> Result<Seat, Reason> {
    judge(
        || shared.sources.enter(arrival.source, arrival.standing, now),
        || shared.feedback.counters().connections.count(arrival.source, now),
        || blocked(shared, arrival, now),
        arrival.standing,
    )
}

/// What [`admit`] would say, without a change.
pub(super) fn would_admit(shared: &Shared, arrival: &Arrival, now: Instant) -> Result<(), Reason> {
    judge(
        || shared.sources.peek(arrival.source, arrival.standing, now),
        || match shared.feedback.counters().connections.view(arrival.source, now) {
            Some((count, most)) if count >= most => Room::Full,
            _ => Room::Free,
        },
        || blocked(shared, arrival, now),
        arrival.standing,
    )
}

/// The judgement: `place` and `rate` count or only look.
fn judge<P>(
    place: impl FnOnce() -> Result<P, Reason>,
    rate: impl FnOnce() -> Room,
    blocked: impl Fn() -> Option<Reason>,
    standing: Standing,
) -> Result<P, Reason> {
    if standing == Standing::Exempt {
        return place();
    }
    if let Some(reason) = blocked() {
        return Err(reason);
    }
    let place = place()?;
    if rate() == Room::Full {
        return Err(Reason::ConnectionRate);
    }
    // A ban from now on wakes the place; one that was made while the place was taken is seen here.
    match blocked() {
        Some(reason) => Err(reason),
        None => Ok(place),
    }
}

/// Why the client is to be kept out, whatever there is room for.
fn blocked(shared: &Shared, arrival: &Arrival, now: Instant) -> Option<Reason> {
    if let Some((reason, _until)) = shared.bans.banned(arrival.source, now) {
        return Some(reason);
    }
    shared.blocklists.load().has(arrival.addr.ip()).then_some(Reason::Listed)
}

/// What a client hears that isn't let in.
pub(super) fn reply(reason: Reason) -> Reply {
    match reason {
        Reason::TotalConnections => replies::full(),
        Reason::NetworkConnections => replies::crowded(),
        Reason::Connections | Reason::ConnectionRate => replies::busy(),
        Reason::Listed => replies::listed(),
        _ => replies::banned(),
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    /// What `standing` is told, and which steps were asked, in their order.
    #[track_caller]
    fn check(
        standing: Standing,
        blocked: [Option<Reason>; 2],
        place: Result<(), Reason>,
        rate: Room,
        expected: (Result<(), Reason>, &str),
    ) {
        let asked = RefCell::new(String::new());
        let note = |step: &str| asked.borrow_mut().push_str(step);
        let times = RefCell::new(blocked.into_iter());
        let told = judge(
            || {
                note("place ");
                place
            },
            || {
                note("rate ");
                rate
            },
            || {
                note("block ");
                times.borrow_mut().next().flatten()
            },
            standing,
        );
        assert_eq!((told, asked.borrow().trim_end()), expected);
    }

    #[test]
    fn g_listener_and_try_judge_in_one_order() {
        use Reason::{ConnectionRate, Harvest, Listed, NetworkConnections, TotalConnections};
        let (free, full) = (Room::Free, Room::Full);
        let stranger = Standing::Stranger;
        check(Standing::Exempt, [Some(Harvest); 2], Ok(()), full, (Ok(()), "place"));
        check(stranger, [None; 2], Ok(()), free, (Ok(()), "block place rate block"));
        check(stranger, [Some(Harvest), None], Err(TotalConnections), full, (Err(Harvest), "block"));
        check(stranger, [None; 2], Err(NetworkConnections), full, (Err(NetworkConnections), "block place"));
        check(Standing::Known, [None; 2], Ok(()), full, (Err(ConnectionRate), "block place rate"));
        check(stranger, [None, Some(Listed)], Ok(()), free, (Err(Listed), "block place rate block"));
    }
}
