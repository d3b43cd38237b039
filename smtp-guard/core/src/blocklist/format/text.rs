//! Plain text: one address or network a line, then perhaps a comment. `#` begins one in a netset, `;` one of Spamhaus
//! DROP; both are taken in either.

use super::lines;
use crate::blocklist::fault::Fault;
use crate::blocklist::list::Reading;

pub(super) fn read(bytes: &[u8], reading: &mut Reading<'_>) -> Result<(), Fault> {
    for (number, line) in lines(bytes) {
        let (text, _) = entry(line);
        if !text.is_empty() {
            reading.entry(number, text)?;
        }
    }
    Ok(())
}

/// Splits a line at its comment: the text before, and the sign that begins the comment.
pub(super) fn entry(line: &[u8]) -> (&[u8], Option<u8>) {
    match memchr::memchr2(b'#', b';', line) {
        Some(at) => (line[..at].trim_ascii(), Some(line[at])),
        None => (line.trim_ascii(), None),
    }
}
