//! File systems: overlays, checks of what is read, attributes of mounts.

use std::io::{self, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::Path;

use fs_err as fs;
use rustix::fs::{AtFlags, CWD, IFlags, Mode, OFlags, mkdirat, openat, unlinkat};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_string, fsmount,
    fsopen,
};

use crate::mount::{self, Overlay};

/// Bytes of the file systems in memory that are tried with.
const SIZE: u64 = 1 << 20;

/// A tmpfs with directories of these names; the first handle is its root.
fn stage<const N: usize>(names: [&str; N]) -> io::Result<(OwnedFd, [OwnedFd; N])> {
    let root = mount::tmpfs(SIZE)?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut opened = Vec::with_capacity(N);
    for name in names {
        mkdirat(&root, name, Mode::RWXU)?;
        opened.push(openat(&root, name, flags, Mode::empty())?);
    }
    let opened = opened
        .try_into()
        .map_err(|_other| io::Error::other("as many directories as names"))?;
    Ok((root, opened))
}

/// Mounts a writable overlay and one that nothing can be written to.
pub fn overlay() -> io::Result<()> {
    let (_root, [lower, second, upper, work]) = stage(["lower", "second", "upper", "work"])?;
    let writable = Overlay {
        source: "invar-doctor",
        lowers: vec![lower.as_fd()],
        data: Vec::new(),
        upper: Some((upper.as_fd(), work.as_fd())),
    };
    drop(writable.mount()?);
    let read_only = Overlay {
        lowers: vec![lower.as_fd(), second.as_fd()],
        upper: None,
        ..writable
    };
    let mounted = read_only.mount()?;
    match mkdirat(&mounted, "refused", Mode::RWXU) {
        Err(rustix::io::Errno::ROFS) => Ok(()),
        _ => Err(io::Error::other("a read-only overlay took a write")),
    }
}

/// Mounts an overlay whose content lies in a layer without names.
pub fn data_only_layers() -> io::Result<()> {
    let (_root, [lower, data]) = stage(["lower", "data"])?;
    let overlay = Overlay {
        source: "invar-doctor",
        lowers: vec![lower.as_fd()],
        data: vec![data.as_fd()],
        upper: None,
    };
    overlay.mount().map(drop)
}

/// Mounts an overlay that refuses content without fs-verity.
pub fn require_verity() -> io::Result<()> {
    let (_root, [lower, data]) = stage(["lower", "data"])?;
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    let path = |fd: BorrowedFd<'_>| format!("/proc/self/fd/{}", fd.as_raw_fd());
    for (name, value) in [
        ("source", "invar-doctor"),
        ("metacopy", "on"),
        ("redirect_dir", "on"),
        ("verity", "require"),
    ] {
        fsconfig_set_string(&context, name, value)?;
    }
    let lowers = format!("{}::{}", path(lower.as_fd()), path(data.as_fd()));
    fsconfig_set_string(&context, "lowerdir", lowers)?;
    fsconfig_create(&context)?;
    let attributes = MountAttrFlags::MOUNT_ATTR_RDONLY;
    drop(fsmount(
        &context,
        FsMountFlags::FSMOUNT_CLOEXEC,
        attributes,
    )?);
    Ok(())
}

/// A mount whose owners are shifted by a user namespace; only asked of the kernel's interface,
/// with a namespace that cannot be used for it: the initial one.
pub fn idmapped() -> io::Result<bool> {
    let (root, []) = stage([])?;
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let namespace = openat(CWD, "/proc/self/ns/user", flags, Mode::empty())?;
    match mount::set_owner_map(&root, namespace.as_fd()) {
        // The initial namespace is refused as a map, by a kernel that knows maps.
        Ok(()) => Ok(true),
        Err(error) => Ok(error.raw_os_error() == Some(libc::EPERM)),
    }
}

/// Makes a mount read-only with everything below it, in one call.
pub fn recursive_read_only() -> io::Result<()> {
    let (root, []) = stage([])?;
    mount::set_attributes_recursively(&root, MountAttrFlags::MOUNT_ATTR_RDONLY)?;
    match mkdirat(&root, "refused", Mode::RWXU) {
        Err(rustix::io::Errno::ROFS) => Ok(()),
        _ => Err(io::Error::other("a read-only mount took a write")),
    }
}

/// A file in `directory` that nothing else has, gone when this is dropped.
struct Scratch<'a> {
    directory: &'a Path,
    name: String,
}

impl<'a> Scratch<'a> {
    fn new(directory: &'a Path) -> io::Result<Self> {
        let name = format!(".doctor-{}", std::process::id());
        let path = directory.join(&name);
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(path)?;
        file.write_all(&[b'x'; 8192])?;
        Ok(Self { directory, name })
    }

    fn open(&self) -> io::Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(openat(
            CWD,
            self.directory.join(&self.name),
            flags,
            Mode::empty(),
        )?)
    }
}

impl Drop for Scratch<'_> {
    fn drop(&mut self) {
        // The next try under the same name would say so.
        unlinkat(CWD, self.directory.join(&self.name), AtFlags::empty()).ok();
    }
}

/// Lets the kernel check a file below `directory` on every read (`FS_IOC_ENABLE_VERITY`).
pub fn enable_verity(directory: &Path) -> io::Result<()> {
    /// `struct fsverity_enable_arg` (fsverity.rst): version 1, SHA-256, blocks of 4 KiB.
    const REQUEST: [u32; 32] = {
        let mut request = [0; 32];
        (request[0], request[1], request[2]) = (1, 1, 4096);
        request
    };
    /// `_IOW('f', 133, struct fsverity_enable_arg)`, of 128 bytes.
    const ENABLE: libc::c_ulong = 0x4080_6685;
    let scratch = Scratch::new(directory)?;
    let file = scratch.open()?;
    // SAFETY: the kernel reads one whole request of 128 bytes.
    let done = unsafe { libc::ioctl(file.as_raw_fd(), ENABLE as _, REQUEST.as_ptr()) };
    if done == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Makes a file below `directory` unchangeable, tries to write to it, and takes that back.
pub fn immutable(directory: &Path) -> io::Result<()> {
    let scratch = Scratch::new(directory)?;
    let file = scratch.open()?;
    let before = rustix::fs::ioctl_getflags(&file)?;
    rustix::fs::ioctl_setflags(&file, before | IFlags::IMMUTABLE)?;
    let writing = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened = openat(CWD, directory.join(&scratch.name), writing, Mode::empty());
    rustix::fs::ioctl_setflags(&file, before)?;
    match opened {
        Err(rustix::io::Errno::PERM) => Ok(()),
        _ => Err(io::Error::other("an immutable file was opened for writing")),
    }
}

/// The security modules in use, in the kernel's words; read from a mount of our own, because the
/// host's may be missing.
pub fn security_modules() -> io::Result<String> {
    let context = fsopen("securityfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(&context)?;
    let flags = FsMountFlags::FSMOUNT_CLOEXEC;
    let mounted = fsmount(&context, flags, MountAttrFlags::MOUNT_ATTR_RDONLY)?;
    let file = openat(
        &mounted,
        "lsm",
        OFlags::RDONLY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    let mut text = String::new();
    io::Read::read_to_string(&mut std::fs::File::from(file), &mut text)?;
    Ok(text.trim().to_owned())
}
