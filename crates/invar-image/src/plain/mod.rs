//! A view as a plain directory tree, for kernels without file-backed EROFS (before 6.12) or
//! data-only overlay layers (before 6.5). Files are copied, not linked: owner, mode and times
//! belong to an inode, and two images may disagree on them.
//!
//! Everything is made relative to a directory handle, one at a time: a path inside an image may
//! be as long as the kernel allows, and is longer with the store's before it.

mod check;

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use composefs::generic_tree::Stat;
use composefs::tree::{Directory, FileSystem, Inode, LeafContent, RegularFile};
use fs_err as fs;
use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags, chmodat,
    chownat, linkat, lsetxattr, mkdirat, mknodat, openat, symlinkat, syncfs, utimensat,
};

use crate::error::{ImageError, Result};
use crate::objects::{ObjectId, Objects, verity};

pub(crate) use check::check;

/// Writes the tree to `path`, which appears only when it is complete and on disk.
pub(crate) fn write(objects: &Objects, tree: &FileSystem<ObjectId>, path: &Path) -> Result<()> {
    let parent = path.parent().expect("a place inside the store");
    fs::create_dir_all(parent).map_err(ImageError::io("create", parent))?;
    let name = format!(".unfinished-{:016x}", rand::random::<u64>());
    let unfinished = Unfinished(parent.join(name));
    fs::create_dir(&unfinished.0).map_err(ImageError::io("create", &unfinished.0))?;
    let failed = || ImageError::io("write a plain view below", path);
    let root = unfinished.0.join("root");
    let links = unfinished.0.join("links");
    for directory in [&root, &links] {
        fs::create_dir(directory).map_err(ImageError::io("create", directory))?;
    }
    let handle = |path: &Path| directory(CWD, path.as_os_str()).map_err(failed());
    let writer = Writer {
        objects,
        tree,
        names: tree.nlinks(),
        links: handle(&links)?,
    };
    let top = writer
        .directory(&tree.root, handle(&root)?)
        .map_err(failed())?;
    apply(&tree.root.stat, CWD, root.as_os_str(), false).map_err(failed())?;
    syncfs(&top).map_err(|error| failed()(error.into()))?;
    match fs::rename(&root, path) {
        // Another process may have written the same tree in the meantime.
        Err(_) if path.exists() => Ok(()),
        other => other.map_err(ImageError::io("rename to", path)),
    }
}

/// As [`write`], in place of the tree that is there, which keeps a name that only a prune removes.
pub(crate) fn rewrite(objects: &Objects, tree: &FileSystem<ObjectId>, path: &Path) -> Result<()> {
    let name = format!(".damaged-{:016x}", rand::random::<u64>());
    let aside = path.with_file_name(name);
    fs::rename(path, &aside).map_err(ImageError::io("rename", path))?;
    write(objects, tree, path)
}

/// A directory that is removed when it is no longer needed. The tree in it may be deeper than
/// handles may be open.
struct Unfinished(PathBuf);

impl Drop for Unfinished {
    fn drop(&mut self) {
        // What stays is removed by a prune.
        invar_sys::tree::remove(&self.0).ok();
    }
}

/// Opens a directory without following a link.
fn directory(at: impl AsFd, name: &OsStr) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(openat(at, name, flags, Mode::empty())?)
}

struct Writer<'a> {
    objects: &'a Objects,
    tree: &'a FileSystem<ObjectId>,
    /// How many names each leaf has.
    names: Vec<u32>,
    /// Where leaves with several names are made; the names are hard links to that.
    links: OwnedFd,
}

