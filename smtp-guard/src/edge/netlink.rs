//! Questions to the kernel by netlink(7): a dump, message by message, and attributes.

use std::io;

use rustix::net::{AddressFamily, Protocol, RecvFlags, SendFlags, SocketType, recv, send, socket};

/// Bytes of `struct nlmsghdr`.
pub(super) const HEADER: usize = 16;
/// The flags of a request for all there is.
pub(super) const REQUEST_DUMP: u16 = 0x301;
/// Bytes of a datagram; the kernel's are at most 32 KiB.
const DATAGRAM: usize = 64 * 1024;

/// Asks `protocol` (none: that of routes and links) the question `body` of the type `kind`, and hands `take` the bodies of the answer. Stops at the first error.
pub(super) fn dump(
    protocol: Option<Protocol>,
    kind: u16,
    body: &[u8],
    mut take: impl FnMut(&[u8]) -> io::Result<()>,
) -> io::Result<()> {
    let socket = socket(AddressFamily::NETLINK, SocketType::DGRAM, protocol)?;
    let mut request = Vec::with_capacity(HEADER + body.len());
    request.extend(((HEADER + body.len()) as u32).to_ne_bytes());
    request.extend(kind.to_ne_bytes());
    request.extend(REQUEST_DUMP.to_ne_bytes());
    request.extend([0; 8]);
    request.extend(body);
    send(&socket, &request, SendFlags::empty())?;
    let mut buffer = vec![0; DATAGRAM];
    loop {
        let (_, length) = recv(&socket, buffer.as_mut_slice(), RecvFlags::empty())?;
        if !read(&buffer[..length.min(buffer.len())], &mut take)? {
            return Ok(());
        }
    }
}

/// Reads the messages of one datagram. `false` at the end of the dump.
pub(super) fn read(mut bytes: &[u8], mut take: impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<bool> {
    const NLMSG_ERROR: u16 = 2;
    const NLMSG_DONE: u16 = 3;
    while let Some((head, _)) = bytes.split_first_chunk::<HEADER>() {
        let length = u32::from_ne_bytes([head[0], head[1], head[2], head[3]]) as usize;
        let body = bytes.get(HEADER..length).ok_or_else(cut)?;
        match u16::from_ne_bytes([head[4], head[5]]) {
            NLMSG_DONE => return Ok(false),
            NLMSG_ERROR => {
                let code = body.first_chunk::<4>().map_or(libc::EPROTO, |code| -i32::from_ne_bytes(*code));
                return Err(io::Error::from_raw_os_error(code));
            }
            _ => take(body)?,
        }
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(true)
}

/// The attributes in `bytes`: type and value of each, up to the first that is cut short. Flags of the type are left out.
pub(super) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    const TYPE: u16 = 0x3fff;
    std::iter::from_fn(move || {
        let head = bytes.first_chunk::<4>()?;
        let (length, kind) = (u16::from_ne_bytes([head[0], head[1]]), u16::from_ne_bytes([head[2], head[3]]));
        let value = bytes.get(4..usize::from(length))?;
        bytes = bytes.get(usize::from(length).next_multiple_of(4)..).unwrap_or_default();
        Some((kind & TYPE, value))
    })
}

/// The error for a message that ends too early.
pub(super) fn cut() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "a message of the kernel is cut short")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_no_message_is_an_error() {
        for (bytes, ends) in
            [(vec![], Some(true)), (vec![0; 15], Some(true)), (vec![0; 16], None), (vec![0xff; 40], None)]
        {
            assert_eq!(read(&bytes, |_| Ok(())).ok(), ends, "{bytes:?}");
        }
    }

    #[test]
    fn attributes_are_read_up_to_what_is_cut_short() {
        for (bytes, found) in [
            (&[][..], vec![]),
            (&[5, 0, 3, 0x80, 9, 0, 0, 0, 4, 0, 4, 0], vec![(3, &[9][..]), (4, &[])]),
            (&[5, 0, 3, 0, 9], vec![(3, &[9])]),
            (&[9, 0, 3, 0, 9], vec![]),
            (&[3, 0, 3, 0, 9], vec![]),
        ] {
            assert_eq!(attributes(bytes).collect::<Vec<_>>(), found, "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_to_an_end(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = read(&bytes, |_| Ok(()));
            prop_assert!(attributes(&bytes).count() <= bytes.len() / 4);
        }
    }
}
