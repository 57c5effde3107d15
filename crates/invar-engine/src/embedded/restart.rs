//! Starting a container again after its end, as its policy says.
//!
//! ```text
//!  shim: program ended ─▶ Ended, Restarting ─▶ itself as `shim-restart` ─▶ waits ─▶ start
//!                                               (same process, same lock)    └▶ new shim
//! ```
//!
//! The process that waits is the shim itself, executed anew: back in the host's namespaces and
//! without what it had in memory. The lock on the status passes from run to run without a gap, so
//! no other command takes the container for one that has ended. Killing the process that waits
//! leaves a free lock, and the container ended.

use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use invar_sys::process::{Identity, inherit, inherited};
use invar_sys::signal::{SIGTERM, SignalFd};
use jiff::Timestamp;
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::EmbeddedEngine;
use super::layout::Layout;
use super::runtime::program;
use super::status::{Phase, Record, Status};
use crate::config::Restart;
use crate::container::{ContainerId, ExitStatus};
use crate::engine::Stdio;
use crate::error::{EngineError, Result};

/// The first pause; it doubles with every start that does not last. Docker's numbers.
const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_mins(1);
/// A run that lasted so long begins with the first pause again.
const LASTING: Duration = Duration::from_secs(10);

/// How often a container was started again, and how long the last pause was.
#[derive(Debug, Clone, Copy, Default, serde::Serialize, serde::Deserialize)]
pub(super) struct History {
    pub(super) restarts: u32,
    pub(super) pause: Duration,
}

impl History {
    /// The next start's, after a run of this length.
    fn next(self, ran: Duration) -> Self {
        let pause = if ran >= LASTING || self.pause.is_zero() {
            FIRST
        } else {
            (self.pause * 2).min(LONGEST)
        };
        Self {
            restarts: self.restarts.saturating_add(1),
            pause,
        }
    }
}

/// The namespaces a shim leaves and returns to.
#[derive(Debug)]
pub(super) struct Home {
    mounts: OwnedFd,
    network: OwnedFd,
}

impl Home {
    /// Those of this process.
    pub(super) fn here() -> std::io::Result<Self> {
        let open = |path| openat(CWD, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
        Ok(Self {
            mounts: open("/proc/self/ns/mnt")?,
            network: open("/proc/self/ns/net")?,
        })
    }

    fn enter(&self) -> std::io::Result<()> {
        move_into_link_name_space(self.network.as_fd(), Some(LinkNameSpaceType::Network))?;
        move_into_link_name_space(self.mounts.as_fd(), Some(LinkNameSpaceType::Mount))?;
        Ok(())
    }
}

/// A start that a policy asks for.
#[derive(Debug)]
pub(super) struct Next {
    history: History,
    home: Home,
}

/// The next start of a container whose run has ended so; `None` when its policy asks for none.
pub(super) fn next(
    home: Option<Home>,
    policy: Restart,
    history: History,
    ended: &ExitStatus,
    status: &mut Status,
) -> Option<Next> {
    let now = status.now().ok()?;
    if now.is_stop_requested || !policy.wants(ended.code, history.restarts) {
        return None;
    }
    let ran = now.started.map_or(Duration::ZERO, |(_, _, at)| {
        Duration::try_from(ended.finished_at.duration_since(at)).unwrap_or_default()
    });
    Some(Next {
        history: history.next(ran),
        home: home?,
    })
}

impl Next {
    /// What is recorded together with the end.
    pub(super) fn record(&self) -> Option<Record> {
        Some(Record::Restarting {
            shim: Identity::of(std::process::id())?,
            restarts: self.history.restarts,
        })
    }

