//! Replies, ours and the backend's (RFC 5321 4.2, enhanced codes by RFC 2034 and 3463).
//!
//! A [`Reply`] is always fit to be sent: one code on all lines, text of printable ASCII, lines of at most [`MAX_TEXT`] bytes.
//! The backend's replies are read strictly and within bounds. A reply that breaks them ends the backend's connection: what
//! follows can't be told from other replies any more.

use std::borrow::Cow;
use std::fmt::{self, Write as _};

use bytes::{Buf as _, BufMut as _, BytesMut};
use memchr::memchr;

/// Bytes of the text of one line: 512 of RFC 5321 4.5.3.1.5 less code, enhanced code and CRLF.
pub const MAX_TEXT: usize = 480;
/// Lines of a reply of the backend.
pub const MAX_LINES: usize = 128;
/// Bytes of a reply of the backend.
pub const MAX_REPLY: usize = 64 * 1024;
/// Bytes around the text of a line: code, enhanced code and CRLF.
const AROUND: usize = 18;
/// Bytes of a reply as it is logged.
pub const MAX_SHOWN: usize = 512;

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

    fn digits(self) -> [u8; 3] {
        [self.0 / 100, self.0 / 10 % 10, self.0 % 10].map(|digit| b'0'.saturating_add(digit.try_into().unwrap_or(0)))
    }
}

/// An enhanced status code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Enhanced(u8, u16, u16);

impl Enhanced {
    /// RFC 2034 4: the class is the first digit of `code`, and there are none but 2, 4 and 5.
    fn of(code: Code, class: u8, subject: u16, detail: u16) -> Option<Self> {
        let fits = matches!(class, 2 | 4 | 5) && u16::from(class) == code.class() && subject < 1000 && detail < 1000;
        fits.then_some(Self(class, subject, detail))
    }

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
    /// Whether it is the backend's.
    passed_on: bool,
}

impl Reply {
    /// A reply of one line. What isn't printable ASCII in `text` becomes `?`, and it is cut at [`MAX_TEXT`] bytes.
    /// `code` is one of the program's own; outside 200 to 599 it becomes 451. An enhanced code that contradicts it (of
    /// another class, or with numbers of more than three digits) is left out.
    pub fn new(code: u16, enhanced: Option<(u8, u16, u16)>, text: impl Into<Cow<'static, str>>) -> Self {
        let code = Code(if (200..600).contains(&code) { code } else { 451 });
        let enhanced = enhanced.and_then(|(class, subject, detail)| Enhanced::of(code, class, subject, detail));
        Self { code, enhanced, first: clean(text.into()), more: Vec::new(), passed_on: false }
    }

    /// The reply with one line more.
    #[must_use]
    pub fn and(mut self, text: impl Into<Cow<'static, str>>) -> Self {
        self.more.push(clean(text.into()));
        self
    }

    /// The same as the backend's own, which is passed on and not ours to add to.
    #[must_use]
    pub fn passed_on(mut self) -> Self {
        self.passed_on = true;
        self
    }

    /// Whether it is ours, and not the backend's.
    pub fn is_ours(&self) -> bool {
        !self.passed_on
    }

    /// Appends `text` to the last line, or as a line of its own where that would become longer than [`MAX_TEXT`].
    pub fn append(&mut self, text: &str) {
        let last = self.more.last_mut().unwrap_or(&mut self.first);
        if last.len() + text.len() <= MAX_TEXT {
            *last = clean(Cow::Owned(format!("{last}{text}")));
        } else {
            self.more.push(clean(Cow::Owned(text.trim_start_matches([' ', ';']).to_owned())));
        }
    }

    /// The code of all its lines.
    pub fn code(&self) -> Code {
        self.code
    }

    /// The enhanced code of its lines, if they have one.
    pub fn enhanced(&self) -> Option<Enhanced> {
        self.enhanced
    }

    /// With an enhanced code in any case, where there can be one: we announce that our replies have them (RFC 2034), and
    /// not every backend's do. `X.0.0` says no more than the reply's code.
    #[must_use]
    pub fn with_enhanced(mut self) -> Self {
        self.enhanced = self.enhanced.or_else(|| Enhanced::of(self.code, self.code.class() as u8, 0, 0));
        self
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

    /// For logs: all in one line, of at most [`MAX_SHOWN`] bytes. One that was cut ends in `...`.
    pub fn shown(&self) -> String {
        const CUT: &str = "...";
        let mut shown = String::with_capacity(self.first.len() + AROUND);
        // Writing to a text can't fail.
        let _ = write!(shown, "{}", self.code.0);
        if let Some(enhanced) = self.enhanced {
            let _ = write!(shown, " {enhanced}");
        }
        for (index, text) in self.lines().enumerate() {
            shown.push_str(if index == 0 { " " } else { " / " });
            shown.push_str(text);
            if shown.len() > MAX_SHOWN {
                // All of it is ASCII.
                shown.truncate(MAX_SHOWN - CUT.len());
                shown.push_str(CUT);
                break;
            }
        }
        shown
    }

    /// Appends the reply as it goes over the wire.
    pub fn encode(&self, out: &mut BytesMut) {
        let last = self.more.len();
        for (index, text) in self.lines().enumerate() {
            out.reserve(text.len() + AROUND);
            out.put_slice(&self.code.digits());
            out.put_u8(if index == last { b' ' } else { b'-' });
            if let Some(enhanced) = self.enhanced {
                // Writing to a buffer that grows can't fail.
                let _ = write!(out, "{enhanced} ");
            }
            out.put_slice(text.as_bytes());
            out.put_slice(b"\r\n");
        }
    }
}

/// See [`Reply::shown`].
impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown())
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

