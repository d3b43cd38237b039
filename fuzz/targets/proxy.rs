//! The PROXY header of a balancer, read as the driver reads it: never a byte more than was asked for.
//!
//! - Nothing panics, a header is bounded, and what follows it stays unread.
//! - What it says is the same when it is written again in either version.
#![no_main]

use std::net::SocketAddr;

use libfuzzer_sys::fuzz_target;
use smtp_guard_core::wire::proxy::{self, Ends, MAX_V1, MAX_V2, Proxied, ProxyError, Version};

fuzz_target!(|data: &[u8]| {
    let Ok(Some((proxied, length))) = read(data) else { return };
    assert!(length <= if data.starts_with(b"PROXY ") { MAX_V1 } else { MAX_V2 });
    let Proxied::For(ends) = proxied else { return };
    for version in [Version::V1, Version::V2] {
        let header = proxy::encode(version, ends);
        let Ok(Some((Proxied::For(again), length))) = read(&header) else { panic!("{}", header.escape_ascii()) };
        assert_eq!((canonical(again), length), (canonical(ends), header.len()));
    }
});

/// `None`: it waits for more.
fn read(data: &[u8]) -> Result<Option<(Proxied, usize)>, ProxyError> {
    let mut read = 0;
    loop {
        match proxy::missing(&data[..read])? {
            0 => return proxy::decode(&data[..read]).map(|proxied| Some((proxied, read))),
            more if read + more > data.len() => {
                assert!(read + more <= MAX_V2, "{more} more bytes after {read}");
                return Ok(None);
            }
            more => read += more,
        }
    }
}

/// An IPv4 address is the same in an IPv6 pair.
fn canonical(Ends { source, destination }: Ends) -> [SocketAddr; 2] {
    [source, destination].map(|end| SocketAddr::new(end.ip().to_canonical(), end.port()))
}
