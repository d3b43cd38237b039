//! Text from outside, made fit to be shown: in a log, on a terminal, in an error.

use std::fmt::Write as _;

/// Bytes of network input that a log shows at most, before they are escaped.
pub const PRINTABLE_BYTES: usize = 100;

/// `bytes` as text that is safe to show: at most [`PRINTABLE_BYTES`] of them, then `…`. Control characters (C0, DEL,
/// C1), line and paragraph separators, direction marks and other invisible characters, backslashes and what isn't UTF-8
/// are escaped as `\xNN` or `\u{N}`.
pub fn printable(bytes: &[u8]) -> String {
    let mut text = escaped(&bytes[..bytes.len().min(PRINTABLE_BYTES)]);
    if bytes.len() > PRINTABLE_BYTES {
        text.push('…');
    }
    text
}

/// `text` escaped like that, but whole: for sentences of the guard, in which what came from outside is bounded already.
pub fn printable_whole(text: &str) -> String {
    escaped(text.as_bytes())
}

fn escaped(shown: &[u8]) -> String {
    let mut text = String::with_capacity(shown.len());
    for chunk in shown.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\\' => text.push_str("\\\\"),
                ' '..='~' => text.push(c),
                // Infallible: a String takes everything.
                '\0'..='\u{9f}' => _ = write!(text, "\\x{:02x}", u32::from(c)),
                // Debug escapes exactly what has no glyph of its own: separators, marks, unassigned characters.
                _ => text.extend(c.escape_debug()),
            }
        }
        for byte in chunk.invalid() {
            _ = write!(text, "\\x{byte:02x}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(bytes: &[u8], text: &str) {
        assert_eq!(printable(bytes), text, "{bytes:?}");
        if let (Ok(whole), false) = (std::str::from_utf8(bytes), text.ends_with('…')) {
            assert_eq!(printable_whole(whole), text);
        }
    }

    #[test]
    fn nothing_unprintable_gets_through() {
        check(b"", "");
        check(b"EHLO mx.example.org", "EHLO mx.example.org");
        check(b"x\x1b[2J", r"x\x1b[2J");
        check(b"a\r\nb\0\x7f", r"a\x0d\x0ab\x00\x7f");
        check("\u{9b}31m".as_bytes(), r"\x9b31m");
        check("grüße".as_bytes(), "grüße");
        check(b"\xff\xfea", r"\xff\xfea");
        check("\u{2028}\u{202e}x\u{200b}".as_bytes(), r"\u{2028}\u{202e}x\u{200b}");
        check(b"\\x41", r"\\x41");
        check(&[b'a'; 100], &"a".repeat(100));
        check(&[b'a'; 101], &format!("{}…", "a".repeat(100)));
        assert_eq!(printable_whole(&"a".repeat(101)), "a".repeat(101));
        // Cut in the middle of a character: its first byte is shown as what it is.
        check(
            "a".repeat(99).as_bytes().iter().copied().chain([0xc3, 0xbc]).collect::<Vec<_>>().as_slice(),
            &format!("{}\\xc3…", "a".repeat(99)),
        );
    }

    proptest! {
        #[test]
        fn any_input_becomes_one_short_line(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let text = printable(&bytes);
            prop_assert!(text.chars().all(|c| !c.is_control()));
            prop_assert!(text.len() <= 10 * PRINTABLE_BYTES + 3);
        }
    }
}
