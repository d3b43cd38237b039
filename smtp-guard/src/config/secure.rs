//! What has to do with secrets: certificate and key, and where credentials are judged.

use std::time::Duration;

use toml::Spanned;

use super::check::{SECOND, TEN_YEARS, list};
use super::raw::{self, Raw};
use super::values::Judge;
use super::{Auth, AuthVia, BackendTls, Config, Role, Tls};

pub(super) fn tls(raw: &raw::Tls, judge: &mut Judge) -> Option<Tls> {
    let set = |text: &raw::Text| text.as_ref().is_some_and(|text| !text.get_ref().is_empty());
    match (set(&raw.certificate), set(&raw.key)) {
        (false, false) => None,
        (true, true) => {
            let certificate = judge.path("tls.certificate", &raw.certificate);
            let key = judge.path("tls.key", &raw.key);
            Some(Tls { certificate: certificate?, key: key? })
        }
        (certificate, _) => {
            let (given, other) = if certificate { (&raw.certificate, "key") } else { (&raw.key, "certificate") };
            let message = format!("tls.{other} is not set");
            judge.missing(given.as_ref().map(Spanned::span), message, "a certificate and its key belong together");
            None
        }
    }
}

pub(super) fn auth(raw: &raw::Auth, judge: &mut Judge) -> Auth {
    let default = Auth::default();
    Auth {
        via: judge.choice("auth.via", &raw.via, &AuthVia::NAMES, default.via),
        dovecot_socket: judge.path("auth.dovecot_socket", &raw.dovecot_socket).unwrap_or(default.dovecot_socket),
        failures: judge.number("auth.failures", &raw.failures, 1..=1000, default.failures),
        failure_window: judge.duration(
            "auth.failure_window",
            &raw.failure_window,
            SECOND..=24 * 3600 * SECOND,
            default.failure_window,
        ),
        ban: judge.duration("auth.ban", &raw.ban, SECOND..=TEN_YEARS, default.ban),
    }
}

/// What would let a password or a login go where it must not.
pub(super) fn together(raw: &Raw, config: &Config, judge: &mut Judge) {
    // Where one of them was refused they don't stand side by side; then that comes first.
    let whole = raw.listen.len() == config.listen.len();
    for (entry, listen) in raw.listen.iter().zip(&config.listen).filter(|_| whole) {
        let span = entry.get_ref().role.as_ref().map_or(entry.span(), Spanned::span);
        if listen.role == Role::Mx {
            continue;
        }
        if config.tls.is_none() {
            let help = "set [tls] certificate and key: users must not send their passwords in clear text";
            judge.wrong(span, "a submission port needs TLS", "no [tls] certificate", help);
        } else if config.auth.via == AuthVia::Off {
            judge.wrong(span, "a submission port needs [auth]", "auth.via is \"off\"", "choose backend or dovecot");
        }
    }
    clear_text(raw, config, judge);
    for (key, text) in [("backend.tls_ca", &raw.backend.tls_ca), ("backend.tls_name", &raw.backend.tls_name)] {
        if let Some(text) = text.as_ref().filter(|text| !text.get_ref().is_empty())
            && config.backend.tls != BackendTls::Verified
        {
            let message = format!("{key} has no effect: the backend's certificate is not verified");
            judge.wrong(text.span(), message, "", "set backend.tls = \"verified\", or remove it");
        }
    }
}

/// Credentials that are passed on to the backend must not cross a network in clear text.
fn clear_text(raw: &Raw, config: &Config, judge: &mut Judge) {
    let asked = raw.auth.via.is_some() || config.listen.iter().any(|listen| listen.role != Role::Mx);
    if config.backend.tls != BackendTls::Off || config.auth.via != AuthVia::Backend || !asked {
        return;
    }
    let away = |text: &&Spanned<String>| {
        match text.get_ref().parse::<std::net::SocketAddr>() {
            Ok(server) => !server.ip().to_canonical().is_loopback(),
            // Where a name leads is known at each probe only.
            Err(_) => !text.get_ref().starts_with("localhost:"),
        }
    };
    if let Some(server) = list(&raw.backend.servers).find(away) {
        let help = "set backend.tls = \"required\" (or \"verified\"), or auth.via = \"dovecot\" or \"off\"";
        judge.wrong(server.span(), "passwords would go to the backend in clear text", "not on this host", help);
    }
}

/// The default of `auth.failure_window`.
pub(super) const FAILURE_WINDOW: Duration = Duration::from_secs(60);
