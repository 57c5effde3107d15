//! The names of one merged directory that need a look, in portions for many cores.

use std::collections::HashSet;
use std::ffi::CStr;
use std::ops::Range;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;

use crate::dir::{Names, names, stat_if_present};
use crate::walk::{Handles, Place};

/// Entries handled by one job.
const CHUNK: usize = 1024;

/// Where a name was found, and so what is to be asked of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// In upper.
    Upper,
    /// It shows through from a source which is not the base, and must be compared.
    Shown,
    /// In the base, and the merged directory has it no more.
    Deleted,
}

/// Some entries of one directory.
pub(crate) struct Chunk {
    pub(crate) place: Arc<Place>,
    pub(crate) role: Role,
    names: Arc<Names>,
    range: Range<usize>,
}

impl Chunk {
    pub(crate) fn names(&self) -> impl ExactSizeIterator<Item = (&CStr, rustix::fs::FileType)> {
        self.range.clone().map(|index| self.names.get(index))
    }
}

/// The names of one merged directory that need a look.
pub(crate) fn list(place: &Place, handles: &Handles) -> rustix::io::Result<Vec<(Role, Names)>> {
    let list = |dir: &Option<OwnedFd>| dir.as_ref().map_or(Ok(Names::default()), names);
    let upper = list(&handles.upper)?;
    if place.shows_base() {
        return Ok(vec![(Role::Upper, upper)]);
    }
    let mut shown = list(&handles.source)?;
    let mut deleted = list(&handles.base)?;
    if shown.len() > 0 {
        let over: HashSet<&CStr> = upper.iter().map(|(name, _)| name).collect();
        shown = shown.filtered(|name| !over.contains(name));
    }
    if deleted.len() > 0 {
        let mut kept: HashSet<&CStr> = shown.iter().map(|(name, _)| name).collect();
        for (name, _) in upper.iter() {
            let Some(dir) = handles.upper.as_ref().map(OwnedFd::as_fd) else {
                continue;
            };
            let is_there = match stat_if_present(dir, name)? {
                Some(stat) => !place.is_whiteout(dir, name, &stat)?,
                None => false,
            };
            if is_there {
                kept.insert(name);
            }
        }
        deleted = deleted.filtered(|name| !kept.contains(name));
    }
    Ok(vec![
        (Role::Upper, upper),
        (Role::Shown, shown),
        (Role::Deleted, deleted),
    ])
}

/// The same in portions.
pub(crate) fn chunks(lists: Vec<(Role, Names)>, place: &Arc<Place>) -> Vec<Chunk> {
    let mut chunks = Vec::new();
    for (role, names) in lists {
        let names = Arc::new(names);
        for start in (0..names.len()).step_by(CHUNK) {
            chunks.push(Chunk {
                place: Arc::clone(place),
                role,
                range: start..names.len().min(start + CHUNK),
                names: Arc::clone(&names),
            });
        }
    }
    chunks
}
