//! TLS on both sides (rustls on aws-lc-rs): our certificates ([`super::certificate`]), which are read again when a file
//! changes, and what we ask of the backend's.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ResolvesServerCert;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme};
use tokio::time::timeout;
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};

use super::Stop;
use super::certificate::{self, Certificates};
use super::socket::Socket;
use super::stream::Stream;
use crate::clock::WallTime;
use crate::config::{Backend, BackendTls, Tls};
use crate::events::{Bus, What};
use crate::file::{self, FileError};
use crate::observe::budget::Reminder;
use crate::observe::metrics::Metrics;
use crate::session::{HANDSHAKE_WAIT, Secured};
use crate::stamp::Stamp;
use crate::wire::line::NothingUnread;

/// How often the files of the certificate are looked at.
const LOOK: Duration = Duration::from_secs(5);
/// Bytes of a PEM file.
const MAX_FILE: u64 = 1 << 20;
/// Bytes of clear text that the TLS layer may hold before it has sent them.
const BUFFER: usize = 16 * 1024;

/// Why TLS can't be had.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("cannot read {}: {source}; check [tls] and the file's owner and mode", path.display())]
    Read { path: PathBuf, source: FileError },
    #[error("{}: {reason}", path.display())]
    Bad { path: PathBuf, reason: String },
    #[error("{} and {} do not belong together, or can't be used: {reason}", certificate.display(), key.display())]
    Pair { certificate: PathBuf, key: PathBuf, reason: rustls::Error },
    #[error("TLS towards the backend: {0}")]
    Backend(String),
}

/// Our side of TLS towards clients.
#[derive(Debug)]
pub(super) struct Server {
    files: Tls,
    certificates: Arc<Certificates>,
    /// The files as they were before they were read.
    read: Vec<Option<Stamp>>,
    config: Arc<ServerConfig>,
    /// Why the files can't be used as they are now.
    trouble: ArcSwapOption<String>,
}

pub(super) fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

impl Server {
    pub(super) fn new(files: &Tls) -> Result<Self, TlsError> {
        let read = stamp(files);
        let certificates = Arc::new(Certificates::load(files)?);
        let config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(|reason| TlsError::Backend(reason.to_string()))?
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(&certificates) as Arc<dyn ResolvesServerCert>);
        let trouble = ArcSwapOption::empty();
        Ok(Self { files: files.clone(), certificates, read, config: Arc::new(config), trouble })
    }

    /// The certificates that are shown.
    pub(super) fn certificates(&self) -> Arc<Certificates> {
        Arc::clone(&self.certificates)
    }

    /// Why the files can't be used as they are now; those that were read before stay in use.
    pub(super) fn trouble(&self) -> Option<String> {
        self.trouble.load().as_deref().cloned()
    }

    /// The handshake with a client, within [`HANDSHAKE_WAIT`]. `_proof`: what came in clear text is used up.
    pub(super) async fn accept(&self, socket: Socket, _proof: NothingUnread) -> io::Result<(Stream, Secured)> {
        let acceptor = TlsAcceptor::from(Arc::clone(&self.config));
        let accepting = acceptor.accept_with(socket, |connection| connection.set_buffer_limit(Some(BUFFER)));
        let stream = timeout(HANDSHAKE_WAIT, accepting).await.map_err(|_| io::ErrorKind::TimedOut)??;
        let connection = stream.get_ref().1;
        let secured = Secured {
            version: connection.protocol_version().and_then(|version| version.as_str()).map_or("TLS", readable),
            cipher: connection
                .negotiated_cipher_suite()
                .and_then(|suite| suite.suite().as_str())
                .unwrap_or("an unnamed one"),
        };
        Ok((Stream::tls(TlsStream::Server(stream)), secured))
    }

    /// Reads the certificate again whenever its files change, until `stop`. A pair that can't be used changes nothing, is complained
    /// about hourly, and tried again: a mode that is put right changes no stamp.
    pub(super) async fn watch(&self, metrics: Metrics, events: Bus, mut stop: Stop) {
        let tell = |usable, text: String| events.publish(crate::clock::wall(), What::Certificate { usable, text });
        let mut seen = self.read.clone();
        let mut told = Vec::new();
        let mut reminder = Reminder::default();
        loop {
            // Said once a day: the days stand in it.
            let warnings = self.certificates.warnings(crate::clock::wall());
            for warning in warnings.iter().filter(|warning| !told.contains(*warning)) {
                tracing::warn!("{warning}");
                tell(true, warning.clone());
            }
            told = warnings;
            tokio::select! {
                biased;
                () = stop.requested() => return,
                () = tokio::time::sleep(LOOK) => {}
            }
            // A file system that stalls must not take a runtime thread along.
            let (files, before, failed) = (self.files.clone(), seen.clone(), self.trouble());
            let again = failed.is_some();
            let looked = tokio::task::spawn_blocking(move || {
                let now = stamp(&files);
                let found = (again || now != before).then(|| certificate::load(&files));
                (now, found)
            });
            let (now, found) = tokio::select! {
                biased;
                () = stop.requested() => return,
                looked = looked => match looked {
                    Ok((now, Some(found))) => (now, found),
                    _ => continue,
                },
            };
            metrics.tls_reloaded(found.is_ok());
            match found {
                Ok(certificate) => {
                    self.certificates.replace(certificate);
                    self.trouble.store(None);
                    reminder.over();
                    tracing::info!(certificate = %self.files.certificate.display(), "certificate read again");
                    tell(true, format!("{} was read again", self.files.certificate.display()));
                }
                // The two files are seldom written at once: the next look may find them together.
                Err(error) => {
                    let why = format!("{error}; the one that was read before stays in use");
                    if reminder.is_due(&why, crate::clock::now()) {
                        tracing::warn!(%error, "the changed certificate can't be used; the old one stays");
                        tell(false, why.clone());
                    }
                    self.trouble.store(Some(Arc::new(why)));
                }
            }
            seen = now;
        }
    }
}

