//! Extended attributes an image may bring: those that mean the same on every host. Labels of the
//! build host do not, and `overlay` attributes would let a layer speak to the kernel's overlayfs.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use crate::limits;
use crate::tar::Kind;

/// As the tree keeps them.
pub(super) type Attributes = BTreeMap<Box<OsStr>, Box<[u8]>>;

/// Chooses from what an entry brings. What the kernel would not set on such a file is left out, as
/// tar leaves it out; the reason when one is malformed.
pub(super) fn accept(all: BTreeMap<Vec<u8>, Vec<u8>>, kind: Kind) -> Result<Attributes, String> {
    let mut accepted = Attributes::new();
    let mut size = 0;
    for (name, value) in all {
        if !is_kept(&name, kind) {
            continue;
        }
        let shown = name.escape_ascii();
        if !is_well_formed(&name, &value) {
            return Err(format!("its attribute {shown} is malformed"));
        }
        size += name.len() + value.len();
        accepted.insert(OsStr::from_bytes(&name).into(), value.into());
    }
    if size > limits::XATTRS {
        return Err(format!(
            "its extended attributes are larger than {} bytes",
            limits::XATTRS
        ));
    }
    Ok(accepted)
}

fn is_kept(name: &[u8], kind: Kind) -> bool {
    let is_directory = kind == Kind::Directory;
    let has_content = is_directory || kind == Kind::Regular;
    match name {
        b"security.capability" => kind == Kind::Regular,
        b"system.posix_acl_access" => kind != Kind::Symlink,
        b"system.posix_acl_default" => is_directory,
        _ => {
            let is_user =
                name.len() > 5 && name.starts_with(b"user.") && !name.starts_with(b"user.overlay.");
            has_content && is_user && name.len() <= limits::NAME && !name.contains(&0)
        }
    }
}

fn is_well_formed(name: &[u8], value: &[u8]) -> bool {
    match name {
        b"security.capability" => is_capability(value),
        b"system.posix_acl_access" | b"system.posix_acl_default" => is_acl(value),
        _ => true,
    }
}

/// `struct vfs_cap_data` and `vfs_ns_cap_data` of `linux/capability.h`, the revisions that the
/// kernel accepts from user space.
fn is_capability(value: &[u8]) -> bool {
    let revision = value
        .first_chunk()
        .map(|bytes| u32::from_le_bytes(*bytes) >> 24);
    matches!((revision, value.len()), (Some(2), 20) | (Some(3), 24))
}

/// `linux/posix_acl_xattr.h`, with the order that `posix_acl_valid` of the kernel wants.
fn is_acl(value: &[u8]) -> bool {
    const OWNER: u16 = 0x01;
    const USER: u16 = 0x02;
    const GROUP_OWNER: u16 = 0x04;
    const GROUP: u16 = 0x08;
    const MASK: u16 = 0x10;
    const OTHER: u16 = 0x20;
    let Some((version, entries)) = value.split_first_chunk::<4>() else {
        return false;
    };
    let mut tags = Vec::new();
    for entry in entries.chunks(8) {
        let [t0, t1, p0, p1, ..] = *entry else {
            return false;
        };
        if entry.len() != 8 || u16::from_le_bytes([p0, p1]) > 7 {
            return false;
        }
        tags.push(u16::from_le_bytes([t0, t1]));
    }
    let count = |tag| tags.iter().filter(|found| **found == tag).count();
    let has_names = count(USER) + count(GROUP) > 0;
    u32::from_le_bytes(*version) == 2
        && tags.is_sorted()
        && tags
            .iter()
            .all(|tag| [OWNER, USER, GROUP_OWNER, GROUP, MASK, OTHER].contains(tag))
        && [OWNER, GROUP_OWNER, OTHER]
            .iter()
            .all(|tag| count(*tag) == 1)
        && (count(MASK) == 1 || (count(MASK) == 0 && !has_names))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_attributes_that_mean_the_same_everywhere_are_kept() {
        let table = [
            ("security.capability", Kind::Regular, true),
            ("security.capability", Kind::Directory, false),
            ("user.note", Kind::Regular, true),
            ("user.note", Kind::Directory, true),
            ("user.note", Kind::Symlink, false),
            ("user.", Kind::Regular, false),
            ("system.posix_acl_default", Kind::Directory, true),
            ("system.posix_acl_default", Kind::Regular, false),
            ("trusted.overlay.redirect", Kind::Directory, false),
            ("user.overlay.opaque", Kind::Directory, false),
            ("security.selinux", Kind::Regular, false),
        ];
        for (name, kind, expected) in table {
            assert_eq!(is_kept(name.as_bytes(), kind), expected, "{name} {kind:?}");
        }
    }

    #[test]
    fn malformed_capabilities_and_access_lists_are_refused() {
        let mut capability = vec![1, 0, 0, 2];
        capability.resize(20, 0);
        assert!(is_capability(&capability));
        assert!(!is_capability(&capability[..19]));
        capability[3] = 3;
        assert!(!is_capability(&capability));

        let acl = |tags: &[(u16, u16)]| {
            let mut value = 2_u32.to_le_bytes().to_vec();
            for (tag, permissions) in tags {
                value.extend_from_slice(&tag.to_le_bytes());
                value.extend_from_slice(&permissions.to_le_bytes());
                value.extend_from_slice(&u32::MAX.to_le_bytes());
            }
            value
        };
        assert!(is_acl(&acl(&[(1, 7), (4, 5), (32, 0)])));
        assert!(is_acl(&acl(&[(1, 7), (2, 7), (4, 5), (16, 7), (32, 0)])));
        for wrong in [
            acl(&[]),
            acl(&[(1, 7), (4, 5)]),
            acl(&[(1, 8), (4, 5), (32, 0)]),
            acl(&[(1, 7), (2, 7), (4, 5), (32, 0)]),
            acl(&[(4, 7), (1, 5), (32, 0)]),
            acl(&[(1, 7), (4, 5), (32, 0)])[..27].to_vec(),
            vec![2],
        ] {
            assert!(!is_acl(&wrong), "{wrong:?}");
        }
    }
}
