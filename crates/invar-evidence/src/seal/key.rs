//! The key evidence is signed with: Ed25519 (RFC 8032), made on first use.
//!
//! ```text
//!  <root>/trust/evidence.key   0600, PKCS#8 in PEM (RFC 8410)
//!  <root>/trust/evidence.pub   SubjectPublicKeyInfo in PEM: what others verify with
//! ```

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use fs_err as fs;

use crate::digest;
use crate::error::{EvidenceError, Result};
use crate::files;

const PRIVATE: &str = "evidence.key";
const PUBLIC: &str = "evidence.pub";
/// Longest key file.
const LONGEST: u64 = 4096;
/// DER before the 32 bytes of a private key (RFC 8410, section 7).
const PKCS8: &[u8] = &[
    0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20,
];
/// DER before the 32 bytes of a public key (RFC 8410, section 4).
const SPKI: &[u8] = &[
    0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00,
];

/// Signs evidence.
pub(crate) struct PrivateKey(SigningKey);

impl PrivateKey {
    /// The key of a state root, made when there is none.
    pub(crate) fn load_or_create(trust: &Path) -> Result<Self> {
        let path = trust.join(PRIVATE);
        if !path.exists() {
            Self::create(trust, &path)?;
        }
        let text = files::read(&path, LONGEST)?;
        let secret = from_pem(&text, "PRIVATE KEY", PKCS8)
            .ok_or_else(|| not_a_key(&path, "an Ed25519 private key in PEM (PKCS#8)"))?;
        let key = Self(SigningKey::from_bytes(&secret));
        let public = trust.join(PUBLIC);
        if !public.exists() {
            files::replace(&public, key.public().to_pem().as_bytes())?;
        }
        Ok(key)
    }

    /// Two processes may come here at once: the first file stays.
    fn create(trust: &Path, path: &Path) -> Result<()> {
        let secret: [u8; 32] = rand::random();
        let mine = trust.join(format!(
            ".{PRIVATE}-{}",
            digest::hex(&rand::random::<[u8; 8]>())
        ));
        files::replace(&mine, to_pem("PRIVATE KEY", PKCS8, &secret).as_bytes())?;
        let linked = fs::hard_link(&mine, path);
        fs::remove_file(&mine).map_err(EvidenceError::io("remove", &mine))?;
        match linked {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                Err(EvidenceError::io("create", path)(error))
            }
            _ => files::sync_dir(trust),
        }
    }

    pub(crate) fn public(&self) -> PublicKey {
        PublicKey(self.0.verifying_key())
    }

    pub(crate) fn sign(&self, message: &[u8]) -> Vec<u8> {
        self.0.sign(message).to_bytes().to_vec()
    }
}

/// Verifies evidence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicKey(VerifyingKey);

impl PublicKey {
    /// The key of a state root; `None` when nothing was ever signed there.
    pub fn of_root(state_root: &Path) -> Result<Option<Self>> {
        let path = state_root.join("trust").join(PUBLIC);
        if path.exists() {
            Self::read(&path).map(Some)
        } else {
            Ok(None)
        }
    }

    /// Reads a public key in PEM.
    pub fn read(path: &Path) -> Result<Self> {
        Self::from_text(&files::read(path, LONGEST)?)
            .ok_or_else(|| not_a_key(path, "an Ed25519 public key in PEM"))
    }

    pub(crate) fn from_text(text: &[u8]) -> Option<Self> {
        let bytes = from_pem(text, "PUBLIC KEY", SPKI)?;
        VerifyingKey::from_bytes(&bytes).ok().map(Self)
    }

    /// In PEM, as OpenSSL reads it.
    pub fn to_pem(&self) -> String {
        to_pem("PUBLIC KEY", SPKI, self.0.as_bytes())
    }

    /// Names the key: SHA-256 of its DER form.
    pub fn id(&self) -> String {
        let der = [SPKI, self.0.as_bytes().as_slice()].concat();
        format!("sha256:{}", digest::sha256(&der))
    }

    pub(crate) fn verify(&self, message: &[u8], signature: &[u8]) -> bool {
        // Strict: refuses keys and signatures for which more than one form would be accepted.
        Signature::from_slice(signature)
            .is_ok_and(|signature| self.0.verify_strict(message, &signature).is_ok())
    }
}

fn to_pem(label: &str, prefix: &[u8], key: &[u8; 32]) -> String {
    let der = [prefix, key.as_slice()].concat();
    let text = BASE64.encode(der);
    format!("-----BEGIN {label}-----\n{text}\n-----END {label}-----\n")
}

fn from_pem(text: &[u8], label: &str, prefix: &[u8]) -> Option<[u8; 32]> {
    let text = std::str::from_utf8(text).ok()?.trim();
    let body = text
        .strip_prefix(&format!("-----BEGIN {label}-----"))?
        .strip_suffix(&format!("-----END {label}-----"))?;
    let body: String = body.split_ascii_whitespace().collect();
    let der = BASE64.decode(body).ok()?;
    der.strip_prefix(prefix)?.try_into().ok()
}

fn not_a_key(path: &Path, needed: &str) -> EvidenceError {
    EvidenceError::malformed(path.display().to_string(), format!("it is not {needed}"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_key_is_made_once_private_and_read_back() {
        let trust = tempfile::tempdir().unwrap();
        let first = PrivateKey::load_or_create(trust.path()).unwrap();
        let second = PrivateKey::load_or_create(trust.path()).unwrap();
        assert_eq!(first.public(), second.public());
        let mode = fs::metadata(trust.path().join(PRIVATE))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
        let public = PublicKey::read(&trust.path().join(PUBLIC)).unwrap();
        assert!(public.verify(b"message", &first.sign(b"message")));
        assert!(!public.verify(b"messagE", &first.sign(b"message")));
        assert!(!public.verify(b"message", b"short"));
        assert_eq!(fs::read_dir(trust.path()).unwrap().count(), 2);
    }

    #[test]
    fn what_is_no_key_is_named() {
        let stage = tempfile::tempdir().unwrap();
        let path = stage.path().join("evidence.pub");
        fs::write(
            &path,
            "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n",
        )
        .unwrap();
        let message = PublicKey::read(&path).unwrap_err().to_string();
        assert!(
            message.contains("evidence.pub") && message.contains("Ed25519"),
            "{message}"
        );
    }
}
