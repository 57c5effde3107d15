//! Why the agent could not do something.

use std::io;
use std::path::{Path, PathBuf};

/// Result of the agent.
pub type Result<T> = std::result::Result<T, AgentError>;

/// Why the agent could not do something.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AgentError {
    /// A policy that cannot be used.
    #[error("{file}:{line}: {message}")]
    Policy {
        /// The file.
        file: String,
        /// Line of the mistake, from 1.
        line: usize,
        /// What is wrong.
        message: String,
    },
    /// Another agent has this state root.
    #[error("an agent runs already for {root}", root = root.display())]
    Running {
        /// The state root.
        root: PathBuf,
    },
    /// No container of this name is watched.
    #[error("no watched container is called {name:?}")]
    NotWatched {
        /// What was asked for.
        name: String,
    },
    /// A file or socket.
    #[error("could not {action} {path}", path = path.display())]
    Io {
        /// What was being done.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The agent's answer, as it came through the socket.
    #[error("{0}")]
    Answer(String),
    /// The sensor.
    #[error(transparent)]
    Sensor(#[from] invar_sensor::SensorError),
    /// An engine.
    #[error(transparent)]
    Engine(#[from] invar_engine::EngineError),
    /// Evidence.
    #[error(transparent)]
    Evidence(#[from] invar_evidence::EvidenceError),
    /// The journal.
    #[error("the agent's journal: {0}")]
    Journal(#[from] rusqlite::Error),
    /// The journal cannot be opened.
    #[error(transparent)]
    Open(#[from] invar_image::ImageError),
}

impl AgentError {
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io {
            action,
            path,
            source,
        }
    }

    /// The error with all its causes.
    pub(crate) fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut next = std::error::Error::source(self);
        while let Some(cause) = next {
            text = format!("{text}: {cause}");
            next = cause.source();
        }
        text
    }
}
