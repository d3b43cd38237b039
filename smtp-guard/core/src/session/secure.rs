//! STARTTLS (RFC 3207), and what a session asks for before it takes mail.

use super::{HANDSHAKE_WAIT, Output, Request, Secured, Session, Speaker, State, replies};
use crate::clock::Instant;
use crate::config::{AuthVia, BackendTls, Role};
use crate::wire::ehlo::Offer;
use crate::wire::reply::Reply;

impl Session {
    /// The extensions of EHLO that don't depend on the backend.
    pub(super) fn offer(&self) -> Offer<'_> {
        let config = self.rules.config();
        let secured = self.secured.is_some();
        Offer {
            hostname: &config.hostname,
            size_limit: config.limits.message_size,
            recipients: (!self.client.exempt).then_some(config.limits.recipients),
            starttls: config.tls.is_some() && !secured,
            auth: secured && self.login().is_none() && self.is_auth_possible(),
            chunking: config.checks.chunking,
            requiretls: secured && config.backend.tls == BackendTls::Verified,
        }
    }

    /// Whether somebody can judge credentials. (The backend's word on AUTH counts only where the way to it is safe: what
    /// the probe learns over a connection in clear text is left out there.)
    pub(super) fn is_auth_possible(&self) -> bool {
        match self.rules.config().auth.via {
            AuthVia::Off => false,
            AuthVia::Dovecot => true,
            AuthVia::Backend => self.backend.auth_plain || self.backend.auth_login,
        }
    }

    pub(super) fn login(&self) -> Option<&str> {
        self.speaker.as_ref().and_then(|speaker| speaker.login.as_deref())
    }

    /// The step that must come before mail, if it hasn't.
    pub(super) fn not_yet(&self, speaker: &Speaker) -> Option<Reply> {
        match self.role {
            Role::Mx => None,
            Role::Submission | Role::Submissions if self.secured.is_none() => Some(replies::tls_required()),
            Role::Submission | Role::Submissions => speaker.login.is_none().then(replies::auth_required),
        }
    }

    /// The driver has seen to it that nothing was sent ahead.
    pub(super) fn on_starttls(&mut self, now: Instant, out: &mut Vec<Output>) -> State {
        if self.rules.config().tls.is_none() {
            return self.protocol(replies::not_implemented(), now, out);
        }
        if self.secured.is_some() {
            return self.protocol(replies::tls_twice(), now, out);
        }
        out.push(Output::Reply(replies::ready_for_tls()));
        out.push(Output::StartTls);
        // The driver gives up earlier; this is for one that doesn't.
        self.deadline = now.after(HANDSHAKE_WAIT * 2);
        State::Securing
    }

    /// Forgets all that was said in clear text (RFC 3207 4.2), also towards the backend. (A connection over which nothing was asked
    /// may stay: it is used only for the speaker that it was opened for, and that one has to say the same name again.)
    pub(super) fn on_secured(&mut self, secured: Secured, now: Instant, out: &mut Vec<Output>) -> State {
        self.reset_transaction(None, out);
        out.push(Output::Request(Request::Drop));
        self.speaker = None;
        self.secured = Some(secured);
        self.ready(now, out)
    }
}
