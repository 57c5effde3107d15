//! Processes: this program started again, apart from the host.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};
use std::process::Command;

use rustix::mount::MountAttrFlags;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use rustix::thread::UnshareFlags;

use crate::mount;

/// This program's own file, through a read-only mount that no path leads to.
///
/// A process of a container can reach the file it was started from (`/proc/PID/exe`) and write to
/// it once nothing executes it (CVE-2019-5736). Through this handle it cannot: the mount refuses.
pub fn read_only_self() -> io::Result<OwnedFd> {
    let own = std::path::Path::new("/proc/self/exe");
    let file = match mount::clone_file(own) {
        // A mount that was detached meanwhile has no copies: executed by such a handle itself.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => return executed_read_only(own),
        file => file?,
    };
    mount::set_attributes(&file, MountAttrFlags::MOUNT_ATTR_RDONLY)?;
    Ok(file)
}

/// The file itself, when the mount it was executed from refuses writes.
fn executed_read_only(own: &std::path::Path) -> io::Result<OwnedFd> {
    use rustix::fs::{CWD, Mode, OFlags, StatVfsMountFlags, fstatvfs, openat};
    let file = openat(CWD, own, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    if fstatvfs(&file)?.f_flag.contains(StatVfsMountFlags::RDONLY) {
        Ok(file)
    } else {
        Err(io::Error::from_raw_os_error(libc::EINVAL))
    }
}

/// A command that executes the file behind a handle, which stays open until then.
pub fn command(program: BorrowedFd<'_>) -> Command {
    Command::new(format!("/proc/self/fd/{}", program.as_raw_fd()))
}

/// Lets a handle pass into every program this process starts.
pub fn inherit(fd: BorrowedFd<'_>) -> io::Result<()> {
    Ok(rustix::io::fcntl_setfd(fd, rustix::io::FdFlags::empty())?)
}

/// Gives this process its own mount namespace, from which nothing spreads to the host's.
pub fn unshare_mounts() -> io::Result<()> {
    // SAFETY: a mount namespace of its own changes no memory and no open handle of the process.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS) }?;
    let private =
        rustix::mount::MountPropagationFlags::PRIVATE | rustix::mount::MountPropagationFlags::REC;
    Ok(rustix::mount::mount_change("/", private)?)
}

/// Makes this process the parent of every descendant whose own parent ends (`prctl(2)`,
/// `PR_SET_CHILD_SUBREAPER`).
pub fn become_subreaper() -> io::Result<()> {
    Ok(rustix::process::set_child_subreaper(Some(
        rustix::process::getpid(),
    ))?)
}

/// A process that cannot be mistaken for a later one with the same number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Identity {
    /// As the host numbers it.
    pub pid: u32,
    /// When it started, in clock ticks since boot (`proc_pid_stat(5)`, field 22).
    pub start_ticks: u64,
}

impl Identity {
    /// The process with this number now; `None` when there is none.
    pub fn of(pid: u32) -> Option<Self> {
        let stat = fs_err::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The second field is the program's name in parentheses and may hold anything.
        let after_name = &stat[stat.rfind(')')? + 1..];
        let start_ticks = after_name.split_ascii_whitespace().nth(19)?.parse().ok()?;
        Some(Self { pid, start_ticks })
    }

    /// A handle on the process; `None` when it has ended.
    pub fn open(self) -> io::Result<Option<OwnedFd>> {
        let Some(pid) = i32::try_from(self.pid).ok().and_then(Pid::from_raw) else {
            return Ok(None);
        };
        let handle = match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(handle) => handle,
            Err(rustix::io::Errno::SRCH | rustix::io::Errno::INVAL) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        // Checked after opening: the handle now holds exactly the process that was looked at.
        Ok((Self::of(self.pid) == Some(self)).then_some(handle))
    }
}

/// Sends a signal, also a real-time one; `false` when the process has ended.
pub fn send_signal(process: BorrowedFd<'_>, signal: i32) -> io::Result<bool> {
    let sent = match Signal::from_named_raw(signal) {
        Some(signal) => pidfd_send_signal(process, signal),
        None => send_raw(process, signal),
    };
    match sent {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::SRCH) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn send_raw(process: BorrowedFd<'_>, signal: i32) -> Result<(), rustix::io::Errno> {
    let no_info = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: the kernel reads nothing through a null siginfo; the handle is open.
    let done = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            process.as_raw_fd(),
            signal,
            no_info,
            0,
        )
    };
    if done == 0 {
        Ok(())
    } else {
        Err(
            rustix::io::Errno::from_io_error(&io::Error::last_os_error())
                .unwrap_or(rustix::io::Errno::INVAL),
        )
    }
}

/// Waits until the process has ended, or the time is over: `false`.
pub fn wait_for_end(process: BorrowedFd<'_>, limit: std::time::Duration) -> io::Result<bool> {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let deadline = std::time::Instant::now() + limit;
    loop {
        let rest = deadline.saturating_duration_since(std::time::Instant::now());
        let timeout = Timespec::try_from(rest).map_err(io::Error::other)?;
        let mut fds = [PollFd::new(&process, PollFlags::IN)];
        match poll(&mut fds, Some(&timeout)) {
            Ok(0) => return Ok(false),
            Ok(_) => return Ok(true),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Takes over a handle that the parent let pass and named by its number; later programs do not
/// get it.
pub fn inherited(number: &str) -> io::Result<OwnedFd> {
    let number: RawFd = number
        .parse()
        .map_err(|_invalid| io::Error::other("not the number of a handle"))?;
    if number <= 2 {
        return Err(io::Error::other("the standard streams are not handed over"));
    }
    // SAFETY: only asks about the number; nothing is owned or closed.
    if unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it is open, and the parent named it for this process to own; each is taken once, at
    // the start of a role.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}
