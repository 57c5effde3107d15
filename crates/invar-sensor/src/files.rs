//! One thread that is told of every name on the file systems that back upper directories, and keeps
//! what is a container's.
//!
//! The kernel does not tell names of an overlay itself. What overlayfs does on a container's behalf
//! shows below: a file that is copied up appears, a deleted one gets a whiteout in its place.

use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Instant;

use invar_drift::{Namespace, Options, open_beneath};
use invar_sys::fanotify::{Gate, Name, Names, mask};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FileType, OFlags, fstat};

use crate::counts::add;
use crate::event::{Place, What};
use crate::known::Known;
use crate::outlet::{Deed, Outlet, lock};
use crate::places::Places;

const BUFFER: usize = 256 * 1024;
/// How long after one walk for what the own queue had no room for the next may begin: longer than
/// the same deed is not told again.
const RECONCILE: Timespec = Timespec {
    tv_sec: 2,
    tv_nsec: 0,
};

/// What is asked of a file system.
pub(crate) const WANTED: u64 = mask::CREATE
    | mask::DELETE
    | mask::RENAME
    | mask::ATTRIB
    | mask::MODIFY
    | mask::CLOSE_WRITE
    | mask::ON_DIRECTORY;

/// A container with an upper directory.
#[derive(Debug)]
pub(crate) struct Watched {
    pub(crate) place: Arc<Place>,
    pub(crate) init: u32,
    pub(crate) file_system: [u8; 8],
    /// Where its upper directory is on the host.
    pub(crate) path: Vec<u8>,
    pub(crate) upper: OwnedFd,
    pub(crate) lower: OwnedFd,
    pub(crate) namespace: Namespace,
    pub(crate) known: Mutex<Known>,
    /// Takes the image's files for settled until one of them gets a copy.
    pub(crate) gate: Weak<Gate>,
}

impl Watched {
    /// What differs from the image, without reading content; only what is not known yet.
    pub(crate) fn unknown(&self, outlet: &Outlet) -> invar_drift::Result<Vec<Vec<u8>>> {
        let options = Options {
            namespace: self.namespace,
            rules: Some(Arc::clone(&outlet.rules)),
            ..Options::default()
        };
        let changes = invar_drift::changes(self.lower.as_fd(), self.upper.as_fd(), &options)?;
        let mut known = lock(&self.known);
        let unknown = changes
            .into_iter()
            .filter(|change| !change.is_ancestor() && known.add(&change.path));
        Ok(unknown.map(|change| change.path).collect())
    }

    fn is_whiteout(&self, path: &[u8]) -> bool {
        let flags = OFlags::PATH | OFlags::NOFOLLOW;
        let stat = open_beneath(self.upper.as_fd(), path, flags).and_then(fstat);
        stat.is_ok_and(|stat| {
            FileType::from_raw_mode(stat.st_mode).is_char_device() && stat.st_rdev == 0
        })
    }

    fn image_has(&self, path: &[u8]) -> bool {
        let flags = OFlags::PATH | OFlags::NOFOLLOW;
        open_beneath(self.lower.as_fd(), path, flags).is_ok()
    }
}

/// Told to the thread by others.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    pub(crate) watched: Mutex<Vec<Arc<Watched>>>,
    /// Other containers are watched than before.
    pub(crate) has_changed: AtomicBool,
    pub(crate) ends: AtomicBool,
    /// Events were lost; a walk is due.
    walk_is_due: AtomicBool,
    walks: AtomicBool,
}

/// Reads until the sensor ends; `wake` becomes readable when there is news from others.
pub(crate) fn run(names: &Names, wake: &OwnedFd, shared: &Arc<Shared>, outlet: &Arc<Outlet>) {
    let mut buffer = vec![0; BUFFER];
    let mut places = Places::default();
    let mut looked = Instant::now();
    loop {
        let mut fds = [
            PollFd::new(names, PollFlags::IN),
            PollFd::new(wake, PollFlags::IN),
        ];
        // A walk may have lost some too, while nothing else happens.
        match poll(&mut fds, Some(&RECONCILE)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(_) => return,
        }
        if shared.ends.load(Ordering::SeqCst) {
            return;
        }
        if !fds[1].revents().is_empty() {
            let mut counter = [0; 8];
            rustix::io::read(wake, &mut counter).ok();
        }
        if looked.elapsed().as_secs() >= RECONCILE.tv_sec.unsigned_abs()
            && outlet.has_lost()
            && outlet.queue.has_room()
        {
            looked = Instant::now();
            reconcile(shared, outlet);
        }
        let Ok(events) = names.events(&mut buffer) else {
            continue;
        };
        let watched = lock(&shared.watched).clone();
        if shared.has_changed.swap(false, Ordering::SeqCst) {
            places.clear();
        }
        for event in events {
            if event.mask & mask::OVERFLOW != 0 {
                add(&outlet.tally.overflows, 1);
                places.clear();
                walk(shared, outlet);
                continue;
            }
            handle(&event, &mut places, &watched, outlet);
        }
    }
}

