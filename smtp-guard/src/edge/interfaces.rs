//! Network interfaces: their numbers, what runs on them, and when they change.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::Protocol;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, bind, recv, socket_with};

use super::netlink::{attributes, cut, dump};
use super::pins::Mode;
use super::sys;

/// The number of the interface `name`; `None`: there is none.
pub(super) fn index_of(name: &str) -> Option<u32> {
    rustix::net::netdevice::name_to_index(&any_socket().ok()?, name).ok()
}

/// A socket of this network namespace, bound to nothing: that would need the loopback interface to be up.
pub(super) fn any_socket() -> io::Result<OwnedFd> {
    let open = |family| socket_with(family, SocketType::DGRAM, SocketFlags::CLOEXEC, None);
    Ok(open(AddressFamily::INET).or_else(|_| open(AddressFamily::INET6))?)
}

/// Whether the XDP program behind `link` is on the interface `index` of this network namespace. (Numbers are taken again in each.)
pub(super) fn is_on(link: BorrowedFd<'_>, index: u32) -> bool {
    let Ok(info) = sys::link_info(link) else { return false };
    info.ifindex == index && xdp(index).is_ok_and(|found| found.is_some_and(|xdp| xdp.program == info.prog_id))
}

/// The kernel's data of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Link {
    /// The kind of its packets' headers: ARPHRD_*.
    kind: u16,
    xdp: Option<Xdp>,
}

/// The XDP program on an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Xdp {
    pub(super) mode: Mode,
    pub(super) program: u32,
}

/// The XDP program on the interface `index`; `None`: there is none. Any user may ask; whose program it is, only who may open
/// the link.
pub(super) fn xdp(index: u32) -> io::Result<Option<Xdp>> {
    Ok(link(index)?.and_then(|link| link.xdp))
}

/// The kind of the interface `index`, in words, where its packets don't begin with an Ethernet header; `None`: they do. The program
/// would take other bytes for such a header, and drop what is none of its business.
pub(super) fn without_ethernet(index: u32) -> io::Result<Option<String>> {
    // An interface that is gone is the next step's business.
    Ok(link(index)?.and_then(|link| kind_without_ethernet(link.kind)))
}

/// The words for an ARPHRD_* of linux/if_arp.h.
fn kind_without_ethernet(kind: u16) -> Option<String> {
    const ETHER: u16 = 1;
    const LOOPBACK: u16 = 772;
    Some(String::from(match kind {
        ETHER | LOOPBACK => return None,
        512 => "a PPP link",
        519 => "a raw IP link",
        768 => "a tunnel (ipip)",
        769 => "a tunnel (ip6tnl)",
        776 => "a tunnel (sit)",
        778 | 823 => "a tunnel (GRE)",
        801..=803 => "a raw wireless interface",
        0xfffe => "a layer 3 interface, like tun and WireGuard",
        kind => return Some(format!("an interface of the link type {kind}")),
    }))
}

fn link(index: u32) -> io::Result<Option<Link>> {
    const RTM_GETLINK: u16 = 18;
    let mut found = None;
    // `struct ifinfomsg`, all zero: every interface of this namespace.
    dump(ROUTE, RTM_GETLINK, &[0; INFO], |body| {
        let (number, link) = read(body).ok_or_else(cut)?;
        if number == index {
            found = Some(link);
        }
        Ok(())
    })?;
    Ok(found)
}

/// NETLINK_ROUTE is number 0, which is how rustix says "the default".
const ROUTE: Option<Protocol> = None;
/// Bytes of `struct ifinfomsg`.
const INFO: usize = 16;

/// The interface's number, and what it is; `None` where the message is cut short.
fn read(body: &[u8]) -> Option<(u32, Link)> {
    const IFLA_XDP: u16 = 43;
    const IFLA_XDP_ATTACHED: u16 = 2;
    const IFLA_XDP_PROG_ID: u16 = 4;
    const IFLA_XDP_DRV_PROG_ID: u16 = 5;
    let (info, rest) = body.split_first_chunk::<INFO>()?;
    let kind = u16::from_ne_bytes([info[2], info[3]]);
    let number = u32::from_ne_bytes([info[4], info[5], info[6], info[7]]);
    let nested = attributes(rest).find(|(kind, _)| *kind == IFLA_XDP).map(|(_, nested)| nested).unwrap_or_default();
    let value = |kind: u16| attributes(nested).find(|(found, _)| *found == kind).map(|(_, value)| value);
    let program = |kind: u16| value(kind)?.try_into().ok().map(u32::from_ne_bytes);
    let xdp = match value(IFLA_XDP_ATTACHED) {
        // Driver, and hardware, which passes what it drops by.
        Some([1 | 3]) => program(IFLA_XDP_PROG_ID).map(|program| Xdp { mode: Mode::Driver, program }),
        Some([2]) => program(IFLA_XDP_PROG_ID).map(|program| Xdp { mode: Mode::Generic, program }),
        // More than one of them.
        Some([4]) => program(IFLA_XDP_DRV_PROG_ID).map(|program| Xdp { mode: Mode::Driver, program }),
        _ => None,
    };
    Some((number, Link { kind, xdp }))
}

