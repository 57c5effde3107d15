//! Why a container cannot be watched.

use std::io;

/// The result of this crate.
pub type Result<T> = std::result::Result<T, SensorError>;

/// Why a container cannot be watched.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SensorError {
    /// The kernel gave no group.
    #[error(
        "the kernel does not tell of files: {source} (fanotify needs root in the host's user \
         namespace; one group a container, at most fs.fanotify.max_user_groups)"
    )]
    Group {
        /// The kernel's answer.
        source: io::Error,
    },
    /// A place could not be marked.
    #[error("could not watch {place} of container {container}: {source}")]
    Mark {
        /// Its name.
        container: String,
        /// In words.
        place: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The container's processes cannot be looked at; most often it has just ended.
    #[error("could not look into container {container}: {source}")]
    Gone {
        /// Its name.
        container: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The kernel did not take the guard's programs, or one of their maps.
    #[error("the kernel refuses the guard's BPF programs: {source}")]
    Guard {
        /// What libbpf says.
        source: libbpf_rs::Error,
    },
    /// The guard's programs could not be made to outlive this process.
    #[error("could not pin the guard's BPF programs: {source}")]
    Pin {
        /// The kernel's answer.
        source: io::Error,
    },
    /// A thread could not be made.
    #[error("could not start a thread: {source}")]
    Thread {
        /// Why.
        source: io::Error,
    },
}
