//! What a change shows although it is not in the upper directory: the content of a file of which
//! only the metadata was copied up, and all that is in a directory that was renamed.
//!
//! It is read through a read-only mount of both together and kept, so that the evidence does not
//! depend on the image being there later.

use std::ffi::CString;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::Path;

use invar_drift::open_beneath;
use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};

use super::log::Log;
use super::{held, upper};
use crate::digest;
use crate::error::{EvidenceError, Result};
use crate::files;
use crate::limits::Budget;
use crate::tree::entry::{Entry, EntryKind};
use crate::tree::take;
use crate::tree::walk::Found;
use crate::tree::{name, open_dir, open_file, parent, stat};

/// Its name in the evidence.
pub(crate) const NAME: &str = "below.jsonl";
/// overlayfs's mark of a file whose content is below.
const METACOPY: &str = "trusted.overlay.metacopy";

/// One line of the index.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Line {
    /// As the container showed it.
    pub(crate) entry: Entry,
    /// Name of a file's kept bytes below `files/`.
    pub(crate) kept: Option<String>,
}

/// Looks below when that is needed.
pub(super) struct Below<'a> {
    lower: BorrowedFd<'a>,
    dir: &'a Path,
    budget: &'a mut Budget,
    merged: Option<OwnedFd>,
    index: Vec<u8>,
    count: usize,
}

impl<'a> Below<'a> {
    pub(super) fn new(lower: BorrowedFd<'a>, dir: &'a Path, budget: &'a mut Budget) -> Self {
        Self {
            lower,
            dir,
            budget,
            merged: None,
            index: Vec::new(),
            count: 0,
        }
    }

    /// Whether an entry of the upper directory does not say what the container shows.
    pub(super) fn is_needed(entry: Option<&Entry>) -> bool {
        entry.is_none_or(|entry| entry.attributes.contains_key(METACOPY))
    }

    /// What the container shows at a path; kept. `None` when it cannot be read, which is recorded.
    pub(super) fn keep(&mut self, path: &[u8], log: &mut Log) -> Result<Option<Entry>> {
        match self.try_keep(path) {
            Ok(entry) => Ok(Some(entry)),
            Err(error) => {
                log.not_captured(path, error.chain())?;
                Ok(None)
            }
        }
    }

    fn try_keep(&mut self, path: &[u8]) -> Result<Entry> {
        let failed = || {
            let shown = crate::text::shown(path);
            EvidenceError::io::<rustix::io::Errno>("read what the container shows at", shown)
        };
        if self.merged.is_none() {
            let place = upper::place(self.dir);
            let taken = open_dir(&place).map_err(EvidenceError::io("open", &place))?;
            let merged = invar_sys::mount::merged(taken.as_fd(), self.lower);
            self.merged = Some(merged.map_err(EvidenceError::io("mount", &place))?);
        }
        let root = self.merged.as_ref().expect("it was just mounted").as_fd();
        let way = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW;
        let above = open_beneath(root, parent(path), way).map_err(failed())?;
        let name = CString::new(name(path)).expect("a path holds no NUL");
        let stat = stat(above.as_fd(), &name).map_err(failed())?;
        let mut entry = Entry::read(&Found {
            dir: above.as_fd(),
            name: &name,
            path,
            stat: &stat,
        })
        .map_err(failed())?;
        let mut kept = None;
        if entry.kind == EntryKind::File {
            let file = open_file(root, path).map_err(failed())?;
            let read = digest::content(&file);
            entry.digest = Some(read.map_err(|error| EvidenceError::io("read", "it")(error))?);
            kept = Some(self.copy(&file)?);
        }
        let line = Line {
            entry: entry.clone(),
            kept,
        };
        serde_json::to_writer(&mut self.index, &line).expect("a line is plain data");
        self.index.push(b'\n');
        Ok(entry)
    }

    /// Copies a whole file, or fails when that is over the limit.
    fn copy(&mut self, file: &OwnedFd) -> Result<String> {
        let name = format!("below-{:04}", self.count);
        self.count += 1;
        files::private_dir(&self.dir.join(held::DIR))?;
        let path = self.dir.join(held::DIR).join(&name);
        let target = OwnedFd::from(files::create(&path)?.into_parts().0);
        let copied = take::content(file, &target, self.budget.allowance(), &mut || Ok(()))
            .map_err(EvidenceError::io("write", &path))?;
        self.budget.spend(copied.bytes);
        if copied.is_whole {
            return Ok(name);
        }
        fs_err::remove_file(&path).map_err(EvidenceError::io("remove", &path))?;
        Err(EvidenceError::malformed(
            "its content",
            "it is over the limit",
        ))
    }

    /// Writes the index when there is anything in it.
    pub(super) fn finish(self) -> Result<()> {
        if self.index.is_empty() {
            return Ok(());
        }
        files::write(&self.dir.join(NAME), &self.index)
    }
}
