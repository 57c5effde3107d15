//! The files of a container, read and written from outside while its programs may do their worst.
//!
//! ```text
//!  Side (host, or container's root) + path ─resolve─▶ Place (directory handle, one name)
//!  Place ─copy─▶ Place            Place ─write_tar─▶ archive ─read_tar─▶ Place
//! ```
//!
//! In a container every link ends at its root (`RESOLVE_IN_ROOT`) and no magic link is followed;
//! below a resolved place only single names are used, none of them followed. So whatever is
//! exchanged for what in the meantime, nothing outside is read or written. Nothing of the
//! container is executed or loaded (CVE-2019-14271). Devices and sockets are never copied.

mod archive;
mod entry;
mod owner;

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};

use invar_sys::process::Identity;
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, openat, openat2, statat};
use rustix::io::Errno;

pub use archive::{read_tar, write_tar};
pub use entry::{Copied, copy};

use crate::error::{EngineError, Result};

/// Links followed at the end of a path before it is taken for a loop; the kernel's number.
const LINKS: usize = 40;

/// How files are copied.
#[derive(Debug, Clone, Copy, Default)]
pub struct CopyOptions {
    /// Keep owners and all permission bits. Otherwise everything belongs to root, and nothing that
    /// leaves a container runs as its owner (setuid).
    pub keep_owners: bool,
}

/// A container's root, open for copying.
#[derive(Debug)]
pub struct Files {
    /// Its root directory.
    pub(crate) root: OwnedFd,
    /// Places that something is mounted on only while it runs.
    pub(crate) hidden: Vec<PathBuf>,
    /// Whether nothing can be written.
    pub(crate) is_read_only: bool,
    /// What id outside the container's root has in its files; 0 when none is shifted.
    pub(crate) first: u32,
    /// Keeps others from starting it meanwhile.
    pub(crate) _claim: Option<OwnedFd>,
}

impl Files {
    /// Those a running container sees.
    pub(crate) fn of_running(init: u32) -> Result<Self> {
        let path = PathBuf::from(format!("/proc/{init}/root"));
        let failed = |source| EngineError::io("open", &path, source);
        let before = Identity::of(init);
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = openat(CWD, &path, flags, Mode::empty()).map_err(|e| failed(e.into()))?;
        // Its number may have been given to another process in between.
        if before.is_none() || before != Identity::of(init) {
            return Err(failed(io::ErrorKind::NotFound.into()));
        }
        let first = invar_sys::userns::first_of(init).map_err(failed)?;
        Ok(Self {
            root,
            first,
            hidden: Vec::new(),
            // Each mount says so itself.
            is_read_only: false,
            _claim: None,
        })
    }
}

/// Where paths begin.
#[derive(Debug)]
pub enum Side {
    /// This machine, with the caller's own paths.
    Host,
    /// A container.
    Container(Files),
}

/// A name in a directory; nothing need be there.
#[derive(Debug)]
pub struct Place {
    /// The directory.
    pub(crate) directory: OwnedFd,
    /// One name, never `..`; `.` for the directory itself.
    pub(crate) name: OsString,
    /// What is there, links not followed.
    pub(crate) kind: Option<FileType>,
    /// What id outside the root of its side has.
    pub(crate) first: u32,
    /// As it was asked for.
    pub(crate) path: PathBuf,
}

impl Place {
    /// Whether something is there.
    pub fn exists(&self) -> bool {
        self.kind.is_some()
    }

    /// Whether a directory is there.
    pub fn is_directory(&self) -> bool {
        self.kind == Some(FileType::Directory)
    }

    /// The name alone; `None` for a root or a path that ends with `.`.
    pub fn file_name(&self) -> Option<&OsStr> {
        (self.name != ".").then_some(&*self.name)
    }

