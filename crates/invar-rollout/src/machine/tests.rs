//! The machine against a model of containers, a gateway, and a driver that dies at any point.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::compose::{FailureAction, RolloutPolicy};
use crate::judge::Tally;

/// One round takes so long.
const ROUND_MS: u64 = 1_000;
/// The gateway ends a trial that nobody renews for so long.
const LEASE_MS: u64 = 5_000;

/// How the new revision turns out.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Fate {
    /// Rounds until a container is well; none: never.
    well_after: Option<u64>,
    /// Rounds until it ends by itself.
    ends_after: Option<u64>,
    /// Errors in a hundred requests.
    errors: u64,
}

const GOOD: Fate = Fate {
    well_after: Some(1),
    ends_after: None,
    errors: 0,
};

/// Containers by role and number, each with the round it was started in, and the gateway.
struct World {
    now: u64,
    fate: Fate,
    containers: BTreeMap<(Role, u32), u64>,
    /// What the gateway sends to: revision, addresses.
    known: BTreeMap<Role, BTreeSet<u32>>,
    stable: Option<Role>,
    weights: (u32, u32),
    renewed: u64,
    tallies: (Tally, Tally),
    has_gateway: bool,
    /// Rounds in which the stable service had no healthy container behind it.
    unserved: u64,
}

impl World {
    fn new(fate: Fate, stable_replicas: u32) -> Self {
        let mut world = Self {
            now: 1_000_000,
            fate,
            containers: BTreeMap::new(),
            known: BTreeMap::new(),
            stable: None,
            weights: (0, 0),
            renewed: 0,
            tallies: Default::default(),
            has_gateway: true,
            unserved: 0,
        };
        for index in 0..stable_replicas {
            world.containers.insert((Role::Stable, index), 0);
        }
        if stable_replicas > 0 {
            world.stable = Some(Role::Stable);
            let all = (0..stable_replicas).collect();
            world.known.insert(Role::Stable, all);
        }
        world
    }

    fn state(&self, role: Role, started: u64) -> ReplicaState {
        let age = (self.now - started) / ROUND_MS;
        if role != Role::Target {
            return if age >= 1 {
                ReplicaState::Healthy
            } else {
                ReplicaState::Starting
            };
        }
        match self.fate {
            Fate {
                ends_after: Some(end),
                ..
            } if age >= end => ReplicaState::Ended("ended with code 1".to_owned()),
            Fate {
                well_after: Some(well),
                ..
            } if age >= well => ReplicaState::Healthy,
            _ => ReplicaState::Starting,
        }
    }

    fn healthy(&self, role: Role) -> BTreeSet<u32> {
        let of_role = self.containers.iter().filter(|((r, _), _)| *r == role);
        of_role
            .filter(|(_, started)| self.state(role, **started) == ReplicaState::Healthy)
            .map(|((_, index), _)| *index)
            .collect()
    }

    fn observe(&self, order: Option<Order>) -> Observation {
        let traffic = Traffic {
            stable: self.stable,
            canary: self.weights.0,
            baseline: self.weights.1,
            known: self.known.keys().copied().collect(),
            current: self
                .known
                .iter()
                .filter(|(role, addresses)| self.healthy(**role) == **addresses)
                .map(|(role, _)| *role)
                .collect(),
            busy: BTreeSet::new(),
            canary_tally: self.tallies.0.clone(),
            baseline_tally: self.tallies.1.clone(),
        };
        Observation {
            now_ms: self.now,
            replicas: self
                .containers
                .iter()
                .map(|((role, index), started)| Replica {
                    role: *role,
                    index: *index,
                    state: self.state(*role, *started),
                })
                .collect(),
            traffic: self.has_gateway.then_some(traffic),
            order,
            alarm: None,
        }
    }

