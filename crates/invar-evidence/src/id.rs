//! Names of evidence.

use std::fmt;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};

use crate::error::{EvidenceError, Result};

/// When the capture began and six random digits: `20260317-091500-3f9a1c`. Sorts by time.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct EvidenceId(String);

/// The shape, where `0` stands for any digit and `f` for any hexadecimal digit.
const SHAPE: &[u8] = b"00000000-000000-ffffff";

impl EvidenceId {
    /// A fresh id for a capture that begins at this time (UTC).
    pub(crate) fn at(time: Timestamp) -> Self {
        let random: [u8; 3] = rand::random();
        let time = time.to_zoned(TimeZone::UTC).strftime("%Y%m%d-%H%M%S");
        Self(format!("{time}-{}", crate::digest::hex(&random)))
    }

    /// Reads one that came from outside.
    pub fn parse(text: &str) -> Result<Self> {
        let fits = |(byte, shape): (u8, u8)| match shape {
            b'0' => byte.is_ascii_digit(),
            b'f' => byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte),
            other => byte == other,
        };
        let valid = text.len() == SHAPE.len() && text.bytes().zip(SHAPE.iter().copied()).all(fits);
        if valid {
            Ok(Self(text.to_owned()))
        } else {
            Err(EvidenceError::NotFound {
                name: text.to_owned(),
            })
        }
    }

    /// The whole id.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The random digits, as names derived from it carry them.
    pub fn short(&self) -> &str {
        &self.0[SHAPE.len() - 6..]
    }
}

impl TryFrom<String> for EvidenceId {
    type Error = EvidenceError;

    fn try_from(text: String) -> Result<Self> {
        Self::parse(&text)
    }
}

impl From<EvidenceId> for String {
    fn from(id: EvidenceId) -> Self {
        id.0
    }
}

impl fmt::Display for EvidenceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fresh_id_is_read_back() {
        let id = EvidenceId::at(Timestamp::UNIX_EPOCH);
        assert!(id.as_str().starts_with("19700101-000000-"), "{id}");
        assert_eq!(EvidenceId::parse(id.as_str()).unwrap(), id);
        assert_eq!(id.short().len(), 6);
    }

    #[test]
    fn anything_else_is_refused() {
        for text in [
            "",
            "..",
            "../../etc/passwd",
            "20260317-091500-3F9A1C",
            "20260317-091500-3f9a1",
            "20260317/091500-3f9a1c",
            "20260317-091500-3f9a1c\n",
        ] {
            assert!(EvidenceId::parse(text).is_err(), "{text:?}");
        }
    }
}
