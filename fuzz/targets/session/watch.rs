//! Invariants of every session, kept apart from the session itself.
//!
//! - A 2xx at the client's dot, or to its last chunk, is the backend's 2xx at its dot; and the backend's 2xx is never turned into a refusal,
//!   which would have the message sent twice.
//! - The backend is asked one thing at a time, or RCPT and DATA ahead, in an order that SMTP knows, and never over a connection
//!   that is gone. Nothing is asked behind DATA.
//! - What goes to it is one line without CR, LF or NUL inside, or a message that every backend reads the same.
//! - A lost backend is let go at once. Each thing the client sends has one answer. Nothing is said after the close.

use std::collections::VecDeque;

use bytes::BytesMut;
use smtp_guard_core::session::Outcome;
use smtp_guard_core::session::{AuthVerdict, Event, Input, Output, Request, Upstream, Wants};
use smtp_guard_core::wire::command::Command;
use smtp_guard_core::wire::data::BodyEncoder;
use smtp_guard_core::wire::reply::Reply;

use super::readers::{self, Sent};

/// The connection to the backend.
#[derive(Debug)]
enum Link {
    None,
    Idle,
    Asked(Asked),
    /// 354 was said.
    Data(Box<Data>),
    Dot,
    /// It was lost, and the session knows.
    Lost,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    Mail,
    Rcpt,
    Data,
    Reset,
    Auth,
}

#[derive(Debug, Default)]
struct Data {
    encoder: BodyEncoder,
    wire: BytesMut,
    message: Vec<u8>,
}

/// The inputs and outputs seen so far.
#[derive(Debug)]
pub(crate) struct Watch {
    /// The backend judges credentials.
    auth_by_backend: bool,
    link: Link,
    /// What was asked ahead, behind what [`Link::Asked`] has.
    ahead: VecDeque<Asked>,
    /// There was no connection before the MAIL that is asked.
    fresh: bool,
    /// Somebody else judges credentials now.
    judging: bool,
    /// The client sent its dot and has no answer yet: whether the backend got one, and whether it said yes.
    dot: Option<(bool, bool)>,
    /// Answers that the client waits for.
    owed: i32,
    gone: bool,
    closed: bool,
}

impl Watch {
    /// `waits`: the greeting is still to come, and owed.
    pub(crate) fn new(auth_by_backend: bool, waits: bool) -> Self {
        let owed = i32::from(waits);
        Self {
            auth_by_backend,
            link: Link::None,
            ahead: VecDeque::new(),
            fresh: false,
            judging: false,
            dot: None,
            owed,
            gone: false,
            closed: false,
        }
    }

    /// Whether the backend can say something. It isn't listened to while somebody else is asked.
    pub(crate) fn is_live(&self) -> bool {
        !self.judging && !matches!(self.link, Link::None | Link::Lost)
    }

    pub(crate) fn is_judging(&self) -> bool {
        self.judging
    }

    /// Whether a message or recipient is asked for, which source or user may have too many of.
    pub(crate) fn is_counted(&self) -> bool {
        self.ahead.is_empty() && matches!(self.link, Link::Asked(Asked::Mail | Asked::Rcpt))
    }

    /// A reply of the backend as the driver tells it: within AUTH it is a verdict.
    pub(crate) fn translate(&self, reply: Reply) -> Upstream {
        match (&self.link, reply.code().class()) {
            (Link::Asked(Asked::Auth), 2) => Upstream::Auth(AuthVerdict::Accepted),
            (Link::Asked(Asked::Auth), 5) => Upstream::Auth(AuthVerdict::Rejected),
            (Link::Asked(Asked::Auth), _) => Upstream::Auth(AuthVerdict::Unavailable),
            _ => Upstream::Reply(reply),
        }
    }

    /// Something happens.
    pub(crate) fn before(&mut self, input: &Input) {
        match input {
            // The announcement of a chunk has its answer at the chunk's end, unless the session ends.
            Input::Command { command: Ok(Command::Bdat(_)), .. } => {}
            Input::Command { .. } | Input::Response(_) | Input::ChunkEnd(_) => self.owed += 1,
            Input::BodyEnd(_) => {
                self.owed += 1;
                self.dot = Some((false, false));
            }
            Input::ClientGone => self.gone = true,
            // The backend was never asked.
            Input::OverRate(_) if self.fresh && matches!(self.link, Link::Asked(Asked::Mail)) => self.link = Link::None,
            Input::OverRate(_) => self.link = Link::Idle,
            Input::Upstream(Upstream::Lost(_)) => self.link = Link::Lost,
            Input::Upstream(Upstream::Auth(_)) if self.judging => self.judging = false,
            Input::Upstream(Upstream::Auth(_)) => self.link = Link::Idle,
            Input::Upstream(Upstream::Reply(reply)) => {
                self.link = match (std::mem::replace(&mut self.link, Link::None), reply.code().class()) {
                    (Link::Asked(Asked::Data), 3) => Link::Data(Box::default()),
                    (Link::Asked(_), _) => self.ahead.pop_front().map_or(Link::Idle, Link::Asked),
                    (Link::Dot, class) => {
                        self.dot = self.dot.map(|(ended, _)| (ended, class == 2));
                        Link::Idle
                    }
                    (link, _) => link,
                };
            }
            _ => {}
        }
    }

