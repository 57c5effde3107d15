//! Other limits and another restart policy for a container that there is.

use super::EmbeddedEngine;
use super::cgroup::Group;
use crate::config::Resources;
use crate::container::{ContainerId, State};
use crate::engine::Update;
use crate::error::Result;

/// Changes what is asked for, and the limits of what runs. When the kernel refuses a limit,
/// nothing changes.
pub(super) fn update(engine: &EmbeddedEngine, id: &ContainerId, update: &Update) -> Result<()> {
    let entry = engine.registry.get(id)?;
    let state = engine.observe(&entry)?.state;
    let old = entry.config.resources.clone();
    let new = Resources {
        memory: update.memory.unwrap_or(old.memory),
        nano_cpus: update.nano_cpus.unwrap_or(old.nano_cpus),
        pids: update.pids.unwrap_or(old.pids),
    };
    let is_up = matches!(state, State::Running | State::Paused);
    if is_up && let Err(error) = Group::of(id).limit(&old, &new) {
        // Those that were changed before it go back; the error matters more.
        Group::of(id).limit(&new, &old).ok();
        return Err(error);
    }
    let mut config = entry.config.clone();
    config.resources = new;
    config.restart = update.restart.unwrap_or(config.restart);
    engine.registry.set_config(id, &config)?;
    engine.tell(&entry, "update", &[]);
    Ok(())
}
