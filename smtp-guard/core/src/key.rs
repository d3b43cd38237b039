//! The key: the source, network or user that a decision is about, or that something is counted of.
//!
//! A [`Key`] is what decisions are kept by, and what the store knows; its text is the same everywhere. An operator names a [`Who`],
//! of which the length of IPv6 prefixes makes a key. What one part looks at only (a session's source, the kernel's networks)
//! is keyed by that alone. A domain would be another kind.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

use crate::addr::{Ipv6Prefix, Source, canonical, canonical_net, no_source};
use crate::offence::Digest;

/// The shortest prefixes that a decision can be about. Shorter ones are a part of the Internet.
const WIDEST_V4: u8 = 8;
const WIDEST_V6: u8 = 16;
/// Before a user's name, in the text of his key: no address begins like this.
const USER: &str = "user:";
/// Bytes of a user's name; of a longer one its beginning and a digest are taken.
const NAME: usize = 128;

/// The key: whom a decision is about, or whom something is counted of.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key {
    Source(Source),
    Network(Net),
    User(User),
}

/// A user who has logged in: the name that was accepted, trimmed and in lower case.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct User(Arc<str>);

/// A network that is wider than any source: `192.0.2.0/24`, or `2001:db8::/32`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Net(IpNet);

/// An address or a network, as an operator names it. As text and in JSON an address has no length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Who(IpNet);

/// The reason why nobody can be blocked by a name. The texts say what to give instead.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoKey {
    #[error("{0} is wider than /{WIDEST_V4} (IPv6: /{WIDEST_V6}): give the networks in it that are meant")]
    TooWide(IpNet),
    #[error(
        "{net} is a part of one source: give an address in it, and its whole /{length} is meant (limits.ipv6_prefix)"
    )]
    TooNarrow { net: IpNet, length: u8 },
    #[error("{ip} is {kind}: no connection comes from it")]
    NoSource { ip: IpAddr, kind: &'static str },
}

impl Key {
    /// The key of `who`. An address is its source, and so is a network that no source goes beyond.
    pub fn of(who: Who, prefix: Ipv6Prefix) -> Result<Self, NoKey> {
        let net = who.0;
        if let Some(ip) = who.address() {
            return match no_source(ip) {
                Some(kind) => Err(NoKey::NoSource { ip, kind }),
                None => Ok(Self::Source(prefix.source(ip))),
            };
        }
        let (widest, source) = match net {
            IpNet::V4(_) => (WIDEST_V4, 32),
            IpNet::V6(_) => (WIDEST_V6, prefix.length()),
        };
        match net.prefix_len() {
            length if length < widest => Err(NoKey::TooWide(net)),
            length if length < source => Ok(Self::Network(Net(net))),
            // A source as text, or written while another length was configured. Its last address stands for no other one and
            // is never unspecified, as the first may be.
            length if Ipv6Prefix::RANGE.contains(&length) => Self::of(Who(net.broadcast().into()), prefix),
            _ => Err(NoKey::TooNarrow { net, length: prefix.length() }),
        }
    }

    /// As text: `192.0.2.1`, `2001:db8::/64`, `192.0.2.0/24` or `user:bob`. [`Self::read`] reads it, and [`Who`] all but users.
    pub fn text(&self, prefix: Ipv6Prefix) -> String {
        match self {
            Self::Source(source) => prefix.display(*source),
            Self::Network(net) => net.to_string(),
            Self::User(user) => format!("{USER}{user}"),
        }
    }

    /// The key that `text` is; `None`: it is none.
    pub fn read(text: &str, prefix: Ipv6Prefix) -> Option<Self> {
        match text.strip_prefix(USER) {
            Some(name) => User::new(name).map(Self::User),
            None => Self::of(text.parse().ok()?, prefix).ok(),
        }
    }

    /// The source, where it is one.
    pub fn source(&self) -> Option<Source> {
        if let Self::Source(source) = self { Some(*source) } else { None }
    }

    /// The network, where it is one.
    pub fn network(&self) -> Option<Net> {
        if let Self::Network(net) = self { Some(*net) } else { None }
    }

