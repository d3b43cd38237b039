//! xtext (RFC 3461 4): text in parameters of MAIL, RCPT and XCLIENT, where `+XX` stands for a byte.
//!
//! It is always decoded, judged and encoded again. Otherwise an encoded line feed would be decoded behind us (CVE-2020-28021
//! began like that).

use std::fmt;

/// Text that came or goes as xtext: printable, of at most [`XText::MAX`] bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct XText(Box<str>);

impl XText {
    /// Bytes of the decoded text: RFC 3461 4.2 has 500 for ORCPT, with its encoding.
    pub const MAX: usize = 500;

    /// Decodes `text`. `None`: it isn't xtext, or what it stands for isn't printable.
    pub fn decode(text: &str) -> Option<Self> {
        let mut decoded = Vec::with_capacity(text.len());
        let mut bytes = text.bytes();
        while let Some(byte) = bytes.next() {
            decoded.push(match byte {
                b'+' => hex(bytes.next()?)? << 4 | hex(bytes.next()?)?,
                b'=' => return None,
                b'!'..=b'~' => byte,
                _ => return None,
            });
        }
        Self::new(std::str::from_utf8(&decoded).ok()?)
    }

    /// `text` itself. `None`: it is empty, too long, or holds what isn't printable.
    pub fn new(text: &str) -> Option<Self> {
        let fits = !text.is_empty() && text.len() <= Self::MAX && !text.chars().any(char::is_control);
        fits.then(|| Self(text.into()))
    }

    /// The text that is meant.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Upper case only, as RFC 3461 has it.
fn hex(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

/// As it goes over the wire: printable ASCII without `+` and `=`.
impl fmt::Display for XText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for byte in self.0.bytes() {
            match byte {
                b'+' | b'=' => write!(f, "+{byte:02X}")?,
                b'!'..=b'~' => write!(f, "{}", char::from(byte))?,
                _ => write!(f, "+{byte:02X}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(text: &str, expected: Option<&str>) {
        assert_eq!(XText::decode(text).as_ref().map(XText::as_str), expected, "{text:?}");
    }

    #[test]
    fn what_is_printable_is_decoded() {
        check("a@b.example", Some("a@b.example"));
        check("a+2Bb+3Dc+20d", Some("a+b=c d"));
        check("+C3+BC", Some("\u{fc}"));
        for bad in
            ["", "a b", "a=b", "x+0Ay", "x+0Dy", "x+00y", "+7F", "+", "+4", "+g0", "+0a", "+C3", "+C2+85", "\u{fc}"]
        {
            check(bad, None);
        }
        check(&"x".repeat(501), None);
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 4_000, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn what_is_encoded_is_decoded(text in "\\PC{1,60}") {
            if let Some(text) = XText::new(&text) {
                let written = text.to_string();
                prop_assert!(written.bytes().all(|byte| matches!(byte, b'!'..=b'~')), "{}", written);
                prop_assert_eq!(XText::decode(&written), Some(text));
            }
        }
    }
}
