//! Where a file of upper came from: overlayfs keeps the file handle of the image's file it copied
//! up in `overlay.origin`, also when the copy is renamed afterwards (`struct ovl_fh`,
//! `fs/overlayfs/overlayfs.h`).

use std::ffi::CStr;
use std::os::fd::BorrowedFd;

use rustix::io::{Errno, Result};

use crate::dir::get_attribute;
use crate::overlay::Namespace;

/// `OVL_FH_MAGIC`
const MAGIC: u8 = 0xfb;
/// `OVL_FILEID_V1`: a handle that an overlay gives of itself.
const OVERLAY_HANDLE: i32 = 0xf8;
/// An overlay's handle has three bytes before the part that is also kept in the attribute.
const PADDING: usize = 3;
/// Version, magic, length, flags, type, and the file system's UUID.
const HEADER: usize = 5 + 16;

/// Names one inode of the image.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Origin {
    kind: u8,
    handle: Vec<u8>,
}

/// What upper says of an entry's origin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Mark {
    /// Nothing: it was made in the container, or is one of several names of a file of the image.
    None,
    /// It comes from the image; the file system below has no handles.
    Unnamed,
    /// It comes from this inode of the image.
    Of(Origin),
}

impl Mark {
    /// Reads the mark of an entry of upper.
    pub(crate) fn read(dir: BorrowedFd<'_>, name: &CStr, namespace: Namespace) -> Result<Self> {
        Ok(match get_attribute(dir, name, namespace.origin())? {
            None => Self::None,
            Some(value) => decode(&value).map_or(Self::Unnamed, Self::Of),
        })
    }
}

impl Origin {
    /// The origin that a copy of this entry of the lower directory would have; `None` where its
    /// file system has no handles.
    pub(crate) fn of_lower(dir: BorrowedFd<'_>, name: &CStr) -> Result<Option<Self>> {
        let handle = match invar_sys::handle::file_handle(dir, name) {
            Ok(handle) => handle,
            Err(error) => {
                return match Errno::from_io_error(&error) {
                    Some(Errno::NOENT) => Err(Errno::NOENT),
                    _ => Ok(None),
                };
            }
        };
        if handle.kind == OVERLAY_HANDLE {
            return Ok(handle.bytes.get(PADDING..).and_then(decode));
        }
        Ok(u8::try_from(handle.kind).ok().map(|kind| Self {
            kind,
            handle: handle.bytes,
        }))
    }
}

/// Reads the value of the attribute; `None` when it makes no sense. The UUID is left out: it is
/// null or not depending on how the overlay was mounted.
pub(crate) fn decode(value: &[u8]) -> Option<Origin> {
    let [0, MAGIC, length, _flags, kind, ..] = *value else {
        return None;
    };
    let handle = value.get(HEADER..usize::from(length))?;
    (!handle.is_empty()).then(|| Origin {
        kind,
        handle: handle.to_vec(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXT4: &[u8] =
        b"\0\xfb\x1d\0\x01\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x08\x40\x13\0\x98\xb1\xd8\x7f";

    #[test]
    fn the_attribute_is_read_without_the_file_systems_id() {
        let origin = decode(EXT4).unwrap();
        assert_eq!((origin.kind, origin.handle.as_slice()), (1, &EXT4[21..]));
    }

    #[test]
    fn a_value_of_another_form_or_length_is_none() {
        assert_eq!(decode(b""), None);
        assert_eq!(decode(&EXT4[..28]), None);
        assert_eq!(decode(&EXT4[..21]), None);
        assert_eq!(decode(&[&b"\x01"[..], &EXT4[1..]].concat()), None);
    }
}
