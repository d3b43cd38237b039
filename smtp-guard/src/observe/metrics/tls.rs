//! Counts of TLS with clients. `mirror` reads when certificates end.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;

use super::{Metrics, fixed};

macro_rules! failures {
    ($($name:ident = $label:literal, $text:literal;)+) => {
        /// Why a handshake with a client failed.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum HandshakeFailure { $($name,)+ }

        impl HandshakeFailure {
            const LABELS: [&'static str; [$($label),+].len()] = [$($label),+];

            /// The label in metrics and log.
            pub const fn label(self) -> &'static str {
                match self { $(Self::$name => $label,)+ }
            }

            /// Its meaning, for the log.
            pub const fn text(self) -> &'static str {
                match self { $(Self::$name => $text,)+ }
            }
        }
    };
}

failures! {
    CertificateRefused = "certificate_refused", "the client does not accept our certificate";
    Alert = "alert", "the client gave up the handshake";
    Cipher = "cipher", "the client has no cipher suite in common with us; for TLS 1.2 it needs ECDHE with AES-GCM or ChaCha20";
    KeyExchange = "key_exchange", "the client has no group for the key exchange in common with us";
    Signature = "signature", "the client can't verify the kind of key that our certificate has";
    Version = "version", "the client does not speak TLS 1.2 or 1.3";
    NotTls = "not_tls", "the client sent what is no TLS";
    Misbehaved = "misbehaved", "the client broke the rules of TLS";
    Closed = "closed", "the client closed the connection";
    Timeout = "timeout", "the client took too long";
    SentAhead = "sent_ahead", "the client sent commands ahead of the handshake";
    Busy = "busy", "too many handshakes are under way";
    Ended = "ended", "the client was made to go";
    Other = "other", "the handshake failed";
}

pub(super) struct Tls {
    failed: [Counter; HandshakeFailure::LABELS.len()],
    sessions: [Counter; 2],
    reloads: [Counter; 2],
}

impl Tls {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let help = "TLS handshakes with clients that failed, by reason";
        let failed = fixed(registry, "tls_handshakes_failed", help, "reason", HandshakeFailure::LABELS);
        let help = "TLS handshakes with clients that succeeded, by version";
        let sessions = fixed(registry, "tls_sessions", help, "version", ["TLSv1.2", "TLSv1.3"]);
        let help = "Times that a changed certificate was read again, by result";
        let reloads = fixed(registry, "tls_reloads", help, "result", ["failed", "loaded"]);
        Self { failed, sessions, reloads }
    }
}

impl Metrics {
    /// A TLS handshake with a client failed.
    pub fn handshake_failed(&self, failure: HandshakeFailure) {
        self.0.tls.failed[failure as usize].inc();
    }

    /// A TLS handshake with a client succeeded; `is_13`: in TLS 1.3, else in 1.2.
    pub fn tls_session(&self, is_13: bool) {
        self.0.tls.sessions[usize::from(is_13)].inc();
    }

    /// Our certificates had changed, and could be read again or not.
    pub fn tls_reloaded(&self, loaded: bool) {
        self.0.tls.reloads[usize::from(loaded)].inc();
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::check;
    use super::*;

    #[test]
    fn each_call_counts_under_its_name() {
        let failed = HandshakeFailure::SentAhead;
        check(|m| m.handshake_failed(failed), "smtp_guard_tls_handshakes_failed_total{reason=\"sent_ahead\"} 1");
        check(|_| {}, "smtp_guard_tls_handshakes_failed_total{reason=\"cipher\"} 0");
        check(|m| m.tls_session(true), "smtp_guard_tls_sessions_total{version=\"TLSv1.3\"} 1");
        check(|m| m.tls_session(false), "smtp_guard_tls_sessions_total{version=\"TLSv1.2\"} 1");
        check(|m| m.tls_reloaded(true), "smtp_guard_tls_reloads_total{result=\"loaded\"} 1");
        check(|m| m.tls_reloaded(false), "smtp_guard_tls_reloads_total{result=\"failed\"} 1");
    }
}
