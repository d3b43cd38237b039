//! AUTH towards the backend: a client's credentials, over that client's own connection to it.

use std::ops::ControlFlow;

use bytes::{BufMut, BytesMut};

use crate::session::{AuthVerdict, Lost};
use crate::wire::ehlo::Capabilities;
use crate::wire::reply::Reply;
use crate::wire::sasl::Credentials;

/// Longest `AUTH PLAIN response` on one line: 512 bytes of RFC 5321 4.5.3.1.4 less CRLF.
const MAX_LINE: usize = 510;

/// An attempt under way, named after what the next reply answers.
pub(super) enum Dialogue {
    /// `AUTH PLAIN` without its response.
    Plain(Credentials),
    /// `AUTH LOGIN`.
    Login(Credentials),
    /// The user name.
    User(Credentials),
    /// The last thing that has to be said.
    Last,
}

impl Dialogue {
    /// Begins with the best mechanism that the backend has; `None`: it has none.
    pub(super) fn begin(capabilities: &Capabilities, credentials: Credentials, unsent: &mut BytesMut) -> Option<Self> {
        if capabilities.auth_plain {
            let response = credentials.response();
            if "AUTH PLAIN ".len() + response.len() <= MAX_LINE {
                say(&["AUTH PLAIN ", &response], unsent);
                return Some(Self::Last);
            }
            say(&["AUTH PLAIN"], unsent);
            return Some(Self::Plain(credentials));
        }
        capabilities.auth_login.then(|| {
            say(&["AUTH LOGIN"], unsent);
            Self::Login(credentials)
        })
    }

    /// Takes the backend's reply: goes on, or breaks with the verdict.
    pub(super) fn go_on(self, reply: &Reply, unsent: &mut BytesMut) -> Result<ControlFlow<AuthVerdict, Self>, Lost> {
        match (self, reply.code().get()) {
            (_, 421) => return Err(Lost::Closed),
            // The password is wrong, or too weak a proof for the backend: in both cases not accepted.
            (_, 534 | 535) => return Ok(ControlFlow::Break(AuthVerdict::Rejected)),
            // Anything else that isn't a yes says nothing about the password.
            (_, 400..=599) => return Ok(ControlFlow::Break(AuthVerdict::Unavailable)),
            (Self::Last, 235) => return Ok(ControlFlow::Break(AuthVerdict::Accepted)),
            (Self::Plain(credentials), 334) => say(&[&credentials.response()], unsent),
            (Self::Login(credentials), 334) => {
                say(&[&credentials.user_response()], unsent);
                return Ok(ControlFlow::Continue(Self::User(credentials)));
            }
            (Self::User(credentials), 334) => say(&[&credentials.password_response()], unsent),
            _ => return Err(Lost::Protocol),
        }
        Ok(ControlFlow::Continue(Self::Last))
    }
}

fn say(words: &[&str], unsent: &mut BytesMut) {
    for word in words {
        unsent.put_slice(word.as_bytes());
    }
    unsent.put_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::sasl::Secret;

    /// The words of the dialogue, one line for each answer of the backend, and the verdict.
    fn check(plain: bool, password: &str, answers: &[u16], said: &[&str], verdict: Option<AuthVerdict>) {
        let capabilities = Capabilities { auth_plain: plain, auth_login: true, ..Capabilities::default() };
        let credentials = Credentials::login(&Secret::new(b"u"), Secret::new(password.as_bytes())).unwrap();
        let mut unsent = BytesMut::new();
        let mut dialogue = Dialogue::begin(&capabilities, credentials, &mut unsent);
        let mut found = None;
        for answer in answers {
            match dialogue.take().unwrap().go_on(&Reply::new(*answer, None, "x"), &mut unsent) {
                Ok(ControlFlow::Continue(next)) => dialogue = Some(next),
                Ok(ControlFlow::Break(verdict)) => found = Some(verdict),
                Err(_) => {}
            }
        }
        let text = String::from_utf8(unsent.to_vec()).unwrap();
        let lines: Vec<_> = text.split_terminator("\r\n").map(|line| &line[..line.len().min(20)]).collect();
        assert_eq!((lines.as_slice(), found), (said, verdict), "{answers:?}");
    }

    #[test]
    fn both_mechanisms() {
        use AuthVerdict::{Accepted, Rejected, Unavailable};
        check(true, "p", &[235], &["AUTH PLAIN AHUAcA=="], Some(Accepted));
        check(true, "p", &[535], &["AUTH PLAIN AHUAcA=="], Some(Rejected));
        check(true, "p", &[454], &["AUTH PLAIN AHUAcA=="], Some(Unavailable));
        check(true, "p", &[503], &["AUTH PLAIN AHUAcA=="], Some(Unavailable));
        check(true, "p", &[250], &["AUTH PLAIN AHUAcA=="], None);
        check(true, "p", &[421], &["AUTH PLAIN AHUAcA=="], None);
        check(true, &"p".repeat(500), &[334, 235], &["AUTH PLAIN", "AHUAcHBwcHBwcHBwcHBw"], Some(Accepted));
        check(false, "p", &[334, 334, 235], &["AUTH LOGIN", "dQ==", "cA=="], Some(Accepted));
        check(false, "p", &[334, 535], &["AUTH LOGIN", "dQ=="], Some(Rejected));
        check(false, "p", &[235], &["AUTH LOGIN"], None);
    }
}
