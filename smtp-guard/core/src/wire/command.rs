//! Commands (RFC 5321 4.1.1): from a line to a typed value, and back to a line for the backend.
//!
//! Printable ASCII only (but for international addresses). White space is taken wherever it separates. Real clients put spaces
//! and tabs before and behind a verb, around `FROM:` and `TO:`, and at the end of a line. It never goes out again.

use std::fmt::{self, Write as _};

use bytes::BytesMut;

use super::address::AddressError;
use super::envelope::{MailFrom, RcptTo};
use super::line::LineFlaw;
use super::reply::Reply;
use super::sasl::{Mechanism, Secret};

/// Bytes of most commands.
const USUAL: usize = 64;

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
    StartTls,
    Auth(Auth),
    Vrfy,
    Bdat(Bdat),
    // The rest is recognised to be refused rightly.
    Expn,
    Xclient,
}

/// BDAT (RFC 3030): a chunk of message data follows at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bdat {
    /// Its bytes. More than a number can say are [`u64::MAX`].
    pub size: u64,
    /// Whether it ends the message.
    pub last: bool,
}

/// AUTH (RFC 4954).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Auth {
    /// `None`: one that isn't known here.
    pub mechanism: Option<Mechanism>,
    /// The client's first response, in base64.
    pub initial: Option<Secret>,
}

/// The name that a client calls itself. Wrong more often than right: shown, never believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Helo(Box<str>);

/// The reason why a line isn't a command. Its text never holds bytes of the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    #[error("unknown command")]
    Unrecognized,
    #[error("a command of another protocol")]
    OtherProtocol,
    #[error("{0}")]
    Line(LineFlaw),
    /// The bytes behind this can't be told from commands.
    #[error("a chunk without a length")]
    Chunk,
    #[error("bytes that are not printable ASCII")]
    NotAscii,
    #[error("wrong argument of {0}")]
    Argument(&'static str),
    #[error("bad sender: {0}")]
    Sender(AddressError),
    #[error("bad recipient: {0}")]
    Recipient(AddressError),
    #[error("an international address without SMTPUTF8")]
    NeedsSmtpUtf8,
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
            Self::Chunk => "a bad line that announces a chunk",
        })
    }
}

impl From<LineFlaw> for CommandError {
    fn from(flaw: LineFlaw) -> Self {
        if flaw == LineFlaw::Chunk { Self::Chunk } else { Self::Line(flaw) }
    }
}

impl CommandError {
    /// The reply to the client.
    pub fn reply(&self) -> Reply {
        match self {
            Self::Unrecognized | Self::OtherProtocol => Reply::new(500, Some((5, 5, 2)), "Command not recognized"),
            Self::Line(LineFlaw::TooLong) => Reply::new(500, Some((5, 5, 2)), "Line too long"),
            Self::Line(_) | Self::NotAscii => Reply::new(500, Some((5, 5, 2)), "Bad characters in a command"),
            Self::Chunk => Reply::new(501, Some((5, 5, 4)), "Wrong argument of BDAT"),
            Self::Argument(_) => Reply::new(501, Some((5, 5, 4)), "Wrong argument"),
            Self::Sender(error) => Reply::new(501, Some((5, 1, 7)), format!("Bad sender address: {error}")),
            Self::Recipient(error) => Reply::new(501, Some((5, 1, 3)), format!("Bad recipient address: {error}")),
            Self::NeedsSmtpUtf8 => Reply::new(553, Some((5, 6, 7)), "An international address needs SMTPUTF8"),
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
    let line = &line[line.iter().position(|byte| !is_space(*byte)).unwrap_or(line.len())..];
    let end = line.iter().position(|byte| is_space(*byte)).unwrap_or(line.len());
    // The longest verb has eight letters: what is longer isn't copied.
    let mut upper = [0; 8];
    let Some(verb) = upper.get_mut(..end) else {
        return Err(if is_text(line) { CommandError::Unrecognized } else { CommandError::NotAscii });
    };
    verb.copy_from_slice(&line[..end]);
    verb.make_ascii_uppercase();
    if HTTP.contains(&&*verb) {
        return Err(CommandError::OtherProtocol);
    }
    // Bytes that are not ASCII may stand in addresses only, as UTF-8 without control characters.
    let line = match std::str::from_utf8(line) {
        Ok(line) if is_text(line.as_bytes()) => line,
        Ok(line) if matches!(&*verb, b"MAIL" | b"RCPT" | b"VRFY") && !line.chars().any(is_control) => line,
        _ if verb == b"BDAT" => return Err(CommandError::Chunk),
        _ => return Err(CommandError::NotAscii),
    };
    let argument = line.get(end..).unwrap_or_default().trim_matches(SPACES);
    let alone = |command: Command, name| match argument {
        "" => Ok(command),
        _ => Err(CommandError::Argument(name)),
    };
    match &*verb {
        b"EHLO" => helo(argument, "EHLO").map(Command::Ehlo),
        b"HELO" => helo(argument, "HELO").map(Command::Helo),
        b"MAIL" => MailFrom::parse(after(argument, "FROM", "MAIL")?).map(Command::Mail),
        b"RCPT" => RcptTo::parse(after(argument, "TO", "RCPT")?).map(Command::Rcpt),
        b"DATA" => alone(Command::Data, "DATA"),
        b"RSET" => alone(Command::Rset, "RSET"),
        b"QUIT" => alone(Command::Quit, "QUIT"),
        b"STARTTLS" => alone(Command::StartTls, "STARTTLS"),
        b"AUTH" => auth(argument).map(Command::Auth),
        b"NOOP" => Ok(Command::Noop),
        b"HELP" => Ok(Command::Help),
        b"VRFY" => Ok(Command::Vrfy),
        b"EXPN" => Ok(Command::Expn),
        b"BDAT" => bdat(argument).map(Command::Bdat),
        b"XCLIENT" | b"XFORWARD" => Ok(Command::Xclient),
        _ => Err(CommandError::Unrecognized),
    }
}

/// Verbs of HTTP: whoever sends them is misused as a relay by somebody else.
const HTTP: [&[u8]; 9] = [b"GET", b"POST", b"HEAD", b"PUT", b"DELETE", b"OPTIONS", b"CONNECT", b"TRACE", b"PATCH"];

/// Characters that may stand between the words of a command.
pub(super) const SPACES: [char; 2] = [' ', '\t'];

fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t')
}

fn is_text(line: &[u8]) -> bool {
    line.iter().all(|byte| matches!(byte, b' '..=b'~' | b'\t'))
}

fn is_control(c: char) -> bool {
    c.is_control() && c != '\t'
}

fn auth(argument: &str) -> Result<Auth, CommandError> {
    let mut words = argument.split(SPACES).filter(|word| !word.is_empty());
    let (Some(mechanism), initial, None) = (words.next(), words.next(), words.next()) else {
        return Err(CommandError::Argument("AUTH"));
    };
    Ok(Auth { mechanism: Mechanism::named(mechanism), initial: initial.map(|initial| Secret::new(initial.as_bytes())) })
}

/// Digits, then nothing or `LAST`. Whatever else there is, nobody knows how much follows.
fn bdat(argument: &str) -> Result<Bdat, CommandError> {
    let mut words = argument.split(SPACES).filter(|word| !word.is_empty());
    let (size, last) = match (words.next(), words.next(), words.next()) {
        (Some(size), None, None) => (size, false),
        (Some(size), Some(last), None) if last.eq_ignore_ascii_case("LAST") => (size, true),
        _ => return Err(CommandError::Chunk),
    };
    if !size.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(CommandError::Chunk);
    }
    Ok(Bdat { size: size.parse().unwrap_or(u64::MAX), last })
}

