//! The walk over the upper directory.
//!
//! Work is a list of jobs that hold paths and no handles; each opens what it needs from the two
//! roots. So neither the stack nor the number of open handles grows with the depth of a tree,
//! and jobs run on all cores in any order.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rayon::Scope;
use rustix::fs::Statx;
use rustix::io::Errno;

use crate::ancestors::Run;
use crate::aside::{Aside, Collector};
use crate::change::Change;
use crate::dir::{has_changed, open_dir, stat};
use crate::entries::{self, Chunk};
use crate::look::Look;
use crate::origin::Origin;
use crate::overlay::{DirMarks, follow, is_whiteout, is_xwhiteout, parent};
use crate::rules::Rules;
use crate::{Comparison, DriftError, Namespace, Options, Result, ancestors, hardlinks, renames};

/// All changed paths together; far beyond a million ordinary ones.
const PATH_BYTES_LIMIT: u64 = 2 << 30;
/// What a change with its detail takes beside its path, about.
const DETAIL_BYTES: u64 = 1024;

/// One comparison under way.
pub(crate) struct Walk<'a> {
    pub(crate) lower: BorrowedFd<'a>,
    pub(crate) upper: BorrowedFd<'a>,
    pub(crate) options: &'a Options,
    pub(crate) rules: Arc<Rules>,
    found: Mutex<Found>,
    /// Where changes are put while they are found, instead of in memory.
    aside: Option<Mutex<Collector>>,
    failure: Mutex<Option<DriftError>>,
    has_failed: AtomicBool,
    bytes: AtomicU64,
    pub(crate) unread: AtomicU64,
    pub(crate) unstable: AtomicU64,
    /// Bytes of text shown as patches.
    pub(crate) patched: AtomicU64,
}

/// What the jobs bring home.
#[derive(Default)]
pub(crate) struct Found {
    /// Of the job that is under way.
    pub(crate) changes: Vec<Change>,
    /// Changes of finished jobs.
    pub(crate) runs: Vec<Run>,
    /// Paths that hold what the image has elsewhere.
    pub(crate) moved: Vec<(Vec<u8>, Origin)>,
    /// Paths of files that were copied up and are as they were, though they have several names.
    pub(crate) unchanged_links: Vec<Vec<u8>>,
    /// Files of upper that stand for several names of the image (`index=on`).
    pub(crate) indexed: Vec<(Origin, Vec<u8>)>,
}

impl Found {
    fn append(&mut self, other: &mut Self) {
        self.runs.append(&mut other.runs);
        self.moved.append(&mut other.moved);
        self.unchanged_links.append(&mut other.unchanged_links);
        self.indexed.append(&mut other.indexed);
    }
}

/// A directory of the merged tree.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    /// Path in the container.
    pub(crate) path: Vec<u8>,
    /// Whether upper has it. Without, all of it shows through from `source`.
    pub(crate) in_upper: bool,
    /// Directory below that shows through; `None` when nothing does.
    pub(crate) source: Option<Vec<u8>>,
    /// Whether the image has a directory at `path`, to compare with.
    pub(crate) in_base: bool,
    /// Where the overlay keeps its marks; set when empty marked files may be whiteouts too.
    pub(crate) xwhiteouts: Option<Namespace>,
}

/// The handles of a [`Place`].
pub(crate) struct Handles {
    pub(crate) upper: Option<OwnedFd>,
    pub(crate) source: Option<OwnedFd>,
    pub(crate) base: Option<OwnedFd>,
}

impl<'a> Walk<'a> {
    pub(crate) fn new(lower: BorrowedFd<'a>, upper: BorrowedFd<'a>, options: &'a Options) -> Self {
        Self {
            lower,
            upper,
            options,
            rules: options.rules.clone().unwrap_or_else(Rules::builtin),
            found: Mutex::default(),
            aside: None,
            failure: Mutex::default(),
            has_failed: AtomicBool::new(false),
            bytes: AtomicU64::new(0),
            unread: AtomicU64::new(0),
            unstable: AtomicU64::new(0),
            patched: AtomicU64::new(0),
        }
    }

