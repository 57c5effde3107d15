//! Where evidence is kept.
//!
//! ```text
//!  <root>/evidence/.incomplete-<id>/   being captured, or left by a capture that broke off
//!  <root>/evidence/<id>/               sealed
//!  <root>/evidence/.removing-<id>/     being removed
//!  <root>/trust/evidence.{key,pub}     what it is signed with
//! ```
//!
//! A capture holds a lock on its directory's `lock` file, so that one at work can be told from one
//! that was killed. Sealing ends with one rename.

use std::path::{Path, PathBuf};

use fs_err as fs;
use invar_engine::ContainerId;

use crate::capture::log::Log;
use crate::error::{EvidenceError, Result};
use crate::files;
use crate::header::Header;
use crate::id::EvidenceId;
use crate::limits::Limits;

const INCOMPLETE: &str = ".incomplete-";
const REMOVING: &str = ".removing-";
pub(crate) const LOCK: &str = "lock";

/// What was seen of a container while it ran, as lines of JSON; `None` when nothing watched it.
pub type Witness = dyn Fn(&ContainerId) -> Option<Vec<u8>> + Send + Sync;

/// All evidence below one state root.
pub struct EvidenceStore {
    state_root: PathBuf,
    dir: PathBuf,
    witness: Option<Box<Witness>>,
}

impl std::fmt::Debug for EvidenceStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EvidenceStore")
            .field("dir", &self.dir)
            .finish_non_exhaustive()
    }
}

/// How far a piece of evidence has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// A process is taking it.
    Capturing,
    /// All was taken; a process is hashing and signing it.
    Sealing,
    /// Its capture broke off; what was taken is here.
    Incomplete,
    /// Hashed, signed and read-only.
    Sealed,
}

/// One piece of evidence.
#[derive(Debug, Clone)]
pub struct Evidence {
    /// Its id.
    pub id: EvidenceId,
    /// How far it has come.
    pub state: State,
    /// Its directory.
    pub dir: PathBuf,
    /// What it is of; `None` when the capture was killed before it wrote that, or it is damaged.
    pub header: Option<Header>,
}

impl Evidence {
    /// Whether its capture broke off while it had the container frozen. The container may have
    /// been thawed or ended since: its engine knows.
    pub fn left_frozen(&self) -> bool {
        self.state == State::Incomplete && crate::capture::left_frozen(&self.dir)
    }

    /// Whether its capture broke off when all was taken, and it only has to be sealed.
    pub fn is_unsealed(&self) -> bool {
        self.state == State::Incomplete && crate::capture::is_kept(&self.dir)
    }

    /// Waits for the process that is writing it, however that ends.
    pub fn wait(&self) -> Result<()> {
        let path = self.dir.join(LOCK);
        let lock = match fs::OpenOptions::new().write(true).open(&path) {
            // It is sealed.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            opened => opened.map_err(EvidenceError::io("open", &path))?,
        };
        while invar_sys::lock::is_locked(&lock).map_err(EvidenceError::io("wait for", &path))? {
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        Ok(())
    }
}

/// Evidence that is being written; nobody else writes it as long as this lives.
#[derive(Debug)]
pub(crate) struct Draft {
    pub(crate) header: Header,
    pub(crate) dir: PathBuf,
    pub(crate) log: Log,
    lock: fs::File,
}

impl EvidenceStore {
    /// Opens the evidence of a state root; its directories are made when missing.
    pub fn open(state_root: &Path) -> Result<Self> {
        let store = Self {
            state_root: state_root.to_owned(),
            dir: state_root.join("evidence"),
            witness: None,
        };
        files::private_dir(&store.dir)?;
        files::private_dir(&store.trust())?;
        Ok(store)
    }

    /// The same, where each capture also asks who has seen what happened.
    #[must_use]
    pub fn with_witness(mut self, witness: Box<Witness>) -> Self {
        self.witness = Some(witness);
        self
    }

    pub(crate) fn ask_witness(&self, container: &ContainerId) -> Option<Vec<u8>> {
        self.witness.as_ref().and_then(|witness| witness(container))
    }

    /// Where keys are kept.
    pub(crate) fn trust(&self) -> PathBuf {
        self.state_root.join("trust")
    }

