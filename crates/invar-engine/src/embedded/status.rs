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
use rustix::fs::FallocateFlags;
use serde::{Deserialize, Serialize};

use super::layout::Directory;
use crate::container::{ExitStatus, HealthStatus};
use crate::error::{EngineError, Result};

/// The last lines matter; one is a few hundred bytes.
const TAIL: u64 = 16 << 10;
/// What is given back to the disk, in these units.
const BLOCK: u64 = 64 << 10;

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
        /// How often its restart policy has started it.
        #[serde(default)]
        restarts: u32,
    },
    /// Its program ended, or could not be executed.
    Ended(ExitStatus),
    /// Somebody asked it to end: no policy starts it again before somebody starts it.
    StopRequested,
    /// It ended with the machine; the wish to stop it does not count.
    WantedAgain,
    /// Its policy starts it again; until then this process waits.
    Restarting { shim: Identity, restarts: u32 },
    /// Its policy begins to start it.
    StartingAgain,
    /// What its health check says, when that has changed.
    Health(HealthStatus),
}

/// A run: its first process, its shim, when it began.
pub(super) type Run = (Identity, Identity, Timestamp);

/// What the records add up to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Now {
    pub(super) phase: Phase,
    /// The last run.
    pub(super) started: Option<Run>,
    pub(super) restarts: u32,
    pub(super) is_stop_requested: bool,
    pub(super) health: Option<HealthStatus>,
}

/// Where a container is between being made and having ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Phase {
    /// Never started.
    Created,
    /// Being started; how it ended before.
    Starting(Option<ExitStatus>),
    /// Started, and nothing says that it ended.
    Up,
    /// Ended.
    Ended(ExitStatus),
    /// Ended; a process waits to start it again.
    Waiting(ExitStatus, Identity),
    /// Being started again after that end.
    StartingAgain(ExitStatus),
}

impl Phase {
    /// Whether a later record must follow.
    pub(super) fn is_unfinished(&self) -> bool {
        !matches!(self, Self::Created | Self::Ended(_))
    }

    fn last_end(&self) -> Option<ExitStatus> {
        match self {
            Self::Ended(status) | Self::Waiting(status, _) | Self::StartingAgain(status) => {
                Some(status.clone())
            }
            Self::Starting(before) => before.clone(),
            Self::Created | Self::Up => None,
        }
    }
}

impl Now {
    pub(super) fn of(records: &[Record]) -> Self {
        let mut now = Self {
            phase: Phase::Created,
            started: None,
            restarts: 0,
            is_stop_requested: false,
            health: None,
        };
        for record in records {
            now.add(record);
        }
        now
    }

    fn add(&mut self, record: &Record) {
        match record {
            Record::Starting => {
                self.is_stop_requested = false;
                self.phase = Phase::Starting(self.phase.last_end());
            }
            Record::StartingAgain => {
                if let Some(status) = self.phase.last_end() {
                    self.phase = Phase::StartingAgain(status);
                }
            }
            Record::Started {
                init,
                shim,
                at,
                restarts,
            } => {
                self.started = Some((*init, *shim, *at));
                self.restarts = *restarts;
                self.health = None;
                self.phase = Phase::Up;
            }
            Record::Ended(status) => self.phase = Phase::Ended(status.clone()),
            Record::StopRequested => self.is_stop_requested = true,
            Record::WantedAgain => self.is_stop_requested = false,
            Record::Restarting { shim, restarts } => {
                self.restarts = *restarts;
                if let Some(status) = self.phase.last_end() {
                    self.phase = Phase::Waiting(status, *shim);
                }
            }
            Record::Health(status) => self.health = Some(*status),
        }
    }
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

    /// The same lock by one more handle.
    pub(super) fn again(&self, directory: &Directory) -> Result<Self> {
        let handle = self.handle().try_clone_to_owned();
        let handle = handle.map_err(|source| EngineError::io("open", self.0.path(), source))?;
        Ok(Self::from_handle(handle, directory))
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
        self.append_all(std::slice::from_ref(record))
    }

