//! Inputs and outputs of a session: the whole of its surface.

use std::sync::Arc;

use smtp_guard_ebpf::reason::Reason;

use crate::addr::ClientAddr;
use crate::clock::{Both, Instant};
use crate::config::Role;
use crate::offence::{Conduct, Digest};
use crate::policy::Permit;
use crate::policy::checks::Found;
use crate::session::Outcome;
use crate::snapshot::Snapshot;
use crate::wire::command::{Command, CommandError, Helo};
use crate::wire::data::{BodyEnd, BodyFlaw, CleanBody};
use crate::wire::ehlo::Capabilities;
use crate::wire::envelope::{MailFrom, RcptTo};
use crate::wire::line::LineFlaw;
use crate::wire::reply::Reply;
use crate::wire::sasl::{Credentials, Secret};

/// The beginning of a session: a snapshot that no later change of the configuration touches.
#[derive(Debug)]
pub struct Opening {
    pub id: String,
    pub addr: ClientAddr,
    pub role: Role,
    /// The client spoke TLS from its first byte.
    pub secured: Option<Secured>,
    pub rules: Arc<Snapshot>,
    /// The extensions of EHLO that depend on the backend.
    pub backend: Arc<Capabilities>,
    /// Mail of the source was accepted before: it doesn't wait for the greeting.
    pub familiar: bool,
    pub clock: Both,
}

/// The client's TLS, for its trace header. Names of the library's tables, never the client's words.
#[derive(Clone, Copy, Debug)]
pub struct Secured {
    pub version: &'static str,
    pub cipher: &'static str,
}

/// The speaker, as the backend should see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Speaker {
    pub helo: Helo,
    pub esmtp: bool,
    /// The user whom the client proved to be.
    pub login: Option<Box<str>>,
}

/// An input: something that happened.
#[derive(Debug)]
pub enum Input {
    /// The client has spoken before the greeting.
    EarlyTalk,
    /// The facts that [`Output::Consult`] asked for.
    Facts(Facts),
    /// A command line. `more`: the client has sent bytes beyond it already.
    Command { command: Result<Command, CommandError>, more: bool },
    /// The next command that was taken ahead has its turn.
    Turn,
    /// A line within AUTH.
    Response(Result<Secret, LineFlaw>),
    /// The TLS handshake that [`Output::StartTls`] asked for is done.
    Secured(Secured),
    /// Message data, decoded.
    Body(CleanBody),
    /// So many bytes of message data were read in all, although none came out (a flaw was seen).
    Swallowed(u64),
    /// The client's CRLF.CRLF, or the end of its last chunk.
    BodyEnd(BodyEnd),
    /// The end of a chunk that isn't the last one, with the first flaw so far.
    ChunkEnd(Option<BodyFlaw>),
    /// Source or user has sent as much as it may for now, or the user is held: MAIL or RCPT was not passed on.
    OverRate(Reason),
    /// The backend's word.
    Upstream(Upstream),
    /// The time told by [`Session::deadline`] has come.
    Deadline,
    /// The source was banned.
    Banned(Reason),
    /// The session is idle, and its place is needed: it ends, unless a dot was sent.
    GiveWay,
    /// The guard wants to stop: end when nothing is under way.
    Shutdown,
    /// The client closed its side, or its socket broke.
    ClientGone,
}

/// Facts by which a recipient is judged, besides the rules.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// The source has asked for too many unknown recipients before.
    pub deferred: bool,
    /// The backend is known to refuse the recipient that [`Output::Consult`] named: it doesn't exist.
    pub unknown: bool,
    /// The facts that were looked up, if that was asked for.
    pub found: Option<Arc<Found>>,
}

/// The backend's word on the first [`Request`] that it hasn't answered yet.
#[derive(Debug)]
pub enum Upstream {
    Reply(Reply),
    /// On [`Request::Auth`].
    Auth(AuthVerdict),
    Lost(Lost),
}

/// The verdict on credentials.
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
            Self::Reply(reply) => Ok(reply.with_enhanced().passed_on()),
            Self::Auth(_) => Err(Lost::Protocol),
            Self::Lost(lost) => Err(lost),
        }
    }
}

