//! A connection to the backend, from the socket to the moment where MAIL may be sent: PROXY header, greeting, EHLO,
//! STARTTLS, EHLO, XCLIENT, EHLO.
//!
//! Fails closed. A backend that doesn't learn who the client is would take it for us, the trusted proxy. A backend that must
//! speak TLS and doesn't isn't used. What was learned in clear text is forgotten after the handshake.

use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::BytesMut;
use socket2::SockRef;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::{TcpSocket, TcpStream, lookup_host};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;

use super::inquiry::Called;
use super::places::{Claim, Who};
use super::socket::{self, Socket};
use super::spare::Spares;
use super::stream::Stream;
use super::tls::{self, TlsError};
use super::window::Windows;
use crate::addr::BackendAddr;
use crate::bound::Bound;
use crate::clock::Instant;
use crate::config::{BackendTls, Config, Identity};
use crate::session::{Lost, Speaker};
use crate::wire::command::{Command, Helo};
use crate::wire::ehlo::Capabilities;
use crate::wire::line::LineDecoder;
use crate::wire::proxy::{self, Ends, Version};
use crate::wire::reply::{Reply, ReplyDecoder};
use crate::wire::xclient;

/// How long the backend may take for all of this, the TCP handshake excepted.
const GREETING_WAIT: Duration = Duration::from_secs(60);
/// How long one write may make no progress.
pub(super) const WRITE_WAIT: Duration = Duration::from_secs(180);
/// Bytes that the kernel may hold of a server's answers; it takes twice as much for its own records.
const RECEIVE_BUFFER: u32 = 8 * 1024;
/// Bytes of answers that are read at once.
const REPLY_READ: usize = 1024;
/// Characters of a greeting that are kept.
const GREETING: usize = 200;
/// Addresses of a server's name that are tried.
const ADDRESSES: usize = 8;
/// The address that the probe claims: one for documentation (RFC 5737), which is nobody's.
const NOBODY: SocketAddr = SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1)), 25);

/// The needs of a connection beside the server's address.
#[derive(Debug)]
pub(super) struct Connector {
    pub(super) config: Arc<Config>,
    tls: Option<tls::Client>,
}

/// For whom a connection is.
#[derive(Clone, Debug)]
pub(super) enum Caller {
    /// Only to see what the server offers.
    Probe,
    Client {
        speaker: Arc<Speaker>,
        ends: Ends,
        who: Who,
        called: Called,
    },
}

/// An open connection: replies in, bytes out.
#[derive(Debug)]
pub(super) struct Channel {
    pub(super) stream: Stream,
    pub(super) capabilities: Capabilities,
    /// The server's greeting.
    pub(super) greeting: String,
    replies: ReplyDecoder,
    pub(super) unread: BytesMut,
    pub(super) unsent: BytesMut,
    pub(super) secured: bool,
    pub(super) opened: Instant,
    /// Messages that the server has taken over it.
    pub(super) messages: u32,
    /// Another client was served over it before.
    pub(super) reused: bool,
    /// A login, or a refusal: it ends with its client.
    pub(super) spoiled: bool,
    /// The client as the server knows it, where it was told by XCLIENT.
    announced: Option<(IpAddr, Arc<Speaker>, Called)>,
    /// Where it may wait for the next client.
    pub(super) home: Option<Arc<Spares>>,
    /// Whether the server is far; `None`: it wasn't looked at yet.
    far: Option<bool>,
    /// The right to a longer send queue, once that was asked for; `Some(None)`: there was no room.
    queue: Option<Option<OwnedSemaphorePermit>>,
    /// Given back after the socket is closed.
    pub(super) room: Option<Claim>,
    /// Which server it is.
    pub(super) server: Option<BackendAddr>,
}