    /// Where replacements write down what they are about to do.
    pub(crate) fn replacements(&self) -> PathBuf {
        self.state_root.join("replacements")
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Whether a directory belongs to this state root, so that Invar may move it.
    pub(crate) fn owns(&self, path: &Path) -> bool {
        let canonical = |path: &Path| fs::canonicalize(path).ok();
        match (canonical(path), canonical(&self.state_root)) {
            (Some(path), Some(root)) => path.starts_with(root),
            _ => false,
        }
    }

    /// Everything there is, oldest first.
    pub fn list(&self) -> Result<Vec<Evidence>> {
        let mut found = Vec::new();
        let entries = fs::read_dir(&self.dir).map_err(EvidenceError::io("list", &self.dir))?;
        for entry in entries {
            let entry = entry.map_err(EvidenceError::io("list", &self.dir))?;
            let name = entry.file_name();
            let Some(name) = name.to_str() else { continue };
            let id = name.strip_prefix(INCOMPLETE).unwrap_or(name);
            if let Ok(id) = EvidenceId::parse(id) {
                found.push(evidence(id, entry.path(), name.starts_with(INCOMPLETE)));
            }
        }
        found.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(found)
    }

    /// The evidence with this id, or with an id that starts or ends with this.
    pub fn find(&self, text: &str) -> Result<Evidence> {
        let mut fitting: Vec<Evidence> = self
            .list()?
            .into_iter()
            .filter(|evidence| {
                let id = evidence.id.as_str();
                !text.is_empty() && (id.starts_with(text) || id.ends_with(text))
            })
            .collect();
        match fitting.len() {
            1 => Ok(fitting.remove(0)),
            0 => Err(EvidenceError::NotFound {
                name: text.to_owned(),
            }),
            count => Err(EvidenceError::Ambiguous {
                name: text.to_owned(),
                count,
            }),
        }
    }

    /// Removes evidence. One that a process is writing is refused.
    pub fn remove(&self, evidence: &Evidence) -> Result<()> {
        let lock = match evidence.state {
            State::Sealed => None,
            State::Capturing | State::Sealing | State::Incomplete => Some(lock_draft(evidence)?),
        };
        let doomed = self.dir.join(format!("{REMOVING}{}", evidence.id));
        fs::rename(&evidence.dir, &doomed).map_err(EvidenceError::io("remove", &evidence.dir))?;
        drop(lock);
        invar_sys::tree::remove(&doomed).map_err(EvidenceError::io("remove", &doomed))
    }

    /// Finishes removals that were killed half-way.
    pub fn clean(&self) -> Result<()> {
        let entries = fs::read_dir(&self.dir).map_err(EvidenceError::io("list", &self.dir))?;
        for entry in entries {
            let entry = entry.map_err(EvidenceError::io("list", &self.dir))?;
            if entry
                .file_name()
                .as_encoded_bytes()
                .starts_with(REMOVING.as_bytes())
            {
                let path = entry.path();
                invar_sys::tree::remove(&path).map_err(EvidenceError::io("remove", &path))?;
            }
        }
        Ok(())
    }

    /// Begins a piece of evidence.
    pub(crate) fn begin(&self, header: Header, limits: &Limits) -> Result<Draft> {
        let dir = self.dir.join(format!("{INCOMPLETE}{}", header.id));
        fs::create_dir(&dir).map_err(EvidenceError::io("create", &dir))?;
        set_mode(&dir, 0o700)?;
        let lock = files::create(&dir.join(LOCK))?;
        take_lock(&lock, &header.id)?;
        header.write(&dir)?;
        let log = Log::open(&dir, limits.gaps)?;
        Ok(Draft {
            header,
            dir,
            log,
            lock,
        })
    }

    /// Goes on with evidence that a killed process left.
    pub(crate) fn take_up(evidence: &Evidence, limits: &Limits) -> Result<Draft> {
        if evidence.state == State::Sealed {
            return Err(EvidenceError::AlreadySealed {
                id: evidence.id.to_string(),
            });
        }
        let lock = lock_draft(evidence)?;
        let header = Header::read(&evidence.dir)?;
        let log = Log::open(&evidence.dir, limits.gaps)?;
        Ok(Draft {
            header,
            dir: evidence.dir.clone(),
            log,
            lock,
        })
    }

    /// Makes a sealed draft visible as such.
    pub(crate) fn publish(&self, draft: Draft) -> Result<Evidence> {
        let Draft {
            header, dir, lock, ..
        } = draft;
        let place = self.dir.join(header.id.as_str());
        fs::rename(&dir, &place).map_err(EvidenceError::io("seal", &dir))?;
        // Not before: without it, it would look like a draft that nobody writes.
        let lock_path = place.join(LOCK);
        fs::remove_file(&lock_path).map_err(EvidenceError::io("remove", &lock_path))?;
        set_mode(&place, 0o500)?;
        files::sync_dir(&self.dir)?;
        drop(lock);
        Ok(Evidence {
            id: header.id.clone(),
            state: State::Sealed,
            dir: place,
            header: Some(header),
        })
    }
}

fn lock_draft(evidence: &Evidence) -> Result<fs::File> {
    let path = evidence.dir.join(LOCK);
    let mut options = fs::OpenOptions::new();
    options.write(true).create(true);
    let lock = options
        .open(&path)
        .map_err(EvidenceError::io("open", &path))?;
    take_lock(&lock, &evidence.id)?;
    Ok(lock)
}

fn take_lock(lock: &fs::File, id: &EvidenceId) -> Result<()> {
    match invar_sys::lock::try_lock(lock) {
        Ok(true) => Ok(()),
        Ok(false) => Err(EvidenceError::Busy { id: id.to_string() }),
        Err(error) => Err(EvidenceError::io("lock", lock.path())(error)),
    }
}

fn evidence(id: EvidenceId, dir: PathBuf, is_incomplete: bool) -> Evidence {
    let is_locked = || {
        fs::OpenOptions::new()
            .write(true)
            .open(dir.join(LOCK))
            .and_then(|lock| invar_sys::lock::is_locked(&lock))
            .unwrap_or(false)
    };
    let state = match is_incomplete {
        false => State::Sealed,
        true if is_locked() && crate::capture::is_kept(&dir) => State::Sealing,
        true if is_locked() => State::Capturing,
        true => State::Incomplete,
    };
    Evidence {
        id,
        state,
        header: Header::read(&dir).ok(),
        dir,
    }
}

pub(crate) fn set_mode(path: &Path, mode: u32) -> Result<()> {
    let permissions = std::os::unix::fs::PermissionsExt::from_mode(mode);
    fs::set_permissions(path, permissions).map_err(EvidenceError::io("change the mode of", path))
}
