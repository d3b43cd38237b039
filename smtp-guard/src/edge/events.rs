//! What the kernel drops, by samples: see the map EVENTS.

use std::net::IpAddr;

use smtp_guard_ebpf::reason::Reason;

use crate::clock::Instant;

/// A packet that the kernel dropped, one of many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// When it was dropped.
    pub at: Instant,
    /// Where it said it came from.
    pub ip: IpAddr,
    /// The guarded port.
    pub port: u16,
    pub reason: Reason,
    /// Packets that it stands for: itself, and those that the same CPU dropped since the sample before it.
    pub stands_for: u64,
}