    /// Does what is asked, as strictly as the real parts; false when it refuses.
    fn act(&mut self, action: &Action) -> bool {
        match *action {
            Action::Run { role, index } => {
                self.containers.insert((role, index), self.now);
                true
            }
            Action::Remove { role, index } => {
                let is_behind = |known: &BTreeSet<u32>| known.contains(&index);
                let is_used = self.known.get(&role).is_some_and(is_behind);
                assert!(!is_used, "{action:?}: the gateway still sends to it");
                self.containers.remove(&(role, index));
                true
            }
            _ if !self.has_gateway => false,
            Action::Register(role) => {
                let healthy = self.healthy(role);
                assert!(
                    !healthy.is_empty(),
                    "{role:?} registered without a healthy container"
                );
                self.known.insert(role, healthy);
                true
            }
            Action::Forget(role) => {
                if self.stable == Some(role) && role == Role::Target {
                    // Only a service that never had another revision ends so.
                    self.stable = None;
                }
                assert_ne!(self.stable, Some(role), "forgotten with all traffic on it");
                self.known.remove(&role);
                true
            }
            Action::Weigh { canary, baseline } => {
                assert!(self.known.contains_key(&Role::Target));
                self.weights = (canary, baseline);
                self.renewed = self.now;
                true
            }
            Action::Renew => {
                self.renewed = self.now;
                true
            }
            Action::EndTrial => {
                self.weights = (0, 0);
                true
            }
            Action::Switch(role) => {
                if self.healthy(role).is_empty() || !self.known.contains_key(&role) {
                    return false;
                }
                self.stable = Some(role);
                self.weights = (0, 0);
                true
            }
        }
    }

    /// Time passes: requests are answered, leases end.
    fn pass(&mut self) {
        self.now += ROUND_MS;
        if self.now - self.renewed > LEASE_MS {
            self.weights = (0, 0);
        }
        if let Some(role) = self.stable
            && self.healthy(role).is_empty()
        {
            self.unserved += 1;
        }
        let count = |weight: u32| u64::from(weight) / 10;
        self.tallies.0.requests += count(self.weights.0);
        self.tallies.0.errors += count(self.weights.0) * self.fate.errors / 100;
        self.tallies.1.requests += count(self.weights.1);
    }
}

fn spec(steps: &[u32], stable_replicas: u32) -> Spec {
    Spec {
        replicas: 2,
        stable_replicas,
        policy: RolloutPolicy {
            steps: steps.to_vec(),
            hold: Duration::from_secs(5),
            healthy_within: Duration::from_secs(20),
            drain: Duration::from_secs(2),
            ..RolloutPolicy::default()
        },
        has_traffic: true,
        failure_action: FailureAction::Rollback,
        stop_first: false,
    }
}

fn rollout(spec: Spec) -> Rollout {
    let stable = (spec.stable_replicas > 0).then_some("old");
    Rollout::new(1, "shop.web", "new", stable, spec, 1_000_000)
}

/// Runs to the end, at most so many rounds.
fn run(world: &mut World, rollout: &mut Rollout) -> Vec<Decision> {
    let mut all = Vec::new();
    for _ in 0..2_000 {
        let step = step(rollout, &world.observe(None));
        *rollout = step.next;
        all.extend(step.decisions);
        for action in &step.actions {
            if !world.act(action) {
                break;
            }
        }
        if rollout.phase.is_final() {
            return all;
        }
        world.pass();
    }
    panic!("never ended: {rollout:#?}");
}

#[test]
fn a_good_revision_is_promoted() {
    for steps in [&[] as &[u32], &[100, 1_000, 5_000], &[8_000]] {
        let mut world = World::new(GOOD, 2);
        let mut rollout = rollout(spec(steps, 2));
        let decisions = run(&mut world, &mut rollout);
        assert_eq!(rollout.phase, Phase::Promoted, "{steps:?}");
        assert_eq!(world.stable, Some(Role::Target));
        assert_eq!(world.unserved, 0);
        // Warm: a rollback is one pointer.
        assert_eq!(world.healthy(Role::Stable).len(), 2);
        assert!(world.healthy(Role::Baseline).is_empty());
        let trials = decisions.iter().filter(|d| d.kind == "trial").count();
        assert_eq!(trials, steps.len());
    }
}

#[test]
fn a_first_revision_needs_nothing_before_it() {
    let mut world = World::new(GOOD, 0);
    let mut rollout = rollout(spec(&[1_000], 0));
    run(&mut world, &mut rollout);
    assert_eq!(rollout.phase, Phase::Promoted);
    assert_eq!(world.healthy(Role::Target).len(), 2);
}

