//! Blobs of an image archive by name: a tar file, or a directory in the OCI layout. Names come
//! from the archive itself and never leave it.

use std::collections::HashMap;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};

use fs_err as fs;
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, open, openat2};

use crate::compression::decompress;
use crate::error::{ImageError, Result};
use crate::limits::Limits;

/// Most members of an archive: 512 layers of legacy archives have three files each.
const MOST_MEMBERS: usize = 10_000;
/// Most links from one member to the next.
const MOST_LINKS: usize = 8;

/// An archive whose blobs can be read in any order.
pub(crate) enum Archive {
    /// A tar; where each member's content is.
    File {
        file: fs::File,
        members: HashMap<PathBuf, Member>,
    },
    /// A directory.
    Directory { root: OwnedFd, path: PathBuf },
}

/// One member of a tar.
pub(crate) enum Member {
    File { offset: u64, size: u64 },
    Link(PathBuf),
}

impl Archive {
    /// Opens an OCI layout directory.
    pub(crate) fn directory(path: &Path) -> Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = open(path, flags, Mode::empty())
            .map_err(|error| ImageError::io("open", path)(error.into()))?;
        Ok(Self::Directory {
            root,
            path: path.to_owned(),
        })
    }

    /// Reads an archive from a stream. It is spooled to `scratch` when it cannot be read in any
    /// order: because it is compressed, or a pipe.
    pub(crate) fn stream(input: impl Read, scratch: &Path, limits: &Limits) -> Result<Self> {
        let unreadable = |error| ImageError::malformed("archive", error);
        let mut plain = decompress(input).map_err(unreadable)?.take(limits.unpacked);
        let spool =
            tempfile::tempfile_in(scratch).map_err(ImageError::io("create a file in", scratch))?;
        let mut spool = fs::File::from_parts(spool, scratch);
        io::copy(&mut plain, &mut spool).map_err(unreadable)?;
        if plain.limit() == 0 {
            return Err(ImageError::TooLarge {
                what: "the archive".to_owned(),
                limit: format!("{} bytes", limits.unpacked),
            });
        }
        Self::file(spool)
    }

    /// Indexes an uncompressed tar file.
    pub(crate) fn file(mut file: fs::File) -> Result<Self> {
        let unreadable = |error| ImageError::malformed("archive", error);
        file.rewind().map_err(unreadable)?;
        let mut members = HashMap::new();
        let mut parser = tar::Archive::new(&mut file);
        for entry in parser.entries_with_seek().map_err(unreadable)? {
            let entry = entry.map_err(unreadable)?;
            let name = normal(&entry.path().map_err(unreadable)?)?;
            let kind = entry.header().entry_type();
            let member = if kind.is_file() {
                Member::File {
                    offset: entry.raw_file_position(),
                    size: entry.size(),
                }
            } else if kind.is_symlink() || kind.is_hard_link() {
                let target = entry.link_name().map_err(unreadable)?.unwrap_or_default();
                // A symbolic link starts where it is, a hard link at the root.
                let base = if kind.is_symlink() {
                    name.parent()
                } else {
                    None
                };
                Member::Link(normal(&base.unwrap_or(Path::new("")).join(target))?)
            } else {
                continue;
            };
            members.insert(name, member);
            if members.len() > MOST_MEMBERS {
                return Err(ImageError::TooLarge {
                    what: "the number of files in the archive".to_owned(),
                    limit: MOST_MEMBERS.to_string(),
                });
            }
        }
        Ok(Self::File { file, members })
    }

    /// Whether it has a file of this name.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.open(name).is_ok()
    }

    /// Reads a small file whole, for example a manifest.
    pub(crate) fn read(&self, name: &str, limit: u64) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let mut reader = self.open(name)?.take(limit + 1);
        reader
            .read_to_end(&mut bytes)
            .map_err(|error| ImageError::malformed(name, error))?;
        if bytes.len() as u64 > limit {
            return Err(ImageError::TooLarge {
                what: name.to_owned(),
                limit: format!("{limit} bytes"),
            });
        }
        Ok(bytes)
    }

    /// Opens a file by the name the archive gives it.
    pub(crate) fn open(&self, name: &str) -> Result<Box<dyn Read>> {
        let missing = || ImageError::malformed(name, "the archive has no such file");
        match self {
            Self::File { file, members } => {
                let mut name = normal(Path::new(name))?;
                for _ in 0..MOST_LINKS {
                    match members.get(&name).ok_or_else(missing)? {
                        Member::Link(target) => name.clone_from(target),
                        Member::File { offset, size } => {
                            let mut file = reopened(file)?;
                            file.seek(SeekFrom::Start(*offset))
                                .map_err(|error| ImageError::malformed("archive", error))?;
                            return Ok(Box::new(file.take(*size)));
                        }
                    }
                }
                Err(ImageError::malformed("archive", "too many links"))
            }
            Self::Directory { root, path } => {
                let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
                let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
                let file = openat2(root, name, flags, Mode::empty(), resolve)
                    .map_err(|error| ImageError::io("open", &path.join(name))(error.into()))?;
                let file = std::fs::File::from(file);
                let is_file = file.metadata().is_ok_and(|metadata| metadata.is_file());
                is_file.then_some(()).ok_or_else(missing)?;
                Ok(Box::new(file))
            }
        }
    }
}

/// A handle with a position of its own.
fn reopened(file: &fs::File) -> Result<std::fs::File> {
    use std::os::fd::AsRawFd;
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    rustix::fs::openat(CWD, &path, flags, Mode::empty())
        .map(Into::into)
        .map_err(|error| ImageError::io("open", Path::new(&path))(error.into()))
}

/// A member's name without `.` and `..`; one that leads out of the archive is refused.
fn normal(path: &Path) -> Result<PathBuf> {
    let mut normal = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => normal.push(name),
            Component::CurDir | Component::RootDir => {}
            Component::ParentDir if normal.pop() => {}
            Component::ParentDir | Component::Prefix(_) => {
                let shown = path.as_os_str().as_encoded_bytes();
                return Err(ImageError::Entry {
                    entry: shown.escape_ascii().to_string(),
                    reason: "it leads out of the archive".to_owned(),
                });
            }
        }
    }
    Ok(normal)
}
