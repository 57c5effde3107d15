//! What a container is asked to be: the inputs of a revision.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::container::Revision;

/// Everything that makes a container what it is. Equal configurations are one [`Revision`].
///
/// Every field is resolved: the image's own defaults are already merged in, so nothing outside
/// this value changes what runs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "each is one independent switch of the command line, as Docker has it"
)]
pub struct ContainerConfig {
    /// Digest of the image's configuration (`sha256:…`), which covers every layer by its `DiffID`.
    pub image: String,
    /// The reference the user wrote; shown, never resolved again.
    pub image_name: String,
    /// Program and arguments, never empty.
    pub args: Vec<String>,
    /// Environment, in order: `NAME=value`.
    pub env: Vec<String>,
    /// Working directory inside the container, absolute.
    pub cwd: PathBuf,
    /// Who the program runs as.
    pub user: User,
    /// Host name inside the container.
    pub hostname: String,
    /// Whether the root is writable (an upper directory over the image) or read-only.
    pub writable: bool,
    /// Volumes, bind mounts and tmpfs, sorted by target.
    pub mounts: Vec<Mount>,
    /// Network namespace.
    pub network: Network,
    /// How it is reached there and finds others.
    #[serde(default, skip_serializing_if = "Networking::is_default")]
    pub networking: Networking,
    /// Limits.
    pub resources: Resources,
    /// Capabilities kept, sorted, as `CAP_…`.
    pub capabilities: Vec<String>,
    /// Whether an init reaps zombies and forwards signals as PID 1.
    pub init: bool,
    /// Whether the program gets a pseudo-terminal.
    pub tty: bool,
    /// Whether standard input stays open.
    pub interactive: bool,
    /// Signal that asks the program to stop, for example `SIGTERM`.
    pub stop_signal: String,
    /// Whether the container is removed when it ends.
    pub auto_remove: bool,
    /// Labels, kept but never interpreted by the engine.
    pub labels: BTreeMap<String, String>,
    /// Whether it is started again when its program ends.
    #[serde(default, skip_serializing_if = "Restart::is_no")]
    pub restart: Restart,
    /// How its health is found out; `None`: it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<HealthCheck>,
    /// Whose ids its users have outside.
    #[serde(default, skip_serializing_if = "UserNamespace::is_host")]
    pub userns: UserNamespace,
    /// The AppArmor profile, where the kernel has AppArmor.
    #[serde(default, skip_serializing_if = "AppArmor::is_default")]
    pub apparmor: AppArmor,
}

impl ContainerConfig {
    /// The digest over this configuration in its canonical form (JSON, fields in declared order).
    pub fn revision(&self) -> Revision {
        let canonical = serde_json::to_vec(self).expect("a configuration is plain data");
        Revision::from_sha256(Sha256::digest(canonical).into())
    }
}

/// A user as given with `--user` or by the image: names are resolved inside the root at start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct User(pub String);

/// The AppArmor profile of a container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AppArmor {
    /// The engine's own, where it can be loaded.
    #[default]
    Default,
    /// None.
    Unconfined,
    /// One that the kernel has, by its name.
    Profile(String),
}

impl AppArmor {
    fn is_default(&self) -> bool {
        *self == Self::Default
    }
}

/// Whose ids the users of a container have on the host.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UserNamespace {
    /// The same: root inside has the host's root's id.
    #[default]
    Host,
    /// A range of ids that no other container and no user of the host has.
    Auto,
}

impl UserNamespace {
    #[allow(
        clippy::trivially_copy_pass_by_ref,
        reason = "serde hands over a reference"
    )]
    fn is_host(&self) -> bool {
        *self == Self::Host
    }
}

/// One mount besides the root and the standard ones.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mount {
    /// Absolute path inside the container.
    pub target: PathBuf,
    /// What is mounted there.
    pub kind: MountKind,
    /// Recursively read-only.
    pub read_only: bool,
    /// Whether programs on it may run (`:exec`); off unless asked for.
    pub exec: bool,
}

impl Mount {
    /// Whether it is a volume of the engine's.
    pub(crate) fn is_volume(&self) -> bool {
        matches!(self.kind, MountKind::Volume { .. })
    }

    /// Whether a single file of the host is mounted.
    pub(crate) fn is_file(&self) -> bool {
        matches!(&self.kind, MountKind::Bind { source } if !source.is_dir())
    }
}

