//! Capabilities of a server: read from the backend's answer to EHLO, and offered in ours.

use super::envelope::Uses;
use super::reply::Reply;
use super::sasl::Mechanism;
use super::xclient::Attributes;

/// Bytes that we add to a message: room for them is taken off the backend's size limit.
const OUR_HEADERS: u64 = 1024;

/// The capabilities of a backend, as far as they concern us. The default is none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Capabilities {
    pub pipelining: bool,
    /// `Some(None)`: SIZE without a limit.
    pub size: Option<Option<u64>>,
    pub eight_bit_mime: bool,
    pub enhanced_status_codes: bool,
    pub smtputf8: bool,
    pub dsn: bool,
    pub requiretls: bool,
    pub starttls: bool,
    pub auth_plain: bool,
    pub auth_login: bool,
    pub xclient: Attributes,
}

impl Capabilities {
    /// Reads the answer to EHLO. What isn't known to us doesn't count.
    pub fn parse(reply: &Reply) -> Self {
        let mut found = Self::default();
        for line in reply.lines().skip(1) {
            let mut words = line.split_ascii_whitespace();
            match words.next().unwrap_or_default().to_ascii_uppercase().as_str() {
                "PIPELINING" => found.pipelining = true,
                // RFC 1870: a limit of 0 is none.
                "SIZE" => found.size = Some(words.next().and_then(|n| n.parse().ok()).filter(|&limit| limit > 0)),
                "8BITMIME" => found.eight_bit_mime = true,
                "ENHANCEDSTATUSCODES" => found.enhanced_status_codes = true,
                "SMTPUTF8" => found.smtputf8 = true,
                "DSN" => found.dsn = true,
                "REQUIRETLS" => found.requiretls = true,
                "STARTTLS" => found.starttls = true,
                "AUTH" => {
                    for mechanism in words.filter_map(Mechanism::named) {
                        match mechanism {
                            Mechanism::Plain => found.auth_plain = true,
                            Mechanism::Login => found.auth_login = true,
                        }
                    }
                }
                "XCLIENT" => found.xclient = Attributes::parse(words),
                _ => {}
            }
        }
        found
    }

    /// The capabilities of both.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        let smaller = |a: Option<u64>, b: Option<u64>| match (a, b) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (limit, None) | (None, limit) => limit,
        };
        Self {
            pipelining: self.pipelining && other.pipelining,
            size: self.size.zip(other.size).map(|(a, b)| smaller(a, b)),
            eight_bit_mime: self.eight_bit_mime && other.eight_bit_mime,
            enhanced_status_codes: self.enhanced_status_codes && other.enhanced_status_codes,
            smtputf8: self.smtputf8 && other.smtputf8,
            dsn: self.dsn && other.dsn,
            requiretls: self.requiretls && other.requiretls,
            starttls: self.starttls && other.starttls,
            auth_plain: self.auth_plain && other.auth_plain,
            auth_login: self.auth_login && other.auth_login,
            xclient: self.xclient.intersection(other.xclient),
        }
    }

    /// Whether it takes an envelope part that makes use of `uses`. (SIZE is only information: it can be left out.)
    pub fn takes(&self, uses: Uses) -> bool {
        (self.eight_bit_mime || !uses.eight_bit_mime)
            && (self.smtputf8 || !uses.smtputf8)
            && (self.dsn || !uses.dsn)
            && (self.requiretls || !uses.requiretls)
    }
}

/// The state that our answer to EHLO depends on, beside the backend.
#[derive(Clone, Copy, Debug)]
pub struct Offer<'a> {
    pub hostname: &'a str,
    /// Bytes of a message.
    pub size_limit: u64,
    /// Recipients of a message; `None`: no limit.
    pub recipients: Option<u32>,
    pub starttls: bool,
    pub auth: bool,
    pub chunking: bool,
    /// The client is under TLS, and the backend is verified.
    pub requiretls: bool,
}

