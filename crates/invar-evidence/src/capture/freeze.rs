//! Freezing, and the two ways out of it: killed, or going on.

use std::time::{Duration, Instant};

use invar_engine::{Container, ContainerId, Engine, EngineError, State};
use invar_sys::process::{Identity, send_signal};
use invar_sys::signal::SIGKILL;

use super::log::{Log, Step};
use crate::error::{EvidenceError, Result};

/// How long an engine may take to notice that a container ended.
const ENDING: Duration = Duration::from_secs(3);
const INTERVAL: Duration = Duration::from_millis(20);

/// A frozen container. It goes on when this is dropped, unless somebody else had frozen it.
pub(crate) struct Frozen<'a> {
    engine: &'a dyn Engine,
    id: ContainerId,
    since: Instant,
    is_ours: bool,
}

impl<'a> Frozen<'a> {
    /// Freezes a running container; `None` when there is nothing to freeze.
    pub(crate) fn freeze(
        engine: &'a dyn Engine,
        container: &Container,
        log: &mut Log,
    ) -> Result<Option<Self>> {
        let since = Instant::now();
        let frozen = |is_ours| Self {
            engine,
            id: container.id.clone(),
            since,
            is_ours,
        };
        match container.state {
            State::Running => {}
            State::Paused => {
                log.step(Step::FoundFrozen)?;
                return Ok(Some(frozen(false)));
            }
            State::Created | State::Exited(_) | State::Restarting(_) => return Ok(None),
        }
        log.step(Step::Freezing)?;
        while let Err(error) = engine.pause(&container.id) {
            // It may have ended, or have been frozen by somebody, meanwhile.
            let found = engine.inspect(container.id.as_str());
            match found.map(|found| found.state) {
                Ok(State::Exited(_) | State::Restarting(_) | State::Created)
                | Err(EngineError::NotFound { .. }) => {
                    return Ok(None);
                }
                Ok(State::Paused) => {
                    log.step(Step::FoundFrozen)?;
                    return Ok(Some(frozen(false)));
                }
                // Its end takes the engine a moment in which it is neither running nor ended.
                Ok(State::Running) if since.elapsed() < ENDING => std::thread::sleep(INTERVAL),
                _ => return Err(EvidenceError::engine("freeze the container")(error)),
            }
        }
        let frozen = frozen(true);
        log.step(Step::Frozen)?;
        Ok(Some(frozen))
    }

    /// Whether it was frozen here, and not by somebody else before.
    pub(crate) fn is_ours(&self) -> bool {
        self.is_ours
    }

    /// Takes over a container that a killed capture left frozen.
    pub(crate) fn take_up(engine: &'a dyn Engine, id: &ContainerId) -> Self {
        Self {
            engine,
            id: id.clone(),
            since: Instant::now(),
            is_ours: true,
        }
    }

    /// Lets the container go on; how long it was frozen, in milliseconds.
    pub(crate) fn resume(mut self, log: &mut Log) -> Result<u64> {
        if std::mem::take(&mut self.is_ours) {
            match self.engine.resume(&self.id) {
                Ok(()) => {}
                // It was about to end when it was frozen, or somebody killed it meanwhile.
                Err(error) if self.has_ended() => drop(error),
                Err(error) => {
                    return Err(EvidenceError::engine("let the container go on")(error));
                }
            }
            log.step(Step::Resumed {
                frozen_ms: self.frozen_ms(),
            })?;
        }
        Ok(self.frozen_ms())
    }

    /// Kills every process without letting one run another instruction; how long they were frozen
    /// before that, in milliseconds. Returns once the engine has cleaned up after them.
    ///
    /// On cgroup v1 a frozen process takes a signal only once it is thawed, but then before
    /// anything else. The first process is killed through the engine, so that it knows of it and
    /// starts nothing again.
    ///
    /// When it fails, the container stays frozen until this is dropped.
    pub(crate) fn kill(&mut self, log: &mut Log) -> Result<u64> {
        log.step(Step::Killing)?;
        let pids = match self.engine.processes(&self.id) {
            Ok(pids) => pids,
            Err(error) if self.has_ended() => {
                drop(error);
                Vec::new()
            }
            Err(error) => return Err(EvidenceError::engine("list the processes")(error)),
        };
        for pid in pids.iter().skip(1) {
            let process = Identity::of(*pid).and_then(|identity| identity.open().ok().flatten());
            if let Some(process) = process {
                use std::os::fd::AsFd as _;
                let path = format!("/proc/{pid}");
                send_signal(process.as_fd(), SIGKILL)
                    .map_err(EvidenceError::io("kill the process", path))?;
            }
        }
        let killed = self.engine.kill(&self.id, SIGKILL);
        match killed {
            Ok(()) | Err(EngineError::NotFound { .. }) => {}
            Err(error) if self.has_ended() => drop(error),
            Err(error) => return Err(EvidenceError::engine("kill the container")(error)),
        }
        // From here on a thaw is part of the killing.
        self.is_ours = false;
        self.thaw_if_frozen();
        let frozen_ms = self.frozen_ms();
        match self.engine.wait(&self.id) {
            Ok(_) | Err(EngineError::NotFound { .. }) => {}
            Err(error) if self.has_ended() => drop(error),
            Err(error) => return Err(EvidenceError::engine("wait for the container")(error)),
        }
        log.step(Step::Killed { frozen_ms })?;
        Ok(frozen_ms)
    }

    fn thaw_if_frozen(&self) {
        let state = self
            .engine
            .inspect(self.id.as_str())
            .map(|found| found.state);
        if matches!(state, Ok(State::Paused)) {
            // Fails when the engine has thawed it meanwhile; `wait` tells in any case.
            self.engine.resume(&self.id).ok();
        }
    }

    fn has_ended(&self) -> bool {
        match self.engine.inspect(self.id.as_str()) {
            Ok(container) => matches!(container.state, State::Exited(_)),
            Err(error) => matches!(error, EngineError::NotFound { .. }),
        }
    }

    fn frozen_ms(&self) -> u64 {
        u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        if self.is_ours {
            // Nothing better can be done here; the container's state shows it.
            self.engine.resume(&self.id).ok();
        }
    }
}
