//! What a compose file says, as values: every reference replaced, every path absolute or named.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use super::error::Position;

/// Everything one `compose.yaml` describes, profiles that are not asked for left out.
#[derive(Debug, Clone)]
pub struct Project {
    /// Its name: prefix of containers, volumes and services of the gateway.
    pub name: String,
    /// Services by name, without those of profiles that were not asked for.
    pub services: BTreeMap<String, Service>,
    /// The names of all.
    pub names: BTreeSet<String>,
    /// What they mount, by name.
    pub volumes: BTreeMap<String, NamedVolume>,
    /// What they are in, by name.
    pub networks: BTreeMap<String, ProjectNetwork>,
}

/// A network in which containers of the project find each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProjectNetwork {
    /// The engine's name for it.
    pub name: String,
    /// Whether it is made and removed by others.
    pub is_external: bool,
    /// Whether its containers reach each other only.
    pub is_internal: bool,
    /// Whether they have version 6 addresses too.
    pub has_ipv6: bool,
    /// Ranges of its addresses, as written; one of each version at most.
    pub subnets: Vec<String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
}

/// A volume that outlives containers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedVolume {
    /// The engine's name for it.
    pub name: String,
}

/// One service.
#[derive(Debug, Clone)]
pub struct Service {
    /// Where it begins in the file.
    pub at: Position,
    /// The image's name.
    pub image: String,
    /// Instead of the image's command.
    pub command: Option<Vec<String>>,
    /// Instead of the image's entrypoint.
    pub entrypoint: Option<Vec<String>>,
    /// Environment, each name once; `None`: unset whatever the image says.
    pub environment: Vec<(String, Option<String>)>,
    /// Ports that clients reach.
    pub ports: Vec<Port>,
    /// Mounts.
    pub volumes: Vec<Volume>,
    /// Memory as directories: `PATH[:OPTIONS]`.
    pub tmpfs: Vec<String>,
    /// Which network its containers see.
    pub network: NetworkMode,
    /// How to ask whether it is well.
    pub healthcheck: Option<Healthcheck>,
    /// What must be there before it.
    pub depends_on: Vec<Dependency>,
    /// Replicas, limits, what a failed update does.
    pub deploy: Deploy,
    /// Files whose content comes from the project.
    pub files: Vec<GrantedFile>,
    /// Labels.
    pub labels: Vec<(String, String)>,
    /// Whether the root is read-only; `None`: Invar's default, which is read-only.
    pub read_only: Option<bool>,
    /// Who it runs as.
    pub user: Option<String>,
    /// Its working directory.
    pub working_dir: Option<String>,
    /// Its host name.
    pub hostname: Option<String>,
    /// Whether an init is process 1.
    pub init: bool,
    /// Whether it has a terminal.
    pub tty: bool,
    /// Whether standard input stays open.
    pub stdin_open: bool,
    /// The signal that asks it to stop.
    pub stop_signal: Option<String>,
    /// Until it is killed.
    pub stop_grace_period: Duration,
    /// Capabilities beyond the default.
    pub cap_add: Vec<String>,
    /// Capabilities taken away.
    pub cap_drop: Vec<String>,
    /// What Invar alone understands: `x-invar`.
    pub invar: Extension,
}

/// A port that clients reach through the gateway.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Port {
    /// Where clients connect; `None`: on all addresses.
    pub host_ip: Option<std::net::IpAddr>,
    /// The port clients use.
    pub published: u16,
    /// The port of the container.
    pub target: u16,
    /// What is spoken.
    pub protocol: PortProtocol,
}

/// What is spoken on a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PortProtocol {
    /// HTTP/1.1 with WebSocket; clients may also speak HTTP/2.
    Http,
    /// HTTP/2 up to the container, as gRPC needs it.
    Http2,
    /// Bytes.
    Tcp,
}

/// Where a mount's files come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VolumeSource {
    /// A path of the host, absolute.
    Bind(PathBuf),
    /// A volume of the project, by its key.
    Named(String),
    /// A fresh volume for each container.
    Anonymous,
    /// Memory of so many bytes, as written.
    Tmpfs {
        /// For example `64m`.
        size: Option<String>,
        /// For example `1777`.
        mode: Option<String>,
    },
}

/// One mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    /// Where its files come from.
    pub source: VolumeSource,
    /// Path in the container.
    pub target: String,
    /// Whether it is read-only.
    pub read_only: bool,
    /// Whether programs on it may run.
    pub exec: bool,
}

