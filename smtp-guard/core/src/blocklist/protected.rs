//! Networks that no list may block: exempt ones, our own, and those that the Internet doesn't reach.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

use super::span::Span;
use super::spans::Spans;
use crate::config::Config;

/// Networks that are nobody's on the Internet: a packet from there is our own, or forged.
const PRIVATE: [(&str, &str); 14] = [
    ("0.0.0.0/8", "unspecified"),
    ("10.0.0.0/8", "private"),
    ("100.64.0.0/10", "shared by carriers"),
    ("127.0.0.0/8", "loopback"),
    ("169.254.0.0/16", "link-local"),
    ("172.16.0.0/12", "private"),
    ("192.168.0.0/16", "private"),
    ("224.0.0.0/4", "multicast"),
    ("255.255.255.255/32", "broadcast"),
    ("::/128", "unspecified"),
    ("::1/128", "loopback"),
    ("fc00::/7", "private"),
    ("fe80::/10", "link-local"),
    ("ff00::/8", "multicast"),
];

/// Why a network is protected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Why {
    Private(&'static str),
    /// The key of the configuration, or what else says so.
    Own(&'static str),
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Private(kind) => write!(f, "not a public address ({kind})"),
            Self::Own(key) => write!(f, "in use here ({key})"),
        }
    }
}

/// All networks that are protected.
#[derive(Clone, Debug, PartialEq)]
pub struct Protected(Spans<Why>);

impl Protected {
    /// From lists: what `config` protects, the addresses of this host, and those that the Internet doesn't reach.
    pub fn new(config: &Config, own: &[IpAddr]) -> Self {
        Self::all(private(&|_| true), config, own)
    }

    /// From lists, whoever they are for: what the Internet doesn't reach.
    pub fn internet() -> Self {
        let mut spans = private(&|_| true);
        spans.settle();
        Self(spans)
    }

    /// Nothing.
    pub fn none() -> Self {
        Self(Spans::default())
    }

    /// From an operator's decisions, which may be about private networks: what `config` protects, the addresses of this host,
    /// and what no connection comes from.
    pub fn of_decisions(config: &Config, own: &[IpAddr]) -> Self {
        Self::all(private(&|kind| matches!(kind, "unspecified" | "multicast" | "broadcast")), config, own)
    }

    /// From an operator's decision about one address, which may be a host of ours that misbehaves: what the guard itself needs.
    pub fn of_addresses(config: &Config, own: &[IpAddr]) -> Self {
        let mut config = config.clone();
        config.relay.networks = crate::addr::NetSet::default();
        Self::all(private(&|kind| matches!(kind, "unspecified" | "multicast" | "broadcast")), &config, own)
    }

    fn all(mut spans: Spans<Why>, config: &Config, own: &[IpAddr]) -> Self {
        let nets = |nets: &crate::addr::NetSet| nets.iter().map(Span::from).collect::<Vec<_>>();
        let mut add = |key, all: Vec<Span>| all.into_iter().for_each(|span| spans.add(span, Why::Own(key)));
        add("exempt", nets(&config.exempt));
        add("relay.networks", nets(&config.relay.networks));
        for listen in &config.listen {
            add("listen.proxy_protocol", nets(&listen.balancers));
            add("listen.address", vec![listen.address.ip().into()]);
        }
        add(
            "backend.servers",
            config.backend.servers.iter().filter_map(|server| server.ip().map(Span::from)).collect(),
        );
        add("dns.servers", config.dns.servers.iter().map(|server| server.ip().into()).collect());
        add("this host, or its gateway", own.iter().copied().map(Span::from).collect());
        spans.settle();
        Self(spans)
    }

    /// The protected thing that shares an address with `span`, in words.
    pub fn objection(&self, span: Span) -> Option<String> {
        let (net, why) = self.0.touching(span)?;
        let net = net.net().map_or_else(|| net.to_string(), |net: IpNet| net.to_string());
        Some(format!("{net} is {why}"))
    }
}

/// Those of [`PRIVATE`] whose kind is one that `is` says it of.
fn private(is: &dyn Fn(&str) -> bool) -> Spans<Why> {
    let mut spans = Spans::default();
    for (net, kind) in PRIVATE.into_iter().filter(|(_, kind)| is(kind)) {
        // They are all networks; a test counts them.
        if let Ok(span) = Span::parse(net) {
            spans.add(span, Why::Private(kind));
        }
    }
    spans
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `span` against an exempt 192.0.2.8/29, a backend 198.51.100.25 and an own 203.0.113.1.
    fn check(span: &str, objection: Option<&str>) {
        let mut config = Config::builtin();
        config.exempt = ["192.0.2.8/29", "2001:db8:1::/48"].iter().map(|net| net.parse().unwrap()).collect();
        config.relay.networks = ["192.0.2.64/26".parse().unwrap()].into_iter().collect();
        config.listen[0].address = "203.0.113.9:25".parse().unwrap();
        config.listen[0].balancers = ["192.0.2.200/32".parse().unwrap()].into_iter().collect();
        config.backend.servers = vec![crate::addr::BackendAddr::Address("198.51.100.25:25".parse().unwrap())];
        config.dns.servers = vec!["[2001:db8::53]:53".parse().unwrap()];
        let own = ["203.0.113.1".parse().unwrap(), "fe80::1".parse().unwrap()];
        let span = Span::parse(span).unwrap();
        let of = |protected: Protected| protected.objection(span);
        assert_eq!(of(Protected::new(&config, &own)).as_deref(), objection, "{span}");
        let nowhere = |objection: &String| !objection.ends_with("(private)") && !objection.ends_with("(loopback)");
        let of_decisions = objection.map(str::to_owned).filter(nowhere);
        assert_eq!(of(Protected::of_decisions(&config, &own)), of_decisions, "{span}");
        let of_internet = objection.map(str::to_owned).filter(|objection| objection.contains("not a public address"));
        assert_eq!(of(Protected::internet()), of_internet, "{span}");
    }

    #[test]
    fn what_is_ours_is_protected() {
        check("192.0.2.1", None);
        check("192.0.2.9", Some("192.0.2.8/29 is in use here (exempt)"));
        check("192.0.2.0/28", Some("192.0.2.8/29 is in use here (exempt)"));
        check("192.0.2.64", Some("192.0.2.64/26 is in use here (relay.networks)"));
        check("192.0.2.200", Some("192.0.2.200/32 is in use here (listen.proxy_protocol)"));
        check("198.51.100.0/24", Some("198.51.100.25/32 is in use here (backend.servers)"));
        check("203.0.113.1", Some("203.0.113.1/32 is in use here (this host, or its gateway)"));
        check("203.0.113.2", None);
        check("2001:db8::/32", Some("2001:db8::53/128 is in use here (dns.servers)"));
        check("2001:db8:1::5", Some("2001:db8:1::/48 is in use here (exempt)"));
        check("2001:db8:2::/48", None);
        check("10.0.0.0/8", Some("10.0.0.0/8 is not a public address (private)"));
        check("::/16", Some("::/128 is not a public address (unspecified)"));
        check("127.0.0.1", Some("127.0.0.0/8 is not a public address (loopback)"));
    }

    #[test]
    fn every_private_network_is_one() {
        assert!(PRIVATE.iter().all(|(net, _)| Span::parse(net).is_ok()));
    }
}
