//! The intake of the client's bytes: what a session wants next decides how they are read.

use bytes::BytesMut;

use super::{Input, Session, Wants};
use crate::wire::command::{self, Command};
use crate::wire::data::{BodyDecoder, Chunk, ChunkDecoder, Piece};
use crate::wire::line::{Line, LineDecoder};
use crate::wire::sasl::Secret;

/// The bytes that a client has sent and the session hasn't taken yet.
#[derive(Debug, Default)]
pub struct Intake {
    pub lines: LineDecoder,
    body: Option<Decoder>,
    pub unread: BytesMut,
}

#[derive(Debug)]
enum Decoder {
    Data(BodyDecoder),
    Chunks(ChunkDecoder),
}

impl Decoder {
    fn size(&self) -> u64 {
        match self {
            Self::Data(decoder) => decoder.size(),
            Self::Chunks(decoder) => decoder.size(),
        }
    }

    fn next(&mut self, unread: &mut BytesMut) -> Option<Input> {
        Some(match self {
            Self::Data(decoder) => match decoder.next(unread)? {
                Chunk::Body(body) => Input::Body(body),
                Chunk::End(end) => Input::BodyEnd(end),
            },
            Self::Chunks(decoder) => match decoder.next(unread)? {
                Piece::Body(body) => Input::Body(body),
                Piece::Break(flaw) => Input::ChunkEnd(flaw),
                Piece::End(end) => Input::BodyEnd(end),
            },
        })
    }
}

impl Intake {
    /// The next input that the bytes so far make, if `session` wants one. The session is stepped by it before the next is asked for.
    pub fn next(&mut self, session: &Session) -> Option<Input> {
        match session.wants() {
            Wants::Turn => Some(Input::Turn),
            Wants::Command | Wants::Ahead => {
                if !session.is_in_chunks() {
                    self.body = None;
                }
                let command = self.lines.next(&mut self.unread, |line| match line {
                    Line::Text(line) => command::parse(line),
                    Line::Flawed(flaw) => Err(flaw.into()),
                })?;
                if let Ok(Command::Bdat(chunk)) = &command {
                    // Whatever the session makes of it: what follows is a chunk.
                    let fresh = || Decoder::Chunks(ChunkDecoder::new(session.repairs_chunks()));
                    if let Decoder::Chunks(decoder) = self.body.get_or_insert_with(fresh) {
                        decoder.begin(*chunk);
                    }
                }
                Some(Input::Command { command, more: !self.unread.is_empty() })
            }
            Wants::Response => {
                Some(Input::Response(self.lines.next_response(&mut self.unread, |line| match line {
                    Line::Text(line) => Ok(Secret::new(line)),
                    Line::Flawed(flaw) => Err(flaw),
                })?))
            }
            Wants::Body => {
                let repairs = session.repairs_newlines();
                let decoder = self.body.get_or_insert_with(|| Decoder::Data(BodyDecoder::for_client(repairs)));
                let before = decoder.size();
                // Data of a flawed message: nothing comes out, but it counts.
                decoder
                    .next(&mut self.unread)
                    .or_else(|| (decoder.size() > before).then(|| Input::Swallowed(decoder.size())))
            }
            Wants::Silence => (!self.unread.is_empty()).then_some(Input::EarlyTalk),
            Wants::Nothing | Wants::Closed => None,
        }
    }
}
