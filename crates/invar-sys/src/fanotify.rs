//! fanotify(7): what is opened, executed and changed, told by the kernel; and leave to do so.
//!
//! Two kinds of group. A [`Gate`] is asked before a file is opened or executed and must answer. A
//! [`Names`] group is told afterwards in which directory which name changed. Closing either ends
//! its marks, and the kernel then allows everything again.

use std::ffi::{CStr, CString};
use std::io::{self, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};

use crate::handle::FileHandle;

/// Bits of [`Name::mask`] and [`Request::mask`] (`linux/fanotify.h`).
pub mod mask {
    /// Content changed.
    pub const MODIFY: u64 = libc::FAN_MODIFY;
    /// Mode, owner, times, attributes or link count changed.
    pub const ATTRIB: u64 = libc::FAN_ATTRIB;
    /// A file opened for writing was closed.
    pub const CLOSE_WRITE: u64 = libc::FAN_CLOSE_WRITE;
    /// A name was made.
    pub const CREATE: u64 = libc::FAN_CREATE;
    /// A name was removed.
    pub const DELETE: u64 = libc::FAN_DELETE;
    /// A name became another.
    pub const RENAME: u64 = libc::FAN_RENAME;
    /// Of a directory.
    pub const ON_DIRECTORY: u64 = libc::FAN_ONDIR;
    /// Events were lost: the queue was full.
    pub const OVERFLOW: u64 = libc::FAN_Q_OVERFLOW;
    /// Leave is asked to open.
    pub const OPEN: u64 = libc::FAN_OPEN_PERM;
    /// Was executed, or loaded as the interpreter of what was; nobody waits.
    pub const EXECUTED: u64 = libc::FAN_OPEN_EXEC;
    /// Leave is asked to execute, or to load what an executable names as its interpreter.
    pub const EXECUTE: u64 = libc::FAN_OPEN_EXEC_PERM;
}

/// What a mark covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// One mount: what is reached through another mount of the same files is not seen.
    Mount,
    /// The file system, through whatever mount and namespace.
    FileSystem,
}

impl Scope {
    fn flag(self) -> libc::c_uint {
        match self {
            Self::Mount => libc::FAN_MARK_MOUNT,
            Self::FileSystem => libc::FAN_MARK_FILESYSTEM,
        }
    }
}

/// `struct fanotify_event_metadata` without what follows it.
const METADATA: usize = 24;
/// Types of what follows (`FAN_EVENT_INFO_TYPE_*`).
const DIRECTORY_AND_NAME: u8 = 2;
const OLD_NAME: u8 = 10;
const NEW_NAME: u8 = 12;
/// Kept from `FAN_MARK_IGNORE` (Linux 6.0).
const MARK_IGNORE: libc::c_uint = 0x400;
const MARK_EVICTABLE: libc::c_uint = 0x200;

/// A group that is asked first.
#[derive(Debug)]
pub struct Gate(OwnedFd);

/// A process that waits for leave.
#[derive(Debug)]
pub struct Request {
    /// [`mask::OPEN`], [`mask::EXECUTE`] or [`mask::EXECUTED`].
    pub mask: u64,
    /// The process that asks.
    pub pid: u32,
    /// The very file, open for reading.
    pub file: OwnedFd,
}

impl Request {
    /// Whether the process waits for an answer.
    pub fn waits(&self) -> bool {
        self.mask & (mask::OPEN | mask::EXECUTE) != 0
    }
}

impl Gate {
    /// A group whose queue has no limit: the kernel lets through what does not fit in a queue, and
    /// each process that asks waits, so that no more are queued than there are processes.
    pub fn open() -> io::Result<Self> {
        init(
            libc::FAN_CLASS_CONTENT
                | libc::FAN_UNLIMITED_QUEUE
                | libc::FAN_UNLIMITED_MARKS
                | libc::FAN_NONBLOCK,
        )
        .map(Self)
    }

    /// A group that is only told: nobody waits for an answer, and what does not fit in its queue is
    /// lost and told of as [`mask::OVERFLOW`]. For [`mask::EXECUTED`].
    pub fn observing() -> io::Result<Self> {
        init(libc::FAN_CLASS_NOTIF | libc::FAN_NONBLOCK).map(Self)
    }

    /// Asks from now on for `mask` in the scope of what `at` refers to.
    pub fn mark(&self, scope: Scope, mask: u64, at: BorrowedFd<'_>) -> io::Result<()> {
        mark(&self.0, libc::FAN_MARK_ADD | scope.flag(), mask, at)
    }

    /// No longer asks for `mask` on this one file until its content is changed, or memory is short.
    pub fn skip(&self, mask: u64, file: BorrowedFd<'_>) -> io::Result<()> {
        mark(
            &self.0,
            libc::FAN_MARK_ADD | MARK_IGNORE | MARK_EVICTABLE,
            mask,
            file,
        )
    }

