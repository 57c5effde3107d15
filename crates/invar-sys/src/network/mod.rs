//! Network namespaces, and what the kernel keeps in one: links, addresses, routes, rules.
//!
//! [`Routing`] speaks the kernel's own protocol (`rtnetlink(7)`), so that no program has to be
//! installed or started for it. A connection stays with the namespace it was opened in, also when
//! its process moves to another: that is how a shim reaches both ends of a cable.

mod cables;
mod flows;
mod message;
mod nftables;
mod routing;

pub use cables::{cut, mend};
pub use flows::forget_datagrams;
pub use nftables::has_chain;
pub use routing::{Routing, Veth};

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, OwnedFd};

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::net::{AddressFamily, SocketType, socket};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};

/// Moves this process into a network namespace of its own, in which only loopback is up.
pub fn unshare() -> io::Result<()> {
    // SAFETY: a network namespace of its own changes no memory and no open handle of the process.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }?;
    loopback_up()
}

/// A handle on the network namespace this thread is in.
pub fn own_namespace() -> io::Result<OwnedFd> {
    open_namespace("/proc/thread-self/ns/net")
}

/// A handle on the network namespace of a process.
pub fn namespace_of(pid: u32) -> io::Result<OwnedFd> {
    open_namespace(&format!("/proc/{pid}/ns/net"))
}

fn open_namespace(path: &str) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    Ok(openat(CWD, path, flags, Mode::empty())?)
}

/// Moves this thread into a network namespace.
pub fn enter(namespace: BorrowedFd<'_>) -> io::Result<()> {
    Ok(move_into_link_name_space(
        namespace,
        Some(LinkNameSpaceType::Network),
    )?)
}

/// `netdevice(7)`, `SIOCSIFFLAGS`.
fn loopback_up() -> io::Result<()> {
    let socket = socket(AddressFamily::INET, SocketType::DGRAM, None)?;
    // SAFETY: all zeros is a valid `ifreq`.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = libc::c_char::try_from(*from).expect("an ASCII letter");
    }
    request.ifr_ifru.ifru_flags =
        libc::c_short::try_from(libc::IFF_UP | libc::IFF_RUNNING).expect("small flags");
    // SAFETY: the request is a whole `ifreq` that the kernel only reads.
    let done = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) };
    if done == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
