//! The map of connections held against the sockets that there are, by sock_diag(7).
//!
//! Counts come from the life of sockets and are exact, so this finds nothing unless something was lost: the program was
//! detached for a while, or an entry went while a connection began. A count that is too high would refuse a source for ever,
//! so it is taken back; one that is too low (connections from before the plane was loaded are in none) mends itself when
//! they end, and is left alone.
//!
//! A count and the sockets can't be read at the same moment: the kernel goes through its sockets for milliseconds, and of a
//! busy source some come and go meanwhile. A count is read before the sockets and after them, and the lower one is believed.
//! What seems too much is looked at up to [`LOOKS`] times in a pass, and only the least that is too much in every look of
//! [`PASSES`] passes, a minute apart, is taken back. (One look a pass is not enough: in the stress run it took from a source
//! with some eight connections that came and went.) What is changed between reading a count and writing it, some
//! microseconds, is lost: at worst one connection is let through over the ceiling.

use std::collections::HashMap;
use std::io;

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketType, netlink, recv, send, socket};
use smtp_guard_ebpf::abi::Source;

/// Passes in which a count has to be too high.
const PASSES: u32 = 3;
/// Looks in a pass, where the first ones found something.
const LOOKS: usize = 8;

/// What each source's count has too much in every one of up to [`LOOKS`] looks, and the least of it. Sources whose count
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

/// Bytes of `struct nlmsghdr`, `struct inet_diag_req_v2` and `struct inet_diag_msg`.
const HEADER: usize = 16;
const REQUEST: usize = 56;
const MESSAGE: usize = 72;

/// Sockets by the source of their peer, of this network namespace and of the local ports that `guarded` says. In the states
/// from established to closed, which is when they are counted, and those that TCP Fast Open made before.
pub(super) fn sockets(guarded: impl Fn(u16) -> bool, ipv6_mask: u64) -> io::Result<HashMap<Source, u64>> {
    let socket = socket(AddressFamily::NETLINK, SocketType::DGRAM, Some(netlink::SOCK_DIAG))?;
    let mut found = HashMap::new();
    for family in [libc::AF_INET, libc::AF_INET6] {
        send(&socket, &request(family as u8), SendFlags::empty())?;
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let (_, length) = recv(&socket, buffer.as_mut_slice(), RecvFlags::empty())?;
            let more = read(&buffer[..length.min(buffer.len())], |port, source| {
                if guarded(port) {
                    *found.entry(Source::of(source, ipv6_mask)).or_default() += 1;
                }
            })?;
            if !more {
                break;
            }
        }
    }
    Ok(found)
}

const SYN_RECV: u8 = 3;

/// Asks for all TCP sockets of a family in the states ESTABLISHED, SYN_RECV, FIN_WAIT1, FIN_WAIT2, CLOSE_WAIT, LAST_ACK and
/// CLOSING.
fn request(family: u8) -> [u8; HEADER + REQUEST] {
    const STATES: u32 = 1 << 1 | 1 << SYN_RECV | 1 << 4 | 1 << 5 | 1 << 8 | 1 << 9 | 1 << 11;
    const SOCK_DIAG_BY_FAMILY: u16 = 20;
    const REQUEST_DUMP: u16 = 0x301;
    let mut bytes = [0; HEADER + REQUEST];
    bytes[0..4].copy_from_slice(&((HEADER + REQUEST) as u32).to_ne_bytes());
    bytes[4..6].copy_from_slice(&SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    bytes[6..8].copy_from_slice(&REQUEST_DUMP.to_ne_bytes());
    (bytes[HEADER], bytes[HEADER + 1]) = (family, libc::IPPROTO_TCP as u8);
    bytes[HEADER + 4..HEADER + 8].copy_from_slice(&STATES.to_ne_bytes());
    bytes
}

/// Reads the messages of one datagram: local port and peer of each socket. `false` at the end of the dump.
fn read(mut bytes: &[u8], mut take: impl FnMut(u16, std::net::IpAddr)) -> io::Result<bool> {
    const NLMSG_ERROR: u16 = 2;
    const NLMSG_DONE: u16 = 3;
    let cut = || io::Error::new(io::ErrorKind::InvalidData, "a message of sock_diag is cut short");
    while let Some((head, _)) = bytes.split_first_chunk::<HEADER>() {
        let length = u32::from_ne_bytes([head[0], head[1], head[2], head[3]]) as usize;
        let message = bytes.get(HEADER..length).ok_or_else(cut)?;
        match u16::from_ne_bytes([head[4], head[5]]) {
            NLMSG_DONE => return Ok(false),
            NLMSG_ERROR => {
                let code = message.first_chunk::<4>().map_or(libc::EPROTO, |code| -i32::from_ne_bytes(*code));
                return Err(io::Error::from_raw_os_error(code));
            }
            _ => {
                let (message, attributes) = message.split_first_chunk::<MESSAGE>().ok_or_else(cut)?;
                if message[1] != SYN_RECV || is_socket(attributes) {
                    let port = u16::from_be_bytes([message[4], message[5]]);
                    let peer: [u8; 16] = message[24..40].try_into().map_err(|_| cut())?;
                    let v4 = [peer[0], peer[1], peer[2], peer[3]];
                    take(port, if i32::from(message[0]) == libc::AF_INET { v4.into() } else { peer.into() });
                }
            }
        }
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(true)
}

/// Whether a message in the state SYN_RECV is about a socket, which Fast Open has made, or only about a SYN that was heard:
/// the kernel says nothing of how far that has been shut down.
fn is_socket(mut attributes: &[u8]) -> bool {
    const SHUTDOWN: u16 = 8;
    while let Some(([a, b, c, d], _)) = attributes.split_first_chunk() {
        if u16::from_ne_bytes([*c, *d]) == SHUTDOWN {
            return true;
        }
        let length = usize::from(u16::from_ne_bytes([*a, *b])).max(4);
        attributes = attributes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    false
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
            (&[0, 0, 0, 0, 5, 0, 8, 0], true),
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
    fn what_is_no_message_is_an_error() {
        for (bytes, ends) in
            [(vec![], Some(true)), (vec![0; 15], Some(true)), (vec![0; 16], None), (vec![0xff; 40], None)]
        {
            assert_eq!(read(&bytes, |_, _| {}).ok(), ends, "{bytes:?}");
        }
    }
}
