//! Registries: pull and push as the OCI distribution specification has it, version 1.1.
//!
//! ```text
//! Reference ─▶ endpoint (mirrors, TLS) ─▶ Client ─▶ one Session a thread
//!                                            │           └─▶ http ─▶ connection (TCP, proxy, TLS)
//!                      credentials, tokens ◀─┘
//! ```
//!
//! - Nothing a registry says is believed before its digest matched; sizes and counts are bounded
//!   before anything is read.
//! - Credentials go to the registry they are kept for and to the token server it names, never to
//!   where a redirect leads.
//! - A request that failed for now is tried again with growing waits; what is wrong is an error.

mod artifact;
mod backoff;
mod body;
mod challenge;
mod chunks;
mod client;
mod connection;
mod credentials;
mod docker_config;
mod download;
mod endpoint;
mod error;
#[cfg(fuzzing)]
pub(crate) mod fuzzing;
mod helper;
mod http;
mod layout;
mod login;
mod manifest;
pub(crate) mod parts;
mod progress;
mod proxy;
mod pull;
mod push;
mod referrers;
mod settings;
mod spool;
mod tls;
mod token;
mod unpack;
mod upload;
mod url;

use std::path::PathBuf;
use std::sync::Arc;

use crate::error::Result;
use crate::reference::Reference;
pub use artifact::{Artifact, ArtifactLayer, push_artifact, referrers};
pub use backoff::Backoff;
pub use credentials::{Credentials, forget, store};
pub use error::RegistryError;
pub use layout::{PushedManifest, push_layout};
pub use login::check;
pub use progress::{Counter, Event, Listener};
pub use pull::Pulled;
pub use push::Pushed;
pub use settings::SETTINGS_VARIABLE;

/// How to speak to a registry.
#[derive(Clone)]
pub struct RegistryOptions {
    /// Without TLS.
    pub plain_http: bool,
    /// Files of certificates to believe beside the system's.
    pub authorities: Vec<PathBuf>,
    /// Stands for `/etc/docker/certs.d`.
    pub certificates: Option<PathBuf>,
    /// Instead of the stored ones.
    pub credentials: Option<Credentials>,
    /// When and how often a failed request is tried again.
    pub backoff: Backoff,
    /// Is told how far it is.
    pub listener: Listener,
}

impl RegistryOptions {
    fn protection(&self) -> endpoint::Protection {
        endpoint::Protection {
            plain_http: self.plain_http,
            authorities: self.authorities.clone(),
            certificates: self.certificates.clone(),
        }
    }
}

impl Default for RegistryOptions {
    fn default() -> Self {
        Self {
            plain_http: false,
            authorities: Vec::new(),
            certificates: None,
            credentials: None,
            backoff: Backoff::default(),
            listener: Arc::new(drop),
        }
    }
}

impl std::fmt::Debug for RegistryOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RegistryOptions")
            .field("plain_http", &self.plain_http)
            .field("authorities", &self.authorities)
            .field("certificates", &self.certificates)
            .field("credentials", &self.credentials)
            .field("backoff", &self.backoff)
            .finish_non_exhaustive()
    }
}

/// A client for the repository of a reference, at the registry's own address.
fn connect(reference: &Reference, options: &RegistryOptions) -> Result<Arc<client::Client>> {
    let settings = settings::Settings::read()?;
    let endpoint = endpoint::of(reference.registry(), &settings, &options.protection())?;
    Ok(client::Client::new(
        endpoint,
        reference.path(),
        options.credentials.clone(),
        options.backoff,
        Arc::clone(&options.listener),
    )?)
}
