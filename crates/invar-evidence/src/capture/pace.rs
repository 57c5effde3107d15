//! How long a container that goes on stays frozen while its files are copied.
//!
//! ```text
//!  FREEZE ─▶ processes ─▶ copy … ─▶ time is up: GO ON ─▶ copy the rest ─▶ still as it was?
//! ```
//!
//! A change after the container went on sets a file's change time, which no program can set back.
//! So a file whose change time lies before that moment was copied as it was when frozen, and every
//! other one is named. Only what a process has mapped for writing may change without that trace.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

use super::freeze::Frozen;
use super::log::Log;
use crate::error::Result;
use crate::tree::entry;

/// What is copied while the container is frozen, and what after it went on.
pub(crate) struct Pace<'a> {
    frozen: Option<Frozen<'a>>,
    deadline: Option<Instant>,
    went_on: Option<entry::Instant>,
    /// Inodes that processes have mapped for writing.
    mapped: HashSet<u64>,
    frozen_ms: Option<u64>,
}

impl<'a> Pace<'a> {
    /// Copying with nobody there to change anything.
    pub(crate) fn still() -> Self {
        Self {
            frozen: None,
            deadline: None,
            went_on: None,
            mapped: HashSet::new(),
            frozen_ms: None,
        }
    }

    /// Copying what others may have written to since then.
    pub(crate) fn live(since: entry::Instant) -> Self {
        Self {
            went_on: Some(since),
            ..Self::still()
        }
    }

    /// Copying while the container is frozen; with a `limit`, it goes on after that time.
    pub(crate) fn frozen(frozen: Option<Frozen<'a>>, limit: Option<Duration>) -> Self {
        // One that somebody else has frozen stays so in any case.
        let is_ours = frozen.as_ref().is_some_and(Frozen::is_ours);
        Self {
            frozen,
            deadline: limit
                .filter(|_| is_ours)
                .map(|limit| Instant::now() + limit),
            ..Self::still()
        }
    }

    /// Also names these inodes when they are copied after the container went on.
    pub(crate) fn mapped_for_writing(&mut self, inodes: HashSet<u64>) {
        self.mapped = inodes;
    }

    /// Lets the container go on when its time is up; to be called between two pieces of work.
    pub(crate) fn keep(&mut self, log: &mut Log) -> Result<()> {
        match self.deadline {
            Some(deadline) if Instant::now() >= deadline => self.go_on(log),
            _ => Ok(()),
        }
    }

    /// Lets the container go on, unless it has already.
    pub(crate) fn go_on(&mut self, log: &mut Log) -> Result<()> {
        self.deadline = None;
        let Some(frozen) = self.frozen.take() else {
            return Ok(());
        };
        if frozen.is_ours() {
            self.went_on = Some(now());
        }
        self.frozen_ms = Some(frozen.resume(log)?);
        Ok(())
    }

    /// The container, if it still is frozen, and how long it was.
    pub(crate) fn finish(self) -> (Option<Frozen<'a>>, Option<u64>) {
        (self.frozen, self.frozen_ms)
    }

    /// Whether the container may be writing.
    pub(crate) fn is_live(&self) -> bool {
        self.went_on.is_some()
    }

    /// Whether something with this change time is not as it was when the container went on.
    pub(crate) fn has_changed_since(&self, changed: entry::Instant) -> bool {
        self.went_on.is_some_and(|went_on| changed >= went_on)
    }

    /// Whether something may have changed without its change time telling.
    pub(crate) fn is_mapped(&self, inode: u64) -> bool {
        self.went_on.is_some() && self.mapped.contains(&inode)
    }
}

/// The clock that the kernel takes change times from.
pub(crate) fn now() -> entry::Instant {
    let now = clock_gettime(ClockId::RealtimeCoarse);
    entry::Instant(now.tv_sec, u32::try_from(now.tv_nsec).unwrap_or(0))
}