    /// Asks again for every file that was to be skipped.
    pub fn skip_none(&self) -> io::Result<()> {
        mark(&self.0, libc::FAN_MARK_FLUSH, 0, self.0.as_fd())
    }

    /// The requests that wait, and how often some were lost.
    pub fn requests(&self, buffer: &mut [u8]) -> io::Result<(Vec<Request>, u64)> {
        let events = read(&self.0, buffer)?;
        let mut requests = Vec::new();
        let mut lost = 0;
        for event in events {
            lost += u64::from(event.mask & mask::OVERFLOW != 0);
            if event.fd < 0 {
                continue;
            }
            // SAFETY: the kernel made this descriptor for the reader of the event, once.
            let file = unsafe { OwnedFd::from_raw_fd(event.fd) };
            requests.push(Request {
                mask: event.mask,
                pid: event.pid,
                file,
            });
        }
        Ok((requests, lost))
    }

    /// Answers a request.
    pub fn answer(&self, request: &Request, allow: bool) -> io::Result<()> {
        let response = if allow {
            libc::FAN_ALLOW
        } else {
            libc::FAN_DENY
        };
        let mut answer = [0; 8];
        answer[..4].copy_from_slice(&request.file.as_raw_fd().to_ne_bytes());
        answer[4..].copy_from_slice(&response.to_ne_bytes());
        rustix::io::write(&self.0, &answer)?;
        Ok(())
    }
}

impl AsFd for Gate {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A group that is told names.
#[derive(Debug)]
pub struct Names(OwnedFd);

/// A directory and a name in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The file system, as [`file_system`] names it.
    pub file_system: [u8; 8],
    /// The directory; [`crate::handle::open_handle`] opens it.
    pub directory: FileHandle,
    /// The name, `.` for the directory itself.
    pub name: Vec<u8>,
}

/// One event of a [`Names`] group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Name {
    /// Bits of [`mask`]; several when the kernel has put events together.
    pub mask: u64,
    /// The process that did it.
    pub pid: u32,
    /// Where it was before; of a rename only.
    pub old: Option<Entry>,
    /// Where it is.
    pub at: Option<Entry>,
}

impl Names {
    /// A group with a queue as long as the system allows (`fs.fanotify.max_queued_events`).
    pub fn open() -> io::Result<Self> {
        init(libc::FAN_CLASS_NOTIF | libc::FAN_REPORT_DFID_NAME | libc::FAN_NONBLOCK).map(Self)
    }

    /// Tells from now on of `mask` in the file system of `at`.
    pub fn mark(&self, mask: u64, at: BorrowedFd<'_>) -> io::Result<()> {
        mark(
            &self.0,
            libc::FAN_MARK_ADD | libc::FAN_MARK_FILESYSTEM,
            mask,
            at,
        )
    }

    /// What happened since; nothing when nothing did.
    pub fn events(&self, buffer: &mut [u8]) -> io::Result<Vec<Name>> {
        let events = read(&self.0, buffer)?;
        Ok(events.into_iter().map(|event| event.name()).collect())
    }
}

impl AsFd for Names {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The kernel's name for the file system of a file, as events carry it.
pub fn file_system(of: BorrowedFd<'_>) -> io::Result<[u8; 8]> {
    let mut stat = MaybeUninit::<libc::statfs>::uninit();
    // SAFETY: the pointer is valid for a whole `struct statfs`.
    let result = unsafe { libc::fstatfs(of.as_raw_fd(), stat.as_mut_ptr()) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call has succeeded and written all of it.
    let stat = unsafe { stat.assume_init() };
    // SAFETY: `fsid_t` is two 32-bit numbers, whose fields libc hides.
    Ok(unsafe { std::mem::transmute::<libc::fsid_t, [u8; 8]>(stat.f_fsid) })
}

/// One event as it was read.
struct Raw<'a> {
    mask: u64,
    fd: RawFd,
    pid: u32,
    records: &'a [u8],
}

impl Raw<'_> {
    fn name(&self) -> Name {
        let mut name = Name {
            mask: self.mask,
            pid: self.pid,
            old: None,
            at: None,
        };
        let mut rest = self.records;
        // `struct fanotify_event_info_header`: type, padding, length.
        while let [kind, _, low, high, ..] = *rest {
            let length = usize::from(u16::from_ne_bytes([low, high]));
            if length < 4 || length > rest.len() {
                break;
            }
            match kind {
                OLD_NAME => name.old = entry(&rest[4..length]),
                DIRECTORY_AND_NAME | NEW_NAME => name.at = entry(&rest[4..length]),
                _ => {}
            }
            rest = &rest[length..];
        }
        name
    }
}

