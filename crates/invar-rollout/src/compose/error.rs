//! What is wrong with a file, and where.

use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A place in a file, both counted from 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Position {
    /// The file, as it was named.
    pub file: Arc<Path>,
    /// Its line.
    pub line: usize,
    /// The column, in characters.
    pub column: usize,
}

impl Position {
    /// An error at this place.
    pub(super) fn error(&self, reason: impl Into<String>) -> ComposeError {
        ComposeError::At {
            at: self.clone(),
            reason: reason.into(),
        }
    }

    /// A path as written at this place: relative ones begin at the file's directory.
    pub(super) fn resolve(&self, path: &str) -> PathBuf {
        self.file.parent().unwrap_or(Path::new("")).join(path)
    }
}

impl std::fmt::Display for Position {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}:{}", self.file.display(), self.line, self.column)
    }
}

/// Result of reading a file.
pub type Result<T> = std::result::Result<T, ComposeError>;

/// Why a project cannot be read. What comes from the file is shown escaped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ComposeError {
    /// Something at one place of a file.
    #[error("{at}: {reason}")]
    At {
        /// Where.
        at: Position,
        /// What is wrong there.
        reason: String,
    },
    /// A file that cannot be read.
    #[error("could not read {path}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Services that wait for each other.
    #[error("{at}: services depend on each other in a circle: {chain}")]
    Circle {
        /// Where the circle is closed.
        at: Position,
        /// `a → b → a`.
        chain: String,
    },
    /// The project has no usable name.
    #[error("{name:?} is not a project name: use lower-case letters, digits, '-' and '_'")]
    ProjectName {
        /// The name.
        name: String,
    },
}

/// Something that was read but does not do what its author may expect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    /// Where.
    pub at: Position,
    /// Which key, for example `services.web.build`.
    pub path: String,
    /// What is different.
    pub message: String,
}

impl std::fmt::Display for Warning {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}: {}", self.at, self.path, self.message)
    }
}
