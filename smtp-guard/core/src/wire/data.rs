//! Message data: the only end-of-data detector, and the only encoder (RFC 5321 4.1.1.4, 4.5.2). Data in chunks:
//! [`chunk`].
//!
//! Only `CRLF . CRLF` ends the data, or `. CRLF` at its very start. A bare CR, a bare LF or a NUL never ends anything and
//! never gets through: it is a *flaw*. A flawed message is read to its true end, since the bytes behind a false end would
//! be taken for commands. No byte of it comes out any more, and its [`BodyEnd`] can't be encoded. The backend may be the
//! laxest parser there is: what the encoder writes has only one reading.
//!
//! For clients of our own a bare LF may be repaired instead ([`BodyDecoder::for_client`]): it comes out as CRLF. For the
//! decoder it still ends nothing and begins no line. So a dot behind it is text, and the encoder puts a second dot before
//! it. What goes out has one reading, and it ends at the client's `CRLF . CRLF`.
//!
//! Bounds: nothing is copied or held here. A chunk is a slice of the caller's buffer. At most two bytes (a CR, or a dot and a
//! CR) are left in the buffer until the next byte decides about them.

use std::fmt;
use std::ops::Deref;
use std::sync::LazyLock;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use memchr::memchr3;
use memchr::memmem::Finder;

mod chunk;

pub use chunk::{ChunkDecoder, Piece};

/// Decodes message data.
#[derive(Debug)]
pub struct BodyDecoder {
    at: Place,
    size: u64,
    flaw: Option<BodyFlaw>,
    /// A bare LF is no flaw.
    repairs: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// The next byte is the first of a line: the only place where a dot has a meaning.
    LineStart,
    InLine,
    /// At a bare LF that comes out as CRLF.
    BareLf,
    /// The end was seen. What follows is none of the decoder's business.
    Ended,
}

/// A chunk that [`BodyDecoder::next`] found.
#[derive(Debug)]
pub enum Chunk {
    Body(CleanBody),
    End(BodyEnd),
}

/// Decoded message data. Lines end in CRLF, CR and LF occur nowhere else, no NUL, no CR is parted from its LF.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CleanBody(Bytes);

/// Proof that the client's end of data was seen. There is one for each message, and it is used up by encoding it.
#[derive(Debug, PartialEq, Eq)]
pub struct BodyEnd {
    size: u64,
    flaw: Option<BodyFlaw>,
}

/// A flaw that message data must not contain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyFlaw {
    BareCr,
    BareLf,
    Nul,
}

impl Default for BodyDecoder {
    fn default() -> Self {
        Self::new()
    }
}

impl BodyDecoder {
    /// A decoder for the bytes that follow our 354. A bare LF is a flaw.
    pub fn new() -> Self {
        Self::for_client(false)
    }

    /// A decoder for clients; with `repairs`, a bare LF comes out as CRLF.
    pub fn for_client(repairs: bool) -> Self {
        Self { at: Place::LineStart, size: 0, flaw: None, repairs }
    }

    /// Decoded bytes so far, those of a flawed message included.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The next chunk of `buf`, or `None` where more bytes are needed. After the end it is always `None`, and what follows
    /// stays in `buf`.
    pub fn next(&mut self, buf: &mut BytesMut) -> Option<Chunk> {
        loop {
            if self.at == Place::Ended {
                return None;
            }
            if self.at == Place::LineStart {
                match first_of_line(buf) {
                    Start::Undecided => return None,
                    Start::End => {
                        buf.advance(3);
                        self.at = Place::Ended;
                        return Some(Chunk::End(BodyEnd { size: self.size, flaw: self.flaw }));
                    }
                    Start::Stuffed => buf.advance(1),
                    Start::Plain => {}
                }
                self.at = Place::InLine;
            }
            if self.at == Place::BareLf {
                buf.advance(1);
                self.size += 2;
                self.at = Place::InLine;
                if self.flaw.is_none() {
                    return Some(Chunk::Body(CleanBody::empty_line()));
                }
            }
            let (length, stop) = clean_run(buf, self.flaw.is_some());
            let body = buf.split_to(length).freeze();
            self.size += length as u64;
            match stop {
                Stop::LineStart => self.at = Place::LineStart,
                Stop::Undecided if length == 0 => return None,
                Stop::Undecided => {}
                Stop::Flaw(BodyFlaw::BareLf) if self.repairs => self.at = Place::BareLf,
                Stop::Flaw(flaw) => {
                    self.flaw = self.flaw.or(Some(flaw));
                    buf.advance(1);
                    self.size += 1;
                }
            }
            if self.flaw.is_none() && length > 0 {
                return Some(Chunk::Body(CleanBody(body)));
            }
        }
    }
}