    /// The user, where it is one.
    pub fn user(&self) -> Option<&User> {
        if let Self::User(user) = self { Some(user) } else { None }
    }

    /// The addresses that it is about; `None`: it is a user.
    pub fn addresses(&self, prefix: Ipv6Prefix) -> Option<IpNet> {
        match self {
            Self::Source(source) => Some(prefix.net(*source)),
            Self::Network(net) => Some(net.net()),
            Self::User(_) => None,
        }
    }
}

impl From<Source> for Key {
    fn from(source: Source) -> Self {
        Self::Source(source)
    }
}

impl From<Net> for Key {
    fn from(net: Net) -> Self {
        Self::Network(net)
    }
}

impl From<User> for Key {
    fn from(user: User) -> Self {
        Self::User(user)
    }
}

impl User {
    /// The user called `name`, in whatever case; `None`: that is no name.
    pub fn new(name: &str) -> Option<Self> {
        let name = name.trim().to_lowercase();
        if name.is_empty() || name.chars().any(char::is_control) {
            return None;
        }
        if name.len() <= NAME {
            return Some(Self(name.into()));
        }
        let end = (0..=NAME - 32).rev().find(|end| name.is_char_boundary(*end)).unwrap_or(0);
        Some(Self(format!("{}~{:016x}", &name[..end], Digest::of(&name).number()).into()))
    }

