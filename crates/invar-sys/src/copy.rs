//! Copies of directory trees with everything that belongs to a file: owner, mode, times,
//! extended attributes, hard links, holes. Nothing in the source chooses a path of the host.

use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, SeekFrom, Stat, Timespec, Timestamps, Uid, XattrFlags,
    chmodat, chownat, fstat, lgetxattr, linkat, llistxattr, lsetxattr, mkdirat, mknodat, openat,
    readlinkat, seek, statat, symlinkat, utimensat,
};
use rustix::io::Errno;

use crate::tree::names;

/// Deepest tree that is copied; an image cannot have a deeper one.
const DEPTH: usize = 1024;
/// The kernel's limit on one attribute (`XATTR_SIZE_MAX`).
const XATTR_LIMIT: usize = 64 * 1024;

/// Copies what is in `from` into the existing directory `to`, and `from`'s own owner, mode, times
/// and attributes onto it.
pub fn tree(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> io::Result<()> {
    let mut copy = Copy {
        first_names: HashMap::new(),
        root: to,
    };
    copy.children(from, to, &mut Vec::new())?;
    let stat = fstat(from)?;
    metadata(from, c".", to, c".", &stat)
}

struct Copy<'a> {
    /// Where a file with several names was put first, from `root`.
    first_names: HashMap<(u64, u64), CString>,
    root: BorrowedFd<'a>,
}

impl Copy<'_> {
    fn children(
        &mut self,
        from: BorrowedFd<'_>,
        to: BorrowedFd<'_>,
        path: &mut Vec<CString>,
    ) -> io::Result<()> {
        if path.len() > DEPTH {
            return Err(io::Error::other(format!(
                "it is deeper than {DEPTH} directories"
            )));
        }
        for (name, _) in names(from)? {
            let stat = statat(from, &*name, AtFlags::SYMLINK_NOFOLLOW)?;
            path.push(name.clone());
            if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let below = openat(from, &*name, flags, Mode::empty())?;
                mkdirat(to, &*name, Mode::RWXU)?;
                let copied = openat(to, &*name, flags, Mode::empty())?;
                self.children(below.as_fd(), copied.as_fd(), path)?;
            } else {
                self.leaf(from, to, &name, &stat, path)?;
            }
            path.pop();
            metadata(from, &name, to, &name, &stat)?;
        }
        Ok(())
    }

    fn leaf(
        &mut self,
        from: BorrowedFd<'_>,
        to: BorrowedFd<'_>,
        name: &CStr,
        stat: &Stat,
        path: &[CString],
    ) -> io::Result<()> {
        if stat.st_nlink > 1 {
            let inode = (stat.st_dev, stat.st_ino);
            if let Some(first) = self.first_names.get(&inode) {
                return Ok(linkat(self.root, &**first, to, name, AtFlags::empty())?);
            }
            self.first_names.insert(inode, join(path));
        }
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => file(from, to, name),
            FileType::Symlink => {
                let target = readlinkat(from, name, Vec::new())?;
                Ok(symlinkat(&*target, to, name)?)
            }
            kind => Ok(mknodat(to, name, kind, Mode::RUSR, stat.st_rdev)?),
        }
    }
}

fn metadata(
    from: BorrowedFd<'_>,
    name: &CStr,
    to: BorrowedFd<'_>,
    copied: &CStr,
    stat: &Stat,
) -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    chownat(to, copied, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::Symlink {
        let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
        chmodat(to, copied, mode, AtFlags::empty())?;
    }
    attributes(from, name, to, copied)?;
    let times = Timestamps {
        last_access: Timespec {
            tv_sec: stat.st_atime,
            tv_nsec: i64::try_from(stat.st_atime_nsec).unwrap_or(0),
        },
        last_modification: Timespec {
            tv_sec: stat.st_mtime,
            tv_nsec: i64::try_from(stat.st_mtime_nsec).unwrap_or(0),
        },
    };
    Ok(utimensat(to, copied, &times, AtFlags::SYMLINK_NOFOLLOW)?)
}

fn file(from: BorrowedFd<'_>, to: BorrowedFd<'_>, name: &CStr) -> io::Result<()> {
    let read = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let source = openat(from, name, read, Mode::empty())?;
    let write = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let target = openat(to, name, write, Mode::RUSR | Mode::WUSR)?;
    content(&source, &target).map(drop)
}

