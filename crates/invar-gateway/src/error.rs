//! What can go wrong with the gateway itself; what goes wrong with a request becomes its answer.

use std::net::SocketAddr;
use std::path::PathBuf;

/// Result of a gateway operation.
pub type Result<T> = std::result::Result<T, GatewayError>;

/// Why the gateway refused or failed. Names from outside are shown escaped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GatewayError {
    /// A file, directory or socket of the gateway's own.
    #[error("could not {action} {path}", path = path.display())]
    Path {
        /// What was being done.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
    /// An operation of the kernel without a path.
    #[error("could not {action}")]
    Io {
        /// What was being done.
        action: &'static str,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
    /// An address that cannot be listened on.
    #[error("could not listen on {address}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
    /// Another gateway serves from the same state directory.
    #[error("another gateway runs with the state directory {path}", path = path.display())]
    AlreadyRunning {
        /// The state directory.
        path: PathBuf,
    },
    /// A state file that this version must not read.
    #[error("{path} cannot be used: {reason}", path = path.display())]
    State {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A name that is not configured.
    #[error("no {kind} named {name:?}")]
    NotFound {
        /// `service`, `revision`, …
        kind: &'static str,
        /// What was asked for.
        name: String,
    },
    /// A request that cannot be carried out; nothing was changed.
    #[error("{what}: {reason}")]
    Refused {
        /// What was asked for.
        what: String,
        /// Why not, and what to do instead.
        reason: String,
    },
    /// Bytes on the control socket that are not what docs/formats/gateway-control.md says.
    #[error("control socket: {0}")]
    Protocol(String),
}

impl GatewayError {
    pub(crate) fn path(
        action: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Path {
            action,
            path,
            source,
        }
    }

    pub(crate) fn io(action: &'static str) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::Io { action, source }
    }

    pub(crate) fn refused(what: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Refused {
            what: what.into(),
            reason: reason.into(),
        }
    }

    pub(crate) fn service(name: &str) -> Self {
        Self::NotFound {
            kind: "service",
            name: name.to_owned(),
        }
    }

    pub(crate) fn revision(name: &str) -> Self {
        Self::NotFound {
            kind: "revision",
            name: name.to_owned(),
        }
    }
}
