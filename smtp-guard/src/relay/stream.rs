//! A connection in clear text or under TLS, and sending on it.

use std::future::{Future, poll_fn};
use std::io;
use std::mem::MaybeUninit;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{BufMut as _, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsStream;

use super::socket::Socket;

/// Bytes that are read by way of the stack.
const SHORT: usize = 2 * 1024;

/// One side of a connection.
#[derive(Debug)]
pub(super) struct Stream {
    layer: Layer,
    /// Something was written that may still be in a buffer of the TLS layer.
    unflushed: bool,
}

#[derive(Debug)]
enum Layer {
    Clear(Socket),
    Tls(Box<TlsStream<Socket>>),
    /// Between the two, and after a handshake that failed.
    None,
}

impl Stream {
    pub(super) fn clear(socket: Socket) -> Self {
        Self { layer: Layer::Clear(socket), unflushed: false }
    }

    pub(super) fn tls(stream: TlsStream<Socket>) -> Self {
        Self { layer: Layer::Tls(Box::new(stream)), unflushed: false }
    }

    /// Takes the socket out for a TLS handshake; nothing but a new [`Stream`] can follow. `None`: it isn't in clear text.
    pub(super) fn take_clear(&mut self) -> Option<Socket> {
        match std::mem::replace(&mut self.layer, Layer::None) {
            Layer::Clear(socket) => Some(socket),
            layer => {
                self.layer = layer;
                None
            }
        }
    }

    /// The socket.
    pub(super) fn socket(&self) -> Option<&TcpStream> {
        match &self.layer {
            Layer::Clear(socket) => Some(socket.get()),
            Layer::Tls(stream) => Some(stream.get_ref().0.get()),
            Layer::None => None,
        }
    }

    /// No write to the socket is longer than `piece` from here on.
    pub(super) fn cut_at(&mut self, piece: usize) {
        match &mut self.layer {
            Layer::Clear(socket) => socket.cut_at(piece),
            Layer::Tls(stream) => stream.get_mut().0.cut_at(piece),
            Layer::None => {}
        }
    }

    /// Reads what there is, `room` bytes at most, to the end of `unread`; how many it was, 0 at the end of the stream. Cancel safe.
    /// While there is nothing to read an empty `unread` has no memory: most sessions wait most of the time.
    pub(super) async fn read_into(&mut self, unread: &mut BytesMut, room: usize) -> io::Result<usize> {
        poll_fn(|cx| {
            if unread.is_empty() {
                *unread = BytesMut::new();
            }
            if let Layer::Clear(socket) = &self.layer {
                // Memory is taken once there is something to read.
                ready!(socket.get().poll_read_ready(cx))?;
            }
            if room <= SHORT {
                return self.poll_read_short(cx, unread, room);
            }
            unread.reserve(room);
            let read = pin!(self.read_buf(&mut (&mut *unread).limit(room))).poll(cx);
            if read.is_pending() && unread.is_empty() {
                *unread = BytesMut::new();
            }
            read
        })
        .await
    }

    /// The same of at most [`SHORT`] bytes, by way of the stack: memory is taken for what was read only.
    fn poll_read_short(&mut self, cx: &mut Context<'_>, unread: &mut BytesMut, room: usize) -> Poll<io::Result<usize>> {
        let mut bytes = [MaybeUninit::uninit(); SHORT];
        let mut bytes = ReadBuf::uninit(&mut bytes[..room.min(SHORT)]);
        ready!(Pin::new(self).poll_read(cx, &mut bytes))?;
        unread.extend_from_slice(bytes.filled());
        Poll::Ready(Ok(bytes.filled().len()))
    }

    /// Sends all of `unsent`; no step may take longer than `wait`. Cancel safe: bytes leave `unsent` as they are taken.
    pub(super) async fn send(&mut self, unsent: &mut BytesMut, wait: Duration) -> io::Result<()> {
        while !unsent.is_empty() {
            self.unflushed = matches!(self.layer, Layer::Tls(_));
            if in_time(wait, self.write_buf(unsent)).await? == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
        }
        if self.unflushed {
            in_time(wait, self.flush()).await?;
            self.unflushed = false;
        }
        Ok(())
    }
}

/// The result of `future`, or an error once it has taken `wait`. The clock is set only for a future that isn't ready at once.
pub(super) async fn in_time<T>(wait: Duration, future: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    let mut future = pin!(future);
    let at_once = poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx))).await;
    if let Poll::Ready(done) = at_once {
        return done;
    }
    timeout(wait, future).await.map_err(|_| io::ErrorKind::TimedOut)?
}

fn gone<T>() -> Poll<io::Result<T>> {
    Poll::Ready(Err(io::ErrorKind::NotConnected.into()))
}

impl AsyncRead for Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut self.layer {
            Layer::Clear(stream) => Pin::new(stream).poll_read(cx, buf),
            Layer::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
            Layer::None => gone(),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.layer {
            Layer::Clear(stream) => Pin::new(stream).poll_write(cx, bytes),
            Layer::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
            Layer::None => gone(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.layer {
            Layer::Clear(stream) => Pin::new(stream).poll_flush(cx),
            Layer::Tls(stream) => Pin::new(stream).poll_flush(cx),
            Layer::None => gone(),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.layer {
            Layer::Clear(stream) => Pin::new(stream).poll_shutdown(cx),
            Layer::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
            Layer::None => gone(),
        }
    }
}
