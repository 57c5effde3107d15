//! How an entry came to be what it is, by the marks that overlayfs keeps.

use rustix::fs::FileType;
use rustix::io::Result;

use super::content::Now;
use super::{Layer, Look};
use crate::compare::Entry;
use crate::detail::{Detail, Digest, Provenance, State};
use crate::dir::get_attribute;
use crate::origin::{Mark, Origin};
use crate::overlay::{follow, join};

impl Look<'_, '_> {
    pub(super) fn detail(
        &mut self,
        layer: Layer<'_>,
        old: Option<Entry<'_>>,
        path: &[u8],
        now: &Now,
    ) -> Result<Detail> {
        let namespace = self.walk.options.namespace;
        let mut new = State::read(layer.entry(), namespace)?;
        let provenance = self.provenance(layer, old, path)?;
        let old = match old {
            Some(entry) => {
                let mut state = State::read(entry, namespace)?;
                state.digest = self.old_digest(entry);
                Some(state)
            }
            None => None,
        };
        let is_asked = self.walk.options.content && new.file_type == FileType::RegularFile;
        new.digest = match now {
            _ if !is_asked => Digest::None,
            Now::Open(content) => content.digest(),
            Now::Empty => Digest::of_nothing(),
            Now::AsInImage => old.as_ref().map_or(Digest::Unreadable, |old| old.digest),
            Now::Unknown => Digest::Unreadable,
        };
        Ok(Detail {
            provenance,
            old,
            new: Some(new),
        })
    }

    /// How a path got what it has. Where only a handle tells, the name is found later.
    fn provenance(
        &mut self,
        layer: Layer<'_>,
        old: Option<Entry<'_>>,
        path: &[u8],
    ) -> Result<Option<Provenance>> {
        let source = self.chunk.place.source.as_deref();
        let new = match layer {
            Layer::Upper(new) => new,
            Layer::Below(new) => {
                let from = source.map(|source| join(source, new.name.to_bytes()));
                return Ok(Some(Provenance::Renamed { from }));
            }
        };
        let namespace = self.walk.options.namespace;
        if let Some(redirect) = get_attribute(new.dir, new.name, namespace.redirect())? {
            let from = follow(&redirect, source);
            if from.as_deref() != Some(path) {
                return Ok(Some(Provenance::Renamed { from }));
            }
        }
        let mark = Mark::read(new.dir, new.name, namespace)?;
        let own = match old {
            Some(old) => Origin::of_lower(old.dir, old.name)?,
            None => None,
        };
        Ok(match (mark, old) {
            (Mark::None, None) => Some(Provenance::New),
            // Of a file with several names no origin is kept.
            (Mark::None, Some(old)) if old.has_other_names() => None,
            (Mark::None, Some(_)) => Some(Provenance::Replaced),
            (Mark::Unnamed, None) => Some(Provenance::Renamed { from: None }),
            (Mark::Unnamed, Some(_)) => None,
            (Mark::Of(origin), Some(_)) if own.as_ref() == Some(&origin) => {
                Some(Provenance::Edited)
            }
            (Mark::Of(origin), _) => {
                self.found.moved.push((path.to_vec(), origin));
                Some(Provenance::Renamed { from: None })
            }
        })
    }

    /// Remembers files with several names, which an upper directory shows under one only.
    pub(super) fn note_links(
        &mut self,
        new: Entry<'_>,
        path: &[u8],
        is_changed: bool,
    ) -> Result<()> {
        if !new.has_other_names() {
            return Ok(());
        }
        if !is_changed {
            if self.walk.options.detail {
                self.found.unchanged_links.push(path.to_vec());
            }
            return Ok(());
        }
        let namespace = self.walk.options.namespace;
        if get_attribute(new.dir, new.name, namespace.names_counted())?.is_some()
            && let Mark::Of(origin) = Mark::read(new.dir, new.name, namespace)?
        {
            self.found.indexed.push((origin, path.to_vec()));
        }
        Ok(())
    }
}