    /// Adds lines, between which nobody sees the container.
    pub(super) fn append_all(&mut self, records: &[Record]) -> Result<()> {
        let path = self.0.path().to_owned();
        let failed = |source| EngineError::io("write", &path, source);
        let mut lines = Vec::new();
        for record in records {
            serde_json::to_writer(&mut lines, record).map_err(|error| failed(error.into()))?;
            lines.push(b'\n');
        }
        self.0.write_all(&lines).map_err(failed)
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

    /// What the records add up to.
    pub(super) fn now(&mut self) -> Result<Now> {
        Ok(Now::of(&self.records()?))
    }

    /// Gives the disk back what nobody reads any more: a container that is started again and
    /// again writes a few lines each time. The file keeps its length; its beginning is a hole.
    pub(super) fn forget_old(&self) {
        let length = self.0.metadata().map_or(0, |metadata| metadata.len());
        let old = length.saturating_sub(TAIL) / BLOCK * BLOCK;
        if old > 0 {
            let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            // A file system without holes keeps the lines.
            rustix::fs::fallocate(&self.0, flags, 0, old).ok();
        }
    }

    fn tail(&mut self) -> std::io::Result<String> {
        let length = self.0.metadata()?.len();
        self.0.seek(SeekFrom::Start(length.saturating_sub(TAIL)))?;
        let mut bytes = Vec::new();
        (&self.0).take(TAIL).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(pid: u32) -> Identity {
        Identity {
            pid,
            start_ticks: 1,
        }
    }

    fn started(restarts: u32) -> Record {
        Record::Started {
            init: identity(2),
            shim: identity(1),
            at: Timestamp::UNIX_EPOCH,
            restarts,
        }
    }

    fn ended(code: u8) -> ExitStatus {
        ExitStatus {
            code,
            oom_killed: false,
            error: None,
            finished_at: Timestamp::UNIX_EPOCH,
        }
    }

    #[test]
    fn records_add_up_to_where_a_container_is() {
        let waiting = Record::Restarting {
            shim: identity(1),
            restarts: 1,
        };
        let end = || Record::Ended(ended(3));
        let table: Vec<(Vec<Record>, Phase)> = vec![
            (vec![], Phase::Created),
            (vec![Record::Starting], Phase::Starting(None)),
            (vec![Record::Starting, started(0)], Phase::Up),
            (
                vec![started(0), Record::Health(HealthStatus::Healthy)],
                Phase::Up,
            ),
            (vec![started(0), Record::StopRequested], Phase::Up),
            (vec![started(0), end()], Phase::Ended(ended(3))),
            (
                vec![started(0), end(), Record::Starting],
                Phase::Starting(Some(ended(3))),
            ),
            (
                vec![started(0), end(), waiting.clone()],
                Phase::Waiting(ended(3), identity(1)),
            ),
            (
                vec![started(0), end(), waiting.clone(), Record::StartingAgain],
                Phase::StartingAgain(ended(3)),
            ),
        ];
        for (records, phase) in table {
            assert_eq!(Now::of(&records).phase, phase, "{records:?}");
        }
    }

    #[test]
    fn a_wish_to_stop_holds_until_somebody_starts_it() {
        let mut records = vec![started(0), Record::StopRequested, Record::Ended(ended(0))];
        assert!(Now::of(&records).is_stop_requested);
        records.extend([Record::StartingAgain, started(1)]);
        assert!(Now::of(&records).is_stop_requested);
        records.push(Record::Starting);
        assert!(!Now::of(&records).is_stop_requested);
    }

    #[test]
    fn a_long_history_takes_little_of_the_disk_and_its_end_is_kept() {
        use std::os::unix::fs::MetadataExt as _;
        let stage = tempfile::tempdir_in("/var/tmp").unwrap();
        let directory = Directory(stage.path().to_owned());
        let mut status = Status::create(&directory).unwrap();
        for round in 0..4000 {
            status.append(&started(round)).unwrap();
            status.append(&Record::Ended(ended(1))).unwrap();
        }
        status.forget_old();
        let metadata = fs::metadata(directory.status()).unwrap();
        assert!(metadata.len() > 400_000, "{}", metadata.len());
        assert!(metadata.blocks() * 512 <= 96 << 10, "{}", metadata.blocks());
        let now = status.now().unwrap();
        assert_eq!((now.restarts, now.phase), (3999, Phase::Ended(ended(1))));
    }
}
