//! Pseudo-terminals: the container's side is made inside the container, ours arrives over a
//! socket (the OCI runtimes' "console socket").

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::termios::{Winsize, tcgetwinsize, tcsetwinsize};

use crate::embedded::channel;

const SOCKET: &str = "console";

/// Listens for the terminal of a container being started; where it is to be sent.
pub(in crate::embedded) fn listen(directory: &Path) -> io::Result<(UnixListener, PathBuf)> {
    let name = format!("{SOCKET}-{}", std::process::id());
    let listener = listen_at(directory, &name)?;
    Ok((listener, directory.join(name)))
}

/// Listens under a name in a directory, without waiting for anybody.
pub(in crate::embedded) fn listen_at(directory: &Path, name: &str) -> io::Result<UnixListener> {
    let handle = open(directory)?;
    let listener = UnixListener::bind(short(&handle, name))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Connects to who listens under a name in a directory.
pub(in crate::embedded) fn connect_to(directory: &Path, name: &str) -> io::Result<UnixStream> {
    let handle = open(directory)?;
    UnixStream::connect(short(&handle, name))
}

fn open(directory: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(openat(CWD, directory, flags, Mode::empty())?)
}

/// A socket's path has at most 107 bytes; a state root may be deeper.
fn short(directory: &OwnedFd, name: &str) -> PathBuf {
    Path::new(&format!("/proc/self/fd/{}", directory.as_raw_fd())).join(name)
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
