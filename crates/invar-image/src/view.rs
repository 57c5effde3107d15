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
use invar_sys::mount::{self, Overlay, OverlayOptions};
use rustix::fs::{CWD, Mode, OFlags, openat};
use serde::Serialize;

use crate::error::{ImageError, Result};
use crate::layer::tree::{Content, Tree};
use crate::objects::{ObjectId, Objects, open_verified, put, verity};
use crate::plain;

/// An image's root as an overlay takes it: see [`invar_sys::mount::Overlay`].
#[derive(Debug)]
pub struct ImageView {
    /// Lower directories, top first.
    pub lowers: Vec<OwnedFd>,
    /// Data-only lower directories.
    pub data: Vec<OwnedFd>,
    /// The kernel checks the view itself, and must compare each file with it: an overlay over
    /// [`ImageView::data`] is to require fs-verity.
    pub is_verified: bool,
}

/// Set to `plain` to use directory trees also where the kernel could do better.
pub const VIEW_VARIABLE: &str = "INVAR_IMAGE_VIEW";

/// `require`, `if-possible` (the default) or `off`: see [`Verification`].
pub const VERIFIED_VARIABLE: &str = "INVAR_VERIFIED";

/// Whether the kernel has to check images while they are used (fs-verity).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verification {
    /// No image is used whose names and content the kernel does not check.
    Require,
    /// Where file system and kernel can.
    IfPossible,
    /// Not by comparing files with the view; the file system may still check each file's blocks.
    Off,
}

impl Verification {
    /// What [`VERIFIED_VARIABLE`] asks for.
    pub(crate) fn from_environment() -> Result<Self> {
        let Some(value) = std::env::var_os(VERIFIED_VARIABLE) else {
            return Ok(Self::IfPossible);
        };
        match value.to_str() {
            Some("require") => Ok(Self::Require),
            Some("if-possible" | "") => Ok(Self::IfPossible),
            Some("off") => Ok(Self::Off),
            _ => Err(ImageError::malformed(
                VERIFIED_VARIABLE,
                "it is require, if-possible or off",
            )),
        }
    }
}

/// What of an image the kernel checks whenever it is read from disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum KernelCheck {
    /// Names, metadata and content, all against the one digest of the view.
    Everything,
    /// Each file's content against its own digest; not which file a name leads to.
    Content,
    /// Nothing: only `image fsck` and the import do.
    Nothing,
}

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
    // A view is verified only when every file in it is: the mount refuses the others.
    for leaf in &valid.leaves {
        if let composefs::tree::LeafContent::Regular(RegularFile::External(id, _)) = &leaf.content {
            verity::ensure(objects, id)?;
        }
    }
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
pub(crate) fn open_erofs(
    objects: &Objects,
    view: &ObjectId,
    wanted: Verification,
) -> Result<ImageView> {
    let failed = |error: std::io::Error| ImageError::Store {
        action: "mount a view",
        reason: error.to_string(),
    };
    let file = objects
        .open_object(view)
        .map_err(ImageError::store("open a view"))?;
    let is_verified = verity::is_enabled(file.as_fd(), view)? && wanted != Verification::Off;
    let root = mount::erofs(file.as_fd()).map_err(failed)?;
    let data = objects.objects_dir().map_err(|e| failed(e.into()))?;
    let data = data.try_clone().map_err(failed)?;
    Ok(ImageView {
        lowers: vec![root],
        data: vec![data],
        is_verified,
    })
}

/// What the kernel checks of an image with this view, tried out.
pub(crate) fn kernel_check(objects: &Objects, view: &ObjectId, form: ViewForm) -> KernelCheck {
    let is_enabled = || verity::is_enabled(objects.open_object(view).ok()?.as_fd(), view).ok();
    if is_enabled() != Some(true) {
        return KernelCheck::Nothing;
    }
    let is_mounted = |view: ImageView| {
        let overlay = Overlay {
            source: "invar-probe",
            lowers: view.lowers.iter().map(AsFd::as_fd).collect(),
            data: view.data.iter().map(AsFd::as_fd).collect(),
            upper: None,
        };
        let options = OverlayOptions {
            require_verity: true,
            ..OverlayOptions::default()
        };
        overlay.mount_with(options).is_ok()
    };
    let opened = open_erofs(objects, view, Verification::Require);
    if form == ViewForm::Best && opened.is_ok_and(is_mounted) {
        KernelCheck::Everything
    } else {
        KernelCheck::Content
    }
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
        is_verified: false,
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