#[test]
fn a_bad_revision_is_rolled_back_and_the_reason_is_told() {
    let never_well = Fate {
        well_after: None,
        ..GOOD
    };
    let crashes = Fate {
        ends_after: Some(5),
        ..GOOD
    };
    let crashes_at_once = Fate {
        ends_after: Some(0),
        ..GOOD
    };
    let fails = Fate { errors: 3, ..GOOD };
    for (fate, steps, expected) in [
        (never_well, &[] as &[u32], "became well within 20 s"),
        (never_well, &[1_000], "did not become well within 20 s"),
        (crashes, &[], "its container 1 ended with code 1"),
        (
            crashes,
            &[1_000, 5_000],
            "its container 1 ended with code 1",
        ),
        (crashes_at_once, &[], "its container 1 ended with code 1"),
        (fails, &[1_000, 5_000], "it failed "),
    ] {
        let mut world = World::new(fate, 1);
        let mut rollout = rollout(spec(steps, 1));
        run(&mut world, &mut rollout);
        let Phase::RolledBack { why } = &rollout.phase else {
            panic!("{fate:?} {steps:?}: {:?}", rollout.phase);
        };
        assert!(why.contains(expected), "{fate:?} {steps:?}: {why}");
        assert_eq!(world.stable, Some(Role::Stable));
        assert_eq!(world.containers.len(), 1, "{:?}", world.containers);
        assert_eq!(world.weights, (0, 0));
    }
}

#[test]
fn a_first_revision_that_ends_is_not_deployed() {
    let fate = Fate {
        ends_after: Some(0),
        ..GOOD
    };
    let mut world = World::new(fate, 0);
    let mut rollout = rollout(spec(&[], 0));
    run(&mut world, &mut rollout);
    assert!(matches!(rollout.phase, Phase::RolledBack { .. }));
    assert!(world.containers.is_empty() && world.known.is_empty());
}

#[test]
fn a_failed_update_waits_when_it_is_told_to() {
    let mut world = World::new(Fate { errors: 50, ..GOOD }, 1);
    let mut spec = spec(&[1_000], 1);
    spec.failure_action = FailureAction::Pause;
    let mut rollout = rollout(spec);
    for order in std::iter::repeat_n(None, 40).chain([Some(Order::Abort)]) {
        let step = step(&rollout, &world.observe(order));
        rollout = step.next;
        for action in &step.actions {
            world.act(action);
        }
        if order.is_none() && matches!(rollout.phase, Phase::Held { .. }) {
            assert_eq!(world.weights, (0, 0));
            assert!(
                !world.healthy(Role::Target).is_empty(),
                "it is kept for a look"
            );
        }
        world.pass();
    }
    run(&mut world, &mut rollout);
    assert!(
        matches!(&rollout.phase, Phase::RolledBack { why } if why.contains("aborted")),
        "{:?}",
        rollout.phase
    );
}

#[test]
fn a_manual_rollout_waits_for_a_person_and_no_traffic_is_no_verdict() {
    for (manual, steps, rate) in [
        (true, &[5_000_u32] as &[u32], 1),
        (true, &[], 1),
        (false, &[5_000], 0),
    ] {
        let mut world = World::new(GOOD, 1);
        let mut spec = spec(steps, 1);
        spec.policy.manual = manual;
        let mut rollout = rollout(spec);
        for order in std::iter::repeat_n(None, 100).chain([Some(Order::Promote)]) {
            let step = step(&rollout, &world.observe(order));
            rollout = step.next;
            for action in &step.actions {
                world.act(action);
            }
            if order.is_none() {
                assert!(
                    !matches!(rollout.phase, Phase::Switching),
                    "{:?}",
                    rollout.phase
                );
            }
            world.pass();
            if rate == 0 {
                world.tallies = Default::default();
            }
        }
        run(&mut world, &mut rollout);
        assert_eq!(rollout.phase, Phase::Promoted);
    }
}

