//! Models of backends, written for these tests: how each finds the end of message data, and what it takes for the
//! message. Lax ones above all: what the guard sends must have one reading for all of them.
//!
//! [`send`] is the guard's part, its decoder and encoder; [`check`] holds what came out against every model.

use bytes::BytesMut;
use smtp_guard_core::wire::command::Bdat;
use smtp_guard_core::wire::data::{BodyDecoder, BodyEncoder, BodyFlaw, Chunk, ChunkDecoder, CleanBody, Piece};

mod bytewise;
mod linewise;

/// A backend's reading of the bytes after its 354.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Read {
    /// Without dot-stuffing, lines ending in CRLF.
    pub(crate) message: Vec<u8>,
    /// Where it goes on to read commands.
    pub(crate) end: usize,
}

/// A model.
pub(crate) struct Reader {
    pub(crate) name: &'static str,
    /// `None`: it waits for more, or has closed the connection.
    pub(crate) read: fn(&[u8]) -> Option<Read>,
}

/// All of them.
pub(crate) const READERS: [Reader; 13] = [
    Reader { name: "strict", read: linewise::strict },
    Reader { name: "postfix before 3.9", read: linewise::postfix_old },
    Reader { name: "postfix", read: linewise::postfix_normalize },
    Reader { name: "postfix forbidding bare LF", read: linewise::postfix_reject },
    Reader { name: "opensmtpd", read: linewise::opensmtpd },
    Reader { name: "haraka", read: linewise::haraka },
    Reader { name: "aiosmtpd", read: linewise::aiosmtpd },
    Reader { name: "go-smtp", read: linewise::go_smtp },
    Reader { name: "exim to 4.97", read: bytewise::exim },
    Reader { name: "smtp-proto", read: bytewise::smtp_proto },
    Reader { name: "drops bare CR and NUL", read: bytewise::drops },
    Reader { name: "bare CR to CRLF", read: bytewise::mends },
    Reader { name: "laxest", read: bytewise::laxest },
];

/// What goes before every message, as in a session: some backends miss a dot in the very first line.
const HEADER: &str = "Received: x\r\n";

/// The guard's reading of a client's bytes after our 354.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Sent {
    /// The bytes to the backend, with our header; without an end where there is none, or a flawed one.
    pub(crate) wire: Vec<u8>,
    /// The decoded message as far as it came out, with our header.
    pub(crate) message: Vec<u8>,
    /// `None`: not seen. `Some(None)`: without a flaw.
    pub(crate) end: Option<Option<BodyFlaw>>,
    pub(crate) size: u64,
    /// Bytes of the client that are left: commands.
    pub(crate) rest: Vec<u8>,
}

/// Sends `pieces` through decoder and encoder, as they arrive.
pub(crate) fn send<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Sent {
    through(BodyDecoder::new(), pieces, Some(CleanBody::header(HEADER).unwrap()))
}

/// Sends from a client whose bare LF is repaired.
pub(crate) fn send_repaired<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Sent {
    through(BodyDecoder::for_client(true), pieces, Some(CleanBody::header(HEADER).unwrap()))
}

