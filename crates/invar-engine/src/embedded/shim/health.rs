//! A container's health check: from time to time a program runs in the container, by the helper
//! of `exec`, and how it ends decides what the status says. One check at a time; the shim waits
//! for none.

use std::io::Write as _;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use fs_err as fs;
use fs_err::os::unix::fs::OpenOptionsExt as _;
use invar_sys::process::{Identity, inherit, send_signal};
use invar_sys::signal::SIGKILL;
use jiff::Timestamp;
use rustix::event::PollFlags;
use rustix::pipe::{PipeFlags, pipe_with};
use serde::{Deserialize, Serialize};

use crate::config::HealthCheck;
use crate::container::{Health, HealthResult, HealthStatus};
use crate::embedded::cgroup::Group;
use crate::embedded::channel;
use crate::embedded::exec;
use crate::embedded::layout::Directory;
use crate::embedded::runtime::program;

/// Bytes of a check's output that are kept; Docker's number.
const OUTPUT: usize = 4096;
/// Checks that are kept; Docker's number.
const KEPT: usize = 5;
/// Docker's exit code of a check that took too long or could not run.
const NOT_RUN: i32 = -1;

/// What a shim is told of its container's health check.
#[derive(Debug, Serialize, Deserialize)]
pub(in crate::embedded) struct Plan {
    pub(in crate::embedded) check: HealthCheck,
    /// The check's program, as the helper takes it.
    pub(in crate::embedded) exec: exec::Request,
}

/// The health of one run.
pub(super) struct Checker<'a> {
    plan: &'a Plan,
    directory: &'a Directory,
    began: Instant,
    next: Instant,
    running: Option<Check>,
    health: Health,
}

/// A check that is under way.
struct Check {
    helper: Option<OwnedFd>,
    control: UnixStream,
    output: Option<OwnedFd>,
    text: Vec<u8>,
    start: Timestamp,
    deadline: Instant,
}

impl<'a> Checker<'a> {
    pub(super) fn new(plan: &'a Plan, directory: &'a Directory) -> Self {
        let began = Instant::now();
        let mut checker = Self {
            plan,
            directory,
            began,
            next: began,
            running: None,
            health: Health {
                status: HealthStatus::Starting,
                failing_streak: 0,
                log: Vec::new(),
            },
        };
        checker.next = began + checker.pause();
        checker.write();
        checker
    }

    fn is_in_start_period(&self) -> bool {
        self.health.status == HealthStatus::Starting
            && self.began.elapsed() < self.plan.check.start_period
    }

    fn pause(&self) -> Duration {
        if self.is_in_start_period() {
            self.plan.check.start_interval.min(self.plan.check.interval)
        } else {
            self.plan.check.interval
        }
    }

    /// How long the shim may sleep.
    pub(super) fn timeout(&self) -> Duration {
        let next = self
            .running
            .as_ref()
            .map_or(self.next, |check| check.deadline);
        next.saturating_duration_since(Instant::now())
    }

    /// What it waits for: the helper's answer and the program's output.
    pub(super) fn watched(&self) -> Vec<(BorrowedFd<'_>, PollFlags)> {
        let Some(check) = &self.running else {
            return Vec::new();
        };
        let output = check.output.as_ref().map(AsFd::as_fd);
        std::iter::once(check.control.as_fd())
            .chain(output)
            .map(|fd| (fd, PollFlags::IN))
            .collect()
    }

    /// Goes on; `ready` says which of [`Checker::watched`] can be read. The new status, when it
    /// has changed.
    pub(super) fn advance(&mut self, ready: &[bool]) -> Option<HealthStatus> {
        if ready.get(1) == Some(&true)
            && let Some(check) = &mut self.running
        {
            check.read_output();
        }
        let is_answered = ready.first() == Some(&true);
        let is_late = self
            .running
            .as_ref()
            .is_some_and(|check| Instant::now() >= check.deadline);
        if is_answered || is_late {
            return self.finish(is_answered);
        }
        if self.running.is_none() && Instant::now() >= self.next {
            self.begin();
        }
        None
    }

    fn begin(&mut self) {
        if Group::of(&self.plan.exec.id).is_frozen() {
            self.next = Instant::now() + self.pause();
            return;
        }
        match Check::begin(self.plan) {
            Ok(check) => self.running = Some(check),
            // No memory or no processes now; there may be at the next check.
            Err(_error) => self.next = Instant::now() + self.pause(),
        }
    }

