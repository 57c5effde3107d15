//! A fresh container of the same revision in the place of one that was touched.
//!
//! ```text
//!  recreate ─▶ start fresh ─▶ ready ─▶ freeze, take, kill the old ─▶ swap names ─▶ seal ─▶ remove old
//!                                                                              └ told here
//! ```
//!
//! When both need the same port or volume, the old one ends first, and the gap is measured. A
//! failure before the old one ended leaves it as it was; a fresh container that does not come up
//! afterwards puts the old one back, or the error says why not. The old container is removed only
//! once its evidence is sealed.

mod journal;
mod order;
mod ready;
mod recover;

use std::time::{Duration, Instant};

use invar_engine::{Container, ContainerId, ContainerName, Engine, EngineError, State, Stdio};
use serde::Serialize;

pub use self::order::Order;

use self::journal::Journal;
use self::recover::Recovered;
use crate::capture::Capture;
use crate::digest;
use crate::error::{EvidenceError, Result};
use crate::failpoint;
use crate::header::{Plan, Wanted};
use crate::id::EvidenceId;
use crate::limits::Limits;
use crate::seal;
use crate::store::EvidenceStore;

/// How long the engine may take to give a name free.
const NAME_FREE: Duration = Duration::from_secs(10);

/// How to replace.
#[derive(Debug, Clone)]
pub struct ReplaceOptions {
    /// Keep the old container as evidence.
    pub capture: bool,
    /// What is taken of it.
    pub wanted: Wanted,
    /// How long a container without a health check must run to count as up.
    pub settle: Duration,
    /// How long the fresh container may take to be ready.
    pub ready: Duration,
    /// How long an old container that is not captured may take to end by itself.
    pub stop: Duration,
    /// Bounds of the capture.
    pub limits: Limits,
}

impl Default for ReplaceOptions {
    fn default() -> Self {
        Self {
            capture: true,
            wanted: Wanted::default(),
            settle: Duration::from_millis(100),
            ready: Duration::from_mins(1),
            stop: Duration::from_secs(10),
            limits: Limits::default(),
        }
    }
}

/// Who sends requests to the container, and must know when another one answers them.
pub trait Traffic {
    /// Both run: requests go to the fresh one from now on. Returns once the old one has none, or
    /// has had time enough.
    fn shift(&mut self, fresh: &Container) -> std::result::Result<(), String>;

    /// The old one is about to end, and no fresh one runs yet: requests wait from now on.
    fn hold(&mut self) -> std::result::Result<(), String>;

    /// This one runs: requests that wait go on to it. Called after every `hold`, whatever happened.
    fn release(&mut self, container: &Container) -> std::result::Result<(), String>;
}

/// What was done.
#[derive(Debug, Clone, Serialize)]
pub struct Replacement {
    /// The name, which the fresh container has now.
    pub name: String,
    /// The container that was replaced.
    pub old: ContainerId,
    /// The fresh one.
    pub new: ContainerId,
    /// What was kept of the old one.
    pub evidence: Option<EvidenceId>,
    /// Who was there first.
    #[serde(flatten)]
    pub order: Order,
    /// From the beginning until the fresh container was ready, in milliseconds.
    pub fresh_ms: u64,
    /// How long the old container was frozen before it was killed, in milliseconds.
    pub frozen_ms: Option<u64>,
    /// How long neither container did its work.
    pub gap_ms: u64,
    /// From the beginning until nothing of the old one could be lost any more.
    pub total_ms: u64,
    /// Whether a replacement that had been killed was finished.
    pub recovered: bool,
}

/// Finishes or undoes a replacement of this name whose process was killed; `None` when there was
/// nothing to finish.
pub fn recover(
    store: &EvidenceStore,
    engine: &dyn Engine,
    name: &ContainerName,
    limits: Limits,
) -> Result<Option<Replacement>> {
    Ok(match recover::recover(store, engine, name, limits)? {
        Recovered::Finished(replacement) => Some(*replacement),
        Recovered::Nothing | Recovered::Evidence(_) => None,
    })
}

