//! XCLIENT (Postfix, XCLIENT_README): tells the backend whose words it will hear.
//!
//! Every value is encoded as xtext and the line is bounded: a name with a space, or a login with a plus sign, must not
//! become another attribute (CVE-2026-28753 of nginx was that). ADDR stands last: some servers act when they read it.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

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

/// The client, as the backend shall see it.
#[derive(Clone, Debug)]
pub struct Identity<'a> {
    pub client: SocketAddr,
    /// What it calls itself.
    pub helo: Option<&'a str>,
    pub esmtp: bool,
    /// Who it proved to be.
    pub login: Option<&'a str>,
}

/// The command for `identity`, without its CRLF. `None`: the backend doesn't take an address, or the line would be too
/// long; then the backend must not be used.
pub fn command(attributes: Attributes, identity: &Identity<'_>) -> Option<String> {
    if !attributes.addr {
        return None;
    }
    let mut line = String::from("XCLIENT");
    let mut add = |wanted: bool, name: &str, value: &dyn fmt::Display| {
        if wanted {
            line.push_str(&format!(" {name}={value}"));
        }
    };
    // The reverse name isn't known here; said so, or the backend would keep the proxy's own.
    add(attributes.name, "NAME", &"[UNAVAILABLE]");
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
        let identity = Identity { client: client.parse().unwrap(), helo, esmtp: true, login };
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
    fn what_a_backend_takes_is_read() {
        let found = Attributes::parse("name ADDR proto Login DESTADDR".split(' '));
        assert_eq!(found, Attributes { name: true, addr: true, proto: true, login: true, ..Attributes::default() });
        assert_eq!(found.intersection(ALL), found);
    }
}
