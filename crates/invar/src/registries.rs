//! What the commands that speak to registries have in common: flags, progress, and next steps.

use std::path::PathBuf;
use std::sync::Arc;

use invar_image::ImageError;
use invar_image::registry::{Event, RegistryError, RegistryOptions};

use crate::progress::Progress;

/// How to reach a registry.
#[derive(Debug, Default, clap::Args)]
pub(crate) struct RegistryFlags {
    /// Speak to the registry without TLS (registries on 127.0.0.0/8 may do so unasked)
    #[arg(long, help_heading = "Registry")]
    plain_http: bool,

    /// Also believe the certificates in this file; /etc/docker/certs.d/HOST[:PORT] is read as
    /// docker does
    #[arg(long, value_name = "FILE", help_heading = "Registry")]
    ca: Vec<PathBuf>,
}

/// Whether a transfer shows how far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Show {
    /// On a terminal with bars, else only what needs attention.
    Progress,
    /// Nothing.
    Nothing,
}

impl RegistryFlags {
    /// The options, and what shows the progress while it is kept.
    pub(crate) fn options(&self, show: Show) -> (RegistryOptions, Option<Arc<Progress>>) {
        let mut options = RegistryOptions {
            plain_http: self.plain_http,
            authorities: self.ca.clone(),
            ..RegistryOptions::default()
        };
        if show == Show::Nothing {
            return (options, None);
        }
        let progress = Arc::new(Progress::start());
        let listener = Arc::clone(&progress);
        options.listener = Arc::new(move |event: Event| listener.take(event));
        (options, Some(progress))
    }
}

/// What to do about an error of a registry.
pub(crate) fn next_step(error: &ImageError) -> Option<String> {
    let ImageError::Registry(error) = error else {
        return None;
    };
    let text = match &**error {
        RegistryError::Denied {
            host,
            with_credentials: false,
            ..
        } => format!("log in first: invar login {}", login_name(host)),
        RegistryError::Denied { host, .. } => format!(
            "check that the account may do this, or log in again: invar login {}",
            login_name(host)
        ),
        RegistryError::TooManyRequests { host, .. } => {
            format!(
                "wait, or log in for a higher limit: invar login {}",
                login_name(host)
            )
        }
        RegistryError::Tls { host, reason } if reason.contains("does not speak TLS") => {
            format!("if {host} is meant to be without TLS: --plain-http")
        }
        RegistryError::Tls { host, reason } if reason.contains("authority that is not known") => {
            format!(
                "give its authority's certificate with --ca FILE, or keep it as \
             /etc/docker/certs.d/{host}/ca.crt"
            )
        }
        RegistryError::Disagree { name, .. } => {
            format!("the tag was moved; look at what it is, then pull {name} or the digest alone")
        }
        RegistryError::NotFound { .. } => {
            "check the spelling and the tag; a private repository may also hide: invar login".into()
        }
        _ => return None,
    };
    Some(text)
}

/// The registry as `invar login` takes it.
fn login_name(host: &str) -> &str {
    match host {
        "registry-1.docker.io" | "auth.docker.io" => "",
        other => other,
    }
}
