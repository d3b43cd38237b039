//! Backends that go through the stream byte by byte, or through what they have made of it before.

use super::{Read, linewise};

/// Cuts the stream where `line_end` says how long a line end is that stands there; 0 for none. `is_end` sees the line.
fn read(stream: &[u8], is_end: fn(&[u8]) -> bool, line_end: fn(&[u8]) -> usize) -> Option<Read> {
    let (mut message, mut start, mut at) = (Vec::new(), 0, 0);
    while at < stream.len() {
        let length = line_end(&stream[at..]);
        if length == 0 {
            at += 1;
            continue;
        }
        let line = &stream[start..at];
        at += length;
        start = at;
        if is_end(line) {
            return Some(Read { message, end: at });
        }
        message.extend_from_slice(line.strip_prefix(b".").unwrap_or(line));
        message.extend_from_slice(b"\r\n");
    }
    None
}

/// Exim up to 4.97: CRLF, LF and CR each end a line.
pub(super) fn exim(stream: &[u8]) -> Option<Read> {
    read(
        stream,
        |line| line == b".",
        |rest| match rest {
            [b'\r', b'\n', ..] => 2,
            [b'\r' | b'\n', ..] => 1,
            _ => 0,
        },
    )
}

/// Nobody in particular: each wrong terminator that somebody took for an end is one. Any number of CR before LF, a CR, a
/// NUL: all end a line. White space behind the dot isn't seen.
pub(super) fn laxest(stream: &[u8]) -> Option<Read> {
    read(
        stream,
        |line| line.trim_ascii_end() == b".",
        |rest| {
            let crs = rest.iter().take_while(|byte| **byte == b'\r').count();
            match rest.get(crs) {
                Some(b'\n') => crs + 1,
                _ if crs > 0 => 1,
                Some(0) => 1,
                _ => 0,
            }
        },
    )
}

/// smtp-proto 0.2.1: knows a dot only after CRLF, so neither the empty message nor a stuffed dot at the very start; any
/// number of CR may follow the dot.
pub(super) fn smtp_proto(stream: &[u8]) -> Option<Read> {
    let mut message = Vec::new();
    let (mut last, mut last_but_one, mut after_dot) = (0, 0, false);
    for (at, &byte) in stream.iter().enumerate() {
        match byte {
            b'.' if (last_but_one, last) == (b'\r', b'\n') => after_dot = true,
            b'\n' if after_dot && last == b'\r' => {
                let end = message.iter().rposition(|byte| *byte != b'\r').map_or(0, |last| last + 1);
                message.truncate(end);
                return Some(Read { message, end: at + 1 });
            }
            _ => {
                after_dot &= byte == b'\r';
                message.push(byte);
            }
        }
        (last_but_one, last) = (last, byte);
    }
    None
}

/// A gateway that removes what doesn't belong there and reads strictly what is left: it makes terminators itself.
pub(super) fn drops(stream: &[u8]) -> Option<Read> {
    after(stream, |rest| match rest {
        [b'\r', b'\n', ..] => b"\r",
        [b'\r' | 0, ..] => b"",
        [byte, ..] => std::slice::from_ref(byte),
        [] => b"",
    })
}

/// A gateway that makes a line end of each bare CR, and reads strictly what comes of it.
pub(super) fn mends(stream: &[u8]) -> Option<Read> {
    after(stream, |rest| match rest {
        [b'\r', b'\n', ..] => b"\r",
        [b'\r', ..] => b"\r\n",
        [byte, ..] => std::slice::from_ref(byte),
        [] => b"",
    })
}

/// Reads strictly what `change` makes of each byte, given it and what follows.
fn after(stream: &[u8], change: for<'a> fn(&'a [u8]) -> &'a [u8]) -> Option<Read> {
    let (mut changed, mut origin) = (Vec::new(), Vec::new());
    for at in 0..stream.len() {
        for byte in change(&stream[at..]) {
            changed.push(*byte);
            origin.push(at + 1);
        }
    }
    let read = linewise::strict(&changed)?;
    Some(Read { end: origin[read.end - 1], message: read.message })
}