/// The first of several words: computers have names like `Office PC`.
fn helo(argument: &str, name: &'static str) -> Result<Helo, CommandError> {
    let word = argument.split(SPACES).next().unwrap_or_default();
    Helo::new(word).ok_or(CommandError::Argument(name))
}

impl Helo {
    /// A name of 1 to 255 printable ASCII characters without spaces: real clients send odd ones.
    pub fn new(name: &str) -> Option<Self> {
        let is_name = (1..=255).contains(&name.len()) && name.bytes().all(|byte| matches!(byte, b'!'..=b'~'));
        is_name.then(|| Self(name.into()))
    }

    /// The name as it was given.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name for logs and for our Received header: at most 100 characters, and `?` for those that have a meaning in
    /// a header.
    pub fn printable(&self) -> String {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':' | '[' | ']');
        self.0.chars().take(100).map(|c| if is_plain(c) { c } else { '?' }).collect()
    }
}

/// The text behind `keyword` and its colon, without the white space around it.
fn after<'a>(argument: &'a str, keyword: &str, verb: &'static str) -> Result<&'a str, CommandError> {
    let (head, rest) = argument.split_once(':').ok_or(CommandError::Argument(verb))?;
    if !head.trim_end_matches(SPACES).eq_ignore_ascii_case(keyword) {
        return Err(CommandError::Argument(verb));
    }
    Ok(rest.trim_start_matches(SPACES))
}

impl Command {
    /// Appends the command as it goes to the backend, written out from its parts.
    pub fn encode(&self, out: &mut BytesMut) {
        out.reserve(USUAL);
        // Writing to a buffer that grows can't fail.
        let _ = write!(out, "{self}\r\n");
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ehlo(helo) => write!(f, "EHLO {}", helo.0),
            Self::Helo(helo) => write!(f, "HELO {}", helo.0),
            Self::Mail(mail) => write!(f, "MAIL {mail}"),
            Self::Rcpt(rcpt) => write!(f, "RCPT {rcpt}"),
            Self::Data => f.write_str("DATA"),
            Self::Rset => f.write_str("RSET"),
            Self::Noop => f.write_str("NOOP"),
            Self::Quit => f.write_str("QUIT"),
            Self::Help => f.write_str("HELP"),
            Self::Vrfy => f.write_str("VRFY"),
            Self::Expn => f.write_str("EXPN"),
            Self::Bdat(Bdat { size, last }) => write!(f, "BDAT {size}{}", if *last { " LAST" } else { "" }),
            Self::StartTls => f.write_str("STARTTLS"),
            // Without its argument, which is a secret.
            Self::Auth(_) => f.write_str("AUTH"),
            Self::Xclient => f.write_str("XCLIENT"),
        }
    }
}

#[cfg(test)]
mod tests;
