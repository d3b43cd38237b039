//! Replies, ours and the backend's (RFC 5321 4.2, enhanced codes by RFC 2034 and 3463).
//!
//! A [`Reply`] is always fit to be sent: one code on all lines, text of printable ASCII, lines of at most
//! [`MAX_TEXT`] bytes. The backend's replies are read strictly and within bounds; a reply that breaks them ends the
//! backend's connection, because what follows it can't be told from other replies any more.

use std::borrow::Cow;
use std::fmt;

use bytes::{BufMut, BytesMut};
use memchr::memchr;

/// Bytes of the text of one line: 512 of RFC 5321 4.5.3.1.5 less code, enhanced code and CRLF.
pub const MAX_TEXT: usize = 480;
/// Lines of a reply of the backend.
pub const MAX_LINES: usize = 128;
/// Bytes of a reply of the backend.
pub const MAX_REPLY: usize = 64 * 1024;

/// A reply code, 200 to 599.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Code(u16);

impl Code {
    /// The number.
    pub const fn get(self) -> u16 {
        self.0
    }

    /// Its first digit: 2 done, 3 go on, 4 not now, 5 not at all.
    pub const fn class(self) -> u16 {
        self.0 / 100
    }
}

/// An enhanced status code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Enhanced(u8, u16, u16);

impl Enhanced {
    /// Class, subject and detail.
    pub const fn parts(self) -> (u8, u16, u16) {
        (self.0, self.1, self.2)
    }
}

impl fmt::Display for Enhanced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

/// A reply of one line or more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    code: Code,
    enhanced: Option<Enhanced>,
    first: Cow<'static, str>,
    more: Vec<Cow<'static, str>>,
}

impl Reply {
    /// A reply of one line. What isn't printable ASCII in `text` becomes `?`, and it is cut at [`MAX_TEXT`] bytes.
    /// `code` is one of the program's own; outside 200 to 599 it becomes 451.
    pub fn new(code: u16, enhanced: Option<(u8, u16, u16)>, text: impl Into<Cow<'static, str>>) -> Self {
        let code = Code(if (200..600).contains(&code) { code } else { 451 });
        let enhanced = enhanced.map(|(class, subject, detail)| Enhanced(class, subject, detail));
        Self { code, enhanced, first: clean(text.into()), more: Vec::new() }
    }

    /// The reply with one line more.
    #[must_use]
    pub fn and(mut self, text: impl Into<Cow<'static, str>>) -> Self {
        self.more.push(clean(text.into()));
        self
    }

    /// The code of all its lines.
    pub fn code(&self) -> Code {
        self.code
    }

    /// The enhanced code of its lines, if they have one.
    pub fn enhanced(&self) -> Option<Enhanced> {
        self.enhanced
    }

    /// The texts of its lines, without codes. There is at least one.
    pub fn lines(&self) -> impl Iterator<Item = &str> {
        std::iter::once(&self.first).chain(&self.more).map(AsRef::as_ref)
    }

    /// The text of the last line.
    pub fn last_line(&self) -> &str {
        self.more.last().unwrap_or(&self.first)
    }

    /// Whether it says that what was asked is done.
    pub fn is_positive(&self) -> bool {
        self.code.class() == 2
    }

    /// Appends the reply as it goes over the wire.
    pub fn encode(&self, out: &mut BytesMut) {
        let last = self.more.len();
        for (index, text) in self.lines().enumerate() {
            let separator = if index == last { ' ' } else { '-' };
            let code = self.code.get();
            // Writing to a buffer that grows can't fail.
            let _ = match self.enhanced {
                Some(enhanced) => fmt::write(&mut Out(out), format_args!("{code}{separator}{enhanced} {text}\r\n")),
                None => fmt::write(&mut Out(out), format_args!("{code}{separator}{text}\r\n")),
            };
        }
    }
}

struct Out<'a>(&'a mut BytesMut);

impl fmt::Write for Out<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.put_slice(text.as_bytes());
        Ok(())
    }
}

/// For logs: all in one line.
impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.code.0)?;
        if let Some(enhanced) = self.enhanced {
            write!(f, " {enhanced}")?;
        }
        for (index, text) in self.lines().enumerate() {
            write!(f, "{}{text}", if index == 0 { " " } else { " / " })?;
        }
        Ok(())
    }
}