/// The files as they are now. Blocks.
fn stamp(files: &Tls) -> Vec<Option<Stamp>> {
    let also = files.also.iter().flat_map(|pair| [&pair.certificate, &pair.key]);
    [&files.certificate, &files.key].into_iter().chain(also).map(|path| crate::stamp::of(path)).collect()
}

/// The name of the newest version that is spoken.
pub(super) const NEWEST: &str = "TLSv1.3";

/// `TLSv1_3` as it is written elsewhere.
fn readable(version: &'static str) -> &'static str {
    match version {
        "TLSv1_2" => "TLSv1.2",
        "TLSv1_3" => NEWEST,
        other => other,
    }
}

pub(super) fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    let read = file::read(path, MAX_FILE).map_err(|source| TlsError::Read { path: path.to_owned(), source })?;
    Ok(read.0)
}

pub(super) fn bad(path: &Path, reason: impl Into<String>) -> TlsError {
    TlsError::Bad { path: path.to_owned(), reason: reason.into() }
}

/// Whether the files of `tls` can be used, for `smtp-guard check`: what to warn of at `now`, or why not. Blocks.
pub fn try_load(tls: &Tls, now: WallTime) -> Result<Vec<String>, TlsError> {
    Ok(certificate::warnings(&certificate::load(tls)?, now))
}

/// Our side of TLS towards the backend.
#[derive(Clone)]
pub(super) struct Client {
    connector: TlsConnector,
    name: Option<ServerName<'static>>,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Client {
    /// `None`: TLS is off.
    pub(super) fn new(backend: &Backend) -> Result<Option<Self>, TlsError> {
        let failed = |error: String| TlsError::Backend(error);
        let verifier: Arc<dyn ServerCertVerifier> = match (backend.tls, &backend.tls_ca) {
            (BackendTls::Off, _) => return Ok(None),
            (BackendTls::Opportunistic | BackendTls::Required, _) => Arc::new(Anyone(provider())),
            (BackendTls::Verified, None) => Arc::new(
                rustls_platform_verifier::Verifier::new(provider()).map_err(|error| failed(error.to_string()))?,
            ),
            (BackendTls::Verified, Some(path)) => {
                let mut roots = RootCertStore::empty();
                for certificate in certificate::chain(path)? {
                    roots.add(certificate).map_err(|error| bad(path, error.to_string()))?;
                }
                WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider())
                    .build()
                    .map_err(|error| failed(error.to_string()))?
            }
        };
        let config = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(|error| failed(error.to_string()))?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_no_client_auth();
        let name = match &backend.tls_name {
            None => None,
            Some(name) => Some(ServerName::try_from(name.clone()).map_err(|error| failed(error.to_string()))?),
        };
        Ok(Some(Self { connector: TlsConnector::from(Arc::new(config)), name }))
    }

    /// The handshake with the backend, within [`HANDSHAKE_WAIT`]. `_proof`: it has sent nothing ahead.
    /// `name`: what the server is called in the configuration, if by a name.
    pub(super) async fn connect(
        &self,
        socket: Socket,
        name: Option<&str>,
        _proof: NothingUnread,
    ) -> io::Result<Stream> {
        let called = name.and_then(|name| ServerName::try_from(name.to_owned()).ok());
        let name = match self.name.clone().or(called) {
            Some(name) => name,
            None => ServerName::IpAddress(socket.get().peer_addr()?.ip().to_canonical().into()),
        };
        let connecting =
            self.connector.connect_with(name, socket, |connection| connection.set_buffer_limit(Some(BUFFER)));
        let stream = timeout(HANDSHAKE_WAIT, connecting).await.map_err(|_| io::ErrorKind::TimedOut)??;
        Ok(Stream::tls(TlsStream::Client(stream)))
    }
}

/// Takes any certificate: encryption against listeners, not against a man in the middle. Signatures are checked all the
/// same, so that whoever answers holds the key.
#[derive(Debug)]
pub(super) struct Anyone(pub(super) Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
