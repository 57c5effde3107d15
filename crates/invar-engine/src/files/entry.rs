//! Copies from place to place: by handles and single names, none of them followed.

use std::ffi::{CStr, CString, OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;

use invar_sys::userns;
use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid, chownat, fchmod,
    fchown, fstat, futimens, mkdirat, mknodat, openat, readlinkat, renameat, statat, symlinkat,
    unlinkat, utimensat,
};
use rustix::io::Errno;

use super::{CopyOptions, Place, owner};
use crate::error::{EngineError, Result};

/// Deepest tree that is copied.
pub(super) const DEPTH: usize = 1024;
/// Permission bits that run a program as somebody else.
const SPECIAL: u32 = 0o6000;

/// What a copy came to.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Copied {
    /// Files, directories and links.
    pub entries: u64,
    /// Bytes of content.
    pub bytes: u64,
    /// Devices and sockets that were left out, by name.
    pub left_out: Vec<OsString>,
}

/// Copies what is at `from` to `to`. A file takes the place of another; a directory is merged into
/// one that is there.
pub fn copy(from: &Place, to: &Place, options: CopyOptions) -> Result<Copied> {
    owner::as_root(to.first, || {
        let mut copied = Copied::default();
        let mut copy = Copy {
            options,
            owners: (from.first, to.first),
            copied: &mut copied,
        };
        let (source, target) = (c_string(&from.name), c_string(&to.name));
        copy.entry(
            (from.directory.as_fd(), &source),
            (to.directory.as_fd(), &target),
            0,
        )
        .map_err(|source| EngineError::io("copy", &from.path, source))?;
        Ok(copied)
    })
}

struct Copy<'a> {
    options: CopyOptions,
    /// What the roots of both sides are called here.
    owners: (u32, u32),
    copied: &'a mut Copied,
}

type At<'a> = (BorrowedFd<'a>, &'a CStr);

impl Copy<'_> {
    fn entry(&mut self, from: At<'_>, to: At<'_>, depth: usize) -> io::Result<()> {
        if depth > DEPTH {
            return Err(io::Error::other(format!(
                "it is deeper than {DEPTH} directories"
            )));
        }
        let stat = statat(from.0, from.1, AtFlags::SYMLINK_NOFOLLOW)?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => self.directory(from, to, depth)?,
            FileType::RegularFile => self.file(from, to)?,
            FileType::Symlink => {
                let target = readlinkat(from.0, from.1, Vec::new())?;
                link(&target, to)?;
                self.finish_name(to, &stat)?;
            }
            FileType::Fifo => {
                replace(to, |name| {
                    Ok(mknodat(
                        to.0,
                        name,
                        FileType::Fifo,
                        Mode::RUSR | Mode::WUSR,
                        0,
                    )?)
                })?;
                self.finish_name(to, &stat)?;
            }
            _ => {
                let name = OsStr::from_bytes(from.1.to_bytes()).to_owned();
                self.copied.left_out.push(name);
                return Ok(());
            }
        }
        self.copied.entries += 1;
        Ok(())
    }

    fn directory(&mut self, from: At<'_>, to: At<'_>, depth: usize) -> io::Result<()> {
        let source = open_directory(from)?;
        let is_new = match mkdirat(to.0, to.1, Mode::RWXU) {
            Ok(()) => true,
            Err(Errno::EXIST) => false,
            Err(error) => return Err(error.into()),
        };
        let target = open_directory(to)?;
        for (name, _) in invar_sys::tree::names(source.as_fd())? {
            self.entry((source.as_fd(), &name), (target.as_fd(), &name), depth + 1)?;
        }
        // One that was there before keeps what it is.
        if is_new {
            self.finish(&target, &fstat(&source)?)?;
        }
        Ok(())
    }

    fn file(&mut self, from: At<'_>, to: At<'_>) -> io::Result<()> {
        let source = open_file(from)?;
        let stat = fstat(&source)?;
        replace(to, |name| {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
            let target = openat(to.0, name, flags, Mode::RUSR | Mode::WUSR)?;
            self.copied.bytes += invar_sys::copy::content(&source, &target)?;
            self.finish(&target, &stat)
        })
    }

    /// Who owns on the other side what `stat` describes on this one.
    fn owner(&self, stat: &Stat) -> io::Result<(Uid, Gid)> {
        let (from, to) = self.owners;
        let uid = userns::inside(stat.st_uid, from);
        owner::outside(uid, userns::inside(stat.st_gid, from), to)
    }

    /// Owner, mode and time, in this order: changing the owner clears bits of the mode.
    fn finish(&self, target: &OwnedFd, stat: &Stat) -> io::Result<()> {
        let mut mode = stat.st_mode & 0o7777;
        if self.options.keep_owners {
            let (uid, gid) = self.owner(stat)?;
            fchown(target, Some(uid), Some(gid))?;
        } else if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile {
            mode &= !SPECIAL;
        }
        fchmod(target, Mode::from_raw_mode(mode))?;
        Ok(futimens(target, &times(stat))?)
    }

    /// As [`Self::finish`], for what cannot be opened.
    fn finish_name(&self, to: At<'_>, stat: &Stat) -> io::Result<()> {
        if self.options.keep_owners {
            let (uid, gid) = self.owner(stat)?;
            chownat(to.0, to.1, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
        }
        Ok(utimensat(
            to.0,
            to.1,
            &times(stat),
            AtFlags::SYMLINK_NOFOLLOW,
        )?)
    }
}

/// Makes something under a passing name and puts it in its place at once; what was there goes,
/// unless it is a directory.
pub(super) fn replace(to: At<'_>, make: impl FnOnce(&CStr) -> io::Result<()>) -> io::Result<()> {
    let passing = format!(".invar-copy-{:016x}", rand::random::<u64>());
    let passing = CString::new(passing).expect("letters and digits");
    let outcome = make(&passing).and_then(|()| Ok(renameat(to.0, &*passing, to.0, to.1)?));
    if outcome.is_err() {
        // The error matters more than what is left of a try.
        unlinkat(to.0, &*passing, AtFlags::empty()).ok();
    }
    outcome
}

pub(super) fn link(target: &CStr, to: At<'_>) -> io::Result<()> {
    replace(to, |name| Ok(symlinkat(target, to.0, name)?))
}

pub(super) fn open_directory(at: At<'_>) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(openat(at.0, at.1, flags, Mode::empty())?)
}

/// Opens a regular file for reading. Opening anything else can do things (a device) or wait for
/// ever (a pipe), so it is looked at first, by a handle that does neither.
pub(super) fn open_file(at: At<'_>) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let handle = openat(at.0, at.1, flags, Mode::empty())?;
    if FileType::from_raw_mode(fstat(&handle)?.st_mode) != FileType::RegularFile {
        return Err(io::Error::other(
            "it was exchanged for something else just now",
        ));
    }
    let path = format!("/proc/self/fd/{}", handle.as_raw_fd());
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    Ok(openat(CWD, path, flags, Mode::empty())?)
}

pub(super) fn times(stat: &Stat) -> Timestamps {
    Timestamps {
        last_access: Timespec {
            tv_sec: stat.st_atime,
            tv_nsec: i64::try_from(stat.st_atime_nsec).unwrap_or(0),
        },
        last_modification: Timespec {
            tv_sec: stat.st_mtime,
            tv_nsec: i64::try_from(stat.st_mtime_nsec).unwrap_or(0),
        },
    }
}

pub(super) fn c_string(name: &OsStr) -> CString {
    CString::new(name.as_bytes()).unwrap_or_default()
}
