//! Where the embedded engine keeps things below the state root.
//!
//! ```text
//! containers/<id>/status     what its runs did; locked while one is under way
//!                 scaffold/  mount points the image lacks: a layer over the image
//!                 upper/     what the container wrote; absent for a read-only root
//!                 work/      overlayfs needs it beside upper
//!                 etc/       where hosts, hostname, resolv.conf are, in the shim's own namespace
//!                 log        its output; log.1 what came before that
//!                 health     what its health check has found
//!                 rootfs/    where its root is mounted, in the shim's own namespace
//!                 runtime/   what the runtime keeps of a run
//! networks/<id>.resolver     locked while the network's resolver runs
//! volumes/<name>/            files of a named volume
//! events, events.1           what happened to containers
//! ```

use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use crate::container::ContainerId;
use crate::error::{EngineError, Result};

/// The state root.
#[derive(Debug, Clone)]
pub(super) struct Layout(PathBuf);

impl Layout {
    pub(super) fn new(root: &Path) -> Self {
        Self(root.to_owned())
    }

    pub(super) fn root(&self) -> &Path {
        &self.0
    }

    pub(super) fn containers(&self) -> PathBuf {
        self.0.join("containers")
    }

    pub(super) fn container(&self, id: &ContainerId) -> Directory {
        Directory(self.containers().join(id.as_str()))
    }

    pub(super) fn networks(&self) -> PathBuf {
        self.0.join("networks")
    }

    pub(super) fn volumes(&self) -> PathBuf {
        self.0.join("volumes")
    }
}

/// The directory of one container.
#[derive(Debug, Clone)]
pub(super) struct Directory(pub(super) PathBuf);

impl Directory {
    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    pub(super) fn status(&self) -> PathBuf {
        self.0.join("status")
    }

    pub(super) fn scaffold(&self) -> PathBuf {
        self.0.join("scaffold")
    }

    pub(super) fn upper(&self) -> PathBuf {
        self.0.join("upper")
    }

    pub(super) fn work(&self) -> PathBuf {
        self.0.join("work")
    }

    pub(super) fn etc(&self) -> PathBuf {
        self.0.join("etc")
    }

    pub(super) fn log(&self) -> PathBuf {
        self.0.join("log")
    }

    /// What its health check has found.
    pub(super) fn health(&self) -> PathBuf {
        self.0.join("health")
    }

    /// What [`Directory::log`] was when it had grown too long.
    pub(super) fn old_log(&self) -> PathBuf {
        self.0.join("log.1")
    }

    pub(super) fn rootfs(&self) -> PathBuf {
        self.0.join("rootfs")
    }

    pub(super) fn runtime(&self) -> PathBuf {
        self.0.join("runtime")
    }
}

/// Makes a directory and its parents, for root only.
pub(super) fn make_private(path: &Path) -> Result<()> {
    make(path, 0o700)
}

/// Makes a directory that becomes a root or a volume: its mode shows inside the container.
pub(super) fn make_visible(path: &Path) -> Result<()> {
    make(path, 0o755)
}

fn make(path: &Path, mode: u32) -> Result<()> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(path)
        .map_err(|source| EngineError::io("create", path, source))
}
