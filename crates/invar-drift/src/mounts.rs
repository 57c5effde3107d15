//! What is mounted in a running container, read from `/proc/PID/mountinfo` (proc(5)).

use std::fs::File;
use std::io::Read as _;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;

use crate::Namespace;

/// A container has a few dozen mounts; the kernel allows 100,000 (`fs.mount-max`).
const MOUNTINFO_LIMIT: u64 = 64 << 20;
/// Below these the kernel's own file systems are mounted, and what hides parts of them.
const KERNEL: [&[u8]; 2] = [b"/proc", b"/sys"];
/// Files that engines put over the image's.
const ENGINE: [&[u8]; 6] = [
    b"/etc/hosts",
    b"/etc/hostname",
    b"/etc/resolv.conf",
    b"/run/.containerenv",
    b"/run/secrets",
    b"/.dockerenv",
];

/// The file system as a process sees it, by handles: a process that ends meanwhile, and another
/// that gets its number, make no difference.
#[derive(Debug)]
pub struct ProcessRoot {
    root: OwnedFd,
    mounts: Vec<Mount>,
}

/// A mount that is part of what a container can change beside its root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Where it is in the container.
    pub target: Vec<u8>,
    /// What it is.
    pub kind: MountKind,
    /// The type of the file system.
    pub file_system: Vec<u8>,
}

/// What keeps the files of a mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MountKind {
    /// A directory or file of the host: a volume or a bind mount.
    Volume,
    /// Memory.
    Tmpfs,
}

/// One line of mountinfo.
struct Line {
    target: Vec<u8>,
    file_system: Vec<u8>,
    super_options: Vec<u8>,
}

impl ProcessRoot {
    /// Opens the root of a process and reads what is mounted there.
    pub fn open(pid: u32) -> std::io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let process = openat(CWD, format!("/proc/{pid}"), flags, Mode::empty())?;
        // The kernel's own link to the root, not a link of the container's.
        let root = openat(&process, "root", flags, Mode::empty())?;
        let reading = OFlags::RDONLY | OFlags::CLOEXEC;
        let file = File::from(openat(&process, "mountinfo", reading, Mode::empty())?);
        let mut text = Vec::new();
        file.take(MOUNTINFO_LIMIT).read_to_end(&mut text)?;
        Ok(Self {
            root,
            mounts: mounts(&text),
        })
    }

    /// The root directory, without what is mounted over it.
    pub fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// Volumes, bind mounts and tmpfs, outer ones first. What the kernel shows under /proc and
    /// /sys and the files of the engine are left out.
    pub fn mounts(&self) -> &[Mount] {
        &self.mounts
    }
}

/// In which attributes the overlay that is the root of a process keeps its marks; `None` when its
/// root is no overlay.
pub fn namespace_of(pid: u32) -> std::io::Result<Option<Namespace>> {
    let (file, _) = fs_err::File::open(format!("/proc/{pid}/mountinfo"))?.into_parts();
    let mut text = Vec::new();
    file.take(MOUNTINFO_LIMIT).read_to_end(&mut text)?;
    let root = lines(&text).rfind(|line| line.target == b"/");
    Ok(root
        .filter(|root| root.file_system == b"overlay")
        .map(|root| {
            let mut options = root.super_options.split(|byte| *byte == b',');
            if options.any(|option| option == b"userxattr") {
                Namespace::User
            } else {
                Namespace::Trusted
            }
        }))
}

fn mounts(text: &[u8]) -> Vec<Mount> {
    let mut found: Vec<Mount> = Vec::new();
    for line in lines(text).filter(is_changeable) {
        // The later one lies over the earlier one.
        found.retain(|mount| mount.target != line.target);
        found.push(Mount {
            kind: match line.file_system.as_slice() {
                b"tmpfs" | b"ramfs" => MountKind::Tmpfs,
                _ => MountKind::Volume,
            },
            target: line.target,
            file_system: line.file_system,
        });
    }
    found.sort_by(|a, b| a.target.cmp(&b.target));
    found
}

