//! A walk in a fixed order: each directory, then what is in it by name, then the directory again.
//!
//! Open handles and stack do not grow with the depth: the handles of the upper levels are closed
//! and opened again by path when they are needed.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use invar_drift::open_beneath;
use invar_sys::tree::names;
use rustix::fs::{FileType, OFlags, Statx};
use rustix::io::Errno;

use super::{file_type, join, stat};
use crate::error::Result;

/// Handles kept open along the way down.
const OPEN: usize = 64;
/// Longest path that is walked, in bytes. The kernel lets a tree grow deeper than any path can
/// name; each level costs a walk from the root, so without a bound a container could stop us here.
const LONGEST_PATH: usize = 32 * 1024;

/// What the walk comes across.
#[derive(Debug)]
pub(crate) enum Event<'a> {
    /// An entry; a directory before what is in it.
    Entry(&'a Found<'a>),
    /// A directory, after what is in it.
    Leave(&'a Found<'a>),
    /// Something that cannot be looked at or into.
    Unreadable {
        /// From the root.
        path: &'a [u8],
        /// Why.
        reason: String,
    },
}

/// One entry and where it is.
#[derive(Debug)]
pub(crate) struct Found<'a> {
    /// Its directory.
    pub(crate) dir: BorrowedFd<'a>,
    /// Its name there; empty for the root of the walk.
    pub(crate) name: &'a CStr,
    /// From the root, absolute.
    pub(crate) path: &'a [u8],
    /// What the kernel says of it.
    pub(crate) stat: &'a Statx,
}

struct Level {
    /// `None` while closed.
    handle: Option<OwnedFd>,
    path: Vec<u8>,
    name: CString,
    stat: Statx,
    /// Last first.
    rest: Vec<CString>,
}

