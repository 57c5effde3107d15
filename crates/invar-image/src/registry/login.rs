//! Whether credentials are good, before they are stored.

use http::Method;

use super::backoff::Backoff;
use super::client::{Call, Client, Session};
use super::error::RegistryError;
use super::settings::Settings;
use super::{Credentials, RegistryOptions, endpoint};
use crate::error::Result;

/// Asks a registry (`docker.io`, `ghcr.io`, `host:port`) whether it accepts these credentials.
pub fn check(registry: &str, credentials: Credentials, options: &RegistryOptions) -> Result<()> {
    let settings = Settings::read()?;
    let endpoint = endpoint::of(registry, &settings, &options.protection())?;
    let listener = std::sync::Arc::clone(&options.listener);
    let backoff: Backoff = options.backoff;
    let client = Client::new(
        endpoint,
        String::new(),
        Some(credentials),
        backoff,
        listener,
    )?;
    let mut session = Session::new(&client)?;
    let answer = session.call(&Call::new("it", Method::GET, client.base(), &[]));
    match answer {
        // Not every registry has this address, but all of them ask for credentials first.
        Err(RegistryError::NotFound { .. }) | Ok(_) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
