//! Message data in chunks (BDAT, RFC 3030): as long as it was announced, whatever bytes it has.
//!
//! What comes out is the same as of DATA: lines that end in CRLF, and nothing that [`super::BodyEncoder`] couldn't write so that it has
//! one reading. A dot means nothing here, so none is taken away; the encoder puts one before it where that is needed. A bare
//! LF can't be an end, since the length says where that is; it is a flaw or comes out as CRLF. A bare CR and a NUL are flaws, also a
//! CR that ends the message. CR and LF may stand in two chunks.
//!
//! Bounds: nothing is copied or held here, but for whether a CR waits for what follows it.

use bytes::{Buf, BytesMut};

use super::{BodyEnd, BodyFlaw, CleanBody, Stop, clean_run};
use crate::wire::command::Bdat;

/// Decodes the chunks of one message.
#[derive(Debug)]
pub struct ChunkDecoder {
    /// Bytes of the chunk announced last that are still to come, and whether it ends the message.
    left: u64,
    last: bool,
    /// Its end was told.
    told: bool,
    /// A CR was read, and what follows isn't there yet.
    cr: bool,
    size: u64,
    flaw: Option<BodyFlaw>,
    repairs: bool,
}

/// A piece that [`ChunkDecoder::next`] found.
#[derive(Debug)]
pub enum Piece {
    Body(CleanBody),
    /// The end of a chunk that isn't the last one, with the first flaw so far.
    Break(Option<BodyFlaw>),
    /// The end of the last chunk.
    End(BodyEnd),
}

impl ChunkDecoder {
    /// A decoder before the first chunk of a message. With `repairs`, a bare LF comes out as CRLF; else it is a flaw.
    pub fn new(repairs: bool) -> Self {
        Self { left: 0, last: false, told: true, cr: false, size: 0, flaw: None, repairs }
    }

    /// The next chunk follows.
    pub fn begin(&mut self, chunk: Bdat) {
        (self.left, self.last, self.told) = (chunk.size, chunk.last, false);
    }

    /// Decoded bytes so far, those of a flawed message included.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The next piece of `buf`, or `None` where more bytes are needed. Behind the end of the chunk it is always `None`, and what
    /// follows stays in `buf`.
    pub fn next(&mut self, buf: &mut BytesMut) -> Option<Piece> {
        while !self.told {
            if self.left == 0 {
                return Some(self.tell());
            }
            let first = *buf.first()?;
            if std::mem::take(&mut self.cr) {
                if first == b'\n' {
                    self.skip(buf);
                    self.size += 2;
                    if self.flaw.is_none() {
                        return Some(Piece::Body(CleanBody::empty_line()));
                    }
                    continue;
                }
                self.spoil(BodyFlaw::BareCr);
            }
            let within = usize::try_from(self.left).map_or(buf.len(), |left| left.min(buf.len()));
            let (length, stop) = clean_run(&buf[..within], self.flaw.is_some());
            if length > 0 {
                let body = buf.split_to(length).freeze();
                self.left -= length as u64;
                self.size += length as u64;
                if self.flaw.is_none() {
                    return Some(Piece::Body(CleanBody(body)));
                }
                continue;
            }
            self.skip(buf);
            match stop {
                Stop::Flaw(BodyFlaw::BareLf) if self.repairs => {
                    self.size += 2;
                    if self.flaw.is_none() {
                        return Some(Piece::Body(CleanBody::empty_line()));
                    }
                }
                Stop::Flaw(flaw) => self.spoil(flaw),
                // Nothing but a CR is undecided, and it may be the last byte of the chunk.
                Stop::Undecided | Stop::LineStart => self.cr = true,
            }
        }
        None
    }

    fn tell(&mut self) -> Piece {
        self.told = true;
        if !self.last {
            return Piece::Break(self.flaw);
        }
        if std::mem::take(&mut self.cr) {
            self.spoil(BodyFlaw::BareCr);
        }
        Piece::End(BodyEnd { size: self.size, flaw: self.flaw })
    }

    /// Takes a byte that doesn't come out as it is.
    fn skip(&mut self, buf: &mut BytesMut) {
        buf.advance(1);
        self.left -= 1;
    }

    /// Takes note of a byte that never comes out.
    fn spoil(&mut self, flaw: BodyFlaw) {
        self.flaw = self.flaw.or(Some(flaw));
        self.size += 1;
    }
}

#[cfg(test)]
mod tests;
