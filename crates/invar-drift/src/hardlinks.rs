//! Names that changed with another one: an overlay with `index=on` keeps a file with several names
//! once, and upper shows it under the names it was written through only.

use std::collections::HashMap;
use std::ffi::CString;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::atomic::Ordering;

use rustix::fs::{FileType, OFlags, Statx};
use rustix::io::{Errno, Result};

use crate::ancestors::Run;
use crate::change::{Change, Kind, Reason};
use crate::compare::{self, CAPABILITY, Entry};
use crate::content;
use crate::detail::{Detail, Digest, Provenance, State};
use crate::dir::{
    file_type, get_attribute, has_changed, names, open_beneath, open_dir, open_file, stat,
};
use crate::judge::{self, Facts};
use crate::origin::Origin;
use crate::overlay::{DirMarks, Location, is_whiteout, join, parent};
use crate::walk::{Found, Walk, read_error};

/// Adds the other names of files that upper shows under one name only. The image is searched for
/// them, which is done only when there is such a file.
pub(crate) fn add(walk: &Walk<'_>, found: &mut Found) -> crate::Result<()> {
    if found.indexed.is_empty() {
        return Ok(());
    }
    let written: HashMap<Origin, Vec<u8>> = found.indexed.drain(..).collect();
    let mut others = Vec::new();
    let mut dirs = vec![b"/".to_vec()];
    while let Some(dir) = dirs.pop() {
        search(walk, &dir, &written, &mut dirs, &mut others)
            .map_err(|errno| read_error("list", &dir, errno))?;
    }
    for (path, shown) in others {
        let other = match other_name(walk, &path, shown) {
            Err(errno) if has_changed(errno) => {
                walk.unstable.fetch_add(1, Ordering::Relaxed);
                continue;
            }
            other => other,
        };
        let other = other.map_err(|errno| read_error("look at", &path, errno))?;
        found.runs.extend(other.map(Run::from));
    }
    Ok(())
}

/// Looks for names of the written files in one directory of the image.
fn search<'w>(
    walk: &Walk<'_>,
    path: &[u8],
    written: &'w HashMap<Origin, Vec<u8>>,
    dirs: &mut Vec<Vec<u8>>,
    others: &mut Vec<(Vec<u8>, &'w [u8])>,
) -> Result<()> {
    let dir = open_dir(walk.lower, path)?;
    for (name, _) in names(&dir)?.iter() {
        let stat = stat(dir.as_fd(), name)?;
        if file_type(&stat) == FileType::Directory {
            dirs.push(join(path, name.to_bytes()));
        } else if stat.stx_nlink > 1 {
            let origin = Origin::of_lower(dir.as_fd(), name)?;
            if let Some(shown) = origin.and_then(|origin| written.get(&origin)) {
                others.push((join(path, name.to_bytes()), shown));
            }
        }
    }
    Ok(())
}

/// A path by the handle of its directory.
struct Located {
    dir: OwnedFd,
    name: CString,
    stat: Statx,
}

impl Located {
    fn find(root: BorrowedFd<'_>, path: &[u8]) -> Result<Self> {
        let dir = open_dir(root, parent(path))?;
        let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
        let name = CString::new(name).map_err(|_nul| Errno::INVAL)?;
        let stat = stat(dir.as_fd(), &name)?;
        Ok(Self { dir, name, stat })
    }

    fn entry(&self) -> Entry<'_> {
        Entry {
            dir: self.dir.as_fd(),
            name: &self.name,
            stat: &self.stat,
        }
    }
}

/// The change of a name whose file upper has under the name `shown`. `None` when there is none,
/// when upper has the name by itself, or when it shows through no more.
fn other_name(walk: &Walk<'_>, path: &[u8], shown: &[u8]) -> Result<Option<Change>> {
    if !shows_through(walk, path)? {
        return Ok(None);
    }
    let (new, old) = (
        Located::find(walk.upper, shown)?,
        Located::find(walk.lower, path)?,
    );
    let (new, old) = (new.entry(), old.entry());
    let namespace = walk.options.namespace;
    let mut difference = compare::metadata(new, old, namespace)?;
    let is_file = file_type(new.stat) == FileType::RegularFile;
    let has_content = is_file && Location::of(new.dir, new.name, namespace)? == Location::Here;
    if walk.options.content && has_content && !difference.reasons.contains(Reason::Size) {
        let differs = !content::same(&open(new)?, &open(old)?)?;
        difference.reasons.add(Reason::Content, differs);
    }
    if difference.reasons.is_empty() {
        return Ok(None);
    }
    let facts = Facts {
        file_type: file_type(new.stat),
        mode: new.stat.stx_mode,
        has_capability: get_attribute(new.dir, new.name, CAPABILITY)?.is_some(),
        reasons: difference.reasons,
        ..Facts::of_name(path, Kind::Changed)
    };
    let candidates = walk.rules.in_directory(parent(path));
    let rule = facts.judge(&candidates);
    let changed = Some(Kind::Changed);
    let compatible = changed.filter(|_| difference.is_compatible);
    let mut change = judge::change(path.to_vec(), compatible, changed, difference.reasons, rule);
    if walk.options.detail {
        change.detail = Some(Box::new(Detail {
            provenance: Some(Provenance::Edited),
            old: Some(state(walk, old, old)?),
            new: Some(state(walk, new, if has_content { new } else { old })?),
        }));
    }
    Ok(Some(change))
}

fn open(entry: Entry<'_>) -> Result<content::Content> {
    open_file(entry.dir, entry.name.to_bytes())
}

fn state(walk: &Walk<'_>, entry: Entry<'_>, holds: Entry<'_>) -> Result<State> {
    let mut state = State::read(entry, walk.options.namespace)?;
    if walk.options.content && state.file_type == FileType::RegularFile {
        state.digest = open(holds).map_or(Digest::Unreadable, |file| file.digest());
    }
    Ok(state)
}

/// Whether upper neither has a path nor hides it.
fn shows_through(walk: &Walk<'_>, path: &[u8]) -> Result<bool> {
    let slashes = path
        .iter()
        .enumerate()
        .skip(1)
        .filter(|(_, byte)| **byte == b'/');
    for end in slashes.map(|(at, _)| at).chain([path.len()]) {
        let way = OFlags::PATH | OFlags::NOFOLLOW;
        let entry = match open_beneath(walk.upper, &path[..end], way) {
            Ok(entry) => entry,
            Err(Errno::NOENT) => return Ok(true),
            Err(errno) => return Err(errno),
        };
        let found = stat(entry.as_fd(), c"")?;
        if is_whiteout(&found) || file_type(&found) != FileType::Directory {
            return Ok(false);
        }
        let dir = open_dir(walk.upper, &path[..end])?;
        let marks = DirMarks::read(dir.as_fd(), walk.options.namespace)?;
        if marks.is_opaque || marks.redirect.is_some() {
            return Ok(false);
        }
    }
    Ok(false)
}
