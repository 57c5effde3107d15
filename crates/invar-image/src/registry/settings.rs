//! `registries.toml`: what the administrator says about registries.
//!
//! ```toml
//! [registry."docker.io"]
//! mirrors = ["https://mirror.example", "http://10.0.0.5:5000"]
//!
//! [registry."build.example:5000"]
//! plain-http = true
//! ca = "/etc/ssl/build-ca.pem"
//! ```

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use fs_err as fs;
use serde::Deserialize;

use super::error::RegistryError;

/// Names another file than [`PATH`].
pub const SETTINGS_VARIABLE: &str = "INVAR_REGISTRIES";

/// Where the file is unless [`SETTINGS_VARIABLE`] says otherwise.
const PATH: &str = "/etc/invar/registries.toml";

/// The whole file.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Settings {
    #[serde(default)]
    registry: BTreeMap<String, RegistrySettings>,
}

/// What it says about one registry.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct RegistrySettings {
    /// Addresses that are asked first when something is pulled, in this order.
    #[serde(default)]
    pub(crate) mirrors: Vec<String>,
    /// Without TLS.
    #[serde(default)]
    pub(crate) plain_http: bool,
    /// A file of certificates to believe beside the system's.
    pub(crate) ca: Option<PathBuf>,
}

impl Settings {
    /// Reads the file; a missing one says nothing, unless it was named.
    pub(crate) fn read() -> Result<Self, RegistryError> {
        match std::env::var_os(SETTINGS_VARIABLE) {
            Some(path) => Self::read_from(Path::new(&path)),
            None if Path::new(PATH).exists() => Self::read_from(Path::new(PATH)),
            None => Ok(Self::default()),
        }
    }

    fn read_from(path: &Path) -> Result<Self, RegistryError> {
        let wrong = |reason: String| RegistryError::Settings {
            path: path.display().to_string(),
            reason,
        };
        let text = fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
        toml::from_str(&text).map_err(|error| wrong(error.message().to_owned()))
    }

    /// What is said about a registry.
    pub(crate) fn of(&self, registry: &str) -> RegistrySettings {
        self.registry.get(registry).cloned().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_setting_is_refused_by_name() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("registries.toml");
        fs::write(&path, "[registry.\"a.example\"]\nplain-htpp = true\n").unwrap();
        let error = Settings::read_from(&path).unwrap_err().to_string();
        assert!(error.contains("plain-htpp"), "{error}");
        fs::write(&path, "[registry.\"a.example\"]\nplain-http = true\n").unwrap();
        let settings = Settings::read_from(&path).unwrap();
        assert!(settings.of("a.example").plain_http);
        assert!(!settings.of("b.example").plain_http);
    }
}