/// Why a server can't be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectError {
    #[error("has a name that can't be looked up: {0}; the system's resolver and /etc/hosts are asked")]
    Name(io::Error),
    #[error("cannot be connected: {0}")]
    Connect(io::Error),
    #[error("did not answer in time")]
    Late,
    #[error("lost while it greeted us: {0:?}")]
    Lost(Lost),
    #[error("turned us away: {0}")]
    Refused(Reply),
    /// After it has heard who the client is, and only to what this client makes us say.
    #[error("refused this client: {0}")]
    Client(Reply),
    #[error("does not offer STARTTLS, which backend.tls asks for")]
    NoStartTls,
    #[error("sent bytes ahead of the TLS handshake: somebody may be in between")]
    SentAhead,
    #[error("TLS handshake failed: {0}")]
    Tls(io::Error),
    #[error(
        "does not offer XCLIENT with ADDR to us: let it trust this host (Postfix: smtpd_authorized_xclient_hosts), or choose another backend.identity"
    )]
    NoXclient,
    #[error(
        "answered the PROXY header, or EHLO after it, with {0}: let it expect PROXY from us (Postfix: smtpd_upstream_proxy_protocol, Exim: hosts_proxy, OpenSMTPD: proxy-v2), or choose another backend.identity"
    )]
    NoProxy(Reply),
    #[error("refused XCLIENT: {0}")]
    XclientRefused(Reply),
    #[error("cannot be told who the client is: its names don't fit into XCLIENT")]
    Names,
}

impl From<Lost> for ConnectError {
    fn from(lost: Lost) -> Self {
        Self::Lost(lost)
    }
}

impl ConnectError {
    /// Whether it is the server's own fault. (After it has heard of a client, a refusal may be meant for that.)
    pub(super) fn is_servers(&self) -> bool {
        !matches!(
            self,
            Self::Refused(_)
                | Self::Client(_)
                | Self::NoProxy(_)
                | Self::XclientRefused(_)
                | Self::Names
                | Self::Lost(_)
        )
    }

    /// An answer 4xx or 5xx to a client becomes [`Self::Client`].
    fn for_client(self, caller: &Caller) -> Self {
        match (self, caller) {
            (Self::Refused(reply) | Self::NoProxy(reply), Caller::Client { .. }) if is_refusal(&reply) => {
                Self::Client(reply)
            }
            (error, _) => error,
        }
    }
}

fn is_refusal(reply: &Reply) -> bool {
    matches!(reply.code().class(), 4 | 5)
}

/// A socket whose buffers are bounded before the handshake tells the other end of them.
async fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_send_buffer_size(socket::NEAR as u32 / 2)?;
    socket.set_recv_buffer_size(RECEIVE_BUFFER)?;
    let stream = socket.connect(address).await?;
    // A reply must not wait for more to be sent; failing to set it costs time, nothing else.
    let _ = stream.set_nodelay(true);
    Ok(stream)
}

impl Connector {
    pub(super) fn new(config: Arc<Config>) -> Result<Self, TlsError> {
        let tls = tls::Client::new(&config.backend)?;
        Ok(Self { config, tls })
    }

    /// Where `server` is now, by the system's resolver. Never empty, at most [`ADDRESSES`].
    pub(super) async fn addresses(&self, server: &BackendAddr) -> Result<Vec<SocketAddr>, ConnectError> {
        let (name, port) = match server {
            BackendAddr::Address(address) => return Ok(vec![*address]),
            BackendAddr::Name(name, port) => (&**name, *port),
        };
        let found = timeout(self.config.backend.connect_timeout, lookup_host((name, port))).await;
        let found = found.map_err(|_| ConnectError::Name(io::ErrorKind::TimedOut.into()))?;
        let addresses: Vec<_> = found.map_err(ConnectError::Name)?.take(ADDRESSES).collect();
        if addresses.is_empty() { Err(ConnectError::Name(io::ErrorKind::NotFound.into())) } else { Ok(addresses) }
    }

    /// A connection to `server` at the first of `addresses` that takes it, on which MAIL may be sent.
    pub(super) async fn open(
        &self,
        server: &BackendAddr,
        addresses: &[SocketAddr],
        caller: &Caller,
    ) -> Result<Channel, ConnectError> {
        match self.attempt(server, addresses, caller, self.tls.as_ref()).await {
            Err(ConnectError::Tls(error)) if self.config.backend.tls == BackendTls::Opportunistic => {
                tracing::warn!(backend = %server, %error, "TLS handshake with the backend failed; going on in clear text");
                self.attempt(server, addresses, caller, None).await
            }
            done => done,
        }
    }

