//! Facts from DNS: whether a sender's domain exists, a client's reverse names, and whether a list has the client.
//!
//! Four kinds of bounds, because everything asked and everything answered comes from strangers:
//!
//! - *Time.* The caller's deadline holds for a fact and all its look-ups together. When it has passed, the fact is a
//!   [`Failure`], never an answer. Dropping the future gives everything back.
//! - *Number.* Look-ups under way have places, which are shared fairly by source and network (`shares`); without one it
//!   is [`Busy`](Failure::Busy) at once. Lists have places of their own. A source has a rate of questions. Identical
//!   look-ups are one question on the wire, and need one place (`flights`).
//! - *Repetition.* Answers and failures are remembered (`memory`): in bytes, not in entries, since whoever runs a zone chooses
//!   how large its answers are. That is why hickory's own cache is off: it counts entries. Its answers could not be told from a
//!   server's either, and the breaker has to know when a server has spoken.
//! - *Silence.* When no server answers at all, look-ups fail at once until one does (`breaker`).
//!
//! A failure is always temporary: it must end in a 4xx, and it is never "there is none". Names are looked up as they stand,
//! without a search list and without `/etc/hosts`.
//!
//! Known limits: a server has to give back the case of a question, or to answer over TCP. A CNAME of a name to itself, which
//! resolvers don't hand out, counts as no data. A change of `/etc/resolv.conf` is noticed within seconds, not at once.

mod answer;
mod asker;
mod breaker;
mod failure;
mod flights;
mod memory;
mod names;
#[cfg(test)]
mod property;
mod race;
mod resolver;
mod servers;
mod shares;
mod silence;
mod zone;

use std::time::Duration;

use crate::bound::Bound;
pub use answer::{Kind, Told};
pub use failure::Error;
pub use resolver::{Forward, Resolver, Reverse, SenderDomain};
pub use shares::{Party, Standing};
pub use smtp_guard_core::facts::dns::{Failure, Flaw};
pub use zone::Zone;

/// A counter of look-ups.
pub trait Meter: Send + Sync {
    /// One question has its result.
    fn lookup(&self, kind: Kind, told: Told);
    /// Servers were asked, and it took so long, also where none answered.
    fn asked(&self, _kind: Kind, _time: Duration) {}
    /// One of the bounds of DNS was reached.
    fn bound_reached(&self, bound: Bound);
}
