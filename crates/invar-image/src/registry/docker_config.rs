//! `config.json` of the `docker` command: who we are at which registry. Fields that are not
//! known are kept when it is written.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use fs_err as fs;
use serde_json::{Map, Value, json};

use super::credentials::Credentials;
use super::error::RegistryError;

/// Longest file that is read.
const LONGEST: u64 = 1 << 20;

/// The name under which Docker Hub's credentials are kept.
pub(crate) const DOCKER_HUB: &str = "https://index.docker.io/v1/";

/// What the file says.
#[derive(Debug, Default, Clone)]
pub(crate) struct DockerConfig {
    fields: Map<String, Value>,
}

/// Where it is: `$DOCKER_CONFIG/config.json`, else `~/.docker/config.json`.
pub(crate) fn path(environment: impl Fn(&str) -> Option<String>) -> Option<PathBuf> {
    let set = |name: &str| environment(name).filter(|value| !value.is_empty());
    let directory = match set("DOCKER_CONFIG") {
        Some(directory) => PathBuf::from(directory),
        None => Path::new(&set("HOME")?).join(".docker"),
    };
    Some(directory.join("config.json"))
}

impl DockerConfig {
    /// Reads the file; a missing one says nothing.
    pub(crate) fn read(path: &Path) -> Result<Self, RegistryError> {
        use std::io::Read as _;
        let file = match fs::File::open(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(Self::default());
            }
            other => other.map_err(|error| wrong(path, &error))?,
        };
        let mut bytes = Vec::new();
        let read = file.take(LONGEST + 1).read_to_end(&mut bytes);
        read.map_err(|error| wrong(path, &error))?;
        if bytes.len() as u64 > LONGEST {
            return Err(wrong(path, &"it is longer than 1 MiB"));
        }
        Self::parse(&bytes).map_err(|error| wrong(path, &error))
    }

    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, serde_json::Error> {
        if bytes.trim_ascii().is_empty() {
            return Ok(Self::default());
        }
        let fields = serde_json::from_slice(bytes)?;
        Ok(Self { fields })
    }

    /// The program that keeps the credentials of a registry.
    pub(crate) fn helper(&self, registry: &str) -> Option<&str> {
        let own = self.fields.get("credHelpers").and_then(|helpers| {
            let all = helpers.as_object()?;
            let found = keys(registry).into_iter().find_map(|key| all.get(&key));
            found?.as_str()
        });
        let common = self.fields.get("credsStore").and_then(Value::as_str);
        own.or(common).filter(|name| !name.is_empty())
    }

    /// Credentials in the file itself: for this registry, or for a part of it that has this
    /// repository (`host/team`, as Podman writes it).
    pub(crate) fn credentials(&self, registry: &str, repository: &str) -> Option<Credentials> {
        let all = self.fields.get("auths")?.as_object()?;
        let mut parts: Vec<String> = Vec::new();
        let mut part = format!("{registry}/{repository}");
        while let Some((shorter, _)) = part.rsplit_once('/') {
            parts.push(part.clone());
            part = shorter.to_owned();
        }
        let found = parts.into_iter().chain(keys(registry));
        found.filter_map(|key| all.get(&key)).find_map(entry)
    }

    /// Puts credentials into the file's own list.
    pub(crate) fn insert(&mut self, registry: &str, credentials: &Credentials) {
        let entry = match credentials {
            Credentials::Password { user, password } => {
                json!({"auth": STANDARD.encode(format!("{user}:{password}"))})
            }
            Credentials::IdentityToken(token) => {
                json!({"auth": STANDARD.encode("<token>:"), "identitytoken": token})
            }
        };
        let auths = self.fields.entry("auths").or_insert_with(|| json!({}));
        if !auths.is_object() {
            *auths = json!({});
        }
        auths[key(registry)] = entry;
    }

    /// Removes credentials; whether there were any.
    pub(crate) fn remove(&mut self, registry: &str) -> bool {
        let auths = self.fields.get_mut("auths").and_then(Value::as_object_mut);
        let Some(auths) = auths else { return false };
        let removed = keys(registry)
            .iter()
            .filter(|key| auths.remove(*key).is_some())
            .count();
        removed > 0
    }

    /// Writes the file: whole or not at all, for its owner alone.
    pub(crate) fn write(&self, path: &Path) -> Result<(), RegistryError> {
        let directory = path.parent().unwrap_or(Path::new("."));
        let write = || -> std::io::Result<()> {
            use std::os::unix::fs::DirBuilderExt as _;
            std::fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(directory)?;
            // Made with mode 0600.
            let mut file = tempfile::NamedTempFile::new_in(directory)?;
            serde_json::to_writer_pretty(&mut file, &self.fields)?;
            file.write_all(b"\n")?;
            file.as_file().sync_all()?;
            // A link to another place stays one.
            let target = fs::canonicalize(path).unwrap_or_else(|_missing| path.to_owned());
            file.persist(target)?;
            Ok(())
        };
        write().map_err(|error| wrong(path, &error))
    }
}

