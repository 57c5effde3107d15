//! Directories as handles: opening beneath a root, listing, and what is known of an entry.
//!
//! A path from the container is never given to the kernel whole: it may be longer than `PATH_MAX`
//! and lead through links. It is opened piece by piece below a handle.

use std::ffi::{CStr, CString};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};

use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, RawDir, ResolveFlags, Statx, StatxFlags, StatxTimestamp,
    fgetxattr, flistxattr, lgetxattr, llistxattr, openat, openat2, readlinkat, statx,
};
use rustix::io::{Errno, Result};

use crate::content::Content;

/// Longest piece of a path handed to the kernel at once; `PATH_MAX` is 4096 with the final NUL.
const PIECE: usize = 4000;
/// Bytes of names fetched by one call.
const LISTING: usize = 32 * 1024;
/// The kernel's limit on one value and on the list of names (`XATTR_SIZE_MAX`, `XATTR_LIST_MAX`).
const XATTR_LIMIT: usize = 64 * 1024;

/// Opens `path` (relative, or absolute meaning from `root`) without leaving `root` and without
/// following links. The last component decides what `flags` allow.
///
/// The path may have any length. Access times are left alone where the kernel lets us.
pub fn open_beneath(root: BorrowedFd<'_>, path: &[u8], flags: OFlags) -> Result<OwnedFd> {
    let mut rest = path.strip_prefix(b"/").unwrap_or(path);
    if rest.is_empty() {
        return open_piece(root, b".", flags);
    }
    let mut at: Option<OwnedFd> = None;
    loop {
        let (piece, after) = split(rest);
        let dir = at.as_ref().map_or(root, AsFd::as_fd);
        if after.is_empty() {
            return open_piece(dir, piece, flags);
        }
        let way = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW;
        at = Some(open_piece(dir, piece, way)?);
        rest = after;
    }
}

/// The first piece of a path, cut at a slash, and the rest.
fn split(path: &[u8]) -> (&[u8], &[u8]) {
    if path.len() <= PIECE {
        return (path, b"");
    }
    let cut = path[..PIECE].iter().rposition(|byte| *byte == b'/');
    // A single name is at most 255 bytes, so a longer piece without a slash is refused by the
    // kernel as it should be.
    cut.map_or((path, b""), |cut| (&path[..cut], &path[cut + 1..]))
}

fn open_piece(dir: BorrowedFd<'_>, piece: &[u8], flags: OFlags) -> Result<OwnedFd> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let flags = flags | OFlags::CLOEXEC;
    if flags.contains(OFlags::PATH) {
        return openat2(dir, piece, flags, Mode::empty(), resolve);
    }
    match openat2(dir, piece, flags | OFlags::NOATIME, Mode::empty(), resolve) {
        // Only the owner may leave the access time alone.
        Err(Errno::PERM) => openat2(dir, piece, flags, Mode::empty(), resolve),
        opened => opened,
    }
}

/// Opens a directory for listing.
pub(crate) fn open_dir(root: BorrowedFd<'_>, path: &[u8]) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
    open_beneath(root, path, flags)
}

/// Opens a regular file for reading. Anything else in its place is `NOENT`, without waiting or
/// side effect.
pub(crate) fn open_file(root: BorrowedFd<'_>, path: &[u8]) -> Result<Content> {
    // A device or FIFO must not even be opened: get hold of whatever is there, look at it, and
    // open that very inode.
    let seen = open_beneath(root, path, OFlags::PATH | OFlags::NOFOLLOW)?;
    let stat = stat(seen.as_fd(), c"")?;
    if file_type(&stat) != FileType::RegularFile {
        return Err(Errno::NOENT);
    }
    let inode = format!("/proc/self/fd/{}", seen.as_raw_fd());
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = match openat(CWD, &inode, flags | OFlags::NOATIME, Mode::empty()) {
        // Only the owner may leave the access time alone.
        Err(Errno::PERM) => openat(CWD, &inode, flags, Mode::empty())?,
        opened => opened?,
    };
    Ok(Content {
        file,
        size: stat.stx_size,
    })
}

/// Whether an error means that something else is in a path's place than was there a moment ago.
pub(crate) fn has_changed(errno: Errno) -> bool {
    matches!(
        errno,
        Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::STALE | Errno::NODATA
    )
}

/// The names in a directory, in one piece of memory.
#[derive(Debug, Default)]
pub(crate) struct Names {
    /// Each name with its NUL.
    bytes: Vec<u8>,
    entries: Vec<Listed>,
}

/// One entry as its directory tells it.
#[derive(Debug, Clone, Copy)]
struct Listed {
    inode: u64,
    /// Where its name begins.
    start: usize,
    file_type: FileType,
}

impl Names {
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// A name and its type; `Unknown` where the file system does not tell.
    pub(crate) fn get(&self, index: usize) -> (&CStr, FileType) {
        let entry = self.entries[index];
        let name = CStr::from_bytes_until_nul(&self.bytes[entry.start..]);
        (
            name.expect("each name was stored with its NUL"),
            entry.file_type,
        )
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&CStr, FileType)> {
        (0..self.len()).map(|index| self.get(index))
    }