fn handle(event: &Name, places: &mut Places, watched: &[Arc<Watched>], outlet: &Outlet) {
    if event.pid == std::process::id() {
        return;
    }
    let now = event.at.as_ref().and_then(|at| places.find(at, watched));
    let before = event.old.as_ref().and_then(|old| places.find(old, watched));
    if event.mask & mask::RENAME != 0 && event.mask & mask::ON_DIRECTORY != 0 {
        places.clear();
    }
    let Some((of, what, path, from)) = classify(event.mask, now, before) else {
        return;
    };
    let is_new = event.mask & (mask::CREATE | mask::RENAME) != 0;
    if is_new
        && of.image_has(&path)
        && let Some(gate) = of.gate.upgrade()
    {
        // Without room for marks there are none to be forgotten.
        gate.skip_none().ok();
    }
    lock(&of.known).add(&path);
    if let Some(from) = &from {
        lock(&of.known).add(from);
    }
    let deed = Deed {
        container: Arc::clone(&of.place),
        what,
        path,
        from,
        pid: event.pid,
        reason: None,
    };
    outlet.tell(deed, of.init);
}

type Located = Option<(Arc<Watched>, Vec<u8>)>;
/// A container, what was done, to which path, and where that was before.
type Classified = (Arc<Watched>, What, Vec<u8>, Option<Vec<u8>>);

/// What overlayfs did below, in the container's terms.
fn classify(mask: u64, now: Located, before: Located) -> Option<Classified> {
    let has = |bits: u64| mask & bits != 0;
    let Some((of, path)) = now else {
        // Moved to overlay's work directory, to be removed there.
        let (of, path) = before?;
        return Some((of, What::Delete, path, None));
    };
    if has(mask::CREATE | mask::RENAME) && of.is_whiteout(&path) {
        return Some((of, What::Delete, path, None));
    }
    if has(mask::RENAME)
        && let Some((_, from)) = before
    {
        return Some((of, What::Rename, path, Some(from)));
    }
    let what = if has(mask::DELETE) {
        What::Delete
    } else if has(mask::CREATE | mask::RENAME) && !of.image_has(&path) {
        What::Create
    } else if has(mask::MODIFY | mask::CLOSE_WRITE) {
        What::Write
    } else if has(mask::ATTRIB) {
        What::Attributes
    } else {
        What::CopyUp
    };
    Some((of, what, path, None))
}

/// Tells, now that there is room, what the own queue had no room for.
fn reconcile(shared: &Arc<Shared>, outlet: &Arc<Outlet>) {
    let lost = outlet.take_lost();
    for of in lock(&shared.watched).iter() {
        if let Some(paths) = lost.get(&of.place.id) {
            lock(&of.known).forget(paths);
        }
    }
    walk(shared, outlet);
}

/// Looks for what the lost events would have told, beside the reading; once more when more is lost
/// meanwhile.
fn walk(shared: &Arc<Shared>, outlet: &Arc<Outlet>) {
    shared.walk_is_due.store(true, Ordering::SeqCst);
    if shared.walks.swap(true, Ordering::SeqCst) {
        return;
    }
    let (shared_too, outlet) = (Arc::clone(shared), Arc::clone(outlet));
    let walker = std::thread::Builder::new().name("walk".to_owned());
    let started = walker.spawn(move || {
        loop {
            while shared_too.walk_is_due.swap(false, Ordering::SeqCst) {
                let watched = lock(&shared_too.watched).clone();
                for of in watched {
                    tell_missed(&of, &outlet);
                }
            }
            shared_too.walks.store(false, Ordering::SeqCst);
            // Asked for between the last look and now, when it still seemed to go on.
            let is_due = shared_too.walk_is_due.load(Ordering::SeqCst);
            if !is_due || shared_too.walks.swap(true, Ordering::SeqCst) {
                return;
            }
        }
    });
    if started.is_err() {
        shared.walks.store(false, Ordering::SeqCst);
    }
}

pub(crate) fn tell_missed(of: &Watched, outlet: &Outlet) {
    // Removed meanwhile: there is nothing to tell of it.
    for path in of.unknown(outlet).unwrap_or_default() {
        let deed = Deed {
            container: Arc::clone(&of.place),
            what: What::Missed,
            path,
            from: None,
            pid: 0,
            reason: Some("found by a walk after events were lost".to_owned()),
        };
        outlet.tell(deed, of.init);
    }
}