/// The name an entry is written under.
pub(crate) fn key(registry: &str) -> String {
    if registry == "docker.io" {
        DOCKER_HUB.to_owned()
    } else {
        registry.to_owned()
    }
}

/// The names an entry may have: old versions of docker wrote addresses.
fn keys(registry: &str) -> Vec<String> {
    let mut keys = vec![key(registry)];
    if registry == "docker.io" {
        keys.extend(["index.docker.io", "docker.io", "registry-1.docker.io"].map(str::to_owned));
    }
    for scheme in ["https", "http"] {
        for end in ["", "/", "/v1/", "/v2/", "/v1", "/v2"] {
            keys.push(format!("{scheme}://{registry}{end}"));
        }
    }
    keys
}

fn entry(value: &Value) -> Option<Credentials> {
    let field = |name: &str| value.get(name)?.as_str().filter(|text| !text.is_empty());
    if let Some(token) = field("identitytoken") {
        return Some(Credentials::IdentityToken(token.to_owned()));
    }
    if let (Some(user), Some(password)) = (field("username"), field("password")) {
        return Some(Credentials::Password {
            user: user.to_owned(),
            password: password.to_owned(),
        });
    }
    let decoded = STANDARD.decode(field("auth")?).ok()?;
    let decoded = String::from_utf8(decoded).ok()?;
    // Docker pads with zero bytes.
    let (user, password) = decoded.trim_end_matches('\0').split_once(':')?;
    (!user.is_empty()).then(|| Credentials::Password {
        user: user.to_owned(),
        password: password.to_owned(),
    })
}

fn wrong(path: &Path, reason: &dyn std::fmt::Display) -> RegistryError {
    RegistryError::Settings {
        path: path.display().to_string(),
        reason: crate::error::shown(&reason.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn password(user: &str, password: &str) -> Credentials {
        Credentials::Password {
            user: user.to_owned(),
            password: password.to_owned(),
        }
    }

    #[test]
    fn entries_are_found_by_every_name_docker_and_podman_give_them() {
        let config = DockerConfig::parse(
            br#"{
            "auths": {
                "https://index.docker.io/v1/": {"auth": "bWU6aHVi"},
                "ghcr.io": {"auth": "bWU6Z2g="},
                "https://old.example/v2/": {"username": "me", "password": "old"},
                "quay.io/team": {"auth": "bWU6dGVhbQ=="},
                "quay.io": {"auth": "bWU6cXVheQ=="},
                "token.example": {"auth": "PHRva2VuPjo=", "identitytoken": "refresh"},
                "broken.example": {"auth": "%%%"},
                "empty.example": {}
            },
            "credHelpers": {"1.dkr.ecr.eu-west-1.amazonaws.com": "ecr-login"}
        }"#,
        )
        .unwrap();
        let token = Credentials::IdentityToken("refresh".to_owned());
        for (registry, repository, expected) in [
            ("docker.io", "library/busybox", Some(password("me", "hub"))),
            ("ghcr.io", "a/b", Some(password("me", "gh"))),
            ("old.example", "a", Some(password("me", "old"))),
            ("quay.io", "team/web", Some(password("me", "team"))),
            ("quay.io", "other/web", Some(password("me", "quay"))),
            ("token.example", "a", Some(token)),
            ("broken.example", "a", None),
            ("empty.example", "a", None),
            ("unknown.example", "a", None),
        ] {
            assert_eq!(
                config.credentials(registry, repository),
                expected,
                "{registry}"
            );
        }
        let ecr = config.helper("1.dkr.ecr.eu-west-1.amazonaws.com");
        assert_eq!(ecr, Some("ecr-login"));
        assert_eq!(config.helper("ghcr.io"), None);
    }

    #[test]
    fn what_is_not_known_is_kept_and_an_entry_goes_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("new/config.json");
        let mut config = DockerConfig::parse(br#"{"psFormat": "table"}"#).unwrap();
        config.insert("docker.io", &password("me", "a:b"));
        config.write(&path).unwrap();
        let mut again = DockerConfig::read(&path).unwrap();
        let found = again.credentials("docker.io", "library/x");
        assert_eq!(found, Some(password("me", "a:b")));
        assert_eq!(again.fields["psFormat"], "table");
        assert!(again.remove("docker.io"));
        assert!(!again.remove("docker.io"));
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    proptest::proptest! {
        #[test]
        fn no_file_makes_the_parser_panic(text in "\\PC{0,80}") {
            if let Ok(config) = DockerConfig::parse(text.as_bytes()) {
                config.credentials("ghcr.io", "a/b");
            }
        }
    }
}
