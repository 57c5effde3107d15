//! Finishing or undoing a replacement whose process was killed.

use invar_engine::{Container, ContainerName, Engine, EngineError, State};

use super::journal::{Journal, Plan};
use super::{Order, Replacement, remove_old, swap_names};
use crate::capture;
use crate::error::{EvidenceError, Result};
use crate::id::EvidenceId;
use crate::limits::Limits;
use crate::seal;
use crate::store::{self, Evidence, EvidenceStore};

/// What a killed replacement left.
pub(super) enum Recovered {
    /// Nothing that matters any more; what it left was removed.
    Nothing,
    /// The old container is sealed as evidence, and nothing else was done.
    Evidence(EvidenceId),
    /// The fresh container had the name; the rest was done.
    Finished(Box<Replacement>),
}

/// Looks for what a killed replacement of this name left, and finishes or undoes it.
pub(super) fn recover(
    store: &EvidenceStore,
    engine: &dyn Engine,
    name: &ContainerName,
    limits: Limits,
) -> Result<Recovered> {
    let mut recovered = Recovered::Nothing;
    for journal in Journal::left(store)? {
        let plan = &journal.plan;
        if plan.engine != engine.kind() || plan.name != *name {
            continue;
        }
        let evidence = finish_evidence(store, engine, plan, limits)?;
        let fresh = find(engine, plan.fresh_name.as_str())?;
        let old = find(engine, plan.old.as_str())?;
        recovered = match (fresh, old, evidence) {
            // Names were half-way, or the old container removed itself.
            (Some(fresh), old, evidence)
                if old.as_ref().is_none_or(|old| old.name == plan.old_name) =>
            {
                swap_names(engine, plan, &fresh.id)?;
                finish(engine, plan, &fresh, evidence)?
            }
            (Some(fresh), _, evidence) => {
                engine
                    .remove(&fresh.id, true)
                    .map_err(EvidenceError::engine("remove a fresh container left over"))?;
                evidence.map_or(Recovered::Nothing, Recovered::Evidence)
            }
            (None, old, evidence) => match find(engine, plan.name.as_str())? {
                Some(current) if current.id != plan.old => {
                    finish(engine, plan, &current, evidence)?
                }
                _ if old.is_some() => evidence.map_or(Recovered::Nothing, Recovered::Evidence),
                _ => Recovered::Nothing,
            },
        };
        journal.close()?;
    }
    Ok(recovered)
}

/// Removes the old container when its evidence is safe, and says what was done.
fn finish(
    engine: &dyn Engine,
    plan: &Plan,
    fresh: &Container,
    evidence: Option<EvidenceId>,
) -> Result<Recovered> {
    if evidence.is_some() || !plan.captures {
        remove_old(engine, &plan.old)?;
    }
    Ok(Recovered::Finished(Box::new(Replacement {
        name: plan.name.as_str().to_owned(),
        old: plan.old.clone(),
        new: fresh.id.clone(),
        evidence,
        order: Order::FreshFirst,
        fresh_ms: 0,
        frozen_ms: None,
        gap_ms: 0,
        total_ms: 0,
        recovered: true,
    })))
}

/// Seals what the killed replacement had taken. Evidence of a container that went on meanwhile is
/// kept, but does not count: it has to be captured again.
fn finish_evidence(
    store: &EvidenceStore,
    engine: &dyn Engine,
    plan: &Plan,
    limits: Limits,
) -> Result<Option<EvidenceId>> {
    let mut sealed = None;
    for evidence in store.list()? {
        let Some(header) = &evidence.header else {
            continue;
        };
        if header.container.id != plan.old || !header.plan.remove {
            continue;
        }
        sealed = match evidence.state {
            store::State::Capturing | store::State::Sealing => None,
            store::State::Sealed => Some(evidence.id),
            store::State::Incomplete => Some(take_up(store, engine, &evidence, limits)?.id),
        };
    }
    let goes_on = find(engine, plan.old.as_str())?
        .is_some_and(|old| matches!(old.state, State::Running | State::Paused));
    Ok(sealed.filter(|_| !goes_on))
}

fn take_up(
    store: &EvidenceStore,
    engine: &dyn Engine,
    evidence: &Evidence,
    limits: Limits,
) -> Result<Evidence> {
    let draft = capture::take_up(store, evidence, engine, limits)?;
    seal::seal(store, draft)
}

fn find(engine: &dyn Engine, name: &str) -> Result<Option<Container>> {
    match engine.inspect(name) {
        Ok(container) => Ok(Some(container)),
        Err(EngineError::NotFound { .. }) => Ok(None),
        Err(error) => Err(EvidenceError::engine("look at a container")(error)),
    }
}
