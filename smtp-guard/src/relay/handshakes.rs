//! Why TLS handshakes with clients fail: counted by kind, and told once of each source.

use std::collections::HashSet;
use std::io;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rustls::{AlertDescription, Error, PeerIncompatible};

use crate::addr::Source;
use crate::clock::Instant;
use crate::observe::budget::Budget;

/// Sources that are remembered, and for how long.
const SOURCES: usize = 4096;
const WHILE: Duration = Duration::from_secs(3600);
/// Lines a second.
static LINES: Budget = Budget::new(10);

/// The sources whose failures were told.
#[derive(Debug, Default)]
pub(super) struct Told(Mutex<(Instant, HashSet<Source>)>);

impl Told {
    /// Whether a failure of `source` at `now` is to be told. `Some(n)`: yes, and `n` were left out before it.
    pub(super) fn is_due(&self, source: Source, now: Instant) -> Option<u64> {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (since, sources) = &mut *told;
        if sources.len() >= SOURCES || now.since(*since) >= WHILE {
            sources.clear();
            *since = now;
        }
        sources.insert(source).then(|| LINES.take(now))?
    }
}

/// The kind of a failure, for metrics, and what it means. Both are of a small, fixed set.
pub(super) fn reason(error: &io::Error) -> (&'static str, &'static str) {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
    match (inner, error.kind()) {
        (Some(Error::AlertReceived(alert)), _) if is_about_certificate(*alert) => {
            ("certificate_refused", "the client does not accept our certificate")
        }
        (Some(Error::AlertReceived(_)), _) => ("alert", "the client gave up the handshake"),
        (Some(Error::PeerIncompatible(PeerIncompatible::NoCipherSuitesInCommon)), _) => (
            "cipher",
            "the client has no cipher suite in common with us; for TLS 1.2 it needs ECDHE with AES-GCM or ChaCha20",
        ),
        (Some(Error::PeerIncompatible(PeerIncompatible::NoKxGroupsInCommon)), _) => {
            ("key_exchange", "the client has no group for the key exchange in common with us")
        }
        (Some(Error::PeerIncompatible(PeerIncompatible::NoSignatureSchemesInCommon)), _) => {
            ("signature", "the client can't verify the kind of key that our certificate has")
        }
        (Some(Error::PeerIncompatible(_)), _) => ("version", "the client does not speak TLS 1.2 or 1.3"),
        (Some(Error::InvalidMessage(_) | Error::InappropriateMessage { .. }), _) => {
            ("not_tls", "the client sent what is no TLS")
        }
        (Some(Error::PeerMisbehaved(_)), _) => ("misbehaved", "the client broke the rules of TLS"),
        (Some(_), _) => ("other", "the handshake failed"),
        (None, io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe) => {
            ("closed", "the client closed the connection")
        }
        (None, io::ErrorKind::TimedOut) => ("timeout", "the client took too long"),
        (None, io::ErrorKind::InvalidData) => ("sent_ahead", "the client sent commands ahead of the handshake"),
        (None, io::ErrorKind::ResourceBusy) => ("busy", "too many handshakes are under way"),
        (None, io::ErrorKind::ConnectionAborted) => ("ended", "the client was made to go"),
        (None, _) => ("other", "the handshake failed"),
    }
}

fn is_about_certificate(alert: AlertDescription) -> bool {
    matches!(
        alert,
        AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnknownCA
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::Ipv6Prefix;

    #[track_caller]
    fn check(error: impl Into<io::Error>, expected: &str) {
        let error = error.into();
        assert_eq!(reason(&error).0, expected, "{error}");
    }

    #[test]
    fn a12_each_failure_has_its_reason() {
        let tls = |error| io::Error::new(io::ErrorKind::InvalidData, error);
        check(tls(Error::PeerIncompatible(PeerIncompatible::NoCipherSuitesInCommon)), "cipher");
        check(tls(Error::PeerIncompatible(PeerIncompatible::Tls12NotOfferedOrEnabled)), "version");
        check(tls(Error::PeerIncompatible(PeerIncompatible::NoSignatureSchemesInCommon)), "signature");
        check(tls(Error::AlertReceived(AlertDescription::UnknownCA)), "certificate_refused");
        check(tls(Error::AlertReceived(AlertDescription::HandshakeFailure)), "alert");
        check(tls(Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType)), "not_tls");
        check(io::ErrorKind::UnexpectedEof, "closed");
        check(io::ErrorKind::TimedOut, "timeout");
        check(io::ErrorKind::InvalidData, "sent_ahead");
        check(io::ErrorKind::ResourceBusy, "busy");
    }

    #[test]
    fn a12_a_source_is_told_of_once_an_hour() {
        let told = Told::default();
        let source = |n: u32| Ipv6Prefix::default().source(std::net::Ipv4Addr::from(n).into());
        let at = |s: u64| Instant::from_ns((10_000 + s) * 1_000_000_000);
        let due: Vec<_> =
            [(1, 0), (1, 1), (2, 2), (1, 3600)].map(|(n, s)| told.is_due(source(n), at(s)).is_some()).into();
        assert_eq!(due, [true, false, true, true]);
        for n in 0..2 * SOURCES as u32 {
            let _ = told.is_due(source(n), at(4000));
        }
        assert!(told.0.lock().unwrap().1.len() <= SOURCES);
    }
}
