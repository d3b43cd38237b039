//! The verdict on a packet, from the packet and what the maps know of its source. Knows no bytes.
//!
//! The first of these that applies decides:
//!
//! 1. A packet that isn't for a guarded port passes.
//! 2. An exempt source passes.
//! 3. A listed or banned source, or network, is dropped.
//! 4. A segment that opens a connection is dropped if its source opens too many in a minute, or is at its ceiling.
//!
//! A look-up is made only where it decides. The exempt list would cost more than all others together. So the writers of
//! bans and lists leave out exempt addresses, and note which version of the exempt list they used. Only if that isn't the
//! version in force is the exempt list asked, before a packet is dropped. The clock is read only where there is a ban or
//! a rate.
//!
//! Pending handshakes are not counted against a source. A SYN's source may be forged, so others could raise such a count:
//! an attacker who forges a victim's address fast enough would keep the victim out. The cost of pending handshakes is
//! bounded elsewhere: the kernel keeps a queue for each listener, and SYN cookies behind it. Handshakes that complete are
//! counted at that moment, and the proxy's own limit, at accept(), is exact.

use crate::abi::{Ban, Connections, Family, Source, established};
use crate::parse::{Address, Packet, Segment};
use crate::rate::Bucket;
use crate::reason::Reason;

/// Look-ups in the maps. Each costs time, so each is made only where it decides.
pub trait Findings {
    /// The source of `address` under the configured IPv6 prefix.
    fn source(&self, address: &Address) -> Source;
    /// Whether a block list has `address`: the version of the exempt list that was left out of it.
    fn listed(&self, address: &Address) -> Option<u32>;
    /// The ban of `source`, in force or over.
    fn ban(&self, source: Source) -> Option<Ban>;
    /// The ban of the narrowest network that holds `source` and has one, in force or over. Where it is over, so are those of
    /// all wider ones.
    fn network_ban(&self, source: Source) -> Option<Ban>;
    /// The version of the exempt list.
    fn exempt_version(&self) -> u32;
    /// Whether `address` is exempt.
    fn exempt(&self, address: &Address) -> bool;
    /// Connections of `source`.
    fn connections(&self, source: Source) -> Option<Connections>;
    /// How many established connections a source may have; 0: any number.
    fn ceiling(&self) -> u32;
    /// How many new ones.
    fn bucket(&self) -> Bucket;
    /// Now, in ns of CLOCK_BOOTTIME.
    fn now_ns(&self) -> u64;
}

/// The verdict on a packet, and why: the counters are indexed by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// None of our business, and not counted.
    Ignore,
    Pass(Reason, Family),
    Drop(Reason, Family),
}

/// Judges `packet`.
#[inline(always)]
pub fn decide(packet: &Packet, findings: &impl Findings) -> Verdict {
    match packet {
        Packet::Other => Verdict::Ignore,
        Packet::Malformed(family) => Verdict::Drop(Reason::Malformed, *family),
        Packet::Tcp(segment) => judge(segment, findings),
    }
}

#[inline(always)]
fn judge(segment: &Segment, findings: &impl Findings) -> Verdict {
    let family = segment.source.family();
    let Some(Against { reason, spares }) = against(segment, findings) else {
        return Verdict::Pass(Reason::Clean, family);
    };
    let checked = spares != 0 && spares == findings.exempt_version();
    if !checked && findings.exempt(&segment.source) {
        return Verdict::Pass(Reason::Exempt, family);
    }
    Verdict::Drop(reason, family)
}

/// Reasons against a segment.
struct Against {
    reason: Reason,
    /// Version of the exempt list that doesn't hold its source; 0: not known.
    spares: u32,
}

/// The reason against the segment, the exempt list aside.
#[inline(always)]
fn against(segment: &Segment, findings: &impl Findings) -> Option<Against> {
    if let Some(spares) = findings.listed(&segment.source) {
        return Some(Against { reason: Reason::Listed, spares });
    }
    let source = findings.source(&segment.source);
    let in_force = |ban: &Ban| findings.now_ns() < ban.until_ns;
    if let Some(ban) = findings.ban(source).filter(in_force).or_else(|| findings.network_ban(source).filter(in_force)) {
        // A number that this version doesn't know was written by a newer one: still a ban.
        return Some(Against {
            reason: Reason::from_number(ban.reason).unwrap_or(Reason::Operator),
            spares: ban.spares,
        });
    }
    if !segment.opens {
        return None;
    }
    let Connections { count, full_ns } = findings.connections(source)?;
    let bucket = findings.bucket();
    // The clock is read only for sources that have a bucket which was ever charged.
    if bucket.interval_ns != 0 && full_ns != 0 && bucket.is_empty(full_ns, findings.now_ns()) {
        return Some(Against { reason: Reason::ConnectionRate, spares: 0 });
    }
    let ceiling = findings.ceiling();
    if ceiling > 0 && established(count) >= u64::from(ceiling) {
        return Some(Against { reason: Reason::Connections, spares: 0 });
    }
    None
}
