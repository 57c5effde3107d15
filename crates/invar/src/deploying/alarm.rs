//! A new container that changes its own files is rolled back: what a trial sees of drift.

use std::cell::Cell;
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use invar_engine::{Container, Engine};
use invar_rollout::driver::Alarm;
use rustix::fs::{Mode, OFlags, openat};

/// Between two looks.
const PAUSE: Duration = Duration::from_secs(2);

/// An alarm for one rollout. Containers with a read-only root cannot change and are not looked at;
/// of others it is told when anything stands in their upper directory that no rule allows.
pub(crate) fn changes() -> Alarm {
    let last: Cell<Option<Instant>> = Cell::new(None);
    Box::new(move |engine, container| {
        if !container.config.writable || allows_changes(container) {
            return None;
        }
        if last.get().is_some_and(|at| at.elapsed() < PAUSE) {
            return None;
        }
        last.set(Some(Instant::now()));
        let changed = first_change(engine, container)?;
        Some(format!(
            "its container {} changed its own files: {}",
            container.name,
            invar_drift::escape(changed.as_bytes())
        ))
    })
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
