//! XCLIENT (Postfix, XCLIENT_README): tells the backend whose words it will hear.
//!
//! Every value is encoded as xtext, and the line is bounded. A name with a space, or a login with a plus sign, must not become
//! another attribute (CVE-2026-28753 of nginx was that). ADDR stands last: some servers act when they read it.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use super::host;
use super::reply::Reply;
use super::xtext::XText;

/// Bytes of the command with its CRLF.
const MAX: usize = 512;

/// The attributes that a backend takes from us; the default is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attributes {
    pub name: bool,
    pub addr: bool,
    pub port: bool,
    pub proto: bool,
    pub helo: bool,
    pub login: bool,
}

impl Attributes {
    /// The attributes of the line `XCLIENT NAME ADDR ...` in an answer to EHLO.
    pub fn parse<'a>(words: impl Iterator<Item = &'a str>) -> Self {
        let mut found = Self::default();
        for word in words {
            match word.to_ascii_uppercase().as_str() {
                "NAME" => found.name = true,
                "ADDR" => found.addr = true,
                "PORT" => found.port = true,
                "PROTO" => found.proto = true,
                "HELO" => found.helo = true,
                "LOGIN" => found.login = true,
                _ => {}
            }
        }
        found
    }

    /// Those that both take.
    #[must_use]
    pub fn intersection(self, other: Self) -> Self {
        Self {
            name: self.name && other.name,
            addr: self.addr && other.addr,
            port: self.port && other.port,
            proto: self.proto && other.proto,
            helo: self.helo && other.helo,
            login: self.login && other.login,
        }
    }
}

/// The client's name in DNS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Name<'a> {
    /// A name in DNS that leads back to its address.
    Known(&'a str),
    /// There is none.
    Unavailable,
    /// DNS couldn't say, for now.
    TemporarilyUnavailable,
}

/// The client, as the backend should see it.
#[derive(Clone, Debug)]
pub struct Identity<'a> {
    pub client: SocketAddr,
    pub name: Name<'a>,
    /// The client's name in HELO.
    pub helo: Option<&'a str>,
    pub esmtp: bool,
    /// The user whom the client proved to be.
    pub login: Option<&'a str>,
}

impl fmt::Display for Name<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match XText::new(self.text()) {
            Some(text) => text.fmt(f),
            None => f.write_str(UNAVAILABLE),
        }
    }
}

const UNAVAILABLE: &str = "[UNAVAILABLE]";

impl<'a> Name<'a> {
    fn text(self) -> &'a str {
        match self {
            Self::Known(name) if is_host(name) => name,
            Self::Known(_) | Self::Unavailable => UNAVAILABLE,
            Self::TemporarilyUnavailable => "[TEMPUNAVAIL]",
        }
    }
}

/// Whether a backend takes `name` for a host's, which Postfix is strict about: it would refuse the whole command.
fn is_host(name: &str) -> bool {
    let sound = |label: &str| host::is_label(label.as_bytes()) && !label.starts_with('-') && !label.ends_with('-');
    name.len() <= host::MAX_NAME
        && name.split('.').all(sound)
        && name.bytes().any(|byte| !byte.is_ascii_digit() && byte != b'.')
}

/// The command for `identity`, without its CRLF. `None`: the backend doesn't take an address, or the line would be too
/// long; then the backend must not be used. A name in DNS, which strangers choose, is left out before that.
pub fn command(attributes: Attributes, identity: &Identity<'_>) -> Option<String> {
    let bare = || Identity { name: Name::Unavailable, ..identity.clone() };
    with_name(attributes, identity).or_else(|| with_name(attributes, &bare()))
}

fn with_name(attributes: Attributes, identity: &Identity<'_>) -> Option<String> {
    if !attributes.addr {
        return None;
    }
    let mut line = String::from("XCLIENT");
    let mut add = |wanted: bool, name: &str, value: &dyn fmt::Display| {
        if wanted {
            line.push_str(&format!(" {name}={value}"));
        }
    };
    // In any case, or the backend would keep the proxy's own.
    add(attributes.name, "NAME", &identity.name);
    add(attributes.port, "PORT", &identity.client.port());
    add(attributes.proto, "PROTO", &if identity.esmtp { "ESMTP" } else { "SMTP" });
    if let Some(helo) = identity.helo.and_then(XText::new) {
        add(attributes.helo, "HELO", &helo);
    }
    if let Some(login) = identity.login {
        // Without it the backend would take an authenticated client for a stranger, or for the one before.
        let login = XText::new(login)?;
        add(attributes.login, "LOGIN", &login);
    }
    match identity.client.ip().to_canonical() {
        IpAddr::V4(v4) => add(true, "ADDR", &v4),
        IpAddr::V6(v6) => add(true, "ADDR", &format_args!("IPV6:{v6}")),
    }
    (line.len() + 2 <= MAX).then_some(line)
}

