//! Certificates for one test: an authority of its own, and what it signs.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

/// The authority, and the folder that everything is written to.
#[derive(Debug)]
pub struct Pki {
    folder: tempfile::TempDir,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate and its key, in PEM files.
#[derive(Clone, Debug)]
pub struct Pair {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

impl Pki {
    /// A new authority.
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "smtp-guard test authority");
        let key = KeyPair::generate().unwrap();
        fs::write(folder.path().join("ca.pem"), params.self_signed(&key).unwrap().pem()).unwrap();
        Self { folder, issuer: Issuer::new(params, key) }
    }

    /// The authority's certificate.
    pub fn ca(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// A certificate for `names` (host names or addresses) in files named after `name`; those of before are replaced.
    pub fn issue(&self, name: &str, names: &[&str]) -> Pair {
        self.issue_by(name, names, |_| ())
    }

    /// The same, which ends in so many `days`.
    pub fn issue_for(&self, name: &str, names: &[&str], days: u64) -> Pair {
        let end = SystemTime::now() + Duration::from_secs(days * 86_400);
        self.issue_by(name, names, |params| params.not_after = end.into())
    }

    fn issue_by(&self, name: &str, names: &[&str], change: impl FnOnce(&mut CertificateParams)) -> Pair {
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names.clone()).unwrap();
        change(&mut params);
        params.distinguished_name.push(DnType::CommonName, names[0].clone());
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let pair = Pair { certificate: self.file(name, "crt"), key: self.file(name, "key") };
        replace(&pair.certificate, &certificate.pem());
        replace(&pair.key, &key.serialize_pem());
        pair
    }

    fn file(&self, name: &str, kind: &str) -> PathBuf {
        self.folder.path().join(format!("{name}.{kind}"))
    }
}

impl Default for Pki {
    fn default() -> Self {
        Self::new()
    }
}

impl Pair {
    /// `[tls]` of the guard.
    pub fn guard(&self) -> String {
        format!("[tls]\ncertificate = \"{}\"\nkey = \"{}\"", self.certificate.display(), self.key.display())
    }

    /// Lets other users than root read the files.
    pub(crate) fn open_to_all(&self) {
        for (path, mode) in [(self.key.parent().unwrap(), 0o755), (&self.key, 0o644)] {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        }
    }

    /// Lines of main.cf for a Postfix that offers STARTTLS.
    pub fn postfix(&self) -> String {
        format!(
            "smtpd_tls_security_level = may\nsmtpd_tls_received_header = yes\nsmtpd_tls_cert_file = {}\nsmtpd_tls_key_file = {}\n",
            self.certificate.display(),
            self.key.display()
        )
    }
}

/// Whoever reads meanwhile sees the old file or the new one.
fn replace(path: &Path, text: &str) {
    let new = path.with_extension("new");
    fs::write(&new, text).unwrap();
    fs::rename(new, path).unwrap();
}