    async fn attempt(
        &self,
        server: &BackendAddr,
        addresses: &[SocketAddr],
        caller: &Caller,
        tls: Option<&tls::Client>,
    ) -> Result<Channel, ConnectError> {
        // All of them together may take as long as one.
        let wait = self.config.backend.connect_timeout / u32::try_from(addresses.len()).unwrap_or(1).max(1);
        let mut connected = Err(ConnectError::Late);
        for address in addresses {
            connected = match timeout(wait, connect(*address)).await {
                Ok(stream) => stream.map_err(ConnectError::Connect),
                Err(_) => Err(ConnectError::Late),
            };
            if connected.is_ok() {
                break;
            }
        }
        let stream = connected?;
        let mut channel = Channel::new(Stream::clear(Socket::backend(stream)));
        timeout(GREETING_WAIT, self.greet(&mut channel, server, caller, tls))
            .await
            .map_err(|_| ConnectError::Late)??;
        Ok(channel)
    }

    async fn greet(
        &self,
        channel: &mut Channel,
        server: &BackendAddr,
        caller: &Caller,
        tls: Option<&tls::Client>,
    ) -> Result<(), ConnectError> {
        let identity = self.config.backend.identity;
        match identity {
            Identity::ProxyV1 => channel.introduce(Version::V1, caller)?,
            Identity::ProxyV2 => channel.introduce(Version::V2, caller)?,
            Identity::Xclient | Identity::None => {}
        }
        let greeted = channel.greeted().await;
        if channel.unread.is_empty() {
            let told = self.speaks_proxy();
            greeted.map_err(|error| if told { error.for_client(caller) } else { error })?;
        } else {
            greeted?;
            // What nobody asked for would be taken for the next answer.
            let answer = channel.word().await?;
            return Err(if self.speaks_proxy() { ConnectError::NoProxy(answer) } else { Lost::Protocol.into() });
        }
        let knows_client = self.speaks_proxy();
        self.hello(channel, caller, knows_client).await?;
        if let Some(tls) = tls.filter(|_| channel.capabilities.starttls) {
            channel.secured = channel.secure(tls, server.name()).await?;
            if channel.secured {
                self.hello(channel, caller, knows_client).await?;
            }
        }
        if !channel.secured && matches!(self.config.backend.tls, BackendTls::Required | BackendTls::Verified) {
            return Err(ConnectError::NoStartTls);
        }
        self.announce(channel, caller).await
    }

    /// Makes a connection that has served another client this one's: nothing may be sent over it before.
    pub(super) async fn resume(&self, channel: &mut Channel, caller: &Caller) -> Result<(), ConnectError> {
        channel.reused = true;
        if self.config.backend.identity != Identity::Xclient || channel.is_of(caller) {
            return Ok(());
        }
        let announced = timeout(self.config.backend.connect_timeout, self.announce(channel, caller));
        announced.await.map_err(|_| ConnectError::Late)?
    }

    /// Whether a connection may serve another client after this one.
    pub(super) fn reuses(&self) -> bool {
        self.config.backend.reuse && !self.speaks_proxy()
    }

    /// Whether a connection that has served another client may serve this one. Postfix judges XCLIENT by the address that the
    /// last one has named, so its connections serve one client only.
    pub(super) fn suits(&self, channel: &Channel, caller: &Caller) -> bool {
        self.config.backend.identity != Identity::Xclient || channel.capabilities.xclient.addr || channel.is_of(caller)
    }

    /// Says who the client is, on a connection that is otherwise ready.
    async fn announce(&self, channel: &mut Channel, caller: &Caller) -> Result<(), ConnectError> {
        if self.config.backend.identity == Identity::Xclient {
            channel.identify(caller).await?;
            self.hello(channel, caller, true).await.map_err(|error| error.for_client(caller))?;
        }
        let peer = channel.stream.socket().and_then(|socket| socket.peer_addr().ok());
        if !channel.secured && !peer.is_some_and(|peer| peer.ip().to_canonical().is_loopback()) {
            // Passwords don't go this way.
            channel.capabilities.auth_plain = false;
            channel.capabilities.auth_login = false;
        }
        channel.capabilities.starttls = false;
        Ok(())
    }

    fn speaks_proxy(&self) -> bool {
        matches!(self.config.backend.identity, Identity::ProxyV1 | Identity::ProxyV2)
    }

