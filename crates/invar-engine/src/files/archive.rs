//! Files as a tar stream, in and out. The parser only parses: every entry is made by the same
//! handles and names as a copy.

use std::ffi::{CStr, OsStr};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};

use invar_sys::userns::inside;
use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid, chownat, fchmod, fchown,
    fstat, futimens, linkat, mkdirat, mknodat, openat, readlinkat, statat,
};
use rustix::io::Errno;
use tar::EntryType;

use super::entry::{DEPTH, c_string, link, open_directory, open_file, replace};
use super::owner::{as_root, outside};
use super::{Copied, CopyOptions, Place, Side};
use crate::error::{EngineError, Result};

/// Writes what is at `from` as a tar stream, under its own name.
pub fn write_tar(from: &Place, output: &mut dyn Write) -> Result<Copied> {
    let mut copied = Copied::default();
    let mut builder = tar::Builder::new(output);
    let name = c_string(&from.name);
    let path = from.file_name().map_or(Path::new("."), Path::new);
    let mut writing = Writing {
        builder: &mut builder,
        copied: &mut copied,
        first: from.first,
    };
    writing
        .entry(from.directory.as_fd(), &name, path, 0)
        .and_then(|()| builder.finish())
        .map_err(|source| EngineError::io("write as tar", &from.path, source))?;
    Ok(copied)
}

struct Writing<'a, 'b> {
    builder: &'a mut tar::Builder<&'b mut dyn Write>,
    copied: &'a mut Copied,
    /// What the root of the side is called here.
    first: u32,
}

impl Writing<'_, '_> {
    fn entry(
        &mut self,
        directory: BorrowedFd<'_>,
        name: &CStr,
        path: &Path,
        depth: usize,
    ) -> io::Result<()> {
        if depth > DEPTH {
            return Err(io::Error::other(format!(
                "it is deeper than {DEPTH} directories"
            )));
        }
        let stat = statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                let mut header = self.header(&stat, EntryType::Directory);
                self.builder.append_data(&mut header, path, io::empty())?;
                let below = open_directory((directory, name))?;
                for (name, _) in invar_sys::tree::names(below.as_fd())? {
                    let path = path.join(OsStr::from_bytes(name.to_bytes()));
                    self.entry(below.as_fd(), &name, &path, depth + 1)?;
                }
            }
            FileType::RegularFile => self.file(directory, name, path)?,
            FileType::Symlink => {
                let target = readlinkat(directory, name, Vec::new())?;
                let target = Path::new(OsStr::from_bytes(target.as_bytes()));
                let mut header = self.header(&stat, EntryType::Symlink);
                self.builder.append_link(&mut header, path, target)?;
            }
            FileType::Fifo => {
                let mut header = self.header(&stat, EntryType::Fifo);
                self.builder.append_data(&mut header, path, io::empty())?;
            }
            _ => {
                let name = OsStr::from_bytes(name.to_bytes()).to_owned();
                self.copied.left_out.push(name);
                return Ok(());
            }
        }
        self.copied.entries += 1;
        Ok(())
    }

    /// The header comes first and says how long it is: a file that grows is cut there, one that
    /// shrinks is filled with zeros.
    fn file(&mut self, directory: BorrowedFd<'_>, name: &CStr, path: &Path) -> io::Result<()> {
        let file = open_file((directory, name))?;
        let stat = fstat(&file)?;
        let mut header = self.header(&stat, EntryType::Regular);
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        header.set_size(size);
        let content = std::fs::File::from(file).chain(io::repeat(0)).take(size);
        self.builder.append_data(&mut header, path, content)?;
        self.copied.bytes += size;
        Ok(())
    }

    fn header(&self, stat: &Stat, kind: EntryType) -> tar::Header {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(stat.st_mode & 0o7777);
        header.set_uid(inside(stat.st_uid, self.first).into());
        header.set_gid(inside(stat.st_gid, self.first).into());
        header.set_mtime(u64::try_from(stat.st_mtime).unwrap_or(0));
        header.set_size(0);
        header
    }
}

/// Makes what a tar stream holds below the directory `path` of `side`. Owners are kept only when
/// asked; links in the stream's own names are followed inside the container, and nowhere else.
pub fn read_tar(
    input: &mut (dyn Read + Send),
    side: &Side,
    path: &Path,
    options: CopyOptions,
) -> Result<Copied> {
    as_root(side.first(), || read_below(input, side, path, options))
}

fn read_below(
    input: &mut dyn Read,
    side: &Side,
    path: &Path,
    options: CopyOptions,
) -> Result<Copied> {
    let target = side.resolve(&path.join("."), false)?;
    if !target.is_directory() {
        return Err(EngineError::io(
            "open",
            path,
            io::ErrorKind::NotADirectory.into(),
        ));
    }
    let mut copied = Copied::default();
    let mut archive = tar::Archive::new(input);
    let unreadable = |error: io::Error| EngineError::InvalidConfig {
        what: "the tar stream".to_owned(),
        reason: error.to_string(),
    };
    for entry in archive.entries().map_err(unreadable)? {
        let mut entry = entry.map_err(unreadable)?;
        let name = entry.path().map_err(unreadable)?.into_owned();
        let reading = Reading {
            side,
            base: path,
            options,
        };
        reading
            .entry(&mut entry, &name, &mut copied)
            .map_err(|source| EngineError::io("make", &path.join(&name), source))?;
    }
    Ok(copied)
}

