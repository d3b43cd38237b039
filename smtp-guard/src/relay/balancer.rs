//! The PROXY header that a trusted balancer sends before anything else.

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
                    stream.read_exact(&mut header[at..]).await?;
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
