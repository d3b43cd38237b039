//! The connection to the backend: opened lazily, one for each client session, reused for that session's transactions.
//!
//! Requests go out as typed values; answers come back through [`Backend::word`], which is cancel safe. A connection
//! whose state is in doubt is closed, never repaired.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::addr::BackendAddr;
use crate::config;
use crate::session::{Lost, Request, Upstream};
use crate::wire::command::{Command, Helo, MailFrom};
use crate::wire::data::BodyEncoder;
use crate::wire::ehlo::Capabilities;
use crate::wire::reply::{Reply, ReplyDecoder};

/// How long the backend may take for its greeting and its answer to EHLO.
const GREETING_WAIT: Duration = Duration::from_secs(60);
/// How long one write may make no progress.
const WRITE_WAIT: Duration = Duration::from_secs(180);
/// Encoded bytes gathered before they are written.
const WRITE_CHUNK: usize = 32 * 1024;

type Opening = Pin<Box<dyn Future<Output = Result<Connection, Lost>> + Send>>;

/// The backend of one session.
pub(super) struct Backend {
    config: Arc<config::Config>,
    link: Link,
}

enum Link {
    None,
    Opening {
        opening: Opening,
        mail: Option<MailFrom>,
    },
    Open(Box<Connection>),
    /// A write failed: the loss is told once.
    Broken(Lost),
}

/// An open connection after EHLO.
pub(super) struct Connection {
    stream: TcpStream,
    pub(super) capabilities: Capabilities,
    replies: ReplyDecoder,
    unread: BytesMut,
    unsent: BytesMut,
    encoder: Option<BodyEncoder>,
}

impl Backend {
    pub(super) fn new(config: Arc<config::Config>) -> Self {
        Self { config, link: Link::None }
    }

    /// Whether there is a connection, or one is being opened: [`Self::word`] may then have something to say.
    pub(super) fn is_live(&self) -> bool {
        !matches!(self.link, Link::None)
    }

    /// Performs a request. A failure is told by [`Self::word`].
    pub(super) async fn perform(&mut self, request: Request) {
        match (request, &mut self.link) {
            (Request::Drop, _) => self.link = Link::None,
            (Request::Mail(mail, _), Link::None) => {
                let opening = Box::pin(open(Arc::clone(&self.config)));
                self.link = Link::Opening { opening, mail: Some(mail) };
            }
            (request, Link::Open(connection)) => {
                let quit = matches!(request, Request::Quit);
                if let Err(lost) = connection.send(request).await {
                    self.link = Link::Broken(lost);
                }
                if quit {
                    self.link = Link::None;
                }
            }
            (Request::Quit, _) => self.link = Link::None,
            // Body of a message whose backend is gone: the loss is told by `word`.
            (_, Link::None | Link::Opening { .. } | Link::Broken(_)) => {}
        }
    }

    /// The backend's next word. Cancel safe; pending while there is no connection.
    pub(super) async fn word(&mut self) -> Upstream {
        loop {
            match &mut self.link {
                Link::None => std::future::pending().await,
                Link::Broken(lost) => return Upstream::Lost(*lost),
                Link::Opening { opening, mail } => match opening.as_mut().await {
                    Err(lost) => {
                        self.link = Link::Broken(lost);
                    }
                    Ok(mut connection) => {
                        let mail = mail.take();
                        let sent = match mail {
                            Some(mail) => connection.queue_mail(mail),
                            None => Ok(()),
                        };
                        self.link = match sent {
                            Ok(()) => Link::Open(Box::new(connection)),
                            Err(lost) => Link::Broken(lost),
                        };
                    }
                },
                Link::Open(connection) => match connection.word().await {
                    Ok(reply) => return Upstream::Reply(reply),
                    Err(lost) => self.link = Link::Broken(lost),
                },
            }
        }
    }
}

