//! Where a Docker-compatible daemon listens.
//!
//! Docker's order: `DOCKER_HOST`, then `DOCKER_CONTEXT` or the current context of
//! `~/.docker/config.json`, then the default socket. Podman's: `CONTAINER_HOST`, then the user's
//! socket, then the system's. A daemon nobody named and that is not there is no error.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bollard::{ClientVersion, Docker};
use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::container::hex;
use crate::error::{EngineError, Result};

const DOCKER_SOCKET: &str = "unix:///var/run/docker.sock";
const PODMAN_SOCKET: &str = "unix:///run/podman/podman.sock";
/// Configuration files are a few KiB; anything larger is not one.
const CONFIG_LIMIT: u64 = 1 << 20;
/// Seconds a daemon may take to answer.
const TIMEOUT_SECONDS: u64 = 120;
/// A ping needs nothing of a daemon but that it runs.
const PING_TIMEOUT: Duration = Duration::from_secs(10);
/// Its answer is a few headers and two letters.
const PING_LIMIT: u64 = 16 * 1024;

/// A daemon's address, and whether the user asked for it by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Endpoint {
    pub(super) host: String,
    /// Chosen by environment or context: then its absence is an error.
    pub(super) is_explicit: bool,
}

impl Endpoint {
    /// Whether anything can answer there; only sockets of this machine can be looked at.
    pub(super) fn is_present(&self) -> bool {
        self.is_explicit || self.socket().is_some_and(Path::exists)
    }

    /// Whether the daemon runs on this machine, so that its files can be read directly.
    pub(super) fn is_local(&self) -> bool {
        self.socket().is_some()
    }

    /// The version of the API that both sides speak, as the daemon announces it in the answer to a
    /// ping. Asking for its full version, as the client library does, makes a daemon run other
    /// programs and takes ten times as long. `None` when it must be asked so all the same.
    pub(super) fn announced_version(&self) -> Option<ClientVersion> {
        let mut stream = UnixStream::connect(self.socket()?).ok()?;
        stream.set_read_timeout(Some(PING_TIMEOUT)).ok()?;
        stream
            .write_all(b"GET /_ping HTTP/1.0\r\nHost: localhost\r\n\r\n")
            .ok()?;
        let mut answer = Vec::new();
        stream.take(PING_LIMIT).read_to_end(&mut answer).ok()?;
        let announced = api_version(&answer)?;
        let ours = *bollard::API_DEFAULT_VERSION;
        Some(if announced < ours { announced } else { ours })
    }

    pub(super) fn connect(&self, version: &ClientVersion) -> Result<Docker> {
        let connected = match self.host.split_once("://") {
            Some(("unix", _)) => Docker::connect_with_unix(&self.host, TIMEOUT_SECONDS, version),
            Some(("tcp" | "http", _)) => {
                Docker::connect_with_http(&self.host, TIMEOUT_SECONDS, version)
            }
            _ => return Err(self.unusable("only unix:// and tcp:// addresses are supported")),
        };
        connected.map_err(|error| self.unusable(&error.to_string()))
    }

    fn socket(&self) -> Option<&Path> {
        self.host.strip_prefix("unix://").map(Path::new)
    }

    fn unusable(&self, reason: &str) -> EngineError {
        EngineError::InvalidConfig {
            what: format!("daemon address {}", self.host),
            reason: reason.to_owned(),
        }
    }
}

/// What the environment says; taken once, so that tests need not change it.
#[derive(Debug, Default)]
pub(super) struct Environment {
    pub(super) docker_host: Option<String>,
    pub(super) docker_context: Option<String>,
    pub(super) docker_config: Option<PathBuf>,
    pub(super) container_host: Option<String>,
    pub(super) runtime_dir: Option<PathBuf>,
}

