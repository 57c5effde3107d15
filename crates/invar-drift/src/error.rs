//! Why a comparison could not be made.

use std::io;

/// Result of a comparison.
pub type Result<T> = std::result::Result<T, DriftError>;

/// Why a container could not be compared with its image. Paths are shown escaped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DriftError {
    /// A path of the container could not be read.
    #[error("could not {action} {} of the container", path.escape_ascii())]
    Read {
        /// What was being done.
        action: &'static str,
        /// Path inside the container.
        path: Vec<u8>,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// What was found could not be put aside.
    #[error("could not sort the changes in {}", dir.display())]
    Scratch {
        /// Where to.
        dir: std::path::PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The container was removed while it was compared.
    #[error("the container was removed while it was compared: what was found is not all")]
    Removed,
    /// The names alone would fill the memory.
    #[error(
        "the changed paths are longer than {limit} bytes together, at {}; the container made a \
         tree to exhaust whoever reads it",
        path.escape_ascii()
    )]
    TooLarge {
        /// Where the limit was reached.
        path: Vec<u8>,
        /// The limit in bytes.
        limit: u64,
    },
}
