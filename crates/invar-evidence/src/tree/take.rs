//! Taking a tree into evidence: by hard links, or by copies that share blocks where the file
//! system can. (Taking it by renaming needs no walk.)
//!
//! Every entry is listed as it was found, then put in its place with owner, mode, times and all
//! extended attributes, overlayfs's marks included. What cannot be taken is recorded and left out.

use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt as _;

use invar_drift::{attributes, open_beneath};
use invar_sys::userns;
use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, SeekFrom, Statx, StatxTimestamp, Timespec, Timestamps,
    Uid, XattrFlags, chmodat, chownat, ftruncate, ioctl_ficlone, linkat, lsetxattr, makedev,
    mkdirat, mknodat, openat, readlinkat, seek, symlinkat, unlinkat, utimensat,
};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::entry::{Entry, Instant};
use super::list::Writer;
use super::walk::{self, Event, Found};
use super::{file_type, name, parent, reopen};
use crate::capture::log::Log;
use crate::capture::pace::Pace;
use crate::error::Result;
use crate::limits::Budget;

/// Bytes copied at once.
const PIECE: usize = 1 << 20;

/// How a tree came into the evidence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Method {
    /// The directory itself was moved: nothing was copied.
    Renamed,
    /// Its files got a second name here; the container is gone, so nobody writes to them any more.
    Linked,
    /// Its files were copied, sharing blocks where the file system can.
    Copied,
}

/// What was taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Taken {
    /// How.
    pub method: Method,
    /// Entries in the tree.
    pub entries: u64,
    /// Files that got a second name.
    pub linked: u64,
    /// Files that share their blocks with the original.
    pub reflinked: u64,
    /// Bytes that were copied.
    pub copied: u64,
    /// Entries that were taken after the container went on.
    #[serde(default)]
    pub taken_live: u64,
    /// Those among them that are not as they were when it was frozen, or may not be.
    #[serde(default)]
    pub changed_meanwhile: u64,
    /// Entries left out because they had not changed.
    #[serde(default)]
    pub left_out: u64,
}

/// Which entries are taken and how.
#[derive(Debug, Clone, Copy)]
pub(crate) struct How {
    pub(crate) method: Method,
    /// Leaves out what has not changed since then, but for directories.
    pub(crate) since: Option<Instant>,
    /// Most entries.
    pub(crate) most: u64,
    /// What id 0 of the owners is here; they are recorded as the container calls them.
    pub(crate) first: u32,
}

impl How {
    /// All, in this way.
    pub(crate) fn all(method: Method) -> Self {
        Self {
            method,
            since: None,
            most: u64::MAX,
            first: 0,
        }
    }
}

impl Taken {
    pub(crate) fn none(method: Method) -> Self {
        Self {
            method,
            entries: 0,
            linked: 0,
            reflinked: 0,
            copied: 0,
            taken_live: 0,
            changed_meanwhile: 0,
            left_out: 0,
        }
    }
}

/// Takes the tree below `from` into the empty directory `to`, on which `from`'s own metadata is
/// put as well.
pub(crate) fn tree(
    from: BorrowedFd<'_>,
    to: BorrowedFd<'_>,
    how: How,
    budget: &mut Budget,
    listing: &mut Writer,
    pace: &mut Pace<'_>,
    log: &mut Log,
) -> Result<Taken> {
    let mut taking = Taking {
        to,
        parent: None,
        first_names: HashMap::new(),
        how,
        budget,
        taken: Taken::none(how.method),
    };
    walk::walk(from, &mut |event| match event {
        Event::Entry(found) => {
            let stat = as_inside(found.stat, how.first);
            let found = &Found {
                stat: &stat,
                ..*found
            };
            taking.entry(found, listing, pace, log)
        }
        Event::Leave(found) => {
            let stat = as_inside(found.stat, how.first);
            let found = &Found {
                stat: &stat,
                ..*found
            };
            if let Err(error) = taking.leave(found) {
                log.not_captured(found.path, format_args!("its metadata: {error}"))?;
            }
            taking.has_changed(found, pace, log)
        }
        Event::Unreadable { path, reason } => log.not_captured(path, reason),
    })?;
    if taking.taken.entries >= how.most {
        let reason = format!("more than {} entries", how.most);
        log.not_captured(b"/", reason)?;
    }
    Ok(taking.taken)
}