/// The reason why the backend's bytes aren't a reply.
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
    partial: Option<Partial>,
    bytes: usize,
    /// Bytes of the caller's buffer that hold no line end: not looked at again when more come.
    scanned: usize,
    /// There was an error: what follows can't be told apart any more.
    failed: bool,
}

/// The lines of a reply that isn't whole yet.
#[derive(Debug)]
struct Partial {
    code: u16,
    lines: Vec<Line>,
}

#[derive(Debug)]
struct Line {
    enhanced: Option<Enhanced>,
    /// With its enhanced code.
    text: String,
    /// Where in `text` the rest begins, behind the enhanced code.
    behind: usize,
}

impl ReplyDecoder {
    /// A decoder at the start of a reply.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether no part of a reply has been read.
    pub fn is_between(&self) -> bool {
        !self.failed && self.bytes == 0 && self.scanned == 0
    }

    /// The next reply in `buf`, or `None` where more bytes are needed. After an error it is always `None`, and `buf` stays
    /// as it is.
    pub fn next(&mut self, buf: &mut BytesMut) -> Option<Result<Reply, ReplyError>> {
        if self.failed {
            return None;
        }
        let next = self.read(buf).transpose();
        self.failed = matches!(next, Some(Err(_)));
        next
    }

    fn read(&mut self, buf: &mut BytesMut) -> Result<Option<Reply>, ReplyError> {
        while let Some(lf) = memchr(b'\n', buf.get(self.scanned..).unwrap_or_default()) {
            let length = self.scanned + lf + 1;
            self.scanned = 0;
            self.bytes += length;
            let taken = self.take(&buf[..length]);
            buf.advance(length);
            if let Some(reply) = taken? {
                return Ok(Some(reply));
            }
        }
        self.scanned = buf.len();
        if self.bytes + buf.len() > MAX_REPLY { Err(ReplyError::TooLong) } else { Ok(None) }
    }

    fn take(&mut self, line: &[u8]) -> Result<Option<Reply>, ReplyError> {
        if self.bytes > MAX_REPLY {
            return Err(ReplyError::TooLong);
        }
        let line = line.strip_suffix(b"\r\n").filter(|line| !line.contains(&b'\r')).ok_or(ReplyError::LineEnd)?;
        let (code, is_last, text) = split(line).ok_or(ReplyError::Code)?;
        if is_last && self.partial.is_none() {
            // As nearly all are.
            self.bytes = 0;
            let (enhanced, text) = enhanced(code, text);
            let reply = Reply::new(code, None, String::from_utf8_lossy(text).into_owned());
            return Ok(Some(Reply { enhanced, ..reply }));
        }
        let mut partial = self.partial.take().unwrap_or(Partial { code, lines: Vec::new() });
        if partial.code != code {
            return Err(ReplyError::Mixed);
        }
        if partial.lines.len() >= MAX_LINES {
            return Err(ReplyError::TooManyLines);
        }
        let (enhanced, rest) = enhanced(code, text);
        let behind = text.len() - rest.len();
        partial.lines.push(Line { enhanced, text: String::from_utf8_lossy(text).into_owned(), behind });
        if is_last {
            self.bytes = 0;
            return Ok(Some(partial.reply()));
        }
        self.partial = Some(partial);
        Ok(None)
    }
}

impl Partial {
    /// The whole reply. Its enhanced code is the one that its lines agree on, where a line without one has no say. Where
    /// they contradict each other none of them is believed, and each stays what it is to us: text.
    fn reply(self) -> Reply {
        let mut codes = self.lines.iter().filter_map(|line| line.enhanced);
        let enhanced = codes.next().filter(|first| codes.all(|other| other == *first));
        let mut texts = self.lines.into_iter().map(|line| match enhanced {
            Some(_) => line.text[line.behind..].to_owned(),
            None => line.text,
        });
        let reply = Reply::new(self.code, None, texts.next().unwrap_or_default());
        texts.fold(Reply { enhanced, ..reply }, Reply::and)
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
    match u8::try_from(class).ok().and_then(|class| Enhanced::of(Code(code), class, subject, detail)) {
        Some(enhanced) => (Some(enhanced), text.get(end + 1..).unwrap_or_default()),
        None => (None, text),
    }
}

/// One to three digits.
fn number(digits: &[u8]) -> Option<u16> {
    if !(1..=3).contains(&digits.len()) || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

#[cfg(test)]
mod tests;
