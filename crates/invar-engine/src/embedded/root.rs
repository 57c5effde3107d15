//! A container's root: the image's view, a scaffold of mount points the image lacks, and for a
//! writable container its upper directory. All of it detached mounts: no path of the host leads
//! into a container's root.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use fs_err as fs;
use invar_image::{Digest, ImageStore, ImageView};
use invar_sys::mount::{Overlay, OverlayOptions};
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, mkdirat, openat, openat2};
use rustix::io::Errno;

use super::layout::{self, Directory};
use super::owners::Owners;
use crate::config::ContainerConfig;
use crate::container::{RootFs, Upper};
use crate::error::{EngineError, Result};

/// What every container has, whatever its image: mount points of the kernel's own file systems.
const DIRECTORIES: [&str; 3] = ["/dev", "/proc", "/sys"];
/// Files of the engine, mounted over the image's.
const FILES: [&str; 3] = ["/etc/hosts", "/etc/hostname", "/etc/resolv.conf"];

/// Makes the mount points that the image lacks.
///
/// In a writable container the mount points of volumes are made in its upper directory when it
/// starts, and are changes, as with Docker. A read-only one has no upper, so they are made here.
pub(super) fn build_scaffold(
    images: &ImageStore,
    directory: &Directory,
    config: &ContainerConfig,
) -> Result<()> {
    let view = view(images, config)?;
    let missing = missing_points(images, config)?;
    if missing.is_empty() {
        return Ok(());
    }
    let scaffold = directory.scaffold();
    let work = directory.path().join("scaffold-work");
    layout::make_visible(&scaffold)?;
    layout::make_private(&work)?;
    let upper = Writable {
        upper: &scaffold,
        work: &work,
        // What a crash cuts short is made anew with the container.
        is_volatile: true,
    };
    let root = overlay(view, None, Some(&upper), None)?;
    for point in missing {
        point.make(root.as_fd())?;
    }
    drop(root);
    invar_sys::tree::remove(&work).map_err(|source| EngineError::io("remove", &work, source))
}

/// The root as the container sees it, detached; with `owners`, as the users of its namespace do.
pub(super) fn mount(
    images: &ImageStore,
    directory: &Directory,
    config: &ContainerConfig,
    owners: Option<&Owners>,
) -> Result<OwnedFd> {
    let view = view(images, config)?;
    let scaffold = open_scaffold(directory)?;
    if !config.writable {
        return overlay(view, scaffold, None, owners);
    }
    let (upper, work) = (directory.upper(), directory.work());
    // Gone when the changes of an earlier run were taken as evidence.
    layout::make_visible(&upper)?;
    if config.auto_remove {
        // The kernel refuses the work directory of a volatile overlay that was not unmounted well.
        invar_sys::tree::remove(&work)
            .map_err(|source| EngineError::io("remove", &work, source))?;
    }
    layout::make_private(&work)?;
    let writable = Writable {
        upper: &upper,
        work: &work,
        is_volatile: config.auto_remove,
    };
    overlay(view, scaffold, Some(&writable), owners)
}

/// The root for a comparison: what the container started from, and what it wrote.
pub(super) fn open(
    images: &ImageStore,
    directory: &Directory,
    config: &ContainerConfig,
) -> Result<RootFs> {
    let view = view(images, config)?;
    let lower = overlay(view, open_scaffold(directory)?, None, None)?;
    let upper = if config.writable {
        let path = directory.upper();
        layout::make_visible(&path)?;
        Some(Upper {
            dir: open_directory(&path)?,
            path,
        })
    } else {
        None
    };
    Ok(RootFs { lower, upper })
}

/// Makes the mount points that a writable root with shifted owners lacks; without them the runtime
/// makes them itself, as the host's root, whom such a root does not know.
pub(super) fn make_mount_points(
    root: BorrowedFd<'_>,
    config: &ContainerConfig,
    owners: &Owners,
) -> Result<()> {
    let mut missing = asked_points(config).filter(|point| !point.exists(root));
    let made = invar_sys::userns::as_owner(owners.first, || {
        missing.try_for_each(|point| point.make(root))
    });
    made.map_err(|error| EngineError::Runtime {
        action: "make mount points in the container's root",
        reason: error.to_string(),
    })?
}

fn asked_points(config: &ContainerConfig) -> impl Iterator<Item = MountPoint> + Send {
    config.mounts.iter().map(|mount| MountPoint {
        path: mount.target.clone(),
        is_file: mount.is_file(),
    })
}

fn view(images: &ImageStore, config: &ContainerConfig) -> Result<ImageView> {
    Ok(images.open_view(&Digest::parse(&config.image)?)?)
}

fn open_scaffold(directory: &Directory) -> Result<Option<OwnedFd>> {
    let path = directory.scaffold();
    match fs::symlink_metadata(&path) {
        Ok(_) => open_directory(&path).map(Some),
        Err(_) => Ok(None),
    }
}

/// Where an overlay writes.
struct Writable<'a> {
    upper: &'a Path,
    work: &'a Path,
    /// Whether it may be lost with the machine.
    is_volatile: bool,
}