/// What the kernel says of an entry, its owners as a container calls them whose id 0 is `first`.
fn as_inside(stat: &Statx, first: u32) -> Statx {
    let mut inside = *stat;
    inside.stx_uid = userns::inside(stat.stx_uid, first);
    inside.stx_gid = userns::inside(stat.stx_gid, first);
    inside
}

/// Takes a single file that a handle holds, under this name.
pub(crate) fn single(
    (file, first): (BorrowedFd<'_>, u32),
    to: BorrowedFd<'_>,
    called: &[u8],
    budget: &mut Budget,
    log: &mut Log,
) -> Result<Taken> {
    let mut taken = Taken::none(Method::Copied);
    let path = [b"/", called].concat();
    let copied = try_single((file, first), to, called, budget.allowance());
    match copied {
        Ok(copied) => {
            budget.spend(copied.bytes);
            (taken.entries, taken.copied) = (1, copied.bytes);
            if !copied.is_whole {
                let reason = format!("only its first {} bytes: over the limit", copied.bytes);
                log.not_captured(&path, reason)?;
            }
        }
        Err(error) => log.not_captured(&path, error)?,
    }
    Ok(taken)
}

fn try_single(
    (file, first): (BorrowedFd<'_>, u32),
    to: BorrowedFd<'_>,
    called: &[u8],
    allowance: u64,
) -> io::Result<Copied> {
    let stat = as_inside(&super::stat(file, c"")?, first);
    let called = CString::new(called).map_err(|_nul| Errno::INVAL)?;
    let write = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let target = openat(to, &called, write, Mode::RUSR | Mode::WUSR)?;
    let copied = content(&reopen(file)?, &target, allowance, &mut || Ok(()))?;
    let found = Found {
        dir: file,
        name: c"",
        path: b"/",
        stat: &stat,
    };
    metadata_of(&found, to, &called)?;
    Ok(copied)
}

struct Taking<'a> {
    to: BorrowedFd<'a>,
    /// The directory last put into, which mostly is the next one too.
    parent: Option<(Vec<u8>, OwnedFd)>,
    /// Where a file with several names was put first.
    first_names: HashMap<u64, Vec<u8>>,
    how: How,
    budget: &'a mut Budget,
    taken: Taken,
}

impl Taking<'_> {
    fn entry(
        &mut self,
        found: &Found<'_>,
        listing: &mut Writer,
        pace: &mut Pace<'_>,
        log: &mut Log,
    ) -> Result<()> {
        pace.keep(log)?;
        let is_directory = file_type(found.stat) == FileType::Directory;
        let since = self.how.since.filter(|_| !is_directory);
        if since.is_some_and(|since| Instant::from(found.stat.stx_ctime) < since) {
            self.taken.left_out += 1;
            return Ok(());
        }
        if self.taken.entries >= self.how.most {
            return Ok(());
        }
        let entry = match Entry::read(found) {
            Ok(entry) => entry,
            Err(errno) => return log.not_captured(found.path, io::Error::from(errno)),
        };
        match self.put(found, pace, log) {
            Ok(None) => {}
            Ok(Some(kept)) => log.not_captured(
                found.path,
                format_args!(
                    "only {kept} of its {} bytes: the rest is over the limit",
                    entry.size
                ),
            )?,
            Err(error) => return log.not_captured(found.path, error),
        }
        self.taken.entries += 1;
        if pace.is_live() {
            self.taken.taken_live += 1;
            if !is_directory {
                self.has_changed(found, pace, log)?;
            }
        }
        listing.write(&entry)
    }

    /// Names what is not as it was when the container went on; directories after what is in them.
    fn has_changed(&mut self, found: &Found<'_>, pace: &Pace<'_>, log: &mut Log) -> Result<()> {
        if !pace.is_live() {
            return Ok(());
        }
        let reason = match super::stat(found.dir, found.name) {
            Ok(stat) if stat.stx_ino != found.stat.stx_ino => "it was replaced",
            Ok(stat) if !pace.has_changed_since(stat.stx_ctime.into()) => {
                if !pace.is_mapped(stat.stx_ino) {
                    return Ok(());
                }
                "a process has it mapped for writing and may have changed it"
            }
            Ok(stat) if file_type(&stat) == FileType::Directory => {
                "entries may have been added to or removed from it"
            }
            Ok(_) => "it changed",
            Err(_) => "it was removed",
        };
        self.taken.changed_meanwhile += 1;
        let reason = format!("{reason} after the container went on: what is kept may differ");
        log.not_captured(found.path, reason)
    }

    /// Puts one entry in its place; how many bytes were kept when not all were.
    fn put(
        &mut self,
        found: &Found<'_>,
        pace: &mut Pace<'_>,
        log: &mut Log,
    ) -> io::Result<Option<u64>> {
        if found.path == b"/" {
            return Ok(None);
        }
        self.enter(parent(found.path))?;
        let to = self
            .parent
            .as_ref()
            .expect("it was just entered")
            .1
            .try_clone()?;
        let kind = file_type(found.stat);
        if kind == FileType::Directory {
            mkdirat(&to, found.name, Mode::RWXU)?;
            return Ok(None);
        }
        if self.taken.method == Method::Linked && link(found, to.as_fd())? {
            self.taken.linked += 1;
            return Ok(None);
        }
        if found.stat.stx_nlink > 1 {
            if let Some(first) = self.first_names.get(&found.stat.stx_ino) {
                let flags = OFlags::PATH | OFlags::DIRECTORY;
                let at = open_beneath(self.to, parent(first), flags)?;
                linkat(&at, name(first), &to, found.name, AtFlags::empty())?;
                return Ok(None);
            }
            self.first_names
                .insert(found.stat.stx_ino, found.path.to_vec());
        }
        let kept = match kind {
            FileType::RegularFile => self.file(found, to.as_fd(), pace, log)?,
            FileType::Symlink => {
                let target = readlinkat(found.dir, found.name, Vec::new())?;
                symlinkat(&*target, &to, found.name)?;
                None
            }
            kind => {
                let device = makedev(found.stat.stx_rdev_major, found.stat.stx_rdev_minor);
                mknodat(&to, found.name, kind, Mode::RUSR, device)?;
                None
            }
        };
        metadata(found, to.as_fd())?;
        Ok(kept)
    }

    fn leave(&mut self, found: &Found<'_>) -> io::Result<()> {
        if found.path == b"/" {
            return metadata_of(found, self.to, c"");
        }
        self.enter(parent(found.path))?;
        let (_, to) = self.parent.as_ref().expect("it was just entered");
        metadata(found, to.as_fd())
    }

    /// Opens the directory that entries are put into next.
    fn enter(&mut self, path: &[u8]) -> io::Result<()> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW;
        if let Some((at, handle)) = &self.parent {
            if at == path {
                return Ok(());
            }
            if parent(path) == at.as_slice() && path != b"/" {
                let below = open_beneath(handle.as_fd(), name(path), flags)?;
                self.parent = Some((path.to_vec(), below));
                return Ok(());
            }
        }
        self.parent = Some((path.to_vec(), open_beneath(self.to, path, flags)?));
        Ok(())
    }

    fn file(
        &mut self,
        found: &Found<'_>,
        to: BorrowedFd<'_>,
        pace: &mut Pace<'_>,
        log: &mut Log,
    ) -> io::Result<Option<u64>> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW;
        let seen = open_beneath(found.dir, found.name.to_bytes(), flags)?;
        if file_type(&super::stat(seen.as_fd(), c"")?) != FileType::RegularFile {
            return Err(Errno::NOENT.into());
        }
        let source = reopen(seen.as_fd())?;
        let write = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let target = openat(to, found.name, write, Mode::RUSR | Mode::WUSR)?;
        if found.stat.stx_size > 0 && ioctl_ficlone(&target, &source).is_ok() {
            self.taken.reflinked += 1;
            return Ok(None);
        }
        let allowance = self.budget.allowance();
        let between = &mut || pace.keep(log).map_err(io::Error::other);
        let copied = content(&source, &target, allowance, between).inspect_err(|_| {
            // Half a file that is in no listing must not stay.
            unlinkat(to, found.name, AtFlags::empty()).ok();
        })?;
        self.budget.spend(copied.bytes);
        self.taken.copied += copied.bytes;
        // A shorter one was cut off by its container, which is named as a change.
        let is_over = !copied.is_whole && copied.bytes >= allowance;
        Ok(is_over.then_some(copied.bytes))
    }
}

