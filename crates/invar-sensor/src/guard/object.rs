//! Loading, attaching and pinning the programs.

use std::io;
use std::path::Path;

use fs_err as fs;
use libbpf_rs::{Link, MapCore as _, MapHandle, Object, ObjectBuilder, PrintLevel, set_print};
use rustix::fs::statfs;
use rustix::mount::{MountFlags, mount};

use crate::error::{Result, SensorError};

/// Compiled by build.rs from bpf/guard.bpf.c.
static OBJECT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/guard.bpf.o"));
/// `BPF_FS_MAGIC` (linux/magic.h).
const BPF_FS: u64 = 0xcafe_4a11;

/// What the rest needs of the object; the programs live as long as their links.
pub(super) struct Loaded {
    pub(super) roots: MapHandle,
    pub(super) scopes: MapHandle,
    pub(super) trusted: MapHandle,
    pub(super) events: MapHandle,
    pub(super) lost: MapHandle,
    pub(super) links: Vec<Link>,
}

/// Whether this kernel loads and runs the programs: found out by doing it, since the list of
/// security modules does not tell.
pub fn probe() -> Result<()> {
    load(None).map(|_| ())
}

/// Takes away what was pinned; from then on everything runs. Whether there was something.
pub fn lift(pins: &Path) -> io::Result<bool> {
    // The kernel detaches programs when it finds the time; those that know no container refuse
    // nothing.
    for name in ["roots", "scopes"] {
        if let Ok(map) = MapHandle::from_pinned_path(pins.join(name)) {
            super::forget_others(&map, &[]);
        }
    }
    match fs::remove_dir_all(pins) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

pub(super) fn load(pins: Option<&Path>) -> Result<Loaded> {
    // What libbpf says of a kernel that refuses is pages of verifier's log; its error says enough.
    set_print(Some((PrintLevel::Warn, |_, _| {})));
    let refused = |source| SensorError::Guard { source };
    // Where overlayfs is a module that is not loaded yet, the kernel does not know its types.
    ask_for_overlayfs();
    let mut open = ObjectBuilder::default()
        .open_memory(OBJECT)
        .map_err(refused)?;
    if let Some(pins) = pins {
        prepare(pins)?;
        for mut map in open.maps_mut() {
            let pin = pins.join(map.name());
            if pin.exists() {
                map.reuse_pinned_map(&pin).map_err(refused)?;
            }
        }
    }
    let object = open.load().map_err(refused)?;
    let mut links = Vec::new();
    for program in object.progs_mut() {
        let mut link = program.attach().map_err(refused)?;
        if let Some(pins) = pins {
            pin_link(&mut link, &pins.join(program.name()))?;
        }
        links.push(link);
    }
    let handle = |name| take(&object, name, pins);
    Ok(Loaded {
        roots: handle("roots")?,
        scopes: handle("scopes")?,
        trusted: handle("trusted")?,
        events: handle("events")?,
        lost: handle("lost")?,
        links,
    })
}

/// Replaces the program that was pinned there before; for a moment both run.
fn pin_link(link: &mut Link, at: &Path) -> Result<()> {
    let refused = |source| SensorError::Guard { source };
    let mut new = at.as_os_str().to_owned();
    // A BPF file system allows no dots in names.
    new.push("_new");
    let new = Path::new(&new);
    if new.exists() {
        fs::remove_file(new).map_err(|source| SensorError::Pin { source })?;
    }
    link.pin(new).map_err(refused)?;
    fs::rename(new, at).map_err(|source| SensorError::Pin { source })
}

fn take(object: &Object, name: &str, pins: Option<&Path>) -> Result<MapHandle> {
    let refused = |source| SensorError::Guard { source };
    let map = object.maps().find(|map| map.name() == name);
    let map = map.ok_or_else(|| SensorError::Pin {
        source: io::Error::other(format!("the programs have no map {name}")),
    })?;
    let mut handle = MapHandle::try_from(&map).map_err(refused)?;
    if let Some(pins) = pins {
        let pin = pins.join(name);
        if !pin.exists() {
            handle.pin(&pin).map_err(refused)?;
        }
    }
    Ok(handle)
}

fn prepare(pins: &Path) -> Result<()> {
    let failed = |source: io::Error| SensorError::Pin { source };
    let parent = pins.parent().unwrap_or(Path::new("/"));
    let is_there = statfs(parent)
        .is_ok_and(|stat| u64::try_from(stat.f_type).is_ok_and(|kind| kind == BPF_FS));
    if !is_there {
        let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        mount("bpf", parent, "bpf", flags, Some(c"mode=0700"))
            .map_err(|errno| failed(errno.into()))?;
    }
    fs::create_dir_all(pins).map_err(failed)
}

/// Mounting it once makes the kernel load it; what it then says of the missing options is no matter.
fn ask_for_overlayfs() {
    if Path::new("/sys/module/overlay").exists() {
        return;
    }
    if let Ok(file_system) =
        rustix::mount::fsopen("overlay", rustix::mount::FsOpenFlags::FSOPEN_CLOEXEC)
    {
        drop(file_system);
    }
}
