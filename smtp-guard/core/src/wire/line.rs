//! Command lines out of a stream (RFC 5321 2.3.8): bounded, and strict about line ends.
//!
//! A line ends in CRLF. A bare LF ends a flawed line at once, so that a client which sends nothing else hears its 500
//! instead of waiting for ever. It can't hide a command, since nothing of a flawed line is used.

use bytes::{Buf as _, BytesMut};
use memchr::memchr;

/// Bytes of a line with its CRLF: the 512 of RFC 5321 4.5.3.1.4 and room for the parameters of extensions.
pub const MAX_LINE: usize = 2048;

/// Bytes of a line that belongs to AUTH (RFC 4954 4.5).
pub const MAX_AUTH_LINE: usize = 12_288;

/// Splits a stream into lines.
#[derive(Debug, Default)]
pub struct LineDecoder {
    /// The line was too long: it is dropped as it comes in.
    dropping: bool,
    /// Whether it announces a chunk.
    chunk: bool,
}

/// A line of the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Line<'a> {
    /// Without its CRLF. No CR, LF or NUL in it.
    Text(&'a [u8]),
    Flawed(LineFlaw),
}

/// See [`LineDecoder::finish`]: only there it is made.
#[derive(Debug)]
pub struct NothingUnread(());

/// A flaw of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LineFlaw {
    TooLong,
    BareLf,
    BareCr,
    Nul,
    /// Any of these in a line that begins with BDAT: a chunk follows that must not be read as commands, and nobody knows how
    /// long it is.
    Chunk,
}

/// Whether the line at the start of `buf` announces a chunk (RFC 3030).
fn announces_chunk(buf: &[u8]) -> bool {
    let blank = buf.iter().take_while(|byte| matches!(byte, b' ' | b'\t')).count();
    let verb = &buf[blank..];
    verb.get(..4).is_some_and(|verb| verb.eq_ignore_ascii_case(b"BDAT"))
        && !verb.get(4).is_some_and(u8::is_ascii_alphanumeric)
}

impl LineDecoder {
    /// A decoder at the start of a line.
    pub fn new() -> Self {
        Self::default()
    }

