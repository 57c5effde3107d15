//! What can go wrong with a container, in the user's terms.

use std::path::PathBuf;

/// Result of an engine operation.
pub type Result<T> = std::result::Result<T, EngineError>;

/// Why an engine refused or failed. Names from outside are shown escaped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// No container answers to the name or id.
    #[error("no container named {name:?}")]
    NotFound {
        /// What was asked for.
        name: String,
    },
    /// An id prefix that fits several containers.
    #[error("{prefix:?} fits {count} containers; give more digits")]
    Ambiguous {
        /// What was asked for.
        prefix: String,
        /// How many fit.
        count: usize,
    },
    /// A name that is not allowed.
    #[error(
        "{name:?} is not a valid name: use letters, digits, '_', '.' and '-', starting with a \
         letter or digit, at most 128"
    )]
    InvalidName {
        /// The refused name.
        name: String,
    },
    /// The name belongs to another container.
    #[error("the name {name:?} is taken by container {holder}")]
    NameTaken {
        /// The name.
        name: String,
        /// Short id of the container that has it.
        holder: String,
    },
    /// The operation does not fit the container's state.
    #[error("container {name:?} is {actual}; it must be {needed}")]
    WrongState {
        /// The container.
        name: String,
        /// What it is doing.
        actual: &'static str,
        /// What it would have to be doing.
        needed: &'static str,
    },
    /// The program to run is not in the container.
    #[error("{program:?} was not found in the container")]
    ProgramNotFound {
        /// The program as asked for.
        program: String,
    },
    /// The program to run cannot be executed.
    #[error("{program:?} cannot be executed: {reason}")]
    NotExecutable {
        /// The program as asked for.
        program: String,
        /// Why.
        reason: String,
    },
    /// No network has this name.
    #[error("no network named {name:?}")]
    NetworkNotFound {
        /// What was asked for.
        name: String,
    },
    /// A network that containers are in.
    #[error("the network {name:?} is in use by {containers}")]
    NetworkInUse {
        /// The network.
        name: String,
        /// Names of the containers.
        containers: String,
    },
    /// Every address of a network is taken, or the one that was asked for.
    #[error("the network {network:?} has no address for the container: {reason}")]
    NoAddress {
        /// The network.
        network: String,
        /// Which addresses there are, and who has them.
        reason: String,
    },
    /// A port of the host that something else listens on.
    #[error("port {port} of the host is in use by another program or container")]
    PortTaken {
        /// Address, port and protocol.
        port: String,
    },
    /// A value of the configuration that cannot work.
    #[error("{what}: {reason}")]
    InvalidConfig {
        /// Which setting, as the user wrote it.
        what: String,
        /// Why it cannot work.
        reason: String,
    },
    /// What this engine, or this host, cannot do.
    #[error("{what} is not possible: {reason}")]
    Unsupported {
        /// What was asked for.
        what: String,
        /// Why not, and what is lost or what to do instead.
        reason: String,
    },
    /// The runtime could not set the container up.
    #[error("could not {action}: {reason}")]
    Runtime {
        /// What was being done.
        action: &'static str,
        /// What the runtime said.
        reason: String,
    },
    /// A file or directory of Invar's own state.
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
    /// An image could not be used.
    #[error(transparent)]
    Image(#[from] invar_image::ImageError),
    /// The state database.
    #[error("state database: {0}")]
    State(#[from] rusqlite::Error),
}

impl EngineError {
    /// What failed on a file or directory.
    pub(crate) fn io(action: &'static str, path: &std::path::Path, source: std::io::Error) -> Self {
        Self::Io {
            action,
            path: path.to_owned(),
            source,
        }
    }
}
