//! One entry of a list: an address, a network, or the addresses from one to another.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv4Subnets, Ipv6Net, Ipv6Subnets};

use crate::addr::{canonical, canonical_net};

/// Prefixes shorter than these are a part of the Internet, and no list's entry.
const WIDEST_V4: u32 = 8;
const WIDEST_V6: u32 = 16;

/// Addresses from the first to the last, both included, of one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Span {
    V4 { first: u32, last: u32 },
    V6 { first: u128, last: u128 },
}

impl Span {
    /// An address or a network, as it is written everywhere. Bits behind the prefix are taken as zeros, as ipset and
    /// iprange do. IPv4 within IPv6 is IPv4.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let (addr, length) = match text.split_once('/') {
            Some((addr, length)) => (addr, Some(length)),
            None => (text, None),
        };
        let addr = addr.parse::<IpAddr>().map_err(|_| "not an address or network")?;
        let Some(length) = length else { return Ok(addr.into()) };
        let digits = (1..=3).contains(&length.len()) && length.bytes().all(|byte| byte.is_ascii_digit());
        let length = length.parse().ok().filter(|_| digits).ok_or("the prefix length is not a number")?;
        IpNet::new(addr, length).map(Self::from).map_err(|_| "the prefix is longer than the address")
    }

    /// The IPv4 addresses from `first` to `last`, as ipset writes them: `192.0.2.1-192.0.2.9`.
    pub fn parse_range(first: &str, last: &str) -> Result<Self, &'static str> {
        match (first.parse::<Ipv4Addr>(), last.parse::<Ipv4Addr>()) {
            (Ok(first), Ok(last)) if first <= last => Ok(Self::V4 { first: first.to_bits(), last: last.to_bits() }),
            (Ok(_), Ok(_)) => Err("the range ends before it begins"),
            _ => Err("no range of IPv4 addresses"),
        }
    }

    /// Whether it is wider than any entry may be: more than a /8 of IPv4, or a /16 of IPv6.
    pub fn is_too_wide(self) -> bool {
        match self {
            Self::V4 { first, last } => (last - first) >> (32 - WIDEST_V4) > 0,
            Self::V6 { first, last } => (last - first) >> (128 - WIDEST_V6) > 0,
        }
    }

    /// The networks that it is made of, as few as possible: one, but for a range.
    pub fn nets(self) -> impl Iterator<Item = IpNet> {
        let (net, more) = match (self.net(), self) {
            (Some(net), _) => (Some(net), None),
            (None, Self::V4 { first, last }) => {
                (None, Some(Nets::V4(Ipv4Subnets::new(Ipv4Addr::from_bits(first), Ipv4Addr::from_bits(last), 0))))
            }
            (None, Self::V6 { first, last }) => {
                (None, Some(Nets::V6(Ipv6Subnets::new(Ipv6Addr::from_bits(first), Ipv6Addr::from_bits(last), 0))))
            }
        };
        net.into_iter().chain(more.into_iter().flatten())
    }

    /// The network that it is, unless it is a range.
    pub fn net(self) -> Option<IpNet> {
        match self {
            Self::V4 { first, last } => {
                let length = (first ^ last).leading_zeros();
                let whole = first.trailing_zeros() + length >= 32 && last.trailing_ones() + length >= 32;
                whole.then(|| IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::from_bits(first), length as u8)))
            }
            Self::V6 { first, last } => {
                let length = (first ^ last).leading_zeros();
                let whole = first.trailing_zeros() + length >= 128 && last.trailing_ones() + length >= 128;
                whole.then(|| IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::from_bits(first), length as u8)))
            }
        }
    }

    /// The first address and the last.
    pub fn ends(self) -> (IpAddr, IpAddr) {
        match self {
            Self::V4 { first, last } => (Ipv4Addr::from_bits(first).into(), Ipv4Addr::from_bits(last).into()),
            Self::V6 { first, last } => (Ipv6Addr::from_bits(first).into(), Ipv6Addr::from_bits(last).into()),
        }
    }
}

impl From<IpAddr> for Span {
    fn from(addr: IpAddr) -> Self {
        match canonical(addr) {
            IpAddr::V4(addr) => Self::V4 { first: addr.to_bits(), last: addr.to_bits() },
            IpAddr::V6(addr) => Self::V6 { first: addr.to_bits(), last: addr.to_bits() },
        }
    }
}