    fn finish(&mut self, is_answered: bool) -> Option<HealthStatus> {
        let check = self.running.take()?;
        let result = check.finish(is_answered, self.plan.check.timeout);
        let before = self.health.status;
        if result.exit_code == 0 {
            self.health.status = HealthStatus::Healthy;
            self.health.failing_streak = 0;
        } else if !self.is_in_start_period() {
            self.health.failing_streak = self.health.failing_streak.saturating_add(1);
            if self.health.failing_streak >= self.plan.check.retries {
                self.health.status = HealthStatus::Unhealthy;
            }
        }
        if self.health.log.len() == KEPT {
            self.health.log.remove(0);
        }
        self.health.log.push(result);
        self.write();
        self.next = Instant::now() + self.pause();
        (self.health.status != before).then_some(self.health.status)
    }

    /// For `inspect`; a full disk must not end the checks.
    fn write(&self) {
        write(self.directory, &self.health).ok();
    }
}

impl Check {
    fn begin(plan: &Plan) -> std::io::Result<Self> {
        let (control, theirs) = UnixStream::pair()?;
        let theirs = OwnedFd::from(theirs);
        inherit(theirs.as_fd())?;
        let (output, written) = pipe_with(PipeFlags::CLOEXEC)?;
        let helper = Command::new("/proc/self/exe")
            .args(["exec-helper", &program::number(&theirs)])
            .env_clear()
            .stdin(Stdio::null())
            .stdout(written.try_clone()?)
            .stderr(written)
            .spawn()?;
        drop(theirs);
        // Not reaped before its answer was read, so the number is still its own.
        let helper = Identity::of(helper.id()).and_then(|helper| helper.open().ok().flatten());
        channel::send(&control, &plan.exec)?;
        rustix::io::ioctl_fionbio(&output, true)?;
        Ok(Self {
            helper,
            control,
            output: Some(output),
            text: Vec::new(),
            start: Timestamp::now(),
            deadline: Instant::now() + plan.check.timeout,
        })
    }

    /// Takes what there is; more than is kept is let go, so that the program is not held up.
    fn read_output(&mut self) {
        let Some(output) = &self.output else { return };
        let mut piece = [0_u8; OUTPUT];
        match rustix::io::read(output, &mut piece) {
            Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => {}
            Ok(0) | Err(_) => self.output = None,
            Ok(length) => {
                let room = OUTPUT.saturating_sub(self.text.len());
                self.text.extend_from_slice(&piece[..length.min(room)]);
            }
        }
    }

    fn finish(mut self, is_answered: bool, timeout: Duration) -> HealthResult {
        let mut exit_code = NOT_RUN;
        if is_answered {
            // The helper says one thing and ends; one that was killed has said nothing.
            match channel::receive(&self.control) {
                Ok(exec::Answer::Ended(code)) => exit_code = code.into(),
                Ok(exec::Answer::Failed(failure)) => {
                    self.text = crate::EngineError::from(failure).to_string().into_bytes();
                }
                Err(_killed) => self.text = b"its helper was killed".to_vec(),
            }
            while self.output.is_some() && self.has_more() {
                self.read_output();
            }
        } else {
            // The kernel ends the program with its helper.
            if let Some(helper) = &self.helper {
                send_signal(helper.as_fd(), SIGKILL).ok();
            }
            self.text = format!("it took longer than {timeout:?}").into_bytes();
        }
        HealthResult {
            start: self.start,
            end: Timestamp::now(),
            exit_code,
            output: String::from_utf8_lossy(&self.text).into_owned(),
        }
    }

    fn has_more(&self) -> bool {
        use rustix::event::{PollFd, Timespec, poll};
        let Some(output) = &self.output else {
            return false;
        };
        let mut fds = [PollFd::new(output, PollFlags::IN)];
        matches!(poll(&mut fds, Some(&Timespec::default())), Ok(1..))
            && fds[0].revents().contains(PollFlags::IN)
    }
}

impl Drop for Checker<'_> {
    fn drop(&mut self) {
        if let Some(helper) = self
            .running
            .as_ref()
            .and_then(|check| check.helper.as_ref())
        {
            send_signal(helper.as_fd(), SIGKILL).ok();
        }
    }
}

/// Replaces what is known of a container's health.
fn write(directory: &Directory, health: &Health) -> std::io::Result<()> {
    let unfinished = directory.path().join("health.new");
    let mut file = fs::OpenOptions::new()
        .create(true)
        .write(true)
        .truncate(true)
        .mode(0o600)
        .open(&unfinished)?;
    file.write_all(&serde_json::to_vec(health)?)?;
    fs::rename(&unfinished, directory.health())
}

/// What is known of a container's health.
pub(in crate::embedded) fn read(directory: &Directory) -> Option<Health> {
    let text = fs::read(directory.health()).ok()?;
    serde_json::from_slice(&text).ok()
}
