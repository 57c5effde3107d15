//! From "make it so" to "it is so", round by round.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use fs_err as fs;
use invar_engine::Engine;
use rustix::fs::{FlockOperation, flock};

use super::failpoint::failpoint;
use super::gateway::{Front, Names};
use super::live::{self, Alarm, Live, REVISION_LABEL};
use super::store::{Result, RolloutError, Store, StoredService};
use crate::definition::Definition;
use crate::machine::{Decision, Order, Phase, ReplicaState, Role, Rollout, Spec, millis, step};
use crate::plan::{Plan, plan};

/// Between two rounds.
const ROUND: Duration = Duration::from_millis(200);

/// Hears of every decision when it is stored, and of what stands in the way.
pub type Report<'a> = &'a mut dyn FnMut(&str, &Decision);

/// How a deploy ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// This revision ran already.
    Unchanged,
    /// Another driver has the service; what it does is told by `status`.
    Busy,
    /// The rollout ended.
    Ended(Box<Rollout>),
}

/// Carries rollouts out on one engine and one gateway.
pub struct Driver {
    store: Store,
    engine: Arc<dyn Engine>,
    socket: PathBuf,
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

    fn running(&self, service: &str) -> Result<Option<Definition>> {
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
        let Some(_lock) = self.lock(service)? else {
            return Ok(Outcome::Busy);
        };
        if let Some(left) = self.unfinished(service)? {
            let is_same = left.target == wanted.revision();
            let ended = self.drive(left, report)?;
            if is_same && ended.phase != Phase::Promoted {
                return Ok(Outcome::Ended(Box::new(ended)));
            }
        }
        let stored = self.store.service(service)?;
        let running = self.running(service)?;
        match plan(running.as_ref(), wanted) {
            Plan::Keep if self.is_whole(service, wanted)? => {
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

    fn begin(&self, rollout: Rollout, wanted: &Definition, report: Report<'_>) -> Result<Outcome> {
        if rollout.spec.has_traffic {
            let names = Names::new();
            Front::new(self.socket.clone(), rollout.service.clone(), names).require()?;
        }
        self.store.begin(&rollout, wanted)?;
        let ended = self.drive(rollout, report)?;
        Ok(Outcome::Ended(Box::new(ended)))
    }

    fn new_rollout(
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
        let mut spec = Spec {
            replicas: wanted.replicas,
            stable_replicas: running.map_or(0, |running| running.replicas),
            policy: wanted.policy.clone(),
            has_traffic: !wanted.ports.is_empty(),
            failure_action: wanted.failure_action,
            stop_first: wanted.stop_first,
        };
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

    /// Whether as many containers of the revision run as there should.
    fn is_whole(&self, service: &str, wanted: &Definition) -> Result<bool> {
        let revision = wanted.revision();
        let all = live::of_service(&*self.engine, service)?;
        let running = all.iter().filter(|container| {
            container.config.labels.get(REVISION_LABEL) == Some(&revision)
                && container.state == invar_engine::State::Running
        });
        Ok(running.count() >= wanted.replicas as usize)
    }

    /// The same revision with other counts or ports, or with containers that ended.
    fn adjust(&self, service: &str, wanted: &Definition, report: Report<'_>) -> Result<Outcome> {
        self.store.adjust(service, wanted)?;
        let mut rollout = self.new_rollout(service, wanted, None, None)?;
        rollout.phase = Phase::Promoted;
        let mut live = self.live(&rollout)?;
        let limit = Instant::now() + wanted.policy.healthy_within;
        loop {
            let seen = live.observe(&rollout, now_ms(), None)?;
            for action in step(&rollout, &seen).actions {
                live.act(&rollout, &action)?;
            }
            let healthy = seen
                .replicas
                .iter()
                .filter(|r| r.role == Role::Target && r.state == ReplicaState::Healthy)
                .count();
            let is_registered = |traffic: &crate::machine::Traffic| {
                traffic.stable == Some(Role::Target) && traffic.current.contains(&Role::Target)
            };
            let is_served =
                !rollout.spec.has_traffic || seen.traffic.as_ref().is_some_and(is_registered);
            if healthy >= wanted.replicas as usize && is_served {
                break;
            }
            if healthy > 0 && rollout.spec.has_traffic {
                live.act(&rollout, &crate::machine::Action::Register(Role::Target))?;
                live.act(&rollout, &crate::machine::Action::Switch(Role::Target))?;
            }
            if Instant::now() > limit {
                report(
                    service,
                    &note("waiting", "its containers did not become well"),
                );
                break;
            }
            std::thread::sleep(ROUND);
        }
        if rollout.spec.has_traffic {
            live.front.publish(wanted)?;
        }
        self.surplus(service, wanted)?;
        report(
            service,
            &note("adjusted", "the same revision runs as the file says"),
        );
        Ok(Outcome::Unchanged)
    }

    /// Removes containers of the current revision beyond its count.
    fn surplus(&self, service: &str, wanted: &Definition) -> Result<()> {
        let revision = wanted.revision();
        for container in live::of_service(&*self.engine, service)? {
            let number = container.name.as_str().rsplit_once('-');
            let number = number.and_then(|(_, number)| number.parse::<u32>().ok());
            let is_of_it = container.config.labels.get(REVISION_LABEL) == Some(&revision);
            if is_of_it && number.is_some_and(|number| number > wanted.replicas) {
                live::remove(&*self.engine, container.id.as_str(), wanted.stop_grace)?;
            }
        }
        Ok(())
    }

    /// Goes on with what an earlier driver left; `None` when there is nothing.
    pub fn resume(&self, service: &str, report: Report<'_>) -> Result<Option<Outcome>> {
        let Some(_lock) = self.lock(service)? else {
            return Ok(Some(Outcome::Busy));
        };
        let Some(left) = self.unfinished(service)? else {
            return Ok(None);
        };
        let ended = self.drive(left, report)?;
        Ok(Some(Outcome::Ended(Box::new(ended))))
    }

    /// Tells whoever drives the rollout under way, or drives it.
    pub fn order(&self, service: &str, order: Order, report: Report<'_>) -> Result<Outcome> {
        if self.unfinished(service)?.is_none() {
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

    /// Back to the revision before: at once when it is warm, else as soon as its containers are
    /// well. A rollout under way is aborted.
    pub fn rollback(&self, service: &str, report: Report<'_>) -> Result<Outcome> {
        if self.unfinished(service)?.is_some() {
            return self.order(service, Order::Abort, report);
        }
        let Some(_lock) = self.lock(service)? else {
            return Ok(Outcome::Busy);
        };
        let stored = self.store.service(service)?;
        let stored = stored.ok_or_else(|| RolloutError::UnknownService {
            service: service.to_owned(),
        })?;
        let missing = || RolloutError::NothingBefore {
            service: service.to_owned(),
        };
        let previous = stored.previous.as_deref().ok_or_else(missing)?;
        let definition = self
            .store
            .definition(service, previous)?
            .ok_or_else(missing)?;
        let running = self.running(service)?;
        let mut rollout =
            self.new_rollout(service, &definition, Some(&stored), running.as_ref())?;
        // Nothing is tried: it was the stable one before.
        rollout.spec.policy.steps.clear();
        rollout.spec.policy.manual = false;
        rollout.spec.policy.hold = Duration::ZERO;
        if rollout.spec.has_traffic {
            let names = names(&rollout);
            let mut front = Front::new(self.socket.clone(), service.to_owned(), names);
            front.require()?;
            let traffic = front.traffic(definition.ports.len(), &BTreeMap::new());
            // The gateway checks it all along: one pointer, then everything else.
            if traffic.is_some_and(|traffic| traffic.known.contains(&Role::Target)) {
                rollout.phase = Phase::Switching;
                self.store.begin(&rollout, &definition)?;
                let drain = rollout.spec.policy.drain;
                // Without a usable container it is refused, and the rounds below see to it.
                if let Ok(Some(told)) = front.switch(Role::Target, &definition, drain) {
                    let mut switched = note("switched", &told);
                    switched.weight = crate::machine::WHOLE;
                    self.store
                        .save(&rollout, std::slice::from_ref(&switched), None)?;
                    report(service, &switched);
                }
                let ended = self.drive(rollout, report)?;
                return Ok(Outcome::Ended(Box::new(ended)));
            }
        }
        self.begin(rollout, &definition, report)
    }

    /// The rollout that has not ended.
    pub fn unfinished(&self, service: &str) -> Result<Option<Rollout>> {
        let last = self.store.last_rollout(service)?;
        Ok(last.filter(|rollout| !rollout.phase.is_final()))
    }

    fn live(&self, rollout: &Rollout) -> Result<Live> {
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
    fn drive(&self, mut rollout: Rollout, report: Report<'_>) -> Result<Rollout> {
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

    /// Removes what no longer has a part: revisions before the one before, and that one once its
    /// time is over. `wanted` stays.
    pub fn tidy(&self, service: &str, wanted: Option<&str>) -> Result<()> {
        let Some(stored) = self.store.service(service)? else {
            return Ok(());
        };
        let warm = stored.previous.as_deref().filter(|_| {
            wanted.is_none() && stored.keep_until_ms.is_some_and(|until| until > now_ms())
        });
        let keeps = [Some(stored.current.as_str()), warm, wanted];
        for container in live::of_service(&*self.engine, service)? {
            let labels = &container.config.labels;
            let Some(revision) = labels.get(REVISION_LABEL) else {
                continue;
            };
            if keeps.contains(&Some(revision.as_str())) {
                continue;
            }
            let definition = self.store.definition(service, revision)?;
            let ports = definition.as_ref().map_or(0, |found| found.ports.len());
            if ports > 0 {
                let names = Names::new();
                let mut front = Front::new(self.socket.clone(), service.to_owned(), names);
                front.forget_revision(revision, ports)?;
            }
            let grace = definition.map_or(Duration::from_secs(10), |found| found.stop_grace);
            live::remove(&*self.engine, container.id.as_str(), grace)?;
        }
        if warm.is_none() {
            self.store.cooled(service)?;
        }
        Ok(())
    }

    /// The lock of a service; `None` when another driver has it.
    fn lock(&self, service: &str) -> Result<Option<fs::File>> {
        let directory = self.store.root().join("rollouts");
        let path = directory.join(format!("{service}.lock"));
        let io = |action, path: &Path| {
            let path = path.to_owned();
            move |source| RolloutError::Io {
                action,
                path,
                source,
            }
        };
        fs::create_dir_all(&directory).map_err(io("create", &directory))?;
        let file = fs::File::create(&path).map_err(io("open", &path))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(file)),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(errno) => Err(io("lock", &path)(errno.into())),
        }
    }
}

fn names(rollout: &Rollout) -> Names {
    let mut names = Names::from([(Role::Target, rollout.target.clone())]);
    if let Some(stable) = &rollout.stable {
        names.insert(Role::Stable, stable.clone());
        names.insert(Role::Baseline, format!("{stable}-base"));
    }
    names
}

fn note(kind: &str, text: &str) -> Decision {
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

fn now_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    millis(now.unwrap_or_default())
}
