//! A process's mounts, from `/proc/PID/mountinfo` (`proc_pid_mountinfo(5)`).
//!
//! They tell which file systems may be touched at all: a request to FUSE, or to a network file
//! system, may wait for a process of the frozen container for ever.

use std::collections::HashMap;

/// File systems that answer without asking anybody outside the kernel.
const LOCAL: &[&str] = &[
    "bcachefs", "btrfs", "erofs", "ext2", "ext3", "ext4", "f2fs", "overlay", "ramfs", "squashfs",
    "tmpfs", "xfs", "zfs",
];

/// One mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mount {
    /// Where, as the process sees it.
    pub(crate) point: Vec<u8>,
    /// The number of its device.
    pub(crate) device: (u32, u32),
    /// Whether the whole file system is shown, and not one directory or file of it.
    pub(crate) is_whole: bool,
    /// The file system's type.
    pub(crate) kind: String,
}

impl Mount {
    /// Whether a request to it cannot wait for a program.
    pub(crate) fn is_local(&self) -> bool {
        is_local(&self.kind)
    }
}

/// Whether a request to a file system of this type cannot wait for a program.
pub(crate) fn is_local(kind: &str) -> bool {
    LOCAL.contains(&kind)
}

/// A process's mounts by the kernel's number.
#[derive(Debug, Default)]
pub(crate) struct Mounts(HashMap<u64, Mount>);

impl Mounts {
    /// Reads them; lines that do not have the documented form are left out.
    pub(crate) fn parse(text: &[u8]) -> Self {
        let lines = text.split(|byte| *byte == b'\n');
        Self(lines.filter_map(parse_line).collect())
    }

    pub(crate) fn get(&self, id: u64) -> Option<&Mount> {
        self.0.get(&id)
    }

    /// What is seen at each mount point but the root, in the order of the paths.
    pub(crate) fn visible(&self) -> Vec<&Mount> {
        let mut found: Vec<(&u64, &Mount)> = self.0.iter().collect();
        // The kernel numbers a later mount, which lies over an earlier one, mostly higher.
        found.sort_by(|a, b| a.1.point.cmp(&b.1.point).then(b.0.cmp(a.0)));
        found.dedup_by(|a, b| a.1.point == b.1.point);
        let mounts = found.into_iter().map(|(_, mount)| mount);
        mounts.filter(|mount| mount.point != b"/").collect()
    }

    /// The mount at this point.
    pub(crate) fn at(&self, point: &[u8]) -> Option<&Mount> {
        self.0.values().find(|mount| mount.point == point)
    }

    /// The type of the file system with this device number (`major:minor`).
    pub(crate) fn kind_of_device(&self, device: (u32, u32)) -> Option<&str> {
        let mut mounts = self.0.values();
        let mount = mounts.find(|mount| mount.device == device)?;
        Some(&mount.kind)
    }

    /// Whether every mount on the way to a path is local.
    pub(crate) fn is_reached_locally(&self, path: &[u8]) -> bool {
        self.0.values().all(|mount| {
            let is_on_the_way = mount.point == b"/"
                || path
                    .strip_prefix(mount.point.as_slice())
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"));
            !is_on_the_way || mount.is_local()
        })
    }
}

/// `36 35 98:0 /root /point options … - type source options`
fn parse_line(line: &[u8]) -> Option<(u64, Mount)> {
    let mut fields = line.split(|byte| *byte == b' ');
    let id = std::str::from_utf8(fields.next()?).ok()?.parse().ok()?;
    let device = std::str::from_utf8(fields.nth(1)?).ok()?;
    let (major, minor) = device.split_once(':')?;
    let device = (major.parse().ok()?, minor.parse().ok()?);
    let is_whole = fields.next()? == b"/";
    let point = unescape(fields.next()?);
    let kind = fields.skip_while(|field| *field != b"-").nth(1)?;
    let kind = String::from_utf8_lossy(kind).into_owned();
    let mount = Mount {
        point,
        device,
        is_whole,
        kind,
    };
    Some((id, mount))
}

/// Space, tab, newline and backslash are written in octal.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((byte, after)) = rest.split_first() {
        let octal = (*byte == b'\\')
            .then(|| std::str::from_utf8(after.get(..3)?).ok())
            .flatten()
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        bytes.push(octal.unwrap_or(*byte));
        rest = if octal.is_some() { &after[3..] } else { after };
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &[u8] = b"36 35 98:0 / / rw master:1 - overlay overlay rw\n\
        40 36 0:5 / /a\\040b\\012c rw shared:7 master:2 - tmpfs tmpfs rw\n\
        41 36 0:6 / /mnt rw - fuse.sshfs x rw\nnonsense\n";

    #[test]
    fn mounts_are_read_with_escapes_and_optional_fields() {
        let mounts = Mounts::parse(TEXT);
        assert_eq!(mounts.get(36).unwrap().kind, "overlay");
        assert_eq!(mounts.visible()[0].point, b"/a b\nc");
        assert_eq!(mounts.kind_of_device((0, 6)), Some("fuse.sshfs"));
        assert!(!mounts.get(41).unwrap().is_local());
        assert!(mounts.get(42).is_none());
    }

    #[test]
    fn a_path_through_fuse_is_not_touched() {
        let mounts = Mounts::parse(TEXT);
        assert!(mounts.is_reached_locally(b"/a b\nc/d"));
        assert!(mounts.is_reached_locally(b"/mntx"));
        assert!(!mounts.is_reached_locally(b"/mnt/x"));
        assert!(!mounts.is_reached_locally(b"/mnt"));
    }
}
