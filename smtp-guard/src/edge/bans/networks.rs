//! Bans of networks, as user space has them, and what the kernel is to hold of them.
//!
//! A source is banned while any network around it is. The kernel finds only the narrowest network that it has. So it
//! holds that network with the end of the last ban around it, and nothing has to be written when the narrow one is over.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use prefix_trie::PrefixMap;
use smtp_guard_ebpf::reason::Reason;

use crate::addr::Source;
use crate::clock::Instant;
use crate::key::Net;

/// A ban without its network.
pub(super) type Held = (Reason, Instant);

#[derive(Default)]
pub(super) struct Networks {
    v4: PrefixMap<Ipv4Net, (Net, Held)>,
    v6: PrefixMap<Ipv6Net, (Net, Held)>,
    order: BTreeSet<(Instant, Net)>,
    /// Those that the kernel had no room for.
    pub(super) outside: BTreeSet<Net>,
}

impl Networks {
    pub(super) fn len(&self) -> usize {
        self.order.len()
    }

    pub(super) fn has(&self, net: Net) -> bool {
        self.held(net).is_some()
    }

    fn held(&self, net: Net) -> Option<Held> {
        match net.net() {
            IpNet::V4(v4) => self.v4.get(&v4),
            IpNet::V6(v6) => self.v6.get(&v6),
        }
        .map(|(_, held)| *held)
    }

    pub(super) fn put(&mut self, net: Net, held: Held) {
        let old = match net.net() {
            IpNet::V4(v4) => self.v4.insert(v4, (net, held)),
            IpNet::V6(v6) => self.v6.insert(v6, (net, held)),
        };
        if let Some((_, (_, until))) = old {
            self.order.remove(&(until, net));
        }
        self.order.insert((held.1, net));
    }

    /// `false` where it wasn't there.
    pub(super) fn remove(&mut self, net: Net) -> bool {
        self.outside.remove(&net);
        let old = match net.net() {
            IpNet::V4(v4) => self.v4.remove(&v4),
            IpNet::V6(v6) => self.v6.remove(&v6),
        };
        old.is_some_and(|(_, (_, until))| self.order.remove(&(until, net)))
    }

    /// Those that are over at `now`.
    pub(super) fn over(&self, now: Instant) -> Vec<Net> {
        self.order.iter().take_while(|(until, _)| *until <= now).map(|(_, net)| *net).collect()
    }

    /// The narrowest network in force at `now` that holds `source`.
    pub(super) fn of(&self, source: Source, now: Instant) -> Option<Held> {
        match source.network() {
            IpAddr::V4(ip) => last(self.v4.cover(&ip.into()).map(|(_, (_, held))| *held), now),
            IpAddr::V6(ip) => last(self.v6.cover(&ip.into()).map(|(_, (_, held))| *held), now),
        }
    }

    /// The networks that the kernel is to hold of `nets` and of all that lie in them, each once.
    pub(super) fn in_kernel(&self, nets: impl Iterator<Item = Net>) -> Vec<(Net, Instant, Reason)> {
        let mut wanted = BTreeSet::new();
        for net in nets {
            match net.net() {
                IpNet::V4(v4) => wanted.extend(self.v4.children(&v4).map(|(_, (net, _))| *net)),
                IpNet::V6(v6) => wanted.extend(self.v6.children(&v6).map(|(_, (net, _))| *net)),
            }
        }
        wanted.into_iter().filter_map(|net| self.with_those_around(net)).collect()
    }

    fn with_those_around(&self, net: Net) -> Option<(Net, Instant, Reason)> {
        let (reason, _) = self.held(net)?;
        let until = match net.net() {
            IpNet::V4(v4) => self.v4.cover(&v4).map(|(_, (_, (_, until)))| *until).max(),
            IpNet::V6(v6) => self.v6.cover(&v6).map(|(_, (_, (_, until)))| *until).max(),
        };
        Some((net, until?, reason))
    }
}