struct Reading<'a> {
    side: &'a Side,
    base: &'a Path,
    options: CopyOptions,
}

impl Reading<'_> {
    fn entry(
        &self,
        entry: &mut tar::Entry<'_, &mut dyn Read>,
        name: &Path,
        copied: &mut Copied,
    ) -> io::Result<()> {
        let plain = plain(name)?;
        let Some(last) = plain.file_name() else {
            // The directory itself, which is there.
            return Ok(());
        };
        let parent = self.parent(plain.parent().unwrap_or(Path::new("")))?;
        let last = c_string(last);
        let at = (parent.as_fd(), &*last);
        let header = entry.header().clone();
        match header.entry_type() {
            EntryType::Directory => match mkdirat(at.0, at.1, Mode::RWXU) {
                Ok(()) => self.finish(&open_directory(at)?, &header)?,
                Err(Errno::EXIST) => drop(open_directory(at)?),
                Err(error) => return Err(error.into()),
            },
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                replace(at, |name| {
                    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
                    let target = openat(at.0, name, flags, Mode::RUSR | Mode::WUSR)?;
                    let mut file = std::fs::File::from(target.try_clone()?);
                    copied.bytes += io::copy(entry, &mut file)?;
                    self.finish(&target, &header)
                })?;
            }
            EntryType::Symlink => {
                let to = entry
                    .link_name()?
                    .ok_or_else(|| malformed("a link to nothing"))?;
                link(&c_string(to.as_os_str()), at)?;
                if self.options.keep_owners {
                    let (uid, gid) = self.owner(&header)?;
                    chownat(at.0, at.1, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
                }
            }
            EntryType::Link => {
                let to = entry
                    .link_name()?
                    .ok_or_else(|| malformed("a link to nothing"))?;
                let to = plain_name(&to)?;
                let source = self.parent(to.parent().unwrap_or(Path::new("")))?;
                let of = c_string(to.file_name().unwrap_or_default());
                replace(at, |name| {
                    Ok(linkat(&source, &*of, at.0, name, AtFlags::empty())?)
                })?;
            }
            EntryType::Fifo => {
                let mode = Mode::RUSR | Mode::WUSR;
                replace(at, |name| Ok(mknodat(at.0, name, FileType::Fifo, mode, 0)?))?;
            }
            EntryType::Char | EntryType::Block => {
                copied.left_out.push(name.as_os_str().to_owned());
                return Ok(());
            }
            other => return Err(malformed(&format!("an entry of kind {other:?}"))),
        }
        copied.entries += 1;
        Ok(())
    }

    /// The directory an entry belongs in; made when missing.
    fn parent(&self, path: &Path) -> io::Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let mut so_far = self.base.to_owned();
        let mut at = self.side.open(&so_far, flags)?;
        for component in path.components() {
            so_far.push(component);
            at = match self.side.open(&so_far, flags) {
                Err(Errno::NOENT) => {
                    mkdirat(&at, component.as_os_str(), Mode::from_raw_mode(0o755))?;
                    self.side.open(&so_far, flags)?
                }
                opened => opened?,
            };
        }
        Ok(at)
    }

    fn owner(&self, header: &tar::Header) -> io::Result<(Uid, Gid)> {
        let number = |id: u64| {
            u32::try_from(id)
                .ok()
                .filter(|id| *id != u32::MAX)
                .ok_or_else(|| malformed("an owner that is none"))
        };
        let (uid, gid) = (number(header.uid()?)?, number(header.gid()?)?);
        outside(uid, gid, self.side.first())
    }

    fn finish(&self, target: &OwnedFd, header: &tar::Header) -> io::Result<()> {
        let mut mode = header.mode()? & 0o7777;
        if self.options.keep_owners {
            let (uid, gid) = self.owner(header)?;
            fchown(target, Some(uid), Some(gid))?;
        } else if header.entry_type() != EntryType::Directory {
            mode &= !0o6000;
        }
        fchmod(target, Mode::from_raw_mode(mode))?;
        let time = Timespec {
            tv_sec: i64::try_from(header.mtime()?).unwrap_or(0),
            tv_nsec: 0,
        };
        Ok(futimens(
            target,
            &Timestamps {
                last_access: time,
                last_modification: time,
            },
        )?)
    }
}

/// A name of the stream without `.` and a leading `/`; one with `..` is refused.
fn plain(name: &Path) -> io::Result<PathBuf> {
    let mut plain = PathBuf::new();
    for component in name.components() {
        match component {
            Component::Normal(part) => plain.push(part),
            Component::RootDir | Component::CurDir => {}
            Component::ParentDir | Component::Prefix(_) => {
                return Err(malformed("a name with .. in it"));
            }
        }
    }
    Ok(plain)
}

fn plain_name(name: &Path) -> io::Result<PathBuf> {
    let plain = plain(name)?;
    if plain.file_name().is_none() {
        return Err(malformed("a link to a directory"));
    }
    Ok(plain)
}

fn malformed(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the stream has {what}"))
}
