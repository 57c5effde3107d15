//! From "make it so" to "it is so", round by round.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use invar_engine::Engine;

use super::failpoint::failpoint;
use super::gateway::{Front, Names};
use super::live::{self, Alarm, Live, REVISION_LABEL};
use super::store::{Result, RolloutError, Store, StoredService};
use crate::definition::Definition;
use crate::machine::{Decision, Order, Phase, Role, Rollout, Spec, millis, step};
use crate::plan::{Plan, plan};

/// Between two rounds.
pub(super) const ROUND: Duration = Duration::from_millis(200);

/// Hears of every decision when it is stored, and of what stands in the way.
pub type Report<'a> = &'a mut dyn FnMut(&str, &Decision);

/// How a deploy ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// This revision ran already.
    Unchanged,
    /// Another driver has the service; what it does is told by `status`.
    Busy,
    /// The service is not there any more.
    Removed,
    /// The rollout ended.
    Ended(Box<Rollout>),
}

/// Carries rollouts out on one engine and one gateway.
pub struct Driver {
    pub(super) store: Store,
    pub(super) engine: Arc<dyn Engine>,
    pub(super) socket: PathBuf,
    alarm: Box<dyn Fn() -> Option<Alarm> + Send>,
}

impl std::fmt::Debug for Driver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Driver")
            .field("socket", &self.socket)
            .finish_non_exhaustive()
    }
}

impl Driver {
    /// A driver over a store, an engine and the gateway at `socket`.
    pub fn new(store: Store, engine: Arc<dyn Engine>, socket: &Path) -> Self {
        Self {
            store,
            engine,
            socket: socket.to_owned(),
            alarm: Box::new(|| None),
        }
    }

    /// The same with an alarm for each rollout.
    #[must_use]
    pub fn with_alarm(mut self, alarm: impl Fn() -> Option<Alarm> + Send + 'static) -> Self {
        self.alarm = Box::new(alarm);
        self
    }

    /// What is stored.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// What a deploy of this definition would do.
    pub fn plan(&self, service: &str, wanted: &Definition) -> Result<Plan> {
        Ok(plan(self.running(service)?.as_ref(), wanted))
    }

    pub(super) fn running(&self, service: &str) -> Result<Option<Definition>> {
        match self.store.service(service)? {
            None => Ok(None),
            Some(stored) => self.store.definition(service, &stored.current),
        }
    }

    /// Makes a service this revision. What an earlier driver left unfinished is finished first.
    pub fn deploy(
        &self,
        service: &str,
        wanted: &Definition,
        report: Report<'_>,
    ) -> Result<Outcome> {
        let Some(_lock) = self.store.lock(service)? else {
            return Ok(Outcome::Busy);
        };
        if let Some(left) = self.store.unfinished(service)? {
            let is_same = left.target == wanted.revision();
            let ended = self.drive(left, report)?;
            if is_same && ended.phase != Phase::Promoted {
                return Ok(Outcome::Ended(Box::new(ended)));
            }
        }
        let stored = self.store.service(service)?;
        let running = self.running(service)?;
        match plan(running.as_ref(), wanted) {
            Plan::Keep
                if self.is_whole(service, wanted)? && self.is_reached(service, wanted)? =>
            {
                self.store.adjust(service, wanted)?;
                return Ok(Outcome::Unchanged);
            }
            Plan::Keep | Plan::Adjust { .. } => return self.adjust(service, wanted, report),
            Plan::Create | Plan::Replace { .. } => {}
        }
        self.tidy(service, Some(&wanted.revision()))?;
        let rollout = self.new_rollout(service, wanted, stored.as_ref(), running.as_ref())?;
        self.begin(rollout, wanted, report)
    }

    pub(super) fn begin(
        &self,
        rollout: Rollout,
        wanted: &Definition,
        report: Report<'_>,
    ) -> Result<Outcome> {
        if rollout.spec.has_traffic {
            let names = Names::new();
            Front::new(self.socket.clone(), rollout.service.clone(), names).require()?;
        }
        self.store.begin(&rollout, wanted)?;
        let ended = self.drive(rollout, report)?;
        Ok(Outcome::Ended(Box::new(ended)))
    }

    pub(super) fn new_rollout(
        &self,
        service: &str,
        wanted: &Definition,
        stored: Option<&StoredService>,
        running: Option<&Definition>,
    ) -> Result<Rollout> {
        let number = self
            .store
            .last_rollout(service)?
            .map_or(0, |last| last.number)
            + 1;
        let mut spec = spec(wanted, running);
        if let Some(stored) = stored
            && !self.runs(service, &stored.current)?
        {
            // What does not run cannot be compared with.
            spec.policy.steps.clear();
        }
        Ok(Rollout::new(
            number,
            service,
            &wanted.revision(),
            stored.map(|stored| stored.current.as_str()),
            spec,
            now_ms(),
        ))
    }