    fn push(&mut self, name: &CStr, inode: u64, file_type: FileType) {
        self.entries.push(Listed {
            inode,
            start: self.bytes.len(),
            file_type,
        });
        self.bytes.extend_from_slice(name.to_bytes_with_nul());
    }

    /// Those that are kept.
    pub(crate) fn filtered(&self, mut keep: impl FnMut(&CStr) -> bool) -> Self {
        let mut kept = Self::default();
        for (index, entry) in self.entries.iter().enumerate() {
            let (name, file_type) = self.get(index);
            if keep(name) {
                kept.push(name, entry.inode, file_type);
            }
        }
        kept
    }
}

/// Every name in a directory, `.` and `..` left out, by inode number: inodes that were made one
/// after the other lie together, in memory and on disk, and are looked at faster in that order.
pub(crate) fn names(dir: &OwnedFd) -> Result<Names> {
    let mut buffer = vec![MaybeUninit::uninit(); LISTING];
    let mut entries = RawDir::new(dir, &mut buffer);
    let mut names = Names::default();
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let name = entry.file_name();
        if name != c"." && name != c".." {
            names.push(name, entry.ino(), entry.file_type());
        }
    }
    names.entries.sort_unstable_by_key(|entry| entry.inode);
    Ok(names)
}

/// What the kernel says of an entry; links are not followed. An empty name is the handle itself.
pub(crate) fn stat(dir: BorrowedFd<'_>, name: &CStr) -> Result<Statx> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    statx(dir, name, flags, StatxFlags::BASIC_STATS)
}

/// When an inode was made, where its file system keeps that. Asked apart: it lies in memory that
/// [`stat`] need not touch.
pub(crate) fn birth_time(dir: BorrowedFd<'_>, name: &CStr) -> Result<Option<StatxTimestamp>> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    let stat = statx(dir, name, flags, StatxFlags::BTIME)?;
    let is_known = stat.stx_mask & StatxFlags::BTIME.bits() != 0;
    Ok(is_known.then_some(stat.stx_btime))
}

/// As [`stat`], with `None` for what is not there.
pub(crate) fn stat_if_present(dir: BorrowedFd<'_>, name: &CStr) -> Result<Option<Statx>> {
    match stat(dir, name) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The type bits of a mode.
pub(crate) fn file_type(stat: &Statx) -> FileType {
    FileType::from_raw_mode(u32::from(stat.stx_mode))
}

/// Where a symbolic link leads. Anything else in its place is `NOENT`.
pub(crate) fn link_target(dir: BorrowedFd<'_>, name: &CStr) -> Result<CString> {
    readlinkat(dir, name, Vec::new()).map_err(|errno| match errno {
        Errno::INVAL => Errno::NOENT,
        errno => errno,
    })
}

/// One extended attribute: its name and value.
pub type Attribute = (CString, Vec<u8>);

/// The extended attributes of an entry of `dir`, or of `dir` itself for an empty name, sorted by
/// name. A file system without them has none.
pub fn attributes(dir: BorrowedFd<'_>, name: &CStr) -> Result<Vec<Attribute>> {
    let list = match list_attributes(dir, name) {
        Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
        list => list?,
    };
    let names = list
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty());
    let mut found = Vec::new();
    for attribute in names {
        // A piece between NULs holds none.
        let Ok(attribute) = CString::new(attribute) else {
            continue;
        };
        if let Some(value) = get_attribute(dir, name, &attribute)? {
            found.push((attribute, value));
        }
    }
    found.sort();
    Ok(found)
}

fn list_attributes(dir: BorrowedFd<'_>, name: &CStr) -> Result<Vec<u8>> {
    if name.is_empty() {
        return read(|buffer| flistxattr(dir, buffer));
    }
    let path = entry_path(dir, name);
    read(|buffer| llistxattr(&path, buffer))
}

/// One attribute's value; `None` when it is not set or cannot be.
pub(crate) fn get_attribute(
    dir: BorrowedFd<'_>,
    name: &CStr,
    attribute: &CStr,
) -> Result<Option<Vec<u8>>> {
    let value = if name.is_empty() {
        read(|buffer| fgetxattr(dir, attribute, buffer))
    } else {
        let path = entry_path(dir, name);
        read(|buffer| lgetxattr(&path, attribute, buffer))
    };
    match value {
        Ok(value) => Ok(Some(value)),
        Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Reads into a small buffer, and again into the largest when that was not enough.
fn read(get: impl Fn(&mut [u8]) -> Result<usize>) -> Result<Vec<u8>> {
    let mut small = [0_u8; 512];
    match get(&mut small) {
        Ok(length) => Ok(small[..length].to_vec()),
        Err(Errno::RANGE) => {
            let mut large = vec![0_u8; XATTR_LIMIT];
            let length = get(&mut large)?;
            large.truncate(length);
            Ok(large)
        }
        Err(error) => Err(error),
    }
}

/// A path the kernel resolves to exactly this entry: the handle, then one name that is not
/// followed. There is no call for attributes of an entry before Linux 6.13.
fn entry_path(dir: BorrowedFd<'_>, name: &CStr) -> CString {
    let mut path = format!("/proc/self/fd/{}/", dir.as_raw_fd()).into_bytes();
    path.extend_from_slice(name.to_bytes());
    CString::new(path).expect("a C string holds no NUL")
}
