//! What a replacement is about to do, on disk, so that one that was killed can be told and undone
//! or finished: `<root>/replacements/<old id>.json`, locked while it is at work.

use std::path::PathBuf;

use fs_err as fs;
use invar_engine::{ContainerId, ContainerName};
use serde::{Deserialize, Serialize};

use crate::error::{EvidenceError, Result};
use crate::files;
use crate::store::EvidenceStore;

const LONGEST: u64 = 64 << 10;

/// One replacement.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Plan {
    pub(super) engine: String,
    pub(super) old: ContainerId,
    /// The name that changes hands.
    pub(super) name: ContainerName,
    /// What the fresh container is called until then.
    pub(super) fresh_name: ContainerName,
    /// What the old container is called from then on.
    pub(super) old_name: ContainerName,
    /// Whether the old container may be removed only once its evidence is sealed.
    pub(super) captures: bool,
}

/// A journal that nobody else is using.
#[derive(Debug)]
pub(super) struct Journal {
    pub(super) plan: Plan,
    path: PathBuf,
    _lock: fs::File,
}

impl Journal {
    /// Writes down a plan. The same container cannot be replaced by two processes at once.
    pub(super) fn write(store: &EvidenceStore, plan: Plan) -> Result<Self> {
        let dir = store.replacements();
        files::private_dir(&dir)?;
        let path = dir.join(format!("{}.json", plan.old));
        let lock = Self::lock(&path, &plan.old)?;
        let bytes = serde_json::to_vec(&plan).expect("a plan is plain data");
        files::replace(&path, &bytes)?;
        Ok(Self {
            plan,
            path,
            _lock: lock,
        })
    }

    /// The journals that killed processes left.
    pub(super) fn left(store: &EvidenceStore) -> Result<Vec<Self>> {
        let dir = store.replacements();
        files::private_dir(&dir)?;
        let mut found = Vec::new();
        for entry in fs::read_dir(&dir).map_err(EvidenceError::io("list", &dir))? {
            let path = entry.map_err(EvidenceError::io("list", &dir))?.path();
            if path.extension().is_none_or(|ending| ending != "json") {
                continue;
            }
            let bytes = files::read(&path, LONGEST)?;
            let plan: Plan = serde_json::from_slice(&bytes)
                .map_err(|error| EvidenceError::malformed(path.display().to_string(), error))?;
            match Self::lock(&path, &plan.old) {
                Ok(lock) => found.push(Self {
                    plan,
                    path,
                    _lock: lock,
                }),
                Err(EvidenceError::Busy { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(found)
    }

    /// Forgets the replacement: it is done or undone.
    pub(super) fn close(self) -> Result<()> {
        fs::remove_file(&self.path).map_err(EvidenceError::io("remove", &self.path))?;
        let lock = lock_path(&self.path);
        fs::remove_file(&lock).map_err(EvidenceError::io("remove", &lock))
    }

    fn lock(path: &std::path::Path, old: &ContainerId) -> Result<fs::File> {
        let path = lock_path(path);
        let lock = files::create(&path)?;
        match invar_sys::lock::try_lock(&lock) {
            Ok(true) => Ok(lock),
            Ok(false) => Err(EvidenceError::Busy {
                id: format!("of container {}", old.short()),
            }),
            Err(error) => Err(EvidenceError::io("lock", &path)(error)),
        }
    }
}

fn lock_path(path: &std::path::Path) -> PathBuf {
    path.with_extension("lock")
}
