//! One entry of a layer's tar: a file with its metadata, a hard link, or a whiteout.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;

use composefs::generic_tree::{LeafContent, Stat};
use rustix::fs::makedev;
use tar::EntryType;

use super::tree::{Content, LayerTree, split};
use crate::limits;

/// Prefix of whiteouts (OCI image-spec, layer.md).
const WHITEOUT: &[u8] = b".wh.";
/// Marks a directory whose lower content is hidden.
const OPAQUE: &[u8] = b".wh..wh..opq";
/// Other names aufs kept its own data under.
const AUFS: &[u8] = b".wh..wh.";

/// What an entry is.
enum Kind {
    Directory,
    Regular {
        size: u64,
        sparse: bool,
    },
    Leaf(LeafContent<Content>),
    Hardlink(Vec<u8>),
    /// Says something about the archive, not about a file.
    Note,
}

/// An entry, read but for its content.
pub(super) struct Entry {
    path: Vec<u8>,
    kind: Kind,
    stat: Stat,
}

impl Entry {
    /// Reads an entry's headers; the reason when they cannot be.
    pub(super) fn read(raw: &mut tar::Entry<'_, impl Read>) -> Result<Self, String> {
        let path = raw.path_bytes().into_owned();
        let extensions = Extensions::read(raw)?;
        let kind = kind(raw, &path)?;
        let header = raw.header();
        let text = |error: std::io::Error| error.to_string();
        let owner =
            |id: u64| u32::try_from(id).map_err(|_e| format!("{id} is not a user or group"));
        let mtime = match extensions.mtime {
            Some(mtime) => mtime,
            None => (
                i64::try_from(header.mtime().map_err(text)?).unwrap_or(i64::MAX),
                0,
            ),
        };
        let stat = Stat {
            st_mode: header.mode().map_err(text)? & 0o7777,
            st_uid: owner(header.uid().map_err(text)?)?,
            st_gid: owner(header.gid().map_err(text)?)?,
            st_mtim_sec: mtime.0,
            st_mtim_nsec: mtime.1,
            xattrs: extensions.xattrs,
        };
        Ok(Self { path, kind, stat })
    }

    /// Bytes of content of a regular file, as it reads inside the image.
    pub(super) fn content_size(&self) -> Option<u64> {
        match self.kind {
            Kind::Regular { size, .. } => Some(size),
            _ => None,
        }
    }

    /// Whether the archive leaves out the holes of its content.
    pub(super) fn is_sparse(&self) -> bool {
        matches!(self.kind, Kind::Regular { sparse: true, .. })
    }

    /// Makes its change to the tree; the reason when it is refused. A regular file brings its
    /// `content`.
    pub(super) fn apply(
        self,
        content: Option<Content>,
        tree: &mut LayerTree<'_>,
    ) -> Result<(), String> {
        if matches!(self.kind, Kind::Note) {
            return Ok(());
        }
        let names = split(&self.path)?;
        if let Some((name, parents)) = names.split_last() {
            let name = name.as_bytes();
            if name == OPAQUE {
                return tree.opaque(parents);
            }
            if name.starts_with(AUFS) {
                return Ok(());
            }
            if let Some(hidden) = name.strip_prefix(WHITEOUT) {
                if hidden.is_empty() || hidden == b"." || hidden == b".." {
                    return Err("a whiteout must name a file".to_owned());
                }
                return tree.whiteout(parents, OsStr::from_bytes(hidden));
            }
        }
        match (self.kind, content) {
            (Kind::Directory, _) => tree.directory(&names, self.stat),
            (Kind::Leaf(leaf), _) => tree.leaf(&names, self.stat, leaf),
            (Kind::Hardlink(target), _) => tree.hardlink(&names, &target),
            (Kind::Regular { .. }, Some(content)) => {
                tree.leaf(&names, self.stat, LeafContent::Regular(content))
            }
            (Kind::Regular { .. } | Kind::Note, _) => Ok(()),
        }
    }
}

