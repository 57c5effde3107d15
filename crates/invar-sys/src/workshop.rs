//! Overlays over detached mounts on kernels before 6.15, which take as layers only what is mounted
//! in the caller's own mount namespace.
//!
//! One thread of this process has a mount namespace of its own, a copy of the host's from which
//! nothing spreads. Detached mounts are attached there, where no path of the host leads to them,
//! and overlays are made there. What comes out is detached again; the namespace ends with the
//! process, however it ends.

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Mutex, OnceLock, PoisonError};

use rustix::fs::{CWD, Mode, OFlags, fstat, mkdirat, openat};
use rustix::mount::{
    MountPropagationFlags, MoveMountFlags, UnmountFlags, mount_change, move_mount, unmount,
};
use rustix::thread::UnshareFlags;

use crate::mount;

/// Bytes of the file system that only holds empty directories.
const SIZE: u64 = 1 << 20;

/// Whether this kernel takes only attached mounts as layers: every one before 6.15. It costs a
/// newer kernel's backport of that nothing but time.
pub(crate) fn is_needed() -> bool {
    static NEEDED: OnceLock<bool> = OnceLock::new();
    *NEEDED.get_or_init(|| {
        let release = fs_err::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        version(&release).is_none_or(|version| version < (6, 15))
    })
}

/// The first two numbers of a kernel's release.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|byte: char| !byte.is_ascii_digit());
    let major = numbers.next()?.parse().ok()?;
    Some((major, numbers.next()?.parse().ok()?))
}

/// Does `work` with handles that mean the same as `layers` and that an overlay made in it takes.
/// Layers inside the detached mount `holder` are used as they are.
pub(crate) fn with_layers(
    layers: &[BorrowedFd<'_>],
    holder: Option<BorrowedFd<'_>>,
    work: impl FnOnce(&[OwnedFd]) -> io::Result<OwnedFd> + Send + 'static,
) -> io::Result<OwnedFd> {
    let layers: Vec<OwnedFd> = layers
        .iter()
        .map(BorrowedFd::try_clone_to_owned)
        .collect::<io::Result<_>>()?;
    let holder = holder.map(|fd| fd.try_clone_to_owned()).transpose()?;
    let (answer, outcome) = sync_channel(1);
    let job: Job = Box::new(move |workshop| {
        let made = workshop
            .reachable(layers, holder)
            .and_then(|layers| work(&layers));
        // The one who asked waits for it.
        answer.send(made).ok();
    });
    let gone = || io::Error::other("the thread that mounts has ended");
    let mut queue = QUEUE.lock().unwrap_or_else(PoisonError::into_inner);
    if queue.is_none() {
        *queue = Some(open()?);
    }
    if let Some(queue) = queue.as_ref() {
        queue.send(job).map_err(|_unsent| gone())?;
    }
    drop(queue);
    outcome.recv().map_err(|_ended| gone())?
}

type Job = Box<dyn FnOnce(&mut Workshop) + Send>;

/// To the thread, once there is one.
static QUEUE: Mutex<Option<SyncSender<Job>>> = Mutex::new(None);

/// Starts the thread.
fn open() -> io::Result<SyncSender<Job>> {
    let (queue, jobs) = sync_channel::<Job>(0);
    let (answer, opened) = sync_channel(1);
    std::thread::Builder::new()
        .name("mounts".to_owned())
        .spawn(move || serve(&jobs, &answer))?;
    match opened.recv() {
        Ok(result) => result.map(|()| queue),
        Err(_ended) => Err(io::Error::other("the thread that mounts did not start")),
    }
}

fn serve(jobs: &Receiver<Job>, answer: &SyncSender<io::Result<()>>) {
    match Workshop::new() {
        Err(error) => drop(answer.send(Err(error))),
        Ok(mut workshop) => {
            drop(answer.send(Ok(())));
            while let Ok(job) = jobs.recv() {
                workshop.clear();
                job(&mut workshop);
            }
        }
    }
}

/// The namespace, seen from its only thread.
struct Workshop {
    /// An empty file system with a directory for each mount.
    places: OwnedFd,
    next: u64,
    used: Vec<PathBuf>,
}

impl Workshop {
    fn new() -> io::Result<Self> {
        // SAFETY: gives this thread alone its own mount namespace and working directory; neither
        // changes memory or an open handle.
        unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS) }?;
        let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
        mount_change("/", private)?;
        let places = mount::tmpfs(SIZE)?;
        // Over the root, which stays what every path begins with.
        mount::attach(&places, std::path::Path::new("/"))?;
        Ok(Self {
            places,
            next: 0,
            used: Vec::new(),
        })
    }

    /// Handles on the same directories, all on mounts of this namespace.
    fn reachable(
        &mut self,
        layers: Vec<OwnedFd>,
        holder: Option<OwnedFd>,
    ) -> io::Result<Vec<OwnedFd>> {
        let held = holder.as_ref().map(mount_id).transpose()?;
        if let Some(holder) = holder {
            self.attach(holder.as_fd())?;
        }
        layers
            .into_iter()
            .map(|layer| match self.attach(layer.as_fd()) {
                Ok(()) => Ok(layer),
                Err(_inside) if held.is_some() && mount_id(&layer).ok() == held => Ok(layer),
                // On a mount of the host's namespace, of which this one is a copy.
                Err(_attached) => reopened(&layer),
            })
            .collect()
    }

    /// Gives a detached mount a place, or one that has a place already another.
    fn attach(&mut self, mounted: BorrowedFd<'_>) -> io::Result<()> {
        let name = PathBuf::from(self.next.to_string());
        self.next += 1;
        mkdirat(&self.places, &name, Mode::RWXU)?;
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
        move_mount(mounted, "", &self.places, &name, flags)?;
        self.used.push(name);
        Ok(())
    }

    /// Unmounts what nobody has a handle on any more; the kernel refuses the others.
    fn clear(&mut self) {
        let places = PathBuf::from(format!("/proc/self/fd/{}", self.places.as_raw_fd()));
        self.used
            .retain(|name| unmount(places.join(name), UnmountFlags::empty()).is_err());
    }
}

