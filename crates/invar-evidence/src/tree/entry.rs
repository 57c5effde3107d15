//! One entry of a tree as one line of a listing.

use std::collections::BTreeMap;
use std::ffi::CString;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use invar_drift::attributes;
use rustix::fs::{FileType, Statx, StatxFlags, StatxTimestamp, readlinkat};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::file_type;
use super::walk::Found;
use crate::digest::{ContentDigest, is_sha256};
use crate::text;

/// Seconds and nanoseconds since 1970.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Instant(pub i64, pub u32);

impl From<StatxTimestamp> for Instant {
    fn from(time: StatxTimestamp) -> Self {
        Self(time.tv_sec, time.tv_nsec)
    }
}

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EntryKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A character device; 0:0 is overlayfs's mark for a deleted path.
    Character,
    /// A block device.
    Block,
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
}

impl EntryKind {
    fn of(stat: &Statx) -> Self {
        match file_type(stat) {
            FileType::Directory => Self::Directory,
            FileType::Symlink => Self::Symlink,
            FileType::CharacterDevice => Self::Character,
            FileType::BlockDevice => Self::Block,
            FileType::Fifo => Self::Fifo,
            FileType::Socket => Self::Socket,
            _ => Self::File,
        }
    }
}

/// Everything known of one entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Line", into = "Line")]
pub struct Entry {
    /// From the root of the tree, absolute.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: EntryKind,
    /// Permission bits.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Bytes of a file, or of a link's target.
    pub size: u64,
    /// Numbers of a device.
    pub device: Option<(u32, u32)>,
    /// Last change of the content.
    pub mtime: Instant,
    /// Last read, as found.
    pub atime: Instant,
    /// Last change of anything, as found.
    pub ctime: Instant,
    /// When it was made, as found, where the file system knows.
    pub btime: Option<Instant>,
    /// Its number in the file system it was found in.
    pub inode: u64,
    /// Names it had when it was found.
    pub links: u32,
    /// Extended attributes: the name escaped, the value in base64.
    pub attributes: BTreeMap<String, String>,
    /// Where a symbolic link leads.
    pub target: Option<Vec<u8>>,
    /// Digest of a file's content.
    pub digest: Option<ContentDigest>,
}

impl Entry {
    /// Reads everything but the content.
    pub(crate) fn read(found: &Found<'_>) -> rustix::io::Result<Self> {
        let stat = found.stat;
        let kind = EntryKind::of(stat);
        let target = match kind {
            EntryKind::Symlink => Some(readlinkat(found.dir, found.name, Vec::new())?),
            _ => None,
        };
        let attributes = match attributes(found.dir, found.name) {
            Ok(list) => list
                .into_iter()
                .map(|(name, value)| {
                    let name = name.to_bytes().escape_ascii().to_string();
                    (name, BASE64.encode(value))
                })
                .collect(),
            Err(Errno::NOENT) => BTreeMap::new(),
            Err(error) => return Err(error),
        };
        let has_birth = StatxFlags::from_bits_retain(stat.stx_mask).contains(StatxFlags::BTIME);
        let is_device = matches!(kind, EntryKind::Character | EntryKind::Block);
        let has_size = matches!(kind, EntryKind::File | EntryKind::Symlink);
        Ok(Self {
            path: found.path.to_vec(),
            kind,
            mode: stat.stx_mode & 0o7777,
            uid: stat.stx_uid,
            gid: stat.stx_gid,
            size: if has_size { stat.stx_size } else { 0 },
            device: is_device.then_some((stat.stx_rdev_major, stat.stx_rdev_minor)),
            mtime: stat.stx_mtime.into(),
            atime: stat.stx_atime.into(),
            ctime: stat.stx_ctime.into(),
            btime: has_birth.then(|| stat.stx_btime.into()),
            inode: stat.stx_ino,
            links: stat.stx_nlink,
            attributes,
            target: target.map(CString::into_bytes),
            digest: None,
        })
    }

