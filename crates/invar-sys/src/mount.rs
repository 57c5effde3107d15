//! Detached mounts (`fsopen(2)`, `fsmount(2)`): a file system as a directory handle that no path
//! of the host leads to until it is attached. Dropping the handle unmounts it.

use std::fmt::Write as _;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::CWD;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, fsconfig_create,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount, open_tree,
};

use crate::{userns, workshop};

/// Mounts an EROFS image from a regular file, read-only. Needs Linux 6.12 (file-backed EROFS).
pub fn erofs(image: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let context = fsopen("erofs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_flag(&context, "ro")?;
    fsconfig_set_string(&context, "source", fd_path(image))?;
    create(&context)?;
    Ok(fsmount(
        &context,
        FsMountFlags::FSMOUNT_CLOEXEC,
        MountAttrFlags::MOUNT_ATTR_RDONLY,
    )?)
}

/// An empty file system in memory, of at most `size` bytes.
pub fn tmpfs(size: u64) -> io::Result<OwnedFd> {
    let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(&context, "size", size.to_string())?;
    fsconfig_set_string(&context, "mode", "755")?;
    create(&context)?;
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
    Ok(fsmount(
        &context,
        FsMountFlags::FSMOUNT_CLOEXEC,
        attributes,
    )?)
}

/// An overlay of directories given as handles.
#[derive(Debug)]
pub struct Overlay<'a> {
    /// Shown in `/proc/mounts`.
    pub source: &'a str,
    /// Lower directories, top first.
    pub lowers: Vec<BorrowedFd<'a>>,
    /// Data-only lower directories, which hold the content that EROFS metadata points to.
    pub data: Vec<BorrowedFd<'a>>,
    /// Upper and work directory, on one file system; without them the overlay is read-only.
    pub upper: Option<(BorrowedFd<'a>, BorrowedFd<'a>)>,
}

/// How an overlay is mounted.
#[derive(Debug, Clone, Copy, Default)]
pub struct OverlayOptions {
    /// The upper directory need not survive a crash of the machine: nothing is written out when it
    /// is unmounted, which otherwise waits for the whole file system below.
    pub volatile: bool,
    /// The kernel refuses content of the data layers that is not what the metadata above promises:
    /// each file's fs-verity digest is compared when it is opened (Linux 6.6).
    pub require_verity: bool,
    /// Whom the files of the overlay itself belong to (its work directory, what it writes where
    /// something was removed): the root of upper and work directory with shifted owners.
    pub owner: u32,
}

impl Overlay<'_> {
    /// Mounts it. Data-only layers need Linux 6.5; a single lower without an upper is refused by
    /// the kernel.
    pub fn mount(&self) -> io::Result<OwnedFd> {
        self.mount_with(OverlayOptions::default())
    }

    /// As [`Overlay::mount`], with options.
    pub fn mount_with(&self, options: OverlayOptions) -> io::Result<OwnedFd> {
        self.mount_held(options, None)
    }

    /// As [`Overlay::mount_with`], when upper and work directory are on the detached mount `holder`.
    pub fn mount_held(
        &self,
        options: OverlayOptions,
        holder: Option<BorrowedFd<'_>>,
    ) -> io::Result<OwnedFd> {
        self.plan(options).mount_anywhere(&self.layers(), holder)
    }

    #[cfg(test)]
    pub(crate) fn mount_in_workshop(&self) -> io::Result<OwnedFd> {
        self.plan(OverlayOptions::default())
            .mount_in_workshop(&self.layers(), None)
    }

    /// All directories: lower, data, upper and work.
    fn layers(&self) -> Vec<BorrowedFd<'_>> {
        let upper = self.upper.iter().flat_map(|(upper, work)| [upper, work]);
        let all = self.lowers.iter().chain(&self.data).chain(upper);
        all.copied().collect()
    }

    fn plan(&self, asked: OverlayOptions) -> Plan {
        let mut options = Vec::new();
        if !self.data.is_empty() {
            options.extend([("metacopy", "on"), ("redirect_dir", "on")]);
        }
        if asked.require_verity {
            options.push(("verity", "require"));
        }
        Plan {
            source: self.source.to_owned(),
            options,
            lowers: self.lowers.len(),
            data: self.data.len(),
            has_upper: self.upper.is_some(),
            is_volatile: asked.volatile,
            owner: asked.owner,
            attributes: match self.upper {
                Some(_) => MountAttrFlags::empty(),
                None => MountAttrFlags::MOUNT_ATTR_RDONLY,
            },
        }
    }
}