    /// This came of it.
    pub(crate) fn after(&mut self, out: &mut Vec<Output>, wants: Wants) {
        let closes = out.iter().any(|output| matches!(output, Output::Close));
        for output in out.drain(..) {
            assert!(!self.closed, "{output:?} after the close");
            match output {
                Output::Reply(reply) => self.reply(&reply, closes),
                Output::Request(request) => self.request(request),
                Output::Event(event) => self.event(&event),
                Output::Connect(_) => {
                    assert!(matches!(self.link, Link::None | Link::Idle), "a connection within a transaction")
                }
                Output::Close => (self.closed, self.link) = (true, Link::None),
                Output::StartTls
                | Output::Consult { .. }
                | Output::Heard(_)
                | Output::Settled { .. }
                | Output::Report(_) => {}
            }
        }
        assert_eq!(closes || self.closed, wants == Wants::Closed);
        assert!(!matches!(self.link, Link::Lost), "a lost backend is kept");
        if matches!(wants, Wants::Command | Wants::Response | Wants::Body) {
            assert_eq!(self.owed, 0, "answers are owed, and more is wanted");
        }
    }

    fn reply(&mut self, reply: &Reply, closes: bool) {
        one_line(|out| {
            // Only EHLO has more lines.
            let last = reply.lines().last().unwrap_or_default().to_owned();
            Reply::new(reply.code().get(), None, last).encode(out);
        });
        if let Some((ended, yes)) = self.dot.take() {
            let positive = reply.is_positive();
            assert!(!positive || (ended && yes), "{reply} at the dot: sent {ended}, taken {yes}");
            assert!(positive || !yes || self.gone, "{reply} at the dot, but the backend has taken it");
        }
        // A session that is closed from our side says so unasked.
        self.owed -= 1;
        assert!(self.owed >= 0 || closes, "{reply} to nothing");
    }

    fn request(&mut self, request: Request) {
        let link = std::mem::replace(&mut self.link, Link::None);
        self.fresh = matches!(link, Link::None);
        if matches!(request, Request::Drop) {
            self.ahead.clear();
        }
        self.link = match (request, link) {
            (Request::Drop, _) => Link::None,
            (request @ (Request::Rcpt(..) | Request::Data), Link::Asked(first)) => {
                let last = self.ahead.back().copied().unwrap_or(first);
                assert!(matches!(last, Asked::Mail | Asked::Rcpt), "{request:?} behind {last:?}");
                self.ahead.push_back(match request {
                    Request::Rcpt(rcpt, _) => {
                        one_line(|out| Command::Rcpt(rcpt).encode(out));
                        Asked::Rcpt
                    }
                    _ => Asked::Data,
                });
                Link::Asked(first)
            }
            (Request::Quit, Link::None | Link::Idle) => Link::None,
            (Request::Mail(mail, ..), Link::None | Link::Idle) => asked(Asked::Mail, &Command::Mail(mail)),
            (Request::Auth(credentials, speaker), Link::None | Link::Idle) if self.auth_by_backend => {
                assert!(!credentials.user().chars().any(char::is_control));
                assert!(speaker.login.is_none());
                Link::Asked(Asked::Auth)
            }
            (Request::Auth(..), link) if !self.auth_by_backend => {
                assert!(!self.judging, "two judgements at once");
                self.judging = true;
                link
            }
            (Request::Rcpt(rcpt, _), Link::Idle) => asked(Asked::Rcpt, &Command::Rcpt(rcpt)),
            (Request::Data, Link::Idle) => asked(Asked::Data, &Command::Data),
            (Request::Reset, Link::Idle) => asked(Asked::Reset, &Command::Rset),
            (Request::Body(body), Link::Data(mut data)) => {
                data.encoder.encode(&body, &mut data.wire);
                data.message.extend_from_slice(&body);
                Link::Data(data)
            }
            (Request::End(end), Link::Data(data)) => {
                let Data { encoder, mut wire, mut message } = *data;
                if !message.ends_with(b"\r\n") {
                    // A last chunk may end within a line.
                    message.extend_from_slice(b"\r\n");
                }
                let size = end.size();
                encoder.finish(end, &mut wire).expect("a flawed message is never completed");
                assert!(message.starts_with(b"Received: ") && message.len() as u64 > size);
                let sent = Sent { wire: wire.to_vec(), message, end: Some(None), size, rest: Vec::new() };
                readers::check(&sent, b"");
                let (ended, _) = self.dot.as_mut().expect("the client's dot came first");
                assert!(!std::mem::replace(ended, true), "two dots for one");
                Link::Dot
            }
            (request, link) => panic!("{request:?} while the backend is {link:?}"),
        };
    }

    fn event(&self, event: &Event) {
        match event {
            Event::Message(message) if message.outcome == Outcome::Accepted => {
                assert_eq!(self.dot, Some((true, true)), "accepted without the backend's word");
            }
            Event::Refused { details, .. } | Event::Observed { details, .. } => {
                let words = [details.sender.as_deref(), details.recipient.as_deref(), Some(&details.note)];
                assert!(!words.iter().flatten().any(|word| word.chars().any(char::is_control)), "{details:?}");
            }
            Event::Authenticated { user } => assert!(!user.chars().any(char::is_control), "{user:?}"),
            Event::Message(_) | Event::Ended { .. } => {}
        }
    }
}

fn asked(what: Asked, command: &Command) -> Link {
    one_line(|out| command.encode(out));
    Link::Asked(what)
}

fn one_line(write: impl FnOnce(&mut BytesMut)) {
    let mut out = BytesMut::new();
    write(&mut out);
    let line = out.strip_suffix(b"\r\n").expect("a whole line");
    assert!(!line.iter().any(|byte| *byte < b' ' || *byte == 0x7f), "\"{}\"", line.escape_ascii());
}