impl Connection {
    /// Connects to `server` and says EHLO (HELO where it isn't understood).
    pub(super) async fn open(server: BackendAddr, config: &config::Config) -> Result<Self, Lost> {
        let stream = match timeout(config.backend.connect_timeout, TcpStream::connect(server.0)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(_)) | Err(_) => return Err(Lost::Unreachable),
        };
        // A reply must not wait for more to be sent; failing to set it costs time, nothing else.
        let _ = stream.set_nodelay(true);
        let mut connection = Self {
            stream,
            capabilities: Capabilities::default(),
            replies: ReplyDecoder::new(),
            unread: BytesMut::new(),
            unsent: BytesMut::new(),
            encoder: None,
        };
        match timeout(GREETING_WAIT, connection.greet(&config.hostname)).await {
            Ok(Ok(())) => Ok(connection),
            // A server that turns us away before the envelope is as good as not there.
            Ok(Err(_)) | Err(_) => Err(Lost::Unreachable),
        }
    }

    async fn greet(&mut self, hostname: &str) -> Result<(), Lost> {
        let greeting = self.word().await?;
        if greeting.code().class() != 2 {
            return Err(Lost::Unreachable);
        }
        let name = Helo::new(hostname).ok_or(Lost::Protocol)?;
        Command::Ehlo(name.clone()).encode(&mut self.unsent);
        let answer = self.word().await?;
        if answer.code().class() == 2 {
            self.capabilities = Capabilities::parse(&answer);
            return Ok(());
        }
        Command::Helo(name).encode(&mut self.unsent);
        let answer = self.word().await?;
        if answer.code().class() == 2 { Ok(()) } else { Err(Lost::Unreachable) }
    }

    /// Says QUIT and closes; how the server takes it doesn't matter.
    pub(super) async fn quit(mut self) {
        Command::Quit.encode(&mut self.unsent);
        let _ = self.flush().await;
    }

    async fn send(&mut self, request: Request) -> Result<(), Lost> {
        if !self.unread.is_empty() {
            if matches!(request, Request::Body(_)) {
                // A refusal in the middle of the data, even together with the 354: `word` tells it, and the session
                // sends nothing more.
                return Ok(());
            }
            // A reply that nobody asked for would be taken for the answer to this.
            return Err(Lost::Protocol);
        }
        match request {
            Request::Mail(mail, _) => self.queue_mail(mail)?,
            Request::Rcpt(rcpt, _) => Command::Rcpt(rcpt).encode(&mut self.unsent),
            Request::Data => Command::Data.encode(&mut self.unsent),
            Request::Reset => Command::Rset.encode(&mut self.unsent),
            Request::Quit => Command::Quit.encode(&mut self.unsent),
            Request::Body(body) => {
                let encoder = self.encoder.get_or_insert_with(BodyEncoder::new);
                encoder.encode(&body, &mut self.unsent);
                if self.unsent.len() < WRITE_CHUNK {
                    return Ok(());
                }
            }
            Request::End(end) => {
                let encoder = self.encoder.take().unwrap_or_default();
                // A flawed end never comes here: the session drops the connection instead. If it did, so do we.
                encoder.finish(end, &mut self.unsent).map_err(|_| Lost::Protocol)?;
            }
            Request::Drop => return Err(Lost::Closed),
        }
        self.flush().await
    }

    fn queue_mail(&mut self, mut mail: MailFrom) -> Result<(), Lost> {
        if self.capabilities.size.is_none() {
            mail.size = None;
        }
        if !self.capabilities.eight_bit_mime {
            mail.body = None;
        }
        Command::Mail(mail).encode(&mut self.unsent);
        Ok(())
    }

    /// The next reply; sends what is unsent first. Cancel safe: bytes leave `unsent` as they are written.
    async fn word(&mut self) -> Result<Reply, Lost> {
        loop {
            self.flush().await?;
            match self.replies.next(&mut self.unread) {
                Some(Ok(reply)) => return Ok(reply),
                Some(Err(_)) => return Err(Lost::Protocol),
                None => {}
            }
            self.unread.reserve(1024);
            match self.stream.read_buf(&mut self.unread).await {
                Ok(0) | Err(_) => return Err(Lost::Closed),
                Ok(_) => {}
            }
        }
    }

    async fn flush(&mut self) -> Result<(), Lost> {
        while !self.unsent.is_empty() {
            match timeout(WRITE_WAIT, self.stream.write_buf(&mut self.unsent)).await {
                Ok(Ok(1..)) => {}
                Ok(Ok(0) | Err(_)) => return Err(Lost::Closed),
                Err(_) => return Err(Lost::Timeout),
            }
        }
        Ok(())
    }
}

/// The first server that greets us.
async fn open(config: Arc<config::Config>) -> Result<Connection, Lost> {
    for server in &config.backend.servers {
        match Connection::open(*server, &config).await {
            Ok(connection) => return Ok(connection),
            Err(lost) => tracing::warn!(backend = %server, ?lost, "backend can't be used"),
        }
    }
    Err(Lost::Unreachable)
}
