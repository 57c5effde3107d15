//! What of a container can hold a file that is not of its image: its root, tmpfs, volumes.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::Path;

use fs_err as fs;
use invar_drift::{MountKind, ProcessRoot, open_beneath};
use invar_sys::fanotify::Scope;
use rustix::fs::{OFlags, StatVfsMountFlags, fstat, fstatfs, fstatvfs, major, minor};

use crate::error::{Result, SensorError};
use crate::target::Target;

/// `OVERLAYFS_SUPER_MAGIC` (linux/magic.h).
const OVERLAY: u64 = 0x794c_7630;

/// A place to mark.
#[derive(Debug)]
pub(crate) struct Marked {
    pub(crate) at: OwnedFd,
    pub(crate) scope: Scope,
    /// For messages.
    pub(crate) name: String,
}

/// Every place of a container where it can write. What is mounted read-only it cannot have
/// changed: that is the operator's.
pub(crate) fn places(target: &Target) -> Result<Vec<Marked>> {
    let gone = |source: io::Error| SensorError::Gone {
        container: target.place.name.clone(),
        source,
    };
    let root = ProcessRoot::open(target.init).map_err(gone)?;
    if !is_ready(root.root()).map_err(gone)? {
        return Err(gone(io::Error::other("its root is not set up yet")));
    }
    let mut places = Vec::new();
    if target.upper.is_some() {
        if !is_overlay(root.root()) {
            return Err(gone(io::Error::other("its root is not an overlay")));
        }
        places.push(Marked {
            at: root.root().try_clone_to_owned().map_err(gone)?,
            scope: Scope::FileSystem,
            name: "the root".to_owned(),
        });
    }
    let of_host = devices_of_host().map_err(gone)?;
    for mount in root.mounts() {
        let flags = OFlags::PATH | OFlags::NOFOLLOW;
        // Gone meanwhile, or hidden below another mount: nothing there can be reached.
        let Ok(at) = open_beneath(root.root(), &mount.target, flags) else {
            continue;
        };
        let Ok(stat) = fstatvfs(&at) else {
            continue;
        };
        if stat.f_flag.contains(StatVfsMountFlags::RDONLY) {
            continue;
        }
        places.push(Marked {
            scope: scope(mount.kind, at.as_fd(), &of_host),
            name: invar_drift::escape(&mount.target).into_owned(),
            at,
        });
    }
    Ok(places)
}

/// Whether a file lies in an overlay.
pub(crate) fn is_overlay(file: BorrowedFd<'_>) -> bool {
    fstatfs(file).is_ok_and(|stat| u64::try_from(stat.f_type).is_ok_and(|kind| kind == OVERLAY))
}

/// A process that is only becoming a container still has the host's root, which must never be
/// marked.
fn is_ready(root: BorrowedFd<'_>) -> io::Result<bool> {
    let own = rustix::fs::stat("/")?;
    let its = fstat(root)?;
    Ok(own.st_dev != its.st_dev)
}

/// The file system where only this container has it, so that no new mount namespace hides from it;
/// otherwise the one mount.
fn scope(kind: MountKind, at: BorrowedFd<'_>, of_host: &[String]) -> Scope {
    let device = fstat(at).map(|stat| format!("{}:{}", major(stat.st_dev), minor(stat.st_dev)));
    match device {
        Ok(device) if kind == MountKind::Tmpfs && !of_host.contains(&device) => Scope::FileSystem,
        _ => Scope::Mount,
    }
}

fn devices_of_host() -> io::Result<Vec<String>> {
    let text = fs::read_to_string(Path::new("/proc/self/mountinfo"))?;
    let devices = text.lines().filter_map(|line| line.split(' ').nth(2));
    Ok(devices.map(str::to_owned).collect())
}
