//! Addresses by their role: a client's can't be taken for a backend's, and sets of networks answer for both families.
//!
//! An IPv6 address that stands for an IPv4 one (IPv4-mapped, or behind NAT64) is that one everywhere: [`canonical`].

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use prefix_trie::PrefixSet;
use smtp_guard_ebpf::abi;
pub use smtp_guard_ebpf::abi::{Source, canonical, no_source};

/// The peer that speaks SMTP to us, by its [`canonical`] address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ClientAddr(SocketAddr);

impl ClientAddr {
    /// From the address that accept() gave.
    pub fn new(addr: SocketAddr) -> Self {
        Self(SocketAddr::new(canonical(addr.ip()), addr.port()))
    }

    /// The address without its port.
    pub fn ip(self) -> IpAddr {
        self.0.ip()
    }

    /// The port.
    pub fn port(self) -> u16 {
        self.0.port()
    }

    /// The source of this client: the key of its limits and bans.
    pub fn source(self, prefix: Ipv6Prefix) -> Source {
        prefix.source(self.ip())
    }
}

impl fmt::Display for ClientAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// A mail server that we relay to: an address, or a name that is looked up at each probe.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum BackendAddr {
    Address(SocketAddr),
    /// A name as [`crate::wire::host::key`] has it, and a port.
    Name(Box<str>, u16),
}

impl BackendAddr {
    /// The address, where it was named by one.
    pub fn ip(&self) -> Option<IpAddr> {
        match self {
            Self::Address(address) => Some(address.ip()),
            Self::Name(..) => None,
        }
    }

    /// The name, where it was named by one.
    pub fn name(&self) -> Option<&str> {
        match self {
            Self::Address(_) => None,
            Self::Name(name, _) => Some(name),
        }
    }
}

impl fmt::Display for BackendAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => fmt::Display::fmt(address, f),
            Self::Name(name, port) => write!(f, "{name}:{port}"),
        }
    }
}

/// Length of the IPv6 prefix that makes one source: 32 to 64.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ipv6Prefix(u8);

impl Ipv6Prefix {
    /// The widest and the narrowest prefix that can be set.
    pub const RANGE: std::ops::RangeInclusive<u8> = 32..=64;

    /// `length` if it is in [`Self::RANGE`].
    pub fn new(length: u8) -> Option<Self> {
        Self::RANGE.contains(&length).then_some(Self(length))
    }

    /// The length in bits.
    pub fn length(self) -> u8 {
        self.0
    }

    /// The mask over the upper half of an address.
    pub fn mask(self) -> u64 {
        abi::ipv6_mask(self.0)
    }

    /// The source of `ip`.
    pub fn source(self, ip: IpAddr) -> Source {
        Source::of(ip, self.mask())
    }

    /// The addresses of `source`.
    pub fn net(self, source: Source) -> IpNet {
        match source.network() {
            IpAddr::V4(v4) => Ipv4Net::from(v4).into(),
            IpAddr::V6(v6) => Ipv6Net::new_assert(v6, self.0).into(),
        }
    }

    /// `source` as text: `192.0.2.1`, or `2001:db8::/64`.
    pub fn display(self, source: Source) -> String {
        match source.family() {
            abi::Family::V4 => source.network().to_string(),
            abi::Family::V6 => format!("{}/{}", source.network(), self.0),
        }
    }
}

impl Default for Ipv6Prefix {
    fn default() -> Self {
        Self(64)
    }
}

/// The network that holds the [`canonical`] addresses of `net`.
pub fn canonical_net(net: IpNet) -> IpNet {
    match (net, canonical(net.addr())) {
        (IpNet::V6(v6), IpAddr::V4(v4)) if v6.prefix_len() >= 96 => {
            IpNet::V4(Ipv4Net::new_assert(v4, v6.prefix_len() - 96))
        }
        _ => net,
    }
}

/// A set of networks of both families, as [`canonical_net`] has them.
#[derive(Clone, Debug, Default)]
pub struct NetSet {
    v4: PrefixSet<Ipv4Net>,
    v6: PrefixSet<Ipv6Net>,
}