    fn runs(&self, service: &str, revision: &str) -> Result<bool> {
        let all = live::of_service(&*self.engine, service)?;
        Ok(all.iter().any(|container| {
            container
                .config
                .labels
                .get(REVISION_LABEL)
                .map(String::as_str)
                == Some(revision)
                && container.state == invar_engine::State::Running
        }))
    }

    /// Goes on with what an earlier driver left; `None` when there is nothing.
    pub fn resume(&self, service: &str, report: Report<'_>) -> Result<Option<Outcome>> {
        let Some(_lock) = self.store.lock(service)? else {
            return Ok(Some(Outcome::Busy));
        };
        let Some(left) = self.store.unfinished(service)? else {
            return Ok(None);
        };
        let ended = self.drive(left, report)?;
        Ok(Some(Outcome::Ended(Box::new(ended))))
    }

    /// Tells whoever drives the rollout under way, or drives it.
    pub fn order(&self, service: &str, order: Order, report: Report<'_>) -> Result<Outcome> {
        if self.store.unfinished(service)?.is_none() {
            return Err(RolloutError::NotUnderWay {
                service: service.to_owned(),
            });
        }
        self.store.give_order(service, order)?;
        match self.resume(service, report)? {
            Some(outcome) => Ok(outcome),
            None => Ok(Outcome::Unchanged),
        }
    }

    pub(super) fn live(&self, rollout: &Rollout) -> Result<Live> {
        let mut definitions = BTreeMap::new();
        for role in [Role::Target, Role::Stable, Role::Baseline] {
            if let Some(revision) = rollout.revision(role)
                && let Some(definition) = self.store.definition(&rollout.service, revision)?
            {
                definitions.insert(role, definition);
            }
        }
        let front = Front::new(self.socket.clone(), rollout.service.clone(), names(rollout));
        let engine = Arc::clone(&self.engine);
        Ok(Live::new(engine, front, definitions, (self.alarm)()))
    }

    /// Rounds until the rollout ends.
    pub(super) fn drive(&self, mut rollout: Rollout, report: Report<'_>) -> Result<Rollout> {
        let service = rollout.service.clone();
        let mut live = self.live(&rollout)?;
        let mut trouble = String::new();
        loop {
            let order = self.store.order(&service)?;
            let seen = live.observe(&rollout, now_ms(), order)?;
            let step = step(&rollout, &seen);
            if step.next != rollout || !step.decisions.is_empty() || order.is_some() {
                self.store.save(&step.next, &step.decisions, order)?;
            }
            rollout = step.next;
            for decision in &step.decisions {
                report(&service, decision);
            }
            let mut stopped = None;
            for action in &step.actions {
                failpoint();
                match live.act(&rollout, action) {
                    Ok(None) => {}
                    Ok(Some(told)) => {
                        let mut decision = note("switched", &told);
                        decision.weight = step.decisions.last().map_or(0, |last| last.weight);
                        self.store
                            .save(&rollout, std::slice::from_ref(&decision), None)?;
                        report(&service, &decision);
                    }
                    Err(error) => {
                        stopped = Some(explain(&error));
                        break;
                    }
                }
                failpoint();
            }
            // The same trouble is told once.
            if let Some(reason) = stopped
                && reason != trouble
            {
                let decision = note("trouble", &reason);
                self.store
                    .save(&rollout, std::slice::from_ref(&decision), None)?;
                report(&service, &decision);
                trouble = reason;
            }
            if rollout.phase.is_final() {
                return Ok(rollout);
            }
            std::thread::sleep(ROUND);
        }
    }
}

/// What a rollout from one revision to another is to do.
pub(super) fn spec(wanted: &Definition, running: Option<&Definition>) -> Spec {
    Spec {
        replicas: wanted.replicas,
        stable_replicas: running.map_or(0, |running| running.replicas),
        policy: wanted.policy.clone(),
        has_traffic: !wanted.ports.is_empty(),
        failure_action: wanted.failure_action,
        stop_first: wanted.stop_first,
    }
}

pub(super) fn names(rollout: &Rollout) -> Names {
    let mut names = Names::from([(Role::Target, rollout.target.clone())]);
    if let Some(stable) = &rollout.stable {
        names.insert(Role::Stable, stable.clone());
        names.insert(Role::Baseline, format!("{stable}-base"));
    }
    names
}

pub(super) fn note(kind: &str, text: &str) -> Decision {
    Decision {
        at_ms: now_ms(),
        kind: kind.to_owned(),
        text: text.to_owned(),
        weight: 0,
        numbers: None,
    }
}

fn explain(error: &RolloutError) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(next) = cause {
        let next_text = next.to_string();
        if !text.ends_with(&next_text) {
            text = format!("{text}: {next_text}");
        }
        cause = next.source();
    }
    text
}

pub(super) fn now_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    millis(now.unwrap_or_default())
}
