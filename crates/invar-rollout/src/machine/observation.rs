//! What is seen of a service at one moment.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::judge::Tally;

/// What a container is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// The revision before.
    Stable,
    /// The new revision.
    Target,
    /// The revision before, started as freshly as the new one, for a fair comparison.
    Baseline,
}

/// One container of the service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replica {
    /// What it is for.
    pub role: Role,
    /// Its number among those of its role.
    pub index: u32,
    /// What it is doing.
    pub state: ReplicaState,
}

/// What a container is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReplicaState {
    /// It runs, but is not well yet.
    Starting,
    /// It runs and is well.
    Healthy,
    /// It runs and its checks fail: why.
    Unhealthy(String),
    /// It does not run: why.
    Ended(String),
}

/// What the gateway says of the service.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Which role has all traffic that no weight gives away; `None`: the gateway does not know the
    /// service, or a revision of none of the roles has it.
    pub stable: Option<Role>,
    /// Weight of the new revision.
    pub canary: u32,
    /// Weight of the baseline.
    pub baseline: u32,
    /// Roles whose revision the gateway knows.
    pub known: BTreeSet<Role>,
    /// Those of them that it knows with the addresses of exactly the healthy containers.
    pub current: BTreeSet<Role>,
    /// Roles with requests in flight.
    pub busy: BTreeSet<Role>,
    /// What the new revision answered so far.
    pub canary_tally: Tally,
    /// What the baseline answered so far.
    pub baseline_tally: Tally,
}

/// What a person asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Order {
    /// On to the end without waiting for the judge.
    Promote,
    /// Back.
    Abort,
    /// Stay in this step.
    Pause,
    /// Go on.
    Resume,
}

/// Everything a step looks at.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Observation {
    /// Milliseconds since 1970.
    pub now_ms: u64,
    /// Containers of all roles.
    pub replicas: Vec<Replica>,
    /// `None`: the gateway does not answer.
    pub traffic: Option<Traffic>,
    /// What a person asked for since the last step.
    pub order: Option<Order>,
    /// A reason to go back at once that no container's state shows, for example drift.
    pub alarm: Option<String>,
}

impl Observation {
    /// Containers of a role.
    pub(super) fn of(&self, role: Role) -> impl Iterator<Item = &Replica> {
        self.replicas
            .iter()
            .filter(move |replica| replica.role == role)
    }

    /// How many containers of a role are well.
    pub(super) fn healthy(&self, role: Role) -> u32 {
        let healthy = self
            .of(role)
            .filter(|replica| replica.state == ReplicaState::Healthy);
        u32::try_from(healthy.count()).unwrap_or(u32::MAX)
    }
}
