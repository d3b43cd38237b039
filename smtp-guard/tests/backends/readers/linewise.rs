//! Backends that take lines out of the stream, each up to its LF, and then look at the line.

use super::Read;

/// What a backend thinks of a line.
enum Verdict<'a> {
    /// It belongs to the message; with its dot-stuffing, without its line end.
    Text(&'a [u8]),
    End,
    /// The backend closes the connection.
    Close,
}

/// `judge` sees a line with its LF, and the one before.
fn read(stream: &[u8], judge: impl for<'a> Fn(&'a [u8], &[u8]) -> Verdict<'a>) -> Option<Read> {
    let (mut message, mut end) = (Vec::new(), 0);
    // What stands before the data is our own line: the reply 354 to DATA CRLF.
    let mut before: &[u8] = b"\r\n";
    for line in stream.split_inclusive(|byte| *byte == b'\n') {
        end += line.len();
        if !line.ends_with(b"\n") {
            return None;
        }
        match judge(line, before) {
            Verdict::Text(text) => {
                message.extend_from_slice(text.strip_prefix(b".").unwrap_or(text));
                message.extend_from_slice(b"\r\n");
            }
            Verdict::End => return Some(Read { message, end }),
            Verdict::Close => return None,
        }
        before = line;
    }
    None
}

/// Without LF, and without CR before it if there is one.
fn text(line: &[u8]) -> &[u8] {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    line.strip_suffix(b"\r").unwrap_or(line)
}

/// Without LF and all CR before it.
fn text_without_crs(line: &[u8]) -> &[u8] {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    let end = line.iter().rposition(|byte| *byte != b'\r').map_or(0, |last| last + 1);
    &line[..end]
}

/// RFC 5321, and nothing else: only CRLF makes a line.
pub(super) fn strict(stream: &[u8]) -> Option<Read> {
    let mut joined = Vec::new();
    let mut end = 0;
    let mut message = Vec::new();
    for line in stream.split_inclusive(|byte| *byte == b'\n') {
        end += line.len();
        joined.extend_from_slice(line);
        let Some(text) = joined.strip_suffix(b"\r\n") else {
            continue;
        };
        if text == b"." {
            return Some(Read { message, end });
        }
        message.extend_from_slice(text.strip_prefix(b".").unwrap_or(text));
        message.extend_from_slice(b"\r\n");
        joined.clear();
    }
    None
}

/// Postfix before 3.9: LF ends a line, all CR before it go. (A line beyond its limit comes in parts, but what follows the
/// first part is known not to be the start of a line: the same as no limit.)
pub(super) fn postfix_old(stream: &[u8]) -> Option<Read> {
    read(stream, |line, _| match text_without_crs(line) {
        b"." => Verdict::End,
        text => Verdict::Text(text),
    })
}

/// Postfix with `smtpd_forbid_bare_newline = normalize`, its default: a bare LF ends a line, but not the data.
pub(super) fn postfix_normalize(stream: &[u8]) -> Option<Read> {
    read(stream, |line, before| match text_without_crs(line) {
        b"." if line.ends_with(b"\r\n") && before.ends_with(b"\r\n") => Verdict::End,
        text => Verdict::Text(text),
    })
}

/// Postfix with `smtpd_forbid_bare_newline = reject`.
pub(super) fn postfix_reject(stream: &[u8]) -> Option<Read> {
    read(stream, |line, _| match text_without_crs(line) {
        _ if !line.ends_with(b"\r\n") => Verdict::Close,
        b"." => Verdict::End,
        text => Verdict::Text(text),
    })
}

/// OpenSMTPD: LF ends a line, one CR before it goes, and what is left is a string of C: it ends at its NUL.
pub(super) fn opensmtpd(stream: &[u8]) -> Option<Read> {
    read(stream, |line, _| {
        let text = text(line);
        let end = text.iter().position(|byte| *byte == 0).unwrap_or(text.len());
        match &text[..end] {
            b"." => Verdict::End,
            text => Verdict::Text(text),
        }
    })
}

/// Haraka before its fix: LF ends a line. At a dot and a bare LF it refuses the message, but the data is over as well.
pub(super) fn haraka(stream: &[u8]) -> Option<Read> {
    read(stream, |line, _| match line {
        b".\r\n" | b".\n" => Verdict::End,
        line => Verdict::Text(text(line)),
    })
}

/// aiosmtpd before 1.4.5: LF ends a line, only a dot before CRLF ends the data.
pub(super) fn aiosmtpd(stream: &[u8]) -> Option<Read> {
    read(stream, |line, _| match line {
        b".\r\n" => Verdict::End,
        line => Verdict::Text(text(line)),
    })
}

/// go-smtp before its fix, with the dot reader of Go's library: LF ends a line, one CR before it goes.
pub(super) fn go_smtp(stream: &[u8]) -> Option<Read> {
    read(stream, |line, _| match text(line) {
        b"." => Verdict::End,
        text => Verdict::Text(text),
    })
}