/// Copies one regular file's content; shares its blocks where the file system can, and keeps its
/// holes where not. Its size.
pub fn content(source: &OwnedFd, target: &OwnedFd) -> io::Result<u64> {
    let size = u64::try_from(fstat(source)?.st_size).unwrap_or(0);
    if rustix::fs::ioctl_ficlone(target, source).is_ok() {
        return Ok(size);
    }
    rustix::fs::ftruncate(target, size)?;
    let mut at = 0;
    while at < size {
        let data = match seek(source, SeekFrom::Data(at)) {
            Ok(data) => data,
            // Only a hole is left.
            Err(Errno::NXIO) => break,
            Err(error) => return Err(error.into()),
        };
        let hole = seek(source, SeekFrom::Hole(data))?.min(size);
        copy_range(source, target, data, hole)?;
        at = hole;
    }
    Ok(size)
}

fn copy_range(source: &OwnedFd, target: &OwnedFd, from: u64, end: u64) -> io::Result<()> {
    seek(source, SeekFrom::Start(from))?;
    seek(target, SeekFrom::Start(from))?;
    let mut reader = io::Read::take(std::fs::File::from(source.try_clone()?), end - from);
    io::copy(&mut reader, &mut std::fs::File::from(target.try_clone()?))?;
    Ok(())
}

/// Attributes the target cannot keep (of another file system's kind) are an error: they may be
/// capabilities.
fn attributes(
    from: BorrowedFd<'_>,
    name: &CStr,
    to: BorrowedFd<'_>,
    copied: &CStr,
) -> io::Result<()> {
    let (source, target) = (entry_path(from, name), entry_path(to, copied));
    let mut list = vec![0_u8; XATTR_LIMIT];
    let length = match llistxattr(&*source, &mut list[..]) {
        Ok(length) => length,
        Err(Errno::OPNOTSUPP) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    let names = list[..length].split(|byte| *byte == 0);
    for attribute in names.filter(|name| !name.is_empty()) {
        // The overlay's own marks mean nothing outside of it.
        if attribute.starts_with(b"trusted.overlay.") || attribute == b"security.selinux" {
            continue;
        }
        let mut value = vec![0_u8; XATTR_LIMIT];
        let length = lgetxattr(&*source, attribute, &mut value[..])?;
        lsetxattr(&*target, attribute, &value[..length], XattrFlags::empty())?;
    }
    Ok(())
}

fn join(path: &[CString]) -> CString {
    let names: Vec<&[u8]> = path.iter().map(|name| name.to_bytes()).collect();
    CString::new(names.join(&b'/')).expect("C strings hold no NUL")
}

/// A path the kernel resolves to exactly this entry: the handle, then one name not followed.
fn entry_path(directory: BorrowedFd<'_>, name: &CStr) -> CString {
    let mut path = format!("/proc/self/fd/{}/", directory.as_raw_fd()).into_bytes();
    path.extend_from_slice(name.to_bytes());
    CString::new(path).expect("a C string holds no NUL")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt as _, symlink};

    use fs_err as fs;

    use super::*;

    fn open(path: &std::path::Path) -> OwnedFd {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::open(path, flags, Mode::empty()).unwrap()
    }

    #[test]
    fn a_copy_keeps_links_holes_modes_and_times() {
        let stage = tempfile::tempdir().unwrap();
        let (from, to) = (stage.path().join("from"), stage.path().join("to"));
        fs::create_dir_all(from.join("a/b")).unwrap();
        fs::create_dir(&to).unwrap();
        fs::write(from.join("a/file"), "content").unwrap();
        fs::hard_link(from.join("a/file"), from.join("a/b/again")).unwrap();
        symlink("/etc/shadow", from.join("link")).unwrap();
        let sparse = fs::File::create(from.join("sparse")).unwrap();
        sparse.set_len(1 << 40).unwrap();
        chmodat(
            rustix::fs::CWD,
            from.join("a/b"),
            Mode::from_raw_mode(0o1777),
            AtFlags::empty(),
        )
        .unwrap();

        tree(open(&from).as_fd(), open(&to).as_fd()).unwrap();

        let metadata = |path: &str| fs::symlink_metadata(to.join(path)).unwrap();
        let original = |path: &str| fs::symlink_metadata(from.join(path)).unwrap();
        assert_eq!(fs::read_to_string(to.join("a/file")).unwrap(), "content");
        assert_eq!(metadata("a/file").ino(), metadata("a/b/again").ino());
        assert_eq!(
            fs::read_link(to.join("link")).unwrap().to_str(),
            Some("/etc/shadow")
        );
        assert_eq!(metadata("sparse").len(), 1 << 40);
        assert_eq!(metadata("sparse").blocks(), 0);
        for path in ["a", "a/b", "a/file", "link", "sparse"] {
            let (new, old) = (metadata(path), original(path));
            assert_eq!(new.mode(), old.mode(), "{path}");
            assert_eq!(new.modified().unwrap(), old.modified().unwrap(), "{path}");
        }
    }
}
