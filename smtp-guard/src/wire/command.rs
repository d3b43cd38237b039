//! Commands (RFC 5321 4.1.1): from a line to a typed value, and back to a line for the backend.
//!
//! Strict: printable ASCII only, the grammar and nothing beside it. One thing is tolerated because many clients do it:
//! a space after `FROM:` and `TO:`, and spaces at the end of a line.

use std::fmt;

use bytes::{BufMut, BytesMut};

use super::address::{AddressError, ForwardPath, ReversePath};
use super::line::LineFlaw;
use super::reply::Reply;

/// A command of a client, or to the backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    Ehlo(Helo),
    Helo(Helo),
    Mail(MailFrom),
    Rcpt(RcptTo),
    Data,
    Rset,
    Noop,
    Quit,
    Help,
    // The rest is recognised to be refused rightly. Arguments are not kept: that of AUTH is a secret.
    Vrfy,
    Expn,
    Bdat,
    StartTls,
    Auth,
    Xclient,
}

/// What a client calls itself. Wrong more often than right: shown, never believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Helo(Box<str>);

/// MAIL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MailFrom {
    pub path: ReversePath,
    /// Bytes that the client announces (RFC 1870).
    pub size: Option<u64>,
    /// RFC 6152.
    pub body: Option<BodyType>,
}

/// The parameter BODY.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyType {
    SevenBit,
    EightBitMime,
}

/// RCPT.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RcptTo {
    pub path: ForwardPath,
}

/// Why a line isn't a command. Its text never holds bytes of the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    #[error("unknown command")]
    Unrecognized,
    #[error("a command of another protocol")]
    OtherProtocol,
    #[error("{0}")]
    Line(LineFlaw),
    #[error("bytes that are not printable ASCII")]
    NotAscii,
    #[error("wrong argument of {0}")]
    Argument(&'static str),
    #[error("bad sender: {0}")]
    Sender(AddressError),
    #[error("bad recipient: {0}")]
    Recipient(AddressError),
    #[error("a parameter that was not offered")]
    UnknownParameter,
    #[error("a parameter with a wrong value, or twice")]
    BadParameter,
}

impl fmt::Display for LineFlaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TooLong => "line too long",
            Self::BareLf => "bare LF in a command",
            Self::BareCr => "bare CR in a command",
            Self::Nul => "NUL in a command",
        })
    }
}

impl From<LineFlaw> for CommandError {
    fn from(flaw: LineFlaw) -> Self {
        Self::Line(flaw)
    }
}

impl CommandError {
    /// What the client hears.
    pub fn reply(&self) -> Reply {
        match self {
            Self::Unrecognized | Self::OtherProtocol => Reply::new(500, Some((5, 5, 2)), "Command not recognized"),
            Self::Line(LineFlaw::TooLong) => Reply::new(500, Some((5, 5, 2)), "Line too long"),
            Self::Line(_) | Self::NotAscii => Reply::new(500, Some((5, 5, 2)), "Bad characters in a command"),
            Self::Argument(_) => Reply::new(501, Some((5, 5, 4)), "Wrong argument"),
            Self::Sender(error) => Reply::new(501, Some((5, 1, 7)), format!("Bad sender address: {error}")),
            Self::Recipient(error) => Reply::new(501, Some((5, 1, 3)), format!("Bad recipient address: {error}")),
            Self::UnknownParameter => Reply::new(555, Some((5, 5, 4)), "Parameter was not offered"),
            Self::BadParameter => Reply::new(501, Some((5, 5, 4)), "Wrong parameter"),
        }
    }

    /// Whether the client speaks something else, such as HTTP: an answer would only help whoever misuses it.
    pub fn is_other_protocol(&self) -> bool {
        *self == Self::OtherProtocol
    }
}

/// Reads a command from a line without its CRLF.
pub fn parse(line: &[u8]) -> Result<Command, CommandError> {
    if !line.iter().all(|byte| matches!(byte, b' '..=b'~' | b'\t')) {
        return Err(CommandError::NotAscii);
    }
    let line = std::str::from_utf8(line).map_err(|_| CommandError::NotAscii)?.trim_end_matches(' ');
    let (verb, argument) = line.split_once(' ').unwrap_or((line, ""));
    let alone = |command: Command, name| match argument {
        "" => Ok(command),
        _ => Err(CommandError::Argument(name)),
    };
    // The longest verb has eight letters: what is longer isn't copied.
    let mut upper = [0; 8];
    let Some(upper) = upper.get_mut(..verb.len()) else {
        return Err(CommandError::Unrecognized);
    };
    upper.copy_from_slice(verb.as_bytes());
    upper.make_ascii_uppercase();
    match &*upper {
        b"EHLO" => helo(argument, "EHLO").map(Command::Ehlo),
        b"HELO" => helo(argument, "HELO").map(Command::Helo),
        b"MAIL" => mail(argument).map(Command::Mail),
        b"RCPT" => rcpt(argument).map(Command::Rcpt),
        b"DATA" => alone(Command::Data, "DATA"),
        b"RSET" => alone(Command::Rset, "RSET"),
        b"QUIT" => alone(Command::Quit, "QUIT"),
        b"STARTTLS" => alone(Command::StartTls, "STARTTLS"),
        b"NOOP" => Ok(Command::Noop),
        b"HELP" => Ok(Command::Help),
        b"VRFY" => Ok(Command::Vrfy),
        b"EXPN" => Ok(Command::Expn),
        b"BDAT" => Ok(Command::Bdat),
        b"AUTH" => Ok(Command::Auth),
        b"XCLIENT" | b"XFORWARD" => Ok(Command::Xclient),
        b"GET" | b"POST" | b"HEAD" | b"PUT" | b"DELETE" | b"OPTIONS" | b"CONNECT" | b"TRACE" | b"PATCH" => {
            Err(CommandError::OtherProtocol)
        }
        _ => Err(CommandError::Unrecognized),
    }
}

