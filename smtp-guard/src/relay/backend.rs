//! The backend of one session: opened lazily, one connection, reused for that session's transactions.
//!
//! Requests go out as typed values; answers come back through [`Backend::word`], which is cancel safe. A connection
//! whose state is in doubt is closed, never repaired; another server is tried only before MAIL was accepted.

use std::future::Future;
use std::ops::ControlFlow;
use std::pin::Pin;
use std::sync::Arc;

use super::auth::Dialogue;
use super::connect::{Caller, Channel};
use super::pool::Pool;
use super::{Shared, dovecot};
use crate::config::AuthVia;
use crate::session::{AuthVerdict, Lost, Request, Speaker, Upstream};
use crate::wire::command::Command;
use crate::wire::data::BodyEncoder;
use crate::wire::envelope::MailFrom;
use crate::wire::proxy::Ends;
use crate::wire::sasl::Credentials;

/// Encoded bytes gathered before they are written.
const WRITE_CHUNK: usize = 16 * 1024;

type Opening = Pin<Box<dyn Future<Output = Result<Channel, Lost>> + Send>>;
type Asking = Pin<Box<dyn Future<Output = AuthVerdict> + Send>>;

/// The backend of one session.
pub(super) struct Backend {
    shared: Arc<Shared>,
    ends: Ends,
    link: Link,
    /// Dovecot is asked.
    asking: Option<Asking>,
    /// The client has logged in over a connection: another one would be a stranger's.
    bound: bool,
}

enum Link {
    None,
    Opening {
        opening: Opening,
        first: Option<First>,
    },
    Open(Box<Connection>),
    /// A write failed: the loss is told once.
    Broken(Lost),
}

/// What a connection is opened for.
enum First {
    Mail(MailFrom),
    Auth(Credentials),
}

/// An open connection and what is under way on it.
struct Connection {
    channel: Channel,
    encoder: Option<BodyEncoder>,
    auth: Option<Dialogue>,
}

impl Backend {
    pub(super) fn new(shared: Arc<Shared>, ends: Ends) -> Self {
        Self { shared, ends, link: Link::None, asking: None, bound: false }
    }

    /// Whether [`Self::word`] may have something to say.
    pub(super) fn is_live(&self) -> bool {
        !matches!(self.link, Link::None) || self.asking.is_some()
    }

    /// Performs a request. A failure is told by [`Self::word`].
    pub(super) async fn perform(&mut self, request: Request) {
        match (request, &mut self.link) {
            (Request::Drop, _) => {
                // A verdict that comes later has nobody to hear it.
                (self.link, self.asking) = (Link::None, None);
            }
            (Request::Auth(credentials, _), _) if self.shared.config.auth.via == AuthVia::Dovecot => {
                let socket = self.shared.config.auth.dovecot_socket.clone();
                let Ends { source, destination } = self.ends;
                self.asking = Some(Box::pin(dovecot::ask(socket, credentials, source, destination)));
            }
            (Request::Mail(..), Link::None) if self.bound => self.link = Link::Broken(Lost::Closed),
            (Request::Mail(mail, _, speaker), Link::None) => self.open(First::Mail(mail), speaker),
            (Request::Auth(credentials, speaker), Link::None) => self.open(First::Auth(credentials), speaker),
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
            // A write of the data failed, and the session has not heard of it yet.
            (Request::End(_), Link::Broken(lost)) => *lost = Lost::BeforeDot,
            // Body of a message whose backend is gone: the loss is told by `word`.
            (_, Link::None | Link::Opening { .. } | Link::Broken(_)) => {}
        }
    }

    fn open(&mut self, first: First, speaker: Arc<Speaker>) {
        let pool: Arc<Pool> = Arc::clone(&self.shared.pool);
        let caller = Caller::Client { speaker, ends: self.ends };
        let opening = Box::pin(async move { pool.open(caller).await });
        self.link = Link::Opening { opening, first: Some(first) };
    }

