//! A new container that changes its own files is rolled back: what a trial sees of drift.

use std::cell::RefCell;
use std::collections::HashMap;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::time::{Duration, Instant};

use invar_engine::{Container, ContainerId, Engine};
use invar_rollout::driver::Alarm;
use rustix::fs::{Mode, OFlags, openat};

use crate::commands::agent;

/// Between two looks.
const PAUSE: Duration = Duration::from_secs(2);

/// An alarm for one rollout. What the agent of this state root refused to run in a container is one.
/// Containers with a read-only root cannot change and are not looked at; of others it is told when
/// anything stands in their upper directory that no rule allows.
pub(crate) fn changes(root: &Path) -> Alarm {
    let root = root.to_owned();
    let looked: RefCell<HashMap<ContainerId, Instant>> = RefCell::default();
    Box::new(move |engine, container| {
        let mut looked = looked.borrow_mut();
        let last = looked.get(&container.id);
        if last.is_some_and(|at| at.elapsed() < PAUSE) {
            return None;
        }
        looked.insert(container.id.clone(), Instant::now());
        if let Some(last) = refused(&root, container) {
            return Some(format!(
                "its container {} tried to run what is not of the image: {last}",
                container.name
            ));
        }
        if !container.config.writable || allows_changes(container) {
            return None;
        }
        let changed = first_change(engine, container)?;
        Some(format!(
            "its container {} changed its own files: {}",
            container.name,
            invar_drift::escape(changed.as_bytes())
        ))
    })
}

/// What the agent saw last of a container in which it refused something; without an agent nothing.
fn refused(root: &Path, container: &Container) -> Option<String> {
    let status = agent::status_of(root)?;
    let mut watched = status["containers"].as_array()?.iter();
    let found = watched.find(|one| one["id"] == container.id.as_str())?;
    let has_refused = found["blocked"].as_u64().is_some_and(|count| count > 0);
    has_refused.then(|| found["last"].as_str().unwrap_or_default().to_owned())
}

/// Whether the service says that its containers may change.
fn allows_changes(container: &Container) -> bool {
    container
        .config
        .labels
        .contains_key(super::translate::ALLOW_LABEL)
        || container
            .config
            .labels
            .get(super::translate::DRIFT_LABEL)
            .is_some_and(|policy| policy == "observe")
}

/// A name in the upper directory; what cannot be read is no alarm.
fn first_change(engine: &dyn Engine, container: &Container) -> Option<String> {
    let upper = engine.open_root(&container.id).ok()?.upper?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = openat(upper.dir.as_fd(), ".", flags, Mode::empty()).ok()?;
    let entries = rustix::fs::Dir::read_from(&directory).ok()?;
    entries
        .filter_map(Result::ok)
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .find(|name| name != "." && name != "..")
}