/// Names of engines and containers whose replacement was killed.
pub fn unfinished(store: &EvidenceStore) -> Result<Vec<(String, ContainerName)>> {
    let left = Journal::left(store)?.into_iter();
    Ok(left
        .map(|journal| (journal.plan.engine.clone(), journal.plan.name.clone()))
        .collect())
}

/// Replaces a container. `replaced` hears when the fresh one has taken over and nothing of the old
/// one can be lost any more: only its evidence is to be sealed, and what is left of it removed.
pub fn replace(
    store: &EvidenceStore,
    engine: &dyn Engine,
    old: &Container,
    options: &ReplaceOptions,
    traffic: Option<&mut dyn Traffic>,
    replaced: &mut dyn FnMut(&Replacement),
) -> Result<Replacement> {
    let recovered = recover::recover(store, engine, &old.name, options.limits)?;
    if let Recovered::Finished(replacement) = recovered {
        return Ok(*replacement);
    }
    // What a killed replacement changed (it may have ended the old container) is looked at anew.
    let old = &engine
        .inspect(old.id.as_str())
        .map_err(EvidenceError::engine("look at the container"))?;
    let settings = engine
        .settings(&old.id)
        .map_err(EvidenceError::engine("read the settings"))?;
    let suffix = digest::hex(&rand::random::<[u8; 3]>());
    let journal = Journal::write(
        store,
        journal::Plan {
            engine: engine.kind().to_owned(),
            old: old.id.clone(),
            name: old.name.clone(),
            fresh_name: name_with(&old.name, "fresh", &suffix)?,
            old_name: name_with(&old.name, "replaced", &suffix)?,
            captures: options.capture,
        },
    )?;
    let evidence = match recovered {
        Recovered::Evidence(id) => Some(id),
        _ => None,
    };
    let replacing = Replacing {
        store,
        engine,
        old,
        options,
        traffic: traffic.map(|traffic| traffic as &mut dyn Traffic),
        order: Order::of(old, &settings),
        began: Instant::now(),
        gap_began: None,
        evidence,
        journal,
    };
    replacing.run(replaced)
}

struct Replacing<'a> {
    store: &'a EvidenceStore,
    engine: &'a dyn Engine,
    old: &'a Container,
    options: &'a ReplaceOptions,
    traffic: Option<&'a mut dyn Traffic>,
    order: Order,
    began: Instant,
    gap_began: Option<Instant>,
    /// Evidence that a killed replacement has taken already.
    evidence: Option<EvidenceId>,
    journal: Journal,
}

impl<'a> Replacing<'a> {
    fn run(mut self, replaced: &mut dyn FnMut(&Replacement)) -> Result<Replacement> {
        let created = self
            .engine
            .recreate(&self.old.id, &self.journal.plan.fresh_name);
        let fresh = match created {
            Ok(fresh) => fresh,
            Err(error) => {
                self.journal.close()?;
                return Err(EvidenceError::engine("make a fresh container")(error));
            }
        };
        failpoint::hit("recreated");
        let is_fresh_first = self.order == Order::FreshFirst;
        let prepared = if is_fresh_first {
            self.start(&fresh).and_then(|()| self.shift(&fresh))
        } else {
            self.hold()
        };
        if let Err(error) = prepared {
            self.release();
            return Err(self.give_up(&fresh, error));
        }
        failpoint::hit("started");
        let mut fresh_ms = self.elapsed_ms();
        let mut capture = match self.retire() {
            Ok(capture) => capture,
            Err(error) if self.old_has_ended() => return self.only_fresh_is_left(&fresh, error),
            Err(error) => {
                self.release();
                return Err(self.give_up(&fresh, error));
            }
        };
        let frozen_ms = capture.as_ref().and_then(Capture::frozen_ms);
        if !is_fresh_first {
            if let Err(error) = self.start(&fresh) {
                return Err(self.put_back(capture, &fresh, error));
            }
            fresh_ms = self.elapsed_ms();
            self.release_to(&fresh);
        }
        let gap_ms = self.gap_ms(is_fresh_first);
        failpoint::hit("retired");
        self.swap_names(&fresh)?;
        failpoint::hit("swapped");
        if let Some(capture) = &mut capture {
            self.evidence = Some(capture.keep()?.id.clone());
        }
        let replacement = Replacement {
            name: self.old.name.as_str().to_owned(),
            old: self.old.id.clone(),
            new: fresh,
            evidence: self.evidence.take(),
            order: self.order.clone(),
            fresh_ms,
            frozen_ms,
            gap_ms,
            total_ms: self.elapsed_ms(),
            recovered: false,
        };
        replaced(&replacement);
        if let Some(capture) = capture {
            seal::seal(self.store, capture.complete()?)?;
        }
        failpoint::hit("sealed");
        self.remove_old()?;
        failpoint::hit("removed");
        self.journal.close()?;
        Ok(replacement)
    }

