//! Mailboxes and paths (RFC 5321 4.1.2). Written out again from their parts, in one canonical form.
//!
//! The parser is liberal where no byte can change the meaning of a line, since real senders are:
//!
//! - A local part may be as long as the line has room for. Forwarding, SRS, VERP and list tokens exceed the 64 octets
//!   that RFC 5321 4.5.3.1.1 grants.
//! - Dots may stand anywhere in it.
//! - A path may lack its angle brackets.
//!
//! It is strict in everything else. The backend may make of such a local part what it likes, but it must get the same
//! local part.
//!
//! International addresses (RFC 6531) are read as well; whether they may be used is decided where SMTPUTF8 is known.
//!
//! Source routes (`<@a:user@b>`) are refused by name; nobody needs them, and they are a way around relay rules.

use std::borrow::Cow;
use std::fmt::{self, Display as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::host;

/// The host of a mailbox, or the name that a host calls itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Host {
    /// A name that has a [`host::key`], without a final dot; the case is kept.
    Name(Box<str>),
    /// An address literal.
    Literal(IpAddr),
}

/// `local@domain`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mailbox {
    /// Without quotes and backslashes.
    local: Box<str>,
    domain: Host,
}

/// The argument of MAIL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReversePath {
    /// `<>`: a notification, which must not be answered.
    Null,
    Mailbox(Mailbox),
}

/// The argument of RCPT.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ForwardPath {
    /// `<postmaster>` without a domain, in any case.
    Postmaster,
    Mailbox(Mailbox),
}

/// The reason why an address isn't one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    #[error("no address, or brackets or quotes that do not end")]
    Brackets,
    #[error("source routes are not taken")]
    SourceRoute,
    #[error("the address has no domain")]
    NoDomain,
    #[error("the local part is not valid")]
    Local,
    #[error("the domain is not valid")]
    Domain,
}

impl Host {
    /// A domain name or an address literal.
    pub fn parse(text: &str) -> Option<Self> {
        if let Some(literal) = text.strip_prefix('[') {
            let literal = literal.strip_suffix(']')?;
            let tag = literal.get(..5).filter(|tag| tag.eq_ignore_ascii_case("IPv6:"));
            return match tag {
                Some(_) => literal[5..].parse::<Ipv6Addr>().ok().map(|ip| Self::Literal(ip.into())),
                None => literal.parse::<Ipv4Addr>().ok().map(|ip| Self::Literal(ip.into())),
            };
        }
        host::key(text).map(|_| Self::Name(text.strip_suffix('.').unwrap_or(text).into()))
    }

    /// For comparing and for DNS: lower case, and an international name in its ASCII form.
    pub fn key(&self) -> Cow<'_, str> {
        match self {
            Self::Name(name) => host::key(name).unwrap_or_default(),
            Self::Literal(_) => self.to_string().into(),
        }
    }

    /// Whether it can go to a server without SMTPUTF8.
    pub fn is_ascii(&self) -> bool {
        match self {
            Self::Name(name) => name.is_ascii(),
            Self::Literal(_) => true,
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Literal(IpAddr::V4(ip)) => write!(f, "[{ip}]"),
            Self::Literal(IpAddr::V6(ip)) => write!(f, "[IPv6:{ip}]"),
        }
    }
}

impl Mailbox {
    /// `local@domain`, without angle brackets.
    pub fn parse(text: &str) -> Result<Self, AddressError> {
        if text.starts_with('@') {
            return Err(AddressError::SourceRoute);
        }
        let (local, rest) = if text.starts_with('"') { quoted(text)? } else { plain(text)? };
        let domain = rest.strip_prefix('@').ok_or(AddressError::NoDomain)?;
        let domain = Host::parse(domain).ok_or(AddressError::Domain)?;
        Ok(Self { local: local.into(), domain })
    }

    /// The local part, without quotes and backslashes.
    pub fn local(&self) -> &str {
        &self.local
    }

    /// Where it is.
    pub fn domain(&self) -> &Host {
        &self.domain
    }

    /// For comparing: lower case, without quotes, the domain in ASCII.
    pub fn key(&self) -> String {
        let domain = self.domain.key();
        let mut key = String::with_capacity(self.local.len().saturating_add(1).saturating_add(domain.len()));
        match self.local.is_ascii() {
            true => key.push_str(&self.local),
            false => key.push_str(&self.local.to_lowercase()),
        }
        key.make_ascii_lowercase();
        key.push('@');
        key.push_str(&domain);
        key
    }

    /// Whether it can go to a server without SMTPUTF8.
    pub fn is_ascii(&self) -> bool {
        self.local.is_ascii() && self.domain.is_ascii()
    }

    /// Whether the local part names another way to go: `user%other`, `other!user`, `user@other`, or what Exchange makes
    /// of that, `IMCEASMTP-user+40other`.
    pub fn is_indirect(&self) -> bool {
        const ENCAPSULATED: &str = "IMCEASMTP-";
        let head = self.local.get(..ENCAPSULATED.len());
        self.local.contains(['%', '!', '@']) || head.is_some_and(|head| head.eq_ignore_ascii_case(ENCAPSULATED))
    }
}

impl fmt::Display for Mailbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if is_dotted(&self.local) {
            f.write_str(&self.local)?;
            f.write_char('@')?;
            return self.domain.fmt(f);
        }
        f.write_str("\"")?;
        for c in self.local.chars() {
            if matches!(c, '"' | '\\') {
                f.write_str("\\")?;
            }
            write!(f, "{c}")?;
        }
        write!(f, "\"@{}", self.domain)
    }
}

