//! AUTH (RFC 4954) with the mechanisms PLAIN (RFC 4616) and LOGIN: what the client sends, and what goes to the backend.
//!
//! What a client sends here is a secret: it is wiped from memory when it is dropped, and printing it shows none of it.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

/// Bytes of a user name, and of a password.
pub const MAX_NAME: usize = 255;
/// See [`MAX_NAME`].
pub const MAX_PASSWORD: usize = 1024;

/// The way in which the client proves who it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mechanism {
    Plain,
    Login,
}

/// Text that must not be seen.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<Box<[u8]>>);

/// The name that the client claims, and its proof.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credentials {
    user: Box<str>,
    password: Secret,
}

/// The reason why a response isn't one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SaslError {
    #[error("the client gave up")]
    Cancelled,
    #[error("a response that is not base64")]
    Base64,
    #[error("a response of the wrong form")]
    Form,
}

impl Mechanism {
    /// The mechanism of that name, in any case.
    pub fn named(name: &str) -> Option<Self> {
        match name.to_ascii_uppercase().as_str() {
            "PLAIN" => Some(Self::Plain),
            "LOGIN" => Some(Self::Login),
            _ => None,
        }
    }
}

impl Secret {
    /// Takes the bytes of a line.
    pub fn new(bytes: &[u8]) -> Self {
        Self(Zeroizing::new(bytes.into()))
    }

    /// Decodes base64. `=` alone is the empty response of RFC 4954 4, `*` the end of the attempt.
    pub fn decode(&self) -> Result<Self, SaslError> {
        match &**self.0 {
            b"*" => Err(SaslError::Cancelled),
            b"=" => Ok(Self::new(b"")),
            text => {
                let decoded = Zeroizing::new(STANDARD.decode(text).map_err(|_| SaslError::Base64)?);
                Ok(Self::new(&decoded))
            }
        }
    }

    /// The bytes, for whoever has to pass them on.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

impl Credentials {
    /// User and password as the mechanism LOGIN has them, each alone.
    pub fn login(user: &Secret, password: Secret) -> Result<Self, SaslError> {
        let user = std::str::from_utf8(user.expose()).map_err(|_| SaslError::Form)?;
        let length = password.expose().len();
        let sound = (1..=MAX_NAME).contains(&user.len()) && !user.chars().any(char::is_control);
        if !sound || !(1..=MAX_PASSWORD).contains(&length) || password.expose().contains(&0) {
            return Err(SaslError::Form);
        }
        Ok(Self { user: user.into(), password })
    }

    /// The message of PLAIN: `[authzid] NUL authcid NUL password`. To act for another (an authzid that isn't the
    /// authcid) is not supported.
    pub fn plain(message: &Secret) -> Result<Self, SaslError> {
        let mut parts = message.expose().splitn(3, |byte| *byte == 0);
        let (Some(other), Some(user), Some(password)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(SaslError::Form);
        };
        if !other.is_empty() && other != user {
            return Err(SaslError::Form);
        }
        Self::login(&Secret::new(user), Secret::new(password))
    }

    /// The name. A stranger's word until it was proven.
    pub fn user(&self) -> &str {
        &self.user
    }

    /// The user name in base64, as LOGIN asks for it.
    pub fn user_response(&self) -> Zeroizing<String> {
        Zeroizing::new(STANDARD.encode(self.user.as_bytes()))
    }

    /// The password in base64, as LOGIN asks for it.
    pub fn password_response(&self) -> Zeroizing<String> {
        Zeroizing::new(STANDARD.encode(self.password.expose()))
    }

    /// The initial response of PLAIN, in base64.
    pub fn response(&self) -> Zeroizing<String> {
        let mut message = Zeroizing::new(Vec::with_capacity(2 + self.user.len() + self.password.expose().len()));
        message.push(0);
        message.extend_from_slice(self.user.as_bytes());
        message.push(0);
        message.extend_from_slice(self.password.expose());
        Zeroizing::new(STANDARD.encode(&*message))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(message: &str, expected: Result<(&str, &str), SaslError>) {
        let found = Secret::new(message.as_bytes()).decode().and_then(|message| Credentials::plain(&message));
        let found = found.as_ref().map(|c| (c.user(), std::str::from_utf8(c.password.expose()).unwrap()));
        assert_eq!(found, expected.as_ref().map(|pair| *pair), "{message:?}");
    }

    #[test]
    fn plain_in_all_its_forms() {
        check(&STANDARD.encode("\0user\0pass word"), Ok(("user", "pass word")));
        check(&STANDARD.encode("user\0user\0p"), Ok(("user", "p")));
        check(&STANDARD.encode("\0\u{fc}ser@x\0\u{e9}"), Ok(("\u{fc}ser@x", "\u{e9}")));
        check(&STANDARD.encode("other\0user\0p"), Err(SaslError::Form));
        for message in ["", "user", "\0user", "\0\0p", "\0user\0", "\0us\ner\0p", "\0user\0p\0q"] {
            check(&STANDARD.encode(message), Err(SaslError::Form));
        }
        check(&STANDARD.encode(format!("\0{}\0p", "u".repeat(256))), Err(SaslError::Form));
        check(&STANDARD.encode(format!("\0u\0{}", "p".repeat(1025))), Err(SaslError::Form));
        check("*", Err(SaslError::Cancelled));
        check("=", Err(SaslError::Form));
        for text in ["a", "ab=c", "a b=", "\u{fc}", "AHVzZXIAcA"] {
            check(text, Err(SaslError::Base64));
        }
    }

    #[test]
    fn what_was_read_is_written_and_never_shown() {
        let text = STANDARD.encode("\0user\0hunter2");
        let credentials = Credentials::plain(&Secret::new(text.as_bytes()).decode().unwrap()).unwrap();
        assert_eq!(*credentials.response(), text);
        assert_eq!(format!("{credentials:?}"), "Credentials { user: \"user\", password: Secret }");
    }
}
