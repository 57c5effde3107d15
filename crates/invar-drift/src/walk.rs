//! The walk over the upper directory.
//!
//! Work is a list of jobs that hold paths and no handles; each opens what it needs from the two
//! roots. So neither the stack nor the number of open handles grows with the depth of a tree,
//! and jobs run on all cores in any order.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rayon::Scope;
use rustix::fs::{FileType, Statx};
use rustix::io::Errno;

use crate::change::{Change, Kind, Reason, Reasons};
use crate::compare::{self, Entry};
use crate::dir::{file_type, open_dir, open_file, stat, stat_if_present};
use crate::entries::{Chunk, Entries};
use crate::overlay::{Content, DirMarks, follow, is_whiteout, is_xwhiteout, join, parent};
use crate::{Comparison, DriftError, Options, Result, ancestors, judge};

/// All changed paths together; far beyond a million ordinary ones.
const PATH_BYTES_LIMIT: u64 = 2 << 30;

/// One comparison under way.
pub(crate) struct Walk<'a> {
    lower: BorrowedFd<'a>,
    upper: BorrowedFd<'a>,
    options: Options,
    changes: Mutex<Vec<Change>>,
    failure: Mutex<Option<DriftError>>,
    has_failed: AtomicBool,
    path_bytes: AtomicU64,
    unread: AtomicU64,
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
}

