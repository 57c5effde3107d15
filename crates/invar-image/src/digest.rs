//! Digests: `sha256:` and 64 hexadecimal digits.

use std::fmt;
use std::io::{self, Read};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::error::{ImageError, Result};

/// A SHA-256 digest as images write it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest(String);

impl Digest {
    const PREFIX: &str = "sha256:";

    /// Reads one that came from outside.
    pub fn parse(text: &str) -> Result<Self> {
        let hex = text.strip_prefix(Self::PREFIX).unwrap_or_default();
        let valid = hex.len() == 64
            && hex
                .bytes()
                .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        if valid {
            Ok(Self(text.to_owned()))
        } else {
            Err(ImageError::malformed(
                format!("digest {text:?}"),
                "must be 'sha256:' and 64 hexadecimal digits",
            ))
        }
    }

    /// The digest of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self::from_hash(Sha256::digest(bytes).into())
    }

    pub(crate) fn from_hash(hash: [u8; 32]) -> Self {
        use fmt::Write as _;
        let mut text = Self::PREFIX.to_owned();
        for byte in hash {
            write!(text, "{byte:02x}").expect("writing to a String succeeds");
        }
        Self(text)
    }

    /// With its algorithm: `sha256:…`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Only the 64 digits.
    pub fn hex(&self) -> &str {
        &self.0[Self::PREFIX.len()..]
    }

    /// The first twelve digits, as listings show it.
    pub fn short(&self) -> &str {
        &self.hex()[..12]
    }

    /// Fails unless both are the same.
    pub(crate) fn expect(&self, what: &str, actual: &Self) -> Result<()> {
        // A fuzzer cannot invent content for a digest.
        if self == actual || cfg!(fuzzing) {
            return Ok(());
        }
        Err(ImageError::DigestMismatch {
            what: crate::error::shown(what),
            expected: self.0.clone(),
            actual: actual.0.clone(),
        })
    }
}

impl TryFrom<String> for Digest {
    type Error = ImageError;

    fn try_from(text: String) -> Result<Self> {
        Self::parse(&text)
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Hashes and counts what is read through it.
pub(crate) struct HashingReader<R> {
    inner: R,
    hash: Sha256,
    read: u64,
}

impl<R: Read> HashingReader<R> {
    pub(crate) fn new(inner: R) -> Self {
        Self {
            inner,
            hash: Sha256::new(),
            read: 0,
        }
    }

    /// Bytes read so far.
    pub(crate) fn count(&self) -> u64 {
        self.read
    }

    /// Reads what is left and gives the digest over everything.
    pub(crate) fn finish(mut self) -> io::Result<Digest> {
        io::copy(&mut self, &mut io::sink())?;
        Ok(Digest::from_hash(self.hash.finalize().into()))
    }
}

impl<R: Read> Read for HashingReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.inner.read(buffer)?;
        self.hash.update(&buffer[..length]);
        self.read += length as u64;
        Ok(length)
    }
}
