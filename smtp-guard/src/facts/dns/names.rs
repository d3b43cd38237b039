//! Names: which are fit to be asked for and shown, and under which an address is found.

use std::fmt::Write as _;
use std::net::IpAddr;

use crate::wire::host::{MAX_NAME, is_label};

/// Domains that never are on the Internet (RFC 6761, RFC 7686). hickory answers for them itself, so a question for one
/// would look as if a server had answered.
const NEVER_ASKED: [&str; 3] = ["localhost", "invalid", "onion"];

/// The host name made of `labels`, in lower case, by the rule of [`crate::wire::host`]. None for all else, and for what ends
/// like an address.
pub(super) fn host_name<'a>(labels: impl Iterator<Item = &'a [u8]>) -> Option<Box<str>> {
    let mut name = String::new();
    let mut last: &[u8] = b"";
    for label in labels {
        if !is_label(label) {
            return None;
        }
        if !name.is_empty() {
            name.push('.');
        }
        if name.len() + label.len() > MAX_NAME {
            return None;
        }
        name.extend(label.iter().map(|b| char::from(b.to_ascii_lowercase())));
        last = label;
    }
    (!last.iter().all(u8::is_ascii_digit)).then(|| name.into_boxed_str())
}

/// `domain` in lower case if mail could come from it: at least two labels, all of them good, and on the Internet.
pub(super) fn mail_domain(domain: &str) -> Option<Box<str>> {
    let name = host_name(domain.split('.').map(str::as_bytes))?;
    (name.contains('.') && !is_never_asked(&name)).then_some(name)
}

/// Whether no server is to be asked for `name` (lower case), because it can't exist.
pub(super) fn is_never_asked(name: &str) -> bool {
    NEVER_ASKED.contains(&name.rsplit('.').next().unwrap_or_default())
}

/// Where the names of `client` are: `1.2.0.192.in-addr.arpa`.
pub(super) fn pointer(client: IpAddr) -> Box<str> {
    let zone = if client.is_ipv4() { "in-addr.arpa" } else { "ip6.arpa" };
    below(client, zone)
}

/// Where the list `zone` has `client`: `1.2.0.192.bl.example`. None when that is no name.
pub(super) fn in_list(client: IpAddr, zone: &str) -> Option<Box<str>> {
    let zone = host_name(zone.strip_suffix('.').unwrap_or(zone).split('.').map(str::as_bytes))?;
    let name = below(client, &zone);
    (name.len() <= MAX_NAME).then_some(name)
}

/// Octets (IPv4) or nibbles (IPv6) from the last to the first, then `zone`.
fn below(client: IpAddr, zone: &str) -> Box<str> {
    let mut name = String::with_capacity(64 + zone.len());
    // Writing to a String can't fail.
    match client {
        IpAddr::V4(address) => address.octets().iter().rev().for_each(|octet| {
            let _ = write!(name, "{octet}.");
        }),
        IpAddr::V6(address) => address.octets().iter().rev().for_each(|octet| {
            let _ = write!(name, "{:x}.{:x}.", octet & 15, octet >> 4);
        }),
    }
    name.push_str(zone);
    name.into_boxed_str()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_host_names_pass_and_in_lower_case() {
        let label = "a".repeat(63);
        let longest = format!("{label}.{label}.{label}.{}", "a".repeat(61));
        for (text, name) in [
            ("Mail.Example.ORG", Some("mail.example.org")),
            ("xn--bcher-kva.example", Some("xn--bcher-kva.example")),
            ("my_host.example", Some("my_host.example")),
            ("_dmarc.example", Some("_dmarc.example")),
            ("3com.example", Some("3com.example")),
            ("localhost", Some("localhost")),
            (longest.as_str(), Some(longest.as_str())),
            (&format!("{longest}a"), None),
            (&format!("{label}a.example"), None),
            ("", None),
            (".", None),
            ("example.org.", None),
            (".example.org", None),
            ("a..b", None),
            ("-a.example", Some("-a.example")),
            ("a-.example", Some("a-.example")),
            ("a b.example", None),
            ("a\r\nb.example", None),
            ("a\0.example", None),
            ("a\x7f.example", None),
            ("b\u{fc}cher.example", None),
            ("*.example", None),
            ("a\\.example", None),
            ("192.0.2.1", None),
            ("host.1", None),
            ("12", None),
        ] {
            assert_eq!(host_name(text.split('.').map(str::as_bytes)).as_deref(), name, "{text:?}");
        }
        let dotted: [&[u8]; 2] = [b"a.b", b"example"];
        assert_eq!(host_name(dotted.into_iter()), None, "a dot inside a label is not two labels");
        assert_eq!(host_name(std::iter::empty()), None, "the root");
    }

    #[test]
    fn mail_comes_from_two_labels_on_the_internet() {
        for (domain, name) in [
            ("Example.org", Some("example.org")),
            ("org", None),
            ("mail.localhost", None),
            ("nobody.INVALID", None),
            ("x.onion", None),
            ("notinvalid.example", Some("notinvalid.example")),
            ("invalid.example", Some("invalid.example")),
            ("host.local", Some("host.local")),
        ] {
            assert_eq!(mail_domain(domain).as_deref(), name, "{domain}");
        }
    }

    #[test]
    fn addresses_stand_backwards() {
        let six = "b.a.9.8.7.6.5.0.4.0.0.0.3.0.0.0.2.0.0.0.1.0.0.0.0.0.0.0.1.2.3.4";
        for (client, zone, name) in [
            ("192.0.2.1", "bl.example", Some("1.2.0.192.bl.example".to_owned())),
            ("127.0.0.2", "BL.example.", Some("2.0.0.127.bl.example".to_owned())),
            ("4321:0:1:2:3:4:567:89ab", "bl.example", Some(format!("{six}.bl.example"))),
            ("192.0.2.1", "", None),
            ("192.0.2.1", "bad zone", None),
        ] {
            assert_eq!(in_list(client.parse().unwrap(), zone).as_deref(), name.as_deref(), "{client} {zone}");
        }
        assert_eq!(&*pointer("192.0.2.1".parse().unwrap()), "1.2.0.192.in-addr.arpa");
        assert_eq!(*pointer("4321:0:1:2:3:4:567:89ab".parse().unwrap()), format!("{six}.ip6.arpa"));
        let zone = vec!["a".repeat(60); 4].join(".");
        assert!(in_list("192.0.2.1".parse().unwrap(), &zone).is_some(), "253 bytes");
        assert_eq!(in_list("192.0.2.10".parse().unwrap(), &zone), None, "254 bytes");
    }
}