/// An overlay without its directories.
struct Plan {
    source: String,
    options: Vec<(&'static str, &'static str)>,
    lowers: usize,
    data: usize,
    has_upper: bool,
    is_volatile: bool,
    owner: u32,
    attributes: MountAttrFlags,
}

impl Plan {
    /// As [`Plan::mount`], also where the kernel takes no detached mount as a layer.
    fn mount_anywhere(
        self,
        layers: &[BorrowedFd<'_>],
        holder: Option<BorrowedFd<'_>>,
    ) -> io::Result<OwnedFd> {
        // Not tried first: an attempt that fails marks the work directory as in use.
        if workshop::is_needed() {
            self.mount_in_workshop(layers, holder)
        } else {
            self.mount(layers)
        }
    }

    fn mount_in_workshop(
        self,
        layers: &[BorrowedFd<'_>],
        holder: Option<BorrowedFd<'_>>,
    ) -> io::Result<OwnedFd> {
        workshop::with_layers(layers, holder, move |layers| {
            let layers: Vec<_> = layers.iter().map(AsFd::as_fd).collect();
            self.mount(&layers)
        })
    }

    /// Mounts it over directories in the order lower, data, upper, work.
    fn mount(&self, layers: &[BorrowedFd<'_>]) -> io::Result<OwnedFd> {
        match self.owner {
            0 => self.mount_as_is(layers),
            // An overlay acts as whoever mounts it.
            owner => userns::as_owner(owner, || self.mount_as_is(layers))?,
        }
    }

    fn mount_as_is(&self, layers: &[BorrowedFd<'_>]) -> io::Result<OwnedFd> {
        let (lowers, rest) = layers.split_at(self.lowers);
        let (data, upper) = rest.split_at(self.data);
        let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
        fsconfig_set_string(&context, "source", self.source.as_str())?;
        for (name, value) in &self.options {
            fsconfig_set_string(&context, *name, *value)?;
        }
        fsconfig_set_string(&context, "lowerdir", lowerdir(lowers, data))?;
        if let (true, [upper, work]) = (self.has_upper, upper) {
            fsconfig_set_string(&context, "upperdir", fd_path(*upper))?;
            fsconfig_set_string(&context, "workdir", fd_path(*work))?;
            if self.is_volatile {
                fsconfig_set_flag(&context, "volatile")?;
            }
        }
        create(&context)?;
        let flags = FsMountFlags::FSMOUNT_CLOEXEC;
        Ok(fsmount(&context, flags, self.attributes)?)
    }
}

fn lowerdir(lowers: &[BorrowedFd<'_>], data: &[BorrowedFd<'_>]) -> String {
    let mut text = lowers
        .iter()
        .map(|fd| fd_path(*fd))
        .collect::<Vec<_>>()
        .join(":");
    for data in data {
        write!(text, "::{}", fd_path(*data)).expect("writing to a String succeeds");
    }
    text
}

/// An upper directory over what is below it, as its container saw them together, but read-only:
/// renamed directories and files of which only the metadata was copied up are followed.
pub fn merged(upper: BorrowedFd<'_>, below: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let plan = Plan {
        source: "invar-merged".to_owned(),
        options: vec![("metacopy", "on"), ("redirect_dir", "follow")],
        lowers: 2,
        data: 0,
        has_upper: false,
        is_volatile: false,
        owner: 0,
        attributes: MountAttrFlags::MOUNT_ATTR_RDONLY
            | MountAttrFlags::MOUNT_ATTR_NOEXEC
            | MountAttrFlags::MOUNT_ATTR_NOSUID
            | MountAttrFlags::MOUNT_ATTR_NODEV,
    };
    plan.mount_anywhere(&[upper, below], None)
}

/// Makes a detached mount visible at `target` of this process's mount namespace.
pub fn attach(mount: impl AsFd, target: &Path) -> io::Result<()> {
    Ok(move_mount(
        mount.as_fd(),
        "",
        CWD,
        target,
        MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
    )?)
}

/// A detached copy of the mounts at `path`, sub-mounts included.
pub fn clone_tree(path: &Path) -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_RECURSIVE;
    Ok(open_tree(CWD, path, flags)?)
}

/// A detached copy of one file, or of one mount without what is mounted below it.
pub(crate) fn clone_file(path: &Path) -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    Ok(open_tree(CWD, path, flags)?)
}

/// Adds attributes to a mount (`mount_setattr(2)`); none is taken away.
pub fn set_attributes(mount: &OwnedFd, attributes: MountAttrFlags) -> io::Result<()> {
    change(mount, attributes.bits().into(), 0, 0)
}

/// As [`set_attributes`], for the mount and everything mounted below it: all of it, or nothing.
pub fn set_attributes_recursively(mount: &OwnedFd, attributes: MountAttrFlags) -> io::Result<()> {
    change(mount, attributes.bits().into(), 0, libc::AT_RECURSIVE)
}

/// Shifts the owners a detached mount shows by the map of a user namespace.
pub fn set_owner_map(mount: &OwnedFd, namespace: BorrowedFd<'_>) -> io::Result<()> {
    let namespace = u64::try_from(namespace.as_raw_fd()).map_err(io::Error::other)?;
    change(mount, libc::MOUNT_ATTR_IDMAP, namespace, 0)
}

/// As [`set_owner_map`], for the mount and everything mounted below it: all of it, or nothing.
pub fn set_owner_map_recursively(mount: &OwnedFd, namespace: BorrowedFd<'_>) -> io::Result<()> {
    let namespace = u64::try_from(namespace.as_raw_fd()).map_err(io::Error::other)?;
    change(mount, libc::MOUNT_ATTR_IDMAP, namespace, libc::AT_RECURSIVE)
}

/// A directory with the owners the map of a user namespace gives them: `directory` itself when it
/// is a detached mount of nobody else, a detached copy of what it shows when it is not.
pub fn with_owner_map(directory: OwnedFd, namespace: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    match set_owner_map(&directory, namespace) {
        // No root of a detached mount.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            let flags = OpenTreeFlags::OPEN_TREE_CLONE
                | OpenTreeFlags::OPEN_TREE_CLOEXEC
                | OpenTreeFlags::AT_EMPTY_PATH;
            let copy = open_tree(&directory, "", flags)?;
            set_owner_map(&copy, namespace)?;
            Ok(copy)
        }
        done => done.map(|()| directory),
    }
}

