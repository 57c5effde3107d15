//! What can go wrong with an image, in the user's terms.

use std::path::PathBuf;

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