    /// The name.
    pub fn name(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Net {
    /// The network, with zeros behind its prefix.
    pub fn net(self) -> IpNet {
        self.0
    }

    /// Its prefix as the kernel has it: how many bits of a source's key, and those bits.
    pub fn bits(self) -> (u32, u64) {
        match self.0 {
            IpNet::V4(net) => (32 + u32::from(net.prefix_len()), Source::v4(net.network().to_bits()).0),
            IpNet::V6(net) => (net.prefix_len().into(), (net.network().to_bits() >> 64) as u64),
        }
    }

    /// From what [`Self::bits`] gave; `None`: no network has it.
    pub fn of_bits(length: u32, bits: u64) -> Option<Self> {
        let length = u8::try_from(length).ok()?;
        match Source(bits).network() {
            IpAddr::V4(addr) => {
                let length = length.checked_sub(32).filter(|length| (WIDEST_V4..32).contains(length))?;
                Some(Self(Ipv4Net::new(addr, length).ok()?.trunc().into()))
            }
            IpAddr::V6(addr) => {
                let length = Some(length).filter(|length| (WIDEST_V6..64).contains(length))?;
                Some(Self(Ipv6Net::new(addr, length).ok()?.trunc().into()))
            }
        }
    }

    /// Whether it holds `source`, which it does as a whole or not at all.
    pub fn holds(self, source: Source) -> bool {
        self.0.contains(&source.network())
    }

    /// The networks that hold `source`, the narrowest first.
    pub fn around(source: Source, prefix: Ipv6Prefix) -> impl Iterator<Item = Self> {
        let first = source.network();
        let lengths = match first {
            IpAddr::V4(_) => WIDEST_V4..32,
            IpAddr::V6(_) => WIDEST_V6..prefix.length(),
        };
        lengths.rev().filter_map(move |length| Some(Self(IpNet::new(first, length).ok()?.trunc())))
    }
}

impl fmt::Display for Net {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Who {
    /// The address, where it is one.
    pub fn address(self) -> Option<IpAddr> {
        (self.0.prefix_len() == self.0.max_prefix_len()).then(|| self.0.addr())
    }

    /// The network; of an address the one that it is alone in.
    pub fn net(self) -> IpNet {
        self.0
    }
}

impl From<IpAddr> for Who {
    fn from(ip: IpAddr) -> Self {
        Self(canonical(ip).into())
    }
}

impl From<IpNet> for Who {
    fn from(net: IpNet) -> Self {
        Self(canonical_net(net).trunc())
    }
}

impl FromStr for Who {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match (text.parse::<IpAddr>(), text.parse::<IpNet>()) {
            (Ok(ip), _) => Ok(ip.into()),
            (_, Ok(net)) => Ok(net.into()),
            _ => Err("give an address or a network: 192.0.2.1, 192.0.2.0/24, 2001:db8::1 or 2001:db8::/32"),
        }
    }
}

impl TryFrom<String> for Who {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Who> for String {
    fn from(who: Who) -> Self {
        who.to_string()
    }
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.address() {
            Some(ip) => ip.fmt(f),
            None => self.0.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::ledger::networks::Network;

    /// `text` with a source of `length` bits is this key: as text and whether it is a network's, or a part of the error.
    #[track_caller]
    fn check(text: &str, length: u8, expected: Result<(&str, bool), &str>) {
        let prefix = Ipv6Prefix::new(length).unwrap();
        let key = text.parse::<Who>().map_err(str::to_owned);
        let key = key.and_then(|who| Key::of(who, prefix).map_err(|error| error.to_string()));
        match (key, expected) {
            (Ok(key), Ok((shown, network))) => {
                assert_eq!((key.text(prefix).as_str(), key.network().is_some()), (shown, network), "{text}");
                let again = Key::of(shown.parse().unwrap(), prefix);
                assert_eq!(again, Ok(key), "{shown} is read as the same");
            }
            (Err(error), Err(part)) => assert!(error.contains(part), "{text}: {error}"),
            (found, _) => panic!("{text}: {found:?}"),
        }
    }

    #[test]
    fn what_an_operator_names_is_a_source_or_a_network() {
        check("192.0.2.1", 64, Ok(("192.0.2.1", false)));
        check("192.0.2.1/32", 64, Ok(("192.0.2.1", false)));
        check("::ffff:192.0.2.1", 64, Ok(("192.0.2.1", false)));
        check("192.0.2.77/24", 64, Ok(("192.0.2.0/24", true)));
        check("::ffff:192.0.2.0/120", 64, Ok(("192.0.2.0/24", true)));
        check("64:ff9b::192.0.2.0/120", 64, Ok(("192.0.2.0/24", true)));
        check("192.0.2.0/31", 64, Ok(("192.0.2.0/31", true)));
        check("10.0.0.0/8", 64, Ok(("10.0.0.0/8", true)));
        check("10.0.0.0/7", 64, Err("10.0.0.0/7 is wider than /8"));
        check("0.0.0.0/0", 64, Err("wider than /8"));
        check("2001:db8::1", 64, Ok(("2001:db8::/64", false)));
        check("2001:db8::1/128", 56, Ok(("2001:db8::/56", false)));
        check("2001:db8::/64", 64, Ok(("2001:db8::/64", false)));
        check("2001:db8::/63", 64, Ok(("2001:db8::/63", true)));
        check("2001:db8::/64", 48, Ok(("2001:db8::/48", false)));
        check("2001:db8::/47", 48, Ok(("2001:db8::/47", true)));
        check("2001::/16", 32, Ok(("2001::/16", true)));
        check("2000::/15", 64, Err("wider than /8 (IPv6: /16)"));
        check(
            "2001:db8::/96",
            64,
            Err("2001:db8::/96 is a part of one source: give an address in it, and its whole /64"),
        );
        check("224.0.0.1", 64, Err("a multicast address"));
        check("0.0.0.0", 64, Err("the unspecified address"));
        for text in ["", "192.0.2", "192.0.2.0/33", "192.0.2.0/", "host", "192.0.2.1-192.0.2.9"] {
            check(text, 64, Err("give an address or a network"));
        }
    }

    /// The key `text` is about this: which one of the three, and which addresses.
    #[track_caller]
    fn check_kind(text: &str, kind: [bool; 3], addresses: Option<&str>) {
        let key = Key::read(text, Ipv6Prefix::default()).unwrap();
        let is = [key.source().is_some(), key.network().is_some(), key.user().is_some()];
        let net = key.addresses(Ipv6Prefix::default()).map(|net| net.to_string());
        assert_eq!((is, net.as_deref()), (kind, addresses), "{text}");
    }

    #[test]
    fn a_key_is_a_source_a_network_or_a_user() {
        check_kind("192.0.2.1", [true, false, false], Some("192.0.2.1/32"));
        check_kind("2001:db8::/64", [true, false, false], Some("2001:db8::/64"));
        check_kind("64:ff9b::/64", [true, false, false], Some("64:ff9b::/64"));
        check_kind("192.0.2.0/24", [false, true, false], Some("192.0.2.0/24"));
        check_kind("user:192.0.2.1", [false, false, true], None);
        for text in ["", "bob", "user:", "192.0.2", "user: \n"] {
            assert_eq!(Key::read(text, Ipv6Prefix::default()), None, "{text}");
        }
    }

    #[test]
    fn a_user_is_called_as_the_login_was_trimmed_and_in_lower_case() {
        let user = |name: &str| User::new(name).unwrap();
        let long = "x".repeat(400);
        for (name, expected) in [
            (" Ann@Example.ORG\t", Some("ann@example.org".to_owned())),
            ("ÄNN", Some("änn".to_owned())),
            ("", None),
            (" ", None),
            ("a\nb", None),
            (&*"é".repeat(64), Some("é".repeat(64))),
        ] {
            assert_eq!(User::new(name).map(|user| user.to_string()), expected, "{name:?}");
        }
        let (one, other) = (user(&long), user(&format!("{long}y")));
        assert!(one != other && one.name().len() <= NAME, "{one}");
        assert_eq!(user(one.name()), one, "the name that is shown is the user's");
        assert!(user(&"é".repeat(200)).name().len() <= NAME);
    }

    proptest! {
        #[test]
        fn a_key_is_read_from_its_text(
            ip: IpAddr, far: [u16; 4], length in 0u8..=128, name in ".{0,300}", prefix in 32u8..=64,
        ) {
            let prefix = Ipv6Prefix::new(prefix).unwrap();
            let [a, b, c, d] = far;
            // Beside what stands for IPv4 addresses, and what is special.
            let near = [[0x64, 0xff9b, 0, 0, a, b, c, d], [0, 0, 0, 0, 0, 0, c, d], [0, 0, 0, 0, 0, 0xffff, c, d], [0; 8]];
            for ip in near.map(IpAddr::from).into_iter().chain([ip]) {
                let net = IpNet::new(ip, length % if ip.is_ipv4() { 33 } else { 129 }).unwrap();
                for who in [ip.into(), Who::from(net)] {
                    if let Ok(key) = Key::of(who, prefix) {
                        prop_assert_eq!(Key::read(&key.text(prefix), prefix), Some(key));
                    }
                }
                if no_source(ip).is_none() {
                    let source = prefix.source(ip);
                    let key = Key::Source(source);
                    prop_assert_eq!(Key::read(&key.text(prefix), prefix), Some(key), "{}", ip);
                    let network = Network::of(source);
                    prop_assert_eq!(Network::read(&network.text()), Some(network), "{}", ip);
                }
            }
            if let Some(user) = User::new(&name) {
                let key = Key::User(user);
                prop_assert_eq!(Key::read(&key.text(prefix), prefix), Some(key));
            }
        }

        #[test]
        fn a_network_is_its_bits(addr: IpAddr, length in 0u8..=128, inside: IpAddr) {
            let length = if addr.is_ipv4() { length % 33 } else { length };
            let Ok(Key::Network(net)) = Key::of(IpNet::new(addr, length).unwrap().into(), Ipv6Prefix::default()) else {
                return Ok(());
            };
            let (bits, prefix) = net.bits();
            // No source of IPv6 is multicast, where IPv4 has its keys.
            prop_assume!(!matches!(addr, IpAddr::V6(v6) if v6.is_multicast()));
            prop_assert_eq!(Net::of_bits(bits, prefix), Some(net));
            for ip in [addr, inside] {
                let source = Ipv6Prefix::default().source(ip);
                let same = (source.0 ^ prefix) >> (64 - bits) == 0;
                prop_assert_eq!(net.holds(source), same, "{} in {}", ip, net);
                prop_assert_eq!(Net::around(source, Ipv6Prefix::default()).any(|around| around == net), same);
            }
        }
    }
}