/// The last one that isn't over.
fn last(held: impl Iterator<Item = Held>, now: Instant) -> Option<Held> {
    held.filter(|(_, until)| now < *until).last()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::addr::Ipv6Prefix;
    use crate::key::Key;

    fn net(text: &str) -> Net {
        Key::of(text.parse().unwrap(), Ipv6Prefix::default()).unwrap().network().unwrap()
    }

    fn networks(bans: &[(&str, u64)]) -> Networks {
        let mut networks = Networks::default();
        bans.iter().for_each(|(text, until)| networks.put(net(text), (Reason::Operator, Instant::from_ns(*until))));
        networks
    }

    /// Until when `ip` is banned at 100 by the narrowest of `bans`, and what the kernel holds.
    #[track_caller]
    fn check(bans: &[(&str, u64)], ip: &str, until: Option<u64>, in_kernel: &[(&str, u64)]) {
        let networks = networks(bans);
        let source = Ipv6Prefix::default().source(ip.parse().unwrap());
        let found = networks.of(source, Instant::from_ns(100)).map(|(_, until)| until.as_ns());
        assert_eq!(found, until, "{ip} in {bans:?}");
        let mut found = networks.in_kernel(bans.iter().map(|(text, _)| net(text)));
        found.sort_unstable();
        let found: Vec<_> = found.iter().map(|(net, until, _)| (net.to_string(), until.as_ns())).collect();
        assert_eq!(found, in_kernel.iter().map(|(net, until)| ((*net).to_owned(), *until)).collect::<Vec<_>>());
    }

    #[test]
    fn the_narrowest_in_force_is_found_and_the_kernel_needs_no_other() {
        let (wide, narrow) = (("192.0.0.0/16", 300), ("192.0.2.0/24", 200));
        check(&[], "192.0.2.1", None, &[]);
        check(&[narrow], "192.0.2.1", Some(200), &[narrow]);
        check(&[narrow], "192.0.3.1", None, &[narrow]);
        check(&[narrow, wide], "192.0.2.1", Some(200), &[wide, ("192.0.2.0/24", 300)]);
        check(&[narrow, wide], "192.0.3.1", Some(300), &[wide, ("192.0.2.0/24", 300)]);
        check(&[("192.0.0.0/16", 150), narrow], "192.0.2.1", Some(200), &[("192.0.0.0/16", 150), narrow]);
        // Over, and the wide one holds it still.
        let over = ("192.0.2.0/24", 100);
        check(&[over, wide], "192.0.2.1", Some(300), &[wide, ("192.0.2.0/24", 300)]);
        check(&[("2001:db8::/32", 200)], "2001:db8:1::1", Some(200), &[("2001:db8::/32", 200)]);
        check(&[("2001:db8::/32", 200)], "2001:db9::", None, &[("2001:db8::/32", 200)]);
    }

    #[test]
    fn a_change_reaches_what_lies_within_and_nothing_else() {
        let mut networks = networks(&[("192.0.0.0/16", 300), ("192.0.2.0/24", 200), ("198.51.100.0/24", 100)]);
        assert_eq!(networks.over(Instant::from_ns(200)), [net("198.51.100.0/24"), net("192.0.2.0/24")]);
        assert!(networks.remove(net("192.0.0.0/16")) && !networks.remove(net("192.0.0.0/16")));
        let again = networks.in_kernel([net("192.0.0.0/16")].into_iter());
        assert_eq!(again, [(net("192.0.2.0/24"), Instant::from_ns(200), Reason::Operator)], "the narrow one's own end");
        assert_eq!(networks.len(), 2);
    }

    proptest! {
        #[test]
        fn the_kernels_narrowest_says_what_all_say(
            bans in prop::collection::vec((0u32..256, 24u8..30, 1u64..200), 0..12),
            last in 0u32..256,
        ) {
            let mut networks = Networks::default();
            for (octet, length, until) in bans {
                let text = format!("192.0.2.{octet}/{length}");
                networks.put(net(&text), (Reason::Operator, Instant::from_ns(until)));
            }
            let source = Source::v4(0xc000_0200 | last);
            let all = networks.order.iter().map(|(_, net)| *net).collect::<Vec<_>>();
            let held = networks.in_kernel(all.iter().copied());
            let narrowest = held.iter().filter(|(net, ..)| net.holds(source)).max_by_key(|(net, ..)| net.bits().0);
            let now = Instant::from_ns(100);
            prop_assert_eq!(networks.of(source, now).is_some(), narrowest.is_some_and(|(_, until, _)| now < *until));
        }
    }
}
