//! Our certificates: read from their files, judged by their dates, and chosen for each client.
//!
//! One of each kind may be named, as `[tls]` and `[[tls.also]]`. A client that can verify ECDSA or Ed25519 is shown that one,
//! others RSA. Some old clients know only RSA, and some only share a cipher suite with us for ECDSA.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{CipherSuite, SignatureAlgorithm};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer as _;
use x509_parser::public_key::PublicKey;

use super::tls::{TlsError, bad, provider, read};
use crate::clock::WallTime;
use crate::config::{Pair, Tls};
use crate::observe::status;

/// Before its end a certificate is warned of for so long.
const SOON: Duration = Duration::from_secs(14 * DAY);
const DAY: u64 = 24 * 3600;
/// Bits of an RSA key that TLS libraries take.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;

/// The certificates that are shown now.
#[derive(Debug)]
pub(super) struct Certificates(ArcSwap<Vec<Certificate>>);

/// A certificate with its key.
#[derive(Debug)]
pub(super) struct Certificate {
    file: PathBuf,
    key: Arc<CertifiedKey>,
    validity: Validity,
}

/// When a certificate is valid, in seconds since 1970, both ends included (RFC 5280 4.1.2.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Validity {
    begins: i64,
    ends: i64,
}

impl Certificates {
    /// Those of `files`.
    pub(super) fn load(files: &Tls) -> Result<Self, TlsError> {
        Ok(Self(ArcSwap::from_pointee(load(files)?)))
    }

    /// Shows `certificates` from now on.
    pub(super) fn replace(&self, certificates: Vec<Certificate>) {
        self.0.store(Arc::new(certificates));
    }

    /// Warnings about their dates at `now`, a sentence each.
    pub(super) fn warnings(&self, now: WallTime) -> Vec<String> {
        warnings(&self.0.load(), now)
    }
}

/// Warnings about the dates of `certificates` at `now`, a sentence each.
pub(super) fn warnings(certificates: &[Certificate], now: WallTime) -> Vec<String> {
    let warning = |certificate: &Certificate| {
        let fault = certificate.validity.fault(now)?;
        Some(format!("the certificate in {} {fault}", certificate.file.display()))
    };
    certificates.iter().filter_map(warning).collect()
}

impl Certificates {
    /// All of them as they are at `now`.
    pub(super) fn certificates(&self, now: WallTime) -> Vec<status::Certificate> {
        let certificate = |certificate: &Certificate| status::Certificate {
            file: certificate.file.display().to_string(),
            remaining_seconds: certificate.validity.ends.saturating_sub(seconds(now)),
            not_after: WallTime::from_ms(certificate.validity.ends.saturating_mul(1000)),
        };
        self.0.load().iter().map(certificate).collect()
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let certificates = self.0.load();
        let takes = |certificate: &&Certificate| {
            let key = &certificate.key.key;
            key.choose_scheme(hello.signature_schemes()).is_some()
                && hello.cipher_suites().iter().any(|suite| fits(*suite, key.algorithm()))
        };
        // Where none fits the handshake fails with the library's reason for the first.
        let found = certificates.iter().find(takes).or_else(|| certificates.first())?;
        Some(Arc::clone(&found.key))
    }
}

/// Whether `suite` can be used with a key of this kind: of TLS 1.3 any, of TLS 1.2 those that name it.
fn fits(suite: CipherSuite, algorithm: SignatureAlgorithm) -> bool {
    let number = u16::from(suite);
    let ecdsa = [
        CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
        CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
        CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
    ];
    number >> 8 == 0x13 || ecdsa.contains(&suite) != (algorithm == SignatureAlgorithm::RSA)
}

impl Validity {
    fn of(certificate: &X509Certificate<'_>) -> Self {
        let validity = certificate.validity();
        Self { begins: validity.not_before.timestamp(), ends: validity.not_after.timestamp() }
    }

    /// Whole days from `now` until it ends; below zero it has ended.
    fn days(self, now: WallTime) -> i64 {
        self.ends.saturating_sub(seconds(now)).div_euclid(DAY as i64)
    }

    /// The fault at `now`, as the end of a sentence.
    fn fault(self, now: WallTime) -> Option<String> {
        let now_s = seconds(now);
        if now_s < self.begins {
            return Some(String::from("is not valid yet: look at the clock, or at when it begins"));
        }
        if now_s > self.ends {
            return Some(format!("expired {} days ago: senders that verify it don't deliver", -self.days(now)));
        }
        let left = Duration::from_secs(self.ends.saturating_sub(now_s).unsigned_abs());
        (left < SOON).then(|| format!("ends in {} days: renew it", self.days(now)))
    }
}

fn seconds(time: WallTime) -> i64 {
    time.as_ms().div_euclid(1000)
}

