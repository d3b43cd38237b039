//! Keys about secrets: certificate and key, and where credentials are judged.

use std::path::PathBuf;

use serde::{Serialize, Serializer};
use toml::Spanned;

use super::judge::Judge;
use super::raw::{Text, filled, list};
use super::value::{Raw, RawEntry, Value};
use super::{AuthVia, BackendTls, Config, Role};

/// Kinds of keys: RSA, ECDSA, Ed25519.
const KINDS: usize = 3;

/// Our certificate.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Tls {
    /// PEM: our certificate first, then what leads to its root.
    pub certificate: PathBuf,
    /// PEM.
    pub key: PathBuf,
    /// Certificates with keys of other kinds.
    pub also: Vec<Pair>,
}

/// A certificate and its key, as in [`Tls`].
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Pair {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

/// `None`: STARTTLS isn't offered.
impl Value for Option<Tls> {
    type Raw = RawEntry<Tls>;

    fn judge(_: &str, raw: &Self::Raw, judge: &mut Judge) -> Self {
        tls(raw, judge)
    }

    /// Nothing is a pair of empty texts.
    fn show<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        let none = || Tls { certificate: PathBuf::new(), key: PathBuf::new(), also: Vec::new() };
        self.clone().unwrap_or_else(none).serialize(out)
    }
}

fn tls(raw: &RawEntry<Tls>, judge: &mut Judge) -> Option<Tls> {
    let first = pair(["tls.certificate", "tls.key"], [&raw.certificate, &raw.key], judge);
    let mut also = Vec::new();
    for entry in &raw.also {
        let table = entry.get_ref();
        let found = pair(["tls.also.certificate", "tls.also.key"], [&table.certificate, &table.key], judge);
        if found.is_none() && table.certificate.is_none() && table.key.is_none() {
            judge.missing(Some(entry.span()), "[[tls.also]] without certificate and key", "name both files");
        }
        also.extend(found);
    }
    if let Some(entry) = raw.also.get(KINDS - 1) {
        let help = "one certificate of each kind can be used: RSA, ECDSA, Ed25519";
        judge.wrong(entry.span(), "too many [[tls.also]]", "", help);
    }
    if let (None, Some(entry), true) = (&raw.certificate, raw.also.first(), raw.key.is_none()) {
        judge.wrong(entry.span(), "[[tls.also]] without [tls] certificate and key", "", "name the first pair in [tls]");
    }
    let Pair { certificate, key } = first?;
    Some(Tls { certificate, key, also })
}

/// Two files that belong together; `None` where both are empty, or one of them is wrong.
fn pair(names: [&str; 2], raw: [&Text; 2], judge: &mut Judge) -> Option<Pair> {
    match raw.map(|text| filled(text).is_some()) {
        [false, false] => None,
        [true, true] => {
            let [certificate, key] = [0, 1].map(|n| judge.path(names[n], raw[n]));
            Some(Pair { certificate: certificate?, key: key? })
        }
        [certificate, _] => {
            let (given, other) = if certificate { (raw[0], names[1]) } else { (raw[1], names[0]) };
            let message = format!("{other} is not set");
            judge.missing(given.as_ref().map(Spanned::span), message, "a certificate and its key belong together");
            None
        }
    }
}

/// Refuses settings that would let a password or a login go where it must not.
pub(super) fn together(raw: &Raw<Config>, config: &Config, judge: &mut Judge) {
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
            judge.wrong(
                span,
                "a submission port needs [auth]",
                "auth.via is \"off\"",
                "choose \"backend\" or \"dovecot\"",
            );
        }
    }
    clear_text(raw, config, judge);
    for (key, text) in [("backend.tls_ca", &raw.backend.tls_ca), ("backend.tls_name", &raw.backend.tls_name)] {
        if let Some(text) = filled(text)
            && config.backend.tls != BackendTls::Verified
        {
            let message = format!("{key} has no effect: the backend's certificate is not verified");
            judge.wrong(text.span(), message, "", "set backend.tls = \"verified\", or remove it");
        }
    }
}

/// Credentials that are passed on to the backend must not cross a network in clear text.
fn clear_text(raw: &Raw<Config>, config: &Config, judge: &mut Judge) {
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