#[test]
fn without_traffic_the_old_containers_end_when_the_new_ones_are_well() {
    let mut world = World::new(GOOD, 2);
    world.known.clear();
    world.stable = None;
    let mut spec = spec(&[1_000], 2);
    spec.has_traffic = false;
    let mut rollout = rollout(spec);
    run(&mut world, &mut rollout);
    assert_eq!(rollout.phase, Phase::Promoted);
    assert_eq!(world.containers.len(), 2);
    assert_eq!(world.healthy(Role::Target).len(), 2);
}

/// Something that goes wrong in one round.
#[derive(Debug, Clone)]
enum Fault {
    None,
    /// The driver dies after so many actions; the state was stored before.
    Dies(usize),
    /// It dies before the state is stored.
    Forgets,
    /// The gateway does not answer in this round.
    NoGateway,
    /// A container of the old revision ends.
    OldEnds,
    Order(Order),
    /// Nobody drives for so many rounds.
    Away(u64),
}

fn fault() -> impl Strategy<Value = Fault> {
    prop_oneof![
        6 => Just(Fault::None),
        2 => (0..4_usize).prop_map(Fault::Dies),
        1 => Just(Fault::Forgets),
        1 => Just(Fault::NoGateway),
        1 => Just(Fault::OldEnds),
        1 => prop_oneof![
            Just(Order::Promote), Just(Order::Abort), Just(Order::Pause), Just(Order::Resume)
        ].prop_map(Fault::Order),
        1 => (1..10_u64).prop_map(Fault::Away),
    ]
}

fn fate() -> impl Strategy<Value = Fate> {
    (
        prop::option::weighted(0.9, 0..4_u64),
        prop::option::weighted(0.3, 0..40_u64),
        prop_oneof![3 => Just(0_u64), 1 => 1..60_u64],
    )
        .prop_map(|(well_after, ends_after, errors)| Fate {
            well_after,
            ends_after,
            errors,
        })
}

proptest! {
    /// Whatever happens, the service ends with a healthy revision behind all its traffic, and
    /// nothing else of the rollout is left.
    #[test]
    fn a_service_never_ends_without_a_healthy_revision(
        fate in fate(),
        steps in prop_oneof![Just(vec![]), Just(vec![1_000]), Just(vec![100, 5_000, 9_000])],
        faults in prop::collection::vec(fault(), 0..60),
    ) {
        let mut world = World::new(fate, 2);
        let mut rollout = rollout(spec(&steps, 2));
        let mut is_paused = false;
        for fault in faults {
            let mut rounds = 1;
            let mut order = None;
            let mut most = usize::MAX;
            let mut stores = true;
            world.has_gateway = true;
            match fault {
                Fault::None => {}
                Fault::Dies(after) => most = after,
                Fault::Forgets => stores = false,
                Fault::NoGateway => world.has_gateway = false,
                Fault::OldEnds => { world.containers.remove(&(Role::Stable, 0)); }
                Fault::Order(given) => order = Some(given),
                Fault::Away(away) => { rounds = away; most = 0; stores = false; }
            }
            if rollout.phase.is_final() { break; }
            let step = step(&rollout, &world.observe(order));
            if stores {
                rollout = step.next;
                is_paused = rollout.is_paused;
                for action in step.actions.iter().take(most) {
                    if !world.act(action) { break; }
                }
            }
            for _ in 0..rounds { world.pass(); }
            // Traffic is never on a revision that has no container at all.
            if let Some(role) = world.stable {
                prop_assert!(world.containers.keys().any(|(r, _)| *r == role), "{:?}", rollout);
            }
        }
        world.has_gateway = true;
        if is_paused && !rollout.phase.is_final() {
            rollout = step(&rollout, &world.observe(Some(Order::Resume))).next;
        }
        run(&mut world, &mut rollout);
        for _ in 0..3 { world.pass(); }
        let expected = match rollout.phase {
            Phase::Promoted => Role::Target,
            _ => Role::Stable,
        };
        prop_assert_eq!(world.stable, Some(expected));
        prop_assert_eq!(world.weights, (0, 0));
        prop_assert!(world.healthy(Role::Baseline).is_empty());
        if expected == Role::Stable {
            prop_assert!(!world.healthy(Role::Stable).is_empty());
            prop_assert!(world.containers.keys().all(|(role, _)| *role == Role::Stable));
        }
    }
}