/// What was copied of one file.
#[derive(Debug)]
pub(crate) struct Copied {
    pub(crate) bytes: u64,
    pub(crate) is_whole: bool,
}

/// Copies a file's content with its holes, at most `allowance` bytes of it; the size is the
/// original's in any case. `between` is called before every piece.
pub(crate) fn content(
    source: &OwnedFd,
    target: &OwnedFd,
    allowance: u64,
    between: &mut dyn FnMut() -> io::Result<()>,
) -> io::Result<Copied> {
    let size = u64::try_from(rustix::fs::fstat(source)?.st_size).unwrap_or(0);
    ftruncate(target, size)?;
    let (reader, writer) = (as_file(source)?, as_file(target)?);
    let mut buffer = vec![0_u8; PIECE.min(usize::try_from(size).unwrap_or(PIECE)).max(1)];
    let (mut at, mut left) = (0, allowance);
    while at < size {
        let data = match seek(source, SeekFrom::Data(at)) {
            // Only a hole is left.
            Err(Errno::NXIO) => break,
            data => data?,
        };
        let end = seek(source, SeekFrom::Hole(data))?.min(size);
        at = data;
        while at < end {
            if left == 0 {
                return Ok(Copied {
                    bytes: allowance,
                    is_whole: false,
                });
            }
            between()?;
            let wanted = (end - at).min(left).min(buffer.len() as u64);
            let wanted = usize::try_from(wanted).expect("no more than the buffer");
            let length = match reader.read_at(&mut buffer[..wanted], at) {
                // Cut off by its container meanwhile.
                Ok(0) => {
                    return Ok(Copied {
                        bytes: allowance - left,
                        is_whole: false,
                    });
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                length => length?,
            };
            writer.write_all_at(&buffer[..length], at)?;
            at += length as u64;
            left -= length as u64;
        }
    }
    Ok(Copied {
        bytes: allowance - left,
        is_whole: true,
    })
}

fn as_file(handle: &OwnedFd) -> io::Result<std::fs::File> {
    Ok(std::fs::File::from(handle.try_clone()?))
}

/// Gives a file a second name; `false` when it must be copied instead.
fn link(found: &Found<'_>, to: BorrowedFd<'_>) -> io::Result<bool> {
    match linkat(found.dir, found.name, to, found.name, AtFlags::empty()) {
        Ok(()) => Ok(true),
        // Another file system, an immutable file, too many names, or no hard links at all.
        Err(Errno::XDEV | Errno::PERM | Errno::MLINK | Errno::OPNOTSUPP) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn metadata(found: &Found<'_>, to: BorrowedFd<'_>) -> io::Result<()> {
    metadata_of(found, to, found.name)
}

fn metadata_of(found: &Found<'_>, to: BorrowedFd<'_>, name: &CStr) -> io::Result<()> {
    let stat = found.stat;
    let (uid, gid) = (Uid::from_raw(stat.stx_uid), Gid::from_raw(stat.stx_gid));
    let here = if name.is_empty() { c"." } else { name };
    chownat(to, here, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
    if file_type(stat) != FileType::Symlink {
        let mode = Mode::from_raw_mode(u32::from(stat.stx_mode & 0o7777));
        chmodat(to, here, mode, AtFlags::empty())?;
    }
    for (attribute, value) in attributes(found.dir, found.name)? {
        lsetxattr(
            entry_path(to, here),
            &attribute,
            &value,
            XattrFlags::empty(),
        )?;
    }
    Ok(utimensat(
        to,
        here,
        &times(stat),
        AtFlags::SYMLINK_NOFOLLOW,
    )?)
}

fn times(stat: &Statx) -> Timestamps {
    let time = |time: &StatxTimestamp| Timespec {
        tv_sec: time.tv_sec,
        tv_nsec: time.tv_nsec.into(),
    };
    Timestamps {
        last_access: time(&stat.stx_atime),
        last_modification: time(&stat.stx_mtime),
    }
}

/// A path the kernel resolves to exactly this entry: the handle, then one name not followed.
fn entry_path(directory: BorrowedFd<'_>, name: &CStr) -> CString {
    let mut path = format!("/proc/self/fd/{}/", directory.as_raw_fd()).into_bytes();
    path.extend_from_slice(name.to_bytes());
    CString::new(path).expect("a C string holds no NUL")
}