fn helo(argument: &str, name: &'static str) -> Result<Helo, CommandError> {
    Helo::new(argument).ok_or(CommandError::Argument(name))
}

impl Helo {
    /// A name of 1 to 255 printable ASCII characters without spaces: real clients send odd ones.
    pub fn new(name: &str) -> Option<Self> {
        let is_name = (1..=255).contains(&name.len()) && name.bytes().all(|byte| matches!(byte, b'!'..=b'~'));
        is_name.then(|| Self(name.into()))
    }

    /// The name for logs and for our Received header: at most 100 characters, and `?` for those that have a meaning in
    /// a header.
    pub fn printable(&self) -> String {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':' | '[' | ']');
        self.0.chars().take(100).map(|c| if is_plain(c) { c } else { '?' }).collect()
    }
}

fn mail(argument: &str) -> Result<MailFrom, CommandError> {
    let path = after(argument, "FROM:").ok_or(CommandError::Argument("MAIL"))?;
    let (path, rest) = ReversePath::parse(path).map_err(CommandError::Sender)?;
    let mut mail = MailFrom { path, size: None, body: None };
    for parameter in parameters(rest, "MAIL")? {
        let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        match name.to_ascii_uppercase().as_str() {
            "SIZE" => set(&mut mail.size, size(value))?,
            "BODY" => set(&mut mail.body, body(value))?,
            _ => return Err(CommandError::UnknownParameter),
        }
    }
    Ok(mail)
}

fn rcpt(argument: &str) -> Result<RcptTo, CommandError> {
    let path = after(argument, "TO:").ok_or(CommandError::Argument("RCPT"))?;
    let (path, rest) = ForwardPath::parse(path).map_err(CommandError::Recipient)?;
    match parameters(rest, "RCPT")?.next() {
        None => Ok(RcptTo { path }),
        Some(_) => Err(CommandError::UnknownParameter),
    }
}

/// What follows `keyword` and at most one space.
fn after<'a>(argument: &'a str, keyword: &str) -> Option<&'a str> {
    let (head, rest) = argument.split_at_checked(keyword.len())?;
    head.eq_ignore_ascii_case(keyword).then(|| rest.strip_prefix(' ').unwrap_or(rest))
}

/// The words behind a path.
fn parameters<'a>(rest: &'a str, verb: &'static str) -> Result<impl Iterator<Item = &'a str>, CommandError> {
    if !rest.is_empty() && !rest.starts_with(' ') {
        return Err(CommandError::Argument(verb));
    }
    Ok(rest.split(' ').filter(|word| !word.is_empty()))
}

fn set<T>(place: &mut Option<T>, value: Option<T>) -> Result<(), CommandError> {
    match (value, &place) {
        (Some(value), None) => {
            *place = Some(value);
            Ok(())
        }
        _ => Err(CommandError::BadParameter),
    }
}

fn size(value: &str) -> Option<u64> {
    let digits = (1..=20).contains(&value.len()) && value.bytes().all(|byte| byte.is_ascii_digit());
    // Twenty digits may be more than there is room for: as good as endless, and refused by the limit.
    digits.then(|| value.parse().unwrap_or(u64::MAX))
}

fn body(value: &str) -> Option<BodyType> {
    [BodyType::SevenBit, BodyType::EightBitMime].into_iter().find(|kind| value.eq_ignore_ascii_case(kind.keyword()))
}

impl BodyType {
    const fn keyword(self) -> &'static str {
        match self {
            Self::SevenBit => "7BIT",
            Self::EightBitMime => "8BITMIME",
        }
    }
}

impl Command {
    /// Appends the command as it goes to the backend, written out from its parts.
    pub fn encode(&self, out: &mut BytesMut) {
        out.put_slice(self.to_string().as_bytes());
        out.put_slice(b"\r\n");
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ehlo(helo) => write!(f, "EHLO {}", helo.0),
            Self::Helo(helo) => write!(f, "HELO {}", helo.0),
            Self::Mail(mail) => {
                write!(f, "MAIL FROM:{}", mail.path)?;
                if let Some(size) = mail.size {
                    write!(f, " SIZE={size}")?;
                }
                match mail.body {
                    Some(body) => write!(f, " BODY={}", body.keyword()),
                    None => Ok(()),
                }
            }
            Self::Rcpt(rcpt) => write!(f, "RCPT TO:{}", rcpt.path),
            Self::Data => f.write_str("DATA"),
            Self::Rset => f.write_str("RSET"),
            Self::Noop => f.write_str("NOOP"),
            Self::Quit => f.write_str("QUIT"),
            Self::Help => f.write_str("HELP"),
            Self::Vrfy => f.write_str("VRFY"),
            Self::Expn => f.write_str("EXPN"),
            Self::Bdat => f.write_str("BDAT"),
            Self::StartTls => f.write_str("STARTTLS"),
            Self::Auth => f.write_str("AUTH"),
            Self::Xclient => f.write_str("XCLIENT"),
        }
    }
}

#[cfg(test)]
mod tests;