    /// Becomes the process that waits; returns only when that failed, which is recorded.
    pub(super) fn wait(
        &self,
        root: &Path,
        id: &ContainerId,
        ended: &ExitStatus,
        status: &mut Status,
    ) {
        let error = match self.home.enter() {
            Ok(()) => execute(root, id, status, self.history),
            Err(error) => error,
        };
        let failed = ExitStatus {
            error: Some(format!("it could not be started again: {error}")),
            ..ended.clone()
        };
        // With a full disk, the next command finds the lock free.
        status.append(&Record::Ended(failed)).ok();
    }
}

/// Replaces this program; returns only why it could not.
fn execute(root: &Path, id: &ContainerId, status: &Status, next: History) -> std::io::Error {
    let handle = match status.handle().try_clone_to_owned() {
        Ok(handle) => handle,
        Err(error) => return error,
    };
    if let Err(error) = inherit(handle.as_fd()) {
        return error;
    }
    Command::new("/proc/self/exe")
        .arg("shim-restart")
        .arg(program::number(&handle))
        .arg(root)
        .arg(id.as_str())
        .arg(next.restarts.to_string())
        .arg(next.pause.as_millis().to_string())
        .env_clear()
        .current_dir("/")
        .exec()
}

/// The role `shim-restart STATUS ROOT ID RESTARTS PAUSE`.
pub(super) fn main(args: &[String]) -> ExitCode {
    let [status, root, id, restarts, pause] = args else {
        return ExitCode::FAILURE;
    };
    let (Ok(status), Ok(id), Ok(restarts), Ok(pause)) = (
        inherited(status),
        ContainerId::try_from(id.clone()),
        restarts.parse(),
        pause.parse(),
    ) else {
        return ExitCode::FAILURE;
    };
    let root = PathBuf::from(root);
    let directory = Layout::new(&root).container(&id);
    let waiting = Waiting {
        status: Status::from_handle(status, &directory),
        root,
        id,
        history: History {
            restarts,
            pause: Duration::from_millis(pause),
        },
    };
    match waiting.until_started() {
        Ok(()) => ExitCode::SUCCESS,
        Err(_recorded) => ExitCode::FAILURE,
    }
}

struct Waiting {
    status: Status,
    root: PathBuf,
    id: ContainerId,
    history: History,
}

impl Waiting {
    fn until_started(mut self) -> Result<()> {
        let failed = |source: std::io::Error| EngineError::Runtime {
            action: "wait to start the container again",
            reason: source.to_string(),
        };
        let signals = SignalFd::block(&[SIGTERM]).map_err(failed)?;
        loop {
            signals.wait_for(self.history.pause).map_err(failed)?;
            let now = self.status.now()?;
            let Phase::Waiting(ended, shim) = now.phase else {
                return Ok(());
            };
            if now.is_stop_requested {
                return self.status.append(&Record::Ended(ended));
            }
            let engine = EmbeddedEngine::open(&self.root)?;
            let entry = engine.registry.get(&self.id)?;
            self.status.append(&Record::StartingAgain)?;
            let status = self.status.again(&engine.layout.container(&self.id))?;
            let started = engine.start_claimed(&entry, status, Stdio::Detached, self.history);
            let Err(error) = started else { return Ok(()) };
            let ended = self.end_of_failed(&error)?;
            if !entry
                .config
                .restart
                .wants(ended.code, self.history.restarts)
            {
                self.status.append(&Record::Ended(ended))?;
                return Err(error);
            }
            self.history = self.history.next(Duration::ZERO);
            let waiting = Record::Restarting {
                shim,
                restarts: self.history.restarts,
            };
            self.status.append_all(&[Record::Ended(ended), waiting])?;
        }
    }

    /// A start that failed is an end.
    fn end_of_failed(&mut self, error: &EngineError) -> Result<ExitStatus> {
        if let Phase::Ended(ended) = self.status.now()?.phase {
            return Ok(ended);
        }
        Ok(ExitStatus {
            code: 125,
            oom_killed: false,
            error: Some(error.to_string()),
            finished_at: Timestamp::now(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_minute_and_begin_anew_after_a_lasting_run() {
        let short = Duration::from_secs(1);
        let mut history = History::default();
        let mut pauses = Vec::new();
        for _ in 0..12 {
            history = history.next(short);
            pauses.push(u64::try_from(history.pause.as_millis()).unwrap());
        }
        assert_eq!(
            pauses,
            [
                100, 200, 400, 800, 1600, 3200, 6400, 12_800, 25_600, 51_200, 60_000, 60_000
            ]
        );
        assert_eq!(history.restarts, 12);
        assert_eq!(history.next(LASTING).pause, FIRST);
    }

    #[test]
    fn policies_say_after_which_ends_a_container_is_started_again() {
        let twice = Restart::OnFailure { most: Some(2) };
        for (policy, code, restarts, expected) in [
            (Restart::No, 1, 0, false),
            (Restart::Always, 0, 1000, true),
            (Restart::UnlessStopped, 0, 0, true),
            (Restart::OnFailure { most: None }, 0, 0, false),
            (Restart::OnFailure { most: None }, 1, 1000, true),
            (twice, 1, 1, true),
            (twice, 1, 2, false),
        ] {
            assert_eq!(policy.wants(code, restarts), expected, "{policy:?} {code}");
        }
    }
}
