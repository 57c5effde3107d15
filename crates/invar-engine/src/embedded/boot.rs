//! After the machine has booted, and before it goes down.

use std::sync::Mutex;
use std::time::Duration;

use super::EmbeddedEngine;
use super::status::{Phase, Status};
use crate::config::Restart;
use crate::container::{Container, State};
use crate::engine::{Engine as _, Stdio};
use crate::error::Result;

/// So many at a time: starting is mostly waiting for the kernel.
const AT_ONCE: usize = 4;

/// How it went for each container.
type Outcomes = Vec<(Container, Result<()>)>;

/// Starts what its policy wants to run and what does not.
pub(super) fn start_all(engine: &EmbeddedEngine) -> Result<Outcomes> {
    let mut wanted = Vec::new();
    // Looking ends what a crash of the machine left behind.
    for container in engine.list()? {
        if is_wanted(engine, &container)? {
            wanted.push(container);
        }
    }
    // The oldest first: others may need them.
    wanted.reverse();
    Ok(at_once(wanted, |container| {
        engine.start(&container.id, Stdio::Detached)
    }))
}

fn is_wanted(engine: &EmbeddedEngine, container: &Container) -> Result<bool> {
    let State::Exited(ended) = &container.state else {
        return Ok(false);
    };
    let mut status = Status::open(&engine.layout.container(&container.id))?;
    let now = status.now()?;
    let has_run = matches!(now.phase, Phase::Ended(_)) && now.started.is_some();
    Ok(has_run
        && match container.config.restart {
            Restart::No => false,
            Restart::Always => true,
            Restart::UnlessStopped => !now.is_stop_requested,
            Restart::OnFailure { .. } => {
                !now.is_stop_requested && container.config.restart.wants(ended.code, 0)
            }
        })
}

/// Ends everything that runs; the records tell of no wish to stop, so that it is started again.
pub(super) fn end_all(engine: &EmbeddedEngine, timeout: Duration) -> Result<Outcomes> {
    let running = engine.list()?.into_iter().filter(|container| {
        matches!(
            container.state,
            State::Running | State::Paused | State::Restarting(_)
        )
    });
    Ok(at_once(running.collect(), |container| {
        engine.shut_down_one(container, timeout)
    }))
}

/// Does something for each, some at a time; how it went, in the order given.
fn at_once(containers: Vec<Container>, act: impl Fn(&Container) -> Result<()> + Sync) -> Outcomes {
    let next = Mutex::new(containers.into_iter().enumerate());
    let done = Mutex::new(Vec::new());
    let work = || {
        loop {
            let taken = next.lock().ok().and_then(|mut next| next.next());
            let Some((index, container)) = taken else {
                return;
            };
            let outcome = act(&container);
            if let Ok(mut done) = done.lock() {
                done.push((index, container, outcome));
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(work);
        }
    });
    let mut done = done.into_inner().unwrap_or_default();
    done.sort_by_key(|(index, ..)| *index);
    done.into_iter()
        .map(|(_, container, outcome)| (container, outcome))
        .collect()
}
