//! The read-only view of an image: one EROFS file with every name and its metadata, over the
//! objects (composefs). Where the kernel cannot mount that, a plain directory tree.

use std::io::Read as _;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use composefs::erofs::format::FormatVersion;
use composefs::erofs::reader::erofs_to_filesystem;
use composefs::erofs::writer::{ValidatedFileSystem, mkfs_erofs_versioned};
use composefs::fsverity::FsVerityHashValue;
use composefs::generic_tree::Stat;
use composefs::tree::{FileSystem, RegularFile};
use invar_sys::mount;
use rustix::fs::{CWD, Mode, OFlags, openat};

use crate::error::{ImageError, Result};
use crate::layer::tree::{Content, Tree};
use crate::objects::{ObjectId, Objects, open_verified, put};
use crate::plain;

/// An image's root as an overlay takes it: see [`invar_sys::mount::Overlay`].
#[derive(Debug)]
pub struct ImageView {
    /// Lower directories, top first.
    pub lowers: Vec<OwnedFd>,
    /// Data-only lower directories.
    pub data: Vec<OwnedFd>,
}

/// Set to `plain` to use directory trees also where the kernel could do better.
pub const VIEW_VARIABLE: &str = "INVAR_IMAGE_VIEW";

/// Stores the view of a tree; waits for its objects.
pub(crate) fn build(objects: &Objects, mut tree: Tree) -> Result<ObjectId> {
    // Entries that later ones replaced left their leaves behind, and their objects unwaited.
    tree.compact();
    let resolved = tree.try_map_regular(|content| match content {
        Content::Inline(bytes) => Ok::<_, ImageError>(RegularFile::Inline(bytes.clone())),
        Content::Object(object, size) => Ok(RegularFile::External(object.wait()?, *size)),
    })?;
    let valid = ValidatedFileSystem::new(resolved).map_err(ImageError::store("check its view"))?;
    let image = mkfs_erofs_versioned(&valid, FormatVersion::V1);
    put(objects, &image).map_err(|error| ImageError::Store {
        action: "write its view",
        reason: error.to_string(),
    })
}

/// Reads a view back as a tree.
pub(crate) fn read(objects: &Objects, view: &ObjectId) -> Result<FileSystem<ObjectId>> {
    let mut bytes = Vec::new();
    open_verified(objects, view)?
        .read_to_end(&mut bytes)
        .map_err(|error| ImageError::store("read a view")(error.into()))?;
    erofs_to_filesystem(&bytes).map_err(ImageError::store("read a view"))
}

/// How a view is mounted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ViewForm {
    /// EROFS where this kernel can, else a plain directory tree.
    Best,
    /// A plain directory tree.
    Plain,
}

impl ViewForm {
    /// What [`VIEW_VARIABLE`] asks for.
    pub(crate) fn from_environment() -> Self {
        match std::env::var_os(VIEW_VARIABLE) {
            Some(value) if value == "plain" => Self::Plain,
            _ => Self::Best,
        }
    }
}

/// Whether this kernel mounts a view from a file below `directory`: the error is the kernel's.
pub fn try_erofs(directory: &Path) -> std::io::Result<()> {
    let failed = |error| std::io::Error::other(format!("{error:?}"));
    let empty = FileSystem::<ObjectId>::new(Stat::uninitialized());
    let valid = ValidatedFileSystem::new(empty).map_err(failed)?;
    let image = mkfs_erofs_versioned(&valid, FormatVersion::V1);
    let file = tempfile_in(directory)?;
    rustix::io::write(&file, &image)?;
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    let reading = openat(CWD, path, flags, Mode::empty())?;
    drop(file);
    mount::erofs(reading.as_fd()).map(drop)
}

/// A file without a name.
fn tempfile_in(directory: &Path) -> std::io::Result<OwnedFd> {
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    Ok(openat(CWD, directory, flags, Mode::RUSR | Mode::WUSR)?)
}

/// Mounts a view as EROFS, detached from every path of the host.
pub(crate) fn open_erofs(objects: &Objects, view: &ObjectId) -> Result<ImageView> {
    let failed = |error: std::io::Error| ImageError::Store {
        action: "mount a view",
        reason: error.to_string(),
    };
    let file = objects
        .open_object(view)
        .map_err(ImageError::store("open a view"))?;
    let root = mount::erofs(file.as_fd()).map_err(failed)?;
    let data = objects.objects_dir().map_err(|e| failed(e.into()))?;
    let data = data.try_clone().map_err(failed)?;
    Ok(ImageView {
        lowers: vec![root],
        data: vec![data],
    })
}

/// Writes the plain tree of a view, unless it is there.
pub(crate) fn make_plain(objects: &Objects, store: &Path, view: &ObjectId) -> Result<()> {
    let path = plain_path(store, view);
    if path.exists() {
        return Ok(());
    }
    plain::write(objects, &read(objects, view)?, &path)
}

/// Opens the plain tree of a view.
pub(crate) fn open_plain(store: &Path, view: &ObjectId) -> Result<ImageView> {
    let path = plain_path(store, view);
    let root = openat(
        CWD,
        &path,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .map_err(|error| ImageError::io("open", &path)(error.into()))?;
    Ok(ImageView {
        lowers: vec![root],
        data: Vec::new(),
    })
}

/// Where the plain directory tree of a view is kept.
pub(crate) fn plain_path(store: &Path, view: &ObjectId) -> PathBuf {
    store.join("plain").join(view.to_hex())
}

/// Every object a view needs, itself not among them.
pub(crate) fn references(objects: &Objects, view: &ObjectId) -> Result<Vec<ObjectId>> {
    let tree = read(&Arc::clone(objects), view)?;
    Ok(tree
        .leaves
        .iter()
        .filter_map(|leaf| match &leaf.content {
            composefs::tree::LeafContent::Regular(RegularFile::External(id, _)) => Some(id.clone()),
            _ => None,
        })
        .collect())
}