    /// The backend's next word. Cancel safe; pending while there is no connection.
    pub(super) async fn word(&mut self) -> Upstream {
        if let Some(asking) = &mut self.asking {
            let verdict = asking.await;
            self.asking = None;
            return Upstream::Auth(verdict);
        }
        loop {
            match &mut self.link {
                Link::None => std::future::pending().await,
                Link::Broken(lost) => return Upstream::Lost(*lost),
                Link::Opening { opening, first } => match opening.as_mut().await {
                    Err(lost) => self.link = Link::Broken(lost),
                    Ok(channel) => {
                        let mut connection = Connection { channel, encoder: None, auth: None };
                        let begun = match first.take() {
                            Some(First::Mail(mail)) => connection.queue_mail(mail),
                            Some(First::Auth(credentials)) => connection.queue_auth(credentials),
                            None => Ok(()),
                        };
                        self.link = match begun {
                            Ok(()) => Link::Open(Box::new(connection)),
                            Err(lost) => Link::Broken(lost),
                        };
                    }
                },
                Link::Open(connection) => match connection.word().await {
                    Ok(word) => {
                        self.bound |= matches!(word, Upstream::Auth(AuthVerdict::Accepted));
                        return word;
                    }
                    Err(lost) => self.link = Link::Broken(lost),
                },
            }
        }
    }
}

impl Connection {
    async fn send(&mut self, request: Request) -> Result<(), Lost> {
        if !self.channel.unread.is_empty() {
            if matches!(request, Request::Body(_)) {
                // A refusal in the middle of the data, even together with the 354: `word` tells it, and the session
                // sends nothing more.
                return Ok(());
            }
            // A reply that nobody asked for would be taken for the answer to this.
            return Err(if matches!(request, Request::End(_)) { Lost::BeforeDot } else { Lost::Protocol });
        }
        let unsent = &mut self.channel.unsent;
        match request {
            Request::Mail(mail, ..) => self.queue_mail(mail)?,
            Request::Auth(credentials, _) => self.queue_auth(credentials)?,
            Request::Rcpt(rcpt, _) => {
                if !self.channel.capabilities.takes(rcpt.uses()) {
                    return Err(Lost::Protocol);
                }
                Command::Rcpt(rcpt).encode(unsent);
            }
            Request::Data => Command::Data.encode(unsent),
            Request::Reset => Command::Rset.encode(unsent),
            Request::Quit => Command::Quit.encode(unsent),
            Request::Body(body) => {
                let encoder = self.encoder.get_or_insert_with(BodyEncoder::new);
                encoder.encode(&body, unsent);
                if unsent.len() < WRITE_CHUNK {
                    return Ok(());
                }
            }
            Request::End(end) => {
                let encoder = self.encoder.take().unwrap_or_default();
                // A flawed end never comes here: the session drops the connection instead. If it did, so do we.
                encoder.finish(end, unsent).map_err(|_| Lost::Protocol)?;
            }
            Request::Drop => return Err(Lost::Closed),
        }
        self.channel.flush().await
    }

    fn queue_mail(&mut self, mut mail: MailFrom) -> Result<(), Lost> {
        // It was offered, but by another server, or by this one in better days. Left out it would be broken silently.
        if !self.channel.capabilities.takes(mail.uses()) {
            return Err(Lost::Protocol);
        }
        if self.channel.capabilities.size.is_none() {
            mail.size = None;
        }
        Command::Mail(mail).encode(&mut self.channel.unsent);
        Ok(())
    }

    /// The capabilities know no AUTH where passwords must not go ([`super::connect`]).
    fn queue_auth(&mut self, credentials: Credentials) -> Result<(), Lost> {
        let dialogue = Dialogue::begin(&self.channel.capabilities, credentials, &mut self.channel.unsent);
        self.auth = Some(dialogue.ok_or(Lost::Protocol)?);
        Ok(())
    }

    async fn word(&mut self) -> Result<Upstream, Lost> {
        loop {
            let reply = self.channel.word().await?;
            let Some(dialogue) = self.auth.take() else {
                return Ok(Upstream::Reply(reply));
            };
            match dialogue.go_on(&reply, &mut self.channel.unsent)? {
                ControlFlow::Continue(dialogue) => self.auth = Some(dialogue),
                ControlFlow::Break(verdict) => return Ok(Upstream::Auth(verdict)),
            }
        }
    }
}
