//! Pseudo-terminals: the container's side is made inside the container, ours arrives over a
//! socket (the OCI runtimes' "console socket").

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::termios::{Winsize, tcgetwinsize, tcsetwinsize};

use crate::embedded::channel;

const SOCKET: &str = "console";

/// Listens for the terminal of a container being started; where it is to be sent.
pub(in crate::embedded) fn listen(directory: &Path) -> io::Result<(UnixListener, PathBuf)> {
    let path = directory.join(format!("{SOCKET}-{}", std::process::id()));
    // A socket's path has at most 107 bytes; a state root may be deeper.
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let handle = openat(CWD, directory, flags, Mode::empty())?;
    let short = format!("/proc/self/fd/{}", handle.as_raw_fd());
    let short = Path::new(&short).join(path.file_name().unwrap_or_default());
    let listener = UnixListener::bind(short)?;
    listener.set_nonblocking(true)?;
    Ok((listener, path))
}

/// Takes the terminal; the container has sent it before its program was executed.
pub(in crate::embedded) fn receive(listener: &UnixListener) -> io::Result<OwnedFd> {
    let (socket, _address) = listener.accept()?;
    channel::receive_handle(&socket)
}

/// The size of the terminal this process shows things on; `None` when it is none.
pub(in crate::embedded) fn own_size() -> Option<Winsize> {
    tcgetwinsize(io::stdout())
        .or_else(|_| tcgetwinsize(io::stdin()))
        .ok()
}

/// Gives a container's terminal the size of this process's own.
pub(in crate::embedded) fn follow_size(container: BorrowedFd<'_>) -> io::Result<()> {
    match own_size() {
        Some(size) => Ok(tcsetwinsize(container, size)?),
        None => Ok(()),
    }
}