impl Offer<'_> {
    /// Our answer to EHLO. PIPELINING, SIZE, ENHANCEDSTATUSCODES, STARTTLS, AUTH, CHUNKING and LIMITS (RFC 9422) are ours; the
    /// rest needs the backend. Where the backend's size limit is smaller, that is told, less what we add.
    pub fn reply(&self, backend: &Capabilities) -> Reply {
        let size = match backend.size.flatten() {
            // Never 0: that would mean no limit.
            Some(theirs) => self.size_limit.min(theirs.saturating_sub(OUR_HEADERS).max(1)),
            None => self.size_limit,
        };
        let mut reply = Reply::new(250, None, self.hostname.to_owned()).and("PIPELINING").and(format!("SIZE {size}"));
        for (wanted, keyword) in [
            (self.starttls, "STARTTLS"),
            (self.auth, "AUTH PLAIN LOGIN"),
            (self.chunking, "CHUNKING"),
            (backend.eight_bit_mime, "8BITMIME"),
            // RFC 6531 3.1: it needs 8BITMIME.
            (backend.smtputf8 && backend.eight_bit_mime, "SMTPUTF8"),
            (backend.dsn, "DSN"),
            (self.requiretls && backend.requiretls, "REQUIRETLS"),
        ] {
            if wanted {
                reply = reply.and(keyword);
            }
        }
        if let Some(recipients) = self.recipients {
            reply = reply.and(format!("LIMITS RCPTMAX={recipients}"));
        }
        reply.and("ENHANCEDSTATUSCODES")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(lines: &[&str]) -> Capabilities {
        let reply = lines.iter().fold(Reply::new(250, None, "mx"), |reply, line| reply.and(line.to_string()));
        Capabilities::parse(&reply)
    }

    #[test]
    fn capabilities_are_read_and_met() {
        let postfix = parse(&[
            "PIPELINING",
            "SIZE 10240000",
            "ETRN",
            "ENHANCEDSTATUSCODES",
            "8BITMIME",
            "DSN",
            "SMTPUTF8",
            "CHUNKING",
        ]);
        assert_eq!((postfix.size, postfix.eight_bit_mime, postfix.starttls), (Some(Some(10_240_000)), true, false));
        let other = parse(&["size", "starttls", "dsn"]);
        assert_eq!((other.size, other.starttls), (Some(None), true));
        let both = postfix.intersection(&other);
        assert_eq!(both, Capabilities { size: Some(Some(10_240_000)), dsn: true, ..Capabilities::default() });
        assert_eq!(parse(&["SIZE 0", ""]).size, Some(None));
    }

    #[test]
    fn the_offer_is_never_more_than_the_backend_takes() {
        let plain = Offer {
            hostname: "mx",
            size_limit: 1000,
            recipients: Some(7),
            starttls: false,
            auth: false,
            chunking: false,
            requiretls: false,
        };
        let tls =
            Offer { size_limit: 1 << 30, recipients: None, auth: true, chunking: true, requiretls: true, ..plain };
        for (offer, backend, expected) in [
            (plain, Capabilities::default(), "PIPELINING / SIZE 1000 / LIMITS RCPTMAX=7 / ENHANCEDSTATUSCODES"),
            (
                Offer { starttls: true, ..plain },
                parse(&["SIZE 1024", "SMTPUTF8", "AUTH PLAIN", "STARTTLS"]),
                "PIPELINING / SIZE 1 / STARTTLS / LIMITS RCPTMAX=7 / ENHANCEDSTATUSCODES",
            ),
            (
                tls,
                parse(&["SIZE 5024", "8BITMIME", "SMTPUTF8", "DSN", "REQUIRETLS", "CHUNKING", "XCLIENT NAME", "ETRN"]),
                "PIPELINING / SIZE 4000 / AUTH PLAIN LOGIN / CHUNKING / 8BITMIME / SMTPUTF8 / DSN / REQUIRETLS / ENHANCEDSTATUSCODES",
            ),
        ] {
            assert_eq!(offer.reply(&backend).to_string(), format!("250 mx / {expected}"));
        }
    }

    #[test]
    fn what_an_envelope_needs_must_be_there() {
        let none = Capabilities::default();
        assert!(none.takes(Uses { parameters: true, auth: true, ..Uses::default() }));
        for (uses, keyword) in [
            (Uses { eight_bit_mime: true, ..Uses::default() }, "8BITMIME"),
            (Uses { smtputf8: true, ..Uses::default() }, "SMTPUTF8"),
            (Uses { dsn: true, ..Uses::default() }, "DSN"),
            (Uses { requiretls: true, ..Uses::default() }, "REQUIRETLS"),
        ] {
            assert!(!none.takes(uses), "{keyword}");
            assert!(parse(&[keyword]).takes(uses), "{keyword}");
        }
    }
}