impl From<IpNet> for Span {
    fn from(net: IpNet) -> Self {
        match canonical_net(net) {
            IpNet::V4(net) => Self::V4 { first: net.network().to_bits(), last: net.broadcast().to_bits() },
            IpNet::V6(net) => Self::V6 { first: net.network().to_bits(), last: net.broadcast().to_bits() },
        }
    }
}

/// `192.0.2.1`, `192.0.2.0/24` or `192.0.2.1-192.0.2.9`.
impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (first, last) = self.ends();
        match self.net() {
            Some(_) if first == last => write!(f, "{first}"),
            Some(net) => write!(f, "{net}"),
            None => write!(f, "{first}-{last}"),
        }
    }
}

/// The networks of a range.
enum Nets {
    V4(Ipv4Subnets),
    V6(Ipv6Subnets),
}

impl Iterator for Nets {
    type Item = IpNet;

    fn next(&mut self) -> Option<IpNet> {
        match self {
            Self::V4(nets) => nets.next().map(IpNet::V4),
            Self::V6(nets) => nets.next().map(IpNet::V6),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// `text` is read as this span, as it is shown; an error by its words.
    fn check(text: &str, expected: Result<&str, &str>) {
        let span =
            text.split_once('-').map_or_else(|| Span::parse(text), |(first, last)| Span::parse_range(first, last));
        assert_eq!(span.map(|span| span.to_string()), expected.map(str::to_owned), "{text}");
    }

    #[test]
    fn entries_are_read() {
        for text in ["192.0.2.1", "192.0.2.0/24", "0.0.0.0/0", "2001:db8::/32", "::", "192.0.2.1-192.0.2.9"] {
            check(text, Ok(text));
        }
        check("192.0.2.1/32", Ok("192.0.2.1"));
        check("192.0.2.77/24", Ok("192.0.2.0/24"));
        check("192.0.2.0-192.0.2.255", Ok("192.0.2.0/24"));
        check("::ffff:192.0.2.1", Ok("192.0.2.1"));
        check("::ffff:192.0.2.0/120", Ok("192.0.2.0/24"));
        check("64:ff9b::192.0.2.0/120", Ok("192.0.2.0/24"));
        check("::ffff:0:0/95", Ok("::fffe:0:0/95"));
        check("2001:DB8::1/128", Ok("2001:db8::1"));
        for text in ["", "192.0.2", "192.0.2.256", "192.0.02.1", "192.0.2.1:25", "host", "2001:db8::/", "fe80::1%eth0"]
        {
            let expected =
                if text.ends_with('/') { "the prefix length is not a number" } else { "not an address or network" };
            check(text, Err(expected));
        }
        check("192.0.2.0/+8", Err("the prefix length is not a number"));
        check("192.0.2.0/24/8", Err("the prefix length is not a number"));
        check("192.0.2.0/33", Err("the prefix is longer than the address"));
        check("2001:db8::/129", Err("the prefix is longer than the address"));
        check("192.0.2.9-192.0.2.1", Err("the range ends before it begins"));
        check("2001:db8::1-2001:db8::9", Err("no range of IPv4 addresses"));
    }

    #[test]
    fn width_is_judged() {
        for (text, wide) in [
            ("10.0.0.0/8", false),
            ("10.0.0.0/7", true),
            ("10.0.0.1-11.0.0.0", false),
            ("10.0.0.0-11.0.0.0", true),
            ("2001::/16", false),
            ("2000::/15", true),
            ("::/0", true),
        ] {
            let span = text.split_once('-').map_or_else(|| Span::parse(text), |(a, b)| Span::parse_range(a, b));
            assert_eq!(span.unwrap().is_too_wide(), wide, "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_shown_is_read_as_the_same(addr: IpAddr, length in 0u8..=128) {
            let length = if addr.is_ipv4() { length % 33 } else { length };
            let span = Span::from(IpNet::new(addr, length).unwrap());
            prop_assert_eq!(Span::parse(&span.to_string()), Ok(span));
            prop_assert_eq!(span.nets().collect::<Vec<_>>().len(), 1);
        }

        #[test]
        fn a_range_is_made_of_its_networks(a: u32, more in 0u32..100_000) {
            let span = Span::V4 { first: a, last: a.saturating_add(more) };
            let mut next = u64::from(a);
            for net in span.nets() {
                let Span::V4 { first, last } = Span::from(net) else { panic!("{net}") };
                prop_assert_eq!(u64::from(first), next);
                next = u64::from(last) + 1;
            }
            prop_assert_eq!(next, u64::from(a.saturating_add(more)) + 1);
        }
    }
}