/// The network of a service's containers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NetworkMode {
    /// The engine's default network, without names.
    Bridge,
    /// The host's.
    Host,
    /// Loopback only.
    None,
    /// A network of the project.
    Project {
        /// Its key among the project's networks.
        network: String,
        /// Names of the service there, beside its own.
        aliases: Vec<String>,
        /// Whether the file says so; otherwise it is the project's default one.
        is_asked: bool,
    },
}

/// A check that runs inside the container.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Healthcheck {
    /// The program and its arguments.
    pub test: Vec<String>,
    /// Between two checks.
    pub interval: Duration,
    /// One check may take so long.
    pub timeout: Duration,
    /// Failures in a row that make it unhealthy.
    pub retries: u32,
    /// Failures before this do not count.
    pub start_period: Duration,
}

/// When a service that is depended on is ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition {
    /// Its program runs.
    Started,
    /// Its health check passes.
    Healthy,
    /// It ran to its end with code 0.
    Completed,
}

/// What must be there before a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dependency {
    /// The service.
    pub service: String,
    /// When it is ready.
    pub condition: Condition,
    /// Whether it must be in the project at all.
    pub required: bool,
}

/// What an update that fails does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FailureAction {
    /// Everything goes back to the revision before.
    Rollback,
    /// It stays where it is until someone decides.
    Pause,
}

/// The `deploy` section.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deploy {
    /// Containers of one revision.
    pub replicas: u32,
    /// Memory, as written.
    pub memory: Option<String>,
    /// Processors, as written.
    pub cpus: Option<String>,
    /// Processes.
    pub pids: Option<i64>,
    /// What an update that fails does.
    pub failure_action: FailureAction,
    /// Whether the old containers stop before new ones start.
    pub stop_first: bool,
    /// Whether a container whose program ends is started again, in the words of `--restart`.
    pub restart: Option<String>,
}

/// A file with content of the project: a config or a secret.
#[derive(Clone, PartialEq, Eq)]
pub struct GrantedFile {
    /// `config NAME` or `secret NAME`, for messages.
    pub label: String,
    /// Absolute path in the container.
    pub target: String,
    /// Its content.
    pub content: Vec<u8>,
    /// Whether it is kept in memory only.
    pub is_secret: bool,
}

impl std::fmt::Debug for GrantedFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GrantedFile")
            .field("label", &self.label)
            .field("target", &self.target)
            .field("bytes", &self.content.len())
            .finish_non_exhaustive()
    }
}

/// `x-invar` of a service.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Extension {
    /// What happens when a container changes.
    pub drift: Option<DriftPolicy>,
    /// Paths that may change.
    pub allow: Vec<String>,
    /// What the gateway asks for to see whether a container is well.
    pub health_path: Option<String>,
    /// How a new revision comes.
    pub rollout: RolloutPolicy,
}

/// What happens when a container changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DriftPolicy {
    /// It is told.
    Observe,
    /// It is prevented.
    Block,
    /// It is kept as evidence.
    Capture,
    /// A fresh container takes its place.
    Replace,
}

/// What can end a trial.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Gate {
    /// More errors than the baseline.
    Errors,
    /// Slower than the baseline.
    Latency,
    /// A container of the new revision changed.
    Drift,
}

/// How a new revision comes.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct RolloutPolicy {
    /// Shares of the traffic on the way, parts of 10,000, growing; empty: all at once.
    pub steps: Vec<u32>,
    /// How long each step takes at least.
    pub hold: Duration,
    /// How long the revision before stays warm.
    pub keep: Duration,
    /// What is judged.
    pub gates: Vec<Gate>,
    /// Whether the last step waits for `invar promote`.
    pub manual: bool,
    /// How much worse the error rate over all traffic may become, parts of 10,000.
    pub margin: u32,
    /// How long new containers may take until they are healthy.
    pub healthy_within: Duration,
    /// How long requests on the old revision may take.
    pub drain: Duration,
}

impl Default for RolloutPolicy {
    fn default() -> Self {
        Self {
            steps: Vec::new(),
            hold: Duration::from_mins(1),
            keep: Duration::from_mins(10),
            gates: vec![Gate::Errors, Gate::Latency, Gate::Drift],
            manual: false,
            margin: 100,
            healthy_within: Duration::from_mins(2),
            drain: Duration::from_secs(30),
        }
    }
}