enum Start {
    Undecided,
    End,
    /// A dot that was put before a line that begins with one.
    Stuffed,
    Plain,
}

fn first_of_line(data: &[u8]) -> Start {
    match data {
        [] | [b'.'] | [b'.', b'\r'] => Start::Undecided,
        [b'.', b'\r', b'\n', ..] => Start::End,
        [b'.', ..] => Start::Stuffed,
        _ => Start::Plain,
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Stop {
    /// The run ends in CRLF, and the next line begins with a dot or isn't there yet.
    LineStart,
    /// More bytes are needed.
    Undecided,
    Flaw(BodyFlaw),
}

/// Bytes that are looked at together, and how many at first: each of a compiler's instructions compares 16 of them.
const BLOCK: usize = 1024;
const FIRST_BLOCK: usize = 128;

/// Length of the longest run from the start of `data` that can go out as it is, and what stands behind it. `data` doesn't begin
/// between a CR and its LF.
///
/// `flawed`: more flaws are likely, and a look at a block for each of them is too much.
fn clean_run(data: &[u8], flawed: bool) -> (usize, Stop) {
    let (mut at, mut before) = (0, b' ');
    let (first, others) = data.split_at(if flawed { 0 } else { FIRST_BLOCK.min(data.len()) });
    for block in std::iter::once(first).chain(others.chunks(BLOCK)).take_while(|block| !block.is_empty()) {
        if !goes_on(before, block) {
            break;
        }
        at += block.len();
        before = block.last().copied().unwrap_or(before);
    }
    // What stands before the block may decide with it: a CR, or the end of a line.
    at -= match before {
        b'\r' => 1,
        b'\n' => 2,
        _ => 0,
    };
    let (length, stop) = run_byte_by_byte(&data[at..]);
    (at + length, stop)
}

/// Whether nothing in `block` stops a run: each CR has its LF and each LF its CR, no line begins with a dot, and there is no NUL. A
/// CR at its end is the next block's. `before`: the byte before it.
fn goes_on(before: u8, block: &[u8]) -> bool {
    let stops = |before: u8, byte: u8| {
        (u8::from(before == b'\r') ^ u8::from(byte == b'\n'))
            | (u8::from(before == b'\n') & u8::from(byte == b'.'))
            | u8::from(byte == 0)
    };
    let Some((first, rest)) = block.split_first() else { return true };
    // Nothing leaves the loop early, so that many bytes are compared at once.
    let stopped = block.iter().zip(rest).fold(0, |stopped, (before, byte)| stopped | stops(*before, *byte));
    stops(before, *first) | stopped == 0
}

fn run_byte_by_byte(data: &[u8]) -> (usize, Stop) {
    let mut at = 0;
    while let Some(offset) = memchr3(b'\r', b'\n', 0, &data[at..]) {
        let found = at + offset;
        match (data[found], data.get(found + 1)) {
            (b'\r', Some(b'\n')) => at = found + 2,
            (b'\r', None) => return (found, Stop::Undecided),
            (b'\r', Some(_)) => return (found, Stop::Flaw(BodyFlaw::BareCr)),
            (b'\n', _) => return (found, Stop::Flaw(BodyFlaw::BareLf)),
            _ => return (found, Stop::Flaw(BodyFlaw::Nul)),
        }
        if matches!(data.get(at), None | Some(b'.')) {
            return (at, Stop::LineStart);
        }
    }
    (data.len(), Stop::Undecided)
}

impl BodyEnd {
    /// Decoded bytes of the message.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The first flaw, if there was one.
    pub fn flaw(&self) -> Option<BodyFlaw> {
        self.flaw
    }
}

/// A header that can't be made: see [`CleanBody::header`].
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a header must be `name:` and lines of printable ASCII that end in CRLF, of at most 998 bytes, folded ones after white space"
)]
pub struct HeaderError;

