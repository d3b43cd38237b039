//! Failures of TLS handshakes with clients: counted by kind, and told once of each source.

use std::collections::HashSet;
use std::io;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rustls::{AlertDescription, Error, PeerIncompatible};

use crate::addr::Source;
use crate::clock::Instant;
use crate::observe::budget::Budget;
use crate::observe::metrics::HandshakeFailure;

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

/// The kind of a failure.
pub(super) fn reason(error: &io::Error) -> HandshakeFailure {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
    match (inner, error.kind()) {
        (Some(Error::AlertReceived(alert)), _) if is_about_certificate(*alert) => HandshakeFailure::CertificateRefused,
        (Some(Error::AlertReceived(_)), _) => HandshakeFailure::Alert,
        (Some(Error::PeerIncompatible(PeerIncompatible::NoCipherSuitesInCommon)), _) => HandshakeFailure::Cipher,
        (Some(Error::PeerIncompatible(PeerIncompatible::NoKxGroupsInCommon)), _) => HandshakeFailure::KeyExchange,
        (Some(Error::PeerIncompatible(PeerIncompatible::NoSignatureSchemesInCommon)), _) => HandshakeFailure::Signature,
        (Some(Error::PeerIncompatible(_)), _) => HandshakeFailure::Version,
        (Some(Error::InvalidMessage(_) | Error::InappropriateMessage { .. }), _) => HandshakeFailure::NotTls,
        (Some(Error::PeerMisbehaved(_)), _) => HandshakeFailure::Misbehaved,
        (Some(_), _) => HandshakeFailure::Other,
        (None, io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe) => {
            HandshakeFailure::Closed
        }
        (None, io::ErrorKind::TimedOut) => HandshakeFailure::Timeout,
        (None, io::ErrorKind::InvalidData) => HandshakeFailure::SentAhead,
        (None, io::ErrorKind::ResourceBusy) => HandshakeFailure::Busy,
        (None, io::ErrorKind::ConnectionAborted) => HandshakeFailure::Ended,
        (None, _) => HandshakeFailure::Other,
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
        assert_eq!(reason(&error).label(), expected, "{error}");
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