fn clean(text: Cow<'static, str>) -> Cow<'static, str> {
    let is_clean = |byte| matches!(byte, b' '..=b'~');
    if text.len() <= MAX_TEXT && text.bytes().all(is_clean) {
        return text;
    }
    // Byte by byte: a character that isn't ASCII becomes as many `?` as it has bytes, so lengths don't change.
    let bytes = text.bytes().take(MAX_TEXT);
    Cow::Owned(bytes.map(|byte| if is_clean(byte) { char::from(byte) } else { '?' }).collect())
}

/// Why the backend's bytes aren't a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReplyError {
    #[error("a line of the reply doesn't end in CRLF")]
    LineEnd,
    #[error("a line of the reply has no code from 200 to 599")]
    Code,
    #[error("the lines of the reply have different codes")]
    Mixed,
    #[error("the reply has more than {MAX_LINES} lines")]
    TooManyLines,
    #[error("the reply has more than {MAX_REPLY} bytes")]
    TooLong,
}

/// Reads the backend's replies.
#[derive(Debug, Default)]
pub struct ReplyDecoder {
    partial: Option<Reply>,
    bytes: usize,
}

impl ReplyDecoder {
    /// A decoder at the start of a reply.
    pub fn new() -> Self {
        Self::default()
    }

    /// The next reply in `buf`, or `None` where more bytes are needed. After an error nothing more can be read.
    pub fn next(&mut self, buf: &mut BytesMut) -> Option<Result<Reply, ReplyError>> {
        loop {
            let Some(lf) = memchr(b'\n', buf) else {
                return (self.bytes + buf.len() > MAX_REPLY).then_some(Err(ReplyError::TooLong));
            };
            let line = buf.split_to(lf + 1);
            self.bytes += line.len();
            match self.take(&line) {
                Ok(None) => {}
                Ok(Some(reply)) => return Some(Ok(reply)),
                Err(error) => return Some(Err(error)),
            }
        }
    }

    fn take(&mut self, line: &[u8]) -> Result<Option<Reply>, ReplyError> {
        if self.bytes > MAX_REPLY {
            return Err(ReplyError::TooLong);
        }
        let line = line.strip_suffix(b"\r\n").ok_or(ReplyError::LineEnd)?;
        let (code, is_last, text) = split(line).ok_or(ReplyError::Code)?;
        let (enhanced, text) = enhanced(code, text);
        let text = String::from_utf8_lossy(text).into_owned();
        let reply = match self.partial.take() {
            None => Reply { enhanced, ..Reply::new(code, None, text) },
            Some(partial) if partial.code.get() != code => return Err(ReplyError::Mixed),
            Some(partial) if partial.more.len() + 1 >= MAX_LINES => return Err(ReplyError::TooManyLines),
            Some(partial) => Reply { enhanced: enhanced.or(partial.enhanced), ..partial.and(text) },
        };
        if is_last {
            self.bytes = 0;
            return Ok(Some(reply));
        }
        self.partial = Some(reply);
        Ok(None)
    }
}

/// Code, whether the line is the last one, and text.
fn split(line: &[u8]) -> Option<(u16, bool, &[u8])> {
    let (digits, rest) = line.split_at_checked(3)?;
    let code = std::str::from_utf8(digits).ok()?.parse().ok().filter(|code| (200..600).contains(code))?;
    match rest {
        [] => Some((code, true, rest)),
        [b' ', text @ ..] => Some((code, true, text)),
        [b'-', text @ ..] => Some((code, false, text)),
        _ => None,
    }
}

/// Takes the enhanced code off `text`, if it has one that fits `code`.
fn enhanced(code: u16, text: &[u8]) -> (Option<Enhanced>, &[u8]) {
    let end = memchr(b' ', text).unwrap_or(text.len());
    let mut parts = text[..end].split(|byte| *byte == b'.').map(number);
    let (Some(Some(class)), Some(Some(subject)), Some(Some(detail)), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return (None, text);
    };
    if class != code / 100 || !matches!(class, 2 | 4 | 5) {
        return (None, text);
    }
    (Some(Enhanced(class as u8, subject, detail)), text.get(end + 1..).unwrap_or_default())
}

