//! Addresses of the stress run: each host in front of the edge has several, of both families, and each is a source of its
//! own with all its ports.
//!
//! A client chooses its source by where it connects to: the edge has an address for each, and the route (IPv4) or the longest
//! common prefix (IPv6) says the rest. So the kernel hands out ports by connection, not by socket, and doesn't run out.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::server::PORTS;
use crate::netns::{Host, World};

/// Sources of a host, of each family.
const SOURCES: u8 = 4;

/// One way from a host to the edge.
#[derive(Clone, Copy, Debug)]
pub(super) struct Way {
    pub from: IpAddr,
    pub to: SocketAddr,
}

/// The hosts in front of the edge.
pub(super) const HOSTS: [Host; 2] = [Host::Attacker, Host::Client];

/// Number and device of the cable of one of [`HOSTS`].
fn cable(host: Host) -> (u8, &'static str) {
    if host == Host::Attacker { (1, "att0") } else { (2, "cli0") }
}

/// The ways of `host`.
pub(super) fn ways(host: Host) -> Vec<Way> {
    let (net, _) = cable(host);
    let v6 = |n: u16, last| Ipv6Addr::new(0xfd77, net.into(), 0, 0x100 + n, 0, 0, 0, last);
    let v4 = |n| Way {
        from: Ipv4Addr::new(10, 77, net, 10 + n).into(),
        to: (Ipv4Addr::new(10, 77, net, 110 + n), PORTS[0]).into(),
    };
    let v6 = |n| Way { from: v6(n, 2).into(), to: (v6(n, 1), PORTS[0]).into() };
    (0..SOURCES).map(v4).chain((0..SOURCES.into()).map(v6)).collect()
}

/// Gives the hosts their addresses, and switches on what the run is to meet.
pub(super) fn lay(world: &World) {
    for host in HOSTS {
        let (_, device) = cable(host);
        for Way { from, to } in ways(host) {
            let length = if from.is_ipv4() { 24 } else { 64 };
            let flags: &[&str] = if from.is_ipv4() { &[] } else { &["nodad"] };
            for (host, address, device) in [(host, from, "eth0"), (Host::Edge, to.ip(), device)] {
                let address = format!("{address}/{length}");
                world.ip(host, &[&["addr", "add", &address, "dev", device], flags].concat());
            }
            if from.is_ipv4() {
                world.ip(host, &["route", "add", &to.ip().to_string(), "dev", "eth0", "src", &from.to_string()]);
            }
        }
        // To send what is forged in the name of the other one.
        let (other, gateway) = match host {
            Host::Attacker => ("10.77.2.0/24", World::EDGE_FOR_ATTACKER),
            _ => ("10.77.1.0/24", World::EDGE_FOR_CLIENT),
        };
        world.ip(host, &["route", "add", other, "via", gateway]);
        let (other, gateway) = match host {
            Host::Attacker => ("fd77:2::/32", World::EDGE_FOR_ATTACKER_V6),
            _ => ("fd77:1::/32", World::EDGE_FOR_CLIENT_V6),
        };
        world.ip(host, &["route", "add", other, "via", gateway]);
        world.sysctl(host, "ipv4/ip_local_port_range", "1024 65535");
        world.sysctl(host, "ipv4/tcp_tw_reuse", "1");
        world.spread(device);
        world.sysctl(Host::Edge, &format!("ipv4/conf/{device}/rp_filter"), "0");
    }
    world.sysctl(Host::Edge, "core/somaxconn", "4096");
    // Fast Open for all listeners; clients use it where they have a cookie.
    world.sysctl(Host::Edge, "ipv4/tcp_fastopen", "1027");
}
