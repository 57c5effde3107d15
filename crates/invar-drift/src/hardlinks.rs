//! Names that changed with another one: an overlay with `index=on` keeps a file with several names
//! once, and upper shows it under the names it was written through only.

use std::collections::HashMap;
use std::os::fd::AsFd as _;

use rustix::fs::{FileType, OFlags, Statx};
use rustix::io::{Errno, Result};

use crate::change::Change;
use crate::dir::{file_type, names, open_beneath, open_dir, stat};
use crate::judge::{self, Facts};
use crate::overlay::{DirMarks, is_whiteout, join, parent};
use crate::walk::{Found, Walk, read_error};

/// Names an inode within the lower directory.
pub(crate) type Inode = (u32, u32, u64);

pub(crate) fn inode(stat: &Statx) -> Inode {
    (stat.stx_dev_major, stat.stx_dev_minor, stat.stx_ino)
}

/// Adds the other names of files that upper shows under one name only. The image is searched for
/// them, which is done only when there is such a file.
pub(crate) fn add(walk: &Walk<'_>, found: &mut Found) -> crate::Result<()> {
    if found.indexed.is_empty() {
        return Ok(());
    }
    let written: HashMap<Inode, &[u8]> = found
        .indexed
        .iter()
        .map(|(inode, path)| (*inode, path.as_slice()))
        .collect();
    let mut others = Vec::new();
    let mut dirs = vec![b"/".to_vec()];
    while let Some(dir) = dirs.pop() {
        let each = |path: Vec<u8>, stat: &Statx| match file_type(stat) {
            FileType::Directory => dirs.push(path),
            _ => {
                if let Some(shown) = written.get(&inode(stat)) {
                    others.push((path, shown.to_vec()));
                }
            }
        };
        list(walk, &dir, each).map_err(|errno| read_error("list", &dir, errno))?;
    }
    for (path, shown) in others {
        let other = other_name(walk, found, &path, &shown);
        found
            .changes
            .extend(other.map_err(|errno| read_error("look at", &path, errno))?);
    }
    Ok(())
}

fn list(walk: &Walk<'_>, path: &[u8], mut each: impl FnMut(Vec<u8>, &Statx)) -> Result<()> {
    let dir = open_dir(walk.lower, path)?;
    for (name, _) in names(&dir)?.iter() {
        each(join(path, name.to_bytes()), &stat(dir.as_fd(), name)?);
    }
    Ok(())
}

/// The change of a name, which is that of the name upper shows. `None` for one that upper has by
/// itself, or that shows through no more.
fn other_name(walk: &Walk<'_>, found: &Found, path: &[u8], shown: &[u8]) -> Result<Option<Change>> {
    let told = found.changes.iter().find(|change| change.path == shown);
    let (Some(told), true) = (told, shows_through(walk, path)?) else {
        return Ok(None);
    };
    let file = open_beneath(walk.upper, shown, OFlags::PATH | OFlags::NOFOLLOW)?;
    let file = stat(file.as_fd(), c"")?;
    let facts = Facts {
        file_type: file_type(&file),
        mode: file.stx_mode,
        reasons: told.reasons,
        ..Facts::of_name(path, crate::Kind::Changed)
    };
    let candidates = walk.rules.in_directory(parent(path));
    let rule = facts.judge(&candidates);
    let mut change = judge::change(
        path.to_vec(),
        told.compatible,
        told.actual,
        told.reasons,
        rule,
    );
    if told.severity > change.severity {
        change.severity = told.severity;
        change.finding.clone_from(&told.finding);
    }
    change.detail.clone_from(&told.detail);
    change.patch.clone_from(&told.patch);
    Ok(Some(change))
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