/// One to three digits.
fn number(digits: &[u8]) -> Option<u16> {
    if !(1..=3).contains(&digits.len()) || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decode(data: &[u8], piece: usize) -> Vec<Result<Reply, ReplyError>> {
        let (mut decoder, mut buf, mut replies) = (ReplyDecoder::new(), BytesMut::new(), Vec::new());
        for piece in data.chunks(piece.max(1)) {
            buf.extend_from_slice(piece);
            while let Some(reply) = decoder.next(&mut buf) {
                let failed = reply.is_err();
                replies.push(reply);
                if failed {
                    return replies;
                }
            }
            assert!(buf.len() <= MAX_REPLY, "not bounded");
        }
        replies
    }

    fn check(data: &[u8], expected: &[Result<&str, ReplyError>]) {
        for piece in [1, 2, 5, data.len()] {
            let found: Vec<_> =
                decode(data, piece).into_iter().map(|reply| reply.map(|reply| reply.to_string())).collect();
            let expected: Vec<_> = expected.iter().map(|reply| reply.map(str::to_owned)).collect();
            assert_eq!(found, expected, "{:?} by {piece}", data.escape_ascii().to_string());
        }
    }

    #[test]
    fn replies_of_backends() {
        check(b"250 Ok\r\n", &[Ok("250 Ok")]);
        check(b"250\r\n", &[Ok("250 ")]);
        check(b"250-a\r\n250-b\r\n250 c\r\n221 Bye\r\n", &[Ok("250 a / b / c"), Ok("221 Bye")]);
        check(b"550-5.1.1 no\r\n550 5.1.1 user\r\n", &[Ok("550 5.1.1 no / user")]);
        check(b"550 5.1.1\r\n", &[Ok("550 5.1.1 ")]);
        check(b"550 4.1.1 mixed classes\r\n", &[Ok("550 4.1.1 mixed classes")]);
        check(b"354 5.1.1 is text\r\n", &[Ok("354 5.1.1 is text")]);
        check(b"250 x\x1b[2J\xff\r\n", &[Ok("250 x?[2J???")]);
        check(b"250 Ok\n", &[Err(ReplyError::LineEnd)]);
        check(b"hello\r\n", &[Err(ReplyError::Code)]);
        check(b"199 x\r\n", &[Err(ReplyError::Code)]);
        check(b"2500 x\r\n", &[Err(ReplyError::Code)]);
        check(b"+50 x\r\n", &[Err(ReplyError::Code)]);
        check(b"250-a\r\n550 b\r\n", &[Err(ReplyError::Mixed)]);
        check(&b"250-x\r\n".repeat(MAX_LINES + 1), &[Err(ReplyError::TooManyLines)]);
        check(&[b"250 ".as_slice(), &[b'x'; MAX_REPLY]].concat(), &[Err(ReplyError::TooLong)]);
    }

    #[test]
    fn nothing_but_one_clean_reply_gets_out() {
        let mut out = BytesMut::new();
        Reply::new(550, Some((5, 1, 1)), "a\r\n250 Ok\0\u{e9}").and("x".repeat(1000)).encode(&mut out);
        let text = String::from_utf8(out.to_vec()).unwrap();
        assert_eq!(text, format!("550-5.1.1 a??250 Ok???\r\n550 5.1.1 {}\r\n", "x".repeat(MAX_TEXT)));
        assert!(text.lines().all(|line| line.len() <= 510));
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn what_is_encoded_is_decoded(
            code in 200u16..600, subject in 0u16..1000, detail in 0u16..1000, with in any::<bool>(),
            texts in prop::collection::vec("[ -~]{0,40}", 1..5), piece in 1usize..9,
        ) {
            let class = (code / 100) as u8;
            let enhanced = (with && class != 3).then_some((class, subject, detail));
            let mut texts = texts.into_iter();
            let mut reply = Reply::new(code, enhanced, texts.next().unwrap_or_default());
            for text in texts {
                reply = reply.and(text);
            }
            // A text that begins like an enhanced code is read as one.
            prop_assume!(enhanced.is_some() || reply.lines().all(|text| super::enhanced(code, text.as_bytes()).0.is_none()));
            let mut out = BytesMut::new();
            reply.encode(&mut out);
            prop_assert_eq!(decode(&out, piece), vec![Ok(reply)]);
        }

        #[test]
        fn any_bytes_are_survived(data in prop::collection::vec(any::<u8>(), 0..300), piece in 1usize..50) {
            decode(&data, piece);
        }
    }
}
