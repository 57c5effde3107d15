//! The machines an image is for: `os/architecture[/variant]`.

use std::fmt;

use oci_spec::image::Arch;

use crate::error::{ImageError, Result};

/// An operating system and an architecture in Go's words (`GOOS`, `GOARCH`), as images use them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Platform {
    /// For example `linux`.
    pub os: String,
    /// For example `amd64`.
    pub architecture: String,
    /// For example `v7` of `arm`.
    pub variant: Option<String>,
}

impl Platform {
    /// This host's.
    pub fn host() -> Self {
        Self {
            os: "linux".to_owned(),
            architecture: Arch::default().to_string(),
            variant: None,
        }
    }

    /// Reads `os/architecture[/variant]`.
    pub fn parse(text: &str) -> Result<Self> {
        let is_word = |part: &&str| {
            !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
        };
        let parts: Vec<_> = text.split('/').filter(is_word).collect();
        match *parts.as_slice() {
            [os, architecture, ref rest @ ..]
                if rest.len() <= 1 && text.split('/').count() == parts.len() =>
            {
                Ok(Self {
                    os: os.to_owned(),
                    architecture: architecture.to_owned(),
                    variant: rest.first().map(|&variant| variant.to_owned()),
                })
            }
            _ => Err(ImageError::InvalidReference {
                text: text.to_owned(),
                reason: "a platform is os/architecture[/variant], for example linux/amd64",
            }),
        }
    }

    /// Whether an image for `other` runs here. A variant counts only when it was asked for.
    pub fn accepts(&self, other: &Self) -> bool {
        self.os == other.os
            && self.architecture == other.architecture
            && (self.variant.is_none() || self.variant == other.variant)
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        match &self.variant {
            Some(variant) => write!(f, "/{variant}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn platforms_are_read_and_refused() {
        assert_eq!(
            Platform::parse("linux/arm/v7").unwrap().to_string(),
            "linux/arm/v7"
        );
        assert_eq!(Platform::parse("linux/amd64").unwrap().variant, None);
        for text in [
            "",
            "linux",
            "linux/",
            "linux/amd64/v1/x",
            "linux//amd64",
            "a b/c",
        ] {
            assert!(Platform::parse(text).is_err(), "{text:?} was accepted");
        }
    }

    #[test]
    fn a_variant_counts_only_when_asked_for() {
        let any = Platform::parse("linux/arm").unwrap();
        let v7 = Platform::parse("linux/arm/v7").unwrap();
        assert!(any.accepts(&v7));
        assert!(!v7.accepts(&any));
    }
}