/// Sends a message in `chunks`, whose bytes arrive in pieces of `piece`. With `repairs`, a bare LF is repaired.
pub(crate) fn send_chunks(chunks: &[&[u8]], piece: usize, repairs: bool) -> Sent {
    let (mut decoder, mut encoder) = (ChunkDecoder::new(repairs), BodyEncoder::new());
    let (mut unread, mut wire, mut message) = (BytesMut::new(), BytesMut::new(), Vec::new());
    let header = CleanBody::header(HEADER).unwrap();
    message.extend_from_slice(&header);
    encoder.encode(&header, &mut wire);
    let (mut found, mut breaks) = (None, 0);
    for (index, chunk) in chunks.iter().enumerate() {
        decoder.begin(Bdat { size: chunk.len() as u64, last: index + 1 == chunks.len() });
        for piece in [&[][..]].into_iter().chain(chunk.chunks(piece.max(1))) {
            unread.extend_from_slice(piece);
            while let Some(piece) = decoder.next(&mut unread) {
                match piece {
                    Piece::Body(body) => {
                        message.extend_from_slice(&body);
                        encoder.encode(&body, &mut wire);
                    }
                    Piece::Break(_) => breaks += 1,
                    Piece::End(end) => assert!(found.replace(end).is_none(), "a second end"),
                }
            }
        }
        assert!(unread.is_empty(), "a chunk is read to its length");
        assert_eq!(breaks + usize::from(found.is_some()), index + 1, "a chunk has one end");
    }
    let found = found.expect("the last chunk's end");
    if found.flaw().is_none() && !message.ends_with(b"\r\n") {
        message.extend_from_slice(b"\r\n");
    }
    let (size, flaw) = (found.size(), found.flaw());
    assert_eq!(size, decoder.size());
    assert_eq!(encoder.finish(found, &mut wire).is_err(), flaw.is_some(), "a flawed message is never completed");
    Sent { wire: wire.to_vec(), message, end: Some(flaw), size, rest: Vec::new() }
}

/// Likewise what follows `header`, or a message that has it already.
fn through<'a>(
    mut decoder: BodyDecoder,
    pieces: impl IntoIterator<Item = &'a [u8]>,
    header: Option<CleanBody>,
) -> Sent {
    let mut encoder = BodyEncoder::new();
    let (mut unread, mut wire, mut message) = (BytesMut::new(), BytesMut::new(), Vec::new());
    if let Some(header) = header {
        message.extend_from_slice(&header);
        encoder.encode(&header, &mut wire);
    }
    let mut found = None;
    for piece in pieces {
        unread.extend_from_slice(piece);
        while let Some(chunk) = decoder.next(&mut unread) {
            match chunk {
                Chunk::Body(body) => {
                    message.extend_from_slice(&body);
                    encoder.encode(&body, &mut wire);
                }
                Chunk::End(end) => {
                    assert!(found.is_none(), "a second end");
                    found = Some(end);
                }
            }
        }
        assert!(found.is_some() || unread.len() <= 2, "{} bytes held back", unread.len());
    }
    let end = found.as_ref().map(|end| end.flaw());
    if let Some(found) = found {
        assert_eq!(found.size(), decoder.size());
        let (before, flawed) = (wire.len(), found.flaw().is_some());
        assert_eq!(encoder.finish(found, &mut wire).is_err(), flawed, "a flawed message is never completed");
        assert!(!flawed || wire.len() == before, "and nothing is appended");
    }
    Sent { wire: wire.to_vec(), message, end, size: decoder.size(), rest: unread.to_vec() }
}

impl Sent {
    /// Whether the message goes to the backend with its end.
    pub(crate) fn is_accepted(&self) -> bool {
        self.end == Some(None)
    }
}

/// An accepted message is one message to every model, the same, and ends with the last byte; of any other no model sees
/// an end. `client`: the bytes that it came from.
pub(crate) fn check(sent: &Sent, client: &[u8]) {
    let mut wire = sent.wire.clone();
    if sent.is_accepted() {
        // The next command must be read as one.
        wire.extend_from_slice(b"QUIT\r\n");
    }
    for Reader { name, read } in &READERS {
        let found = read(&wire);
        let right = match &found {
            Some(found) => sent.is_accepted() && found.end == sent.wire.len() && found.message == sent.message,
            None => !sent.is_accepted(),
        };
        assert!(right, "{name}: \"{}\" of the client \"{}\": {found:?}", wire.escape_ascii(), client.escape_ascii());
    }
    if sent.is_accepted() {
        let again = through(BodyDecoder::new(), [&sent.wire[..]], None);
        assert_eq!(
            (&again.message, again.end, again.rest.len()),
            (&sent.message, Some(None), 0),
            "decode(encode(x)) is x"
        );
        assert_eq!(again.wire, sent.wire, "and what is encoded again is the same");
    }
}
