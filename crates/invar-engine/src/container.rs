//! A container as every engine describes it.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::config::{ContainerConfig, PublishedPort};
use crate::error::{EngineError, Result};

/// 64 hexadecimal digits naming one container for ever.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ContainerId(String);

impl ContainerId {
    /// A fresh random id.
    pub fn random() -> Self {
        let bytes: [u8; 32] = rand::random();
        Self(hex(&bytes))
    }

    /// The whole id.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The first twelve digits, as listings show it.
    pub fn short(&self) -> &str {
        &self.0[..12]
    }
}

impl TryFrom<String> for ContainerId {
    type Error = EngineError;

    fn try_from(text: String) -> Result<Self> {
        let valid = text.len() == 64
            && text
                .bytes()
                .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        if valid {
            Ok(Self(text))
        } else {
            Err(EngineError::InvalidName { name: text })
        }
    }
}

impl From<ContainerId> for String {
    fn from(id: ContainerId) -> Self {
        id.0
    }
}

impl fmt::Display for ContainerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A name as Docker allows it: `[a-zA-Z0-9][a-zA-Z0-9_.-]{0,127}`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ContainerName(String);

impl ContainerName {
    /// Checks a name from outside.
    pub fn parse(text: &str) -> Result<Self> {
        let mut bytes = text.bytes();
        let first_is_valid = bytes.next().is_some_and(|b| b.is_ascii_alphanumeric());
        let rest_is_valid = bytes.all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b));
        if first_is_valid && rest_is_valid && text.len() <= 128 {
            Ok(Self(text.to_owned()))
        } else {
            Err(EngineError::InvalidName {
                name: text.to_owned(),
            })
        }
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for ContainerName {
    type Error = EngineError;

    fn try_from(text: String) -> Result<Self> {
        Self::parse(&text)
    }
}

impl From<ContainerName> for String {
    fn from(name: ContainerName) -> Self {
        name.0
    }
}

impl fmt::Display for ContainerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Digest of a [`ContainerConfig`]; containers of one revision are interchangeable.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Revision(String);

impl Revision {
    pub(crate) fn from_sha256(digest: [u8; 32]) -> Self {
        Self(format!("sha256:{}", hex(&digest)))
    }

    /// `sha256:` and 64 hexadecimal digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What a container is doing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "state")]
pub enum State {
    /// Made, never started.
    Created,
    /// Its program runs.
    Running,
    /// Frozen: no process of it runs, all its memory stays.
    Paused,
    /// Its program ended.
    Exited(ExitStatus),
    /// Its program ended, and its restart policy starts it again in a moment.
    Restarting(ExitStatus),
}

/// How a container's program ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitStatus {
    /// 0 to 255 as Docker reports it: 128+N after signal N; 125, 126, 127 when it never ran.
    pub code: u8,
    /// Whether the kernel killed it for want of memory.
    pub oom_killed: bool,
    /// Why it never ran, or what else an operator must know (for example: its shim was killed).
    pub error: Option<String>,
    /// When.
    pub finished_at: Timestamp,
}

/// One run of a revision.
#[derive(Debug, Clone, Serialize)]
pub struct Container {
    /// Names it for ever.
    pub id: ContainerId,
    /// Unique among the engine's containers.
    pub name: ContainerName,
    /// Which engine runs it, for example `embedded`.
    pub engine: &'static str,
    /// What it was asked to be.
    pub config: ContainerConfig,
    /// Digest over `config`.
    pub revision: Revision,
    /// What it is doing.
    #[serde(flatten)]
    pub state: State,
    /// Its first process as the host numbers it; only while running or paused.
    pub init_pid: Option<u32>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it was last started.
    pub started_at: Option<Timestamp>,
    /// Its places in networks; only while running or paused.
    pub endpoints: Vec<Endpoint>,
    /// How often its restart policy has started it since somebody did.
    pub restarts: u32,
    /// What its health check says; only while it runs.
    pub health: Option<Health>,
}

/// What a container's health check has found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// The verdict.
    pub status: HealthStatus,
    /// Failures in a row.
    pub failing_streak: u32,
    /// The last checks, oldest first.
    pub log: Vec<HealthResult>,
}

/// The verdict of a health check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HealthStatus {
    /// No check has succeeded yet.
    Starting,
    /// The last check succeeded, or too few have failed since.
    Healthy,
    /// As many checks failed in a row as were allowed.
    Unhealthy,
}

impl HealthStatus {
    /// Docker's word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Healthy => "healthy",
            Self::Unhealthy => "unhealthy",
        }
    }
}

/// One check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthResult {
    /// When it began.
    pub start: Timestamp,
    /// When it ended.
    pub end: Timestamp,
    /// How its program ended; -1 when it took too long or could not run, as with Docker.
    pub exit_code: i32,
    /// The first bytes of what it wrote.
    pub output: String,
}

/// A container's place in a network.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// Name of the network.
    pub network: String,
    /// Its address there, and how many bits of it name the network.
    pub address: Option<(Ipv4Addr, u8)>,
    /// The host's address there.
    pub gateway: Option<Ipv4Addr>,
    /// The same in version 6.
    pub address6: Option<(Ipv6Addr, u8)>,
    /// The host's address in version 6.
    pub gateway6: Option<Ipv6Addr>,
    /// Hardware address: `02:…`.
    pub mac: String,
    /// Other names for it in the network.
    pub aliases: Vec<String>,
    /// What the host passes on to it, with the ports it got.
    pub ports: Vec<PublishedPort>,
}

/// A container's root, as handles that no rename or mount underneath can redirect.
#[derive(Debug)]
pub struct RootFs {
    /// The image as the container started from it, including mount points the engine made:
    /// one merged, read-only directory.
    pub lower: OwnedFd,
    /// What the container wrote over it, in overlayfs form; `None` for a read-only root.
    pub upper: Option<Upper>,
}

/// A container's upper directory.
#[derive(Debug)]
pub struct Upper {
    /// The directory itself.
    pub dir: OwnedFd,
    /// Where it lives on the host; on one file system with the evidence.
    pub path: PathBuf,
}

/// Lower-case hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
            write!(text, "{byte:02x}").expect("writing to a String succeeds");
            text
        })
}
