//! Requests and answers on the control socket, one a line.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::config::{CanaryConfig, Config};
use crate::metrics::RevisionCounts;

/// Bytes of one line.
pub const MOST_LINE: usize = 16 * 1024 * 1024;

/// A request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "lowercase", deny_unknown_fields)]
pub enum Request {
    /// Serve this and nothing else. Answer: [`Applied`].
    Apply {
        /// Everything to serve.
        config: Box<Config>,
    },
    /// Adds a revision without traffic, or gives one other endpoints. Answer: [`Changed`].
    Revision {
        /// The service.
        service: String,
        /// The revision.
        revision: String,
        /// Addresses of its containers.
        endpoints: Vec<SocketAddr>,
    },
    /// Removes a revision that has no traffic. Answer: [`Changed`].
    Forget {
        /// The service.
        service: String,
        /// The revision.
        revision: String,
    },
    /// All traffic to one revision, canary and mirror ended. Answer: [`Switched`].
    Switch {
        /// The service.
        service: String,
        /// The revision that becomes the stable one.
        to: String,
        /// How long requests on the revision before may take before it counts as drained.
        #[serde(default = "default_drain_ms")]
        drain_ms: u64,
        /// First let new requests wait until the revision before has none, at most so long.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        exclusive_ms: Option<u64>,
        /// Switch even if no endpoint of the revision answers.
        #[serde(default)]
        force: bool,
    },
    /// Splits traffic; an empty split ends the canary. Answer: [`Changed`].
    Canary {
        /// The service.
        service: String,
        /// Weights, rules, mirror and lease.
        canary: CanaryConfig,
        /// How long requests on a revision that loses its traffic may take.
        #[serde(default = "default_drain_ms")]
        drain_ms: u64,
    },
    /// Prolongs the canary's lease by its length. Answer: [`Changed`].
    Renew {
        /// The service.
        service: String,
    },
    /// Lets new requests wait, at most so long. Answer: [`Changed`].
    Pause {
        /// The service.
        service: String,
        /// When the pause ends by itself.
        limit_ms: u64,
    },
    /// Ends a pause. Answer: [`Changed`].
    Resume {
        /// The service.
        service: String,
    },
    /// How far a revision is drained; waits for it when asked to. Answer: [`DrainStatus`].
    Drain {
        /// The service.
        service: String,
        /// The revision.
        revision: String,
        /// Answer when it is drained or its limit is reached, at the latest after so long.
        #[serde(default)]
        wait_ms: u64,
    },
    /// What is in force, with the traffic of this moment. Answer: [`Config`].
    Config,
    /// Everything there is to see. Answer: [`Status`].
    Status,
    /// The metrics in the Prometheus text format. Answer: a string.
    Metrics,
    /// Reads certificate files again. Answer: [`Applied`].
    Reload,
    /// Takes no new connections, finishes the open ones and ends. Answer: [`Changed`].
    Shutdown {
        /// When it ends all the same.
        #[serde(default = "default_drain_ms")]
        drain_ms: u64,
    },
    /// Starts the gateway's program anew and hands everything over to it. Answer: [`Changed`].
    Upgrade,
    /// Hands the listening sockets to the asking process; only for the gateway itself.
    Handover {
        /// How long open connections of the old process may go on.
        drain_ms: u64,
    },
    /// The asking process serves from the sockets it got.
    Taken,
}

fn default_drain_ms() -> u64 {
    30_000
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer<T> {
    /// Whether the request was carried out.
    pub ok: bool,
    /// What came of it.
    #[serde(default = "Option::default", skip_serializing_if = "Option::is_none")]
    pub result: Option<T>,
    /// Why it was not carried out; then nothing was changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// An item of a configuration that is not in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// `listener`, `certificate`, `service` or `route`.
    pub kind: String,
    /// Which one.
    pub name: String,
    /// Why.
    pub reason: String,
    /// Whether what was in force under this name before goes on.
    pub kept_last_good: bool,
}

impl Refusal {
    pub(crate) fn of(kind: &str, name: &str, reason: &str, kept: bool) -> Self {
        Self {
            kind: kind.to_owned(),
            name: name.to_owned(),
            reason: reason.to_owned(),
            kept_last_good: kept,
        }
    }
}

/// A configuration was applied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Applied {
    /// Items that were not; all others are in force.
    pub refused: Vec<Refusal>,
    /// Whether it will be there after a restart; if not, why.
    pub not_saved: Option<String>,
}

/// Something was changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changed {
    /// Whether it will be there after a restart; if not, why.
    pub not_saved: Option<String>,
}

/// Traffic was switched.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Switched {
    /// The stable revision before.
    pub from: String,
    /// From this instant no request went to the revision before; microseconds since 1970.
    pub at_unix_us: u64,
    /// When the last request went there; none if there never was one.
    pub last_request_unix_us: Option<u64>,
    /// From the beginning of the change to `at_unix_us`, probes and waiting not counted.
    pub took_us: u64,
    /// Requests and tunnels still on the revision before.
    pub in_flight: u64,
    /// Cookies of earlier epochs mean nothing.
    pub epoch: u64,
    /// Whether it will be there after a restart; if not, why.
    pub not_saved: Option<String>,
}

/// How far a revision is drained.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrainStatus {
    /// `active`, `draining`, `drained`, or `limit` when something is in flight after the limit.
    pub state: String,
    /// Requests and tunnels.
    pub in_flight: u64,
    /// WebSocket and TCP connections among them.
    pub tunnels: u64,
}

/// Everything there is to see.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The gateway's process.
    pub pid: u32,
    /// Its version.
    pub version: String,
    /// Clients connected.
    pub connections: u64,
    /// Addresses listened on.
    pub listeners: Vec<SocketAddr>,
    /// Services by name.
    pub services: BTreeMap<String, ServiceStatus>,
    /// Items of the last configuration that are not in force, and certificates that cannot be read.
    pub refused: Vec<Refusal>,
}

/// A service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceStatus {
    /// The revision that takes what no weight gives away.
    pub stable: String,
    /// The split of the moment.
    pub canary: Option<CanaryConfig>,
    /// Milliseconds until the split ends if it is not renewed.
    pub lease_left_ms: Option<u64>,
    /// Cookies of other epochs mean nothing.
    pub epoch: u64,
    /// Whether requests wait.
    pub paused: bool,
    /// How many.
    pub waiting: u64,
    /// Revisions by name.
    pub revisions: BTreeMap<String, RevisionStatus>,
}

/// A revision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RevisionStatus {
    /// How far it is drained.
    pub drain: DrainStatus,
    /// Its containers.
    pub endpoints: Vec<EndpointStatus>,
    /// Requests and tunnels on addresses that it had and has no more.
    #[serde(default)]
    pub leaving: u64,
    /// What it did.
    pub counts: RevisionCounts,
}

/// A container's address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointStatus {
    /// The address.
    pub address: SocketAddr,
    /// Whether active checks say that it answers.
    pub up: bool,
    /// Whether it is left alone for a while because real requests failed.
    pub ejected: bool,
    /// Requests it has at the moment.
    pub in_flight: u32,
}
