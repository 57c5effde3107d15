//! A look at one entry: what it is now, what the image has there, and what to say of it.

mod content;
mod history;

use std::ffi::CStr;
use std::os::fd::AsFd as _;
use std::sync::atomic::Ordering;

use rayon::Scope;
use rustix::fs::{FileType, Statx};
use rustix::io::Result;

use crate::change::{Kind, Reason, Reasons};
use crate::compare::{self, CAPABILITY, Entry};
use crate::detail::{Detail, State};
use crate::dir::{file_type, get_attribute, stat, stat_if_present};
use crate::entries::{Chunk, Role};
use crate::judge::{self, Facts};
use crate::overlay::join;
use crate::rules::Candidates;
use crate::walk::{Found, Handles, Place, Walk};
use content::{Now, content_differs};

/// The looks at the entries of one chunk.
pub(crate) struct Look<'s, 'c> {
    walk: &'s Walk<'s>,
    chunk: &'c Chunk,
    handles: &'c Handles,
    candidates: Candidates<'s>,
    pub(crate) found: Found,
}

/// An entry of the merged tree, and where it comes from.
#[derive(Clone, Copy)]
enum Layer<'e> {
    Upper(Entry<'e>),
    Below(Entry<'e>),
}

impl<'s, 'c> Look<'s, 'c> {
    pub(crate) fn new(walk: &'s Walk<'s>, chunk: &'c Chunk, handles: &'c Handles) -> Self {
        Self {
            candidates: walk.rules.in_directory(&chunk.place.path),
            walk,
            chunk,
            handles,
            found: Found::default(),
        }
    }

    pub(crate) fn path_of(&self, name: &CStr) -> Vec<u8> {
        join(&self.chunk.place.path, name.to_bytes())
    }

    /// Says what there is to say of one entry. `listed` is its type as the directory told it.
    pub(crate) fn entry(&mut self, scope: &Scope<'s>, name: &CStr, listed: FileType) -> Result<()> {
        match self.chunk.role {
            Role::Upper => self.upper(scope, name, listed),
            Role::Shown => self.shown(scope, name),
            Role::Deleted => self.deleted(name),
        }
    }

    /// An entry that upper has: a whiteout, or something that is compared with the base.
    fn upper(&mut self, scope: &Scope<'s>, name: &CStr, listed: FileType) -> Result<()> {
        let Some(upper) = self.handles.upper.as_ref().map(|dir| dir.as_fd()) else {
            return Ok(());
        };
        let place = &self.chunk.place;
        let old = self.base_stat(name)?;
        // Of what the image does not have, most types say all there is to judge.
        let is_told = matches!(
            listed,
            FileType::Directory | FileType::Symlink | FileType::Fifo | FileType::Socket
        );
        let new = if is_told && old.is_none() && !self.walk.options.detail {
            None
        } else {
            Some(stat(upper, name)?)
        };
        if let Some(new) = &new
            && place.is_whiteout(upper, name, new)?
        {
            // Elsewhere the listing of the base has told.
            return match old {
                Some(_) if place.shows_base() => self.deleted(name),
                _ => Ok(()),
            };
        }
        let file_type = new.as_ref().map_or(listed, file_type);
        if file_type == FileType::Directory {
            let source = place
                .source
                .as_deref()
                .map(|below| join(below, name.to_bytes()));
            self.descend(scope, name, source, true, old.as_ref());
        }
        let layer = new.as_ref().map(|stat| {
            Layer::Upper(Entry {
                dir: upper,
                name,
                stat,
            })
        });
        self.verdict(name, file_type, layer, old.as_ref())
    }

    /// An entry that shows through from a source other than the base (a renamed directory).
    fn shown(&mut self, scope: &Scope<'s>, name: &CStr) -> Result<()> {
        let (Some(source), Some(below)) = (&self.handles.source, &self.chunk.place.source) else {
            return Ok(());
        };
        let new = stat(source.as_fd(), name)?;
        let old = self.base_stat(name)?;
        if file_type(&new) == FileType::Directory {
            let source = Some(join(below, name.to_bytes()));
            self.descend(scope, name, source, false, old.as_ref());
        }
        let entry = Entry {
            dir: source.as_fd(),
            name,
            stat: &new,
        };
        self.verdict(
            name,
            file_type(&new),
            Some(Layer::Below(entry)),
            old.as_ref(),
        )
    }

    fn base_stat(&self, name: &CStr) -> Result<Option<Statx>> {
        match &self.handles.base {
            Some(base) => stat_if_present(base.as_fd(), name),
            None => Ok(None),
        }
    }

    fn descend(
        &self,
        scope: &Scope<'s>,
        name: &CStr,
        source: Option<Vec<u8>>,
        in_upper: bool,
        old: Option<&Statx>,
    ) {
        let place = Place {
            path: self.path_of(name),
            in_upper,
            source,
            in_base: old.is_some_and(|old| file_type(old) == FileType::Directory),
            xwhiteouts: None,
        };
        self.walk.spawn(scope, place);
    }

    /// A path that is gone.
    fn deleted(&mut self, name: &CStr) -> Result<()> {
        let path = self.path_of(name);
        let rule = Facts::of_name(&path, Kind::Deleted).judge(&self.candidates);
        let deleted = Some(Kind::Deleted);
        let mut change = judge::change(path, deleted, deleted, Reasons::default(), rule);
        if self.walk.options.detail
            && let (Some(old), Some(base)) = (self.base_stat(name)?, &self.handles.base)
        {
            let old = Entry {
                dir: base.as_fd(),
                name,
                stat: &old,
            };
            let mut state = State::read(old, self.walk.options.namespace)?;
            state.digest = self.old_digest(old);
            change.detail = Some(Box::new(Detail {
                old: Some(state),
                ..Detail::default()
            }));
        }
        self.found.changes.push(change);
        Ok(())
    }

    /// A path that is there: added, or compared with what the image has.
    fn verdict(
        &mut self,
        name: &CStr,
        file_type: FileType,
        layer: Option<Layer<'_>>,
        old: Option<&Statx>,
    ) -> Result<()> {
        let base = self.handles.base.as_ref().map(|base| base.as_fd());
        let path = self.path_of(name);
        let (Some(stat), Some(dir), Some(layer)) = (old, base, layer) else {
            let added = Some(Kind::Added);
            if let Some(Layer::Upper(new)) = layer {
                self.note_links(new, &path, true)?;
            }
            let now = match layer {
                Some(layer) => self.now(layer, &path)?,
                None => Now::Unknown,
            };
            return self.tell(
                path,
                (added, added, Reasons::default()),
                file_type,
                layer,
                None,
                &now,
            );
        };
        let old = Entry { dir, name, stat };
        let new = layer.entry();
        let mut difference = compare::metadata(new, old, self.walk.options.namespace)?;
        let mut now = Now::Unknown;
        if file_type == FileType::RegularFile && crate::dir::file_type(stat) == file_type {
            now = self.now(layer, &path)?;
            let has_same_size = !difference.reasons.contains(Reason::Size);
            if has_same_size && new.stat.stx_size > 0 {
                if self.walk.options.content {
                    let differs = content_differs(&now, old)?;
                    difference.reasons.add(Reason::Content, differs);
                } else if difference.reasons.is_empty() {
                    self.walk.unread.fetch_add(1, Ordering::Relaxed);
                }
            }
        } else if file_type == FileType::RegularFile {
            now = self.now(layer, &path)?;
        }
        let compatible = difference.is_compatible.then_some(Kind::Changed);
        let actual = (!difference.reasons.is_empty()).then_some(Kind::Changed);
        if let Layer::Upper(new) = layer {
            self.note_links(new, &path, actual.is_some())?;
        }
        if compatible.is_none() && actual.is_none() {
            return Ok(());
        }
        let verdict = (compatible, actual, difference.reasons);
        self.tell(path, verdict, file_type, Some(layer), Some(old), &now)
    }

    /// Judges a path and writes down what was found.
    fn tell(
        &mut self,
        path: Vec<u8>,
        (compatible, actual, reasons): (Option<Kind>, Option<Kind>, Reasons),
        file_type: FileType,
        layer: Option<Layer<'_>>,
        old: Option<Entry<'_>>,
        now: &Now,
    ) -> Result<()> {
        let Some(kind) = actual.or(compatible) else {
            return Ok(());
        };
        let mut facts = Facts {
            file_type,
            mode: layer.map_or(0, |layer| layer.entry().stat.stx_mode),
            reasons,
            ..Facts::of_name(&path, kind)
        };
        if let Some(new) = layer.map(Layer::entry)
            && judge::is_program(facts.file_type, facts.mode)
        {
            facts.has_capability = get_attribute(new.dir, new.name, CAPABILITY)?.is_some();
        }
        let has_other_content = old.is_none()
            || [Reason::Type, Reason::Size, Reason::Content]
                .iter()
                .any(|r| reasons.contains(*r));
        let sniffed = if has_other_content {
            self.sniff(&facts, now)
        } else {
            None
        };
        facts.sniff = sniffed.as_ref();
        let rule = facts.judge(&self.candidates);
        let mut change = judge::change(Vec::new(), compatible, actual, reasons, rule);
        if self.walk.options.detail
            && let Some(layer) = layer
        {
            change.detail = Some(Box::new(self.detail(layer, old, &path, now)?));
        }
        if self.walk.options.patch && has_other_content && file_type == FileType::RegularFile {
            change.patch = self.patch(old, now).map(Box::new);
        }
        change.path = path;
        self.found.changes.push(change);
        Ok(())
    }
}

impl<'e> Layer<'e> {
    fn entry(self) -> Entry<'e> {
        let (Self::Upper(entry) | Self::Below(entry)) = self;
        entry
    }
}

impl Entry<'_> {
    fn has_other_names(&self) -> bool {
        file_type(self.stat) != FileType::Directory && self.stat.stx_nlink > 1
    }
}
