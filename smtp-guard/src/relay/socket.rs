//! A TCP connection on whose send queue the kernel spends little, whatever segments and windows the peer's end allows.
//!
//! The kernel looks at SO_SNDBUF before it begins a segment of its queue. It fills a segment that has begun up to 64 KiB, so the
//! queue may be larger by as much. Here each write is a segment of its own (MSG_EOR), and no write is longer
//! than [`PIECE`], or [`LONG_PIECE`] where there is room for a long queue. A peer that keeps up finds no difference: its queue is empty, and each write leaves at once.
//!
//! | the peer took | the kernel may hold |
//! |---|---|
//! | less than [`super::window`] asks for | [`NEAR`], a piece and the kernel's record of it: at most 36 KiB |
//! | as much, and it is near | [`MIDDLE`] and a long piece, as long as there is room for long queues |
//! | as much, and it is far | [`FAR`] and a long piece, of the room that windows of far clients have |

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;

/// Each write is a segment of its own, and a peer that is gone is an error.
const FLAGS: i32 = libc::MSG_EOR | libc::MSG_NOSIGNAL;
/// Bytes of one write.
pub(super) const PIECE: usize = 16 * 1024;
/// The same where the queue may be long: a quarter of the system calls.
pub(super) const LONG_PIECE: usize = 64 * 1024;
/// Bytes that the kernel may hold before it takes no further piece. SO_SNDBUF is half of it: the kernel doubles it.
pub(super) const NEAR: usize = 16 * 1024;
/// The same for a peer that keeps up: whoever of the two has the processor finds more to do.
pub(super) const MIDDLE: usize = 88 * 1024;
/// The same for a peer that is far: what is under way on the path is held until it is acknowledged.
pub(super) const FAR: usize = 224 * 1024;

/// The connection.
#[derive(Debug)]
pub(super) struct Socket {
    stream: TcpStream,
    /// Bytes of one write; `None`: as the kernel likes.
    piece: Option<usize>,
}

impl Socket {
    /// A connection to a client: what the guard says is short.
    pub(super) fn client(stream: TcpStream) -> Self {
        Self { stream, piece: None }
    }

    /// A connection to a backend, whose send buffer was set to [`NEAR`] before it was connected.
    pub(super) fn backend(stream: TcpStream) -> Self {
        Self { stream, piece: Some(PIECE) }
    }

    /// No write is longer than `piece` from here on.
    pub(super) fn cut_at(&mut self, piece: usize) {
        self.piece = Some(piece);
    }

    pub(super) fn get(&self) -> &TcpStream {
        &self.stream
    }

    /// Does `send` as soon as the kernel takes something.
    fn send(&self, cx: &mut Context<'_>, send: impl Fn(SockRef<'_>) -> io::Result<usize>) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.stream.poll_write_ready(cx))?;
            match self.stream.try_io(Interest::WRITABLE, || send(SockRef::from(&self.stream))) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                sent => return Poll::Ready(sent),
            }
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let Some(piece) = self.piece else {
            return Pin::new(&mut self.stream).poll_write(cx, bytes);
        };
        let piece = bytes.get(..piece).unwrap_or(bytes);
        self.send(cx, |socket| socket.send_with_flags(piece, FLAGS))
    }

    /// TLS has several records at once, in its handshake above all: they go out together.
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let Some(mut room) = self.piece else {
            return Pin::new(&mut self.stream).poll_write_vectored(cx, bytes);
        };
        let whole =
            bytes.iter().take_while(|slice| room.checked_sub(slice.len()).inspect(|left| room = *left).is_some());
        let whole = whole.count();
        if whole == 0 {
            // The first is longer than a piece.
            let first = bytes.first().map_or(&[][..], |slice| slice);
            return self.poll_write(cx, first);
        }
        let bytes = &bytes[..whole];
        self.send(cx, |socket| socket.send_vectored_with_flags(bytes, FLAGS))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt as _;
    use tokio::net::TcpListener;

    use super::*;

    /// How many of slices of these lengths go out at once.
    async fn check(in_pieces: bool, lengths: &[usize], expected: usize) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let mut socket = if in_pieces { Socket::backend(stream) } else { Socket::client(stream) };
        let slices: Vec<_> = lengths.iter().map(|length| vec![b'x'; *length]).collect();
        let slices: Vec<_> = slices.iter().map(|slice| IoSlice::new(slice)).collect();
        assert_eq!(socket.write_vectored(&slices).await.unwrap(), expected, "{in_pieces} {lengths:?}");
    }

    #[tokio::test]
    async fn records_go_out_together_as_far_as_a_piece_goes() {
        for in_pieces in [false, true] {
            check(in_pieces, &[100, 20, 3], 123).await;
            check(in_pieces, &[], 0).await;
        }
        check(true, &[PIECE - 1, 1, 1], PIECE).await;
        check(true, &[PIECE - 1, 2, 1], PIECE - 1).await;
        check(true, &[PIECE + 1, 1], PIECE).await;
    }
}