    /// Gives the next command line of `buf` to `read`, and returns its answer; `None` where more bytes are needed. At most
    /// [`MAX_LINE`] bytes stay in `buf` then, or [`MAX_AUTH_LINE`] of an AUTH command.
    pub fn next<T>(&mut self, buf: &mut BytesMut, read: impl FnOnce(Line<'_>) -> T) -> Option<T> {
        let auth = buf.get(..5).is_some_and(|verb| verb.eq_ignore_ascii_case(b"AUTH "));
        let chunk = announces_chunk(buf);
        let (limit, announced) =
            (if auth { MAX_AUTH_LINE } else { MAX_LINE }, std::mem::take(&mut self.chunk) || chunk);
        let line = self.line(buf, limit, |line| {
            read(match line {
                Line::Flawed(_) if announced => Line::Flawed(LineFlaw::Chunk),
                line => line,
            })
        });
        self.chunk = line.is_none() && self.dropping && announced;
        line
    }

    /// The same of the next response within AUTH.
    pub fn next_response<T>(&mut self, buf: &mut BytesMut, read: impl FnOnce(Line<'_>) -> T) -> Option<T> {
        self.line(buf, MAX_AUTH_LINE, read)
    }

    /// Proof that nothing was sent ahead: what follows in clear text must never be taken for something that came over
    /// TLS (CVE-2011-0411). Consumes the decoder; there is none for the clear text any more.
    pub fn finish(self, buf: &BytesMut) -> Option<NothingUnread> {
        (buf.is_empty() && !self.dropping).then_some(NothingUnread(()))
    }

    fn line<T>(&mut self, buf: &mut BytesMut, limit: usize, read: impl FnOnce(Line<'_>) -> T) -> Option<T> {
        let Some(lf) = memchr(b'\n', buf) else {
            self.dropping |= buf.len() >= limit;
            if self.dropping {
                buf.clear();
            }
            return None;
        };
        let (line, dropped) = (&buf[..=lf], std::mem::take(&mut self.dropping));
        let read = read(if dropped || line.len() > limit { Line::Flawed(LineFlaw::TooLong) } else { judge(line) });
        buf.advance(lf + 1);
        Some(read)
    }
}

/// `line` without its end, or the flaw that it has.
fn judge(line: &[u8]) -> Line<'_> {
    let Some(text) = line.strip_suffix(b"\r\n") else {
        return Line::Flawed(LineFlaw::BareLf);
    };
    match memchr::memchr2(b'\r', 0, text) {
        None => Line::Text(text),
        Some(at) if text[at] == 0 => Line::Flawed(LineFlaw::Nul),
        Some(_) => Line::Flawed(LineFlaw::BareCr),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(data: &[u8], piece: usize) -> Vec<Result<String, LineFlaw>> {
        let (mut decoder, mut buf, mut lines) = (LineDecoder::new(), BytesMut::new(), Vec::new());
        for piece in data.chunks(piece.max(1)) {
            buf.extend_from_slice(piece);
            let text = |line: Line<'_>| match line {
                Line::Text(text) => Ok(String::from_utf8_lossy(text).into_owned()),
                Line::Flawed(flaw) => Err(flaw),
            };
            lines.extend(std::iter::from_fn(|| decoder.next(&mut buf, text)));
            assert!(buf.len() < MAX_LINE, "{} bytes held", buf.len());
        }
        lines
    }

    fn check(data: &[u8], expected: &[Result<&str, LineFlaw>]) {
        let expected: Vec<_> = expected.iter().map(|line| line.map(str::to_owned)).collect();
        for piece in [1, 2, 3, 7, data.len()] {
            assert_eq!(decode(data, piece), expected, "{:?} by {piece}", data.escape_ascii().to_string());
        }
    }

    #[test]
    fn lines_and_flaws_at_any_split() {
        check(b"EHLO x\r\nQUIT\r\n", &[Ok("EHLO x"), Ok("QUIT")]);
        check(b"\r\n", &[Ok("")]);
        check(b"NOOP\nNOOP\r\n", &[Err(LineFlaw::BareLf), Ok("NOOP")]);
        check(b"NO\rOP\r\nNOOP\r\n", &[Err(LineFlaw::BareCr), Ok("NOOP")]);
        check(b"NO\0OP\r\n", &[Err(LineFlaw::Nul)]);
        check(b"NOOP\r\r\n", &[Err(LineFlaw::BareCr)]);
        check(b"no end", &[]);
    }

    #[test]
    fn a_flawed_line_that_announces_a_chunk_is_told_apart() {
        let long = [b"BDAT ".as_slice(), &[b' '; MAX_LINE], b"5\r\n"].concat();
        for line in [&b"BDAT 5\n"[..], b" \tbdat\t5\rLAST\r\n", b"Bdat\0 5\r\n", b"BDAT\n", b"BDAT+5\n", &long] {
            check(line, &[Err(LineFlaw::Chunk)]);
            check(&[line, b"NOOP\n"].concat(), &[Err(LineFlaw::Chunk), Err(LineFlaw::BareLf)]);
        }
        check(b"BDAT 5\r\nBDATA\n", &[Ok("BDAT 5"), Err(LineFlaw::BareLf)]);
        check(b"\nBDAT 5\r\n", &[Err(LineFlaw::BareLf), Ok("BDAT 5")]);
    }

    #[test]
    fn a_response_may_be_long_and_is_given_as_it_is() {
        for (length, fits) in [(0, true), (MAX_LINE, true), (MAX_AUTH_LINE - 2, true), (MAX_AUTH_LINE - 1, false)] {
            let (mut decoder, mut buf) = (LineDecoder::new(), BytesMut::from(&vec![b'x'; length][..]));
            assert!(decoder.next_response(&mut buf, |_| ()).is_none(), "{length} without an end");
            buf.extend_from_slice(b"\r\nQUIT\r\n");
            let read = decoder.next_response(&mut buf, |line| match line {
                Line::Text(text) => Some(text.len()),
                Line::Flawed(_) => None,
            });
            assert_eq!(read, Some(fits.then_some(length)));
            assert_eq!(&buf[..], b"QUIT\r\n", "{length}");
        }
    }

    /// What came ahead of TLS, if only the rest of a line that is too long, must not be followed by it.
    #[test]
    fn there_is_a_proof_only_where_nothing_was_sent_ahead() {
        let long = vec![b'x'; MAX_LINE];
        for (data, proof) in [
            (&b""[..], true),
            (b"STARTTLS\r\n", true),
            (b"STARTTLS\r\nQ", false),
            (b"STARTTLS\r\nQUIT\r\n", false),
            (&long, false),
            (&[&long[..], b"\r\n"].concat(), true),
        ] {
            let (mut decoder, mut buf) = (LineDecoder::new(), BytesMut::from(data));
            decoder.next(&mut buf, |_| ());
            assert_eq!(decoder.finish(&buf).is_some(), proof, "{:?}", data.escape_ascii().to_string());
        }
    }

    #[test]
    fn a_line_that_is_too_long_is_dropped_once() {
        for (length, fits) in [(MAX_LINE - 2, true), (MAX_LINE - 1, false), (MAX_LINE, false), (100_000, false)] {
            let mut data = vec![b'x'; length];
            data.extend_from_slice(b"\r\nQUIT\r\n");
            for piece in [1000, 4096, data.len()] {
                let lines = decode(&data, piece);
                assert_eq!(lines.len(), 2, "{length} by {piece}");
                assert_eq!(lines[0].is_ok(), fits, "{length} by {piece}");
                assert_eq!(lines[1], Ok("QUIT".to_owned()));
            }
        }
    }
}
