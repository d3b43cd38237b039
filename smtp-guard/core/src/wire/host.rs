//! Host names: one notion of them for the wire, DNS, lists, tables and the configuration.
//!
//! Real mail comes from names that RFC 1123 doesn't know: with underscores, with hyphens at the ends of a label, with a dot
//! at the end. None of these bytes changes the meaning of a line, so they are taken. The *key* of a name is what all
//! look-ups compare: in lower case, without the final dot, international labels in their ASCII form (RFC 5890).

use std::borrow::Cow;

use idna::AsciiDenyList;
use idna::uts46::{DnsLength, Hyphens, Uts46};

/// Bytes of a name without its final dot (RFC 1035 2.3.4: 255 on the wire).
pub const MAX_NAME: usize = 253;
/// Bytes of a label (RFC 1035 2.3.4).
pub const MAX_LABEL: usize = 63;

/// Whether `label` may stand in a host name: 1 to 63 letters, digits, hyphens and underscores.
pub fn is_label(label: &[u8]) -> bool {
    (1..=MAX_LABEL).contains(&label.len()) && label.iter().all(|byte| is_inside(*byte))
}

/// Whether `byte` may stand in a label.
fn is_inside(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_')
}

/// The key of `name`, or `None` where it is not a valid host name.
pub fn key(name: &str) -> Option<Cow<'_, str>> {
    let name = name.strip_suffix('.').unwrap_or(name);
    let ascii = if name.is_ascii() {
        Cow::Borrowed(name)
    } else {
        // What is left in ASCII is judged below, by the same rule as all names.
        Uts46::new().to_ascii(name.as_bytes(), AsciiDenyList::EMPTY, Hyphens::Allow, DnsLength::Ignore).ok()?
    };
    Some(if is_lower(&ascii)? { ascii } else { ascii.to_ascii_lowercase().into() })
}

/// Whether `name`, in ASCII, is in lower case. `None` where it is not a valid host name. Each recipient's domain goes through here, several
/// times: one pass.
fn is_lower(name: &str) -> Option<bool> {
    let (mut label, mut lower) = (0_usize, true);
    for byte in name.bytes() {
        match byte {
            b'.' if label == 0 => return None,
            b'.' => label = 0,
            _ if is_inside(byte) && label < MAX_LABEL => {
                label = label.saturating_add(1);
                lower &= !byte.is_ascii_uppercase();
            }
            _ => return None,
        }
    }
    (label > 0 && name.len() <= MAX_NAME).then_some(lower)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a4_names_of_real_senders_have_a_key() {
        let label = "a".repeat(63);
        let longest = format!("{label}.{label}.{label}.{}", "a".repeat(61));
        for (name, expected) in [
            ("Mail.Example.ORG", Some("mail.example.org")),
            ("bounce_mail.shop.example", Some("bounce_mail.shop.example")),
            ("_x.example", Some("_x.example")),
            ("mail-.example", Some("mail-.example")),
            ("-mail.example", Some("-mail.example")),
            ("r3---sn.example", Some("r3---sn.example")),
            ("example.org.", Some("example.org")),
            ("m\u{fc}ller.example", Some("xn--mller-kva.example")),
            ("M\u{dc}LLER.Example.", Some("xn--mller-kva.example")),
            ("m\u{fc}ller\u{3002}example", Some("xn--mller-kva.example")),
            ("b_\u{fc}.example", Some("xn--b_-yka.example")),
            ("XN--MLLER-KVA.example", Some("xn--mller-kva.example")),
            ("localhost", Some("localhost")),
            (longest.as_str(), Some(longest.as_str())),
            (&format!("{longest}a"), None),
            (&format!("{label}a.example"), None),
            (&format!("{}.example", "\u{fc}".repeat(63)), None),
            ("", None),
            (".", None),
            ("a..b", None),
            (".a", None),
            ("a..", None),
            ("a b.example", None),
            ("a\u{2028}b.example", None),
            ("a\r\nb.example", None),
            ("a>b.example", None),
            ("[192.0.2.1]", None),
            ("\u{ff0e}", None),
            ("\u{ff1e}\u{fc}.example", None),
        ] {
            assert_eq!(key(name).as_deref(), expected, "{name:?}");
        }
    }
}