    fn start(&self, fresh: &ContainerId) -> Result<()> {
        self.engine
            .start(fresh, Stdio::Detached)
            .map_err(EvidenceError::engine("start the fresh container"))?;
        let name = self.old.name.as_str();
        let (settle, limit) = (self.options.settle, self.options.ready);
        ready::wait(self.engine, fresh, name, settle, limit)
    }

    fn shift(&mut self, fresh: &ContainerId) -> Result<()> {
        let Some(traffic) = &mut self.traffic else {
            return Ok(());
        };
        let fresh = self
            .engine
            .inspect(fresh.as_str())
            .map_err(EvidenceError::engine("look at the fresh container"))?;
        let name = self.old.name.as_str();
        traffic
            .shift(&fresh)
            .map_err(|reason| EvidenceError::traffic(name, reason))
    }

    fn hold(&mut self) -> Result<()> {
        let name = self.old.name.as_str();
        match &mut self.traffic {
            Some(traffic) => traffic
                .hold()
                .map_err(|reason| EvidenceError::traffic(name, reason)),
            None => Ok(()),
        }
    }

    /// The old one serves on, or again.
    fn release(&mut self) {
        let old = self.old.id.clone();
        self.release_to(&old);
    }

    /// What waits goes on. Where that fails, the gateway lets it go on by itself after a while.
    fn release_to(&mut self, id: &ContainerId) {
        if let Some(traffic) = &mut self.traffic
            && let Ok(container) = self.engine.inspect(id.as_str())
        {
            traffic.release(&container).ok();
        }
    }