fn change(mount: &OwnedFd, attr_set: u64, userns_fd: u64, flags: libc::c_int) -> io::Result<()> {
    let request = libc::mount_attr {
        attr_set,
        attr_clr: 0,
        propagation: 0,
        userns_fd,
    };
    // SAFETY: the path is a C string, the request is a whole `mount_attr` of the size given, and
    // the kernel only reads both.
    let done = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | flags,
            &raw const request,
            size_of::<libc::mount_attr>(),
        )
    };
    if done == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Finishes a file system context; on failure the kernel's own words are in the error.
fn create(context: &OwnedFd) -> io::Result<()> {
    fsconfig_create(context).map_err(|errno| {
        let log = kernel_log(context);
        let error = io::Error::from(errno);
        if log.is_empty() {
            error
        } else {
            io::Error::new(error.kind(), format!("{error}: {log}"))
        }
    })
}

/// What the kernel wrote into a file system context (`fsopen(2)`, "message retrieval").
fn kernel_log(context: &OwnedFd) -> String {
    let mut buffer = [0_u8; 1024];
    let mut log = Vec::new();
    while let Ok(length @ 1..) = rustix::io::read(context, &mut buffer) {
        log.push(
            String::from_utf8_lossy(&buffer[..length])
                .trim_end()
                .to_owned(),
        );
    }
    log.join("; ")
}

fn fd_path(fd: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}