/// Walks the tree below `root`. Entries that vanish meanwhile are skipped.
pub(crate) fn walk(
    root: BorrowedFd<'_>,
    visit: &mut dyn FnMut(Event<'_>) -> Result<()>,
) -> Result<()> {
    let stat = match stat(root, c"") {
        Ok(stat) => stat,
        Err(errno) => return unreadable(b"/", errno, visit),
    };
    let found = Found {
        dir: root,
        name: c"",
        path: b"/",
        stat: &stat,
    };
    visit(Event::Entry(&found))?;
    let mut levels = Vec::new();
    match enter(root, b"/", c"", &stat) {
        Ok(level) => levels.push(level),
        Err(errno) => unreadable(b"/", errno, visit)?,
    }
    while let Some(level) = levels.last_mut() {
        match level.rest.pop() {
            Some(name) => step(root, &mut levels, &name, visit)?,
            None => leave(root, &mut levels, visit)?,
        }
    }
    Ok(())
}

/// Looks at one entry of the deepest level.
fn step(
    root: BorrowedFd<'_>,
    levels: &mut Vec<Level>,
    name: &CStr,
    visit: &mut dyn FnMut(Event<'_>) -> Result<()>,
) -> Result<()> {
    let top = device(&levels[0].stat);
    let level = levels.last_mut().expect("the caller saw a level");
    let path = join(&level.path, name.to_bytes());
    let dir = match handle(root, level) {
        Ok(dir) => dir,
        Err(errno) => return unreadable(&path, errno, visit),
    };
    let stat = match stat(dir, name) {
        Ok(stat) => stat,
        Err(Errno::NOENT) => return Ok(()),
        Err(errno) => return unreadable(&path, errno, visit),
    };
    let found = Found {
        dir,
        name,
        path: &path,
        stat: &stat,
    };
    // Asking anything more of another file system may wait for ever: it may be FUSE.
    if device(&stat) != top {
        let reason = "another file system is mounted there".to_owned();
        return visit(Event::Unreadable {
            path: &path,
            reason,
        });
    }
    visit(Event::Entry(&found))?;
    if file_type(&stat) != FileType::Directory {
        return Ok(());
    }
    if path.len() > LONGEST_PATH {
        let reason = format!("what is in it is deeper than {LONGEST_PATH} bytes of path");
        visit(Event::Unreadable {
            path: &path,
            reason,
        })?;
        return visit(Event::Leave(&found));
    }
    match enter(dir, &path, name, &stat) {
        Ok(level) => levels.push(level),
        Err(errno) => {
            unreadable(&path, errno, visit)?;
            visit(Event::Leave(&found))?;
        }
    }
    if let Some(closed) = levels.len().checked_sub(OPEN + 1) {
        levels[closed].handle = None;
    }
    Ok(())
}

/// Goes back up from the deepest level.
fn leave(
    root: BorrowedFd<'_>,
    levels: &mut Vec<Level>,
    visit: &mut dyn FnMut(Event<'_>) -> Result<()>,
) -> Result<()> {
    let left = levels.pop().expect("the caller saw a level");
    let dir = match levels.last_mut() {
        None => root,
        Some(level) => match handle(root, level) {
            Ok(dir) => dir,
            Err(errno) => return unreadable(&left.path, errno, visit),
        },
    };
    visit(Event::Leave(&Found {
        dir,
        name: &left.name,
        path: &left.path,
        stat: &left.stat,
    }))
}

fn enter(dir: BorrowedFd<'_>, path: &[u8], name: &CStr, stat: &Statx) -> rustix::io::Result<Level> {
    let handle = open_beneath(dir, name.to_bytes(), flags())?;
    let listed = names(handle.as_fd()).map_err(|error| Errno::from_io_error(&error));
    let mut rest: Vec<CString> = listed
        .map_err(|errno| errno.unwrap_or(Errno::IO))?
        .into_iter()
        .map(|(name, _)| name)
        .collect();
    rest.sort_by(|a, b| b.cmp(a));
    Ok(Level {
        handle: Some(handle),
        path: path.to_vec(),
        name: name.to_owned(),
        stat: *stat,
        rest,
    })
}

/// The level's handle, opened again when it was closed.
fn handle<'a>(root: BorrowedFd<'_>, level: &'a mut Level) -> rustix::io::Result<BorrowedFd<'a>> {
    if level.handle.is_none() {
        level.handle = Some(open_beneath(root, &level.path, flags())?);
    }
    Ok(level
        .handle
        .as_ref()
        .expect("it was opened just before")
        .as_fd())
}

fn device(stat: &Statx) -> (u32, u32) {
    (stat.stx_dev_major, stat.stx_dev_minor)
}

fn flags() -> OFlags {
    OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW
}

fn unreadable(
    path: &[u8],
    errno: Errno,
    visit: &mut dyn FnMut(Event<'_>) -> Result<()>,
) -> Result<()> {
    visit(Event::Unreadable {
        path,
        reason: std::io::Error::from(errno).to_string(),
    })
}

#[cfg(test)]
mod tests {
    use fs_err as fs;
    use rustix::fs::{Mode, mkdirat, openat};

    use super::super::open_dir;
    use super::*;

    fn events(root: &std::path::Path) -> Vec<String> {
        let mut seen = Vec::new();
        walk(open_dir(root).unwrap().as_fd(), &mut |event| {
            seen.push(match event {
                Event::Entry(found) => format!("+{}", found.path.escape_ascii()),
                Event::Leave(found) => format!("-{}", found.path.escape_ascii()),
                Event::Unreadable { path, .. } => format!("!{}", path.escape_ascii()),
            });
            Ok(())
        })
        .unwrap();
        seen
    }

    #[test]
    fn the_order_is_fixed_and_links_are_not_entered() {
        let stage = tempfile::tempdir().unwrap();
        fs::create_dir_all(stage.path().join("b/x")).unwrap();
        fs::write(stage.path().join("b.txt"), "").unwrap();
        fs::write(stage.path().join("a"), "").unwrap();
        std::os::unix::fs::symlink("/etc", stage.path().join("c")).unwrap();
        assert_eq!(
            events(stage.path()),
            [
                "+/", "+/a", "+/b", "+/b/x", "-/b/x", "-/b", "+/b.txt", "+/c", "-/"
            ]
        );
    }

    #[test]
    fn a_tree_deeper_than_any_path_is_walked_with_few_handles_until_the_bound() {
        let stage = tempfile::tempdir_in("/var/tmp").unwrap();
        let name = "d".repeat(200);
        let mut at = open_dir(stage.path()).unwrap();
        for _ in 0..200 {
            mkdirat(&at, &*name, Mode::RWXU).unwrap();
            at = openat(
                &at,
                &*name,
                OFlags::RDONLY | OFlags::DIRECTORY,
                Mode::empty(),
            )
            .unwrap();
        }
        let seen = events(stage.path());
        let entered = seen.iter().filter(|event| event.starts_with('+')).count();
        assert_eq!(entered, 1 + LONGEST_PATH.div_ceil(201));
        assert_eq!(
            seen.iter().filter(|event| event.starts_with('!')).count(),
            1
        );
        assert_eq!(seen.last().map(String::as_str), Some("-/"));
        invar_sys::tree::remove(stage.path()).unwrap();
    }
}