/// After the first of several changes.
const SETTLE: Duration = Duration::from_millis(5);

/// Wakes up whenever an interface comes, goes or changes.
#[derive(Debug)]
pub struct Changes(OwnedFd);

impl Changes {
    /// The interfaces of this network namespace.
    pub fn new() -> io::Result<Self> {
        const RTMGRP_LINK: u32 = 1;
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket = socket_with(AddressFamily::NETLINK, SocketType::DGRAM, flags, ROUTE)?;
        bind(&socket, &SocketAddrNetlink::new(0, RTMGRP_LINK))?;
        Ok(Self(socket))
    }

    /// Waits for a change, at most for `longest`.
    pub fn wait(&self, longest: Duration) -> io::Result<()> {
        if wait_readable(self.0.as_fd(), longest)? {
            // A new interface changes several times.
            std::thread::sleep(SETTLE);
            let mut buffer = [0; 4096];
            // An error is "nothing more", or "some were lost": what changed is looked at in any case. At most so many, so that
            // a storm of changes can't keep us here.
            for _ in 0..1000 {
                if recv(&self.0, buffer.as_mut_slice(), RecvFlags::empty()).is_err() {
                    break;
                }
            }
        }
        Ok(())
    }
}

/// Waits until `fd` can be read; `false` after `longest`.
pub(super) fn wait_readable(fd: BorrowedFd<'_>, longest: Duration) -> io::Result<bool> {
    let mut fds = [PollFd::new(&fd, PollFlags::IN)];
    let longest = Timespec { tv_sec: longest.as_secs() as i64, tv_nsec: longest.subsec_nanos().into() };
    match poll(&mut fds, Some(&longest)) {
        Ok(ready) => Ok(ready > 0),
        Err(rustix::io::Errno::INTR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_interface_is_found() {
        let index = index_of("lo").unwrap();
        assert!(index > 0);
        assert!(xdp(index).is_ok() && xdp(u32::MAX).unwrap().is_none());
        assert_eq!(index_of("no-such-interface"), None);
    }

    #[test]
    fn f1_what_has_no_ethernet_header_is_known() {
        assert_eq!(without_ethernet(index_of("lo").unwrap()).unwrap(), None);
        assert_eq!(without_ethernet(u32::MAX).unwrap(), None, "there is none");
        for (kind, words) in [
            (1, None),
            (772, None),
            (512, Some("PPP")),
            (768, Some("ipip")),
            (776, Some("sit")),
            (778, Some("GRE")),
            (823, Some("GRE")),
            (0xfffe, Some("tun and WireGuard")),
            (0, Some("link type 0")),
            (24, Some("link type 24")),
            (0xffff, Some("link type 65535")),
        ] {
            let found = kind_without_ethernet(kind);
            assert!(
                found.as_deref().is_some_and(|found| words.is_some_and(|words| found.contains(words)))
                    || found.is_none() && words.is_none(),
                "{kind}: {found:?}"
            );
        }
    }

    /// A message of the kernel's for interface 7 with these attributes.
    #[track_caller]
    fn check(attributes: &[u8], found: Option<(Mode, u32)>) {
        let mut body = vec![0; INFO];
        (body[2], body[4]) = (1, 7);
        body.extend(attributes);
        let xdp = found.map(|(mode, program)| Xdp { mode, program });
        assert_eq!(read(&body), Some((7, Link { kind: u16::from_ne_bytes([1, 0]), xdp })), "{attributes:?}");
    }

    #[test]
    fn the_program_is_read() {
        check(&[], None);
        for (attached, kind, found) in [
            (0, 4, None),
            (1, 4, Some((Mode::Driver, 9))),
            (2, 4, Some((Mode::Generic, 9))),
            (4, 5, Some((Mode::Driver, 9))),
            (4, 6, None),
        ] {
            check(&[20, 0, 43, 0x80, 5, 0, 2, 0, attached, 0, 0, 0, 8, 0, kind, 0, 9, 0, 0, 0], found);
        }
        check(&[5, 0, 3, 0, b'x', 0, 0, 0, 12, 0, 43, 0, 5, 0, 2, 0, 2, 0, 0, 0], None);
        check(&[9, 0, 43, 0], None);
        assert_eq!(read(&[0; INFO - 1]), None);
    }
}