fn kind(raw: &tar::Entry<'_, impl Read>, path: &[u8]) -> Result<Kind, String> {
    let header = raw.header();
    let link = || {
        raw.link_name_bytes()
            .map(std::borrow::Cow::into_owned)
            .ok_or_else(|| "the link has no target".to_owned())
    };
    let device = || {
        let number = |part: std::io::Result<Option<u32>>| {
            part.map_err(|error| error.to_string())?
                .ok_or_else(|| "the device has no number".to_owned())
        };
        let (major, minor) = (
            number(header.device_major())?,
            number(header.device_minor())?,
        );
        Ok::<_, String>(makedev(major, minor))
    };
    Ok(match header.entry_type() {
        // Before ustar, a directory was a file whose name ends in a slash.
        EntryType::Regular if path.ends_with(b"/") => Kind::Directory,
        EntryType::Regular | EntryType::Continuous => Kind::Regular {
            size: raw.size(),
            sparse: false,
        },
        EntryType::GNUSparse => Kind::Regular {
            size: raw.size(),
            sparse: true,
        },
        EntryType::Directory => Kind::Directory,
        EntryType::Link => Kind::Hardlink(link()?),
        EntryType::Symlink => {
            let target = link()?;
            if target.is_empty() || target.len() > limits::SYMLINK || target.contains(&0) {
                return Err(format!(
                    "the target of a symbolic link must have 1 to {} bytes and no NUL",
                    limits::SYMLINK
                ));
            }
            Kind::Leaf(LeafContent::Symlink(OsStr::from_bytes(&target).into()))
        }
        EntryType::Char => match device()? {
            0 => {
                return Err(
                    "the device 0:0 is a whiteout of overlayfs; layers use '.wh.' names".to_owned(),
                );
            }
            number => Kind::Leaf(LeafContent::CharacterDevice(number)),
        },
        EntryType::Block => Kind::Leaf(LeafContent::BlockDevice(device()?)),
        EntryType::Fifo => Kind::Leaf(LeafContent::Fifo),
        EntryType::XGlobalHeader => Kind::Note,
        other => {
            let letter = [other.as_byte()].escape_ascii().to_string();
            return Err(format!("entries of type {letter:?} are not supported"));
        }
    })
}

/// What PAX extended headers add to the header (POSIX `pax`, "pax Extended Header").
#[derive(Default)]
struct Extensions {
    mtime: Option<(i64, u32)>,
    xattrs: BTreeMap<Box<OsStr>, Box<[u8]>>,
}

impl Extensions {
    fn read(raw: &mut tar::Entry<'_, impl Read>) -> Result<Self, String> {
        let mut all = Self::default();
        if raw.header().entry_type() == EntryType::XGlobalHeader {
            return Ok(all);
        }
        let text = |error: std::io::Error| error.to_string();
        let Some(records) = raw.pax_extensions().map_err(text)? else {
            return Ok(all);
        };
        let mut size = 0;
        for record in records {
            let record = record.map_err(text)?;
            let (key, value) = (record.key_bytes(), record.value_bytes());
            if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                if is_kept(name) {
                    size += name.len() + value.len();
                    all.xattrs
                        .insert(OsStr::from_bytes(name).into(), value.into());
                }
            } else if key == b"mtime" {
                all.mtime = Some(time(value).ok_or("its modification time is not a number")?);
            } else if key.starts_with(b"GNU.sparse.") {
                return Err(
                    "sparse files in PAX form are not supported; use 'tar --format=gnu'".to_owned(),
                );
            }
        }
        if size > limits::XATTRS {
            return Err(format!(
                "its extended attributes are larger than {} bytes",
                limits::XATTRS
            ));
        }
        Ok(all)
    }
}

/// Attributes an image may bring: those that mean the same on every host. Labels of the build
/// host do not, and `overlay` attributes would let a layer speak to the kernel's overlayfs.
fn is_kept(name: &[u8]) -> bool {
    let known: &[&[u8]] = &[
        b"security.capability",
        b"system.posix_acl_access",
        b"system.posix_acl_default",
    ];
    let is_user = name.starts_with(b"user.") && !name.starts_with(b"user.overlay.");
    name.len() <= limits::NAME && !name.contains(&0) && (known.contains(&name) || is_user)
}

/// `seconds[.fraction]`, possibly negative.
fn time(value: &[u8]) -> Option<(i64, u32)> {
    let text = std::str::from_utf8(value).ok()?;
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    let whole: i64 = seconds.parse().ok()?;
    if !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let digits: String = fraction
        .chars()
        .chain("000000000".chars())
        .take(9)
        .collect();
    let nanoseconds: u32 = digits.parse().ok()?;
    if seconds.starts_with('-') && nanoseconds > 0 {
        return Some((whole.checked_sub(1)?, 1_000_000_000 - nanoseconds));
    }
    Some((whole, nanoseconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_nanoseconds_and_may_be_before_1970() {
        let table: [(&str, Option<(i64, u32)>); 6] = [
            ("1700000000", Some((1_700_000_000, 0))),
            ("1700000000.5", Some((1_700_000_000, 500_000_000))),
            ("1.0123456789", Some((1, 12_345_678))),
            ("-1.25", Some((-2, 750_000_000))),
            ("", None),
            ("1.x", None),
        ];
        for (text, expected) in table {
            assert_eq!(time(text.as_bytes()), expected, "{text}");
        }
    }

    #[test]
    fn attributes_that_speak_to_overlayfs_are_dropped() {
        assert!(is_kept(b"security.capability"));
        assert!(is_kept(b"user.note"));
        for name in [
            "trusted.overlay.redirect",
            "user.overlay.opaque",
            "security.selinux",
        ] {
            assert!(!is_kept(name.as_bytes()), "{name}");
        }
    }
}