    /// A place in the directory that is here, not following it when it is a link.
    pub fn child(&self, name: &OsStr) -> Result<Self> {
        let is_plain =
            !name.is_empty() && name != "." && name != ".." && !name.as_bytes().contains(&b'/');
        let path = self.path.join(name);
        if !is_plain {
            return Err(EngineError::io(
                "find",
                &path,
                io::ErrorKind::InvalidInput.into(),
            ));
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let directory = openat(&self.directory, &self.name, flags, Mode::empty())
            .map_err(|errno| EngineError::io("open", &self.path, errno.into()))?;
        Self::in_directory(directory, name.to_owned(), path, self.first)
    }

    fn in_directory(directory: OwnedFd, name: OsString, path: PathBuf, first: u32) -> Result<Self> {
        let kind = match statat(&directory, &name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Some(FileType::from_raw_mode(stat.st_mode)),
            Err(Errno::NOENT) => None,
            Err(errno) => return Err(EngineError::io("look at", &path, errno.into())),
        };
        Ok(Self {
            directory,
            name,
            kind,
            first,
            path,
        })
    }
}

impl Side {
    /// Finds a place; its directory must be there. `follow` goes on through links at its end.
    pub fn resolve(&self, path: &Path, follow: bool) -> Result<Place> {
        let mut path = match self {
            Self::Host => path.to_owned(),
            // Docker's rule: relative to the root.
            Self::Container(_) => Path::new("/").join(path),
        };
        for _ in 0..LINKS {
            let place = self.resolve_once(&path)?;
            if !follow || place.kind != Some(FileType::Symlink) {
                return Ok(place);
            }
            let target = rustix::fs::readlinkat(&place.directory, &place.name, Vec::new())
                .map_err(|errno| EngineError::io("read the link", &path, errno.into()))?;
            let target = Path::new(OsStr::from_bytes(target.as_bytes())).to_owned();
            path = path.parent().unwrap_or(Path::new("/")).join(target);
        }
        Err(EngineError::io("find", &path, Errno::LOOP.into()))
    }

    fn resolve_once(&self, path: &Path) -> Result<Place> {
        self.require_visible(path)?;
        let ends_in_itself = path.as_os_str().as_bytes().ends_with(b"/.");
        let last = path.components().next_back();
        let (directory, name) = match last {
            Some(Component::Normal(name)) if !ends_in_itself => {
                (path.parent().unwrap_or(Path::new("")), name.to_owned())
            }
            // The directory itself, also for what ends with `..`.
            _ => (path, OsString::from(".")),
        };
        let directory = if directory.as_os_str().is_empty() {
            Path::new(".")
        } else {
            directory
        };
        let opened = self
            .open(directory, OFlags::RDONLY | OFlags::DIRECTORY)
            .map_err(|errno| EngineError::io("open", directory, errno.into()))?;
        Place::in_directory(opened, name, path.to_owned(), self.first())
    }

    /// What id outside its root has.
    fn first(&self) -> u32 {
        match self {
            Self::Host => 0,
            Self::Container(files) => files.first,
        }
    }

    /// Opens a path; in a container, links end at its root.
    fn open(&self, path: &Path, flags: OFlags) -> std::result::Result<OwnedFd, Errno> {
        let flags = flags | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        match self {
            Self::Host => openat(CWD, path, flags, Mode::empty()),
            Self::Container(files) => {
                let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
                // A rename while `..` is followed: the kernel asks to try again (openat2(2)).
                for _ in 0..LINKS {
                    match openat2(files.root.as_fd(), path, flags, Mode::empty(), resolve) {
                        Err(Errno::AGAIN) => {}
                        opened => return opened,
                    }
                }
                Err(Errno::AGAIN)
            }
        }
    }

    /// Fails for what only a running container shows.
    fn require_visible(&self, path: &Path) -> Result<()> {
        let Self::Container(files) = self else {
            return Ok(());
        };
        match files.hidden.iter().find(|hidden| path.starts_with(hidden)) {
            None => Ok(()),
            Some(hidden) => Err(EngineError::Unsupported {
                what: format!("copying to or from {}", path.display()),
                reason: format!(
                    "something is mounted on {} while the container runs; start it first",
                    hidden.display()
                ),
            }),
        }
    }

    /// Fails when nothing can be written here at all.
    pub fn require_writable(&self) -> Result<()> {
        match self {
            Self::Container(files) if files.is_read_only => Err(EngineError::Unsupported {
                what: "copying into the container".to_owned(),
                reason: "its root is read-only; make it with --writable, or copy into a volume or \
                         tmpfs of it while it runs"
                    .to_owned(),
            }),
            _ => Ok(()),
        }
    }
}
