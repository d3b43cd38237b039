//! The PROXY protocol, versions 1 and 2: who the client behind a balancer is, and who ours is to the backend.
//!
//! The codec is the crate proxy-header's. Added here: strict bounds, TCP only, one family, no trust in a header that
//! could be read in two ways.

use std::net::{IpAddr, SocketAddr};

use proxy_header::{ParseConfig, Protocol, ProxiedAddress, ProxyHeader};

/// Bytes of a header of version 1 with its CRLF.
pub const MAX_V1: usize = 107;
/// Bytes of a header of version 2: addresses take 52, the rest is room for the balancer's own fields. One that hands on a
/// client's certificate sends some KiB of them.
pub const MAX_V2: usize = V2_HEAD + 4096;

const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// Signature, command, family and length.
const V2_HEAD: usize = 16;

/// Which version is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    V1,
    V2,
}

/// The ends of a proxied connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ends {
    pub source: SocketAddr,
    pub destination: SocketAddr,
}

/// The content of a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proxied {
    For(Ends),
    /// The balancer speaks for itself: a health check.
    Itself,
}

/// The reason why the first bytes of a connection are no header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProxyError {
    #[error("no PROXY header")]
    Missing,
    #[error("a PROXY header that is malformed")]
    Malformed,
    #[error("a PROXY header that is too long")]
    TooLong,
    #[error("a PROXY header for something else than TCP")]
    NotTcp,
}

/// How many bytes have to be read next, so that none beyond the header is read: what follows may be a TLS handshake.
/// `Ok(0)`: `head` is a whole header.
pub fn missing(head: &[u8]) -> Result<usize, ProxyError> {
    let v2 = head.len().min(SIGNATURE.len());
    if head.is_empty() {
        // The shortest beginning that tells the versions apart.
        return Ok(6);
    }
    if head[..v2] == SIGNATURE[..v2] {
        let Some(length) = head.get(14..V2_HEAD) else {
            return Ok(V2_HEAD - head.len());
        };
        let whole = V2_HEAD + usize::from(u16::from_be_bytes([length[0], length[1]]));
        return if whole > MAX_V2 { Err(ProxyError::TooLong) } else { Ok(whole.saturating_sub(head.len())) };
    }
    let v1 = head.len().min(6);
    if head[..v1] != b"PROXY "[..v1] {
        return Err(ProxyError::Missing);
    }
    match head {
        [.., b'\r', b'\n'] => Ok(0),
        _ if head.len() >= MAX_V1 => Err(ProxyError::TooLong),
        _ => Ok(1),
    }
}

/// Reads a whole header, as [`missing`] tells that it is.
pub fn decode(header: &[u8]) -> Result<Proxied, ProxyError> {
    if missing(header)? != 0 {
        return Err(ProxyError::Malformed);
    }
    let v1 = header.starts_with(b"PROXY ");
    // The crate reads numbers as Rust does: a sign would pass.
    if v1 && header[..header.len() - 2].iter().any(|byte| !matches!(byte, b'!'..=b'~' | b' ') || *byte == b'+') {
        return Err(ProxyError::Malformed);
    }
    let config = ParseConfig { include_tlvs: false, allow_v1: v1, allow_v2: !v1 };
    let (parsed, length) = ProxyHeader::parse(header, config).map_err(|_| ProxyError::Malformed)?;
    if length != header.len() {
        return Err(ProxyError::Malformed);
    }
    match parsed.proxied_address() {
        Some(address) if address.protocol == Protocol::Datagram => Err(ProxyError::NotTcp),
        Some(ProxiedAddress { source, destination, .. }) => {
            Ok(Proxied::For(Ends { source: *source, destination: *destination }))
        }
        // A header of version 2 may carry an address that isn't TCP at all: nothing is known of such a client.
        None if !v1 && header.get(12) == Some(&0x21) && header.get(13) != Some(&0) => Err(ProxyError::NotTcp),
        None => Ok(Proxied::Itself),
    }
}

/// The header for `ends`. Both ends are of one family: an IPv4 address stands for itself in an IPv6 pair as well.
pub fn encode(version: Version, ends: Ends) -> Vec<u8> {
    let (source, destination) = one_family(ends);
    let header = ProxyHeader::with_address(ProxiedAddress::stream(source, destination));
    let mut bytes = Vec::with_capacity(MAX_V1);
    let encoded = match version {
        Version::V1 => header.encode_v1(&mut bytes),
        Version::V2 => header.encode_v2(&mut bytes),
    };
    // Addresses of one family always fit; if not, an empty header makes the backend refuse: closed, not open.
    if encoded.is_err() {
        bytes.clear();
    }
    bytes
}

/// The header of version 2 for somebody who speaks for himself, as a balancer's health check does.
pub fn local() -> Vec<u8> {
    // Version 2, command LOCAL, no address, no more bytes.
    [SIGNATURE.as_slice(), &[0x20, 0, 0, 0]].concat()
}

fn one_family(Ends { source, destination }: Ends) -> (SocketAddr, SocketAddr) {
    let canonical = |end: SocketAddr| SocketAddr::new(end.ip().to_canonical(), end.port());
    let (source, destination) = (canonical(source), canonical(destination));
    if source.is_ipv4() == destination.is_ipv4() {
        return (source, destination);
    }
    let mapped = |end: SocketAddr| match end.ip() {
        IpAddr::V4(v4) => SocketAddr::new(v4.to_ipv6_mapped().into(), end.port()),
        IpAddr::V6(_) => end,
    };
    (mapped(source), mapped(destination))
}

#[cfg(test)]
mod tests;