impl NetSet {
    /// Whether one of the networks holds `ip`.
    pub fn contains(&self, ip: IpAddr) -> bool {
        match canonical(ip) {
            IpAddr::V4(v4) => self.v4.get_lpm(&Ipv4Net::from(v4)).is_some(),
            IpAddr::V6(v6) => self.v6.get_lpm(&Ipv6Net::from(v6)).is_some(),
        }
    }

    /// Whether `source` and one of the networks share an address: an exempt /128 protects its whole source.
    pub fn touches(&self, source: Source, prefix: Ipv6Prefix) -> bool {
        match source.network() {
            IpAddr::V4(v4) => self.contains(v4.into()),
            IpAddr::V6(v6) => {
                let net = Ipv6Net::new_assert(v6, prefix.length());
                self.v6.get_lpm(&net).is_some() || self.v6.children(&net).next().is_some()
            }
        }
    }

    /// Whether `net` and one of the networks share an address.
    pub fn overlaps(&self, net: IpNet) -> bool {
        match canonical_net(net) {
            IpNet::V4(net) => self.v4.get_lpm(&net).is_some() || self.v4.children(&net).next().is_some(),
            IpNet::V6(net) => self.v6.get_lpm(&net).is_some() || self.v6.children(&net).next().is_some(),
        }
    }

    /// All networks, IPv4 first.
    pub fn iter(&self) -> impl Iterator<Item = IpNet> + '_ {
        self.v4.iter().map(IpNet::V4).chain(self.v6.iter().map(IpNet::V6))
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.v4.iter().next().is_none() && self.v6.iter().next().is_none()
    }
}

/// Sets are equal if they have the same networks.
impl PartialEq for NetSet {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl FromIterator<IpNet> for NetSet {
    fn from_iter<I: IntoIterator<Item = IpNet>>(nets: I) -> Self {
        let mut set = Self::default();
        for net in nets {
            match canonical_net(net) {
                IpNet::V4(v4) => set.v4.insert(v4.trunc()),
                IpNet::V6(v6) => set.v6.insert(v6.trunc()),
            };
        }
        set
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(nets: &[&str], ip: &str, contains: bool) {
        let set: NetSet = nets.iter().map(|n| n.parse::<IpNet>().unwrap()).collect();
        assert_eq!(set.contains(ip.parse().unwrap()), contains, "{ip} in {nets:?}");
    }

    #[test]
    fn a_set_answers_for_both_families() {
        check(&["10.0.0.0/8"], "10.255.0.1", true);
        check(&["10.0.0.0/8"], "11.0.0.1", false);
        check(&["10.0.0.0/8"], "::ffff:10.0.0.1", true);
        check(&["::ffff:10.0.0.0/104"], "10.0.0.1", true);
        check(&["64:ff9b::a00:0/104"], "10.0.0.1", true);
        check(&["10.0.0.0/8"], "64:ff9b::a00:1", true);
        check(&["64:ff9b::/32"], "64:ff9b:1::1", true);
        check(&["2001:db8::/32"], "2001:db8:1::1", true);
        check(&["2001:db8::/32"], "2001:db9::1", false);
        check(&[], "::1", false);
    }

    #[test]
    fn an_exempt_host_protects_its_whole_source() {
        let prefix = Ipv6Prefix::default();
        let set: NetSet = ["2001:db8::1/128".parse().unwrap()].into_iter().collect();
        assert!(set.touches(prefix.source("2001:db8::2".parse().unwrap()), prefix));
        assert!(!set.touches(prefix.source("2001:db8:0:1::2".parse().unwrap()), prefix));
    }

    #[test]
    fn the_families_share_one_key_without_collision() {
        let prefix = Ipv6Prefix::default();
        for (ip, text) in [
            ("192.0.2.1", "192.0.2.1"),
            ("::ffff:192.0.2.1", "192.0.2.1"),
            ("64:ff9b::192.0.2.1", "192.0.2.1"),
            ("64:ff9b:0:0:1::1", "64:ff9b::/64"),
            ("2001:db8::1", "2001:db8::/64"),
            ("::1", "::/64"),
            ("ff04:0:c000:201::1", "ff00::/64"),
        ] {
            assert_eq!(prefix.display(prefix.source(ip.parse().unwrap())), text);
        }
    }
}
