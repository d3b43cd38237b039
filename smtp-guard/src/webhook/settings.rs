//! The settings of a webhook: from the configuration, and from the files that it names.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};
use smtp_guard_core::webhook::{Endpoint, SECRET, Secret};
use tokio_rustls::TlsConnector;

use crate::config::{self, Config, EventKind};
use crate::file::{self, FileError};

/// Bytes of a secret.
const SECRET_FILE: u64 = 4096;
/// Bytes of a list of authorities.
const AUTHORITIES: u64 = 4 << 20;

/// Why the webhook can't be used as it is configured.
#[derive(Debug, thiserror::Error)]
pub enum WebhookError {
    #[error("cannot read {}: {source}; check {key}, and who may read the file", path.display())]
    Read { key: &'static str, path: PathBuf, source: FileError },
    #[error("{} is too short for a secret: it has less than {SECRET} bytes; make one by `openssl rand -hex 32`", .0.display())]
    Secret(PathBuf),
    #[error("{}: {reason}", path.display())]
    Authorities { path: PathBuf, reason: String },
    #[error("TLS towards the webhook: {0}")]
    Tls(String),
}

impl WebhookError {
    /// The key of the configuration, and the file that it names, if it is about one.
    pub fn place(&self) -> Option<(&'static str, &Path)> {
        match self {
            Self::Read { key, path, .. } => Some((key, path)),
            Self::Secret(path) => Some(("events.secret_file", path)),
            Self::Authorities { path, .. } => Some(("events.tls_ca", path)),
            Self::Tls(_) => None,
        }
    }
}

/// The settings of a webhook.
#[derive(Clone)]
pub struct Settings {
    pub(super) endpoint: Endpoint,
    pub(super) config: config::Events,
    /// This guard's own name.
    pub(super) hostname: String,
    pub(super) secret: Secret,
    /// `None`: in clear text.
    pub(super) tls: Option<TlsConnector>,
    /// The content of the files that were read.
    content: [Vec<u8>; 2],
}

impl std::fmt::Debug for Settings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Settings").field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}

impl PartialEq for Settings {
    fn eq(&self, other: &Self) -> bool {
        (&self.config, &self.hostname, &self.content) == (&other.config, &other.hostname, &other.content)
    }
}

impl Settings {
    /// Those of `config`; `None`: it names no webhook. Reads files.
    pub fn load(config: &Config) -> Result<Option<Self>, WebhookError> {
        let (hostname, config) = (config.hostname.clone(), config.events.clone());
        let (Some(endpoint), Some(path)) = (config.webhook.clone(), config.secret_file.as_deref()) else {
            return Ok(None);
        };
        let content = read("events.secret_file", path, SECRET_FILE)?;
        let secret = Secret::new(&content).ok_or_else(|| WebhookError::Secret(path.to_owned()))?;
        let authorities = config.tls_ca.as_deref().filter(|_| endpoint.is_secure());
        let authorities = authorities.map(|path| Ok((path, read("events.tls_ca", path, AUTHORITIES)?))).transpose()?;
        let tls = if endpoint.is_secure() {
            Some(connector(authorities.as_ref().map(|(path, pem)| (*path, pem.as_slice())))?)
        } else {
            None
        };
        let content = [content, authorities.map(|(_, pem)| pem).unwrap_or_default()];
        Ok(Some(Self { endpoint, config, hostname, secret, tls, content }))
    }

    /// Scheme, host and port of the receiver.
    pub fn place(&self) -> String {
        self.endpoint.place()
    }

    /// Whether the receiver is told of events of this kind.
    pub(super) fn tells(&self, kind: EventKind) -> bool {
        match self.config.kinds.as_slice() {
            [] => !kind.is_of_traffic(),
            chosen => chosen.contains(&kind),
        }
    }
}

/// TLS with whom the `authorities` of a file vouch for, or those of the system.
fn connector(authorities: Option<(&Path, &[u8])>) -> Result<TlsConnector, WebhookError> {
    let failed = |error: &dyn std::fmt::Display| WebhookError::Tls(error.to_string());
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier: Arc<dyn ServerCertVerifier> = match authorities {
        None => {
            Arc::new(rustls_platform_verifier::Verifier::new(Arc::clone(&provider)).map_err(|error| failed(&error))?)
        }
        Some((path, pem)) => {
            let bad = |reason: String| WebhookError::Authorities { path: path.to_owned(), reason };
            let mut roots = RootCertStore::empty();
            for certificate in CertificateDer::pem_slice_iter(pem) {
                let certificate = certificate.map_err(|error| bad(format!("no PEM file: {error}")))?;
                roots.add(certificate).map_err(|error| bad(error.to_string()))?;
            }
            if roots.is_empty() {
                return Err(bad(String::from("holds no certificate (-----BEGIN CERTIFICATE-----)")));
            }
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
                .build()
                .map_err(|error| failed(&error))?
        }
    };
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| failed(&error))?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsConnector::from(Arc::new(config)))
}

fn read(key: &'static str, path: &Path, most: u64) -> Result<Vec<u8>, WebhookError> {
    let read = file::read(path, most).map_err(|source| WebhookError::Read { key, path: path.to_owned(), source })?;
    Ok(read.0)
}