    /// Whether it is overlayfs's mark for a deleted path.
    pub fn is_whiteout(&self) -> bool {
        self.kind == EntryKind::Character && self.device == Some((0, 0))
    }
}

/// The form on disk; docs/formats/evidence.md.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    path: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    path_hex: Option<String>,
    kind: EntryKind,
    mode: u16,
    uid: u32,
    gid: u32,
    #[serde(default)]
    size: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    device: Option<(u32, u32)>,
    mtime: Instant,
    atime: Instant,
    ctime: Instant,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    btime: Option<Instant>,
    inode: u64,
    links: u32,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    attributes: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    target: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    target_hex: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sha256: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sha256_sparse: Option<String>,
}

impl From<Entry> for Line {
    fn from(entry: Entry) -> Self {
        let (path, path_hex) = text::to_text(&entry.path);
        let (target, target_hex) = match &entry.target {
            Some(target) => {
                let (text, exact) = text::to_text(target);
                (Some(text), exact)
            }
            None => (None, None),
        };
        let (sha256, sha256_sparse) = match entry.digest {
            Some(ContentDigest::Whole(digest)) => (Some(digest), None),
            Some(ContentDigest::Sparse(digest)) => (None, Some(digest)),
            None => (None, None),
        };
        Self {
            path,
            path_hex,
            kind: entry.kind,
            mode: entry.mode,
            uid: entry.uid,
            gid: entry.gid,
            size: entry.size,
            device: entry.device,
            mtime: entry.mtime,
            atime: entry.atime,
            ctime: entry.ctime,
            btime: entry.btime,
            inode: entry.inode,
            links: entry.links,
            attributes: entry.attributes,
            target,
            target_hex,
            sha256,
            sha256_sparse,
        }
    }
}

impl TryFrom<Line> for Entry {
    type Error = String;

    fn try_from(line: Line) -> Result<Self, String> {
        let path = text::from_text(&line.path, line.path_hex.as_deref())
            .filter(|path| is_plain(path))
            .ok_or_else(|| format!("the path {:?} is not one below the root", line.path))?;
        let target = match &line.target {
            None => None,
            Some(target) => Some(
                text::from_text(target, line.target_hex.as_deref())
                    .ok_or_else(|| format!("the link target of {:?} is ambiguous", line.path))?,
            ),
        };
        let digest = match (line.sha256, line.sha256_sparse) {
            (None, None) => None,
            (Some(whole), None) if is_sha256(&whole) => Some(ContentDigest::Whole(whole)),
            (None, Some(sparse)) if is_sha256(&sparse) => Some(ContentDigest::Sparse(sparse)),
            _ => return Err(format!("the digest of {:?} is not one", line.path)),
        };
        Ok(Self {
            path,
            kind: line.kind,
            mode: line.mode,
            uid: line.uid,
            gid: line.gid,
            size: line.size,
            device: line.device,
            mtime: line.mtime,
            atime: line.atime,
            ctime: line.ctime,
            btime: line.btime,
            inode: line.inode,
            links: line.links,
            attributes: line.attributes,
            target,
            digest,
        })
    }
}

/// Whether a path is absolute and has no empty, `.` or `..` part: it can only lead down.
fn is_plain(path: &[u8]) -> bool {
    let Some(rest) = path.strip_prefix(b"/") else {
        return false;
    };
    rest.is_empty()
        || rest
            .split(|byte| *byte == b'/')
            .all(|part| !matches!(part, b"" | b"." | b"..") && !part.contains(&0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_that_leads_elsewhere_is_refused() {
        for path in ["", "etc", "/../etc", "/a/./b", "/a//b", "/a/", "/a/.."] {
            assert!(!is_plain(path.as_bytes()), "{path:?}");
        }
        for path in ["/", "/a", "/..a/...", "/\n"] {
            assert!(is_plain(path.as_bytes()), "{path:?}");
        }
    }
}
