//! Packets with any source, and a probe that tells when the kernel plane begins to drop one.

use std::io::Read as _;
use std::net::SocketAddrV4;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};

/// Flags of TCP.
pub const FIN: u8 = 0x01;
pub const SYN: u8 = 0x02;
pub const RST: u8 = 0x04;
pub const ACK: u8 = 0x10;

/// A raw socket that takes packets with their IP header.
pub fn raw() -> Socket {
    Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(255))).expect("a raw socket needs root")
}

/// Sends a segment from anybody to anybody.
pub fn send(socket: &Socket, from: SocketAddrV4, to: SocketAddrV4, flags: u8, sequence: u32) {
    let mut tcp = [0; 20];
    tcp[0..2].copy_from_slice(&from.port().to_be_bytes());
    tcp[2..4].copy_from_slice(&to.port().to_be_bytes());
    tcp[4..8].copy_from_slice(&sequence.to_be_bytes());
    tcp[8..12].copy_from_slice(&1u32.to_be_bytes());
    tcp[12] = 5 << 4;
    tcp[13] = flags;
    tcp[14..16].copy_from_slice(&0xffffu16.to_be_bytes());
    let mut pseudo = [from.ip().octets(), to.ip().octets()].concat();
    pseudo.extend([0, 6, 0, 20]);
    let sum = checksum(&[&pseudo[..], &tcp].concat());
    tcp[16..18].copy_from_slice(&sum.to_be_bytes());
    let mut packet = vec![0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0];
    packet.extend(from.ip().octets());
    packet.extend(to.ip().octets());
    packet.extend(tcp);
    // A full queue loses a packet, as a network does.
    let _ = socket.send_to(&packet, &SocketAddr::from(to).into());
}

fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = bytes.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// Ports that the probe sends from: outside the range of ordinary connections.
const PROBE_PORTS: std::ops::Range<u16> = 2_000..30_000;

/// Sends ACKs of connections that don't exist, each from its own port: the stack answers each with RST.
pub fn probe(from: Ipv4Addr, to: SocketAddrV4, stop: &AtomicBool) -> Vec<(u16, Instant)> {
    let socket = raw();
    let mut sent = Vec::with_capacity(PROBE_PORTS.len());
    for port in PROBE_PORTS {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        sent.push((port, Instant::now()));
        send(&socket, SocketAddrV4::new(from, port), to, ACK, 1);
        std::thread::sleep(Duration::from_micros(20));
    }
    sent
}

/// Which probe ports were answered by RST until `stop`.
pub fn answered(from: SocketAddrV4, stop: &AtomicBool) -> Vec<bool> {
    let mut socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::TCP)).expect("a raw socket needs root");
    socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    // Probes come faster than this thread may be scheduled. An answer that is lost here would look like a dropped probe,
    // so the buffer holds them all; past the system's limit, which is far below.
    rustix::net::sockopt::set_socket_recv_buffer_size_force(&socket, 32 << 20).expect("a raw socket needs root");
    let mut answered = vec![false; usize::from(u16::MAX) + 1];
    let mut packet = [0; 256];
    loop {
        match socket.read(&mut packet) {
            Ok(length) => {
                let header = usize::from(packet[0] & 0x0f) * 4;
                if length >= header + 20 && packet[12..16] == from.ip().octets() && packet[header + 13] & RST != 0 {
                    let port = u16::from_be_bytes([packet[header + 2], packet[header + 3]]);
                    answered[usize::from(port)] = true;
                }
            }
            Err(_) if stop.load(Ordering::Relaxed) => return answered,
            Err(_) => {}
        }
    }
}