impl Environment {
    pub(super) fn read() -> Self {
        let text = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        let path = |name| text(name).map(PathBuf::from);
        Self {
            docker_host: text("DOCKER_HOST"),
            docker_context: text("DOCKER_CONTEXT"),
            docker_config: path("DOCKER_CONFIG")
                .or_else(|| path("HOME").map(|home| home.join(".docker"))),
            container_host: text("CONTAINER_HOST"),
            runtime_dir: path("XDG_RUNTIME_DIR"),
        }
    }

    /// Where Docker is.
    pub(super) fn docker(&self) -> Result<Endpoint> {
        if let Some(host) = &self.docker_host {
            return Ok(Endpoint {
                host: host.clone(),
                is_explicit: true,
            });
        }
        let context = match (&self.docker_context, &self.docker_config) {
            (Some(name), _) => Some(name.clone()),
            (None, Some(dir)) => current_context(dir)?,
            (None, None) => None,
        };
        match (context.as_deref(), &self.docker_config) {
            (None | Some("default"), _) => Ok(Endpoint {
                host: DOCKER_SOCKET.to_owned(),
                is_explicit: false,
            }),
            (Some(name), Some(dir)) => context_endpoint(dir, name),
            (Some(name), None) => Err(unknown_context(name, "there is no Docker configuration")),
        }
    }

    /// Where Podman's Docker-compatible API is.
    pub(super) fn podman(&self) -> Endpoint {
        if let Some(host) = &self.container_host {
            return Endpoint {
                host: host.clone(),
                is_explicit: true,
            };
        }
        let own = self
            .runtime_dir
            .as_ref()
            .map(|dir| dir.join("podman/podman.sock"));
        let host = match own.filter(|socket| socket.exists()) {
            Some(socket) => format!("unix://{}", socket.display()),
            None => PODMAN_SOCKET.to_owned(),
        };
        Endpoint {
            host,
            is_explicit: false,
        }
    }
}

#[derive(Deserialize)]
struct ClientConfig {
    #[serde(rename = "currentContext")]
    current_context: Option<String>,
}

#[derive(Deserialize)]
struct ContextMeta {
    #[serde(rename = "Endpoints")]
    endpoints: ContextEndpoints,
}

#[derive(Deserialize)]
struct ContextEndpoints {
    docker: ContextEndpoint,
}

#[derive(Deserialize)]
struct ContextEndpoint {
    #[serde(rename = "Host")]
    host: String,
}

/// The header `Api-Version: 1.41` of an answer.
fn api_version(answer: &[u8]) -> Option<ClientVersion> {
    let text = std::str::from_utf8(answer).ok()?;
    let mut lines = text.lines().take_while(|line| !line.is_empty());
    let (major, minor) = lines.find_map(|line| {
        let (name, value) = line.split_once(':')?;
        let is_version = name.eq_ignore_ascii_case("api-version");
        is_version.then(|| value.trim().split_once('.')).flatten()
    })?;
    Some(ClientVersion {
        major_version: major.parse().ok()?,
        minor_version: minor.parse().ok()?,
    })
}

fn current_context(dir: &Path) -> Result<Option<String>> {
    let path = dir.join("config.json");
    if !path.exists() {
        return Ok(None);
    }
    Ok(read_json::<ClientConfig>(&path)?.current_context)
}

/// A context's metadata lies under the SHA-256 of its name (docker/cli `context/store`).
fn context_endpoint(dir: &Path, name: &str) -> Result<Endpoint> {
    let digest: [u8; 32] = Sha256::digest(name.as_bytes()).into();
    let path = dir
        .join("contexts/meta")
        .join(hex(&digest))
        .join("meta.json");
    if !path.exists() {
        return Err(unknown_context(
            name,
            "it does not exist; see `docker context ls`",
        ));
    }
    let meta: ContextMeta = read_json(&path)?;
    Ok(Endpoint {
        host: meta.endpoints.docker.host,
        is_explicit: true,
    })
}

fn unknown_context(name: &str, reason: &str) -> EngineError {
    EngineError::InvalidConfig {
        what: format!("Docker context {name:?}"),
        reason: reason.to_owned(),
    }
}

