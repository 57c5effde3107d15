//! Who we are at a registry: from `config.json`, or from the program it names.

use std::fmt;
use std::path::PathBuf;

use super::docker_config::{self, DockerConfig};
use super::error::RegistryError;
use super::helper;

/// What proves who we are.
#[derive(Clone, PartialEq, Eq)]
pub enum Credentials {
    /// A user and a password, or an access token in the place of one.
    Password {
        /// User name.
        user: String,
        /// Password.
        password: String,
    },
    /// A token with which other tokens are had.
    IdentityToken(String),
}

/// Never shows the secret.
impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Password { user, .. } => write!(f, "Password({user:?})"),
            Self::IdentityToken(_) => f.write_str("IdentityToken"),
        }
    }
}

fn config_path(registry: &str) -> Result<PathBuf, RegistryError> {
    docker_config::path(|name| std::env::var(name).ok()).ok_or_else(|| RegistryError::Credentials {
        host: registry.to_owned(),
        reason: "there is no place for them: neither DOCKER_CONFIG nor HOME is set".to_owned(),
    })
}

/// The stored credentials for a repository of a registry (`docker.io`, `ghcr.io`, `host:port`).
pub(crate) fn find(registry: &str, repository: &str) -> Result<Option<Credentials>, RegistryError> {
    let Some(path) = docker_config::path(|name| std::env::var(name).ok()) else {
        return Ok(None);
    };
    let config = DockerConfig::read(&path)?;
    if let Some(program) = config.helper(registry)
        && let Some(found) = helper::get(program, registry)?
    {
        return Ok(Some(found));
    }
    Ok(config.credentials(registry, repository))
}

/// Stores credentials, in the keeper that `config.json` names or in the file itself. Where they
/// are kept.
pub fn store(registry: &str, credentials: &Credentials) -> Result<String, RegistryError> {
    let path = config_path(registry)?;
    let mut config = DockerConfig::read(&path)?;
    if let Some(program) = config.helper(registry) {
        helper::store(program, registry, credentials)?;
        return Ok(format!("docker-credential-{program}"));
    }
    config.insert(registry, credentials);
    config.write(&path)?;
    Ok(path.display().to_string())
}

/// Forgets the credentials of a registry; whether there were any.
pub fn forget(registry: &str) -> Result<bool, RegistryError> {
    let path = config_path(registry)?;
    let mut config = DockerConfig::read(&path)?;
    let mut forgotten = false;
    if let Some(program) = config.helper(registry) {
        forgotten = helper::get(program, registry)?.is_some();
        if forgotten {
            helper::erase(program, registry)?;
        }
    }
    if config.remove(registry) {
        config.write(&path)?;
        forgotten = true;
    }
    Ok(forgotten)
}