fn overlay(
    view: ImageView,
    scaffold: Option<OwnedFd>,
    writable: Option<&Writable<'_>>,
    owners: Option<&Owners>,
) -> Result<OwnedFd> {
    let lowers: Vec<OwnedFd> = scaffold
        .into_iter()
        .chain(view.lowers)
        .map(|layer| match owners {
            Some(owners) => owners.shift(layer),
            None => Ok(layer),
        })
        .collect::<Result<_>>()?;
    let lowers: Vec<BorrowedFd<'_>> = lowers.iter().map(|fd| fd.as_fd()).collect();
    let data = view.data.iter().map(|fd| fd.as_fd()).collect::<Vec<_>>();
    let failed = |source| EngineError::Io {
        action: "mount the root of the container over",
        path: PathBuf::from("its image"),
        source,
    };
    // The kernel refuses an overlay of one plain directory without an upper: it is that directory.
    if lowers.len() == 1 && data.is_empty() && writable.is_none() {
        return lowers[0].try_clone_to_owned().map_err(failed);
    }
    let mut holder = None;
    let upper = match (writable, owners) {
        (None, _) => None,
        (Some(writable), None) => Some((
            open_directory(writable.upper)?,
            open_directory(writable.work)?,
        )),
        (Some(writable), Some(owners)) => {
            // The kernel wants both on one mount.
            let parent = writable.upper.parent().unwrap_or(Path::new("/"));
            let parent = owners.shift(open_directory(parent)?)?;
            let below = |path: &Path| {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                openat(
                    &parent,
                    path.file_name().unwrap_or_default(),
                    flags,
                    Mode::empty(),
                )
                .map_err(|errno| EngineError::io("open", path, errno.into()))
            };
            let pair = (below(writable.upper)?, below(writable.work)?);
            holder = Some(parent);
            Some(pair)
        }
    };
    let overlay = Overlay {
        source: "invar",
        lowers,
        data,
        upper: upper
            .as_ref()
            .map(|(upper, work)| (upper.as_fd(), work.as_fd())),
    };
    let options = OverlayOptions {
        volatile: writable.is_some_and(|writable| writable.is_volatile),
        require_verity: view.is_verified,
        owner: owners.map_or(0, |owners| owners.first),
    };
    let holder = holder.as_ref().map(OwnedFd::as_fd);
    overlay.mount_held(options, holder).map_err(failed)
}

fn open_directory(path: &Path) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(CWD, path, flags, Mode::empty())
        .map_err(|errno| EngineError::io("open", path, errno.into()))
}

/// Somewhere in a root that something will be mounted on.
struct MountPoint {
    path: PathBuf,
    is_file: bool,
}

/// The mount points of a container that its image does not have.
fn missing_points(images: &ImageStore, config: &ContainerConfig) -> Result<Vec<MountPoint>> {
    let root = overlay(view(images, config)?, None, None, None)?;
    let own = DIRECTORIES
        .iter()
        .map(|path| (path, false))
        .chain(FILES.iter().map(|path| (path, true)))
        .map(|(path, is_file)| MountPoint {
            path: PathBuf::from(path),
            is_file,
        });
    let mut points: Vec<MountPoint> = own.collect();
    if !config.writable {
        points.extend(asked_points(config));
    }
    points.retain(|point| !point.exists(root.as_fd()));
    Ok(points)
}

impl MountPoint {
    fn exists(&self, root: BorrowedFd<'_>) -> bool {
        open_in(root, &self.path, OFlags::PATH).is_ok()
    }

    /// Makes it and its parents; links end at the root.
    fn make(&self, root: BorrowedFd<'_>) -> Result<()> {
        let failed = |errno: Errno| EngineError::InvalidConfig {
            what: format!("mount point {}", self.path.display()),
            reason: format!("it cannot be made in the image: {errno}"),
        };
        let (parents, name) = match (self.is_file, self.path.parent(), self.path.file_name()) {
            (true, Some(parents), Some(name)) => (parents, Some(name)),
            _ => (self.path.as_path(), None),
        };
        let parent = make_directories(root, parents).map_err(failed)?;
        if let Some(name) = name {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            openat(&parent, name, flags, Mode::from_raw_mode(0o644)).map_err(failed)?;
        }
        Ok(())
    }
}

/// Opens the directory `path` in `root`, making what is missing of it.
pub(super) fn make_directories(
    root: BorrowedFd<'_>,
    path: &Path,
) -> std::result::Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY;
    let mut so_far = PathBuf::new();
    let mut at = open_in(root, Path::new("."), flags)?;
    for component in path.components() {
        let Component::Normal(name) = component else {
            continue;
        };
        so_far.push(name);
        at = match open_in(root, &so_far, flags) {
            Err(Errno::NOENT) => {
                mkdirat(&at, name, Mode::from_raw_mode(0o755))?;
                open_in(root, &so_far, flags)?
            }
            opened => opened?,
        };
    }
    Ok(at)
}

/// Opens a path in a root, whose end is the end of `..` and of every absolute link.
pub(super) fn open_in(
    root: BorrowedFd<'_>,
    path: &Path,
    flags: OFlags,
) -> std::result::Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    openat2(root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve)
}
