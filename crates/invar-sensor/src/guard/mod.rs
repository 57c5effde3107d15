//! The kernel's own guard: LSM programs that refuse what is not of the image, also when nobody is
//! there to answer.
//!
//! They know containers by three maps (bpf/guard.bpf.c): `roots` and `scopes` say where a container
//! is, `trusted` holds for an inode the change time at which somebody compared its content. All of
//! it can be pinned, and then outlives the process that loaded it.

mod object;
mod report;

use std::collections::HashMap;
use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use invar_drift::ProcessRoot;
use libbpf_rs::{Link, MapCore as _, MapFlags, MapHandle};
use rustix::fs::{Stat, fstat, major, minor};

pub use object::{lift, probe};

use crate::error::{Result, SensorError};
use crate::event::Place;
use crate::outlet::{Outlet, lock};
use crate::target::Target;

/// Where an agent's guard is pinned.
pub const PINS: &str = "/sys/fs/bpf/invar";
/// The clock that change times are taken from ticks at least so often; within one tick a file could
/// change and keep its time.
pub(crate) const TICK: Duration = Duration::from_millis(20);

/// Whose the containers are that the programs tell of, by the number they are known by in the maps.
type Wards = Arc<Mutex<HashMap<u32, (Arc<Place>, u32)>>>;

/// Programs that are loaded, attached, and told of.
#[derive(Debug)]
pub(crate) struct Guard {
    roots: MapHandle,
    scopes: MapHandle,
    trust: Arc<Trust>,
    /// Detached when the last of them is dropped, unless they are pinned.
    _links: Vec<Link>,
    wards: Wards,
    next: AtomicU32,
    ends: Arc<std::sync::atomic::AtomicBool>,
    reporter: Option<JoinHandle<()>>,
}

/// A container's entries in the maps.
#[derive(Debug)]
pub(crate) struct Ward {
    id: u32,
    device: u32,
    namespaces: Vec<u32>,
}

/// Tells the programs which files have the image's content.
#[derive(Debug)]
pub(crate) struct Trust(MapHandle);

impl Guard {
    /// Loads and attaches the programs; pinned where said, together with what an earlier process
    /// has left there.
    pub(crate) fn start(pins: Option<&Path>, outlet: &Arc<Outlet>) -> Result<Self> {
        let loaded = object::load(pins)?;
        let wards = Wards::default();
        let ends = Arc::default();
        let reporter = report::start(loaded.events, loaded.lost, &wards, outlet, &ends)?;
        // Numbers that an earlier process gave are still in pinned maps, until its containers are
        // told of again.
        let begun = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let first = begun.map_or(1, |time| time.subsec_nanos() | 1);
        Ok(Self {
            roots: loaded.roots,
            scopes: loaded.scopes,
            trust: Arc::new(Trust(loaded.trusted)),
            _links: loaded.links,
            wards,
            next: AtomicU32::new(first),
            ends,
            reporter: Some(reporter),
        })
    }

    pub(crate) fn trust(&self) -> Arc<Trust> {
        Arc::clone(&self.trust)
    }

    /// From when this returns, nothing but the image runs in the container.
    pub(crate) fn add(&self, target: &Target, place: &Arc<Place>) -> Result<Ward> {
        let failed = |source: std::io::Error| SensorError::Gone {
            container: target.place.name.clone(),
            source,
        };
        let root = ProcessRoot::open(target.init).map_err(failed)?;
        let stat = fstat(root.root()).map_err(|errno| failed(errno.into()))?;
        let ward = Ward {
            id: self.next.fetch_add(1, Ordering::Relaxed).max(1),
            device: device(&stat),
            namespaces: namespaces(target.init).map_err(failed)?,
        };
        lock(&self.wards).insert(ward.id, (Arc::clone(place), target.init));
        let (id, device) = (ward.id.to_ne_bytes(), ward.device.to_ne_bytes());
        let told = self.roots.update(&device, &id, MapFlags::ANY);
        let told = ward.namespaces.iter().fold(told, |told, number| {
            let scope = [id, device].concat();
            told.and_then(|()| {
                self.scopes
                    .update(&number.to_ne_bytes(), &scope, MapFlags::ANY)
            })
        });
        told.map_err(|source| SensorError::Guard { source })?;
        Ok(ward)
    }

    /// Forgets every container that is not among these, also what an earlier process knew.
    pub(crate) fn keep_only<'a>(&self, wards: impl Iterator<Item = &'a Ward>) {
        let mut ids = Vec::new();
        let (mut devices, mut numbers) = (Vec::new(), Vec::new());
        for ward in wards {
            ids.push(ward.id);
            devices.push(ward.device.to_ne_bytes().to_vec());
            numbers.extend(ward.namespaces.iter().map(|it| it.to_ne_bytes().to_vec()));
        }
        lock(&self.wards).retain(|id, _| ids.contains(id));
        forget_others(&self.scopes, &numbers);
        forget_others(&self.roots, &devices);
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::SeqCst);
        if let Some(reporter) = self.reporter.take() {
            reporter.join().ok();
        }
    }
}

impl Trust {
    /// Lets a file run until it changes, if it has not changed since `stat`.
    pub(crate) fn put(&self, file: BorrowedFd<'_>, stat: &Stat) {
        let same = fstat(file).is_ok_and(|again| {
            (again.st_ctime, again.st_ctime_nsec) == (stat.st_ctime, stat.st_ctime_nsec)
        });
        if !same {
            return;
        }
        let mut stamp = [0; 16];
        stamp[..8].copy_from_slice(&stat.st_ctime.to_ne_bytes());
        let nanoseconds = u32::try_from(stat.st_ctime_nsec).unwrap_or(0);
        stamp[8..12].copy_from_slice(&nanoseconds.to_ne_bytes());
        let key = file.as_raw_fd().to_ne_bytes();
        // Without memory for it the file is refused, and asked for again.
        self.0.update(&key, &stamp, MapFlags::ANY).ok();
    }
}

/// Whether a file that is written now gets another change time than it has. Before, its content
/// could change behind the back of who compares it.
pub(crate) fn is_settled(stat: &Stat) -> bool {
    let nanoseconds = i128::from(stat.st_ctime_nsec);
    let changed = i128::from(stat.st_ctime) * 1_000_000_000 + nanoseconds;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let now = now.map_or(0, |now| now.as_nanos().cast_signed());
    now - changed >= TICK.as_nanos().cast_signed()
}

fn forget_others(map: &MapHandle, kept: &[Vec<u8>]) {
    let keys: Vec<Vec<u8>> = map.keys().collect();
    for key in keys {
        if !kept.contains(&key) {
            // Gone already: its file system was unmounted.
            map.delete(&key).ok();
        }
    }
}

/// A device as the kernel's `dev_t` numbers it.
fn device(stat: &Stat) -> u32 {
    (major(stat.st_dev) << 20) | minor(stat.st_dev)
}

/// The namespaces that are the container's own: never the host's.
fn namespaces(init: u32) -> std::io::Result<Vec<u32>> {
    let mut own = Vec::new();
    for kind in ["mnt", "pid"] {
        let its = number_of(&format!("/proc/{init}/ns/{kind}"))?;
        if its != number_of(&format!("/proc/1/ns/{kind}"))?
            && its != number_of(&format!("/proc/self/ns/{kind}"))?
        {
            own.push(its);
        }
    }
    Ok(own)
}

fn number_of(path: &str) -> std::io::Result<u32> {
    let stat = rustix::fs::stat(path)?;
    u32::try_from(stat.st_ino).map_err(std::io::Error::other)
}
