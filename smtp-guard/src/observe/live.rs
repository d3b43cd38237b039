//! The snapshot that `smtp-guard top` shows: the status and everything that moves.
//!
//! Counts are absolute, since the start of the guard or the load of the kernel plane. The reader reckons rates from two
//! snapshots of one [`Live::instance`]. Every list has a bound that is said beside it.

use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::status::{Overview, Status};
use crate::clock::{Both, Seconds, WallTime};
use crate::decision::{Decision, Suspect};
use crate::events::Event;

/// See [`Live::events`].
const EVENTS: usize = 16;
/// See [`Live::sessions`].
pub const SESSIONS: usize = 64;

/// A snapshot of the running guard with its counters.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Live {
    /// When it was taken.
    pub at: WallTime,
    /// Process id: counts of another instance begin again.
    pub instance: u32,
    /// Since the guard's start, by a clock that nobody sets.
    pub uptime_seconds: Seconds,
    pub status: Status,
    /// Connections accepted since the start.
    pub connections_total: u64,
    /// Packets by the kernel plane's verdict; only verdicts that occurred, and none without a kernel plane.
    pub kernel_packets: Vec<Packets>,
    /// Refusals by the proxy; all usual reasons, also at 0.
    pub rejections: Vec<Counted>,
    /// Bans in force, the latest first: at most [`crate::decision::LATEST`].
    pub decisions: Vec<Decision>,
    /// Sources that offended last, the worst first: at most as many.
    #[serde(default)]
    pub suspects: Vec<Suspect>,
    /// Open sessions, those of the source with most of them first: at most [`SESSIONS`]. How many there are: [`Status::connections`].
    #[serde(default)]
    pub sessions: Vec<SessionView>,
    pub drops: DropsView,
    /// Recent events, the latest first: at most 16.
    #[serde(default)]
    pub events: Vec<Arc<Event>>,
}

/// Packets of one family that were judged for one reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Packets {
    pub reason: String,
    /// `ipv4` or `ipv6`.
    pub family: String,
    /// `pass` or `drop`.
    pub verdict: String,
    pub count: u64,
}

/// An open session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionView {
    /// `192.0.2.1`, or `2001:db8::/64`.
    pub source: String,
    /// Since it was let in.
    pub age_seconds: Seconds,
    /// Label of what it does: see [`crate::session::Doing`].
    pub state: String,
    pub messages_accepted: u32,
    pub tls: bool,
    /// The client's own words.
    pub helo: Option<String>,
    /// The user who has logged in.
    pub user: Option<String>,
}

/// So many of a kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counted {
    pub reason: String,
    pub count: u64,
}

/// Estimates from samples of dropped packets. See [`super::drops`] for what an estimate is worth.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DropsView {
    /// Samples that came.
    pub samples: u64,
    /// Samples that the full ring buffer had no room for.
    pub lost: u64,
    /// Those with the most packets a second first: at most 64, of the last minute.
    pub by_source: Vec<DroppedSource>,
    /// Estimates by reason since the start; the exact counts are in [`Live::kernel_packets`].
    pub by_reason: Vec<DroppedReason>,
    /// The last 64 samples, the latest first.
    pub latest: Vec<Dropped>,
}

/// A source whose packets are dropped for one reason.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DroppedSource {
    /// `192.0.2.1`, or `2001:db8::/64`.
    pub source: String,
    pub reason: String,
    /// The guarded port that it tried last.
    pub port: u16,
    /// Estimate of the last seconds.
    pub per_second: f64,
    /// Estimate since `since`.
    pub packets: u64,
    /// The number of samples that the estimates rest on.
    pub samples: u64,
    pub since: WallTime,
    pub last: WallTime,
}

/// Packets that were dropped for one reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DroppedReason {
    pub reason: String,
    pub packets: u64,
    pub samples: u64,
}

/// One dropped packet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dropped {
    pub at: WallTime,
    pub ip: IpAddr,
    pub port: u16,
    pub reason: String,
    /// Packets that it stands for, itself included.
    pub stands_for: u64,
}

impl Overview {
    /// The snapshot of `both`. Reads the kernel's counters: not for a thread that must not wait for system calls.
    pub fn live(&self, both: &Both, decisions: Vec<Decision>, suspects: Vec<Suspect>) -> Live {
        let uptime = both.instant.since(self.started);
        let packets = self.running.packets().into_iter().map(|(reason, family, count)| Packets {
            reason: reason.label().to_owned(),
            family: family.label().to_owned(),
            verdict: reason.verdict().to_owned(),
            count,
        });
        let rejections = self.metrics.rejections().into_iter();
        Live {
            at: both.wall,
            instance: std::process::id(),
            uptime_seconds: Seconds(uptime),
            status: self.status(both.instant),
            connections_total: self.metrics.connections_accepted(),
            kernel_packets: packets.collect(),
            rejections: rejections
                .map(|(reason, count)| Counted { reason: reason.label().to_owned(), count })
                .collect(),
            decisions,
            suspects,
            sessions: self.running.sessions(SESSIONS),
            drops: self.drops.view(both),
            events: self.events.latest(EVENTS),
        }
    }
}