/// An entry of the merged tree, and where it comes from.
#[derive(Clone, Copy)]
enum Layer<'a> {
    Upper(Entry<'a>),
    Below(Entry<'a>),
}

/// The handles of a [`Place`].
pub(crate) struct Handles {
    pub(crate) upper: Option<OwnedFd>,
    pub(crate) source: Option<OwnedFd>,
    pub(crate) base: Option<OwnedFd>,
}

impl<'a> Walk<'a> {
    pub(crate) fn new(lower: BorrowedFd<'a>, upper: BorrowedFd<'a>, options: Options) -> Self {
        Self {
            lower,
            upper,
            options,
            changes: Mutex::default(),
            failure: Mutex::default(),
            has_failed: AtomicBool::new(false),
            path_bytes: AtomicU64::new(0),
            unread: AtomicU64::new(0),
        }
    }

    pub(crate) fn run(self) -> Result<Comparison> {
        let root = Place {
            path: b"/".to_vec(),
            in_upper: true,
            source: Some(b"/".to_vec()),
            in_base: true,
        };
        rayon::scope(|scope| self.spawn(scope, root));
        if let Some(error) = self.failure.into_inner().unwrap_or_default() {
            return Err(error);
        }
        let changes = self.changes.into_inner().unwrap_or_default();
        Ok(Comparison {
            changes: ancestors::complete(changes),
            unread: self.unread.into_inner(),
        })
    }

    fn spawn<'s>(&'s self, scope: &Scope<'s>, place: Place) {
        scope.spawn(move |scope| {
            let path = place.path.clone();
            self.note_failure(&path, || self.directory(scope, place));
        });
    }

    /// Runs one job unless another has failed. What vanished meanwhile is no failure.
    fn note_failure(&self, path: &[u8], job: impl FnOnce() -> Result<()>) {
        if self.has_failed.load(Ordering::Relaxed) {
            return;
        }
        let Err(error) = job() else { return };
        if let DriftError::Read { source, .. } = &error
            && source.kind() == std::io::ErrorKind::NotFound
            && path != b"/"
        {
            return;
        }
        self.has_failed.store(true, Ordering::Relaxed);
        if let Ok(mut failure) = self.failure.lock() {
            failure.get_or_insert(error);
        }
    }

    /// Lists one directory and hands its entries on in chunks.
    fn directory<'s>(&'s self, scope: &Scope<'s>, mut place: Place) -> Result<()> {
        let upper = self.open_upper(&place)?;
        let mut has_xwhiteouts = false;
        if let Some(upper) = &upper {
            let marks = DirMarks::read(upper.as_fd(), self.options.namespace)
                .map_err(|errno| read_error("list", &place.path, errno))?;
            has_xwhiteouts = marks.has_xwhiteouts;
            place.apply(&marks);
        }
        let handles = self.open_below(&mut place, upper)?;
        let entries = Entries::list(&place, &handles)
            .map_err(|errno| read_error("list", &place.path, errno))?;
        let mut chunks = entries.chunks(&place, has_xwhiteouts).into_iter();
        // The first is done at once with the handles there are; most directories have no other.
        let first = chunks.next();
        for chunk in chunks {
            scope.spawn(move |scope| {
                self.note_failure(&chunk.place.path, || {
                    let upper = self.open_upper(&chunk.place)?;
                    let handles = self.open_below(&mut chunk.place.clone(), upper)?;
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
        let mut found = Vec::new();
        let mut bytes = 0;
        let mut each = |name: &CString, judged: rustix::io::Result<Option<Change>>| {
            match judged {
                Ok(Some(change)) => {
                    bytes += change.path.len() as u64;
                    found.push(change);
                }
                // Nothing to say, or gone since it was listed.
                Ok(None) | Err(Errno::NOENT) => {}
                Err(errno) => {
                    let path = join(&chunk.place.path, name.to_bytes());
                    return Err(read_error("look at", &path, errno));
                }
            }
            Ok(())
        };
        for name in &chunk.deleted {
            each(
                name,
                Ok(Some(judge::deleted(join(
                    &chunk.place.path,
                    name.to_bytes(),
                )))),
            )?;
        }
        for name in &chunk.upper {
            each(name, self.upper_entry(scope, chunk, handles, name))?;
        }
        for name in &chunk.shown {
            each(name, self.shown_entry(scope, chunk, handles, name))?;
        }
        if self.path_bytes.fetch_add(bytes, Ordering::Relaxed) + bytes > PATH_BYTES_LIMIT {
            return Err(DriftError::TooLarge {
                path: chunk.place.path.clone(),
                limit: PATH_BYTES_LIMIT,
            });
        }
        if let Ok(mut changes) = self.changes.lock() {
            changes.append(&mut found);
        }
        Ok(())
    }

    /// An entry that upper has: a whiteout, or something that is compared with the base.
    fn upper_entry<'s>(
        &'s self,
        scope: &Scope<'s>,
        chunk: &Chunk,
        handles: &Handles,
        name: &CStr,
    ) -> rustix::io::Result<Option<Change>> {
        let Some(upper) = handles.upper.as_ref().map(|dir| dir.as_fd()) else {
            return Ok(None);
        };
        let new = stat(upper, name)?;
        let old = match &handles.base {
            Some(base) => stat_if_present(base.as_fd(), name)?,
            None => None,
        };
        let path = join(&chunk.place.path, name.to_bytes());
        let namespace = self.options.namespace;
        if is_whiteout(&new)
            || (chunk.has_xwhiteouts && is_xwhiteout(upper, name, &new, namespace)?)
        {
            // Elsewhere the listing of the base has told.
            let is_deleted = old.is_some() && chunk.place.shows_base();
            return Ok(is_deleted.then(|| judge::deleted(path)));
        }
        if file_type(&new) == FileType::Directory {
            let below = chunk.place.source.as_deref();
            let place = Place {
                source: below.map(|below| join(below, name.to_bytes())),
                in_base: old.as_ref().is_some_and(is_directory),
                in_upper: true,
                path: path.clone(),
            };
            self.spawn(scope, place);
        }
        let entry = Entry {
            dir: upper,
            name,
            stat: &new,
        };
        self.verdict(chunk, handles, path, Layer::Upper(entry), old.as_ref())
    }

    /// An entry that shows through from a source other than the base (a renamed directory).
    fn shown_entry<'s>(
        &'s self,
        scope: &Scope<'s>,
        chunk: &Chunk,
        handles: &Handles,
        name: &CStr,
    ) -> rustix::io::Result<Option<Change>> {
        let (Some(source), Some(below)) = (&handles.source, &chunk.place.source) else {
            return Ok(None);
        };
        let new = stat(source.as_fd(), name)?;
        let old = match &handles.base {
            Some(base) => stat_if_present(base.as_fd(), name)?,
            None => None,
        };
        let path = join(&chunk.place.path, name.to_bytes());
        if is_directory(&new) {
            let place = Place {
                path: path.clone(),
                in_upper: false,
                source: Some(join(below, name.to_bytes())),
                in_base: old.as_ref().is_some_and(is_directory),
            };
            self.spawn(scope, place);
        }
        let entry = Entry {
            dir: source.as_fd(),
            name,
            stat: &new,
        };
        self.verdict(chunk, handles, path, Layer::Below(entry), old.as_ref())
    }

    fn verdict(
        &self,
        chunk: &Chunk,
        handles: &Handles,
        path: Vec<u8>,
        layer: Layer<'_>,
        old: Option<&Statx>,
    ) -> rustix::io::Result<Option<Change>> {
        let (Layer::Upper(new) | Layer::Below(new)) = layer;
        let (Some(old), Some(base)) = (old, &handles.base) else {
            return judge::present(
                path,
                new,
                Some(Kind::Added),
                Some(Kind::Added),
                Reasons::default(),
            )
            .map(Some);
        };
        let old = Entry {
            dir: base.as_fd(),
            name: new.name,
            stat: old,
        };
        let mut difference = compare::metadata(new, old, self.options.namespace)?;
        let are_files = [new, old]
            .iter()
            .all(|entry| file_type(entry.stat) == FileType::RegularFile);
        if are_files && !difference.reasons.contains(Reason::Size) && new.stat.stx_size > 0 {
            if self.options.content {
                let differs = self.content_differs(chunk, &path, layer)?;
                difference.reasons.add(Reason::Content, differs);
            } else if difference.reasons.is_empty() {
                self.unread.fetch_add(1, Ordering::Relaxed);
            }
        }
        let compatible = difference.is_compatible.then_some(Kind::Changed);
        let actual = (!difference.reasons.is_empty()).then_some(Kind::Changed);
        if compatible.is_none() && actual.is_none() {
            return Ok(None);
        }
        judge::present(path, new, compatible, actual, difference.reasons).map(Some)
    }

    /// Reads both files. One that has only its metadata in upper is read where its content is.
    fn content_differs(
        &self,
        chunk: &Chunk,
        path: &[u8],
        layer: Layer<'_>,
    ) -> rustix::io::Result<bool> {
        let dir = chunk.place.source.as_deref();
        let (new, content) = match layer {
            Layer::Upper(new) => (new, Content::of(new.dir, new.name, self.options.namespace)?),
            Layer::Below(new) => (new, Content::Below),
        };
        let below = match content {
            Content::Here => None,
            Content::Below => Some(dir.map(|dir| join(dir, new.name.to_bytes()))),
            Content::Redirected(redirect) => Some(follow(&redirect, dir)),
        };
        let file = match below {
            None => open_file(self.upper, path)?,
            Some(Some(below)) if below == path => return Ok(false),
            Some(Some(below)) => open_file(self.lower, &below)?,
            // A mark that leads nowhere: the kernel would not give the content either.
            Some(None) => return Ok(true),
        };
        let old = open_file(self.lower, path)?;
        compare::same_content(file, old)
            .map(|same| !same)
            .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
    }
}

impl Place {
    /// What a directory's own marks say of what shows through.
    fn apply(&mut self, marks: &DirMarks) {
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
}

fn is_directory(stat: &Statx) -> bool {
    file_type(stat) == FileType::Directory
}

fn read_error(action: &'static str, path: &[u8], errno: Errno) -> DriftError {
    DriftError::Read {
        action,
        path: path.to_vec(),
        source: errno.into(),
    }
}
