//! The arguments of MAIL and RCPT: a path, and the parameters of RFC 1870 (SIZE), 6152 (8BITMIME), 3461 (DSN),
//! 6531 (SMTPUTF8), 8689 (REQUIRETLS) and 4954 (AUTH).
//!
//! All of them are understood here; which of them may be used is for whoever knows what was offered ([`MailFrom::uses`],
//! [`RcptTo::uses`]). Text in them is decoded, judged and encoded again ([`XText`]).

use std::fmt;

use super::address::{ForwardPath, ReversePath};
use super::command::{CommandError, SPACES};
use super::xtext::XText;

/// Bytes of ENVID (RFC 3461 4.4).
const MAX_ENVID: usize = 100;

/// MAIL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MailFrom {
    pub path: ReversePath,
    /// Bytes that the client announces.
    pub size: Option<u64>,
    pub body: Option<BodyType>,
    /// International addresses and headers.
    pub smtputf8: bool,
    /// Never over a connection that isn't verified.
    pub requiretls: bool,
    /// The part of the message that notifications return.
    pub ret: Option<Ret>,
    /// The sender's name for this envelope.
    pub envid: Option<XText>,
    /// AUTH= was given. Its value is a claim of the client's that nothing here believes; it isn't kept.
    pub auth: bool,
}

/// The parameter BODY.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyType {
    SevenBit,
    EightBitMime,
}

/// The parameter RET.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ret {
    Full,
    Headers,
}

/// RCPT.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RcptTo {
    pub path: ForwardPath,
    pub notify: Option<Notify>,
    pub orcpt: Option<OriginalRecipient>,
}

/// The parameter NOTIFY: when the sender wants to be told. None of the three is NEVER.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Notify {
    pub success: bool,
    pub failure: bool,
    pub delay: bool,
}

/// The parameter ORCPT: `rfc822;user@example.org`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OriginalRecipient {
    kind: Box<str>,
    address: XText,
}

/// The extensions that an envelope makes use of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Uses {
    /// Any parameter at all: EHLO is needed.
    pub parameters: bool,
    pub eight_bit_mime: bool,
    pub smtputf8: bool,
    pub dsn: bool,
    pub requiretls: bool,
    pub auth: bool,
}

impl MailFrom {
    /// A sender without parameters.
    pub fn new(path: ReversePath) -> Self {
        Self { path, size: None, body: None, smtputf8: false, requiretls: false, ret: None, envid: None, auth: false }
    }

    /// Reads what stands behind `MAIL FROM:`.
    pub(super) fn parse(argument: &str) -> Result<Self, CommandError> {
        let (path, rest) = ReversePath::parse(argument).map_err(CommandError::Sender)?;
        let mut mail = Self::new(path);
        for parameter in parameters(rest, "MAIL")? {
            let (name, value) =
                parameter.split_once('=').map_or((parameter, None), |(name, value)| (name, Some(value)));
            match name.to_ascii_uppercase().as_str() {
                // Some clients announce a size that they don't know.
                "SIZE" if value.is_none_or(str::is_empty) => {}
                "SIZE" => set(&mut mail.size, value.and_then(size))?,
                "BODY" => set(&mut mail.body, value.and_then(BodyType::named))?,
                "RET" => set(&mut mail.ret, value.and_then(Ret::named))?,
                "ENVID" => set(&mut mail.envid, value.and_then(envid))?,
                "SMTPUTF8" => flag(&mut mail.smtputf8, value)?,
                "REQUIRETLS" => flag(&mut mail.requiretls, value)?,
                "AUTH" => {
                    let sound = value.is_some_and(|value| value == "<>" || XText::decode(value).is_some());
                    flag(&mut mail.auth, (!sound).then_some(""))?;
                }
                _ => return Err(CommandError::UnknownParameter),
            }
        }
        if !mail.smtputf8 && !mail.path.is_ascii() {
            return Err(CommandError::NeedsSmtpUtf8);
        }
        Ok(mail)
    }

    /// The extensions that it needs.
    pub fn uses(&self) -> Uses {
        let dsn = self.ret.is_some() || self.envid.is_some();
        let parameters =
            dsn || self.size.is_some() || self.body.is_some() || self.smtputf8 || self.requiretls || self.auth;
        Uses {
            parameters,
            eight_bit_mime: self.body.is_some(),
            smtputf8: self.smtputf8,
            dsn,
            requiretls: self.requiretls,
            auth: self.auth,
        }
    }
}

impl RcptTo {
    /// A recipient without parameters.
    pub fn new(path: ForwardPath) -> Self {
        Self { path, notify: None, orcpt: None }
    }

    /// Reads what stands behind `RCPT TO:`.
    pub(super) fn parse(argument: &str) -> Result<Self, CommandError> {
        let (path, rest) = ForwardPath::parse(argument).map_err(CommandError::Recipient)?;
        let mut rcpt = Self::new(path);
        for parameter in parameters(rest, "RCPT")? {
            let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
            match name.to_ascii_uppercase().as_str() {
                "NOTIFY" => set(&mut rcpt.notify, Notify::parse(value))?,
                "ORCPT" => set(&mut rcpt.orcpt, OriginalRecipient::parse(value))?,
                _ => return Err(CommandError::UnknownParameter),
            }
        }
        Ok(rcpt)
    }

