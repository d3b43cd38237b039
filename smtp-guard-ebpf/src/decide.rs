//! A packet and what the maps know of its source, to a verdict. Knows no bytes.
//!
//! The order is that of the meaning: what isn't ours passes; the exempt list wins over everything; then bans; then, for
//! a segment that opens a connection, the ceiling of established connections. The exempt list is only looked up where
//! something else would drop, and the clock only where there is a ban: both cost more than they decide elsewhere.

use crate::abi::{Ban, Family, Source};
use crate::parse::{Address, Packet, Segment};
use crate::reason::Reason;

/// What the maps know. Each answer costs a look-up, so each is asked for only where it decides.
pub trait Findings {
    /// Whether `port` is one of ours.
    fn guarded(&self, port: u16) -> bool;
    /// The source of `address` under the configured IPv6 prefix.
    fn source(&self, address: &Address) -> Source;
    /// The ban of `source`, in force or over.
    fn ban(&self, source: Source) -> Option<Ban>;
    /// Whether `address` is exempt.
    fn exempt(&self, address: &Address) -> bool;
    /// Established connections of `source`.
    fn established(&self, source: Source) -> u64;
    /// How many a source may have; 0: any number.
    fn ceiling(&self) -> u32;
    /// Now, in ns of CLOCK_BOOTTIME.
    fn now_ns(&self) -> u64;
}

/// What becomes of the packet, and why: the counters are indexed by it.
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
        Packet::Tcp(segment) if !findings.guarded(segment.port) => Verdict::Ignore,
        Packet::Tcp(segment) => judge(segment, findings),
    }
}

#[inline(always)]
fn judge(segment: &Segment, findings: &impl Findings) -> Verdict {
    let family = segment.source.family();
    let source = findings.source(&segment.source);
    match against(segment, source, findings) {
        None => Verdict::Pass(Reason::Clean, family),
        Some(_) if findings.exempt(&segment.source) => Verdict::Pass(Reason::Exempt, family),
        Some(reason) => Verdict::Drop(reason, family),
    }
}

/// What speaks against the segment, the exempt list aside.
#[inline(always)]
fn against(segment: &Segment, source: Source, findings: &impl Findings) -> Option<Reason> {
    if let Some(ban) = findings.ban(source)
        && findings.now_ns() < ban.until_ns
    {
        // A number that this version doesn't know was written by a newer one: still a ban.
        return Some(Reason::from_number(ban.reason).unwrap_or(Reason::Operator));
    }
    let ceiling = findings.ceiling();
    if segment.opens && ceiling > 0 && findings.established(source) >= u64::from(ceiling) {
        return Some(Reason::Connections);
    }
    None
}