    /// Ends the old container, and takes what is in it when that was asked for.
    fn retire(&mut self) -> Result<Option<Capture<'a>>> {
        self.gap_began = Some(Instant::now());
        if self.evidence.is_some() {
            return Ok(None);
        }
        if !self.options.capture {
            if matches!(
                self.old.state,
                State::Running | State::Paused | State::Restarting(_)
            ) {
                self.engine
                    .stop(&self.old.id, self.options.stop)
                    .map_err(EvidenceError::engine("stop the old container"))?;
            }
            return Ok(None);
        }
        let plan = Plan {
            stop: true,
            remove: true,
            wanted: self.options.wanted.clone(),
        };
        let limits = self.options.limits;
        let mut capture = Capture::begin(self.store, self.engine, self.old, plan, limits)?;
        capture.take()?;
        Ok(Some(capture))
    }

    /// Nothing happened to the old container: the fresh one goes away again.
    fn give_up(self, fresh: &ContainerId, error: EvidenceError) -> EvidenceError {
        match self.engine.remove(fresh, true) {
            Ok(()) => {
                self.journal.close().ok();
                error
            }
            // The journal stays, so that the next replacement cleans up.
            Err(_) => error,
        }
    }

    /// The old container ended although taking it failed: the service must not end with it.
    fn only_fresh_is_left(
        mut self,
        fresh: &ContainerId,
        error: EvidenceError,
    ) -> Result<Replacement> {
        if self.order != Order::FreshFirst {
            self.start(fresh)?;
            self.release_to(fresh);
        }
        self.swap_names(fresh)?;
        self.evidence = None;
        Err(error)
    }

    /// The old container has ended and the fresh one does not come up: the old one is started
    /// again with what it had on disk, and what was taken of it is sealed.
    fn put_back(
        mut self,
        mut capture: Option<Capture<'a>>,
        fresh: &ContainerId,
        error: EvidenceError,
    ) -> EvidenceError {
        let mut said = Vec::new();
        if let Err(error) = self.engine.remove(fresh, true) {
            said.push(format!(
                "the fresh container {} is left over ({error})",
                self.journal.plan.fresh_name
            ));
        }
        let given_back = capture.as_mut().map_or(Ok(()), Capture::give_back);
        let started = given_back.and_then(|()| {
            self.engine
                .start(&self.old.id, Stdio::Detached)
                .map_err(EvidenceError::engine("start the old container again"))
        });
        if started.is_ok() {
            self.release();
        }
        said.push(match started {
            Ok(()) => "the old container was started again".to_owned(),
            Err(error) => format!("the old container cannot be put back: {}", error.chain()),
        });
        if let Some(capture) = capture {
            let sealed = capture
                .complete()
                .and_then(|draft| seal::seal(self.store, draft));
            said.push(match sealed {
                Ok(evidence) => format!("what it was is evidence {}", evidence.id),
                Err(error) => error.chain(),
            });
        }
        self.journal.close().ok();
        EvidenceError::NotReplaced {
            name: self.old.name.as_str().to_owned(),
            outcome: said.join("; "),
            source: Box::new(error),
        }
    }

    fn old_has_ended(&self) -> bool {
        match self.engine.inspect(self.old.id.as_str()) {
            Ok(container) => matches!(container.state, State::Exited(_)),
            Err(error) => matches!(error, EngineError::NotFound { .. }),
        }
    }

    /// The old container's name goes to the fresh one.
    fn swap_names(&self, fresh: &ContainerId) -> Result<()> {
        let plan = &self.journal.plan;
        swap_names(self.engine, plan, fresh)
    }

    fn remove_old(&self) -> Result<()> {
        remove_old(self.engine, &self.old.id)
    }

    fn gap_ms(&self, is_fresh_first: bool) -> u64 {
        match self.gap_began {
            Some(began) if !is_fresh_first => millis(began.elapsed()),
            _ => 0,
        }
    }

    fn elapsed_ms(&self) -> u64 {
        millis(self.began.elapsed())
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Gives the old container another name, unless it is gone, and its name to the fresh one.
fn swap_names(engine: &dyn Engine, plan: &journal::Plan, fresh: &ContainerId) -> Result<()> {
    let has_old_name = || {
        let old = engine.inspect(plan.old.as_str());
        old.is_ok_and(|old| old.name == plan.old_name)
    };
    match engine.rename(&plan.old, &plan.old_name) {
        Ok(()) | Err(EngineError::NotFound { .. }) => {}
        // A replacement that was killed had done that.
        Err(_) if has_old_name() => {}
        Err(error) => return Err(EvidenceError::engine("rename the old container")(error)),
    }
    failpoint::hit("half-swapped");
    let deadline = Instant::now() + NAME_FREE;
    loop {
        match engine.rename(fresh, &plan.name) {
            Ok(()) => return Ok(()),
            // A container that removes itself gives its name free a moment after it ended.
            Err(_) if Instant::now() < deadline && engine.inspect(plan.old.as_str()).is_err() => {
                std::thread::sleep(Duration::from_millis(20));
            }
            Err(error) => return Err(EvidenceError::engine("rename the fresh container")(error)),
        }
    }
}

fn remove_old(engine: &dyn Engine, old: &ContainerId) -> Result<()> {
    match engine.remove(old, false) {
        Ok(()) | Err(EngineError::NotFound { .. }) => Ok(()),
        // It removes itself at this moment.
        Err(_)
            if matches!(
                engine.inspect(old.as_str()),
                Err(EngineError::NotFound { .. })
            ) =>
        {
            Ok(())
        }
        Err(error) => Err(EvidenceError::engine("remove the old container")(error)),
    }
}

/// A name derived from another, within the length a name may have.
fn name_with(name: &ContainerName, what: &str, suffix: &str) -> Result<ContainerName> {
    let suffix = format!("-{what}-{suffix}");
    let kept = &name.as_str()[..name.as_str().len().min(128 - suffix.len())];
    ContainerName::parse(&format!("{kept}{suffix}"))
        .map_err(EvidenceError::engine("name the container"))
}
