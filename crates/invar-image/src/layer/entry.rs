//! One entry of a layer's tar: a file with its metadata, a hard link, or a whiteout.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use composefs::generic_tree::{LeafContent, Stat};
use rustix::fs::makedev;

use super::attributes;
use super::tree::{Content, LayerTree, split};
use crate::limits;
use crate::tar::{Kind, Member};

/// Prefix of whiteouts (OCI image-spec, layer.md).
const WHITEOUT: &[u8] = b".wh.";
/// Marks a directory whose lower content is hidden.
const OPAQUE: &[u8] = b".wh..wh..opq";
/// Other names aufs kept its own data under.
const AUFS: &[u8] = b".wh..wh.";

/// Largest major and minor number of a device (`MINORBITS` of the kernel).
const MAJOR: u64 = (1 << 12) - 1;
const MINOR: u64 = (1 << 20) - 1;

/// What an entry does.
enum Effect {
    Directory,
    Regular,
    Leaf(LeafContent<Content>),
    Hardlink(Vec<u8>),
}

/// An entry, read but for its content.
pub(super) struct Entry {
    path: Vec<u8>,
    effect: Effect,
    stat: Stat,
}

impl Entry {
    /// Checks what the archive says of a member; the reason when it is refused.
    pub(super) fn new(member: Member) -> Result<Self, String> {
        // The kernel takes the largest number for "none" (`chown(2)`).
        let owner = |id: u64| match u32::try_from(id) {
            Ok(id) if id != u32::MAX => Ok(id),
            _ => Err(format!("{id} is not a user or group")),
        };
        let stat = Stat {
            // Linux gives every symbolic link all permissions.
            st_mode: if member.kind == Kind::Symlink {
                0o777
            } else {
                member.mode
            },
            st_uid: owner(member.uid)?,
            st_gid: owner(member.gid)?,
            st_mtim_sec: member.mtime.0,
            st_mtim_nsec: member.mtime.1,
            xattrs: attributes::accept(member.attributes, member.kind)?,
        };
        let effect = match member.kind {
            Kind::Regular => Effect::Regular,
            Kind::Directory => Effect::Directory,
            Kind::Hardlink if member.link.is_empty() => {
                return Err("the link has no target".to_owned());
            }
            Kind::Hardlink => Effect::Hardlink(member.link),
            Kind::Symlink => Effect::Leaf(symlink(&member.link)?),
            Kind::CharacterDevice => Effect::Leaf(character_device(member.device)?),
            Kind::BlockDevice => Effect::Leaf(LeafContent::BlockDevice(device(member.device)?)),
            Kind::Fifo => Effect::Leaf(LeafContent::Fifo),
            Kind::Other(other) => {
                let letter = [other].escape_ascii().to_string();
                return Err(format!("entries of type {letter:?} are not supported"));
            }
        };
        Ok(Self {
            path: member.path,
            effect,
            stat,
        })
    }

    /// Whether it has content.
    pub(super) fn is_regular(&self) -> bool {
        matches!(self.effect, Effect::Regular)
    }

    /// Makes its change to the tree; the reason when it is refused. A regular file brings its
    /// `content`.
    pub(super) fn apply(
        self,
        content: Option<Content>,
        tree: &mut LayerTree<'_>,
    ) -> Result<(), String> {
        let names = split(&self.path)?;
        tree.budget
            .entry(self.memory(names.last(), content.as_ref()))?;
        if let Some((name, parents)) = names.split_last() {
            let name = name.as_bytes();
            if name == OPAQUE {
                return tree.opaque(parents);
            }
            if names.iter().any(|name| name.as_bytes().starts_with(AUFS)) {
                return Ok(());
            }
            if parents
                .iter()
                .any(|name| name.as_bytes().starts_with(WHITEOUT))
            {
                return Err("a whiteout has nothing below it".to_owned());
            }
            if let Some(hidden) = name.strip_prefix(WHITEOUT) {
                if hidden.is_empty() || hidden == b"." || hidden == b".." {
                    return Err("a whiteout must name a file".to_owned());
                }
                return tree.whiteout(parents, OsStr::from_bytes(hidden));
            }
        }
        match (self.effect, content) {
            (Effect::Directory, _) => tree.directory(&names, self.stat),
            (Effect::Leaf(leaf), _) => tree.leaf(&names, self.stat, leaf),
            (Effect::Hardlink(target), _) => tree.hardlink(&names, &target),
            (Effect::Regular, content) => {
                let content = content.expect("a regular file was read with its content");
                tree.leaf(&names, self.stat, LeafContent::Regular(content))
            }
        }
    }

    /// Bytes that the tree keeps of it.
    fn memory(&self, name: Option<&&OsStr>, content: Option<&Content>) -> usize {
        let name = name.map_or(0, |name| name.len());
        let target = match &self.effect {
            Effect::Leaf(LeafContent::Symlink(target)) => target.len(),
            _ => 0,
        };
        let inline = match content {
            Some(Content::Inline(bytes)) => bytes.len(),
            _ => 0,
        };
        let attributes = self.stat.xattrs.iter();
        let attributes: usize = attributes
            .map(|(name, value)| name.len() + value.len())
            .sum();
        name + target + inline + attributes
    }
}

fn symlink(target: &[u8]) -> Result<LeafContent<Content>, String> {
    if target.is_empty() || target.len() > limits::SYMLINK || target.contains(&0) {
        return Err(format!(
            "the target of a symbolic link must have 1 to {} bytes and no NUL",
            limits::SYMLINK
        ));
    }
    Ok(LeafContent::Symlink(OsStr::from_bytes(target).into()))
}

fn character_device(number: (u64, u64)) -> Result<LeafContent<Content>, String> {
    if number == (0, 0) {
        return Err(
            "the device 0:0 is a whiteout of overlayfs; layers use '.wh.' names".to_owned(),
        );
    }
    Ok(LeafContent::CharacterDevice(device(number)?))
}

fn device((major, minor): (u64, u64)) -> Result<u64, String> {
    match (u32::try_from(major), u32::try_from(minor)) {
        (Ok(high), Ok(low)) if major <= MAJOR && minor <= MINOR => Ok(makedev(high, low)),
        _ => Err(format!("there is no device {major}:{minor}")),
    }
}
