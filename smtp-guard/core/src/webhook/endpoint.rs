//! The place that requests go to.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use url::{Host, Url};

/// Bytes of a URL.
const LONGEST: usize = 2048;

/// A place by `http` or `https`. A path or query may hold a token of the receiver's, so only [`Self::place`] is for logs.
#[derive(Clone, PartialEq, Eq)]
pub struct Endpoint {
    text: String,
    secure: bool,
    host: Host<String>,
    port: u16,
    target: String,
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.place())
    }
}

impl FromStr for Endpoint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::parse(text)
    }
}

impl Endpoint {
    /// The place that `text` names, or what is wrong with it. (The error quotes nothing: it may be shown to others.)
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.len() > LONGEST {
            return Err(format!("it has more than {LONGEST} bytes"));
        }
        let url = Url::parse(text).map_err(|error| format!("it is not a URL: {error}"))?;
        let secure = match url.scheme() {
            "https" => true,
            "http" => false,
            _ => return Err(String::from("it is neither http nor https")),
        };
        if !url.username().is_empty() || url.password().is_some() {
            return Err(String::from("it has a name or a password: requests are signed instead (events.secret_file)"));
        }
        if url.fragment().is_some() {
            return Err(String::from("it has a #fragment, which is never sent"));
        }
        let (Some(host), Some(port)) = (url.host(), url.port_or_known_default().filter(|port| *port > 0)) else {
            return Err(String::from("it names no host, or no port that there is"));
        };
        let query = url.query().map(|query| format!("?{query}")).unwrap_or_default();
        let target = format!("{}{query}", url.path());
        Ok(Self { text: text.to_owned(), secure, host: host.to_owned(), port, target })
    }

    /// As it was configured.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Scheme, host and port: what logs and `status` show.
    pub fn place(&self) -> String {
        let scheme = if self.secure { "https" } else { "http" };
        format!("{scheme}://{}:{}", self.host, self.port)
    }

    /// By TLS.
    pub fn is_secure(&self) -> bool {
        self.secure
    }

    /// Within this host.
    pub fn is_loopback(&self) -> bool {
        match &self.host {
            Host::Domain(name) => name == "localhost",
            Host::Ipv4(ip) => ip.is_loopback(),
            Host::Ipv6(ip) => ip.is_loopback(),
        }
    }

    /// A name to be looked up, or an address; without brackets.
    pub fn host(&self) -> String {
        match &self.host {
            Host::Domain(name) => name.clone(),
            Host::Ipv4(ip) => IpAddr::V4(*ip).to_string(),
            Host::Ipv6(ip) => IpAddr::V6(*ip).to_string(),
        }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// The value of the Host header: the port stands there unless it is the scheme's own (RFC 9110 7.2).
    pub fn authority(&self) -> String {
        let usual = if self.secure { 443 } else { 80 };
        if self.port == usual { self.host.to_string() } else { format!("{}:{}", self.host, self.port) }
    }

    /// Path and query.
    pub fn target(&self) -> &str {
        &self.target
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `text` becomes this place, Host header and target; or a part of why it can't be used.
    #[track_caller]
    fn check(text: &str, expected: Result<[&str; 3], &str>) {
        match (Endpoint::parse(text), expected) {
            (Ok(found), Ok(expected)) => {
                assert_eq!([found.place(), found.authority(), found.target().to_owned()], expected, "{text}");
                assert_eq!(found.text(), text);
                assert_eq!(format!("{found:?}"), found.place(), "a token isn't shown");
            }
            (Err(fault), Err(part)) => assert!(fault.contains(part), "{text}: {fault}"),
            (found, _) => panic!("{text}: {found:?}"),
        }
    }

    #[test]
    fn a_place_is_taken_apart() {
        check("https://ops.example.org", Ok(["https://ops.example.org:443", "ops.example.org", "/"]));
        check(
            "https://OPS.example.org:443/hook?token=a%20b",
            Ok(["https://ops.example.org:443", "ops.example.org", "/hook?token=a%20b"]),
        );
        check("http://127.0.0.1:8080/a b", Ok(["http://127.0.0.1:8080", "127.0.0.1:8080", "/a%20b"]));
        check("http://[::1]/", Ok(["http://[::1]:80", "[::1]", "/"]));
        check("https://bücher.example/x", Ok(["https://xn--bcher-kva.example:443", "xn--bcher-kva.example", "/x"]));
        for (text, part) in [
            ("", "not a URL"),
            ("ops.example.org/hook", "not a URL"),
            ("ftp://ops.example.org/", "neither http nor https"),
            ("file:///etc/passwd", "neither"),
            ("https://ann:secret@ops.example.org/", "a name or a password"),
            ("https://ann@ops.example.org/", "a name or a password"),
            ("https://ops.example.org/#top", "fragment"),
            ("https://ops.example.org:0/", "no port"),
            ("https://ops.example.org:99999/", "not a URL"),
            ("https://", "not a URL"),
        ] {
            check(text, Err(part));
        }
        check(&format!("https://a.example/{}", "x".repeat(LONGEST)), Err("more than 2048 bytes"));
    }
}