/// Whether the backend took it: the greeting comes again.
pub fn is_taken(reply: &Reply) -> bool {
    reply.code().get() == 220
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Attributes = Attributes { name: true, addr: true, port: true, proto: true, helo: true, login: true };

    fn check(attributes: Attributes, client: &str, helo: Option<&str>, login: Option<&str>, expected: Option<&str>) {
        let name = Name::Unavailable;
        let identity = Identity { client: client.parse().unwrap(), name, helo, esmtp: true, login };
        assert_eq!(command(attributes, &identity).as_deref(), expected, "{client} {helo:?} {login:?}");
    }

    #[test]
    fn values_stay_values() {
        let addr = Attributes { addr: true, ..Attributes::default() };
        check(addr, "192.0.2.1:5", None, Some("u"), Some("XCLIENT ADDR=192.0.2.1"));
        check(addr, "[::ffff:192.0.2.1]:5", None, None, Some("XCLIENT ADDR=192.0.2.1"));
        check(
            ALL,
            "[2001:db8::1]:5",
            Some("mx.example"),
            Some("a+b=c d@x"),
            Some(
                "XCLIENT NAME=[UNAVAILABLE] PORT=5 PROTO=ESMTP HELO=mx.example LOGIN=a+2Bb+3Dc+20d@x ADDR=IPV6:2001:db8::1",
            ),
        );
        check(ALL, "192.0.2.1:5", Some("x"), Some("a\nADDR=1"), None);
        check(ALL, "192.0.2.1:5", Some(&"x".repeat(255)), Some(&"y z".repeat(85)), None);
        check(Attributes::default(), "192.0.2.1:5", None, None, None);
    }

    #[test]
    fn a_name_is_one_that_a_backend_takes() {
        let label = "a".repeat(63);
        let longest = format!("{label}.{label}.{label}.{}", "a".repeat(61));
        let unavailable = "[UNAVAILABLE]";
        for (name, sent) in [
            (Name::Known("mail.example.test"), "mail.example.test"),
            (Name::Known("_mail.example.test"), "_mail.example.test"),
            (Name::Known(&longest), &longest),
            (Name::Known(&format!("{longest}a")), unavailable),
            (Name::Known("192.0.2.7"), unavailable),
            (Name::Known("-a.example"), unavailable),
            (Name::Known("a b.example"), unavailable),
            (Name::Known("a.example\r\nMAIL"), unavailable),
            (Name::Known("a.example ADDR=192.0.2.9"), unavailable),
            (Name::Known("a..example"), unavailable),
            (Name::Known("[TEMPUNAVAIL]"), unavailable),
            (Name::Known(""), unavailable),
            (Name::Unavailable, unavailable),
            (Name::TemporarilyUnavailable, "[TEMPUNAVAIL]"),
        ] {
            let client = "192.0.2.1:5".parse().unwrap();
            let identity = Identity { client, name, helo: None, esmtp: true, login: None };
            let attributes = Attributes { name: true, addr: true, ..Attributes::default() };
            let expected = format!("XCLIENT NAME={sent} ADDR=192.0.2.1");
            assert_eq!(command(attributes, &identity), Some(expected));
        }
        // A long name of the client's choice must not keep its mail out.
        let (client, helo) = ("192.0.2.1:5".parse().unwrap(), "x".repeat(255));
        let identity = Identity { client, name: Name::Known(&longest), helo: Some(&helo), esmtp: true, login: None };
        assert!(command(ALL, &identity).is_some_and(|line| line.contains("NAME=[UNAVAILABLE] ")));
    }

    #[test]
    fn what_a_backend_takes_is_read() {
        let found = Attributes::parse("name ADDR proto Login DESTADDR".split(' '));
        assert_eq!(found, Attributes { name: true, addr: true, proto: true, login: true, ..Attributes::default() });
        assert_eq!(found.intersection(ALL), found);
    }
}
