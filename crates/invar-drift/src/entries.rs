//! The names of one merged directory that need a look, in portions for many cores.

use std::collections::HashSet;
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd as _, OwnedFd};

use crate::dir::{names, stat};
use crate::overlay::is_whiteout;
use crate::walk::{Handles, Place};

/// Entries handled by one job.
const CHUNK: usize = 1024;

/// Some entries of one directory.
pub(crate) struct Chunk {
    pub(crate) place: Place,
    pub(crate) has_xwhiteouts: bool,
    /// Names that upper has.
    pub(crate) upper: Vec<CString>,
    /// Names that show through from a source which is not the base, and must be compared.
    pub(crate) shown: Vec<CString>,
    /// Names of the base that the merged directory has no more.
    pub(crate) deleted: Vec<CString>,
}

/// The names of one merged directory that need a look.
pub(crate) struct Entries {
    upper: Vec<CString>,
    shown: Vec<CString>,
    deleted: Vec<CString>,
}

impl Entries {
    pub(crate) fn list(place: &Place, handles: &Handles) -> rustix::io::Result<Self> {
        let list = |dir: &Option<OwnedFd>| dir.as_ref().map_or(Ok(Vec::new()), names);
        let upper = list(&handles.upper)?;
        if place.shows_base() {
            return Ok(Self {
                upper,
                shown: Vec::new(),
                deleted: Vec::new(),
            });
        }
        let mut shown = list(&handles.source)?;
        let mut deleted = list(&handles.base)?;
        if !shown.is_empty() || !deleted.is_empty() {
            let over: HashSet<&CStr> = upper.iter().map(CString::as_c_str).collect();
            shown.retain(|name| !over.contains(name.as_c_str()));
        }
        if !deleted.is_empty() {
            let mut kept: HashSet<&CStr> = shown.iter().map(CString::as_c_str).collect();
            for name in &upper {
                if let Some(dir) = &handles.upper
                    && !is_whiteout(&stat(dir.as_fd(), name)?)
                {
                    kept.insert(name);
                }
            }
            deleted.retain(|name| !kept.contains(name.as_c_str()));
        }
        Ok(Self {
            upper,
            shown,
            deleted,
        })
    }

    pub(crate) fn chunks(self, place: &Place, has_xwhiteouts: bool) -> Vec<Chunk> {
        let empty = || Chunk {
            place: place.clone(),
            has_xwhiteouts,
            upper: Vec::new(),
            shown: Vec::new(),
            deleted: Vec::new(),
        };
        let mut chunks = Vec::new();
        for upper in split(self.upper) {
            chunks.push(Chunk { upper, ..empty() });
        }
        for shown in split(self.shown) {
            chunks.push(Chunk { shown, ..empty() });
        }
        for deleted in split(self.deleted) {
            chunks.push(Chunk { deleted, ..empty() });
        }
        chunks.retain(|chunk| {
            !(chunk.upper.is_empty() && chunk.shown.is_empty() && chunk.deleted.is_empty())
        });
        chunks
    }
}

fn split(mut names: Vec<CString>) -> Vec<Vec<CString>> {
    let mut parts = Vec::new();
    while names.len() > CHUNK {
        parts.push(names.split_off(names.len() - CHUNK));
    }
    parts.push(names);
    parts
}
