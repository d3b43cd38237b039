//! The PROXY header that a trusted balancer sends before anything else.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::wire::proxy::{self, Ends, MAX_V2, Proxied, ProxyError};

/// How long the header may take.
const WAIT: Duration = Duration::from_secs(5);

/// Why there is no header.
#[derive(Debug, thiserror::Error)]
pub(super) enum HeaderError {
    #[error(transparent)]
    Bad(#[from] ProxyError),
    /// A balancer that looked whether somebody listens.
    #[error("the balancer closed the connection without a byte")]
    Silent,
    #[error("the balancer closed the connection: {0}")]
    Gone(#[from] std::io::Error),
    #[error("no whole PROXY header within {} s", WAIT.as_secs())]
    Late,
}

/// Reads the header, and not a byte more. Returns the ends of the connection as the client sees them; for a health check
/// of the balancer's own, `itself`.
pub(super) async fn header(stream: &mut TcpStream, itself: Ends) -> Result<Ends, HeaderError> {
    let reading = async {
        let mut header = Vec::with_capacity(proxy::MAX_V1);
        loop {
            match proxy::missing(&header)? {
                0 => break,
                more => {
                    let at = header.len();
                    debug_assert!(at + more <= MAX_V2, "the length was checked");
                    header.resize(at + more, 0);
                    let read = match stream.read(&mut header[at..]).await {
                        Ok(0) | Err(_) if at == 0 => return Err(HeaderError::Silent),
                        Ok(0) => return Err(HeaderError::Gone(ErrorKind::UnexpectedEof.into())),
                        read => read?,
                    };
                    header.truncate(at + read);
                }
            }
        }
        Ok(match proxy::decode(&header)? {
            Proxied::For(ends) => Ends { source: plain(ends.source), destination: plain(ends.destination) },
            Proxied::Itself => itself,
        })
    };
    timeout(WAIT, reading).await.map_err(|_| HeaderError::Late)?
}

/// An IPv4 address in IPv6 clothes is the IPv4 address.
fn plain(end: SocketAddr) -> SocketAddr {
    SocketAddr::new(end.ip().to_canonical(), end.port())
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt as _;
    use tokio::net::TcpListener;

    use super::*;

    /// A balancer that sends `pieces`, one after the other, and closes, comes to this.
    async fn check(pieces: &[&[u8]], expected: &str) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut balancer = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        balancer.set_nodelay(true).unwrap();
        let (mut guard, peer) = listener.accept().await.unwrap();
        let itself = Ends { source: peer, destination: guard.local_addr().unwrap() };
        let reading = tokio::spawn(async move { header(&mut guard, itself).await });
        for piece in pieces {
            balancer.write_all(piece).await.unwrap();
            tokio::task::yield_now().await;
        }
        drop(balancer);
        let found = match reading.await.unwrap() {
            Ok(ends) => ends.source.to_string(),
            Err(error) => error.to_string(),
        };
        assert_eq!(found, expected);
    }

    #[tokio::test]
    async fn a13_a_bare_check_is_told_from_a_header_that_breaks_off() {
        check(&[], "the balancer closed the connection without a byte").await;
        check(&[b"P"], "the balancer closed the connection: unexpected end of file").await;
        check(&[b"PROXY TCP4 192.0.2", b".1 192.0.2.9 5000 25\r", b"\nEHLO x\r\n"], "192.0.2.1:5000").await;
        check(&[b"EHLO x\r\n"], "no PROXY header").await;
    }
}
