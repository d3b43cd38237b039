//! The intake of the client's bytes: what a session wants next decides how they are read.

use bytes::BytesMut;

use super::{Input, Session, Wants};
use crate::wire::command;
use crate::wire::data::{BodyDecoder, Chunk};
use crate::wire::line::{Line, LineDecoder};
use crate::wire::sasl::Secret;

/// The bytes that a client has sent and the session hasn't taken yet.
#[derive(Debug, Default)]
pub struct Intake {
    pub lines: LineDecoder,
    body: Option<BodyDecoder>,
    pub unread: BytesMut,
}

impl Intake {
    /// The next input that the bytes so far make, if `session` wants one. The session is stepped by it before the next is asked for.
    pub fn next(&mut self, session: &Session) -> Option<Input> {
        match session.wants() {
            Wants::Turn => Some(Input::Turn),
            Wants::Command | Wants::Ahead => {
                self.body = None;
                let command = match self.lines.next(&mut self.unread)? {
                    Line::Text(line) => command::parse(&line),
                    Line::Flawed(flaw) => Err(flaw.into()),
                };
                Some(Input::Command { command, more: !self.unread.is_empty() })
            }
            Wants::Response => Some(Input::Response(match self.lines.next_response(&mut self.unread)? {
                Line::Text(line) => Ok(Secret::new(&line)),
                Line::Flawed(flaw) => Err(flaw),
            })),
            Wants::Body => {
                let repairs = session.repairs_newlines();
                let decoder = self.body.get_or_insert_with(|| BodyDecoder::for_client(repairs));
                let before = decoder.size();
                match decoder.next(&mut self.unread) {
                    Some(Chunk::Body(body)) => Some(Input::Body(body)),
                    Some(Chunk::End(end)) => Some(Input::BodyEnd(end)),
                    // Data of a flawed message: nothing comes out, but it counts.
                    None => (decoder.size() > before).then(|| Input::Swallowed(decoder.size())),
                }
            }
            Wants::Silence => (!self.unread.is_empty()).then_some(Input::EarlyTalk),
            Wants::Nothing | Wants::Closed => None,
        }
    }
}
