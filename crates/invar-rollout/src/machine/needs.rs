//! What a phase needs, compared with what is seen.

use super::action::Action;
use super::observation::{Observation, ReplicaState, Role, Traffic};
use super::state::{Phase, Rollout};

/// How many containers of each role there must be; `None`: as they are.
#[derive(Debug, Clone, Copy, Default)]
struct Wanted {
    target: Option<u32>,
    baseline: Option<u32>,
    stable: Option<u32>,
}

/// What must be done in this phase.
pub(super) fn needs(rollout: &Rollout, seen: &Observation) -> Vec<Action> {
    let mut actions = Vec::new();
    let wanted = wanted(rollout, seen);
    // What carries traffic comes first, what is no longer needed last.
    for (role, count) in [
        (Role::Stable, wanted.stable),
        (Role::Target, wanted.target),
        (Role::Baseline, wanted.baseline),
    ] {
        run(rollout, seen, role, count.unwrap_or(0), &mut actions);
    }
    if let Some(traffic) = seen.traffic.as_ref().filter(|_| rollout.spec.has_traffic) {
        move_traffic(rollout, seen, traffic, &mut actions);
    }
    for (role, count) in [
        (Role::Target, wanted.target),
        (Role::Baseline, wanted.baseline),
        (Role::Stable, wanted.stable),
    ] {
        let Some(count) = count else { continue };
        for replica in seen.of(role).filter(|replica| replica.index >= count) {
            let index = replica.index;
            if may_remove(rollout, seen, role) {
                actions.push(Action::Remove { role, index });
            }
        }
    }
    actions
}

fn wanted(rollout: &Rollout, seen: &Observation) -> Wanted {
    let spec = &rollout.spec;
    let stable = Some(spec.stable_replicas);
    let trial = |step: usize| {
        let (canary, baseline) = rollout.weights(step);
        Wanted {
            stable,
            target: Some(rollout.replicas_for(canary)),
            baseline: Some(rollout.replicas_for(baseline)),
        }
    };
    match &rollout.phase {
        Phase::Starting if rollout.is_canary() => trial(0),
        Phase::Starting => Wanted {
            stable: if spec.stop_first { Some(0) } else { stable },
            // With stop-first, nothing new until everything old is gone.
            target: if spec.stop_first && seen.of(Role::Stable).next().is_some() {
                None
            } else {
                Some(spec.replicas)
            },
            baseline: Some(0),
        },
        Phase::Trial { step } => trial(*step),
        Phase::Completing | Phase::Switching => Wanted {
            stable: if spec.stop_first { None } else { stable },
            target: Some(spec.replicas),
            baseline: None,
        },
        Phase::Watching | Phase::Promoted => Wanted {
            // Without traffic two revisions would do the work twice.
            stable: if spec.has_traffic { None } else { Some(0) },
            target: Some(spec.replicas),
            baseline: Some(0),
        },
        Phase::Held { .. } => Wanted {
            stable,
            target: None,
            baseline: Some(0),
        },
        Phase::Reverting { .. } | Phase::RolledBack { .. } => Wanted {
            stable,
            // Better this one than none.
            target: if rollout.stable.is_none() || seen.healthy(Role::Stable) > 0 {
                Some(0)
            } else {
                None
            },
            baseline: Some(0),
        },
    }
}

/// Containers that must run and do not. A new one that ended is a verdict, not a repair, until the
/// new revision is the stable one.
fn run(rollout: &Rollout, seen: &Observation, role: Role, count: u32, actions: &mut Vec<Action>) {
    if rollout.revision(role).is_none() {
        return;
    }
    for index in 0..count {
        let found = seen.of(role).find(|replica| replica.index == index);
        let must_run = match found.map(|replica| &replica.state) {
            None => true,
            Some(ReplicaState::Ended(_)) => {
                role != Role::Target || rollout.phase == Phase::Promoted
            }
            Some(_) => false,
        };
        if must_run {
            actions.push(Action::Run { role, index });
        }
    }
}

