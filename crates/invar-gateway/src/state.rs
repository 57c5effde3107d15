//! What must survive a restart, in one file that is always whole.
//!
//! `gateway.json` in the state directory; `gateway.lock` beside it is held by the running gateway.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use fs_err as fs;
use fs_err::os::unix::fs::OpenOptionsExt as _;
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use crate::config::Config;
use crate::error::{GatewayError, Result};

const VERSION: u32 = 1;
/// Bytes of a state file that are read.
const MOST: u64 = 64 * 1024 * 1024;

/// The content of the file (docs/formats/gateway-state.md).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct State {
    format: String,
    version: u32,
    /// Features that an older reader may ignore, may ignore when it only reads, must know.
    compatible: Vec<String>,
    read_only_compatible: Vec<String>,
    incompatible: Vec<String>,
    pub(crate) config: Config,
    /// Cookie epochs of services.
    pub(crate) epochs: BTreeMap<String, u64>,
}

/// The head of the file, read before the rest is looked at.
#[derive(Debug, Deserialize)]
struct Head {
    format: String,
    version: u32,
    #[serde(default)]
    incompatible: Vec<String>,
}

const FORMAT: &str = "invar-gateway-state";

impl State {
    pub(crate) fn new(config: Config, epochs: BTreeMap<String, u64>) -> Self {
        Self {
            format: FORMAT.to_owned(),
            version: VERSION,
            config,
            epochs,
            ..Self::default()
        }
    }
}

/// The state directory of one running gateway.
#[derive(Debug)]
pub(crate) struct StateDir {
    path: PathBuf,
    lock: OwnedFd,
}

impl StateDir {
    /// Opens the directory, which is made if it is not there, for this gateway alone.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        std::fs::DirBuilder::new()
            .mode(0o700)
            .recursive(true)
            .create(path)
            .map_err(GatewayError::path("create", path))?;
        let lock_path = path.join("gateway.lock");
        let lock = fs::OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&lock_path)
            .map_err(GatewayError::path("open", &lock_path))?;
        let lock = OwnedFd::from(lock.into_parts().0);
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self {
                path: path.to_owned(),
                lock,
            }),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(GatewayError::AlreadyRunning {
                path: path.to_owned(),
            }),
            Err(errno) => Err(GatewayError::path("lock", lock_path)(errno.into())),
        }
    }

    /// The directory of a gateway that hands over; its lock comes along.
    pub(crate) fn inherited(path: &Path, lock: OwnedFd) -> Self {
        Self {
            path: path.to_owned(),
            lock,
        }
    }

    pub(crate) fn lock(&self) -> std::os::fd::BorrowedFd<'_> {
        self.lock.as_fd()
    }

    fn file(&self) -> PathBuf {
        self.path.join("gateway.json")
    }

    /// Replaces the file: written beside it, synced, renamed, and the directory synced.
    pub(crate) fn save(&self, state: &State) -> Result<()> {
        let temporary = self.path.join("gateway.json.new");
        let failed = |action| GatewayError::path(action, &temporary);
        let mut file = fs::OpenOptions::new()
            .create(true)
            .truncate(true)
            .write(true)
            .mode(0o600)
            .open(&temporary)
            .map_err(failed("open"))?;
        let bytes =
            serde_json::to_vec_pretty(state).map_err(|error| failed("write")(error.into()))?;
        file.write_all(&bytes).map_err(failed("write"))?;
        file.sync_all().map_err(failed("sync"))?;
        fs::rename(&temporary, self.file()).map_err(failed("rename"))?;
        let directory = fs::File::open(&self.path);
        directory
            .and_then(|directory| directory.sync_all())
            .map_err(GatewayError::path("sync", &self.path))
    }

    /// The saved state; `None` when there is none.
    pub(crate) fn load(&self) -> Result<Option<State>> {
        let path = self.file();
        let unusable = |reason: String| GatewayError::State {
            path: path.clone(),
            reason,
        };
        match fs::metadata(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(GatewayError::path("read", &path)(error)),
            Ok(metadata) if metadata.len() > MOST => {
                return Err(unusable(format!("it is larger than {MOST} bytes")));
            }
            Ok(_) => {}
        }
        let bytes = fs::read(&path).map_err(GatewayError::path("read", &path))?;
        let head: Head =
            serde_json::from_slice(&bytes).map_err(|error| unusable(error.to_string()))?;
        if head.format != FORMAT || head.version != VERSION {
            return Err(unusable(format!(
                "it is {:?} version {}, this gateway reads {FORMAT:?} version {VERSION}",
                head.format, head.version
            )));
        }
        if let Some(feature) = head.incompatible.first() {
            return Err(unusable(format!(
                "it needs the unknown feature {feature:?}"
            )));
        }
        let state = serde_json::from_slice(&bytes).map_err(|error| unusable(error.to_string()))?;
        Ok(Some(state))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_saved_state_comes_back_and_foreign_ones_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let state_dir = StateDir::open(directory.path()).unwrap();
        assert_eq!(state_dir.load().unwrap(), None);
        let state = State::new(Config::default(), [("web".to_owned(), 7)].into());
        state_dir.save(&state).unwrap();
        assert_eq!(state_dir.load().unwrap(), Some(state));
        for (text, expected) in [
            ("", "EOF"),
            (r#"{"format":"other","version":1}"#, "version 1"),
            (
                r#"{"format":"invar-gateway-state","version":2}"#,
                "version 2",
            ),
            (
                r#"{"format":"invar-gateway-state","version":1,"incompatible":["x"]}"#,
                "unknown feature",
            ),
        ] {
            fs::write(state_dir.file(), text).unwrap();
            let error = state_dir.load().unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    #[test]
    fn a_state_directory_has_one_gateway() {
        let directory = tempfile::tempdir().unwrap();
        let first = StateDir::open(directory.path()).unwrap();
        let second = StateDir::open(directory.path());
        assert!(matches!(second, Err(GatewayError::AlreadyRunning { .. })));
        drop(first);
        StateDir::open(directory.path()).unwrap();
    }
}
