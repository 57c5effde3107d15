//! The sensor: which containers are watched, and what they are told to do.

use std::collections::HashMap;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

use invar_drift::{Glob, Rules};
use invar_sys::fanotify::{Gate, Names, file_system};
use rustix::event::{EventfdFlags, eventfd};

use crate::counts::Counts;
use crate::error::{Result, SensorError};
use crate::event::{Event, Place};
use crate::files::{self, Shared, WANTED, Watched};
use crate::gate::{self, Running};
use crate::guard::{Guard, Ward};
use crate::known::Known;
use crate::outlet::{Outlet, lock};
use crate::places::path_of;
use crate::target::Target;

/// How the sensor judges.
#[derive(Debug)]
pub struct Settings {
    /// What is bad.
    pub rules: Arc<Rules>,
    /// Paths that may run although they are not of the image.
    pub allow: Vec<Glob>,
    /// Whether the kernel's own guard is asked for.
    pub guard: Guarding,
}

/// What refuses beside fanotify.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Guarding {
    /// Nothing.
    None,
    /// LSM programs where the kernel takes them, as long as the sensor lives.
    WhileItLives,
    /// LSM programs that are pinned in this directory of a BPF file system, and stay until
    /// [`lift`](crate::lift).
    Pinned(PathBuf),
}

/// Watches containers until it is dropped.
#[derive(Debug)]
pub struct Sensor {
    outlet: Arc<Outlet>,
    allow: Arc<Vec<Glob>>,
    names: Arc<Names>,
    wake: Arc<OwnedFd>,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    containers: HashMap<String, Watching>,
    guard: Option<Guard>,
    /// Why there is no guard although it was asked for.
    unguarded: Option<SensorError>,
}

/// A container that is watched.
#[derive(Debug)]
struct Watching {
    init: u32,
    _gate: Running,
    ward: Option<Ward>,
    files: Option<Arc<Watched>>,
}

impl Sensor {
    /// Begins; nothing is watched yet.
    pub fn start(settings: Settings) -> Result<Self> {
        let group = |source| SensorError::Group { source };
        let names = Arc::new(Names::open().map_err(group)?);
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        let wake = Arc::new(eventfd(0, flags).map_err(|errno| group(errno.into()))?);
        let shared = Arc::new(Shared::default());
        let outlet = Arc::new(Outlet::new(settings.rules));
        let thread = {
            let (names, wake) = (Arc::clone(&names), Arc::clone(&wake));
            let (shared, outlet) = (Arc::clone(&shared), Arc::clone(&outlet));
            std::thread::Builder::new()
                .name("files".to_owned())
                .spawn(move || files::run(&names, &wake, &shared, &outlet))
                .map_err(|source| SensorError::Thread { source })?
        };
        let guard = match settings.guard {
            Guarding::None => None,
            Guarding::WhileItLives => Some(Guard::start(None, &outlet)),
            Guarding::Pinned(pins) => Some(Guard::start(Some(&pins), &outlet)),
        };
        let (guard, unguarded) = match guard.transpose() {
            Ok(guard) => (guard, None),
            Err(error) => (None, Some(error)),
        };
        Ok(Self {
            guard,
            unguarded,
            outlet,
            allow: Arc::new(settings.allow),
            names,
            wake,
            shared,
            thread: Some(thread),
            containers: HashMap::new(),
        })
    }

    /// Watches a container; how many of its paths had changed before. Its marks are in place when
    /// this returns.
    pub fn watch(&mut self, target: &Target) -> Result<usize> {
        let place = Arc::new(target.place.clone());
        let allow: Vec<Glob> = self.allow.iter().chain(&target.allow).cloned().collect();
        let guard = self.guard.as_ref().filter(|_| target.block);
        let trust = guard.map(Guard::trust);
        let gate = gate::start(target, &place, &Arc::new(allow), trust, &self.outlet)?;
        let ward = guard.map(|guard| guard.add(target, &place)).transpose()?;
        let files = self.watch_files(target, &place, gate.group())?;
        let before = match &files {
            None => 0,
            // A walk that fails here would fail for `diff` too, which says why.
            Some(watched) => watched.unknown(&self.outlet).map_or(0, |paths| paths.len()),
        };
        let watching = Watching {
            init: target.init,
            _gate: gate,
            ward,
            files,
        };
        self.containers.insert(target.place.id.clone(), watching);
        Ok(before)
    }

    fn watch_files(
        &self,
        target: &Target,
        place: &Arc<Place>,
        gate: Weak<Gate>,
    ) -> Result<Option<Arc<Watched>>> {
        let Some(upper) = &target.upper else {
            return Ok(None);
        };
        let failed = |source| SensorError::Mark {
            container: target.place.name.clone(),
            place: "the file system of its upper directory".to_owned(),
            source,
        };
        let path = path_of(upper.dir.as_fd());
        let path = path.ok_or_else(|| failed(std::io::ErrorKind::NotFound.into()))?;
        let watched = Arc::new(Watched {
            place: Arc::clone(place),
            init: target.init,
            file_system: file_system(upper.dir.as_fd()).map_err(failed)?,
            path,
            upper: upper.dir.try_clone().map_err(failed)?,
            lower: target.lower.try_clone().map_err(failed)?,
            namespace: target.namespace,
            known: Mutex::new(Known::default()),
            gate,
        });
        self.names.mark(WANTED, upper.dir.as_fd()).map_err(failed)?;
        lock(&self.shared.watched).push(Arc::clone(&watched));
        self.shared.has_changed.store(true, Ordering::SeqCst);
        Ok(Some(watched))
    }

    /// Whether this run of a container is watched.
    pub fn watches(&self, id: &str, init: u32) -> bool {
        self.containers
            .get(id)
            .is_some_and(|watching| watching.init == init)
    }

    /// Lets go of every container that is not among these.
    pub fn keep_only(&mut self, is_there: impl Fn(&str, u32) -> bool) -> usize {
        let before = self.containers.len();
        self.containers
            .retain(|id, watching| is_there(id, watching.init));
        let files: Vec<Arc<Watched>> = self
            .containers
            .values()
            .filter_map(|watching| watching.files.clone())
            .collect();
        *lock(&self.shared.watched) = files;
        if let Some(guard) = &self.guard {
            let wards = self.containers.values();
            guard.keep_only(wards.filter_map(|watching| watching.ward.as_ref()));
        }
        self.shared.has_changed.store(true, Ordering::SeqCst);
        before - self.containers.len()
    }

    /// Whether the kernel itself refuses what is not of the image.
    pub fn is_guarded(&self) -> bool {
        self.guard.is_some()
    }

    /// Why it does not, although that was asked for.
    pub fn unguarded(&self) -> Option<&SensorError> {
        self.unguarded.as_ref()
    }

    /// What is seen, for another thread.
    pub fn events(&self) -> Events {
        Events(Arc::clone(&self.outlet))
    }
}

/// What a sensor sees.
#[derive(Debug, Clone)]
pub struct Events(Arc<Outlet>);

impl Events {
    /// What came since, executions first; waits for it as long as this.
    pub fn take(&self, patience: Duration) -> Vec<Event> {
        self.0.queue.take(patience)
    }

    /// Numbers so far.
    pub fn counts(&self) -> Counts {
        self.0.tally.now()
    }
}

impl Drop for Sensor {
    fn drop(&mut self) {
        self.containers.clear();
        self.shared.ends.store(true, Ordering::SeqCst);
        // The counter of an eventfd that is written so rarely is not full.
        rustix::io::write(&*self.wake, &1_u64.to_ne_bytes()).ok();
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}