    /// Compares and puts aside what is found; details and patches are left out.
    pub(crate) fn run_aside(mut self, scratch: &Path) -> Result<Aside> {
        self.aside = Some(Mutex::new(Collector::new(scratch)));
        let mut found = self.walk()?;
        hardlinks::add(&self, &mut found)?;
        let failed = |source| DriftError::Scratch {
            dir: scratch.to_owned(),
            source,
        };
        let collector = self.aside.take().map(Mutex::into_inner);
        let Some(Ok(mut collector)) = collector else {
            unreachable!("made above, and a panic of a job would have ended the walk");
        };
        for change in found.runs.into_iter().flat_map(Run::into_changes) {
            collector.add(change).map_err(failed)?;
        }
        Ok(Aside {
            changes: collector.finish().map_err(failed)?,
            unread: self.unread.into_inner(),
            unstable: self.unstable.into_inner(),
        })
    }

    pub(crate) fn run(self) -> Result<Comparison> {
        let mut found = self.walk()?;
        hardlinks::add(&self, &mut found)?;
        let mut changes = ancestors::complete(std::mem::take(&mut found.runs));
        renames::name(&self, &found, &mut changes)?;
        Ok(Comparison {
            changes,
            unread: self.unread.into_inner(),
            unstable: self.unstable.into_inner(),
        })
    }

    fn walk(&self) -> Result<Found> {
        let root = Place {
            path: b"/".to_vec(),
            in_upper: true,
            source: Some(b"/".to_vec()),
            in_base: true,
            xwhiteouts: None,
        };
        rayon::scope(|scope| self.spawn(scope, root));
        // Also why listing it may have failed.
        self.require_upper()?;
        if let Some(error) = locked(&self.failure).take() {
            return Err(error);
        }
        Ok(std::mem::take(&mut *locked(&self.found)))
    }

    /// A removed directory has no name left; what the walk found of it is then not all.
    fn require_upper(&self) -> Result<()> {
        match stat(self.upper, c"") {
            Ok(stat) if stat.stx_nlink > 0 => Ok(()),
            Ok(_) => Err(DriftError::Removed),
            Err(errno) => Err(read_error("look at", b"/", errno)),
        }
    }

