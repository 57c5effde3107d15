//! Signals as readable events (`signalfd(2)`) instead of handlers.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd as _, OwnedFd};

/// Signals that are blocked and arrive here instead.
///
/// Blocking is inherited by threads started later, so it is done before any is, and by programs
/// this process starts: they call [`unblock_all`] first.
#[derive(Debug)]
pub struct SignalFd(OwnedFd);

impl SignalFd {
    /// Blocks these signals in the calling thread and opens a handle that reads them.
    pub fn block(signals: &[i32]) -> io::Result<Self> {
        let mut set = MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: the pointer is valid for a whole set.
        unsafe { libc::sigemptyset(set.as_mut_ptr()) };
        // SAFETY: `sigemptyset` has just written all of it.
        let mut set = unsafe { set.assume_init() };
        for signal in signals {
            // SAFETY: `set` is a valid set; an unknown number is refused with EINVAL.
            if unsafe { libc::sigaddset(&raw mut set, *signal) } != 0 {
                return Err(io::Error::last_os_error());
            }
        }
        // SAFETY: `set` is valid, and a null pointer means that the old mask is not wanted.
        let blocked =
            unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) };
        if blocked != 0 {
            return Err(io::Error::from_raw_os_error(blocked));
        }
        // SAFETY: `set` is valid; -1 asks for a new descriptor.
        let fd = unsafe { libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel just made this descriptor for us; nobody else owns it.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Waits so long at most; whether a signal is there, which is taken.
    pub fn wait_for(&self, limit: std::time::Duration) -> io::Result<bool> {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let timeout = Timespec::try_from(limit).map_err(io::Error::other)?;
        let mut fds = [PollFd::new(&self.0, PollFlags::IN)];
        match poll(&mut fds, Some(&timeout)) {
            Ok(0) | Err(rustix::io::Errno::INTR) => Ok(false),
            Ok(_) => self.wait().map(|_signal| true),
            Err(error) => Err(error.into()),
        }
    }

    /// Waits for the next signal; its number.
    pub fn wait(&self) -> io::Result<i32> {
        let mut info = [0_u8; size_of::<libc::signalfd_siginfo>()];
        loop {
            match rustix::io::read(&self.0, &mut info) {
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
                Ok(_) => break,
            }
        }
        // `ssi_signo` is the first field, a u32 (signalfd(2)).
        let number = u32::from_ne_bytes([info[0], info[1], info[2], info[3]]);
        Ok(i32::try_from(number).unwrap_or(0))
    }
}

/// Lets every signal through again, as a program expects it at its start.
pub fn unblock_all() -> io::Result<()> {
    let mut set = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: the pointer is valid for a whole set.
    unsafe { libc::sigemptyset(set.as_mut_ptr()) };
    // SAFETY: `sigemptyset` has written all of it, and a null pointer means that the old mask is
    // not wanted.
    let done =
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, set.as_ptr(), std::ptr::null_mut()) };
    if done == 0 {
        Ok(())
    } else {
        Err(io::Error::from_raw_os_error(done))
    }
}

/// Gives every signal its default action again, as a program expects it at its start: what the
/// caller ignores would otherwise stay ignored for good.
pub fn reset_actions() {
    /// `struct sigaction` of the kernel (`rt_sigaction(2)`): action, flags, restorer, mask; all
    /// zeros is the default action.
    const DEFAULT: [u64; 4] = [0; 4];
    for signal in 1..=64 {
        // SAFETY: the kernel reads one whole action of the size that goes with its 8-byte signal
        // set, and writes none. The C library refuses its own two signals, so it is not asked.
        // KILL and STOP answer EINVAL, which is what they always do.
        unsafe {
            libc::syscall(
                libc::SYS_rt_sigaction,
                signal,
                DEFAULT.as_ptr(),
                std::ptr::null::<u64>(),
                8,
            )
        };
    }
}

impl AsFd for SignalFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The signals this module's callers name, as the kernel numbers them.
pub use libc::{SIGCHLD, SIGHUP, SIGINT, SIGKILL, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGWINCH};