/// The certificates of `files`, those first that are shown first. Blocks.
pub(super) fn load(files: &Tls) -> Result<Vec<Certificate>, TlsError> {
    let first = Pair { certificate: files.certificate.clone(), key: files.key.clone() };
    let mut found: Vec<Certificate> = Vec::new();
    for pair in std::iter::once(&first).chain(&files.also) {
        let certificate = load_pair(pair)?;
        let kind = certificate.key.key.algorithm();
        if let Some(other) = found.iter().find(|other| other.key.key.algorithm() == kind) {
            let reason = format!("has a key of the same kind as {}: clients would never see it", other.file.display());
            return Err(bad(&pair.certificate, reason));
        }
        found.push(certificate);
    }
    found.sort_by_key(|certificate| certificate.key.key.algorithm() == SignatureAlgorithm::RSA);
    Ok(found)
}

fn load_pair(pair: &Pair) -> Result<Certificate, TlsError> {
    let chain = chain(&pair.certificate)?;
    let (_, leaf) = X509Certificate::from_der(chain.first().map_or(&[], |leaf| leaf.as_ref()))
        .map_err(|error| bad(&pair.certificate, format!("holds no certificate that can be read: {error}")))?;
    let validity = Validity::of(&leaf);
    let rsa_bits = rsa_bits(&leaf);
    let key = PrivateKeyDer::from_pem_slice(&read(&pair.key)?)
        .map_err(|error| bad(&pair.key, format!("holds no private key: {error}")))?;
    let provider: Arc<CryptoProvider> = provider();
    let key = provider.key_provider.load_private_key(key).map_err(|error| match rsa_bits {
        Some(bits) if !RSA_BITS.contains(&bits) => {
            let (least, most) = RSA_BITS.into_inner();
            bad(
                &pair.certificate,
                format!("its RSA key has {bits} bits, and {least} to {most} can be used: get a new one"),
            )
        }
        _ => bad(&pair.key, format!("can't be used: {error}")),
    })?;
    let certified = CertifiedKey::new(chain, key);
    match certified.keys_match() {
        Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => {}
        Err(reason) => {
            return Err(TlsError::Pair { certificate: pair.certificate.clone(), key: pair.key.clone(), reason });
        }
    }
    Ok(Certificate { file: pair.certificate.clone(), key: Arc::new(certified), validity })
}

/// Bits of the certificate's key, if it is one of RSA.
fn rsa_bits(certificate: &X509Certificate<'_>) -> Option<usize> {
    match certificate.public_key().parsed() {
        Ok(PublicKey::RSA(key)) => Some(key.key_size()),
        _ => None,
    }
}

