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
    /// Whether the whole file system is shown, and not one directory or file of it.
    pub(crate) is_whole: bool,
    /// The file system's type.
    pub(crate) kind: String,
}

impl Mount {
    /// Whether a request to it cannot wait for a program.
    pub(crate) fn is_local(&self) -> bool {
        LOCAL.contains(&self.kind.as_str())
    }
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

    /// The mounts of this type, in the order of their paths.
    pub(crate) fn of_kind(&self, kind: &str) -> Vec<&Mount> {
        let mut found: Vec<&Mount> = self.0.values().filter(|mount| mount.kind == kind).collect();
        found.sort_by(|a, b| a.point.cmp(&b.point));
        found.dedup_by(|a, b| a.point == b.point);
        found
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
    let is_whole = fields.nth(2)? == b"/";
    let point = unescape(fields.next()?);
    let kind = fields.skip_while(|field| *field != b"-").nth(1)?;
    let kind = String::from_utf8_lossy(kind).into_owned();
    let mount = Mount {
        point,
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
        assert_eq!(mounts.of_kind("tmpfs")[0].point, b"/a b\nc");
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
