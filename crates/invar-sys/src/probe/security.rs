//! Keeping a program from things: filters, namespaces, modules.

use std::io;
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, openat};

/// Installs a system call filter that allows everything, in a thread that ends with it.
pub fn seccomp() -> io::Result<()> {
    /// `BPF_RET`, `SECCOMP_RET_ALLOW` (`seccomp(2)`).
    const ALLOW: libc::sock_filter = libc::sock_filter {
        code: 6,
        jt: 0,
        jf: 0,
        k: 0x7fff_0000,
    };
    let install = || {
        let mut code = [ALLOW];
        let program = libc::sock_fprog {
            len: 1,
            filter: code.as_mut_ptr(),
        };
        rustix::thread::set_no_new_privs(true)?;
        // SAFETY: the program and its one instruction outlive the call, and the kernel reads them.
        let done = unsafe { libc::syscall(libc::SYS_seccomp, 1, 0, &raw const program) };
        if done == 0 {
            Ok(())
        } else {
            Err(io::Error::last_os_error())
        }
    };
    std::thread::spawn(install)
        .join()
        .map_err(|_panic| io::Error::other("the thread that tried ended"))?
}

/// Makes a user namespace, in a process that ends with it.
pub fn user_namespace() -> io::Result<()> {
    // SAFETY: the child calls nothing but `unshare` and `_exit`, both safe after a fork of a
    // process with threads.
    let child = unsafe { libc::fork() };
    if child < 0 {
        return Err(io::Error::last_os_error());
    }
    if child == 0 {
        // SAFETY: as above.
        let done = unsafe { libc::unshare(libc::CLONE_NEWUSER) };
        let error = io::Error::last_os_error().raw_os_error();
        let code = if done == 0 { 0 } else { error.unwrap_or(255) };
        // SAFETY: ends the child at once, running nothing of this program.
        unsafe { libc::_exit(code) };
    }
    let pid = rustix::process::Pid::from_raw(child);
    let ended = rustix::process::waitpid(pid, rustix::process::WaitOptions::empty())?;
    match ended.and_then(|(_, status)| status.exit_status()) {
        Some(0) => Ok(()),
        Some(errno) => Err(io::Error::from_raw_os_error(errno)),
        None => Err(io::Error::other("the process that tried was killed")),
    }
}

/// The version of Landlock's interface.
pub fn landlock() -> io::Result<u32> {
    const VERSION: libc::c_ulong = 1;
    let none = std::ptr::null::<libc::c_void>();
    // SAFETY: asked for the version, the kernel reads nothing through the pointer.
    let answer =
        unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, none, 0_usize, VERSION) };
    u32::try_from(answer).map_err(|_negative| io::Error::last_os_error())
}

/// Asks to be asked before a program below `directory` is executed; the question ends at once.
pub fn fanotify_permission(directory: &Path) -> io::Result<()> {
    let flags = libc::FAN_CLASS_CONTENT | libc::FAN_CLOEXEC | libc::FAN_NONBLOCK;
    // SAFETY: takes two numbers.
    let answer = unsafe { libc::fanotify_init(flags, libc::O_RDONLY as libc::c_uint) };
    let group = super::handle(answer.into())?;
    let place = openat(
        CWD,
        directory,
        OFlags::PATH | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    let path = format!(
        "/proc/self/fd/{}\0",
        std::os::fd::AsRawFd::as_raw_fd(&place)
    );
    // SAFETY: the path ends with a NUL and outlives the call.
    let done = unsafe {
        libc::fanotify_mark(
            std::os::fd::AsRawFd::as_raw_fd(&group),
            libc::FAN_MARK_ADD,
            libc::FAN_OPEN_EXEC_PERM | libc::FAN_EVENT_ON_CHILD,
            libc::AT_FDCWD,
            path.as_ptr().cast(),
        )
    };
    if done == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