/// `__kernel_fsid_t`, then `struct file_handle`, then a name with its NUL.
fn entry(record: &[u8]) -> Option<Entry> {
    let number = |at: usize| -> Option<[u8; 4]> { record.get(at..at + 4)?.try_into().ok() };
    let length = usize::try_from(u32::from_ne_bytes(number(8)?)).ok()?;
    let kind = i32::from_ne_bytes(number(12)?);
    let bytes = record.get(16..16_usize.checked_add(length)?)?.to_vec();
    let name = CStr::from_bytes_until_nul(&record[16 + length..]).ok()?;
    Some(Entry {
        file_system: record.get(..8)?.try_into().ok()?,
        directory: FileHandle { kind, bytes },
        name: name.to_bytes().to_vec(),
    })
}

fn read<'a>(group: &OwnedFd, buffer: &'a mut [u8]) -> io::Result<Vec<Raw<'a>>> {
    let length = match rustix::io::read(group, &mut *buffer) {
        Ok(length) => length,
        Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => 0,
        Err(errno) => return Err(errno.into()),
    };
    Ok(split(&buffer[..length]))
}

fn split(mut rest: &[u8]) -> Vec<Raw<'_>> {
    let mut events = Vec::new();
    while rest.len() >= METADATA {
        let four = |at: usize| [rest[at], rest[at + 1], rest[at + 2], rest[at + 3]];
        let length = usize::try_from(u32::from_ne_bytes(four(0))).unwrap_or(usize::MAX);
        let metadata = usize::from(u16::from_ne_bytes([rest[6], rest[7]]));
        if length > rest.len() || metadata < METADATA || metadata > length {
            break;
        }
        let mut mask = [0; 8];
        mask.copy_from_slice(&rest[8..16]);
        events.push(Raw {
            mask: u64::from_ne_bytes(mask),
            fd: RawFd::from_ne_bytes(four(16)),
            pid: u32::from_ne_bytes(four(20)),
            records: &rest[metadata..length],
        });
        rest = &rest[length..];
    }
    events
}

fn init(flags: libc::c_uint) -> io::Result<OwnedFd> {
    let file_flags = libc::O_RDONLY | libc::O_LARGEFILE | libc::O_CLOEXEC | libc::O_NOATIME
        // Of a FIFO: not to wait for its other end.
        | libc::O_NONBLOCK;
    // SAFETY: the call takes two numbers.
    let fd = unsafe {
        libc::fanotify_init(
            flags | libc::FAN_CLOEXEC,
            libc::c_uint::try_from(file_flags).unwrap_or(0),
        )
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel just made this descriptor for us; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn mark(group: &OwnedFd, flags: libc::c_uint, mask: u64, at: BorrowedFd<'_>) -> io::Result<()> {
    // By its own link, so that a handle that was not opened for reading will do.
    let mut path = Vec::new();
    write!(path, "/proc/self/fd/{}", at.as_raw_fd())?;
    let path = CString::new(path)?;
    // SAFETY: `path` ends with a NUL and outlives the call.
    let result = unsafe {
        libc::fanotify_mark(
            group.as_raw_fd(),
            flags,
            mask,
            libc::AT_FDCWD,
            path.as_ptr(),
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cut_short_or_lying_records_are_not_followed() {
        let mut event = Vec::new();
        event.extend_from_slice(&40_u32.to_ne_bytes());
        event.extend_from_slice(&[3, 0]);
        event.extend_from_slice(&24_u16.to_ne_bytes());
        event.extend_from_slice(&mask::CREATE.to_ne_bytes());
        event.extend_from_slice(&(-1_i32).to_ne_bytes());
        event.extend_from_slice(&7_u32.to_ne_bytes());
        // A name record that says it is longer than the event.
        event.extend_from_slice(&[DIRECTORY_AND_NAME, 0]);
        event.extend_from_slice(&400_u16.to_ne_bytes());
        event.extend_from_slice(&[0; 12]);
        let names: Vec<Name> = split(&event).iter().map(Raw::name).collect();
        assert_eq!(names.len(), 1);
        assert_eq!((names[0].pid, names[0].at.as_ref()), (7, None));
        for length in 0..event.len() {
            assert!(split(&event[..length]).is_empty(), "{length}");
        }
    }

    #[test]
    fn a_new_name_is_told_with_its_directory() {
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        let handle = fs_err::File::open(dir.path()).unwrap();
        let names = Names::open().unwrap();
        names.mark(mask::CREATE, handle.as_fd()).unwrap();
        fs_err::write(dir.path().join("seen-by-fanotify"), "").unwrap();
        let mut buffer = vec![0; 1 << 20];
        let events = names.events(&mut buffer).unwrap();
        let made = events
            .iter()
            .filter_map(|event| event.at.as_ref())
            .find(|entry| entry.name == b"seen-by-fanotify")
            .unwrap();
        let opened = crate::handle::open_handle(handle.as_fd(), &made.directory).unwrap();
        let found = fs_err::read_link(format!("/proc/self/fd/{}", opened.as_raw_fd())).unwrap();
        assert_eq!(found, dir.path());
    }
}