    pub(crate) fn spawn<'s>(&'s self, scope: &Scope<'s>, place: Place) {
        scope.spawn(move |scope| {
            let place = Arc::new(place);
            self.note_failure(&Arc::clone(&place), || self.directory(scope, place));
        });
    }

    /// Runs one job unless another has failed. What vanished meanwhile is no failure.
    fn note_failure(&self, place: &Place, job: impl FnOnce() -> Result<()>) {
        if self.has_failed.load(Ordering::Relaxed) {
            return;
        }
        let Err(error) = job() else { return };
        if let DriftError::Read { source, .. } = &error
            && Errno::from_io_error(source).is_some_and(has_changed)
            && place.path != b"/"
        {
            self.unstable.fetch_add(1, Ordering::Relaxed);
            return;
        }
        self.has_failed.store(true, Ordering::Relaxed);
        locked(&self.failure).get_or_insert(error);
    }

    /// Lists one directory and hands its entries on in chunks.
    fn directory<'s>(&'s self, scope: &Scope<'s>, place: Arc<Place>) -> Result<()> {
        let mut place = Arc::unwrap_or_clone(place);
        let upper = self.open_upper(&place)?;
        if let Some(upper) = &upper {
            let namespace = self.options.namespace;
            let marks = DirMarks::read(upper.as_fd(), namespace)
                .map_err(|errno| read_error("list", &place.path, errno))?;
            place.apply(&marks, namespace);
        }
        let handles = self.open_below(&mut place, upper)?;
        let place = Arc::new(place);
        let lists = entries::list(&place, &handles)
            .map_err(|errno| read_error("list", &place.path, errno))?;
        let mut chunks = entries::chunks(lists, &place).into_iter();
        // The first is done at once with the handles there are; most directories have no other.
        let first = chunks.next();
        for chunk in chunks {
            scope.spawn(move |scope| {
                self.note_failure(&chunk.place, || {
                    let upper = self.open_upper(&chunk.place)?;
                    let handles = self.open_below(&mut Place::clone(&chunk.place), upper)?;
                    self.entries(scope, &chunk, &handles)
                });
            });
        }
        first.map_or(Ok(()), |chunk| self.entries(scope, &chunk, &handles))
    }

    fn open_upper(&self, place: &Place) -> Result<Option<OwnedFd>> {
        if !place.in_upper {
            return Ok(None);
        }
        let opened = open_dir(self.upper, &place.path);
        opened
            .map(Some)
            .map_err(|errno| read_error("open", &place.path, errno))
    }

    /// Opens what is below a place; a source that is no directory is none.
    fn open_below(&self, place: &mut Place, upper: Option<OwnedFd>) -> Result<Handles> {
        let fail = |errno| read_error("open", &place.path, errno);
        let base = if place.in_base {
            Some(open_dir(self.lower, &place.path).map_err(fail)?)
        } else {
            None
        };
        let shows_base = place.shows_base();
        let source = match &place.source {
            Some(path) if !shows_base => match open_dir(self.lower, path) {
                Ok(dir) => Some(dir),
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => None,
                Err(errno) => return Err(fail(errno)),
            },
            _ => None,
        };
        if source.is_none() && !shows_base {
            place.source = None;
        }
        Ok(Handles {
            upper,
            source,
            base,
        })
    }

    fn entries<'s>(&'s self, scope: &Scope<'s>, chunk: &Chunk, handles: &Handles) -> Result<()> {
        let mut look = Look::new(self, chunk, handles);
        // Most of what a container has of its own was added.
        look.found.changes.reserve(chunk.names().len());
        for (name, file_type) in chunk.names() {
            match look.entry(scope, name, file_type) {
                Ok(()) => {}
                // Gone or another since it was listed.
                Err(errno) if has_changed(errno) => {
                    self.unstable.fetch_add(1, Ordering::Relaxed);
                }
                Err(errno) => return Err(read_error("look at", &look.path_of(name), errno)),
            }
        }
        let found = &mut look.found;
        if let Some(aside) = &self.aside {
            let mut aside = locked(aside);
            for change in found.changes.drain(..) {
                aside.add(change).map_err(|source| DriftError::Scratch {
                    dir: aside.scratch().to_owned(),
                    source,
                })?;
            }
            drop(aside);
            locked(&self.found).append(found);
            return Ok(());
        }
        let bytes: u64 = found.changes.iter().map(weight).sum();
        if self.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes > PATH_BYTES_LIMIT {
            return Err(DriftError::TooLarge {
                path: chunk.place.path.clone(),
                limit: PATH_BYTES_LIMIT,
            });
        }
        // Sorted here, on all cores.
        let run = Run::new(chunk.place.path.clone(), std::mem::take(&mut found.changes));
        found.runs.push(run);
        locked(&self.found).append(found);
        Ok(())
    }
}

/// What a change takes in memory, about.
fn weight(change: &Change) -> u64 {
    let patch = match change.patch.as_deref() {
        Some(crate::Patch::Unified(text)) => text.len() as u64,
        _ => 0,
    };
    let detail = change.detail.as_ref().map_or(0, |_| DETAIL_BYTES);
    change.path.len() as u64 + detail + patch
}

impl Place {
    /// What a directory's own marks say of what shows through.
    fn apply(&mut self, marks: &DirMarks, namespace: Namespace) {
        self.xwhiteouts = marks.has_xwhiteouts.then_some(namespace);
        if marks.is_opaque {
            self.source = None;
        } else if let Some(redirect) = &marks.redirect {
            let beside = self.source.as_deref().map(parent);
            self.source = follow(redirect, beside);
        }
    }

    /// Whether what shows through is the very directory it is compared with: the usual case, in
    /// which only upper's entries can differ.
    pub(crate) fn shows_base(&self) -> bool {
        self.in_base && self.source.as_ref() == Some(&self.path)
    }

    /// Whether an entry of upper says that there is nothing.
    pub(crate) fn is_whiteout(
        &self,
        upper: BorrowedFd<'_>,
        name: &std::ffi::CStr,
        stat: &Statx,
    ) -> rustix::io::Result<bool> {
        match self.xwhiteouts {
            _ if is_whiteout(stat) => Ok(true),
            Some(namespace) => is_xwhiteout(upper, name, stat, namespace),
            None => Ok(false),
        }
    }
}

/// A lock that a panic elsewhere does not close: what it guards is only ever added to.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn read_error(action: &'static str, path: &[u8], errno: Errno) -> DriftError {
    DriftError::Read {
        action,
        path: path.to_vec(),
        source: errno.into(),
    }
}
