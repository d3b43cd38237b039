//! AUTH (RFC 4954): PLAIN and LOGIN, under TLS only. What the client sends is passed to the part that judges it, and to nobody
//! else. It is in no event, no reply and no state beyond the attempt.

use std::sync::Arc;
use std::time::Duration;

use smtp_guard_ebpf::reason::Reason;

use super::{AuthVerdict, Details, Event, Output, Question, Request, Session, Speaker, State, Upstream, replies};
use crate::clock::Instant;
use crate::config::AuthVia;
use crate::offence::Conduct;
use crate::wire::command::Auth;
use crate::wire::line::LineFlaw;
use crate::wire::reply::Reply;
use crate::wire::sasl::{Credentials, Mechanism, SaslError, Secret};

/// Before the answer to a failed attempt: guessing must not be quick.
const DELAY: Duration = Duration::from_secs(2);
/// `Username:` and `Password:` in base64, as every client of LOGIN expects them.
const USERNAME: &str = "VXNlcm5hbWU6";
const PASSWORD: &str = "UGFzc3dvcmQ6";

/// Which response is waited for.
#[derive(Debug)]
pub(super) enum Step {
    Plain,
    LoginUser,
    LoginPassword(Secret),
}

impl Session {
    pub(super) fn on_auth(&mut self, auth: Auth, now: Instant, out: &mut Vec<Output>) -> State {
        if let Some(reply) = self.auth_refused(&auth) {
            return self.protocol(reply, now, out);
        }
        let step = match auth.mechanism {
            Some(Mechanism::Login) => Step::LoginUser,
            _ => Step::Plain,
        };
        match auth.initial {
            Some(initial) => self.on_response(step, Ok(initial), now, out),
            None => self.challenge(step, now, out),
        }
    }

    fn auth_refused(&self, auth: &Auth) -> Option<Reply> {
        if self.rules.config().auth.via == AuthVia::Off {
            return Some(replies::not_implemented());
        }
        if self.secured.is_none() {
            return Some(replies::auth_needs_tls());
        }
        let Some(speaker) = &self.speaker else {
            return Some(replies::helo_first());
        };
        if speaker.login.is_some() {
            return Some(replies::auth_twice());
        }
        if self.transaction.is_some() {
            return Some(replies::auth_in_transaction());
        }
        auth.mechanism.is_none().then(replies::auth_mechanism)
    }

    fn challenge(&mut self, step: Step, now: Instant, out: &mut Vec<Output>) -> State {
        out.push(Output::Reply(replies::challenge(match step {
            Step::Plain => "",
            Step::LoginUser => USERNAME,
            Step::LoginPassword(_) => PASSWORD,
        })));
        self.deadline = now.after(super::COMMAND_WAIT);
        State::Auth(step)
    }

    pub(super) fn on_response(
        &mut self,
        step: Step,
        response: Result<Secret, LineFlaw>,
        now: Instant,
        out: &mut Vec<Output>,
    ) -> State {
        let Ok(response) = response else {
            return self.protocol(replies::auth_response(), now, out);
        };
        let credentials = match (step, response.decode()) {
            (_, Err(SaslError::Cancelled)) => return self.protocol(replies::auth_cancelled(), now, out),
            (_, Err(_)) => return self.protocol(replies::auth_response(), now, out),
            (Step::LoginUser, Ok(user)) => return self.challenge(Step::LoginPassword(user), now, out),
            (Step::LoginPassword(user), Ok(password)) => Credentials::login(&user, password),
            (Step::Plain, Ok(message)) => Credentials::plain(&message),
        };
        match (credentials, self.speaker.clone()) {
            (Ok(credentials), Some(speaker)) => {
                let question = Question::Auth(credentials.user().into());
                self.ask(question, Request::Auth(credentials, speaker), now, out)
            }
            // An empty password, or one with a NUL: as wrong as any other.
            _ => self.on_auth_verdict("".into(), &Upstream::Auth(AuthVerdict::Rejected), now, out),
        }
    }

    pub(super) fn on_auth_verdict(
        &mut self,
        user: Box<str>,
        word: &Upstream,
        now: Instant,
        out: &mut Vec<Output>,
    ) -> State {
        match word {
            Upstream::Auth(AuthVerdict::Accepted) => self.authenticated(user, now, out),
            Upstream::Auth(AuthVerdict::Rejected) => {
                // Whoever tried to log in is a user; the address it comes from is no substitute for a password.
                self.client.forget_network();
                out.push(Output::Report(Conduct::Offence(Reason::AuthFailures)));
                let details = Details::note(format!("user={user}"));
                self.refuse(Reason::AuthFailures, details, replies::auth_failed(), DELAY, now, out)
            }
            _ => {
                if self.is_bound_to_backend() || !matches!(word, Upstream::Auth(_)) {
                    out.push(Output::Request(Request::Drop));
                }
                let details = Details::note(match word {
                    Upstream::Lost(lost) => lost.text(),
                    Upstream::Auth(_) | Upstream::Reply(_) => "the password can't be judged now",
                });
                out.push(Output::Event(Event::Refused { reason: Reason::BackendLost, details }));
                self.reply(replies::auth_unavailable(), now, out)
            }
        }
    }

    fn authenticated(&mut self, user: Box<str>, now: Instant, out: &mut Vec<Output>) -> State {
        out.push(Output::Event(Event::Authenticated { user: user.to_string() }));
        if let Some(speaker) = &self.speaker {
            self.speaker = Some(Arc::new(Speaker { login: Some(user), ..Speaker::clone(speaker) }));
        }
        self.client.authenticate(self.rules.config().relay.authenticated);
        if self.rules.config().auth.via != AuthVia::Backend {
            // A connection that was opened before doesn't know who speaks.
            out.push(Output::Request(Request::Drop));
        }
        self.reply(replies::authenticated(), now, out)
    }

    /// Whether the login lives in the connection to the backend, and would be lost with it.
    pub(super) fn is_bound_to_backend(&self) -> bool {
        self.login().is_some() && self.rules.config().auth.via == AuthVia::Backend
    }
}
