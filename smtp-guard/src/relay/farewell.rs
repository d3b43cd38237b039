//! The end of a connection: the client should read our last words, and not stay by not reading them.

use std::io;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::stream::Stream;

/// How long the client may take for the last replies and the end of TLS: nobody may stay by not listening to them.
pub(super) const FAREWELL: Duration = Duration::from_secs(30);
/// After the last reply, how long to wait for the client to read it: closing at once could destroy it.
const LINGER: Duration = Duration::from_secs(2);

/// Sends the last replies and waits a little for the client to close: closing a socket with unread data resets the
/// connection, and the client would never see why.
pub(super) async fn linger(stream: &mut Stream, unsent: &mut BytesMut, wait: Duration) -> io::Result<()> {
    let farewell = async {
        stream.send(unsent, wait).await?;
        // Under TLS this is one more write, and must be waited for no longer.
        stream.shutdown().await
    };
    // Its own deadline may come first, as the same as this one.
    if !matches!(timeout(wait, farewell).await, Ok(Ok(()))) {
        return stream.socket().map_or(Ok(()), TcpStream::set_zero_linger);
    }
    let mut sink = [0; 1024];
    let drained = async {
        // Bounded in bytes as well as in time: nobody is listened to for ever.
        for _ in 0..64 {
            if stream.read(&mut sink).await? == 0 {
                break;
            }
        }
        io::Result::Ok(())
    };
    match timeout(LINGER, drained).await {
        Ok(result) => result,
        // It keeps its side open: without a reset the kernel would hold the socket, and its slot, for a minute.
        Err(_) => stream.socket().map_or(Ok(()), TcpStream::set_zero_linger),
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::super::socket::Socket;
    use super::*;

    #[tokio::test]
    async fn who_does_not_read_the_last_replies_is_not_waited_for() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (server, _) = listener.accept().await.unwrap();
        // More than both kernels' buffers hold.
        let mut unsent = BytesMut::zeroed(64 << 20);
        let mut stream = Stream::clear(Socket::client(server));
        let waited = linger(&mut stream, &mut unsent, Duration::from_millis(100));
        timeout(Duration::from_secs(10), waited).await.expect("it is not waited for").unwrap();
        drop(client);
    }
}
