//! User namespaces: who is root inside is nobody outside.

use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{DumpableBehavior, Gid, Uid, WaitOptions, waitpid};
use rustix::thread::{
    CapabilitySet, CapabilitySets, LinkNameSpaceType, capability_is_in_bounding_set,
    move_into_link_name_space, remove_capability_from_bounding_set, set_capabilities,
    set_thread_groups, set_thread_res_gid, set_thread_res_uid,
};

/// How many ids a namespace has: every 16-bit one, `nobody` included.
pub const IDS: u32 = 65536;
/// Whom a namespace shows for an owner that is not in it.
const NOBODY: u32 = 65534;

/// Makes a user namespace whose ids 0 to [`IDS`] are `first` and following outside.
pub fn create(first: u32) -> io::Result<OwnedFd> {
    let (told, tell) = pipe_with(PipeFlags::CLOEXEC)?;
    let (asked, ask) = pipe_with(PipeFlags::CLOEXEC)?;
    // SAFETY: the child calls nothing but `close`, `unshare`, `write`, `read` and `_exit`, all safe
    // after a fork of a process with threads.
    let child = unsafe { libc::fork() };
    if child < 0 {
        return Err(io::Error::last_os_error());
    }
    if child == 0 {
        be_first(ask.as_raw_fd(), told.as_raw_fd(), tell.as_raw_fd());
    }
    drop((ask, told));
    let namespace = map(child, asked, first);
    // The child ends when it has nothing more to wait for.
    drop(tell);
    let pid = rustix::process::Pid::from_raw(child);
    waitpid(pid, WaitOptions::empty())?;
    namespace
}

/// The child's part: makes the namespace, says so, and holds it until the parent has a handle.
fn be_first(ask: i32, told: i32, tell: i32) -> ! {
    let mut byte = 0_u8;
    // SAFETY: closes the child's own copy of a number that is open, and nothing uses it later.
    unsafe { libc::close(tell) };
    // SAFETY: takes a number.
    let done = unsafe { libc::unshare(libc::CLONE_NEWUSER) };
    let error = io::Error::last_os_error().raw_os_error().unwrap_or(255);
    byte = if done == 0 {
        byte
    } else {
        u8::try_from(error).unwrap_or(255)
    };
    // SAFETY: writes one byte that is on this stack.
    unsafe { libc::write(ask, (&raw const byte).cast(), 1) };
    // SAFETY: reads at most one byte to where one is.
    unsafe { libc::read(told, (&raw mut byte).cast(), 1) };
    // SAFETY: ends the child at once, running nothing of this program.
    unsafe { libc::_exit(0) }
}

fn map(child: i32, asked: OwnedFd, first: u32) -> io::Result<OwnedFd> {
    let mut answer = [0];
    std::fs::File::from(asked).read_exact(&mut answer)?;
    if answer[0] != 0 {
        return Err(io::Error::from_raw_os_error(answer[0].into()));
    }
    let line = format!("0 {first} {IDS}\n");
    for name in ["gid_map", "uid_map"] {
        fs_err::OpenOptions::new()
            .write(true)
            .open(format!("/proc/{child}/{name}"))?
            .write_all(line.as_bytes())?;
    }
    of_process(child)
}

/// The user namespace of a process.
pub fn of_process(pid: i32) -> io::Result<OwnedFd> {
    let path = format!("/proc/{pid}/ns/user");
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    Ok(openat(CWD, path, flags, Mode::empty())?)
}

/// What id outside is 0 in a process's user namespace; 0 for one in this process's own.
pub fn first_of(pid: u32) -> io::Result<u32> {
    let map = fs_err::read_to_string(format!("/proc/{pid}/uid_map"))?;
    let fields: Vec<&str> = map
        .lines()
        .next()
        .unwrap_or("")
        .split_whitespace()
        .collect();
    match fields[..] {
        ["0", first, _] => first.parse().map_err(io::Error::other),
        _ => Ok(0),
    }
}

/// An id as a namespace shows it whose id 0 is `first` outside; with 0, it is this process's own.
#[must_use]
pub fn inside(id: u32, first: u32) -> u32 {
    match (first, id.checked_sub(first)) {
        (0, _) => id,
        (_, Some(inside)) if inside < IDS => inside,
        _ => NOBODY,
    }
}

/// Who a process becomes in a user namespace, in its ids.
#[derive(Debug, Clone, Copy)]
pub struct Identity<'a> {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Groups beside it.
    pub groups: &'a [u32],
    /// Capabilities it and what it executes can ever have, as names without `CAP_`.
    pub capabilities: &'a [String],
}

/// Moves this process, which must have one thread, into a user namespace as somebody of it.
/// Nothing of another process there can look into it before it executes a program.
pub fn enter(namespace: impl AsFd, identity: Identity<'_>) -> io::Result<()> {
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::User))?;
    let mut kept = CapabilitySet::empty();
    for name in identity.capabilities {
        kept |= CapabilitySet::from_name(name).unwrap_or(CapabilitySet::empty());
    }
    // A new member has every capability in it.
    for capability in CapabilitySet::all().iter() {
        if !kept.contains(capability) && capability_is_in_bounding_set(capability).unwrap_or(false)
        {
            remove_capability_from_bounding_set(capability)?;
        }
    }
    let groups: Vec<Gid> = identity
        .groups
        .iter()
        .map(|id| Gid::from_raw(*id))
        .collect();
    set_thread_groups(&groups)?;
    let (uid, gid) = (Uid::from_raw(identity.uid), Gid::from_raw(identity.gid));
    set_thread_res_gid(gid, gid, gid)?;
    set_thread_res_uid(uid, uid, uid)?;
    let held = if identity.uid == 0 {
        kept
    } else {
        CapabilitySet::empty()
    };
    Ok(set_capabilities(
        None,
        CapabilitySets {
            effective: held,
            permitted: held,
            inheritable: CapabilitySet::empty(),
        },
    )?)
}

/// Does `work` in a thread whose new files belong to this user and group of the same number, with
/// every capability this process has.
pub fn as_owner<T: Send>(id: u32, work: impl FnOnce() -> T + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        let worker = scope.spawn(move || {
            // SAFETY: takes a number, and changes this thread alone, which ends with the work.
            unsafe { libc::setfsgid(id) };
            // SAFETY: as above.
            unsafe { libc::setfsuid(id) };
            let mut sets = rustix::thread::capabilities(None)?;
            // Another user lost those over files.
            sets.effective = sets.permitted;
            set_capabilities(None, sets)?;
            Ok(work())
        });
        worker
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}
