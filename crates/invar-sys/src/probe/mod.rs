//! What this kernel really does, found by doing it and undoing it: a version or a list says what
//! a kernel was built from, not what it lets this process do.

mod bpf;
mod security;
mod storage;

pub use bpf::{BpfProgram, load as load_bpf};
pub use security::{fanotify_permission, landlock, seccomp, user_namespace};
pub use storage::{
    data_only_layers, enable_verity, idmapped, immutable, overlay, recursive_read_only,
    require_verity, security_modules,
};

use std::io;

/// The result of a system call that answers with a handle, which is closed at once.
fn handle(answer: libc::c_long) -> io::Result<std::os::fd::OwnedFd> {
    use std::os::fd::FromRawFd as _;
    let number = i32::try_from(answer).map_err(io::Error::other)?;
    if number < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this handle for us; nobody else owns it.
    Ok(unsafe { std::os::fd::OwnedFd::from_raw_fd(number) })
}
