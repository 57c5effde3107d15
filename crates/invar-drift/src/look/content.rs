//! What a file holds now: where that is, and what reading it tells.

use std::sync::atomic::Ordering;

use rustix::fs::FileType;
use rustix::io::Result;

use super::{Layer, Look};
use crate::compare::Entry;
use crate::content::{self, Content, Sniff};
use crate::detail::Digest;
use crate::dir::{file_type, has_changed, open_file};
use crate::judge::{Facts, Need};
use crate::overlay::{Location, follow, join};
use crate::patch::{self, Patch};

/// Text shown of all files together; more is not read by anybody.
const PATCHED: u64 = 64 << 20;

/// What a file holds now.
pub(super) enum Now {
    /// What the image has at the same path: only its metadata was copied up.
    AsInImage,
    /// This.
    Open(Content),
    /// Nothing.
    Empty,
    /// It cannot be told: gone or changed while it was looked at, or no regular file.
    Unknown,
}

impl Look<'_, '_> {
    /// Opens what a file holds now, when content is asked for at all.
    pub(super) fn now(&self, layer: Layer<'_>, path: &[u8]) -> Result<Now> {
        let new = layer.entry();
        if !self.walk.options.content || file_type(new.stat) != FileType::RegularFile {
            return Ok(Now::Unknown);
        }
        if new.stat.stx_size == 0 {
            return Ok(Now::Empty);
        }
        let source = self.chunk.place.source.as_deref();
        let location = match layer {
            Layer::Upper(new) => {
                let namespace = self.walk.options.namespace;
                Location::of(new.dir, new.name, namespace)?
            }
            Layer::Below(_) => Location::Below,
        };
        let below = match location {
            Location::Here => None,
            Location::Below => Some(source.map(|dir| join(dir, new.name.to_bytes()))),
            Location::Redirected(redirect) => Some(follow(&redirect, source)),
        };
        let opened = match below {
            None => open_file(new.dir, new.name.to_bytes()),
            Some(Some(below)) if below == path => return Ok(Now::AsInImage),
            Some(Some(below)) => open_file(self.walk.lower, &below),
            // A mark that leads nowhere: the kernel would not give the content either.
            Some(None) => return Ok(Now::Unknown),
        };
        match opened {
            Ok(content) => Ok(Now::Open(content)),
            Err(errno) if has_changed(errno) => {
                self.walk.unstable.fetch_add(1, Ordering::Relaxed);
                Ok(Now::Unknown)
            }
            Err(errno) => Err(errno),
        }
    }

    /// Looks into a file as far as some rule asks for it. What cannot be read fits no such rule.
    pub(super) fn sniff(&self, facts: &Facts<'_>, now: &Now) -> Option<Sniff> {
        let Now::Open(content) = now else {
            return None;
        };
        match facts.need(&self.candidates) {
            Need::Nothing => None,
            Need::Magic => content.sniff(None).ok(),
            Need::Patterns => content.sniff(self.candidates.patterns).ok(),
        }
    }

    pub(super) fn old_digest(&self, old: Entry<'_>) -> Digest {
        let is_file = file_type(old.stat) == FileType::RegularFile;
        if !self.walk.options.content || !is_file {
            return Digest::None;
        }
        open_file(old.dir, old.name.to_bytes()).map_or(Digest::Unreadable, |file| file.digest())
    }

    pub(super) fn patch(&self, old: Option<Entry<'_>>, now: &Now) -> Option<Patch> {
        let after = match now {
            Now::Open(new) => new.whole(patch::LONGEST),
            Now::Empty => Ok(Some(Vec::new())),
            Now::AsInImage | Now::Unknown => return None,
        };
        if self.walk.patched.load(Ordering::Relaxed) > PATCHED {
            return Some(Patch::Omitted("enough was shown"));
        }
        let before = match old {
            Some(old) if file_type(old.stat) == FileType::RegularFile => {
                open_file(old.dir, old.name.to_bytes()).and_then(|old| old.whole(patch::LONGEST))
            }
            _ => Ok(Some(Vec::new())),
        };
        let patch = match (before, after) {
            (Ok(Some(before)), Ok(Some(after))) => patch::unified(&before, &after),
            (Ok(_), Ok(_)) => Patch::Omitted("too long"),
            _ => Patch::Omitted("changed meanwhile"),
        };
        if let Patch::Unified(text) = &patch {
            self.walk
                .patched
                .fetch_add(text.len() as u64, Ordering::Relaxed);
        }
        Some(patch)
    }
}

pub(super) fn content_differs(now: &Now, old: Entry<'_>) -> Result<bool> {
    match now {
        // Of an empty file the size has told already.
        Now::AsInImage | Now::Empty => Ok(false),
        Now::Unknown => Ok(true),
        Now::Open(new) => {
            let old = open_file(old.dir, old.name.to_bytes())?;
            content::same(new, &old).map(|same| !same)
        }
    }
}
