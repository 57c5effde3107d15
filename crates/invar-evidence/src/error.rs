//! What can go wrong with evidence, in the user's terms.

use std::path::{Path, PathBuf};

use invar_engine::EngineError;

/// Result of an operation on evidence.
pub type Result<T> = std::result::Result<T, EvidenceError>;

/// Why evidence could not be taken, sealed or read. Names from outside are shown escaped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EvidenceError {
    /// No evidence has this id.
    #[error("no evidence named {name:?}")]
    NotFound {
        /// What was asked for.
        name: String,
    },
    /// A part of an id that fits several.
    #[error("{name:?} fits {count} pieces of evidence; give more digits")]
    Ambiguous {
        /// What was asked for.
        name: String,
        /// How many fit.
        count: usize,
    },
    /// Another process is writing it.
    #[error("evidence {id} is being captured by another process")]
    Busy {
        /// Which.
        id: String,
    },
    /// It must be sealed for this.
    #[error("evidence {id} is not sealed")]
    NotSealed {
        /// Which.
        id: String,
    },
    /// It is sealed and cannot change any more.
    #[error("evidence {id} is sealed already")]
    AlreadySealed {
        /// Which.
        id: String,
    },
    /// A mount that was asked for is not there.
    #[error("the container {container:?} has no mount at {at:?}")]
    NoSuchMount {
        /// The container.
        container: String,
        /// Where it was expected.
        at: String,
    },
    /// The engine refused or failed.
    #[error("could not {action}")]
    Engine {
        /// What was being done.
        action: &'static str,
        /// What the engine said.
        #[source]
        source: EngineError,
    },
    /// The comparison with the image failed.
    #[error(transparent)]
    Drift(#[from] invar_drift::DriftError),
    /// A capture broke off; what was taken is kept.
    #[error("the capture of {container:?} broke off; what was taken is kept as evidence {id}")]
    BrokeOff {
        /// The container.
        container: String,
        /// The incomplete evidence.
        id: String,
        /// Why.
        #[source]
        source: Box<EvidenceError>,
    },
    /// Something that should be evidence is not in the form it must have.
    #[error("{what} is malformed: {reason}")]
    Malformed {
        /// Which part.
        what: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A newer Invar wrote it.
    #[error("{what} needs a newer invar: {reason}")]
    TooNew {
        /// Which part.
        what: String,
        /// Its version or the feature that is not known here.
        reason: String,
    },
    /// A file or directory could not be used.
    #[error("could not {action} {}", path.display().to_string().escape_debug())]
    Io {
        /// What was being done.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
    /// A replacement failed after the old container had ended.
    #[error("could not replace {name:?}: {outcome}")]
    NotReplaced {
        /// The container being replaced.
        name: String,
        /// What became of it.
        outcome: String,
        /// Why it failed.
        #[source]
        source: Box<EvidenceError>,
    },
    /// The container's requests could not be sent to another.
    #[error("the traffic of {name:?} could not be moved: {reason}")]
    Traffic {
        /// The container being replaced.
        name: String,
        /// Why.
        reason: String,
    },
    /// A fresh container did not come up.
    #[error("the fresh container of {name:?} {reason}")]
    NotReady {
        /// The container being replaced.
        name: String,
        /// What happened instead.
        reason: String,
    },
}

impl EvidenceError {
    pub(crate) fn io<E: Into<std::io::Error>>(
        action: &'static str,
        path: impl AsRef<Path>,
    ) -> impl FnOnce(E) -> Self {
        let path = path.as_ref().to_owned();
        move |source| Self::Io {
            action,
            path,
            source: source.into(),
        }
    }

    pub(crate) fn engine(action: &'static str) -> impl FnOnce(EngineError) -> Self {
        move |source| Self::Engine { action, source }
    }

    pub(crate) fn traffic(name: &str, reason: String) -> Self {
        Self::Traffic {
            name: name.to_owned(),
            reason,
        }
    }

    #[allow(
        clippy::needless_pass_by_value,
        reason = "an error or a text, whichever the caller has"
    )]
    pub(crate) fn malformed(what: impl Into<String>, reason: impl ToString) -> Self {
        Self::Malformed {
            what: what.into(),
            reason: reason.to_string(),
        }
    }

    /// The whole chain in one line, for records.
    pub(crate) fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            let said = error.to_string();
            if !text.ends_with(&said) {
                text.push_str(": ");
                text.push_str(&said);
            }
            cause = error.source();
        }
        text
    }
}
