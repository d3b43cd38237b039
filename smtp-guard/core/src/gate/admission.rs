//! The one judgement of a connection, before it speaks: who is let in.
//!
//! The order of its steps is the order in which refusals are told: a client that is blocked hears so, also while the guard
//! is full. Places come before the rate, so that a connection that finds no place isn't counted against its source.

use smtp_guard_ebpf::reason::Reason;

use super::Tally;
use crate::addr::{ClientAddr, Source};
use crate::blocklist::Table;
use crate::clock::Instant;
use crate::config::Listen;
use crate::marks::Marks;
use crate::rates::{Counters, Room};
use crate::snapshot::Snapshot;

/// The standing of a client: how much it is trusted with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Counted, never limited, never made to go.
    Exempt,
    /// A known sender (its mail was accepted before), or one of ours.
    Known,
    /// Neither.
    Newcomer,
}

/// A client at the door.
#[derive(Clone, Copy, Debug)]
pub struct Arrival {
    pub addr: ClientAddr,
    /// The source that it is limited by.
    pub source: Source,
    pub standing: Standing,
}

impl Arrival {
    /// `addr` at one of `listeners`; `addr` is the client behind a balancer, or the balancer that speaks for itself.
    pub fn new<'a>(
        addr: ClientAddr,
        listeners: impl IntoIterator<Item = &'a Listen>,
        snapshot: &Snapshot,
        marks: &Marks,
        now: Instant,
    ) -> Self {
        let source = snapshot.source(addr.ip());
        let client = snapshot.client(addr.ip());
        // A balancer looks whether we are well: turned away, it would take us out of service.
        let balances = |listen: &Listen| listen.balancers.contains(addr.ip());
        let standing = if client.exempt || listeners.into_iter().any(balances) {
            Standing::Exempt
        } else if client.may_relay || marks.of(source, now).familiar {
            Standing::Known
        } else {
            Standing::Newcomer
        };
        Self { addr, source, standing }
    }
}

/// The means by which an arrival is judged.
#[expect(missing_debug_implementations, reason = "it lives for one call, and holds a function")]
pub struct Door<'a> {
    pub snapshot: &'a Snapshot,
    pub counters: &'a Counters,
    pub lists: &'a Table,
    /// Why a source is banned, if it is.
    pub banned: &'a dyn Fn(Source) -> Option<Reason>,
}

/// Lets `arrival` in, or says why not. `place` finds a place for it: takes it, or only looks, as `tally` says.
pub fn admit<P>(
    door: &Door<'_>,
    arrival: &Arrival,
    now: Instant,
    tally: Tally,
    place: impl FnOnce() -> Result<P, Reason>,
) -> Result<P, Reason> {
    let limit = door.snapshot.config().limits.connections_per_minute;
    judge(
        place,
        || door.counters.connections.judge(arrival.source, limit, now, tally),
        || {
            let banned = (door.banned)(arrival.source);
            banned.or_else(|| door.lists.has(arrival.addr.ip()).then_some(Reason::Listed))
        },
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

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    /// `standing` is told this, and these steps were asked, in their order.
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
        let newcomer = Standing::Newcomer;
        check(Standing::Exempt, [Some(Harvest); 2], Ok(()), full, (Ok(()), "place"));
        check(newcomer, [None; 2], Ok(()), free, (Ok(()), "block place rate block"));
        check(newcomer, [Some(Harvest), None], Err(TotalConnections), full, (Err(Harvest), "block"));
        check(newcomer, [None; 2], Err(NetworkConnections), full, (Err(NetworkConnections), "block place"));
        check(Standing::Known, [None; 2], Ok(()), full, (Err(ConnectionRate), "block place rate"));
        check(newcomer, [None, Some(Listed)], Ok(()), free, (Err(Listed), "block place rate block"));
    }
}
