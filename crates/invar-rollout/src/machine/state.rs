//! What is known of a rollout; stored before anything is done.

use serde::{Deserialize, Serialize};

use super::observation::Role;
use crate::compose::{FailureAction, RolloutPolicy};
use crate::judge::{Judge, Numbers, Tally};

/// All traffic, in the gateway's parts.
pub(crate) const WHOLE: u32 = 10_000;

/// What is wanted of a rollout.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Spec {
    /// Containers of the new revision.
    pub replicas: u32,
    /// Containers of the revision before; 0 when there is none.
    pub stable_replicas: u32,
    /// Steps, times, gates.
    pub policy: RolloutPolicy,
    /// Whether clients reach the service through the gateway.
    pub has_traffic: bool,
    /// What happens when the new revision is worse.
    pub failure_action: FailureAction,
    /// Whether old containers end before new ones start.
    pub stop_first: bool,
}

/// Where a rollout is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "phase")]
pub enum Phase {
    /// The first new containers, and the baseline, become well.
    Starting,
    /// The new revision has the traffic of this step, counted from 0.
    Trial {
        /// Which.
        step: usize,
    },
    /// The rest of the new containers become well; a manual rollout waits here.
    Completing,
    /// All traffic goes to the new revision.
    Switching,
    /// The new revision has all traffic; the old one is warm.
    Watching,
    /// The new revision is worse; it has no traffic and waits for a person.
    Held {
        /// Why.
        why: String,
    },
    /// Everything goes back.
    Reverting {
        /// Why.
        why: String,
    },
    /// The new revision is the stable one.
    Promoted,
    /// The revision before is still, or again, the stable one.
    RolledBack {
        /// Why.
        why: String,
    },
}

impl Phase {
    /// Whether nothing comes after it.
    pub fn is_final(&self) -> bool {
        matches!(self, Self::Promoted | Self::RolledBack { .. })
    }
}

/// One rollout of one service.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Rollout {
    /// Counts the rollouts of the service, from 1.
    pub number: u64,
    /// The service, with its project: `shop.web`.
    pub service: String,
    /// The new revision.
    pub target: String,
    /// The revision before.
    pub stable: Option<String>,
    /// What is wanted.
    pub spec: Spec,
    /// Where it is.
    #[serde(flatten)]
    pub phase: Phase,
    /// When this phase began, milliseconds since 1970.
    pub since_ms: u64,
    /// When it began.
    pub began_ms: u64,
    /// Whether a person said to wait.
    pub is_paused: bool,
    /// Whether a person said to go on.
    pub is_approved: bool,
    /// What the judge has seen.
    pub judge: Judge,
    /// The new revision's counters at the last look.
    pub canary_seen: Tally,
    /// The baseline's counters at the last look.
    pub baseline_seen: Tally,
    /// When numbers were last recorded.
    pub recorded_ms: u64,
}

impl Rollout {
    /// A rollout that begins.
    pub fn new(
        number: u64,
        service: &str,
        target: &str,
        stable: Option<&str>,
        spec: Spec,
        now_ms: u64,
    ) -> Self {
        Self {
            number,
            service: service.to_owned(),
            target: target.to_owned(),
            stable: stable.map(str::to_owned),
            spec,
            phase: Phase::Starting,
            since_ms: now_ms,
            began_ms: now_ms,
            is_paused: false,
            is_approved: false,
            judge: Judge::default(),
            canary_seen: Tally::default(),
            baseline_seen: Tally::default(),
            recorded_ms: 0,
        }
    }

    /// Whether the new revision is tried on a part of the traffic beside a baseline.
    pub fn is_canary(&self) -> bool {
        self.spec.has_traffic && self.stable.is_some() && !self.spec.policy.steps.is_empty()
    }

    /// The revision of a role.
    pub fn revision(&self, role: Role) -> Option<&str> {
        match role {
            Role::Target => Some(&self.target),
            Role::Stable | Role::Baseline => self.stable.as_deref(),
        }
    }

    /// The weight of the new revision in a step, and of its baseline, which is as large as the
    /// traffic allows.
    pub(super) fn weights(&self, step: usize) -> (u32, u32) {
        let canary = self.spec.policy.steps.get(step).copied().unwrap_or(0);
        (canary, canary.min(WHOLE - canary.min(WHOLE)))
    }

    /// Containers that carry so much of the traffic.
    pub(super) fn replicas_for(&self, weight: u32) -> u32 {
        let most = self.spec.replicas.max(1);
        let needed = (u64::from(most) * u64::from(weight)).div_ceil(u64::from(WHOLE));
        u32::try_from(needed).unwrap_or(most).clamp(1, most)
    }
}

/// A moment worth remembering.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Decision {
    /// When, milliseconds since 1970.
    pub at_ms: u64,
    /// The phase it led to, or `look` for numbers alone.
    pub kind: String,
    /// In one sentence.
    pub text: String,
    /// Weight of the new revision, parts of 10,000.
    pub weight: u32,
    /// What it stood on.
    pub numbers: Option<Numbers>,
}
