//! TCP segments with any addresses and flags, IPv4 and IPv6, as they are written here: no kernel keeps a socket for them.
//!
//! Sent from the host that the thread is on ([`World::enter`](crate::World::enter)), and only where they are sent to.

use std::net::{IpAddr, SocketAddr};

use socket2::{Domain, Protocol, Socket, Type};

pub const FIN: u8 = 0x01;
pub const SYN: u8 = 0x02;
pub const RST: u8 = 0x04;
pub const ACK: u8 = 0x10;

/// Kind of the TCP option that carries a cookie of Fast Open (RFC 7413, section 4.1.1).
const FAST_OPEN: u8 = 34;
const HEADER: usize = 20;

/// One segment.
#[derive(Clone, Debug)]
pub struct Segment<'a> {
    pub from: SocketAddr,
    pub to: SocketAddr,
    pub flags: u8,
    pub sequence: u32,
    /// A cookie of Fast Open of 4 to 16 bytes; empty: no such option.
    pub cookie: &'a [u8],
    pub data: &'a [u8],
}

impl Segment<'_> {
    /// Header, options and data, with the checksum over the addresses.
    fn tcp(&self) -> Vec<u8> {
        let mut options = Vec::new();
        if !self.cookie.is_empty() {
            options.extend([FAST_OPEN, self.cookie.len() as u8 + 2]);
            options.extend(self.cookie);
            // No-operation, up to a word.
            options.resize(options.len().next_multiple_of(4), 1);
        }
        let length = HEADER + options.len();
        let mut tcp = Vec::with_capacity(length + self.data.len());
        tcp.extend(self.from.port().to_be_bytes());
        tcp.extend(self.to.port().to_be_bytes());
        tcp.extend(self.sequence.to_be_bytes());
        tcp.extend(1u32.to_be_bytes());
        tcp.extend([(length as u8 / 4) << 4, self.flags, 0xff, 0xff, 0, 0, 0, 0]);
        tcp.extend(options);
        tcp.extend(self.data);
        let mut pseudo = [octets(self.from.ip()), octets(self.to.ip())].concat();
        pseudo.extend((tcp.len() as u32).to_be_bytes());
        pseudo.extend([0, 0, 0, 6]);
        let sum = checksum(&[&pseudo[..], &tcp].concat());
        tcp[16..18].copy_from_slice(&sum.to_be_bytes());
        tcp
    }

    fn packet(&self) -> Vec<u8> {
        let tcp = self.tcp();
        let mut packet = match self.to {
            // The kernel fills in the length and the checksum.
            SocketAddr::V4(_) => vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, 6, 0, 0],
            SocketAddr::V6(_) => vec![0x60, 0, 0, 0, (tcp.len() >> 8) as u8, tcp.len() as u8, 6, 64],
        };
        packet.extend(octets(self.from.ip()));
        packet.extend(octets(self.to.ip()));
        packet.extend(tcp);
        packet
    }
}

/// Raw sockets that take packets with their IP header.
#[derive(Debug)]
pub struct Forger {
    v4: Socket,
    v6: Socket,
}

impl Forger {
    /// On the host that the thread is on.
    pub fn new() -> Self {
        let raw = |domain| Socket::new(domain, Type::RAW, Some(Protocol::from(255))).expect("a raw socket needs root");
        Self { v4: raw(Domain::IPV4), v6: raw(Domain::IPV6) }
    }

    /// Sends one segment. A full queue loses it, as a network does.
    pub fn send(&self, segment: &Segment<'_>) {
        let socket = if segment.to.is_ipv4() { &self.v4 } else { &self.v6 };
        // A raw socket of IPv6 refuses a port.
        let _ = socket.send_to(&segment.packet(), &SocketAddr::new(segment.to.ip(), 0).into());
    }
}

impl Default for Forger {
    fn default() -> Self {
        Self::new()
    }
}

fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

fn checksum(bytes: &[u8]) -> u16 {
    let word = |pair: &[u8]| u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
    let mut sum: u32 = bytes.chunks(2).map(word).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}