fn is_atext(c: char) -> bool {
    c.is_ascii_alphanumeric() || "!#$%&'*+-/=?^_`{|}~".contains(c) || is_international(c)
}

/// Letters that RFC 6531 3.3 adds, without those that can't be seen or would break a line somewhere.
fn is_international(c: char) -> bool {
    !c.is_ascii() && !c.is_control() && !c.is_whitespace()
}

/// Whether `local` needs no quotes. More than a Dot-string (RFC 5321 4.1.2): dots may lead, trail and follow each other.
fn is_dotted(local: &str) -> bool {
    !local.is_empty() && local.chars().all(|c| c == '.' || is_atext(c))
}

/// A local part without quotes, and what follows it.
fn plain(text: &str) -> Result<(String, &str), AddressError> {
    let end = text.find('@').ok_or(AddressError::NoDomain)?;
    let (local, rest) = text.split_at(end);
    if is_dotted(local) { Ok((local.to_owned(), rest)) } else { Err(AddressError::Local) }
}

/// A quoted local part, unquoted, and what follows it.
fn quoted(text: &str) -> Result<(String, &str), AddressError> {
    let mut local = String::new();
    let mut chars = text.char_indices().skip(1);
    while let Some((at, c)) = chars.next() {
        let c = match c {
            '"' if local.is_empty() => return Err(AddressError::Local),
            '"' => return Ok((local, &text[at + 1..])),
            '\\' => chars.next().map(|(_, escaped)| escaped).ok_or(AddressError::Local)?,
            c => c,
        };
        if !matches!(c, ' '..='~') && !is_international(c) {
            return Err(AddressError::Local);
        }
        local.push(c);
    }
    Err(AddressError::Local)
}

/// The text in angle brackets at the start of `text`, without the spaces around it, and what follows it. Where there are no
/// brackets, what stands before the first space. Neither a `>` nor a space in quotes ends it.
fn path(text: &str) -> Result<(&str, &str), AddressError> {
    let (inner, is_end): (_, fn(u8) -> bool) = match text.strip_prefix('<') {
        Some(inner) => (inner, |byte| byte == b'>'),
        None => (text, |byte| matches!(byte, b' ' | b'\t')),
    };
    let (mut in_quotes, mut escaped) = (false, false);
    let end = inner.bytes().position(|byte| {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_quotes => escaped = true,
            b'"' => in_quotes = !in_quotes,
            _ if !in_quotes => return is_end(byte),
            _ => {}
        }
        false
    });
    match end {
        Some(end) if text.starts_with('<') => Ok((inner[..end].trim_matches([' ', '\t']), &inner[end + 1..])),
        Some(end) => Ok(inner.split_at(end)),
        None if text.starts_with('<') || text.is_empty() || in_quotes => Err(AddressError::Brackets),
        None => Ok((inner, "")),
    }
}

impl ReversePath {
    /// The path at the start of `text`, and what follows it.
    pub fn parse(text: &str) -> Result<(Self, &str), AddressError> {
        let (inner, rest) = path(text)?;
        let path = if inner.is_empty() { Self::Null } else { Self::Mailbox(Mailbox::parse(inner)?) };
        Ok((path, rest))
    }
}

impl ReversePath {
    /// See [`Mailbox::is_ascii`].
    pub fn is_ascii(&self) -> bool {
        match self {
            Self::Null => true,
            Self::Mailbox(mailbox) => mailbox.is_ascii(),
        }
    }
}

impl ForwardPath {
    /// See [`Mailbox::is_ascii`].
    pub fn is_ascii(&self) -> bool {
        match self {
            Self::Postmaster => true,
            Self::Mailbox(mailbox) => mailbox.is_ascii(),
        }
    }

    /// The path at the start of `text`, and what follows it.
    pub fn parse(text: &str) -> Result<(Self, &str), AddressError> {
        let (inner, rest) = path(text)?;
        let path = match inner.eq_ignore_ascii_case("postmaster") {
            true => Self::Postmaster,
            false => Self::Mailbox(Mailbox::parse(inner)?),
        };
        Ok((path, rest))
    }

    /// For comparing: see [`Mailbox::key`].
    pub fn key(&self) -> String {
        match self {
            Self::Postmaster => "postmaster".to_owned(),
            Self::Mailbox(mailbox) => mailbox.key(),
        }
    }

    /// For counting who is known: the key without what follows a `+`. One user has as many of those as anybody likes to
    /// make up.
    pub fn user_key(&self) -> String {
        let key = self.key();
        match (key.find('+'), key.rfind('@')) {
            (Some(plus), Some(at)) if (1..at).contains(&plus) => format!("{}{}", &key[..plus], &key[at..]),
            _ => key,
        }
    }
}

impl fmt::Display for ReversePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("<>"),
            Self::Mailbox(mailbox) => in_brackets(mailbox, f),
        }
    }
}

impl fmt::Display for ForwardPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Postmaster => f.write_str("<postmaster>"),
            Self::Mailbox(mailbox) => in_brackets(mailbox, f),
        }
    }
}

fn in_brackets(mailbox: &Mailbox, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    f.write_char('<')?;
    mailbox.fmt(f)?;
    f.write_char('>')
}

#[cfg(test)]
mod tests;