/// A container goes when the gateway neither sends to it nor waits for it.
fn may_remove(rollout: &Rollout, seen: &Observation, role: Role) -> bool {
    if !rollout.spec.has_traffic || rollout.spec.stop_first && role == Role::Stable {
        return true;
    }
    let limit = millis(rollout.spec.policy.drain) + 1_000;
    let is_late = seen.now_ms.saturating_sub(rollout.since_ms) > limit;
    seen.traffic.as_ref().is_some_and(|traffic| {
        let has_weight = match role {
            Role::Target => traffic.canary > 0,
            Role::Baseline => traffic.baseline > 0,
            Role::Stable => false,
        };
        let is_stable = traffic.stable == Some(role);
        let is_free = !traffic.known.contains(&role);
        let is_quiet = !traffic.busy.contains(&role) || is_late;
        !has_weight && !is_stable && is_free && is_quiet
    })
}

fn move_traffic(
    rollout: &Rollout,
    seen: &Observation,
    traffic: &Traffic,
    actions: &mut Vec<Action>,
) {
    let register = |role: Role, actions: &mut Vec<Action>| {
        if seen.healthy(role) > 0 && !traffic.current.contains(&role) {
            actions.push(Action::Register(role));
        }
    };
    match &rollout.phase {
        Phase::Starting | Phase::Promoted | Phase::RolledBack { .. } => {}
        Phase::Trial { step } => {
            register(Role::Target, actions);
            register(Role::Baseline, actions);
            let (canary, baseline) = rollout.weights(*step);
            let are_well = seen.healthy(Role::Target) > 0 && seen.healthy(Role::Baseline) > 0;
            if are_well {
                keep_weights(traffic, canary, baseline, actions);
            }
        }
        Phase::Completing => {
            register(Role::Target, actions);
            if rollout.is_canary() && traffic.canary > 0 {
                actions.push(Action::Renew);
            }
        }
        Phase::Switching => {
            if seen.healthy(Role::Target) > 0 {
                register(Role::Target, actions);
                actions.push(Action::Switch(Role::Target));
            }
        }
        Phase::Watching => {
            // Started again from an old state, or a person moved it: put it right.
            if traffic.stable != Some(Role::Target) {
                register(Role::Target, actions);
                actions.push(Action::Switch(Role::Target));
            }
            forget_when_quiet(rollout, seen, traffic, Role::Baseline, actions);
        }
        Phase::Held { .. } => {
            end_trial(traffic, actions);
            forget_when_quiet(rollout, seen, traffic, Role::Baseline, actions);
        }
        Phase::Reverting { .. } => go_back(rollout, seen, traffic, actions),
    }
}

fn keep_weights(traffic: &Traffic, canary: u32, baseline: u32, actions: &mut Vec<Action>) {
    if traffic.canary == canary && traffic.baseline == baseline {
        actions.push(Action::Renew);
    } else {
        actions.push(Action::Weigh { canary, baseline });
    }
}

fn end_trial(traffic: &Traffic, actions: &mut Vec<Action>) {
    if traffic.canary > 0 || traffic.baseline > 0 {
        actions.push(Action::EndTrial);
    }
}

fn go_back(rollout: &Rollout, seen: &Observation, traffic: &Traffic, actions: &mut Vec<Action>) {
    if rollout.stable.is_none() {
        // There is nothing to go back to: the service ends as it began, without traffic.
        for role in [Role::Target, Role::Baseline] {
            if traffic.known.contains(&role) {
                actions.push(Action::Forget(role));
            }
        }
        return;
    }
    if traffic.stable == Some(Role::Stable) {
        end_trial(traffic, actions);
    } else if seen.healthy(Role::Stable) > 0 {
        if !traffic.current.contains(&Role::Stable) {
            actions.push(Action::Register(Role::Stable));
        }
        actions.push(Action::Switch(Role::Stable));
    }
    for role in [Role::Target, Role::Baseline] {
        forget_when_quiet(rollout, seen, traffic, role, actions);
    }
}

/// The gateway forgets a revision once nothing is in flight on it, or at the drain limit.
fn forget_when_quiet(
    rollout: &Rollout,
    seen: &Observation,
    traffic: &Traffic,
    role: Role,
    actions: &mut Vec<Action>,
) {
    let has_weight = match role {
        Role::Target => traffic.canary > 0,
        Role::Baseline => traffic.baseline > 0,
        Role::Stable => false,
    };
    let is_used = has_weight || traffic.stable == Some(role);
    let limit = millis(rollout.spec.policy.drain);
    let is_late = seen.now_ms.saturating_sub(rollout.since_ms) > limit;
    let is_quiet = !traffic.busy.contains(&role) || is_late;
    if traffic.known.contains(&role) && !is_used && is_quiet {
        actions.push(Action::Forget(role));
    }
}

pub(crate) fn millis(time: std::time::Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