/// The way in which the backend was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lost {
    /// No server could be connected, or none greeted us.
    Unreachable,
    /// The backend closed the connection, or said 421.
    Closed,
    /// The backend didn't answer in time.
    Timeout,
    /// The backend's answer makes no sense here.
    Protocol,
    /// All connections to it are in use, or this one was needed for somebody else.
    Busy,
    /// The backend was lost before the final dot was sent: it can't have taken the message.
    BeforeDot,
}

impl Lost {
    /// The words for the log.
    pub fn text(self) -> &'static str {
        match self {
            Self::Unreachable => "no mail server could be connected",
            Self::Closed => "the mail server closed the connection",
            Self::Timeout => "the mail server did not answer in time",
            Self::Protocol => "the mail server's answer makes no sense here",
            Self::Busy => "all connections to the mail server are in use",
            Self::BeforeDot => "the connection to the mail server was lost before the dot",
        }
    }
}

/// An output: something that the driver should do, in this order.
#[derive(Debug)]
pub enum Output {
    /// Send to the client.
    Reply(Reply),
    /// Send to the backend.
    Request(Request),
    /// Feed [`Input::Facts`], with what was looked up if `lookups`. `recipient`: the normalised address, where it may be
    /// judged by what the backend has told others of it. `sender`: who may be deferred by himself.
    Consult { lookups: bool, recipient: Option<Box<str>>, sender: Digest },
    /// Remember what the backend says of a recipient.
    Heard(Heard),
    /// The recipient that a user asked for last was accepted, or not: then it doesn't count.
    Settled { accepted: bool },
    /// Send what is unsent, make the TLS handshake, and feed [`Input::Secured`]; or close.
    StartTls,
    /// Connect to the backend for a MAIL that is likely to come, if that costs nobody else anything.
    Connect(Arc<Speaker>),
    /// Tell the ledger.
    Report(Conduct),
    /// Log and count.
    Event(Event),
    /// Send what is unsent, then close both connections.
    Close,
}

/// The backend's word on a recipient. That one is unknown is passed on only where it was told to a stranger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heard {
    /// The normalised address.
    pub recipient: Box<str>,
    /// On behalf of whom it was asked; in lower case, as servers may take it for the same.
    pub sender: Digest,
    /// Whether the recipient doesn't exist; otherwise it was accepted.
    pub unknown: bool,
}

/// A request: something that the backend should be asked or sent.
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
        details: Details,
    },
    /// A check that only observes would have refused a recipient.
    Observed {
        reason: Reason,
        details: Details,
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

/// The subject of an event, as far as it is known. All of it may hold the client's words.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Details {
    /// As in MAIL, with its angle brackets.
    pub sender: Option<String>,
    /// As in RCPT, with its angle brackets.
    pub recipient: Option<String>,
    /// The reply to the client.
    pub reply: Option<Reply>,
    pub note: String,
}

impl Details {
    /// A note that fits into one line.
    pub fn note(note: impl Into<String>) -> Self {
        Self { note: note.into(), ..Self::default() }
    }

    /// The same with what the client hears.
    #[must_use]
    pub fn heard(self, reply: &Reply) -> Self {
        Self { reply: Some(reply.clone()), ..self }
    }
}

/// Recipients of a message that its line in the log names.
pub const LISTED: usize = 16;

/// The end of a message whose data was taken.
#[derive(Debug, PartialEq, Eq)]
pub struct Message {
    pub outcome: Outcome,
    pub sender: String,
    /// Recipients that the backend had accepted.
    pub recipients: u32,
    /// The first of them, at most [`LISTED`].
    pub listed: Vec<String>,
    /// Decoded bytes, without our header.
    pub size: u64,
    /// The reply at the dot.
    pub reply: Reply,
    /// When the backend took its sender.
    pub began: Instant,
}

/// The kind of bytes that the driver may read from the client now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wants {
    Command,
    /// A command that was read already. Nothing is read for it.
    Ahead,
    /// [`Input::Turn`].
    Turn,
    /// Nothing but to know whether it speaks.
    Silence,
    /// A line within AUTH.
    Response,
    Body,
    Nothing,
    /// The session is over.
    Closed,
}
