//! Directory trees that a container made, of any depth and with any names: listing and removal.

use std::ffi::{CStr, CString};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, RawDir, RenameFlags, openat, renameat, renameat_with,
    unlinkat,
};
use rustix::io::Errno;

/// Bytes of names fetched by one call.
const LISTING: usize = 32 * 1024;

/// Removes a directory and all that is in it; what is not there is no error.
///
/// Every directory found is first moved to the top, so that neither the stack nor the number of
/// open handles grows with the depth of the tree. No link is followed.
pub fn remove(path: &Path) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let top = match openat(CWD, path, flags, Mode::empty()) {
        Ok(top) => top,
        Err(Errno::NOENT) => return Ok(()),
        Err(Errno::NOTDIR | Errno::LOOP) => {
            return Ok(unlinkat(CWD, path, AtFlags::empty())?);
        }
        Err(error) => return Err(error.into()),
    };
    let mut moved = 0_u64;
    loop {
        let directories = empty(&top, top.as_fd(), &mut moved)?;
        if directories.is_empty() {
            break;
        }
        for name in directories {
            let directory = openat(&top, &*name, flags, Mode::empty())?;
            empty(&directory, top.as_fd(), &mut moved)?;
            unlinkat(&top, &*name, AtFlags::REMOVEDIR)?;
        }
    }
    drop(top);
    Ok(unlinkat(CWD, path, AtFlags::REMOVEDIR)?)
}

/// Unlinks what is in `directory`, and moves its directories to `top`. The names of those it
/// leaves, which is all of them when it is `top` itself.
fn empty(directory: &OwnedFd, top: BorrowedFd<'_>, moved: &mut u64) -> io::Result<Vec<CString>> {
    let is_top = same(directory, top)?;
    let mut left = Vec::new();
    for (name, kind) in names(directory.as_fd())? {
        let may_be_directory = matches!(kind, FileType::Directory | FileType::Unknown);
        if !may_be_directory {
            unlinkat(directory, &*name, AtFlags::empty())?;
            continue;
        }
        match unlinkat(directory, &*name, AtFlags::REMOVEDIR) {
            Ok(()) => {}
            Err(Errno::NOTDIR) => unlinkat(directory, &*name, AtFlags::empty())?,
            Err(Errno::NOTEMPTY | Errno::EXIST) if is_top => left.push(name),
            Err(Errno::NOTEMPTY | Errno::EXIST) => move_up(directory, &name, top, moved)?,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(left)
}

/// The names in a directory, `.` and `..` left out, with their types where the file system tells.
pub fn names(directory: BorrowedFd<'_>) -> io::Result<Vec<(CString, FileType)>> {
    // A handle of its own: reading moves a position that belongs to the handle.
    let listing = openat(
        directory,
        c".",
        OFlags::RDONLY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    let mut buffer = vec![MaybeUninit::uninit(); LISTING];
    let mut entries = RawDir::new(&listing, &mut buffer);
    let mut names = Vec::new();
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let name = entry.file_name();
        if name != c"." && name != c".." {
            names.push((name.to_owned(), entry.file_type()));
        }
    }
    Ok(names)
}

/// Moves a directory to the top under a name that is free there.
fn move_up(from: &OwnedFd, name: &CStr, top: BorrowedFd<'_>, moved: &mut u64) -> io::Result<()> {
    loop {
        *moved += 1;
        let target = format!(".removing-{moved}");
        match renameat_with(from, name, top, target.as_str(), RenameFlags::NOREPLACE) {
            Err(Errno::EXIST) => {}
            // A file system without RENAME_NOREPLACE: a directory never replaces what is not
            // an empty directory.
            Err(Errno::INVAL) => return Ok(renameat(from, name, top, target.as_str())?),
            other => return Ok(other?),
        }
    }
}

fn same(a: impl AsFd, b: impl AsFd) -> io::Result<bool> {
    let (a, b) = (rustix::fs::fstat(a)?, rustix::fs::fstat(b)?);
    Ok((a.st_dev, a.st_ino) == (b.st_dev, b.st_ino))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use fs_err as fs;

    use super::*;

    #[test]
    fn a_tree_of_two_thousand_levels_is_removed_and_links_are_not_followed() {
        let stage = tempfile::tempdir().unwrap();
        let outside = stage.path().join("outside");
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("kept"), "x").unwrap();
        let root = stage.path().join("tree");
        fs::create_dir(&root).unwrap();
        symlink(&outside, root.join("link")).unwrap();
        let mut at = openat(
            CWD,
            &root,
            OFlags::RDONLY | OFlags::DIRECTORY,
            Mode::empty(),
        )
        .unwrap();
        for _ in 0..2000 {
            rustix::fs::mkdirat(&at, "d", Mode::RWXU).unwrap();
            rustix::fs::symlinkat("/etc/shadow", &at, "l").unwrap();
            at = openat(&at, "d", OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
        }
        remove(&root).unwrap();
        assert!(!root.exists());
        assert!(outside.join("kept").exists());
    }

    #[test]
    fn what_is_not_there_is_removed_already() {
        let stage = tempfile::tempdir().unwrap();
        remove(&stage.path().join("nothing")).unwrap();
    }
}
