//! The marks overlayfs leaves in an upper directory (`Documentation/filesystems/overlayfs.rst`).

use std::ffi::CStr;
use std::os::fd::BorrowedFd;

use rustix::fs::{FileType, Statx};
use rustix::io::Result;

use crate::dir::{attributes, file_type, get_attribute};
pub(crate) use crate::path::{join, parent};

/// Which extended attributes an overlay keeps its marks in.
///
/// Only one of the two is ever believed: in a container whose overlay uses `trusted.overlay.`,
/// any process may set `user.overlay.opaque`, and believing it would hide changes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Namespace {
    /// `trusted.overlay.`: mounted by root.
    #[default]
    Trusted,
    /// `user.overlay.`: mounted with `userxattr`, in a user namespace.
    User,
}

impl Namespace {
    fn prefix(self) -> &'static [u8] {
        match self {
            Self::Trusted => b"trusted.overlay.",
            Self::User => b"user.overlay.",
        }
    }

    fn names(self) -> [&'static CStr; 3] {
        match self {
            Self::Trusted => [
                c"trusted.overlay.whiteout",
                c"trusted.overlay.metacopy",
                c"trusted.overlay.redirect",
            ],
            Self::User => [
                c"user.overlay.whiteout",
                c"user.overlay.metacopy",
                c"user.overlay.redirect",
            ],
        }
    }

    /// The attribute that says what a renamed entry was called.
    pub(crate) fn redirect(self) -> &'static CStr {
        self.names()[2]
    }

    /// The attribute that names the image's file which a file of upper is a copy of.
    pub(crate) fn origin(self) -> &'static CStr {
        match self {
            Self::Trusted => c"trusted.overlay.origin",
            Self::User => c"user.overlay.origin",
        }
    }

    /// The attribute of a file with several names that an overlay with `index=on` copied up.
    pub(crate) fn names_counted(self) -> &'static CStr {
        match self {
            Self::Trusted => c"trusted.overlay.nlink",
            Self::User => c"user.overlay.nlink",
        }
    }

    /// Whether an attribute is the overlay's own and not the container's.
    pub(crate) fn owns(self, attribute: &CStr) -> bool {
        attribute
            .to_bytes()
            .strip_prefix(self.prefix())
            // Escaped: a mark the container itself set, for an overlay inside of it.
            .is_some_and(|rest| !rest.starts_with(b"overlay."))
    }
}

/// What a directory in upper says of what is below it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct DirMarks {
    /// Nothing below shows through.
    pub(crate) is_opaque: bool,
    /// It may hold whiteouts in the form of marked regular files.
    pub(crate) has_xwhiteouts: bool,
    /// It was renamed: where it is below. Absolute, or one name beside it.
    pub(crate) redirect: Option<Vec<u8>>,
}

impl DirMarks {
    pub(crate) fn read(dir: BorrowedFd<'_>, namespace: Namespace) -> Result<Self> {
        let mut marks = Self::default();
        for (name, value) in attributes(dir, c"")? {
            match name.to_bytes().strip_prefix(namespace.prefix()) {
                Some(b"opaque") => {
                    marks.is_opaque = value == b"y";
                    marks.has_xwhiteouts = value == b"x";
                }
                Some(b"redirect") => marks.redirect = Some(value),
                _ => {}
            }
        }
        Ok(marks)
    }
}

/// A character device 0:0.
pub(crate) fn is_whiteout(stat: &Statx) -> bool {
    file_type(stat) == FileType::CharacterDevice
        && (stat.stx_rdev_major, stat.stx_rdev_minor) == (0, 0)
}

/// A marked empty file; only counts in a directory that [`DirMarks::has_xwhiteouts`].
pub(crate) fn is_xwhiteout(
    dir: BorrowedFd<'_>,
    name: &CStr,
    stat: &Statx,
    namespace: Namespace,
) -> Result<bool> {
    let may_be = file_type(stat) == FileType::RegularFile && stat.stx_size == 0;
    Ok(may_be && get_attribute(dir, name, namespace.names()[0])?.is_some())
}

/// Where the content of a file in upper is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Location {
    /// In upper, as usual.
    Here,
    /// Below, under the same name; upper has only the metadata and reads as zeros.
    Below,
    /// Below, under the name a redirect gives.
    Redirected(Vec<u8>),
}

impl Location {
    pub(crate) fn of(dir: BorrowedFd<'_>, name: &CStr, namespace: Namespace) -> Result<Self> {
        let [_, metacopy, redirect] = namespace.names();
        if get_attribute(dir, name, metacopy)?.is_none() {
            return Ok(Self::Here);
        }
        let redirect = get_attribute(dir, name, redirect)?;
        Ok(redirect.map_or(Self::Below, Self::Redirected))
    }
}

/// The path below that a redirect names, given where its directory is below. `None` when it makes
/// no sense; the kernel refuses such a mark as well.
pub(crate) fn follow(redirect: &[u8], parent: Option<&[u8]>) -> Option<Vec<u8>> {
    let is_name = |name: &[u8]| !matches!(name, b"" | b"." | b"..") && !name.contains(&0);
    if let Some(path) = redirect.strip_prefix(b"/") {
        let is_path = path.split(|byte| *byte == b'/').all(is_name);
        return is_path.then(|| redirect.to_vec());
    }
    let is_name = is_name(redirect) && !redirect.contains(&b'/');
    parent
        .filter(|_| is_name)
        .map(|parent| join(parent, redirect))
}
