//! Blobs of an image archive by name: a tar file, or a directory in the OCI layout. Names come
//! from the archive itself and never leave it.

use std::collections::HashMap;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use fs_err as fs;
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, open, openat2};

use crate::compression::{Compression, decompress};
use crate::error::{ImageError, Result};
use crate::layer::Budget;
use crate::limits::Limits;
use crate::tar::{Kind, Source, Tar};

/// Most members of an archive: 512 layers of legacy archives have four each.
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

    /// Opens an archive file. A compressed one is unpacked to a file in `scratch` first, because
    /// its members are needed in another order; so is a pipe.
    pub(crate) fn path(path: &Path, scratch: &Path, limits: &Limits) -> Result<Self> {
        let mut file = fs::File::open(path).map_err(ImageError::io("open", path))?;
        let failed = ImageError::io("read", path);
        let is_file = file.metadata().map_err(failed)?.is_file();
        if !is_file || Compression::of_file(&mut file)? != Compression::None {
            return Self::stream(file, scratch, limits);
        }
        Self::file(file, limits)
    }

    /// Reads an archive from a stream, into a file without a name in `scratch`.
    pub(crate) fn stream(input: impl Read, scratch: &Path, limits: &Limits) -> Result<Self> {
        let unreadable = |error| ImageError::malformed("archive", error);
        let mut budget = Budget::new(*limits);
        let mut plain = decompress(budget.counted(input)).map_err(unreadable)?;
        let spool =
            tempfile::tempfile_in(scratch).map_err(ImageError::io("create a file in", scratch))?;
        let mut spool = fs::File::from_parts(spool, scratch);
        let mut block = vec![0; 1 << 17];
        loop {
            let length = plain.read(&mut block).map_err(unreadable)?;
            if length == 0 {
                return Self::file(spool, limits);
            }
            budget.content(length as u64).map_err(|reason| {
                ImageError::malformed("archive", reason.replace("unpacked image", "archive"))
            })?;
            let written = io::Write::write_all(&mut spool, &block[..length]);
            written.map_err(ImageError::io("write a file in", scratch))?;
        }
    }

    /// Indexes an uncompressed tar file.
    pub(crate) fn file(mut file: fs::File, limits: &Limits) -> Result<Self> {
        let unreadable = |error| ImageError::malformed("archive", error);
        let size = file.metadata().map_err(unreadable)?.len();
        file.rewind().map_err(unreadable)?;
        let source = SeekingSource {
            reader: BufReader::new(file),
            left: size,
        };
        let mut tar = Tar::new(source, "archive", limits.entry_headers);
        let mut members = HashMap::new();
        let mut count = 0;
        while let Some(member) = tar.next()? {
            count += 1;
            if count > MOST_MEMBERS {
                return Err(ImageError::TooLarge {
                    what: "the number of files in the archive".to_owned(),
                    limit: MOST_MEMBERS.to_string(),
                });
            }
            let name = normal(&bytes_path(&member.path))?;
            let target = bytes_path(&member.link);
            let indexed = match member.kind {
                Kind::Regular if member.sparse.is_none() => Member::File {
                    offset: tar.position(),
                    size: member.size,
                },
                // A symbolic link starts where it is, a hard link at the root.
                Kind::Symlink => {
                    let base = name.parent().unwrap_or(Path::new(""));
                    Member::Link(normal(&base.join(target))?)
                }
                Kind::Hardlink => Member::Link(normal(&target)?),
                _ => continue,
            };
            members.insert(name, indexed);
        }
        let file = tar.into_source().reader.into_inner();
        Ok(Self::File { file, members })
    }

    /// Where a member's content is: a handle of the archive itself, offset and size.
    pub(crate) fn part(&self, name: &str) -> Result<(std::fs::File, u64, u64)> {
        let Self::File { file, members } = self else {
            return Err(ImageError::malformed(name, "it is not in a tar"));
        };
        match members.get(&normal(Path::new(name))?) {
            Some(Member::File { offset, size }) => Ok((reopened(file)?, *offset, *size)),
            _ => Err(ImageError::malformed(name, "the archive has no such file")),
        }
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
                what: crate::error::shown(name),
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

/// A file of known length, of which most is passed over.
struct SeekingSource {
    reader: BufReader<fs::File>,
    left: u64,
}

impl Read for SeekingSource {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.reader.read(buffer)?;
        self.left = self.left.saturating_sub(length as u64);
        Ok(length)
    }
}

impl Source for SeekingSource {
    fn skip(&mut self, count: u64) -> io::Result<()> {
        let Some(left) = self.left.checked_sub(count) else {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "it ends inside a file",
            ));
        };
        self.left = left;
        let distance = i64::try_from(count).expect("a file is not longer");
        self.reader.seek_relative(distance)
    }
}

fn bytes_path(bytes: &[u8]) -> PathBuf {
    PathBuf::from(std::ffi::OsStr::from_bytes(bytes))
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
