//! Two directories of one file system as handles of one mount.
//!
//! `rename(2)` and `link(2)` refuse to work from one mount to another, also when both show the same
//! file system: a container engine often mounts its data directory on itself. A detached copy of
//! the mount in which one directory lies shows the other one too, when it is below that mount's
//! root in the file system.

use std::io;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, ResolveFlags, fstat, openat2};

use crate::mount::clone_file;

/// Handles of both directories in one mount; `None` when they are on different file systems, or
/// not both visible from the second one's mount. Both paths must be absolute.
pub fn open(one: &Path, other: &Path) -> io::Result<Option<(OwnedFd, OwnedFd)>> {
    let (one, other) = (Place::of(one)?, Place::of(other)?);
    if one.device != other.device {
        return Ok(None);
    }
    let (Ok(one_below), Ok(other_below)) = (
        one.in_file_system.strip_prefix(&other.mount_root),
        other.in_file_system.strip_prefix(&other.mount_root),
    ) else {
        return Ok(None);
    };
    let mount = clone_file(&other.mount_point)?;
    let opened = (
        open_below(&mount, one_below)?,
        open_below(&mount, other_below)?,
    );
    // The names may have been given to other directories meanwhile.
    let is_same = same(&opened.0, &one.handle)? && same(&opened.1, &other.handle)?;
    Ok(is_same.then_some(opened))
}

/// Where a directory is.
struct Place {
    handle: OwnedFd,
    device: u64,
    mount_point: PathBuf,
    /// The directory of the file system that the mount shows.
    mount_root: PathBuf,
    in_file_system: PathBuf,
}

impl Place {
    fn of(path: &Path) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let handle = rustix::fs::open(path, flags, Mode::empty())?;
        let path = fs_err::read_link(format!("/proc/self/fd/{}", handle.as_raw_fd()))?;
        let (mount_root, mount_point) = mount_of(&handle)?;
        let below = path.strip_prefix(&mount_point).map_err(io::Error::other)?;
        Ok(Self {
            device: fstat(&handle)?.st_dev,
            in_file_system: mount_root.join(below),
            mount_root,
            mount_point,
            handle,
        })
    }
}

/// Root and mount point of the mount a handle was opened through.
fn mount_of(handle: &OwnedFd) -> io::Result<(PathBuf, PathBuf)> {
    let info = fs_err::read_to_string(format!("/proc/self/fdinfo/{}", handle.as_raw_fd()))?;
    let id = info.lines().find_map(|line| line.strip_prefix("mnt_id:"));
    let id = id.map(str::trim).unwrap_or_default();
    let mounts = fs_err::read_to_string("/proc/self/mountinfo")?;
    let mut lines = mounts.lines().map(|line| line.split(' '));
    let fields = lines.find_map(|mut fields| {
        (fields.next() == Some(id)).then_some(())?;
        // `parent major:minor root point` (`proc_pid_mountinfo(5)`).
        let mut fields = fields.skip(2);
        Some((fields.next()?, fields.next()?))
    });
    match fields {
        // Octal escapes stand for space, tab, newline and backslash; a path with them is copied.
        Some((root, point)) if !root.contains('\\') && !point.contains('\\') => {
            Ok((root.into(), point.into()))
        }
        _ => Err(io::Error::other("its mount is not known")),
    }
}

fn open_below(mount: &OwnedFd, path: &Path) -> io::Result<OwnedFd> {
    let path = if path.as_os_str().is_empty() {
        Path::new(".")
    } else {
        path
    };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    Ok(openat2(mount, path, flags, Mode::empty(), resolve)?)
}

fn same(a: impl AsFd, b: impl AsFd) -> io::Result<bool> {
    let (a, b) = (fstat(a)?, fstat(b)?);
    Ok((a.st_dev, a.st_ino) == (b.st_dev, b.st_ino))
}

#[cfg(test)]
mod tests {
    use fs_err as fs;
    use rustix::fs::{AtFlags, linkat};

    use super::*;

    #[test]
    fn a_file_is_linked_out_of_a_directory_mounted_on_itself() {
        let stage = tempfile::tempdir_in("/var/tmp").unwrap();
        let (data, kept) = (stage.path().join("data"), stage.path().join("kept"));
        fs::create_dir_all(data.join("deep")).unwrap();
        fs::create_dir(&kept).unwrap();
        fs::write(data.join("deep/file"), "x").unwrap();
        rustix::mount::mount_bind(&data, &data).unwrap();
        let linked = {
            let direct = fs::hard_link(data.join("deep/file"), kept.join("file"));
            let refused = direct.unwrap_err().kind();
            assert_eq!(refused, io::ErrorKind::CrossesDevices);
            let (from, to) = open(&data.join("deep"), &kept).unwrap().unwrap();
            linkat(&from, "file", &to, "file", AtFlags::empty())
        };
        rustix::mount::unmount(&data, rustix::mount::UnmountFlags::DETACH).unwrap();
        linked.unwrap();
        assert_eq!(fs::read_to_string(kept.join("file")).unwrap(), "x");
    }

    #[test]
    fn directories_of_different_file_systems_are_not_together() {
        let stage = tempfile::tempdir_in("/var/tmp").unwrap();
        assert!(open(Path::new("/proc"), stage.path()).unwrap().is_none());
    }
}
