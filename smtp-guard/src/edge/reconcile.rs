//! The kernel's map of connections, compared with the sockets that exist, by sock_diag(7).
//!
//! Counts come from the life of sockets and are exact. So this finds nothing unless something was lost: the program was
//! detached for a while, or an entry went while a connection began. A count that is too high would refuse a source for
//! ever, so the surplus is taken back. A count that is too low is left alone: it lacks connections from before the plane
//! was loaded, and is right again when they end.
//!
//! A count and the sockets can't be read at the same moment. The kernel goes through its sockets for milliseconds, and some of
//! a busy source come and go meanwhile. So a count is read before the sockets and after them, and the lower value is believed.
//! What seems too much is looked at up to [`LOOKS`] times in a pass. Only the least surplus of every look of [`PASSES`] passes,
//! a minute apart, is taken back. One look a pass is not enough: in the stress run it took from a source with some eight
//! connections that came and went.
//!
//! A change between reading a count and writing it, some microseconds, is lost: at worst one connection more than the
//! ceiling is let through.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;

use rustix::net::netlink;
use smtp_guard_ebpf::abi::Source;

use super::netlink::{attributes, cut, dump};

/// Passes in which a count has to be too high.
const PASSES: u32 = 3;
/// Looks in a pass, where the first ones found something.
const LOOKS: usize = 8;

/// The excess of each source's count in every one of up to [`LOOKS`] looks, and the least of these. Sources whose count
/// is right are left out by each `look`.
pub(super) fn excess<E>(mut look: impl FnMut() -> Result<HashMap<Source, u64>, E>) -> Result<HashMap<Source, u64>, E> {
    let mut found = look()?;
    for _ in 1..LOOKS {
        if found.is_empty() {
            break;
        }
        let again = look()?;
        found.retain(|source, excess| {
            *excess = again.get(source).map_or(0, |again| *again.min(excess));
            *excess > 0
        });
    }
    Ok(found)
}

/// The excess of a source in the last passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Suspicion {
    passes: u32,
    /// The least of them.
    excess: u64,
}

/// The findings of former passes.
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
/// from established to closed, which is when they are counted, and those that TCP Fast Open made before.
pub(super) fn sockets(guarded: impl Fn(u16) -> bool, ipv6_mask: u64) -> io::Result<HashMap<Source, u64>> {
    const SOCK_DIAG_BY_FAMILY: u16 = 20;
    let mut found = HashMap::new();
    for family in [libc::AF_INET, libc::AF_INET6] {
        dump(Some(netlink::SOCK_DIAG), SOCK_DIAG_BY_FAMILY, &request(family as u8), |body| {
            if let Some((port, peer)) = read(body)?
                && guarded(port)
            {
                *found.entry(Source::of(peer, ipv6_mask)).or_default() += 1;
            }
            Ok(())
        })?;
    }
    Ok(found)
}

const SYN_RECV: u8 = 3;

/// Asks for all TCP sockets of a family in the states ESTABLISHED, SYN_RECV, FIN_WAIT1, FIN_WAIT2, CLOSE_WAIT, LAST_ACK and
/// CLOSING.
fn request(family: u8) -> [u8; REQUEST] {
    const STATES: u32 = 1 << 1 | 1 << SYN_RECV | 1 << 4 | 1 << 5 | 1 << 8 | 1 << 9 | 1 << 11;
    let mut bytes = [0; REQUEST];
    (bytes[0], bytes[1]) = (family, libc::IPPROTO_TCP as u8);
    bytes[4..8].copy_from_slice(&STATES.to_ne_bytes());
    bytes
}

/// Local port and peer of a socket; `None` where the message is about none.
fn read(body: &[u8]) -> io::Result<Option<(u16, IpAddr)>> {
    let (message, rest) = body.split_first_chunk::<MESSAGE>().ok_or_else(cut)?;
    if message[1] == SYN_RECV && !is_socket(rest) {
        return Ok(None);
    }
    let port = u16::from_be_bytes([message[4], message[5]]);
    let peer: [u8; 16] = message[24..40].try_into().map_err(|_| cut())?;
    let is_v4 = i32::from(message[0]) == libc::AF_INET;
    Ok(Some((port, if is_v4 { [peer[0], peer[1], peer[2], peer[3]].into() } else { peer.into() })))
}

/// Whether a message in the state SYN_RECV is about a socket, which Fast Open has made, or only about a SYN that was heard:
/// the kernel says nothing of how far that has been shut down.
fn is_socket(rest: &[u8]) -> bool {
    const SHUTDOWN: u16 = 8;
    attributes(rest).any(|(kind, _)| kind == SHUTDOWN)
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
    fn what_comes_and_goes_within_a_pass_is_no_excess() {
        let source = Source::v4;
        type Looks = Vec<Vec<(u32, u64)>>;
        let check = |looks: Looks, taken: usize, found: &[(u32, u64)]| {
            let mut next = looks.into_iter();
            let look =
                || Ok::<_, ()>(next.next().unwrap().into_iter().map(|(n, excess)| (source(n), excess)).collect());
            let found: HashMap<_, _> = found.iter().map(|(n, excess)| (source(*n), *excess)).collect();
            assert_eq!(excess(look), Ok(found));
            assert_eq!(next.len(), taken, "looks that were not needed");
        };
        check(vec![vec![]; 8], 7, &[]);
        check(vec![vec![(1, 3), (2, 1)], vec![(2, 4), (3, 1)], vec![], vec![]], 1, &[]);
        check([vec![vec![(1, 3), (2, 1)]; 7], vec![vec![(1, 2), (3, 9)]]].concat(), 0, &[(1, 2)]);
    }

    #[test]
    fn a_syn_that_was_heard_is_no_socket() {
        for (attributes, socket) in [
            (&[][..], false),
            (&[8, 0, 15, 0, 1, 2, 3, 4], false),
            (&[8, 0, 15, 0, 1, 2, 3, 4, 5, 0, 8, 0, 0, 0, 0, 0], true),
            (&[0, 0, 0, 0, 5, 0, 8, 0], false),
            (&[0xff, 0xff, 15, 0, 5, 0, 8, 0], false),
            (&[5, 0, 8], false),
        ] {
            let mut native = attributes.to_vec();
            for pair in native.chunks_exact_mut(2) {
                pair.copy_from_slice(&u16::from_le_bytes([pair[0], pair[1]]).to_ne_bytes());
            }
            assert_eq!(is_socket(&native), socket, "{attributes:?}");
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
        assert_eq!(read(&[0xff; MESSAGE]).unwrap().unwrap().0, 0xffff);
    }
}