impl CleanBody {
    /// An empty line: the end of the headers.
    pub fn empty_line() -> Self {
        Self(Bytes::from_static(b"\r\n"))
    }

    /// Our own header field, with its folding and its final CRLF.
    pub fn header(text: &str) -> Result<Self, HeaderError> {
        let lines = text.strip_suffix("\r\n").ok_or(HeaderError)?;
        for (index, line) in lines.split("\r\n").enumerate() {
            let folded = line.starts_with([' ', '\t']);
            let printable = line.bytes().all(|byte| matches!(byte, b' '..=b'~' | b'\t'));
            let named = index > 0 || has_field_name(line);
            if !printable || !named || line.len() > 998 || line.trim().is_empty() || folded == (index == 0) {
                return Err(HeaderError);
            }
        }
        Ok(Self(Bytes::copy_from_slice(text.as_bytes())))
    }
}

/// RFC 5322 3.6.8: printable ASCII without spaces, up to the colon. Anything else would be read as the end of the headers.
fn has_field_name(line: &str) -> bool {
    let name = line.split_once(':').map_or("", |(name, _)| name);
    !name.is_empty() && name.bytes().all(|byte| matches!(byte, b'!'..=b'~'))
}

impl Deref for CleanBody {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for BodyFlaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::BareCr => "bare CR",
            Self::BareLf => "bare LF",
            Self::Nul => "NUL",
        })
    }
}

/// The end of a line, and a dot at the start of the next.
static DOT_LINE: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"\r\n."));

/// Encodes message data for the backend.
#[derive(Debug)]
pub struct BodyEncoder {
    line_start: bool,
}

impl Default for BodyEncoder {
    fn default() -> Self {
        Self::new()
    }
}

impl BodyEncoder {
    /// An encoder for one message.
    pub fn new() -> Self {
        Self { line_start: true }
    }

    /// Appends `body` to `out`, with a second dot before each dot at the start of a line.
    pub fn encode(&mut self, body: &CleanBody, out: &mut BytesMut) {
        let body: &[u8] = body;
        out.reserve(body.len());
        if self.line_start && body.starts_with(b".") {
            out.put_u8(b'.');
        }
        let mut copied = 0;
        for line_end in DOT_LINE.find_iter(body) {
            let dot = line_end + 2;
            out.put_slice(&body[copied..dot]);
            out.put_u8(b'.');
            copied = dot;
        }
        out.put_slice(&body[copied..]);
        if !body.is_empty() {
            self.line_start = body.ends_with(b"\r\n");
        }
    }

    /// Appends the end of data. A flawed end is refused, and nothing is appended: the message must not be completed.
    pub fn finish(self, end: BodyEnd, out: &mut BytesMut) -> Result<(), BodyEnd> {
        if end.flaw.is_some() {
            return Err(end);
        }
        // The decoder sees an end only at the start of a line; this holds whoever calls.
        if !self.line_start {
            out.put_slice(b"\r\n");
        }
        out.put_slice(b".\r\n");
        Ok(())
    }
}

#[cfg(test)]
mod tests;
