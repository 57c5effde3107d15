//! Looking at evidence without being able to change it or to be harmed by it.

use std::os::fd::OwnedFd;

use rustix::mount::MountAttrFlags;

use crate::error::{EvidenceError, Result};
use crate::store::Evidence;

/// Mounts evidence, detached: read-only; nothing in it can be executed, no device opened, no link
/// followed, no set-user-ID bit counts.
pub fn open(evidence: &Evidence) -> Result<OwnedFd> {
    let failed = || EvidenceError::io("mount", &evidence.dir);
    let mount = invar_sys::mount::clone_tree(&evidence.dir).map_err(failed())?;
    let attributes = MountAttrFlags::MOUNT_ATTR_RDONLY
        | MountAttrFlags::MOUNT_ATTR_NOEXEC
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOSUID
        // Linux 5.10.
        | MountAttrFlags::MOUNT_ATTR_NOSYMFOLLOW;
    invar_sys::mount::set_attributes(&mount, attributes).map_err(failed())?;
    Ok(mount)
}
