//! The default routes of this host, as the kernel lists them in /proc/net.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A route to everywhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    pub interface: String,
    /// `None`: the other end of a line.
    pub gateway: Option<IpAddr>,
}

/// All default routes, of both families. What can't be read is none.
pub fn default_routes() -> Vec<Route> {
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    let mut routes = v4(&read("/proc/net/route"));
    routes.extend(v6(&read("/proc/net/ipv6_route")));
    routes
}

/// A header, then: interface, destination, gateway, flags, reference count, use, metric, mask, ...; addresses as the host's words.
fn v4(table: &str) -> Vec<Route> {
    let route = |line: &str| {
        let mut fields = line.split_whitespace();
        let (interface, destination, gateway) = (fields.next()?, fields.next()?, fields.next()?);
        let mask = fields.nth(4)?;
        if destination != "00000000" || mask != "00000000" {
            return None;
        }
        let gateway = Ipv4Addr::from(u32::from_str_radix(gateway, 16).ok()?.to_ne_bytes());
        Some(Route {
            interface: interface.to_owned(),
            gateway: (!gateway.is_unspecified()).then_some(IpAddr::V4(gateway)),
        })
    };
    table.lines().skip(1).filter_map(route).collect()
}

/// Destination, its length, source, its length, next hop, metric, reference count, use, flags, interface.
fn v6(table: &str) -> Vec<Route> {
    let route = |line: &str| {
        let fields: Vec<_> = line.split_whitespace().collect();
        let [_, "00", _, _, gateway, .., interface] = fields[..] else { return None };
        let gateway = Ipv6Addr::from(u128::from_str_radix(gateway, 16).ok()?);
        // The kernel keeps an unreachable default route on `lo`.
        (interface != "lo").then(|| Route {
            interface: interface.to_owned(),
            gateway: (!gateway.is_unspecified()).then_some(IpAddr::V6(gateway)),
        })
    };
    table.lines().filter_map(route).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(routes: Vec<Route>, expected: &[(&str, Option<&str>)]) {
        let routes: Vec<_> = routes.into_iter().map(|route| (route.interface, route.gateway)).collect();
        let expected: Vec<_> =
            expected.iter().map(|(name, ip)| ((*name).to_owned(), ip.map(|ip| ip.parse().unwrap()))).collect();
        assert_eq!(routes, expected);
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn default_routes_are_found() {
        let table = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n\
                     eth0\t00000000\t010AA8C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n\
                     ppp0\t00000000\t00000000\t0001\t0\t0\t0\t00000000\t0\t0\t0\n\
                     eth0\t000AA8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\nnonsense\n";
        check(v4(table), &[("eth0", Some("192.168.10.1")), ("ppp0", None)]);
        check(v4(""), &[]);
        let zero = "0".repeat(32);
        let line = |length: &str, hop: &str, name: &str| {
            format!("{zero} {length} {zero} 00 {hop} 00000400 00000001 00000000 00000003     {name}\n")
        };
        let table = line("00", "fe800000000000000000000000000001", "eth0")
            + &line("40", &zero, "eth1")
            + &line("00", &zero, "lo");
        check(v6(&table), &[("eth0", Some("fe80::1"))]);
    }
}
