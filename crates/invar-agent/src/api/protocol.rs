//! Questions and answers, one a line.

use serde::{Deserialize, Serialize};

/// The version both sides must speak.
pub const VERSION: u32 = 1;
/// Longest line.
pub const LONGEST: u64 = 64 << 10;

/// A question with its version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// [`VERSION`].
    pub version: u32,
    /// What is asked.
    #[serde(flatten)]
    pub ask: Ask,
}

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Ask {
    /// What is watched, and how the agent is.
    Status,
    /// The last incidents, newest first.
    Incidents {
        /// How many at most.
        most: u32,
    },
    /// A container has set itself up: what changes from now on is drift.
    Seal {
        /// Its name or id, or the beginning of its id.
        container: String,
    },
    /// Undo freezing and quarantine, and let the container have another incident.
    Release {
        /// Its name or id, or the beginning of its id.
        container: String,
    },
    /// Read the policy again.
    Reload,
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "answer", content = "value", rename_all = "kebab-case")]
pub enum Answer {
    /// It was done; what was asked for.
    Done(serde_json::Value),
    /// It was not, and why.
    Refused(String),
}
