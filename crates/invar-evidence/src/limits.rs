//! How much a capture may take, so that a container cannot fill the disk or stop the host.

use std::path::Path;

use crate::error::{EvidenceError, Result};

/// Bounds of one capture. What goes over one is cut off and recorded as not captured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Limits {
    /// Bytes copied altogether; renamed, linked and reflinked files copy none.
    pub copied: u64,
    /// Bytes copied of one file.
    pub file: u64,
    /// Processes recorded.
    pub processes: usize,
    /// Open files recorded of one process.
    pub open_files: usize,
    /// Deleted files, memory files and programs whose bytes are kept: each holds a handle.
    pub held_files: usize,
    /// Bytes copied of all temporary file systems.
    pub tmpfs: u64,
    /// Bytes copied of all volumes and other mounts.
    pub volumes: u64,
    /// Bytes of memory looked through and kept, of all processes.
    pub memory: u64,
    /// Entries of one mount.
    pub entries: u64,
    /// How long a container that goes on stays frozen for copying, in milliseconds; what is not
    /// copied by then is copied while it runs.
    pub frozen_ms: u64,
    /// Bytes of one file of `/proc`.
    pub proc_file: u64,
    /// Bytes of the log.
    pub log: u64,
    /// Records of what was not captured.
    pub gaps: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            copied: 64 << 30,
            file: 16 << 30,
            tmpfs: 8 << 30,
            volumes: 32 << 30,
            memory: 8 << 30,
            entries: 2_000_000,
            frozen_ms: 30,
            processes: 8192,
            open_files: 4096,
            held_files: 400,
            proc_file: 8 << 20,
            log: 256 << 20,
            gaps: 10_000,
        }
    }
}

/// What may still be copied.
#[derive(Debug)]
pub(crate) struct Budget {
    left: u64,
    part: u64,
    file: u64,
}

impl Budget {
    /// The limits, or nine tenths of what is free where `path` is, if that is less.
    pub(crate) fn new(limits: &Limits, path: &Path) -> Result<Self> {
        let disk =
            rustix::fs::statvfs(path).map_err(EvidenceError::io("read the free space of", path))?;
        let free = disk.f_bavail.saturating_mul(disk.f_frsize);
        Ok(Self {
            left: limits.copied.min(free / 10 * 9),
            part: u64::MAX,
            file: limits.file,
        })
    }

    /// Begins a part that may have so much of what is left.
    pub(crate) fn part(&mut self, limit: u64) {
        self.part = limit;
    }

    /// How many bytes of one file may be copied.
    pub(crate) fn allowance(&self) -> u64 {
        self.left.min(self.part).min(self.file)
    }

    pub(crate) fn spend(&mut self, bytes: u64) {
        self.left = self.left.saturating_sub(bytes);
        self.part = self.part.saturating_sub(bytes);
    }
}