    /// EHLO, or HELO where that isn't understood. A backend that knows the client hears the client's name.
    ///
    /// After a PROXY header nothing but a yes will do: a server that doesn't know of PROXY answers the header as if it
    /// were a command, every answer from then on belongs to the command before, and all clients are taken for us.
    async fn hello(&self, channel: &mut Channel, caller: &Caller, knows_client: bool) -> Result<(), ConnectError> {
        let name = match caller {
            Caller::Client { speaker, .. } if knows_client => Some(speaker.helo.clone()),
            _ => Helo::new(&self.config.hostname),
        };
        let name = name.ok_or(Lost::Protocol)?;
        channel.capabilities = Capabilities::default();
        Command::Ehlo(name.clone()).encode(&mut channel.unsent);
        let answer = channel.word().await?;
        if answer.code().class() == 2 {
            channel.capabilities = Capabilities::parse(&answer);
            return Ok(());
        }
        if self.speaks_proxy() {
            let error = ConnectError::NoProxy(answer);
            // A second answer is one to the header: the first one was no answer to EHLO.
            return Err(if channel.unread.is_empty() { error.for_client(caller) } else { error });
        }
        Command::Helo(name).encode(&mut channel.unsent);
        channel.expect_yes().await
    }
}

impl Channel {
    fn new(stream: Stream) -> Self {
        Self {
            stream,
            capabilities: Capabilities::default(),
            greeting: String::new(),
            replies: ReplyDecoder::new(),
            unread: BytesMut::new(),
            unsent: BytesMut::new(),
            secured: false,
            opened: crate::clock::now(),
            messages: 0,
            reused: false,
            spoiled: false,
            announced: None,
            home: None,
            far: None,
            queue: None,
            room: None,
            server: None,
        }
    }

    /// The PROXY header. For a probe the one that a balancer's health check sends; in version 1, where Postfix takes that
    /// for an error, one with this connection's own ends.
    fn introduce(&mut self, version: Version, caller: &Caller) -> Result<(), ConnectError> {
        let header = match (caller, version, self.stream.socket()) {
            (Caller::Client { ends, .. }, ..) => proxy::encode(version, *ends),
            (Caller::Probe, Version::V1, Some(socket)) => {
                let ends = socket.local_addr().and_then(|source| Ok(Ends { source, destination: socket.peer_addr()? }));
                proxy::encode(version, ends.map_err(ConnectError::Connect)?)
            }
            (Caller::Probe, ..) => proxy::local(),
        };
        self.unsent.extend_from_slice(&header);
        Ok(())
    }

    /// STARTTLS. `false`: the server has changed its mind, politely.
    async fn secure(&mut self, tls: &tls::Client, name: Option<&str>) -> Result<bool, ConnectError> {
        Command::StartTls.encode(&mut self.unsent);
        if self.word().await?.code().get() != 220 {
            return Ok(false);
        }
        // Whatever it has sent behind its 220 came in clear text: from it, or from somebody in between
        // (CVE-2021-38371).
        let proof = LineDecoder::new().finish(&self.unread).ok_or(ConnectError::SentAhead)?;
        let stream = self.stream.take_clear().ok_or(Lost::Protocol)?;
        self.stream = tls.connect(stream, name, proof).await.map_err(ConnectError::Tls)?;
        self.replies = ReplyDecoder::new();
        Ok(true)
    }

    async fn identify(&mut self, caller: &Caller) -> Result<(), ConnectError> {
        let identity = match caller {
            Caller::Probe => xclient::Identity {
                client: NOBODY,
                name: xclient::Name::Unavailable,
                helo: None,
                esmtp: true,
                login: None,
            },
            Caller::Client { speaker, ends, called, .. } => xclient::Identity {
                client: ends.source,
                name: match called {
                    Called::Name(name) => xclient::Name::Known(name),
                    Called::Nothing => xclient::Name::Unavailable,
                    Called::Unknown => xclient::Name::TemporarilyUnavailable,
                },
                helo: Some(speaker.helo.as_str()),
                esmtp: speaker.esmtp,
                login: speaker.login.as_deref(),
            },
        };
        if !self.capabilities.xclient.addr {
            return Err(ConnectError::NoXclient);
        }
        // The client chose its names: that they don't fit must not make the server look ill.
        let command = xclient::command(self.capabilities.xclient, &identity).ok_or(ConnectError::Names)?;
        self.unsent.extend_from_slice(command.as_bytes());
        self.unsent.extend_from_slice(b"\r\n");
        let answer = self.word().await?;
        self.announced = match caller {
            Caller::Probe => None,
            Caller::Client { speaker, ends, called, .. } => {
                Some((ends.source.ip(), Arc::clone(speaker), called.clone()))
            }
        };
        match answer.code().get() {
            _ if xclient::is_taken(&answer) => Ok(()),
            // That it doesn't know the command or its parameters is no word on the client.
            500..=504 => Err(ConnectError::XclientRefused(answer)),
            _ => Err(ConnectError::Refused(answer).for_client(caller)),
        }
    }

