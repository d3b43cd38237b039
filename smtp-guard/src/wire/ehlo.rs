//! What a server can do: read from the backend's answer to EHLO, and offered in ours.

use super::reply::Reply;

/// Bytes that we add to a message: room for them is taken off the backend's size limit.
const OUR_HEADERS: u64 = 1024;

/// What a backend offers, as far as it concerns us. The default is nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Capabilities {
    pub pipelining: bool,
    /// `Some(None)`: SIZE without a limit.
    pub size: Option<Option<u64>>,
    pub eight_bit_mime: bool,
    pub enhanced_status_codes: bool,
    pub smtputf8: bool,
    pub dsn: bool,
    pub starttls: bool,
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
                "STARTTLS" => found.starttls = true,
                _ => {}
            }
        }
        found
    }

    /// What both can do.
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
            starttls: self.starttls && other.starttls,
        }
    }
}

/// Our answer to EHLO. PIPELINING, SIZE and ENHANCEDSTATUSCODES are ours; the rest needs the backend. `size_limit` in
/// bytes; where the backend's is smaller, that is told, less what we add.
pub fn offer(hostname: &str, size_limit: u64, backend: &Capabilities) -> Reply {
    let size = match backend.size.flatten() {
        // Never 0: that would mean no limit.
        Some(theirs) => size_limit.min(theirs.saturating_sub(OUR_HEADERS).max(1)),
        None => size_limit,
    };
    let mut reply = Reply::new(250, None, hostname.to_owned()).and("PIPELINING").and(format!("SIZE {size}"));
    if backend.eight_bit_mime {
        reply = reply.and("8BITMIME");
    }
    reply.and("ENHANCEDSTATUSCODES")
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
        for (limit, backend, expected) in [
            (1000, Capabilities::default(), "250 mx / PIPELINING / SIZE 1000 / ENHANCEDSTATUSCODES"),
            (1000, parse(&["SIZE 1024"]), "250 mx / PIPELINING / SIZE 1 / ENHANCEDSTATUSCODES"),
            (
                1 << 30,
                parse(&["SIZE 5024", "8BITMIME", "CHUNKING", "XCLIENT NAME"]),
                "250 mx / PIPELINING / SIZE 4000 / 8BITMIME / ENHANCEDSTATUSCODES",
            ),
        ] {
            assert_eq!(offer("mx", limit, &backend).to_string(), expected);
        }
    }
}
