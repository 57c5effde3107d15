//! Everything a revision of a service is: what a rollback restores.

use std::time::Duration;

use invar_engine::{ContainerConfig, MountKind};
use serde::{Deserialize, Serialize};

use crate::compose::{FailureAction, Healthcheck, Port, RolloutPolicy};

/// A revision and how it is run. Stored with each rollout; a later change of the compose file does
/// not reach it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Definition {
    /// The engine that runs it, as users write it.
    pub engine: String,
    /// What each of its containers is. Volumes without a name get one when a container is made.
    pub config: ContainerConfig,
    /// How many containers.
    pub replicas: u32,
    /// Ports that clients reach.
    pub ports: Vec<Port>,
    /// What runs inside to see whether it is well.
    pub healthcheck: Option<Healthcheck>,
    /// What the gateway asks for to see whether it is well.
    pub health_path: Option<String>,
    /// Until a container that is asked to end is killed.
    pub stop_grace: Duration,
    /// How the next revision comes.
    pub policy: RolloutPolicy,
    /// What a failed update does.
    pub failure_action: FailureAction,
    /// Whether old containers end before new ones start.
    pub stop_first: bool,
}

/// Hexadecimal digits of a revision's name; enough for any number of revisions of one service.
const DIGITS: usize = 12;

impl Definition {
    /// The revision's name: the first digits of the digest over its configuration.
    pub fn revision(&self) -> String {
        let digest = stable(&self.config).revision();
        let hex = digest.as_str().trim_start_matches("sha256:");
        hex.chars().take(DIGITS).collect()
    }
}

/// A configuration without what differs from container to container.
pub(crate) fn stable(config: &ContainerConfig) -> ContainerConfig {
    let mut config = config.clone();
    for mount in &mut config.mounts {
        if let MountKind::Volume { name } = &mut mount.kind
            && is_anonymous(name)
        {
            name.clear();
        }
    }
    config
}

/// Volumes without a name of their own are named by 64 random digits.
pub(crate) fn is_anonymous(name: &str) -> bool {
    name.is_empty() || name.len() == 64 && name.bytes().all(|b| b.is_ascii_hexdigit())
}
