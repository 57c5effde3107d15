//! Locks that belong to an open file (`fcntl(2)`, "Open file description locks"): they pass to
//! children with the handle and end with the last handle, also when its owner is killed.

use std::io;
use std::os::fd::{AsFd, AsRawFd as _};

/// Takes the lock on a file opened for writing; `false` when another handle has it.
pub fn try_lock(file: impl AsFd) -> io::Result<bool> {
    let mut whole = whole_file();
    // SAFETY: the descriptor is open and the kernel reads one whole `flock`.
    let done = unsafe { libc::fcntl(file.as_fd().as_raw_fd(), libc::F_OFD_SETLK, &raw mut whole) };
    if done == 0 {
        return Ok(true);
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::EAGAIN | libc::EACCES) => Ok(false),
        _ => Err(error),
    }
}

/// Whether another handle has the lock; taking nothing.
pub fn is_locked(file: impl AsFd) -> io::Result<bool> {
    let mut whole = whole_file();
    // SAFETY: the descriptor is open and the kernel fills one whole `flock`.
    let done = unsafe { libc::fcntl(file.as_fd().as_raw_fd(), libc::F_OFD_GETLK, &raw mut whole) };
    if done != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(i32::from(whole.l_type) != libc::F_UNLCK)
}

fn whole_file() -> libc::flock {
    libc::flock {
        l_type: i16::try_from(libc::F_WRLCK).expect("lock types are small numbers"),
        l_whence: i16::try_from(libc::SEEK_SET).expect("a small number"),
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_seen_by_other_handles_and_ends_with_its_own() {
        let stage = tempfile::NamedTempFile::new().unwrap();
        let first = stage.reopen().unwrap();
        let second = stage.reopen().unwrap();
        assert!(!is_locked(&second).unwrap());
        assert!(try_lock(&first).unwrap());
        assert!(is_locked(&second).unwrap());
        assert!(!try_lock(&second).unwrap());
        drop(first);
        assert!(try_lock(&second).unwrap());
    }
}