    /// The greeting, which is kept.
    async fn greeted(&mut self) -> Result<(), ConnectError> {
        let answer = self.word().await?;
        self.greeting = answer.last_line().chars().take(GREETING).collect();
        if answer.is_positive() { Ok(()) } else { Err(ConnectError::Refused(answer)) }
    }

    async fn expect_yes(&mut self) -> Result<(), ConnectError> {
        let answer = self.word().await?;
        if answer.is_positive() { Ok(()) } else { Err(ConnectError::Refused(answer)) }
    }

    /// The next reply; sends what is unsent first. Cancel safe: bytes leave `unsent` as they are written.
    pub(super) async fn word(&mut self) -> Result<Reply, Lost> {
        self.flush().await?;
        self.hear().await
    }

    /// The next reply, while what is unsent stays so. Cancel safe.
    pub(super) async fn hear(&mut self) -> Result<Reply, Lost> {
        loop {
            match self.replies.next(&mut self.unread) {
                Some(Ok(reply)) => return Ok(reply),
                Some(Err(_)) => return Err(Lost::Protocol),
                None => {}
            }
            match self.stream.read_into(&mut self.unread, REPLY_READ).await {
                Ok(0) | Err(_) => return Err(Lost::Closed),
                Ok(_) => {}
            }
        }
    }

    /// Sends what is unsent. Cancel safe.
    pub(super) async fn flush(&mut self) -> Result<(), Lost> {
        self.stream.send(&mut self.unsent, WRITE_WAIT).await.map_err(|error| match error.kind() {
            io::ErrorKind::TimedOut => Lost::Timeout,
            _ => Lost::Closed,
        })
    }

    /// Lets the kernel hold more for the server, which has taken `taken` bytes of a message of a client that is `known` or a newcomer, if
    /// there is room. That is asked once for each message; returns the bound that keeps the queue short.
    pub(super) fn lengthen_queue(&mut self, windows: &Windows, taken: u64, known: bool) -> Option<Bound> {
        if taken == 0 && !self.has_long_queue() {
            self.queue = None;
        }
        if self.queue.is_some() {
            return None;
        }
        let grown = windows.let_queue_grow(self.stream.socket()?, taken, known, &mut self.far)?;
        let bound = grown.as_ref().err().copied();
        self.queue = Some(grown.ok());
        if bound.is_none() {
            self.stream.cut_at(socket::LONG_PIECE);
        }
        bound
    }

    pub(super) fn has_long_queue(&self) -> bool {
        self.queue.as_ref().is_some_and(Option::is_some)
    }

    /// Gives the room for a long queue back.
    pub(super) fn shorten_queue(&mut self) {
        let Some(_room) = self.queue.take().flatten() else { return };
        if let Some(stream) = self.stream.socket() {
            // An error means that the connection is gone.
            let _ = SockRef::from(stream).set_send_buffer_size(socket::NEAR / 2);
        }
        self.stream.cut_at(socket::PIECE);
    }

    /// Whether the server takes `caller` for the client already.
    fn is_of(&self, caller: &Caller) -> bool {
        match (caller, &self.announced) {
            (Caller::Client { speaker, ends, called, .. }, Some((address, before, name))) => {
                *address == ends.source.ip() && before == speaker && name == called
            }
            _ => false,
        }
    }

    /// Whether another client than this one can be served over it.
    pub(super) fn serves_anyone(&self) -> bool {
        self.announced.is_none() || self.capabilities.xclient.addr
    }

    /// Whether nothing speaks against another client's use of it, as far as can be seen without waiting.
    pub(super) fn is_clean(&self) -> bool {
        !self.spoiled && self.unread.is_empty() && self.unsent.is_empty() && self.replies.is_between()
    }

