//! Which container a directory of the host belongs to, and under which path.

use std::collections::HashMap;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd};
use std::os::unix::ffi::OsStringExt as _;
use std::sync::Arc;

use fs_err as fs;
use invar_sys::fanotify::Entry;
use invar_sys::handle::{FileHandle, open_handle};

use crate::files::Watched;

/// Directories whose place is remembered; most are not of a container.
const MOST: usize = 65_536;

type Key = ([u8; 8], FileHandle);
type Found = Option<(Arc<Watched>, Vec<u8>)>;

/// The places of directories seen so far.
#[derive(Debug, Default)]
pub(crate) struct Places {
    known: HashMap<Key, Found>,
}

impl Places {
    /// The container's path of an entry of a directory of the host.
    pub(crate) fn find(&mut self, entry: &Entry, watched: &[Arc<Watched>]) -> Found {
        let key = (entry.file_system, entry.directory.clone());
        let found = if let Some(found) = self.known.get(&key) {
            found.clone()
        } else {
            let found = resolve(entry, watched);
            if self.known.len() >= MOST {
                self.known.clear();
            }
            self.known.insert(key, found.clone());
            found
        };
        let (of, mut path) = found?;
        if entry.name != b"." {
            path.push(b'/');
            path.extend_from_slice(&entry.name);
        }
        if path.is_empty() {
            path.push(b'/');
        }
        Some((of, path))
    }

    /// Forgets all: a directory was moved, or other containers are watched.
    pub(crate) fn clear(&mut self) {
        self.known.clear();
    }
}

fn resolve(entry: &Entry, watched: &[Arc<Watched>]) -> Found {
    let here = watched
        .iter()
        .filter(|watched| watched.file_system == entry.file_system);
    let mut opened = None;
    for watched in here {
        if opened.is_none() {
            let handle = open_handle(watched.upper.as_fd(), &entry.directory).ok()?;
            opened = Some(path_of(handle.as_fd())?);
        }
        let path = opened.as_ref()?;
        let rest = path.strip_prefix(watched.path.as_slice());
        if let Some(rest) = rest.filter(|rest| rest.is_empty() || rest[0] == b'/') {
            return Some((Arc::clone(watched), rest.to_vec()));
        }
    }
    None
}

/// Where a handle is on the host.
pub(crate) fn path_of(fd: BorrowedFd<'_>) -> Option<Vec<u8>> {
    let link = format!("/proc/self/fd/{}", fd.as_raw_fd());
    let path = fs::read_link(link).ok()?.into_os_string().into_vec();
    (!path.ends_with(b" (deleted)")).then_some(path)
}