fn is_changeable(line: &Line) -> bool {
    let is_kernels = KERNEL.iter().any(|top| {
        line.target
            .strip_prefix(*top)
            .is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
    });
    let is_file_system = !matches!(
        line.file_system.as_slice(),
        b"proc" | b"sysfs" | b"devpts" | b"mqueue" | b"cgroup" | b"cgroup2" | b"devtmpfs" | b"nsfs"
    );
    line.target != b"/"
        && !is_kernels
        && is_file_system
        && !ENGINE.contains(&line.target.as_slice())
}

fn lines(text: &[u8]) -> impl DoubleEndedIterator<Item = Line> + '_ {
    text.split(|byte| *byte == b'\n').filter_map(parse)
}

/// `36 35 98:0 /root /target options [optional …] - type source super-options`
fn parse(line: &[u8]) -> Option<Line> {
    let mut fields = line.split(|byte| *byte == b' ');
    let target = fields.nth(4)?;
    let mut behind = fields.skip_while(|field| *field != b"-").skip(1);
    let file_system = behind.next()?;
    let super_options = behind.nth(1).unwrap_or_default();
    Some(Line {
        target: unescape(target),
        file_system: file_system.to_vec(),
        super_options: super_options.to_vec(),
    })
}

/// Space, tab, newline and backslash are written as three octal digits after a backslash.
fn unescape(text: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, after)) = rest.split_first() {
        let digits = after
            .get(..3)
            .filter(|digits| digits.iter().all(|d| (b'0'..=b'7').contains(d)));
        match digits {
            Some(digits) if *first == b'\\' => {
                let value = digits
                    .iter()
                    .fold(0_u32, |value, digit| value * 8 + u32::from(digit - b'0'));
                plain.push(u8::try_from(value).unwrap_or(b'?'));
                rest = &after[3..];
            }
            _ => {
                plain.push(*first);
                rest = after;
            }
        }
    }
    plain
}

/// Whether reading a mount could wait for ever for a program that serves it.
pub(crate) fn is_served(mount: &Mount) -> bool {
    mount.file_system.starts_with(b"fuse")
}

/// Opens the top of a mount without following a link.
pub(crate) fn open_target(root: &ProcessRoot, mount: &Mount) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW;
    crate::dir::open_beneath(root.root.as_fd(), &mount.target, flags)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &[u8] = b"\
500 400 0:50 / / rw,relatime - overlay overlay rw,lowerdir=/l,upperdir=/u,userxattr
501 500 0:51 / /proc rw - proc proc rw
502 500 0:52 / /dev rw - tmpfs tmpfs rw,size=65536k
503 502 0:53 / /dev/pts rw - devpts devpts rw
504 500 8:1 /hosts /etc/hosts rw master:1 - ext4 /dev/sda1 rw
505 500 8:1 /v/_data /with\\040space rw master:1 shared:2 - ext4 /dev/sda1 rw
506 501 0:54 / /proc/kcore ro - tmpfs tmpfs ro
507 500 0:55 / /data rw - tmpfs tmpfs rw
508 500 8:1 /x /data rw - ext4 /dev/sda1 rw
509 500 0:60 / /far rw - fuse.sshfs host:/ rw
broken line
";

    #[test]
    fn what_a_container_can_change_beside_its_root_is_listed_once() {
        let found: Vec<_> = mounts(TEXT)
            .into_iter()
            .map(|mount| {
                (
                    String::from_utf8(mount.target.clone()).unwrap(),
                    mount.kind,
                    is_served(&mount),
                )
            })
            .collect();
        assert_eq!(
            found,
            [
                ("/data".to_owned(), MountKind::Volume, false),
                ("/dev".to_owned(), MountKind::Tmpfs, false),
                ("/far".to_owned(), MountKind::Volume, true),
                ("/with space".to_owned(), MountKind::Volume, false),
            ]
        );
    }

    #[test]
    fn a_target_is_read_back_as_it_is() {
        assert_eq!(unescape(br"a\040b\134\x\12"), br"a b\\x\12");
        assert_eq!(unescape(br"\777"), b"?");
    }
}