/// Where a mount's files come from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MountKind {
    /// A directory or file of the host.
    Bind {
        /// Absolute host path.
        source: PathBuf,
    },
    /// A named volume, kept by the engine.
    Volume {
        /// Its name, validated.
        name: String,
    },
    /// Memory, gone with the container.
    Tmpfs {
        /// Limit in bytes.
        size: u64,
        /// Permission bits of its root.
        mode: u32,
    },
}

/// The network a container sees.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Network {
    /// Its own namespace with loopback only.
    None,
    /// The host's namespace.
    Host,
    /// The namespace of another container, by its name or id.
    Container(String),
    /// A network the engine knows by this name.
    Named(String),
}

/// How a container of a network is reached and finds others. What is empty is not sent: a
/// container without any of it has the revision it had before there was this.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Networking {
    /// Ports of the container that the host passes on, sorted.
    pub ports: Vec<PublishedPort>,
    /// More names for it in its network.
    pub aliases: Vec<String>,
    /// The one address it must have.
    pub address: Option<Ipv4Addr>,
    /// Name servers instead of the host's.
    pub dns: Vec<IpAddr>,
    /// Domains in which short names are looked up, instead of the host's.
    pub dns_search: Vec<String>,
    /// More lines for `/etc/hosts`.
    pub hosts: Vec<HostEntry>,
    /// More networks it is in, in the order in which it joined them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub further: Vec<Membership>,
}

/// A network a container is in beside its first, and how it is found there.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Membership {
    /// Its name.
    pub network: String,
    /// More names for the container.
    pub aliases: Vec<String>,
    /// The one address it must have.
    pub address: Option<Ipv4Addr>,
}

impl Networking {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// A port of a container that the host passes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PublishedPort {
    /// Inside the container.
    pub container: u16,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// The one address of the host; `None`: all.
    pub address: Option<IpAddr>,
    /// On the host; 0: any that is free when the container starts.
    pub host: u16,
}

/// A protocol with ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// Connections.
    Tcp,
    /// Datagrams.
    Udp,
}

impl Protocol {
    /// `tcp` or `udp`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

/// A line of `/etc/hosts`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostEntry {
    /// The name.
    pub name: String,
    /// Its address; `None`: the host's, as the container reaches it.
    pub address: Option<IpAddr>,
}

/// Limits; `None` means the engine's default or no limit, as documented per field.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Resources {
    /// Memory in bytes; `None`: no limit.
    pub memory: Option<u64>,
    /// CPU time in billionths of a CPU (1.5 CPUs = `1_500_000_000`); `None`: no limit.
    pub nano_cpus: Option<u64>,
    /// Most processes and threads.
    pub pids: u64,
}

/// When a container is started again. Whoever stops it is obeyed by every policy.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Restart {
    /// Never.
    #[default]
    No,
    /// Whenever it ends, and at boot.
    Always,
    /// As [`Restart::Always`], but not at boot when it had been stopped.
    UnlessStopped,
    /// When it ends with another code than 0.
    OnFailure {
        /// So many times; `None`: without end.
        most: Option<u32>,
    },
}

impl Restart {
    /// Whether there is no policy.
    #[allow(
        clippy::trivially_copy_pass_by_ref,
        reason = "serde hands over a reference"
    )]
    pub fn is_no(&self) -> bool {
        *self == Self::No
    }

    /// Whether it asks for another start after an end with `code`, when there have been so many.
    pub fn wants(self, code: u8, restarts: u32) -> bool {
        match self {
            Self::No => false,
            Self::Always | Self::UnlessStopped => true,
            Self::OnFailure { most } => code != 0 && most.is_none_or(|most| restarts < most),
        }
    }
}

/// A program that says whether a container is well, run inside it from time to time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HealthCheck {
    /// Program and arguments; ends with 0 when all is well.
    pub args: Vec<String>,
    /// Pause between two checks.
    pub interval: Duration,
    /// A check that takes longer has failed.
    pub timeout: Duration,
    /// So many failures in a row make a container unhealthy.
    pub retries: u32,
    /// Failures do not count for so long after the start, until the first success.
    pub start_period: Duration,
    /// Pause between two checks during the start period.
    pub start_interval: Duration,
}
