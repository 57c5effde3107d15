//! Trees that a container made: walked, listed, taken and checked without trusting anything in
//! them.
//!
//! ```text
//!  walk ──▶ entry (all the kernel says) ──▶ list: one line an entry, hashes added later
//!    │                                              │
//!    └────▶ take: rename · hard links · reflinks    └──▶ check: is the tree still that list?
//! ```

pub(crate) mod check;
pub(crate) mod entry;
pub(crate) mod list;
pub(crate) mod take;
pub(crate) mod walk;

use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};

use invar_drift::open_beneath;
pub(crate) use invar_drift::path::{join, name, parent};
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, Statx, StatxFlags, openat, statx};
use rustix::io::{Errno, Result};

/// What the kernel says of an entry; links are not followed. An empty name is the handle itself.
pub(crate) fn stat(dir: BorrowedFd<'_>, name: &CStr) -> Result<Statx> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    statx(
        dir,
        name,
        flags,
        StatxFlags::BASIC_STATS | StatxFlags::BTIME,
    )
}

/// The type bits of a mode.
pub(crate) fn file_type(stat: &Statx) -> FileType {
    FileType::from_raw_mode(u32::from(stat.stx_mode))
}

/// Opens a directory of the host that Invar itself made or was given by an engine.
pub(crate) fn open_dir(path: &std::path::Path) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(CWD, path, flags, Mode::empty())
}

/// Opens a regular file below `root` for reading; anything else is refused without being opened,
/// so that neither a FIFO nor a device can hold the reader up.
pub(crate) fn open_file(root: BorrowedFd<'_>, path: &[u8]) -> Result<OwnedFd> {
    let seen = open_beneath(root, path, OFlags::PATH | OFlags::NOFOLLOW)?;
    if file_type(&stat(seen.as_fd(), c"")?) != FileType::RegularFile {
        return Err(Errno::INVAL);
    }
    reopen(seen.as_fd())
}

/// Opens for reading the very file a path handle holds, which must be known to be a regular one.
pub(crate) fn reopen(seen: BorrowedFd<'_>) -> Result<OwnedFd> {
    let path = format!("/proc/self/fd/{}", seen.as_raw_fd());
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    match openat(CWD, &path, flags | OFlags::NOATIME, Mode::empty()) {
        // Only the owner may leave the access time alone.
        Err(Errno::PERM) => openat(CWD, &path, flags, Mode::empty()),
        opened => opened,
    }
}

/// Opens a regular file of the evidence itself; a link or anything else is refused.
pub(crate) fn open_regular(path: &std::path::Path) -> crate::error::Result<OwnedFd> {
    let failed = crate::error::EvidenceError::io::<Errno>;
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let seen = openat(CWD, path, flags, Mode::empty()).map_err(failed("open", path))?;
    let kind = file_type(&stat(seen.as_fd(), c"").map_err(failed("open", path))?);
    if kind != FileType::RegularFile {
        let reason = "it is not a regular file";
        return Err(crate::error::EvidenceError::malformed(
            path.display().to_string(),
            reason,
        ));
    }
    reopen(seen.as_fd()).map_err(failed("open", path))
}