    /// Whether the server has neither spoken nor closed meanwhile.
    pub(super) async fn is_silent(&mut self) -> bool {
        let mut byte = [0; 1];
        let mut read = ReadBuf::new(&mut byte);
        let stream = &mut self.stream;
        poll_fn(|cx| Poll::Ready(Pin::new(&mut *stream).poll_read(cx, &mut read).is_pending())).await
    }

    /// Says QUIT and closes; how the server takes it doesn't matter.
    pub(super) async fn quit(mut self) {
        Command::Quit.encode(&mut self.unsent);
        let _ = self.flush().await;
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader, Write as _};
    use std::net::TcpListener;

    use super::*;
    use crate::addr::Ipv6Prefix;
    use crate::gate::Standing;
    use crate::observe::metrics::Metrics;

    /// A server that takes XCLIENT.
    fn serve(listener: &TcpListener) -> io::Result<()> {
        let (mut stream, _) = listener.accept()?;
        stream.write_all(b"220 x\r\n")?;
        for line in BufReader::new(stream.try_clone()?).lines() {
            match line?.get(..4) {
                Some("EHLO") => stream.write_all(b"250-x\r\n250 XCLIENT ADDR HELO\r\n")?,
                _ => stream.write_all(b"220 x\r\n")?,
            }
        }
        Ok(())
    }

    /// A connection to such a server for `caller`.
    async fn open(caller: &Caller) -> Result<Channel, ConnectError> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = BackendAddr::Address(listener.local_addr().unwrap());
        std::thread::spawn(move || serve(&listener));
        let mut config = Config::builtin();
        config.backend.identity = Identity::Xclient;
        let connector = Connector::new(Arc::new(config)).unwrap();
        let addresses = connector.addresses(&server).await.unwrap();
        connector.open(&server, &addresses, caller).await
    }

    /// Whether a client that calls itself `helo` gets a connection, and else whether that is the server's fault.
    async fn check(helo: &str, expected: Result<(), bool>) {
        let speaker = Arc::new(Speaker { helo: Helo::new(helo).unwrap(), esmtp: true, login: None });
        let who = Who { source: Ipv6Prefix::default().source(NOBODY.ip()), standing: Standing::Newcomer };
        let caller = Caller::Client {
            speaker,
            ends: Ends { source: NOBODY, destination: NOBODY },
            who,
            called: Called::Nothing,
        };
        let found = open(&caller).await.map(drop).map_err(|error| error.is_servers());
        assert_eq!(found, expected, "{helo}");
    }

    #[tokio::test]
    async fn c4_the_kernel_holds_little_for_a_server_that_does_not_read() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = connect(listener.local_addr().unwrap()).await.unwrap();
        let socket = SockRef::from(&stream);
        let held = socket.send_buffer_size().unwrap() + socket.recv_buffer_size().unwrap();
        assert!(held <= 32 * 1024, "{held}");
    }

    #[tokio::test]
    async fn c4_a_queue_that_found_no_room_asks_again_with_the_next_message() {
        let mut channel = open(&Caller::Probe).await.unwrap();
        let windows = Windows::new(&Metrics::new());
        let others =
            std::iter::from_fn(|| windows.let_queue_grow(channel.stream.socket()?, u64::MAX, true, &mut None)?.ok());
        let mut others: Vec<_> = others.collect();
        // Bytes of a message, whether others have all the room, which bound is told, and whether the queue is long then.
        for (taken, full, bound, long) in [
            (0, true, None, false),
            (4096, true, None, false),
            (1 << 20, true, Some(Bound::SendQueues), false),
            (2 << 20, true, None, false),
            (3 << 20, false, None, false),
            (0, false, None, false),
            (1 << 20, false, None, true),
            (0, false, None, true),
        ] {
            if !full {
                others.clear();
            }
            assert_eq!(channel.lengthen_queue(&windows, taken, true), bound, "{taken}, full: {full}");
            assert_eq!(channel.has_long_queue(), long, "{taken}, full: {full}");
        }
    }

    #[tokio::test]
    async fn a_client_with_an_endless_name_does_not_make_the_server_ill() {
        check("mx.example.org", Ok(())).await;
        check(&"+".repeat(255), Err(false)).await;
    }
}
