//! `changes.jsonl`: each changed path with both verdicts, and everything known of it now and in
//! the image.

use std::ffi::CString;
use std::io::{BufWriter, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::Path;

use invar_drift::{Aside, Change, Kind, Options, open_beneath};
use rayon::prelude::*;
use rustix::fs::OFlags;
use serde::Serialize;

use super::below::Below;
use super::log::{Log, Step};
use super::upper;
use crate::digest;
use crate::error::{EvidenceError, Result};
use crate::files;
use crate::header::Marks;
use crate::limits::Budget;
use crate::tree::entry::{Entry, EntryKind};
use crate::tree::list::Reader;
use crate::tree::walk::Found;
use crate::tree::{check, name, open_file, parent, stat};

/// Its name in the evidence.
pub(crate) const NAME: &str = "changes.jsonl";
/// Changes looked up in the image in one go.
const BATCH: usize = 512;
/// Files of the image up to this size are hashed.
const LARGEST_HASHED: u64 = 1 << 30;

/// One line; the change as `invar diff --format jsonl` writes it, and more.
#[derive(Serialize)]
struct Line<'a> {
    #[serde(flatten)]
    change: &'a Change,
    /// As it is in the container.
    #[serde(skip_serializing_if = "Option::is_none")]
    now: Option<Entry>,
    /// As it is in the image.
    #[serde(skip_serializing_if = "Option::is_none")]
    before: Option<Entry>,
}

/// Compares an upper directory with what is below it, content included; what is found is put aside
/// in `scratch`.
pub(crate) fn compare(
    lower: BorrowedFd<'_>,
    upper: BorrowedFd<'_>,
    marks: Marks,
    scratch: &Path,
) -> Result<Aside> {
    let options = Options {
        content: true,
        namespace: marks.namespace(),
        ..Options::default()
    };
    Ok(invar_drift::compare_aside(lower, upper, &options, scratch)?)
}

/// Writes them, in the order of the listing of the upper directory, which must be complete.
pub(crate) fn write(
    found: Aside,
    lower: BorrowedFd<'_>,
    dir: &Path,
    budget: &mut Budget,
    log: &mut Log,
) -> Result<()> {
    let mut below = Below::new(lower, dir, budget);
    let path = dir.join(NAME);
    let mut out = BufWriter::with_capacity(1 << 16, files::create(&path)?);
    let mut listing = Reader::open(&upper::listing(dir, "upper"))?;
    let mut next = listing.next().transpose()?;
    let (mut count, mut found) = (0, found.peekable());
    while found.peek().is_some() {
        let changes: Vec<Change> = found
            .by_ref()
            .take(BATCH)
            .collect::<std::io::Result<_>>()
            .map_err(EvidenceError::io("sort the changes in", dir))?;
        count += changes.len();
        let before: Vec<Option<Entry>> = changes
            .par_iter()
            .map(|change| in_image(lower, change))
            .collect();
        for (change, before) in changes.iter().zip(before) {
            while let Some(entry) = &next
                && check::order(&entry.path, &change.path).is_lt()
            {
                next = listing.next().transpose()?;
            }
            let now = next.take_if(|entry| entry.path == change.path);
            let now = now_of(change, now, &mut below, log)?;
            let line = Line {
                change,
                now,
                before,
            };
            serde_json::to_writer(&mut out, &line)
                .map_err(std::io::Error::from)
                .and_then(|()| out.write_all(b"\n"))
                .map_err(EvidenceError::io("write", &path))?;
            if next.is_none() {
                next = listing.next().transpose()?;
            }
        }
    }
    out.flush().map_err(EvidenceError::io("write", &path))?;
    below.finish()?;
    log.step(Step::Changes { count })
}

/// What the container has at the path of a change, given what its upper directory has.
fn now_of(
    change: &Change,
    listed: Option<Entry>,
    below: &mut Below<'_>,
    log: &mut Log,
) -> Result<Option<Entry>> {
    match change.actual.or(change.compatible) {
        Some(Kind::Added | Kind::Changed) if Below::is_needed(listed.as_ref()) => {
            below.keep(&change.path, log)
        }
        Some(Kind::Deleted) => Ok(None),
        _ => Ok(listed),
    }
}

/// What the image has at the path of a change.
fn in_image(lower: BorrowedFd<'_>, change: &Change) -> Option<Entry> {
    if change.actual.or(change.compatible) == Some(Kind::Added) {
        return None;
    }
    let way = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW;
    let dir = open_beneath(lower, parent(&change.path), way).ok()?;
    let name = CString::new(name(&change.path)).ok()?;
    let stat = stat(dir.as_fd(), &name).ok()?;
    let mut entry = Entry::read(&Found {
        dir: dir.as_fd(),
        name: &name,
        path: &change.path,
        stat: &stat,
    })
    .ok()?;
    if entry.kind == EntryKind::File && entry.size <= LARGEST_HASHED {
        let file = open_file(lower, &change.path).ok()?;
        entry.digest = digest::content(file).ok();
    }
    Some(entry)
}
