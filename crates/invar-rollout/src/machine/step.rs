//! When one phase ends and another begins.

use super::action::Action;
use super::needs::{millis, needs};
use super::observation::{Observation, Order, ReplicaState, Role};
use super::state::{Decision, Phase, Rollout, WHOLE};
use crate::compose::{FailureAction, Gate};
use crate::judge::{Judgement, Numbers, Rules, Verdict};

/// Looks at the numbers that are recorded for a chart of one step.
const LOOKS: u64 = 100;

/// What comes of an observation.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// To be stored before anything is done.
    pub next: Rollout,
    /// To be done then, in this order; the first that fails ends the round.
    pub actions: Vec<Action>,
    /// To be stored with the state.
    pub decisions: Vec<Decision>,
}

/// One round: what is known and what is seen become what is known next and what must be done.
pub fn step(rollout: &Rollout, seen: &Observation) -> Step {
    let mut turn = Turn {
        next: rollout.clone(),
        seen,
        decisions: Vec::new(),
    };
    turn.take_order();
    turn.look();
    turn.decide();
    let actions = needs(&turn.next, seen);
    Step {
        next: turn.next,
        actions,
        decisions: turn.decisions,
    }
}

struct Turn<'a> {
    next: Rollout,
    seen: &'a Observation,
    decisions: Vec<Decision>,
}

