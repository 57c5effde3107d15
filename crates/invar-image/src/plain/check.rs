//! Whether a plain tree still is what its view says: containers see the tree, not the view.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io::{self, Read as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use composefs::generic_tree::Stat;
use composefs::tree::{Directory, FileSystem, Inode, LeafContent, RegularFile};
use rustix::fs::{AtFlags, CWD, Dir, Mode, OFlags, openat, readlinkat, statat};

use super::{directory, through};
use crate::objects::{ObjectId, digest};

/// Every difference: the escaped path and what is wrong with it.
pub(crate) fn check(tree: &FileSystem<ObjectId>, root: &Path) -> io::Result<Vec<(String, String)>> {
    let mut checker = Checker {
        tree,
        found: Vec::new(),
    };
    let handle = directory(CWD, root.as_os_str())?;
    checker.metadata(&tree.root.stat, CWD, root.as_os_str(), "/");
    checker.directory(&tree.root, handle, "")?;
    Ok(checker.found)
}

struct Checker<'a> {
    tree: &'a FileSystem<ObjectId>,
    found: Vec<(String, String)>,
}

impl Checker<'_> {
    fn directory(
        &mut self,
        tree: &Directory<ObjectId>,
        mut at: OwnedFd,
        path: &str,
    ) -> io::Result<OwnedFd> {
        for entry in Dir::read_from(&at)? {
            let entry = entry?;
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            if name != "." && name != ".." && tree.lookup(name).is_none() {
                self.wrong(&below(path, name), "it is not in the image");
            }
        }
        for (name, inode) in tree.entries() {
            let shown = below(path, name);
            match inode {
                Inode::Directory(child) => match directory(&at, name) {
                    Ok(inside) => {
                        self.metadata(&child.stat, at.as_fd(), name, &shown);
                        let inside = self.directory(child, inside, &shown)?;
                        at = directory(inside, OsStr::new(".."))?;
                    }
                    Err(error) => self.wrong(&shown, &error.to_string()),
                },
                Inode::Leaf(id, _) => self.leaf(id.0, at.as_fd(), name, &shown),
            }
        }
        Ok(at)
    }

    fn leaf(&mut self, index: usize, at: BorrowedFd<'_>, name: &OsStr, shown: &str) {
        let leaf = &self.tree.leaves[index];
        let kind = leaf.content.file_type_bits();
        match statat(at, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(found) if found.st_mode & 0o170_000 == kind => {}
            Ok(_) => return self.wrong(shown, "it is another kind of file in the plain view"),
            Err(error) => return self.wrong(shown, &error.to_string()),
        }
        self.metadata(&leaf.stat, at, name, shown);
        let is_same = match &leaf.content {
            LeafContent::Regular(file) => content(file, at, name),
            LeafContent::Symlink(target) => readlinkat(at, name, Vec::new())
                .map(|found| found.as_bytes() == target.as_bytes())
                .map_err(Into::into),
            LeafContent::BlockDevice(device) | LeafContent::CharacterDevice(device) => {
                statat(at, name, AtFlags::SYMLINK_NOFOLLOW)
                    .map(|found| found.st_rdev == *device)
                    .map_err(Into::into)
            }
            LeafContent::Fifo | LeafContent::Socket => Ok(true),
        };
        match is_same {
            Ok(true) => {}
            Ok(false) => self.wrong(shown, "its content changed in the plain view"),
            Err(error) => self.wrong(shown, &format!("it cannot be read: {error}")),
        }
    }

    fn metadata(&mut self, stat: &Stat, at: BorrowedFd<'_>, name: &OsStr, shown: &str) {
        let found = match statat(at, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(found) => found,
            Err(error) => return self.wrong(shown, &error.to_string()),
        };
        let is_same = found.st_mode & 0o7777 == stat.st_mode & 0o7777
            && (found.st_uid, found.st_gid) == (stat.st_uid, stat.st_gid)
            && found.st_mtime == stat.st_mtim_sec;
        if !is_same {
            self.wrong(shown, "its owner, mode or time changed in the plain view");
        }
        let expected: BTreeMap<&OsStr, &[u8]> =
            stat.xattrs.iter().map(|(n, v)| (&**n, &**v)).collect();
        for (attribute, value) in expected {
            let mut found = vec![0; value.len() + 1];
            let path = through(at, name);
            let is_same = rustix::fs::lgetxattr(path, attribute, &mut found)
                .is_ok_and(|length| found[..length] == *value);
            if !is_same {
                let attribute = attribute.as_bytes().escape_ascii();
                self.wrong(
                    shown,
                    &format!("its attribute {attribute} changed in the plain view"),
                );
            }
        }
    }

    fn wrong(&mut self, path: &str, reason: &str) {
        self.found.push((path.to_owned(), reason.to_owned()));
    }
}

fn content(file: &RegularFile<ObjectId>, at: BorrowedFd<'_>, name: &OsStr) -> io::Result<bool> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let mut found = std::fs::File::from(openat(at, name, flags, Mode::empty())?);
    match file {
        RegularFile::Inline(bytes) => {
            let mut content = Vec::new();
            found
                .take(bytes.len() as u64 + 1)
                .read_to_end(&mut content)?;
            Ok(content == **bytes)
        }
        RegularFile::External(id, _) => Ok(digest(&mut found)? == *id),
        RegularFile::ExternalNoVerity(..) | RegularFile::Sparse(_) => Ok(false),
    }
}

fn below(path: &str, name: &OsStr) -> String {
    format!("{path}/{}", OsString::from(name).as_bytes().escape_ascii())
}