    /// The same without a notice of delivery. Who wanted nothing but that is told nothing (RFC 3461 4.1).
    #[must_use]
    pub fn without_success_notice(mut self) -> Self {
        if let Some(notify) = &mut self.notify {
            notify.success = false;
        }
        self
    }

    /// The extensions that it needs.
    pub fn uses(&self) -> Uses {
        let dsn = self.notify.is_some() || self.orcpt.is_some();
        Uses { parameters: dsn, smtputf8: !self.path.is_ascii(), dsn, ..Uses::default() }
    }
}

/// The words behind a path.
fn parameters<'a>(rest: &'a str, verb: &'static str) -> Result<impl Iterator<Item = &'a str>, CommandError> {
    if !rest.is_empty() && !rest.starts_with(SPACES) {
        return Err(CommandError::Argument(verb));
    }
    if !rest.is_ascii() {
        return Err(CommandError::BadParameter);
    }
    Ok(rest.split(SPACES).filter(|word| !word.is_empty()))
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

/// A parameter without a value, given once.
fn flag(place: &mut bool, value: Option<&str>) -> Result<(), CommandError> {
    if value.is_some() || std::mem::replace(place, true) { Err(CommandError::BadParameter) } else { Ok(()) }
}

fn size(value: &str) -> Option<u64> {
    let digits = (1..=20).contains(&value.len()) && value.bytes().all(|byte| byte.is_ascii_digit());
    // Twenty digits may be more than there is room for: as good as endless, and refused by the limit.
    digits.then(|| value.parse().unwrap_or(u64::MAX))
}

fn envid(value: &str) -> Option<XText> {
    XText::decode(value).filter(|envid| value.len() <= MAX_ENVID && envid.as_str().is_ascii())
}

impl BodyType {
    fn named(value: &str) -> Option<Self> {
        [Self::SevenBit, Self::EightBitMime].into_iter().find(|kind| value.eq_ignore_ascii_case(kind.keyword()))
    }

    const fn keyword(self) -> &'static str {
        match self {
            Self::SevenBit => "7BIT",
            Self::EightBitMime => "8BITMIME",
        }
    }
}

impl Ret {
    fn named(value: &str) -> Option<Self> {
        [Self::Full, Self::Headers].into_iter().find(|ret| value.eq_ignore_ascii_case(ret.keyword()))
    }

    const fn keyword(self) -> &'static str {
        match self {
            Self::Full => "FULL",
            Self::Headers => "HDRS",
        }
    }
}

impl Notify {
    fn parse(value: &str) -> Option<Self> {
        let mut notify = Self::default();
        if value.eq_ignore_ascii_case("NEVER") {
            return Some(notify);
        }
        for word in value.split(',') {
            let place = match word.to_ascii_uppercase().as_str() {
                "SUCCESS" => &mut notify.success,
                "FAILURE" => &mut notify.failure,
                "DELAY" => &mut notify.delay,
                _ => return None,
            };
            if std::mem::replace(place, true) {
                return None;
            }
        }
        Some(notify)
    }
}

impl OriginalRecipient {
    fn parse(value: &str) -> Option<Self> {
        let (kind, address) = value.split_once(';')?;
        let is_kind = (1..=20).contains(&kind.len()) && kind.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        (is_kind && value.len() <= XText::MAX).then_some(())?;
        Some(Self { kind: kind.into(), address: XText::decode(address)? })
    }
}

impl fmt::Display for Notify {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = [(self.success, "SUCCESS"), (self.failure, "FAILURE"), (self.delay, "DELAY")];
        let mut comma = "";
        for (_, word) in words.into_iter().filter(|(wanted, _)| *wanted) {
            write!(f, "{comma}{word}")?;
            comma = ",";
        }
        if comma.is_empty() { f.write_str("NEVER") } else { Ok(()) }
    }
}

/// As it stands behind `MAIL`.
impl fmt::Display for MailFrom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FROM:{}", self.path)?;
        if let Some(size) = self.size {
            write!(f, " SIZE={size}")?;
        }
        if let Some(body) = self.body {
            write!(f, " BODY={}", body.keyword())?;
        }
        if self.smtputf8 {
            f.write_str(" SMTPUTF8")?;
        }
        if self.requiretls {
            f.write_str(" REQUIRETLS")?;
        }
        if let Some(ret) = self.ret {
            write!(f, " RET={}", ret.keyword())?;
        }
        match &self.envid {
            Some(envid) => write!(f, " ENVID={envid}"),
            None => Ok(()),
        }
    }
}

/// As it stands behind `RCPT`.
impl fmt::Display for RcptTo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TO:{}", self.path)?;
        if let Some(notify) = self.notify {
            write!(f, " NOTIFY={notify}")?;
        }
        match &self.orcpt {
            Some(orcpt) => write!(f, " ORCPT={};{}", orcpt.kind, orcpt.address),
            None => Ok(()),
        }
    }
}