fn read_json<T: for<'de> Deserialize<'de>>(path: &Path) -> Result<T> {
    let failed = |source| EngineError::Io {
        action: "read",
        path: path.to_owned(),
        source,
    };
    let file = fs_err::File::open(path).map_err(failed)?;
    serde_json::from_reader(file.take(CONFIG_LIMIT)).map_err(|error| failed(error.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config_with_context(name: &str, host: &str) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let digest: [u8; 32] = Sha256::digest(name.as_bytes()).into();
        let meta = dir.path().join("contexts/meta").join(hex(&digest));
        fs_err::create_dir_all(&meta).unwrap();
        let body = format!(r#"{{"Name":"{name}","Endpoints":{{"docker":{{"Host":"{host}"}}}}}}"#);
        fs_err::write(meta.join("meta.json"), body).unwrap();
        let current = format!(r#"{{"auths":{{}},"currentContext":"{name}"}}"#);
        fs_err::write(dir.path().join("config.json"), current).unwrap();
        dir
    }

    fn environment(dir: &Path) -> Environment {
        Environment {
            docker_config: Some(dir.to_owned()),
            ..Environment::default()
        }
    }

    #[test]
    fn the_current_context_names_the_daemon() {
        let dir = config_with_context("lab", "tcp://127.0.0.1:2375");
        let endpoint = environment(dir.path()).docker().unwrap();
        assert_eq!(endpoint.host, "tcp://127.0.0.1:2375");
        assert!(endpoint.is_explicit && !endpoint.is_local());
    }

    #[test]
    fn docker_host_wins_over_the_context() {
        let dir = config_with_context("lab", "tcp://127.0.0.1:2375");
        let environment = Environment {
            docker_host: Some("unix:///tmp/d.sock".to_owned()),
            ..environment(dir.path())
        };
        let endpoint = environment.docker().unwrap();
        assert_eq!(endpoint.host, "unix:///tmp/d.sock");
        assert!(endpoint.is_local());
    }

    #[test]
    fn a_context_that_does_not_exist_is_an_error_that_names_it() {
        let dir = tempfile::tempdir().unwrap();
        let environment = Environment {
            docker_context: Some("nowhere".to_owned()),
            ..environment(dir.path())
        };
        let message = environment.docker().unwrap_err().to_string();
        assert!(
            message.contains("nowhere") && message.contains("docker context ls"),
            "{message}"
        );
    }

    #[test]
    fn without_any_configuration_the_default_socket_is_tried_but_not_demanded() {
        let endpoint = Environment::default().docker().unwrap();
        assert_eq!(
            endpoint,
            Endpoint {
                host: DOCKER_SOCKET.to_owned(),
                is_explicit: false
            }
        );
    }

    #[test]
    fn the_version_is_read_from_the_headers_of_a_ping_only() {
        let version = |answer: &str| {
            api_version(answer.as_bytes()).map(|found| (found.major_version, found.minor_version))
        };
        let docker = "HTTP/1.0 200 OK\r\nServer: x\r\nApi-Version: 1.41\r\n\r\nOK";
        assert_eq!(version(docker), Some((1, 41)));
        assert_eq!(version(&docker.to_lowercase()), Some((1, 41)));
        assert_eq!(version("HTTP/1.0 200 OK\r\n\r\nApi-Version: 1.41"), None);
        assert_eq!(version("Api-Version: newest\r\n\r\n"), None);
    }

    #[test]
    fn an_address_of_an_unknown_kind_is_refused() {
        let endpoint = Endpoint {
            host: "ssh://root@lab".to_owned(),
            is_explicit: true,
        };
        let version = bollard::API_DEFAULT_VERSION;
        let message = endpoint.connect(version).unwrap_err().to_string();
        assert!(
            message.contains("ssh://root@lab") && message.contains("unix://"),
            "{message}"
        );
    }
}
