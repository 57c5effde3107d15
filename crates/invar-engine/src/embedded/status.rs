//! What a container's runs did: a file of JSON lines, appended and never rewritten, so that a
//! crash at any point leaves what came before. It is locked for as long as a run is under way;
//! the lock ends with the shim, however that ends.

use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use fs_err as fs;
use fs_err::os::unix::fs::OpenOptionsExt as _;
use invar_sys::lock;
use invar_sys::process::Identity;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::layout::Directory;
use crate::container::ExitStatus;
use crate::error::{EngineError, Result};

/// The last lines matter; one is a few hundred bytes.
const TAIL: u64 = 16 << 10;

/// One thing that happened to a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Record {
    /// Somebody began to start it.
    Starting,
    /// Its program runs.
    Started {
        init: Identity,
        shim: Identity,
        at: Timestamp,
    },
    /// Its program ended, or could not be executed.
    Ended(ExitStatus),
}

/// The status of one container.
#[derive(Debug)]
pub(super) struct Status(fs::File);

impl Status {
    /// Makes the file of a new container.
    pub(super) fn create(directory: &Directory) -> Result<Self> {
        Self::open_with(directory, true)
    }

    /// Opens it; not found when the container is gone.
    pub(super) fn open(directory: &Directory) -> Result<Self> {
        Self::open_with(directory, false)
    }

    fn open_with(directory: &Directory, create: bool) -> Result<Self> {
        let path = directory.status();
        fs::OpenOptions::new()
            .read(true)
            .append(true)
            .create_new(create)
            .mode(0o600)
            .open(&path)
            .map(Self)
            .map_err(|source| EngineError::io("open", &path, source))
    }

    /// The handle a shim was given.
    pub(super) fn from_handle(handle: OwnedFd, directory: &Directory) -> Self {
        Self(fs::File::from_parts(handle.into(), directory.status()))
    }

    pub(super) fn handle(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// Claims the container for a run, its creation or its removal; `false` while another has it.
    pub(super) fn try_lock(&self) -> Result<bool> {
        lock::try_lock(&self.0).map_err(|source| EngineError::io("lock", self.0.path(), source))
    }

    /// Whether somebody has claimed it.
    pub(super) fn is_locked(&self) -> Result<bool> {
        lock::is_locked(&self.0).map_err(|source| EngineError::io("lock", self.0.path(), source))
    }

    /// Adds a line.
    pub(super) fn append(&mut self, record: &Record) -> Result<()> {
        let failed = |source| EngineError::io("write", self.0.path(), source);
        let mut line = serde_json::to_vec(record).map_err(|error| failed(error.into()))?;
        line.push(b'\n');
        let path = self.0.path().to_owned();
        self.0
            .write_all(&line)
            .map_err(|source| EngineError::io("write", &path, source))
    }

    /// The last lines, oldest first. One that a crash cut short is left out.
    pub(super) fn records(&mut self) -> Result<Vec<Record>> {
        let text = self.tail().map_err(|source| {
            let path = self.0.path().to_owned();
            EngineError::io("read", &path, source)
        })?;
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        Ok(whole
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect())
    }

    fn tail(&mut self) -> std::io::Result<String> {
        let length = self.0.metadata()?.len();
        self.0.seek(SeekFrom::Start(length.saturating_sub(TAIL)))?;
        let mut bytes = Vec::new();
        (&self.0).take(TAIL).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}
