//! The signature of a request: by it a receiver knows who sent it, and when.

use std::fmt;
use std::fmt::Write as _;

use hmac::{Hmac, Mac as _};
use sha2::Sha256;

/// Bytes that a secret has at least.
pub const SECRET: usize = 32;

/// The key that requests are signed with.
#[derive(Clone)]
pub struct Secret(Hmac<Sha256>);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

impl Secret {
    /// The secret in the content of a file, without white space at its ends; `None`: it is too short.
    pub fn new(content: &[u8]) -> Option<Self> {
        let content = content.trim_ascii();
        (content.len() >= SECRET).then(|| Hmac::new_from_slice(content).ok().map(Self)).flatten()
    }

    /// The value of the header: `t=SECONDS,v1=HEX`, where HEX is HMAC-SHA256 of `SECONDS.BODY`. `seconds` is wall time since 1970.
    pub fn sign(&self, seconds: i64, body: &[u8]) -> String {
        let code = self.0.clone().chain_update(seconds.to_string()).chain_update(b".").chain_update(body).finalize();
        let mut header = format!("t={seconds},v1=");
        // Infallible: a String takes everything.
        code.into_bytes().iter().for_each(|byte| _ = write!(header, "{byte:02x}"));
        header
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The figures are of `printf 'SECONDS.BODY' | openssl dgst -sha256 -hmac SECRET`.
    #[test]
    fn a_signature_is_what_openssl_says() {
        let secret = |content: &str| Secret::new(content.as_bytes());
        let key = "0123456789abcdef0123456789abcdef";
        let check = |content: &str, seconds, body: &str, hex: &str| {
            let signed = secret(content).unwrap().sign(seconds, body.as_bytes());
            assert_eq!(signed, format!("t={seconds},v1={hex}"));
        };
        let hex = "9008af7c41eec82bf902d6978c2fa0498afaa9f590a4ab65b9a28c04a3cbed26";
        check(key, 1_764_000_000, "{\"version\":2}", hex);
        check(&format!("\n{key} \r\n"), 1_764_000_000, "{\"version\":2}", hex);
        check(key, 0, "", "b5b3fbed5b59d925316d6d39db497aba70820961dda53dfe23a87559dab1eb6b");
        assert!(secret("").is_none());
        assert!(secret(&key[1..]).is_none(), "a byte too short");
        assert!(secret(&format!("{}\n\n\n", &key[1..])).is_none(), "line ends don't count");
        assert_eq!(format!("{:?}", secret(key).unwrap()), "Secret");
    }
}