/// The certificates in a PEM file. Blocks.
pub(super) fn chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let pem = read(path)?;
    let chain: Vec<_> = CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<_, _>>()
        .map_err(|error| bad(path, format!("no PEM file: {error}")))?;
    if chain.is_empty() { Err(bad(path, "holds no certificate (-----BEGIN CERTIFICATE-----)")) } else { Ok(chain) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A certificate that is valid from second 1,000,000 for 90 days, `days` after its beginning.
    #[track_caller]
    fn check(days: i64, left: i64, fault: Option<&str>) {
        let day = DAY as i64;
        let validity = Validity { begins: 1_000_000, ends: 1_000_000 + 90 * day };
        let now = WallTime::from_ms((1_000_000 + days * day + 1) * 1000);
        assert_eq!(validity.days(now), left, "{days}");
        let found = validity.fault(now);
        assert_eq!(found.is_some(), fault.is_some(), "{days}: {found:?}");
        assert!(found.unwrap_or_default().contains(fault.unwrap_or_default()), "{days}");
    }

    #[test]
    fn a12_dates_are_warned_of() {
        check(-1, 90, Some("not valid yet"));
        check(0, 89, None);
        check(75, 14, None);
        check(76, 13, Some("ends in 13 days"));
        check(89, 0, Some("ends in 0 days"));
        check(90, -1, Some("expired 1 days ago"));
        check(120, -31, Some("expired 31 days ago"));
    }

    #[test]
    fn a12_a_client_is_shown_what_it_can_use() {
        use SignatureAlgorithm::{ECDSA, RSA};
        for (suite, rsa, ecdsa) in [
            (CipherSuite::TLS13_AES_128_GCM_SHA256, true, true),
            (CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, true, false),
            (CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, false, true),
        ] {
            assert_eq!((fits(suite, RSA), fits(suite, ECDSA)), (rsa, ecdsa), "{suite:?}");
        }
    }

    /// A directory with a certificate of each kind, as `NAME.pem` and `NAME.key`.
    fn files() -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        for (name, algorithm) in [
            ("ecdsa", &rcgen::PKCS_ECDSA_P256_SHA256),
            ("other", &rcgen::PKCS_ECDSA_P256_SHA256),
            ("ed25519", &rcgen::PKCS_ED25519),
            ("rsa", &rcgen::PKCS_RSA_SHA256),
        ] {
            let key = rcgen::KeyPair::generate_for(algorithm).unwrap();
            let params = rcgen::CertificateParams::new(vec!["mx.example.org".to_owned()]).unwrap();
            let certificate = params.self_signed(&key).unwrap();
            std::fs::write(directory.path().join(format!("{name}.pem")), certificate.pem()).unwrap();
            std::fs::write(directory.path().join(format!("{name}.key")), key.serialize_pem()).unwrap();
        }
        directory
    }

    /// The certificates `pairs`, by name of certificate and key: how many can be used, or why not.
    #[track_caller]
    fn check_files(pairs: &[(&str, &str)], expected: Result<usize, &str>) {
        let directory = files();
        let at = |name: &str| directory.path().join(name);
        let pair = |(certificate, key): &(&str, &str)| Pair {
            certificate: at(&format!("{certificate}.pem")),
            key: at(&format!("{key}.key")),
        };
        let mut pairs = pairs.iter().map(pair);
        let Pair { certificate, key } = pairs.next().unwrap();
        let found = load(&Tls { certificate, key, also: pairs.collect() });
        match (found.map(|found| found.len()).map_err(|error| error.to_string()), expected) {
            (Ok(found), Ok(expected)) => assert_eq!(found, expected),
            (Err(found), Err(expected)) => assert!(found.contains(expected), "{found}"),
            (found, _) => panic!("{found:?}"),
        }
    }

    #[test]
    fn a12_two_certificates_of_two_kinds() {
        check_files(&[("ecdsa", "ecdsa")], Ok(1));
        check_files(&[("ecdsa", "ecdsa"), ("ed25519", "ed25519")], Ok(2));
        check_files(&[("ecdsa", "ecdsa"), ("other", "other")], Err("of the same kind"));
        check_files(&[("rsa", "rsa"), ("ecdsa", "ecdsa")], Ok(2));
        check_files(&[("ecdsa", "other")], Err("do not belong together"));
        check_files(&[("ecdsa", "ed25519")], Err("do not belong together"));
        check_files(&[("ecdsa", "missing")], Err("cannot read"));
    }

    /// Which certificate a client of TLS 1.2 is shown that knows only `suite`; `None`: there is no handshake.
    fn shown(certificates: &Arc<Certificates>, suite: CipherSuite) -> Option<CertificateDer<'static>> {
        let only = |all: &[rustls::SupportedCipherSuite]| all.iter().copied().filter(|s| s.suite() == suite).collect();
        let provider = provider();
        let limited = Arc::new(CryptoProvider { cipher_suites: only(&provider.cipher_suites), ..(*provider).clone() });
        let client = rustls::ClientConfig::builder_with_provider(limited)
            .with_protocol_versions(&[&rustls::version::TLS12])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(crate::relay::tls::Anyone(Arc::clone(&provider))))
            .with_no_client_auth();
        let server = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(certificates) as Arc<dyn ResolvesServerCert>);
        let mut client = rustls::ClientConnection::new(Arc::new(client), "mx.example.org".try_into().unwrap()).unwrap();
        let mut server = rustls::ServerConnection::new(Arc::new(server)).unwrap();
        while client.is_handshaking() {
            let (mut up, mut down) = (Vec::new(), Vec::new());
            while client.wants_write() {
                client.write_tls(&mut up).unwrap();
            }
            server.read_tls(&mut up.as_slice()).unwrap();
            server.process_new_packets().ok()?;
            while server.wants_write() {
                server.write_tls(&mut down).unwrap();
            }
            client.read_tls(&mut down.as_slice()).unwrap();
            client.process_new_packets().ok()?;
        }
        Some(client.peer_certificates().unwrap()[0].clone())
    }

    #[test]
    fn a12_clients_of_either_kind_are_served_by_two_certificates() {
        let directory = files();
        let pair = |name: &str| Pair {
            certificate: directory.path().join(format!("{name}.pem")),
            key: directory.path().join(format!("{name}.key")),
        };
        let both = |first: &str, also: &[&str]| {
            let Pair { certificate, key } = pair(first);
            let also = also.iter().map(|name| pair(name)).collect();
            Arc::new(Certificates::load(&Tls { certificate, key, also }).unwrap())
        };
        let leaf = |name: &str| Some(chain(&pair(name).certificate).unwrap().remove(0));
        let (rsa, ecdsa) =
            (CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256);
        for certificates in [both("rsa", &["ecdsa"]), both("ecdsa", &["rsa"])] {
            assert_eq!(shown(&certificates, rsa), leaf("rsa"));
            assert_eq!(shown(&certificates, ecdsa), leaf("ecdsa"));
        }
        let alone = both("ecdsa", &[]);
        assert_eq!((shown(&alone, rsa), shown(&alone, ecdsa)), (None, leaf("ecdsa")));
    }

    #[test]
    fn a12_an_rsa_key_that_is_too_short_is_said_to_be() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        std::fs::write(at("c"), include_str!("certificate/rsa1024.pem")).unwrap();
        // What key belongs to it doesn't matter: it can't be used either.
        std::fs::write(at("k"), "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n").unwrap();
        let error = load(&Tls { certificate: at("c"), key: at("k"), also: Vec::new() }).unwrap_err();
        assert!(error.to_string().contains("has 1024 bits, and 2048 to 8192 can be used"), "{error}");
    }
}
