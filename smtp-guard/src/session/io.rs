//! What goes into a session and what comes out: the whole of its surface.

use std::sync::Arc;

use smtp_guard_ebpf::reason::Reason;

use crate::addr::ClientAddr;
use crate::clock::Both;
use crate::config::Role;
use crate::observe::metrics::Outcome;
use crate::offence::Conduct;
use crate::policy::{Permit, Rules};
use crate::wire::command::{Command, CommandError, Helo};
use crate::wire::data::{BodyEnd, CleanBody};
use crate::wire::ehlo::Capabilities;
use crate::wire::envelope::{MailFrom, RcptTo};
use crate::wire::line::LineFlaw;
use crate::wire::reply::Reply;
use crate::wire::sasl::{Credentials, Secret};

/// What a session begins with: a snapshot that no later change of the configuration touches.
#[derive(Debug)]
pub struct Opening {
    pub id: String,
    pub addr: ClientAddr,
    pub role: Role,
    /// The client spoke TLS from its first byte.
    pub secured: Option<Secured>,
    pub rules: Arc<Rules>,
    /// What EHLO offers, of what depends on the backend.
    pub backend: Arc<Capabilities>,
    pub clock: Both,
}

/// The client's TLS, for its trace header. Names of the library's tables, never the client's words.
#[derive(Clone, Copy, Debug)]
pub struct Secured {
    pub version: &'static str,
    pub cipher: &'static str,
}

/// Who speaks, as the backend shall see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Speaker {
    pub helo: Helo,
    pub esmtp: bool,
    /// Who the client proved to be.
    pub login: Option<Box<str>>,
}

/// What happened.
#[derive(Debug)]
pub enum Input {
    /// A command line. `more`: the client has sent bytes beyond it already.
    Command { command: Result<Command, CommandError>, more: bool },
    /// A line within AUTH.
    Response(Result<Secret, LineFlaw>),
    /// The TLS handshake that [`Output::StartTls`] asked for is done.
    Secured(Secured),
    /// Message data, decoded.
    Body(CleanBody),
    /// So many bytes of message data were read in all, although none came out (a flaw was seen).
    Swallowed(u64),
    /// The client's CRLF.CRLF.
    BodyEnd(BodyEnd),
    /// The source has sent as many messages as it may for now: MAIL was not passed on.
    OverRate,
    /// The backend's word.
    Upstream(Upstream),
    /// The time told by [`Session::deadline`] has come.
    Deadline,
    /// The source was banned.
    Banned(Reason),
    /// The guard wants to stop: end when nothing is under way.
    Shutdown,
    /// The client closed its side, or its socket broke.
    ClientGone,
}

/// The backend's word on the last [`Request`].
#[derive(Debug)]
pub enum Upstream {
    Reply(Reply),
    /// On [`Request::Auth`].
    Auth(AuthVerdict),
    Lost(Lost),
}

/// What became of credentials.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthVerdict {
    Accepted,
    Rejected,
    /// Whoever judges them can't be asked now.
    Unavailable,
}

impl Upstream {
    /// A reply that can be acted on; a 421 announces the end of the connection.
    pub(super) fn usable(self) -> Result<Reply, Lost> {
        match self {
            Self::Reply(reply) if reply.code().get() == 421 => Err(Lost::Closed),
            Self::Reply(reply) => Ok(reply.with_enhanced()),
            Self::Auth(_) => Err(Lost::Protocol),
            Self::Lost(lost) => Err(lost),
        }
    }
}

/// How the backend was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lost {
    /// No server could be connected, or none greeted us.
    Unreachable,
    /// It closed the connection, or said 421.
    Closed,
    /// It didn't answer in time.
    Timeout,
    /// It answered what makes no sense here.
    Protocol,
}

/// What the driver shall do, in this order.
#[derive(Debug)]
pub enum Output {
    /// Send to the client.
    Reply(Reply),
    /// Send to the backend.
    Request(Request),
    /// Send what is unsent, make the TLS handshake, and feed [`Input::Secured`]; or close.
    StartTls,
    /// Tell the ledger.
    Report(Conduct),
    /// Log and count.
    Event(Event),
    /// Send what is unsent, then close both connections.
    Close,
}

/// What the backend shall be asked or sent.
#[derive(Debug)]
pub enum Request {
    /// MAIL; connects first where there is no connection.
    Mail(MailFrom, Permit, Arc<Speaker>),
    /// Asks whoever judges credentials.
    Auth(Credentials, Arc<Speaker>),
    Rcpt(RcptTo, Permit),
    Data,
    Body(CleanBody),
    /// The final dot.
    End(BodyEnd),
    Reset,
    /// Close without a word: what was begun must not be completed.
    Drop,
    Quit,
}

/// For log and metrics.
#[derive(Debug)]
pub enum Event {
    /// A command was refused; the session goes on.
    Refused {
        reason: Reason,
        detail: String,
    },
    /// The session was ended by us.
    Ended {
        reason: Reason,
    },
    /// The client proved to be this user.
    Authenticated {
        user: String,
    },
    Message(Message),
}

/// What became of a message whose data was taken.
#[derive(Debug, PartialEq, Eq)]
pub struct Message {
    pub outcome: Outcome,
    pub sender: String,
    /// Recipients that the backend had accepted.
    pub recipients: u32,
    /// Decoded bytes, without our header.
    pub size: u64,
    /// The reply at the dot.
    pub reply: String,
}

/// What the driver may read from the client now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wants {
    Command,
    /// A line within AUTH.
    Response,
    Body,
    Nothing,
    /// It is over.
    Closed,
}
