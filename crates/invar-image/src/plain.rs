//! A view as a plain directory tree, for kernels without file-backed EROFS (before 6.12) or
//! data-only overlay layers (before 6.5). Files are copied, not linked: owner, mode and times
//! belong to an inode, and two images may disagree on them.

use std::ffi::OsStr;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use composefs::generic_tree::Stat;
use composefs::tree::{Directory, FileSystem, Inode, LeafContent, RegularFile};
use fs_err as fs;
use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, Timespec, Timestamps, Uid, XattrFlags, chmodat, chownat,
    lsetxattr, mknodat, symlinkat, utimensat,
};

use crate::error::{ImageError, Result};
use crate::objects::{ObjectId, Objects};

/// Writes the tree to `path`, which appears only when it is complete.
pub(crate) fn write(objects: &Objects, tree: &FileSystem<ObjectId>, path: &Path) -> Result<()> {
    let parent = path.parent().expect("a place inside the store");
    fs::create_dir_all(parent).map_err(ImageError::io("create", parent))?;
    let unfinished = tempfile::Builder::new()
        .prefix(".unfinished-")
        .tempdir_in(parent)
        .map_err(ImageError::io("create a directory in", parent))?;
    let root = unfinished.path().join("root");
    let mut writer = Writer {
        objects,
        tree,
        first_names: vec![None; tree.leaves.len()],
    };
    writer.directory(&tree.root, &root)?;
    match fs::rename(&root, path) {
        // Another process may have written the same tree in the meantime.
        Err(_) if path.exists() => Ok(()),
        other => other.map_err(ImageError::io("rename to", path)),
    }
}

struct Writer<'a> {
    objects: &'a Objects,
    tree: &'a FileSystem<ObjectId>,
    /// Where each leaf was written first; its other names are hard links to that.
    first_names: Vec<Option<std::path::PathBuf>>,
}

impl Writer<'_> {
    fn directory(&mut self, directory: &Directory<ObjectId>, path: &Path) -> Result<()> {
        fs::create_dir(path).map_err(ImageError::io("create", path))?;
        for (name, inode) in directory.entries() {
            let child = path.join(name);
            match inode {
                Inode::Directory(directory) => self.directory(directory, &child)?,
                Inode::Leaf(id, _) => self.leaf(id.0, &child)?,
            }
        }
        // Last: its children changed its modification time.
        apply(&directory.stat, path, false).map_err(ImageError::io("set the metadata of", path))
    }

    fn leaf(&mut self, index: usize, path: &Path) -> Result<()> {
        if let Some(first) = &self.first_names[index] {
            return fs::hard_link(first, path).map_err(ImageError::io("create", path));
        }
        let leaf = &self.tree.leaves[index];
        self.content(&leaf.content, path)?;
        let is_link = matches!(leaf.content, LeafContent::Symlink(_));
        apply(&leaf.stat, path, is_link).map_err(ImageError::io("set the metadata of", path))?;
        self.first_names[index] = Some(path.to_owned());
        Ok(())
    }

    fn content(&self, content: &LeafContent<ObjectId>, path: &Path) -> Result<()> {
        let node = |kind, device| mknodat(CWD, path, kind, Mode::from_raw_mode(0o600), device);
        let made = match content {
            LeafContent::Regular(file) => return self.file(file, path),
            LeafContent::Symlink(target) => symlinkat(&**target, CWD, path),
            LeafContent::BlockDevice(device) => node(FileType::BlockDevice, *device),
            LeafContent::CharacterDevice(device) => node(FileType::CharacterDevice, *device),
            LeafContent::Fifo => node(FileType::Fifo, 0),
            LeafContent::Socket => node(FileType::Socket, 0),
        };
        made.map_err(|error| ImageError::io("create", path)(error.into()))
    }

    fn file(&self, file: &RegularFile<ObjectId>, path: &Path) -> Result<()> {
        let written = ImageError::io("write", path);
        match file {
            RegularFile::Inline(bytes) => fs::write(path, bytes).map_err(written),
            RegularFile::External(id, _) => {
                let object = self
                    .objects
                    .open_object(id)
                    .map_err(ImageError::store("open an object"))?;
                let mut target = fs::File::create(path).map_err(ImageError::io("create", path))?;
                // Shares the blocks where the file system can.
                if rustix::fs::ioctl_ficlone(target.as_fd(), object.as_fd()).is_err() {
                    io::copy(&mut std::fs::File::from(object), &mut target).map_err(written)?;
                }
                Ok(())
            }
            RegularFile::ExternalNoVerity(..) | RegularFile::Sparse(_) => Err(
                ImageError::malformed("view", "it has a file without content"),
            ),
        }
    }
}

fn apply(stat: &Stat, path: &Path, is_link: bool) -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    chownat(CWD, path, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
    if !is_link {
        chmodat(
            CWD,
            path,
            Mode::from_raw_mode(stat.st_mode & 0o7777),
            AtFlags::empty(),
        )?;
    }
    for (name, value) in &stat.xattrs {
        set_attribute(path, name, value)?;
    }
    let time = Timespec {
        tv_sec: stat.st_mtim_sec,
        tv_nsec: stat.st_mtim_nsec.into(),
    };
    let times = Timestamps {
        last_access: time,
        last_modification: time,
    };
    Ok(utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW)?)
}

fn set_attribute(path: &Path, name: &OsStr, value: &[u8]) -> io::Result<()> {
    match lsetxattr(path, name, value, XattrFlags::empty()) {
        Err(rustix::io::Errno::OPNOTSUPP) if name.as_bytes().starts_with(b"user.") => Ok(()),
        other => Ok(other?),
    }
}
