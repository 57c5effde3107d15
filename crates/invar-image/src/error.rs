//! What can go wrong with an image, in the user's terms.

use std::path::PathBuf;

use crate::registry::RegistryError;

/// Result of an image operation.
pub type Result<T> = std::result::Result<T, ImageError>;

/// Why an image was refused or could not be used. Names from outside are shown escaped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// No image answers to the name or digest.
    #[error("no image named {name:?}")]
    NotFound {
        /// What was asked for.
        name: String,
    },
    /// The kernel is required to check the image, and cannot.
    #[error(
        "the kernel cannot check image {id} while it is used, which INVAR_VERIFIED=require asks \
         for; that needs Linux 6.12, and the state root on a file system with fs-verity (ext4 made \
         with -O verity, btrfs, f2fs) when the image was imported"
    )]
    NotVerified {
        /// The image.
        id: crate::digest::Digest,
    },
    /// A file or directory of the store.
    #[error("could not {action} {path}", path = path.display())]
    Io {
        /// What was being done.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
    /// The state database.
    #[error("state database: {0}")]
    State(#[from] rusqlite::Error),
    /// A name that is not an image reference.
    #[error("{text:?} is not an image reference: {reason}")]
    InvalidReference {
        /// What was given.
        text: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A digest prefix that fits several images.
    #[error("{prefix:?} fits {count} images; give more digits")]
    Ambiguous {
        /// What was asked for.
        prefix: String,
        /// How many fit.
        count: usize,
    },
    /// An entry of a layer that is refused.
    #[error("entry \"{entry}\": {reason}")]
    Entry {
        /// Its path as the layer has it, escaped.
        entry: String,
        /// Why.
        reason: String,
    },
    /// Bytes from outside that are not what they should be.
    #[error("{what}: {reason}")]
    Malformed {
        /// Which part.
        what: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Something from outside beyond its [limit](crate::Limits).
    #[error("{what} is larger than the limit of {limit}")]
    TooLarge {
        /// Which part.
        what: String,
        /// The limit, with its unit.
        limit: String,
    },
    /// Content that is not what its digest says.
    #[error("{what}: the digest should be {expected} but is {actual}")]
    DigestMismatch {
        /// Which part.
        what: String,
        /// What the image promised.
        expected: String,
        /// What was found.
        actual: String,
    },
    /// A media type, form or feature that Invar does not know.
    #[error("{what} is not supported: {reason}")]
    Unsupported {
        /// What was found.
        what: String,
        /// What would be.
        reason: String,
    },
    /// No image for this machine.
    #[error("no image for {wanted}; there is {found}")]
    Platform {
        /// `os/architecture` that was wanted.
        wanted: String,
        /// What the archive has.
        found: String,
    },
    /// The image is still needed.
    #[error("image {name} is used by container {container}")]
    InUse {
        /// The image.
        name: String,
        /// Short id of a container.
        container: String,
    },
    /// The content store could not do its part.
    #[error("image store: could not {action}: {reason}")]
    Store {
        /// What was being done.
        action: &'static str,
        /// What it said.
        reason: String,
    },
    /// Something between this host and a registry.
    #[error(transparent)]
    Registry(Box<RegistryError>),
    /// The state was written by a newer Invar.
    #[error("{component} state has version {found}, this invar knows up to {known}: upgrade invar")]
    NewerState {
        /// Whose tables.
        component: &'static str,
        /// Version on disk.
        found: u32,
        /// Newest version this binary knows.
        known: u32,
    },
}

impl From<RegistryError> for ImageError {
    fn from(error: RegistryError) -> Self {
        Self::Registry(Box::new(error))
    }
}

impl ImageError {
    /// For errors of the content store, which describe themselves.
    pub(crate) fn store(action: &'static str) -> impl FnOnce(anyhow::Error) -> Self {
        move |error| Self::Store {
            action,
            reason: format!("{error:#}"),
        }
    }

    /// For a failed operation on a file or directory of the store.
    pub(crate) fn io(
        action: &'static str,
        path: &std::path::Path,
    ) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::Io {
            action,
            path: path.to_owned(),
            source,
        }
    }

    pub(crate) fn malformed(what: impl Into<String>, reason: impl std::fmt::Display) -> Self {
        Self::Malformed {
            what: shown(&what.into()),
            reason: shown(&reason.to_string()),
        }
    }
}

/// Text from outside as a terminal may have it: parsers quote what they refuse as it is.
pub(crate) fn shown(text: &str) -> String {
    let escaped = |c: char| {
        if c.is_control() {
            c.escape_default().to_string()
        } else {
            c.to_string()
        }
    };
    text.chars().map(escaped).collect()
}