impl Turn<'_> {
    fn enter(&mut self, phase: Phase, text: String, numbers: Option<Numbers>) {
        let kind = match &phase {
            Phase::Starting => "starting",
            Phase::Trial { .. } => "trial",
            Phase::Completing => "completing",
            Phase::Switching => "switching",
            Phase::Watching => "watching",
            Phase::Held { .. } => "held",
            Phase::Reverting { .. } => "reverting",
            Phase::Promoted => "promoted",
            Phase::RolledBack { .. } => "rolled_back",
        };
        self.next.phase = phase;
        self.next.since_ms = self.seen.now_ms;
        self.record(kind, text, numbers);
    }

    fn record(&mut self, kind: &str, text: String, numbers: Option<Numbers>) {
        let weight = match &self.next.phase {
            Phase::Trial { step } => self.next.weights(*step).0,
            Phase::Completing if self.next.is_canary() => {
                self.next.weights(self.next.spec.policy.steps.len() - 1).0
            }
            Phase::Switching | Phase::Watching | Phase::Promoted => WHOLE,
            _ => 0,
        };
        self.next.recorded_ms = self.seen.now_ms;
        self.decisions.push(Decision {
            at_ms: self.seen.now_ms,
            kind: kind.to_owned(),
            text,
            weight,
            numbers,
        });
    }

    fn take_order(&mut self) {
        let Some(order) = self.seen.order else { return };
        if self.next.phase.is_final() {
            return;
        }
        match order {
            Order::Pause => {
                self.next.is_paused = true;
                self.record("paused", "paused by a person".to_owned(), None);
            }
            Order::Resume => {
                self.next.is_paused = false;
                self.record("resumed", "resumed by a person".to_owned(), None);
            }
            Order::Promote => {
                self.next.is_paused = false;
                self.next.is_approved = true;
                let text = "promoted by a person".to_owned();
                match self.next.phase {
                    Phase::Trial { .. } | Phase::Held { .. } | Phase::Reverting { .. } => {
                        self.enter(Phase::Completing, text, None);
                    }
                    _ => self.record("approved", text, None),
                }
            }
            Order::Abort => self.go_back("aborted by a person".to_owned(), None),
        }
    }

    /// Everything goes back, whatever the phase.
    fn go_back(&mut self, why: String, numbers: Option<Numbers>) {
        if matches!(self.next.phase, Phase::Reverting { .. }) {
            return;
        }
        let text = why.clone();
        self.enter(Phase::Reverting { why }, text, numbers);
    }

    /// The new revision is worse.
    fn fail(&mut self, why: String, numbers: Option<Numbers>) {
        let is_on_trial = matches!(self.next.phase, Phase::Trial { .. } | Phase::Completing);
        if self.next.spec.failure_action == FailureAction::Pause && is_on_trial {
            let text = why.clone();
            self.enter(Phase::Held { why }, text, numbers);
        } else {
            self.go_back(why, numbers);
        }
    }

    /// Takes what both sides answered since the last round.
    fn look(&mut self) {
        let is_judged = matches!(self.next.phase, Phase::Trial { .. } | Phase::Completing);
        let Some(traffic) = self.seen.traffic.as_ref().filter(|_| is_judged) else {
            return;
        };
        if !self.next.is_canary() {
            return;
        }
        let canary = traffic.canary_tally.since(&self.next.canary_seen);
        let baseline = traffic.baseline_tally.since(&self.next.baseline_seen);
        // Neither side may be counted without the other: a stretch is both.
        if canary.requests == 0 || baseline.requests == 0 {
            return;
        }
        self.next.judge.look(&canary, &baseline);
        self.next.canary_seen = traffic.canary_tally.clone();
        self.next.baseline_seen = traffic.baseline_tally.clone();
    }

    fn judgement(&self, next_share: u32) -> Judgement {
        let policy = &self.next.spec.policy;
        let share = |parts: u32| f64::from(parts) / f64::from(WHOLE);
        self.next.judge.verdict(&Rules {
            gates: &policy.gates,
            margin: share(policy.margin),
            next_share: share(next_share),
        })
    }

    /// Why the new revision must go at once.
    fn hard_stop(&self) -> Option<String> {
        if let Some(alarm) = &self.seen.alarm
            && self.next.spec.policy.gates.contains(&Gate::Drift)
        {
            return Some(alarm.clone());
        }
        let count = self.next.spec.replicas;
        let mut ours = self
            .seen
            .of(Role::Target)
            .filter(|replica| replica.index < count);
        ours.find_map(|replica| match &replica.state {
            ReplicaState::Ended(why) | ReplicaState::Unhealthy(why) => {
                Some(format!("its container {} {why}", replica.index + 1))
            }
            ReplicaState::Starting | ReplicaState::Healthy => None,
        })
    }

    fn decide(&mut self) {
        match self.next.phase.clone() {
            Phase::Starting => self.decide_starting(),
            Phase::Trial { step } => self.decide_trial(step),
            Phase::Completing => self.decide_completing(),
            Phase::Switching => self.decide_switching(),
            Phase::Watching => self.decide_watching(),
            Phase::Reverting { why } => self.decide_reverting(why),
            Phase::Held { .. } | Phase::Promoted | Phase::RolledBack { .. } => {}
        }
    }

    fn elapsed(&self) -> u64 {
        self.seen.now_ms.saturating_sub(self.next.since_ms)
    }

    /// Whether new containers took too long; then it goes back.
    fn is_too_late(&mut self, missing: &str) -> bool {
        let limit = self.next.spec.policy.healthy_within;
        if self.elapsed() <= millis(limit) {
            return false;
        }
        self.go_back(format!("{missing} within {} s", limit.as_secs()), None);
        true
    }

    fn decide_starting(&mut self) {
        if let Some(why) = self.hard_stop() {
            return self.go_back(why, None);
        }
        if !self.next.is_canary() {
            if self.seen.healthy(Role::Target) >= self.next.spec.replicas {
                let text = "all new containers are well".to_owned();
                self.enter(Phase::Completing, text, None);
                self.decide_completing();
                return;
            }
            self.is_too_late("not all new containers became well");
            return;
        }
        let (canary, baseline) = self.next.weights(0);
        let is_ready = self.seen.healthy(Role::Target) >= self.next.replicas_for(canary)
            && self.seen.healthy(Role::Baseline) >= self.next.replicas_for(baseline);
        if is_ready {
            self.enter(
                Phase::Trial { step: 0 },
                format!("it is well and gets {}", percent(canary)),
                None,
            );
        } else {
            self.is_too_late("the new containers and their baseline did not become well");
        }
    }

    fn decide_trial(&mut self, step: usize) {
        if let Some(why) = self.hard_stop() {
            return self.fail(why, None);
        }
        let steps = &self.next.spec.policy.steps;
        let next_share = steps.get(step + 1).copied();
        let judgement = self.judgement(next_share.unwrap_or(WHOLE));
        if judgement.verdict == Verdict::Worse {
            return self.fail(judgement.why, Some(judgement.numbers));
        }
        let hold = millis(self.next.spec.policy.hold);
        let is_over = self.elapsed() >= hold && !self.next.is_paused;
        if !is_over || judgement.verdict == Verdict::NotEnough {
            let since = self.seen.now_ms.saturating_sub(self.next.recorded_ms);
            if since >= (hold / LOOKS).max(1_000) {
                self.record("look", judgement.why, Some(judgement.numbers));
            }
            return;
        }
        match next_share {
            Some(share) => self.enter(
                Phase::Trial { step: step + 1 },
                format!("{}; it gets {}", judgement.why, percent(share)),
                Some(judgement.numbers),
            ),
            None => self.enter(Phase::Completing, judgement.why, Some(judgement.numbers)),
        }
    }

    fn decide_completing(&mut self) {
        if let Some(why) = self.hard_stop() {
            return self.fail(why, None);
        }
        if self.next.is_canary() && !self.next.is_approved {
            let judgement = self.judgement(WHOLE);
            if judgement.verdict == Verdict::Worse {
                return self.fail(judgement.why, Some(judgement.numbers));
            }
        }
        if self.seen.healthy(Role::Target) < self.next.spec.replicas {
            self.is_too_late("not all new containers became well");
            return;
        }
        let waits = self.next.spec.policy.manual && !self.next.is_approved;
        if waits || self.next.is_paused {
            return;
        }
        let text = if self.next.spec.has_traffic {
            "all traffic goes to it"
        } else {
            "it takes over"
        };
        self.enter(Phase::Switching, text.to_owned(), None);
    }

    fn decide_switching(&mut self) {
        if let Some(why) = self.hard_stop() {
            return self.go_back(why, None);
        }
        let is_done = match &self.seen.traffic {
            _ if !self.next.spec.has_traffic => true,
            Some(traffic) => traffic.stable == Some(Role::Target),
            None => false,
        };
        if is_done {
            let text = match &self.next.stable {
                Some(_) if self.next.spec.has_traffic => {
                    "it has all traffic; the revision before stays warm"
                }
                Some(_) => "the revision before ends",
                None => "it serves",
            };
            self.enter(Phase::Watching, text.to_owned(), None);
        } else {
            // A gateway that does not answer must not hold a deploy for ever.
            self.is_too_late("the gateway did not take the switch");
        }
    }

    fn decide_watching(&mut self) {
        if let Some(why) = self.hard_stop() {
            return self.go_back(why, None);
        }
        let is_tidy = self.seen.of(Role::Baseline).next().is_none();
        let has_traffic = match &self.seen.traffic {
            _ if !self.next.spec.has_traffic => true,
            Some(traffic) => traffic.stable == Some(Role::Target),
            None => false,
        };
        // With nothing to go back to there is nothing to watch for.
        let is_over = self.next.is_approved
            || self.next.stable.is_none()
            || self.elapsed() >= millis(self.next.spec.policy.hold);
        let is_well = self.seen.healthy(Role::Target) > 0;
        if is_tidy && has_traffic && is_over && is_well {
            self.enter(
                Phase::Promoted,
                "it is the stable revision".to_owned(),
                None,
            );
        }
    }

    fn decide_reverting(&mut self, why: String) {
        let gone = |role| self.seen.of(role).next().is_none();
        let is_back = match (&self.seen.traffic, &self.next.stable) {
            _ if !self.next.spec.has_traffic => true,
            (Some(traffic), Some(_)) => {
                traffic.stable == Some(Role::Stable) && traffic.canary == 0 && traffic.baseline == 0
            }
            (Some(traffic), None) => !traffic.known.contains(&Role::Target),
            (None, _) => false,
        };
        let is_served = self.next.stable.is_none() || self.seen.healthy(Role::Stable) > 0;
        if gone(Role::Target) && gone(Role::Baseline) && is_back && is_served {
            let text = match &self.next.stable {
                Some(_) => format!("rolled back: {why}"),
                None => format!("not deployed: {why}"),
            };
            self.enter(Phase::RolledBack { why }, text, None);
        }
    }
}

fn percent(parts: u32) -> String {
    let (whole, rest) = (parts / 100, parts % 100);
    if rest == 0 {
        format!("{whole} % of the traffic")
    } else {
        format!("{whole}.{rest:02} % of the traffic")
    }
}
