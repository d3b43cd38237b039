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

/// Whether the XDP program behind `link` is on the interface `index` of this network namespace. (Numbers are taken anew in each.)
pub(super) fn is_on(link: BorrowedFd<'_>, index: u32) -> bool {
    let Ok(info) = sys::link_info(link) else { return false };
    info.ifindex == index && xdp(index).is_ok_and(|found| found.is_some_and(|xdp| xdp.program == info.prog_id))
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
    const RTM_GETLINK: u16 = 18;
    let mut found = None;
    // `struct ifinfomsg`, all zero: every interface of this namespace.
    dump(ROUTE, RTM_GETLINK, &[0; INFO], |body| {
        let (number, xdp) = read(body).ok_or_else(cut)?;
        if number == index {
            found = xdp;
        }
        Ok(())
    })?;
    Ok(found)
}

/// NETLINK_ROUTE is number 0, which is how rustix says "the default".
const ROUTE: Option<Protocol> = None;
/// Bytes of `struct ifinfomsg`.
const INFO: usize = 16;

/// The interface's number and its XDP program; `None` where the message is cut short.
fn read(body: &[u8]) -> Option<(u32, Option<Xdp>)> {
    const IFLA_XDP: u16 = 43;
    const IFLA_XDP_ATTACHED: u16 = 2;
    const IFLA_XDP_PROG_ID: u16 = 4;
    const IFLA_XDP_DRV_PROG_ID: u16 = 5;
    let (info, rest) = body.split_first_chunk::<INFO>()?;
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
    Some((number, xdp))
}

/// After the first of several changes.
const SETTLE: Duration = Duration::from_millis(5);

/// Wakes up whenever an interface comes, goes or changes.
#[derive(Debug)]
pub struct Changes(OwnedFd);

impl Changes {
    /// Of this network namespace.
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

    /// A message of the kernel's for interface 7 with these attributes.
    #[track_caller]
    fn check(attributes: &[u8], found: Option<(Mode, u32)>) {
        let mut body = vec![0; INFO];
        body[4] = 7;
        body.extend(attributes);
        let found = found.map(|(mode, program)| Xdp { mode, program });
        assert_eq!(read(&body), Some((7, found)), "{attributes:?}");
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
