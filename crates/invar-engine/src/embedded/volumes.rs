//! Named volumes: directories below the state root that outlive containers.

use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::{Path, PathBuf};

use fs_err as fs;
use rustix::fs::{CWD, Mode, OFlags, openat};

use super::layout::{self, Layout};
use super::root::open_in;
use crate::config::{ContainerConfig, MountKind};
use crate::container::ContainerId;
use crate::error::{EngineError, Result};

/// Makes the volumes a container names and that do not exist yet, each filled with what its root
/// has at the mount point, as Docker does. A volume appears only when it is complete.
pub(super) fn ensure(
    layout: &Layout,
    config: &ContainerConfig,
    root: BorrowedFd<'_>,
) -> Result<()> {
    for mount in &config.mounts {
        if let MountKind::Volume { name } = &mount.kind {
            let path = path(layout, name);
            if !path.exists() {
                make(layout, &path, root, &mount.target)?;
            }
        }
    }
    Ok(())
}

/// Where a volume's files are.
pub(super) fn path(layout: &Layout, name: &str) -> PathBuf {
    layout.volumes().join(name)
}

fn make(layout: &Layout, path: &Path, root: BorrowedFd<'_>, target: &Path) -> Result<()> {
    layout::make_private(&layout.volumes())?;
    // A name that no volume can have: those of volumes start with a letter or digit.
    let unfinished = layout
        .volumes()
        .join(format!(".making-{}", ContainerId::random().short()));
    layout::make_visible(&unfinished)?;
    let failed = |source| EngineError::io("fill the volume", path, source);
    let read = OFlags::RDONLY | OFlags::DIRECTORY;
    if let Ok(from) = open_in(root, target, read) {
        let to = openat(CWD, &unfinished, read | OFlags::CLOEXEC, Mode::empty())
            .map_err(|errno| failed(errno.into()))?;
        invar_sys::copy::tree(from.as_fd(), to.as_fd()).map_err(failed)?;
    }
    match fs::rename(&unfinished, path) {
        // Another container made it in the meantime.
        Err(_) if path.exists() => invar_sys::tree::remove(&unfinished).map_err(failed),
        other => other.map_err(failed),
    }
}
