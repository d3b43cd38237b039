//! The map of connections held against the sockets that there are, by sock_diag(7).
//!
//! Counts come from the life of sockets and are exact, so this finds nothing unless something was lost: the program was
//! detached for a while, or an entry went while a connection began. A count that is too high would refuse a source for ever,
//! so it is taken back; one that is too low (connections from before the plane was loaded are in none) mends itself when
//! they end, and is left alone.
//!
//! A count and the sockets can't be read at the same moment. A count is read before the sockets and after them, the lower
//! one is believed, and only what is too much in [`PASSES`] passes, a minute apart, is taken back. What is changed between
//! reading a count and writing it, some microseconds, is lost: at worst one connection is let through over the ceiling.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;

use rustix::net::netlink;
use smtp_guard_ebpf::abi::Source;

use super::netlink::{cut, dump};

/// Passes in which a count has to be too high.
const PASSES: u32 = 3;

/// What was too much of a source in the last passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Suspicion {
    passes: u32,
    /// The least of them.
    excess: u64,
}

/// What former passes found.
#[derive(Debug, Default)]
pub(super) struct Suspicions(HashMap<Source, Suspicion>);

impl Suspicions {
    /// Takes note of one pass: what each source's count has too much, by the lower of its two readings. Returns those
    /// whose count has to be taken back, and by how much.
    pub(super) fn pass(&mut self, excess: impl Iterator<Item = (Source, u64)>) -> Vec<(Source, u64)> {
        let mut due = Vec::new();
        let mut next = HashMap::new();
        for (source, excess) in excess.filter(|(_, excess)| *excess > 0) {
            let before = self.0.get(&source).copied().unwrap_or(Suspicion { passes: 0, excess });
            let now = Suspicion { passes: before.passes + 1, excess: before.excess.min(excess) };
            if now.passes >= PASSES {
                due.push((source, now.excess));
            } else {
                next.insert(source, now);
            }
        }
        self.0 = next;
        due
    }
}

/// Bytes of `struct inet_diag_req_v2` and `struct inet_diag_msg`.
const REQUEST: usize = 56;
const MESSAGE: usize = 72;

/// Sockets by the source of their peer, of this network namespace and of the local ports that `guarded` says. In the states
/// from established to closed, which is when they are counted.
pub(super) fn sockets(guarded: impl Fn(u16) -> bool, ipv6_mask: u64) -> io::Result<HashMap<Source, u64>> {
    const SOCK_DIAG_BY_FAMILY: u16 = 20;
    let mut found = HashMap::new();
    for family in [libc::AF_INET, libc::AF_INET6] {
        dump(Some(netlink::SOCK_DIAG), SOCK_DIAG_BY_FAMILY, &request(family as u8), |body| {
            let (port, peer) = read(body)?;
            if guarded(port) {
                *found.entry(Source::of(peer, ipv6_mask)).or_default() += 1;
            }
            Ok(())
        })?;
    }
    Ok(found)
}

/// Asks for all TCP sockets of a family in the states ESTABLISHED, FIN_WAIT1, FIN_WAIT2, CLOSE_WAIT, LAST_ACK and CLOSING.
fn request(family: u8) -> [u8; REQUEST] {
    const STATES: u32 = 1 << 1 | 1 << 4 | 1 << 5 | 1 << 8 | 1 << 9 | 1 << 11;
    let mut bytes = [0; REQUEST];
    (bytes[0], bytes[1]) = (family, libc::IPPROTO_TCP as u8);
    bytes[4..8].copy_from_slice(&STATES.to_ne_bytes());
    bytes
}

/// Local port and peer of a socket.
fn read(body: &[u8]) -> io::Result<(u16, IpAddr)> {
    let message: &[u8; MESSAGE] = body.first_chunk().ok_or_else(cut)?;
    let port = u16::from_be_bytes([message[4], message[5]]);
    let peer: [u8; 16] = message[24..40].try_into().map_err(|_| cut())?;
    let is_v4 = i32::from(message[0]) == libc::AF_INET;
    Ok((port, if is_v4 { [peer[0], peer[1], peer[2], peer[3]].into() } else { peer.into() }))
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn what_is_too_much_again_and_again_is_taken_back() {
        let source = Source::v4;
        let mut suspicions = Suspicions::default();
        for (pass, due) in [
            (vec![(1, 3), (2, 1), (3, 0)], vec![]),
            (vec![(1, 2), (2, 0)], vec![]),
            (vec![(1, 5), (2, 1)], vec![(1, 2)]),
            (vec![(1, 5), (2, 1)], vec![]),
            (vec![(2, 4)], vec![(2, 1)]),
        ] {
            let found = suspicions.pass(pass.into_iter().map(|(n, excess)| (source(n), excess)));
            assert_eq!(found, due.into_iter().map(|(n, excess)| (source(n), excess)).collect::<Vec<_>>());
        }
    }

    #[test]
    fn sockets_are_found_by_their_peers() {
        for (address, peer) in [("127.0.0.1:0", Source::v4(0x7f00_0001)), ("[::1]:0", Source::v6(0, u64::MAX))] {
            let Ok(listener) = TcpListener::bind(address) else { continue };
            let port = listener.local_addr().unwrap().port();
            let held: Vec<_> = (0..5).map(|_| TcpStream::connect(listener.local_addr().unwrap()).unwrap()).collect();
            let found = sockets(|local| local == port, u64::MAX).unwrap();
            assert_eq!(found, HashMap::from([(peer, 5)]), "established, accepted or not");
            drop(held);
        }
    }

    #[test]
    fn what_is_no_socket_is_an_error() {
        assert!(read(&[0; MESSAGE - 1]).is_err());
        assert_eq!(read(&[0xff; MESSAGE]).unwrap().0, 0xffff);
    }
}
