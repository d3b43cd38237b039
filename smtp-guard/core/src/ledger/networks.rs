//! Harvests that are spread over a network: one or two guesses a source, from all of a /24 or a /48.
//!
//! A network is judged by the unknown and known recipients of those of its sources that have no history of accepted mail.
//! When it trips, those sources are banned that would have stood out alone: several guesses of their own, and no mail that was
//! ever accepted. The rest of the network without a history hears 4xx for as long: an honest neighbour is late, and loses
//! nothing. Whose mail was accepted before neither counts there nor waits.
//!
//! # Bounds
//! At most [`NETWORKS`] networks, and [`MEMBERS`] sources of each that are remembered; the one that was silent longest
//! makes room. A network is kept only from its first unknown recipient on.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use ipnet::IpNet;
use smtp_guard_ebpf::abi::Family;

use super::distinct::Distinct;
use super::rule::{self, Evidence};
use crate::addr::{Ipv6Prefix, Source};
use crate::clock::Instant;
use crate::config::Harvest;
use crate::offence::Digest;

/// Networks at once.
const NETWORKS: usize = 16_384;
/// Sources of a network that named unknown recipients.
const MEMBERS: usize = 256;

/// A /24 of IPv4 or a /48 of IPv6: the key of its first source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Network(Source);

impl Network {
    /// The network of `source`. With an IPv6 prefix of 48 bits or less a source is its own network.
    pub fn of(source: Source) -> Self {
        let bits = match source.family() {
            Family::V4 => !0xff,
            Family::V6 => !0xffff,
        };
        Self(Source(source.0 & bits))
    }

    /// Its first source.
    pub fn first(self) -> Source {
        self.0
    }

    /// From what [`Self::text`] gave.
    pub fn read(text: &str) -> Option<Self> {
        let net: IpNet = text.parse().ok()?;
        // Its last address stands for no other one, as the first may.
        Some(Self::of(Ipv6Prefix::default().source(net.broadcast())))
    }

    /// `192.0.2.0/24` or `2001:db8::/48`.
    pub fn text(self) -> String {
        let length = if self.0.family() == Family::V4 { 24 } else { 48 };
        format!("{}/{length}", self.0.network())
    }
}

/// All networks.
#[derive(Debug, Default)]
pub(super) struct Networks {
    table: HashMap<Network, Seen>,
    order: BTreeSet<(Instant, Network)>,
}

/// The conduct of a network in the window.
#[derive(Debug, Default)]
struct Seen {
    unknown: Distinct,
    known: Distinct,
    /// Sources that named unknown recipients, and when last.
    members: Vec<(Source, Instant)>,
    last: Instant,
}

impl Networks {
    /// An unknown recipient of `source`. If the network trips by it: who is to be banned.
    pub(super) fn unknown(
        &mut self,
        rule: &Harvest,
        source: Source,
        recipient: Digest,
        now: Instant,
    ) -> Option<Vec<Source>> {
        let network = Network::of(source);
        if !self.table.contains_key(&network)
            && self.table.len() >= NETWORKS
            && let Some((_, silent)) = self.order.pop_first()
        {
            self.table.remove(&silent);
        }
        let seen = self.table.entry(network).or_default();
        self.order.remove(&(seen.last, network));
        seen.last = now.max(seen.last);
        self.order.insert((seen.last, network));
        seen.expire(now, rule.window);
        seen.unknown.insert(recipient, now);
        seen.known.remove(recipient);
        let room = seen.members.len() < MEMBERS;
        match seen.members.iter_mut().find(|(member, _)| *member == source) {
            Some((_, at)) => *at = now,
            None if room => seen.members.push((source, now)),
            None => {}
        }
        if !rule::judge_network(rule, seen.evidence(), seen.members.len()) {
            return None;
        }
        let seen = self.table.remove(&network)?;
        self.order.remove(&(seen.last, network));
        Some(seen.members.into_iter().map(|(member, _)| member).collect())
    }

    /// A recipient of `source` that exists.
    pub(super) fn known(&mut self, source: Source, recipient: Digest, now: Instant) {
        if let Some(seen) = self.table.get_mut(&Network::of(source)) {
            seen.known.insert(recipient, now);
        }
    }

    /// Recipients of `source` that exist and were given no message.
    pub(super) fn abandoned(&mut self, source: Source, recipients: &[Digest]) {
        if let Some(seen) = self.table.get_mut(&Network::of(source)) {
            for recipient in recipients {
                seen.known.remove(*recipient);
            }
        }
    }

    /// Forgets what is over, at most `most` networks of it.
    pub(super) fn sweep(&mut self, now: Instant, window: Duration, most: usize) {
        for _ in 0..most {
            match self.order.first().copied() {
                Some((last, network)) if now.since(last) >= window => {
                    self.order.remove(&(last, network));
                    self.table.remove(&network);
                }
                _ => return,
            }
        }
    }

    /// The evidence of `source`'s network, and how many of its sources named unknown recipients.
    pub(super) fn view(&self, source: Source) -> Option<(Evidence, usize)> {
        self.table.get(&Network::of(source)).map(|seen| (seen.evidence(), seen.members.len()))
    }
}

impl Seen {
    fn evidence(&self) -> Evidence {
        Evidence { unknown: self.unknown.count(), known: self.known.count(), ..Evidence::default() }
    }

    fn expire(&mut self, now: Instant, window: Duration) {
        self.unknown.expire(now, window);
        self.known.expire(now, window);
        self.members.retain(|(_, at)| now.since(*at) < window);
    }
}