impl Writer<'_> {
    /// Fills the directory `at` is open on, and gives the handle back.
    fn directory(&self, tree: &Directory<ObjectId>, mut at: OwnedFd) -> io::Result<OwnedFd> {
        for (name, inode) in tree.entries() {
            match inode {
                Inode::Directory(child) => {
                    mkdirat(&at, name, Mode::RWXU)?;
                    let inside = self.directory(child, directory(&at, name)?)?;
                    // One handle at a time, however deep the tree is.
                    at = directory(inside, OsStr::new(".."))?;
                    // Last: its children changed its modification time.
                    apply(&child.stat, at.as_fd(), name, false)?;
                }
                Inode::Leaf(id, _) => self.leaf(id.0, at.as_fd(), name)?,
            }
        }
        Ok(at)
    }

    fn leaf(&self, index: usize, at: BorrowedFd<'_>, name: &OsStr) -> io::Result<()> {
        if self.names[index] < 2 {
            return self.create(index, at, name);
        }
        let first = index.to_string();
        let links = self.links.as_fd();
        let linked = linkat(links, &first, at, name, AtFlags::empty());
        if linked == Err(rustix::io::Errno::NOENT) {
            self.create(index, links, OsStr::new(&first))?;
            return Ok(linkat(links, &first, at, name, AtFlags::empty())?);
        }
        Ok(linked?)
    }

    fn create(&self, index: usize, at: BorrowedFd<'_>, name: &OsStr) -> io::Result<()> {
        let leaf = &self.tree.leaves[index];
        let node = |kind, device| mknodat(at, name, kind, Mode::from_raw_mode(0o600), device);
        match &leaf.content {
            LeafContent::Regular(file) => self.file(file, at, name)?,
            LeafContent::Symlink(target) => symlinkat(&**target, at, name)?,
            LeafContent::BlockDevice(device) => node(FileType::BlockDevice, *device)?,
            LeafContent::CharacterDevice(device) => node(FileType::CharacterDevice, *device)?,
            LeafContent::Fifo => node(FileType::Fifo, 0)?,
            LeafContent::Socket => node(FileType::Socket, 0)?,
        }
        let is_link = matches!(leaf.content, LeafContent::Symlink(_));
        apply(&leaf.stat, at, name, is_link)
    }

    fn file(
        &self,
        file: &RegularFile<ObjectId>,
        at: BorrowedFd<'_>,
        name: &OsStr,
    ) -> io::Result<()> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let mut target = std::fs::File::from(openat(at, name, flags, Mode::RUSR | Mode::WUSR)?);
        match file {
            RegularFile::Inline(bytes) => io::Write::write_all(&mut target, bytes)?,
            RegularFile::External(id, _) => {
                let object = self.objects.open_object(id).map_err(io::Error::other)?;
                // Shares the blocks where the file system can.
                if rustix::fs::ioctl_ficlone(&target, &object).is_err() {
                    io::copy(&mut std::fs::File::from(object), &mut target)?;
                }
            }
            RegularFile::ExternalNoVerity(..) | RegularFile::Sparse(_) => {
                return Err(io::Error::other("the view has a file without content"));
            }
        }
        drop(target);
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        verity::enable(openat(at, name, flags, Mode::empty())?.as_fd())
    }
}

/// Gives a file its owner, mode, attributes and time, in the order in which one does not undo
/// another: changing the owner drops capabilities and set-user-id bits.
fn apply(stat: &Stat, at: BorrowedFd<'_>, name: &OsStr, is_link: bool) -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    chownat(at, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
    if !is_link {
        let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
        chmodat(at, name, mode, AtFlags::empty())?;
    }
    for (attribute, value) in &stat.xattrs {
        match lsetxattr(through(at, name), &**attribute, value, XattrFlags::empty()) {
            Err(rustix::io::Errno::OPNOTSUPP) if attribute.as_bytes().starts_with(b"user.") => {}
            other => other?,
        }
    }
    let time = Timespec {
        tv_sec: stat.st_mtim_sec,
        tv_nsec: stat.st_mtim_nsec.into(),
    };
    let times = Timestamps {
        last_access: time,
        last_modification: time,
    };
    Ok(utimensat(at, name, &times, AtFlags::SYMLINK_NOFOLLOW)?)
}

/// A short path to a file of an open directory, for calls that take no handle.
fn through(at: BorrowedFd<'_>, name: &OsStr) -> PathBuf {
    if at.as_raw_fd() == CWD.as_raw_fd() {
        return name.into();
    }
    Path::new("/proc/self/fd")
        .join(at.as_raw_fd().to_string())
        .join(name)
}