/// The number of the mount a handle is on (`proc_pid_fdinfo(5)`).
fn mount_id(layer: &OwnedFd) -> io::Result<u64> {
    let info = fs_err::read_to_string(format!("/proc/self/fdinfo/{}", layer.as_raw_fd()))?;
    let id = info.lines().find_map(|line| line.strip_prefix("mnt_id:"));
    id.and_then(|id| id.trim().parse().ok())
        .ok_or_else(|| io::Error::other("the kernel does not say which mount a handle is on"))
}

/// The directory a handle is open on, by its path in this thread's namespace.
fn reopened(layer: &OwnedFd) -> io::Result<OwnedFd> {
    let path = fs_err::read_link(format!("/proc/self/fd/{}", layer.as_raw_fd()))?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let found = openat(CWD, &path, flags, Mode::empty())?;
    let (wanted, seen) = (fstat(layer)?, fstat(&found)?);
    if (wanted.st_dev, wanted.st_ino) != (seen.st_dev, seen.st_ino) {
        return Err(io::Error::other(format!(
            "{} was moved while it was being mounted",
            path.display()
        )));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use rustix::fs::{Mode, OFlags};

    use super::*;
    use crate::mount::Overlay;

    #[test]
    fn the_version_is_read_from_every_form_of_a_release() {
        for (release, expected) in [
            ("6.1.0-50-cloud-amd64", Some((6, 1))),
            ("6.15", Some((6, 15))),
            ("7.0-rc1", Some((7, 0))),
            ("strange", None),
        ] {
            assert_eq!(version(release), expected, "{release}");
        }
    }

    #[test]
    fn an_overlay_over_detached_mounts_leaves_nothing_on_the_host() {
        let upper = tempfile::tempdir().unwrap();
        for name in ["upper", "work"] {
            fs_err::create_dir(upper.path().join(name)).unwrap();
        }
        let open = |name: &str| {
            let path = upper.path().join(name);
            let flags = OFlags::RDONLY | OFlags::DIRECTORY;
            rustix::fs::open(&path, flags, Mode::empty()).unwrap()
        };
        let before = fs_err::read_to_string("/proc/self/mountinfo").unwrap();
        let lower = mount::tmpfs(1 << 20).unwrap();
        mkdirat(&lower, "below", Mode::RWXU).unwrap();
        let (top, work) = (open("upper"), open("work"));
        // Twice: a layer may serve several overlays.
        for name in ["one", "two"] {
            let overlay = Overlay {
                source: "test",
                lowers: vec![lower.as_fd()],
                data: vec![],
                upper: Some((top.as_fd(), work.as_fd())),
            };
            let root = overlay.mount_in_workshop().unwrap();
            mkdirat(&root, format!("below/{name}"), Mode::RWXU).unwrap();
            drop(root);
            assert!(upper.path().join("upper/below").join(name).is_dir());
        }
        let after = fs_err::read_to_string("/proc/self/mountinfo").unwrap();
        assert_eq!(before, after);
    }
}
