//! File handles (`name_to_handle_at(2)`): what names an inode, whatever path leads to it.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};

/// The kernel's own limit on a handle (`MAX_HANDLE_SZ`).
const LONGEST: usize = 128;
const ANNOUNCED: libc::c_uint = 128;

/// A handle, fit for comparing; for opening too when the kernel gave it with an event.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct FileHandle {
    /// The file system's name for the form of `bytes`.
    pub kind: i32,
    /// Names the inode within its file system.
    pub bytes: Vec<u8>,
}

#[repr(C)]
struct RawHandle {
    length: libc::c_uint,
    kind: libc::c_int,
    bytes: [u8; LONGEST],
}

/// The handle of an entry of `dir`, or of `dir` itself for an empty name; a link is not followed.
/// Overlays give one since Linux 6.6.
pub fn file_handle(dir: BorrowedFd<'_>, name: &CStr) -> io::Result<FileHandle> {
    /// Only for comparing (Linux 6.5), which more file systems support. libc lacks it; the value
    /// is that of `AT_REMOVEDIR`, which this call does not know.
    const AT_HANDLE_FID: libc::c_int = 0x200;
    let mut raw = RawHandle {
        length: ANNOUNCED,
        kind: 0,
        bytes: [0; LONGEST],
    };
    let mut mount_id: libc::c_int = 0;
    // SAFETY: `name` ends with a NUL, `raw` has the layout of `struct file_handle` with room for
    // the bytes its length announces, and both outlive the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_name_to_handle_at,
            dir.as_raw_fd(),
            name.as_ptr(),
            &raw mut raw,
            &raw mut mount_id,
            AT_HANDLE_FID | libc::AT_EMPTY_PATH,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    let length = usize::try_from(raw.length).map_or(LONGEST, |length| length.min(LONGEST));
    Ok(FileHandle {
        kind: raw.kind,
        bytes: raw.bytes[..length].to_vec(),
    })
}

/// Opens what a handle names, through the mount of `mount` and as a place only (`O_PATH`).
pub fn open_handle(mount: BorrowedFd<'_>, handle: &FileHandle) -> io::Result<OwnedFd> {
    let length = handle.bytes.len();
    if length > LONGEST {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut raw = RawHandle {
        length: libc::c_uint::try_from(length).unwrap_or(0),
        kind: handle.kind,
        bytes: [0; LONGEST],
    };
    raw.bytes[..length].copy_from_slice(&handle.bytes);
    // SAFETY: `raw` has the layout of `struct file_handle` with the bytes its length announces,
    // and outlives the call.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_open_by_handle_at,
            mount.as_raw_fd(),
            &raw mut raw,
            libc::O_PATH | libc::O_CLOEXEC,
        )
    };
    match i32::try_from(fd) {
        // SAFETY: the kernel just made this descriptor for us; nobody else owns it.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;

    use super::*;

    #[test]
    fn a_file_has_one_handle_under_all_its_names() {
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        fs_err::write(dir.path().join("a"), "").unwrap();
        fs_err::write(dir.path().join("other"), "").unwrap();
        fs_err::hard_link(dir.path().join("a"), dir.path().join("b")).unwrap();
        let handle = fs_err::File::open(dir.path()).unwrap();
        let of = |name| file_handle(handle.as_fd(), name).unwrap();
        assert_eq!(of(c"a"), of(c"b"));
        assert_ne!(of(c"a"), of(c"other"));
        assert!(file_handle(handle.as_fd(), c"missing").is_err());
    }
}
