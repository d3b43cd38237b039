//! A list's zone and what its replies mean (RFC 5782).

use std::net::{IpAddr, Ipv4Addr};
use std::ops::RangeInclusive;

/// The least reply that can mean "listed".
const FIRST: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

/// A DNS list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Zone {
    /// Its domain, without the dot at the end. It may hold a secret key.
    pub name: Box<str>,
    /// The weight of a hit towards the threshold.
    pub weight: u32,
    /// The replies that count; empty: all from 127.0.0.2 on. Error codes, 127.0.0.0, 127.0.0.1 and addresses outside of
    /// 127.0.0.0/8 never do.
    pub replies: Vec<RangeInclusive<Ipv4Addr>>,
}

/// A list's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Judgement {
    /// The first reply that counts.
    Listed(Ipv4Addr),
    NotListed,
    /// An error code of the list. It stands above a reply that counts: a list in trouble is not believed.
    Refuses,
}

impl Zone {
    /// Judges the addresses that were found for a client.
    pub(super) fn judge(&self, replies: &[IpAddr]) -> Judgement {
        let mut own = replies.iter().filter_map(|reply| match reply {
            IpAddr::V4(reply) if reply.is_loopback() => Some(*reply),
            _ => None,
        });
        if own.clone().any(is_error_code) {
            return Judgement::Refuses;
        }
        own.find(|reply| self.counts(*reply)).map_or(Judgement::NotListed, Judgement::Listed)
    }

    fn counts(&self, reply: Ipv4Addr) -> bool {
        // RFC 5782 5: no list has 127.0.0.1. Resolvers that catch unknown names answer with it.
        reply >= FIRST && (self.replies.is_empty() || self.replies.iter().any(|range| range.contains(&reply)))
    }
}

/// Whether a reply lies outside 127.0.0.0/8: the zone is parked, or the resolver invents answers.
pub(super) fn has_lie(replies: &[IpAddr]) -> bool {
    replies.iter().any(|reply| !matches!(reply, IpAddr::V4(reply) if reply.is_loopback()))
}

/// 127.255.255.0/24, where Spamhaus and others say what is wrong with the question.
fn is_error_code(reply: Ipv4Addr) -> bool {
    reply.octets().starts_with(&[127, 255, 255])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_are_judged() {
        use Judgement::{NotListed, Refuses};
        let listed = |reply: &str| Judgement::Listed(reply.parse().unwrap());
        let some: &[(&str, &str)] = &[("127.0.0.2", "127.0.0.3"), ("127.0.0.10", "127.0.0.11")];
        let all: &[(&str, &str)] = &[("0.0.0.0", "255.255.255.255")];
        for (ranges, replies, judgement) in [
            (&[][..], &["127.0.0.2"][..], listed("127.0.0.2")),
            (&[], &["127.0.0.0"], NotListed),
            (&[], &["127.0.0.1"], NotListed),
            (&[], &["127.0.0.1", "127.0.0.3"], listed("127.0.0.3")),
            (all, &["127.0.0.1"], NotListed),
            (&[], &["127.255.254.255"], listed("127.255.254.255")),
            (&[], &["127.255.255.0"], Refuses),
            (&[], &["127.255.255.254"], Refuses),
            (&[], &["127.0.0.2", "127.255.255.255"], Refuses),
            (&[], &[], NotListed),
            (&[], &["192.0.2.1"], NotListed),
            (&[], &["128.0.0.2"], NotListed),
            (&[], &["126.255.255.255", "::1"], NotListed),
            (&[], &["192.0.2.1", "127.0.0.4"], listed("127.0.0.4")),
            (some, &["127.0.0.1"], NotListed),
            (some, &["127.0.0.2"], listed("127.0.0.2")),
            (some, &["127.0.0.4", "127.0.0.11"], listed("127.0.0.11")),
            (some, &["127.0.0.12"], NotListed),
            (some, &["127.255.255.252"], Refuses),
            (some, &["10.0.0.2"], NotListed),
            (all, &["127.255.255.252"], Refuses),
            (all, &["10.0.0.2"], NotListed),
        ] {
            let replies: Vec<IpAddr> = replies.iter().map(|reply| reply.parse().unwrap()).collect();
            let ranges = ranges.iter().map(|(low, high)| low.parse().unwrap()..=high.parse().unwrap());
            let zone = Zone { name: "bl.example".into(), weight: 1, replies: ranges.collect() };
            assert_eq!(zone.judge(&replies), judgement, "{replies:?} of {:?}", zone.replies);
        }
    }

    #[test]
    fn replies_outside_of_loopback_are_lies() {
        for (replies, lie) in [
            (&[][..], false),
            (&["127.0.0.2", "127.255.255.255"], false),
            (&["127.0.0.2", "192.0.2.1"], true),
            (&["128.0.0.2"], true),
            (&["126.255.255.255"], true),
            (&["::1"], true),
            (&["::ffff:127.0.0.2"], true),
        ] {
            let replies: Vec<IpAddr> = replies.iter().map(|reply| reply.parse().unwrap()).collect();
            assert_eq!(has_lie(&replies), lie, "{replies:?}");
        }
    }
}
