//! Two entries compared: Docker's way, and truly.

use std::ffi::CStr;
use std::os::fd::BorrowedFd;

use rustix::fs::{FileType, Statx, StatxTimestamp};
use rustix::io::Result;

use crate::change::{Reason, Reasons};
use crate::dir::{Attribute, attributes, file_type, link_target};
use crate::overlay::Namespace;

pub(crate) const CAPABILITY: &CStr = c"security.capability";
/// Set by the host's security module according to where a file lies, not by the container.
const LABEL: &CStr = c"security.selinux";
const S_IFDIR: u16 = 0o040_000;

/// An entry: its directory, name and what the kernel says of it.
#[derive(Clone, Copy)]
pub(crate) struct Entry<'a> {
    pub(crate) dir: BorrowedFd<'a>,
    pub(crate) name: &'a CStr,
    pub(crate) stat: &'a Statx,
}

/// In what two entries differ, content left out.
pub(crate) struct Difference {
    /// Whether `docker diff` would print it.
    pub(crate) is_compatible: bool,
    /// All that differs; the times and size of directories do not count.
    pub(crate) reasons: Reasons,
}

/// Compares what needs no reading of content.
pub(crate) fn metadata(new: Entry<'_>, old: Entry<'_>, namespace: Namespace) -> Result<Difference> {
    let mut reasons = Reasons::default();
    let (new_type, old_type) = (file_type(new.stat), file_type(old.stat));
    reasons.add(Reason::Type, new_type != old_type);
    reasons.add(
        Reason::Mode,
        (new.stat.stx_mode ^ old.stat.stx_mode) & 0o7777 != 0,
    );
    reasons.add(Reason::Owner, owner(new.stat) != owner(old.stat));
    reasons.add(Reason::Device, device(new.stat) != device(old.stat));
    if new_type != FileType::Directory {
        reasons.add(Reason::Size, new.stat.stx_size != old.stat.stx_size);
        reasons.add(
            Reason::Mtime,
            instant(&new.stat.stx_mtime) != instant(&old.stat.stx_mtime),
        );
    }
    if new_type == FileType::Symlink && old_type == FileType::Symlink {
        let target = link_target(new.dir, new.name)?;
        reasons.add(Reason::Target, target != link_target(old.dir, old.name)?);
    }
    let attributes_of = |entry: Entry<'_>| -> Result<Vec<Attribute>> {
        let mut found = attributes(entry.dir, entry.name)?;
        found.retain(|(name, _)| !namespace.owns(name) && name.as_c_str() != LABEL);
        Ok(found)
    };
    let (new_attributes, old_attributes) = (attributes_of(new)?, attributes_of(old)?);
    let capability = |list: &[Attribute]| {
        let found = list.iter().find(|(name, _)| name.as_c_str() == CAPABILITY);
        found.map(|(_, value)| value.clone())
    };
    let others = |list: Vec<Attribute>| -> Vec<Attribute> {
        list.into_iter()
            .filter(|(name, _)| name.as_c_str() != CAPABILITY)
            .collect()
    };
    reasons.add(
        Reason::Capability,
        capability(&new_attributes) != capability(&old_attributes),
    );
    reasons.add(
        Reason::Xattr,
        others(new_attributes) != others(old_attributes),
    );
    Ok(Difference {
        is_compatible: docker_says_changed(new.stat, old.stat)
            || reasons.contains(Reason::Capability),
        reasons,
    })
}

/// `statDifferent` of go-archive's `changes_linux.go`, with its quirks: sockets and block devices
/// have the directory bit in their type and are therefore not compared by size and time, and two
/// times in the same second are equal when either has no nanoseconds.
fn docker_says_changed(new: &Statx, old: &Statx) -> bool {
    let is_directory = old.stx_mode & S_IFDIR == S_IFDIR;
    let same_time = {
        let (new, old) = (instant(&new.stx_mtime), instant(&old.stx_mtime));
        new.0 == old.0 && (new.1 == old.1 || new.1 == 0 || old.1 == 0)
    };
    new.stx_mode != old.stx_mode
        || owner(new) != owner(old)
        || device(new) != device(old)
        || (!is_directory && (!same_time || new.stx_size != old.stx_size))
}

fn owner(stat: &Statx) -> (u32, u32) {
    (stat.stx_uid, stat.stx_gid)
}

fn device(stat: &Statx) -> (u32, u32) {
    (stat.stx_rdev_major, stat.stx_rdev_minor)
}

fn instant(time: &StatxTimestamp) -> (i64, u32) {
    (time.tv_sec, time.tv_nsec)
}
