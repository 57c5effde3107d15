//! A container compared with its image: what was added, changed and deleted.
//!
//! ```text
//!  upper ──walk──▶ entries ──compare with lower──▶ verdicts ──judge──▶ severity, finding
//!  (overlay's own directory: whiteouts, opaque, redirect, metacopy)       (rules: a table)
//! ```
//!
//! Only the upper directory is walked, so the cost grows with what changed and not with the image.
//! Each path gets two verdicts: *compatible*, which is what `docker diff` says, and *actual*, which
//! is what differs by content, metadata and extended attributes.
//!
//! Invariants: nothing in either directory chooses a path outside of it (`openat2`, beneath, no
//! links); FIFOs, sockets and devices are never opened; file content is read only when asked for;
//! open handles and stack do not grow with the depth of the tree. The container may write during
//! the walk: what vanishes is skipped. Exact results need a frozen or stopped container.
#![forbid(unsafe_code)]

mod ancestors;
mod aside;
mod capability;
mod change;
mod compare;
mod content;
mod detail;
mod dir;
mod entries;
mod error;
mod glob;
mod hardlinks;
mod judge;
mod look;
mod mounts;
mod origin;
mod overlay;
mod patch;
pub mod path;
mod renames;
mod rules;
mod sorter;
mod text;
mod volumes;
mod walk;

use std::os::fd::BorrowedFd;
use std::path::Path;
use std::sync::Arc;

pub use aside::Aside;
pub use capability::FileCapability;
pub use change::{Change, Kind, Reason, Reasons, Severity};
pub use detail::{Detail, Digest, Provenance, State, Time, Xattr, type_name};
pub use dir::{Attribute, attributes, open_beneath};
pub use error::{DriftError, Result};
pub use glob::Glob;
pub use mounts::{Mount, MountKind, ProcessRoot, namespace_of};
pub use overlay::Namespace;
pub use patch::Patch;
pub use rules::{Finding, Rules, RulesError};
pub use sorter::{Sorted, Sorter};
pub use text::{escape, escape_line};
pub use volumes::{Listing, Present, list as list_mount};

/// What to look at.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Read content: compare files whose size is the same, and look for what rules name. Without
    /// it, no file is read.
    pub content: bool,
    /// Give both states of each path in full; with `content`, digests too.
    pub detail: bool,
    /// Show how small text files changed; needs `content`.
    pub patch: bool,
    /// Which extended attributes the overlay keeps its marks in.
    pub namespace: Namespace,
    /// How changes are judged; `None` for the rules that come with Invar.
    pub rules: Option<Arc<Rules>>,
}

/// What a comparison found.
#[derive(Debug, Default)]
pub struct Comparison {
    /// Every path with a verdict, each directory before what is in it.
    pub changes: Vec<Change>,
    /// Files copied up with the size and times they have in the image, whose content was not
    /// compared: an edit that restored the time would be among them.
    pub unread: u64,
    /// Paths that were replaced or removed while they were looked at; not zero only when the
    /// container runs.
    pub unstable: u64,
}

/// Compares an overlay's upper directory with the merged, read-only directory below it.
///
/// Directories come before what is in them.
pub fn changes(
    lower: BorrowedFd<'_>,
    upper: BorrowedFd<'_>,
    options: &Options,
) -> Result<Vec<Change>> {
    Ok(compare(lower, upper, options)?.changes)
}

/// As [`changes`], with what was left unread.
pub fn compare(
    lower: BorrowedFd<'_>,
    upper: BorrowedFd<'_>,
    options: &Options,
) -> Result<Comparison> {
    walk::Walk::new(lower, upper, options).run()
}

/// As [`compare`], in memory that does not grow with the number of changes: they are put aside in
/// files without names in the directory `scratch`. Details and patches are left out.
pub fn compare_aside(
    lower: BorrowedFd<'_>,
    upper: BorrowedFd<'_>,
    options: &Options,
    scratch: &Path,
) -> Result<Aside> {
    walk::Walk::new(lower, upper, options).run_aside(scratch)
}

/// An engine's own list as changes, each directory before what is in it. Only names are known:
/// they are judged by name, and what is true stays open.
pub fn reported(list: Vec<(Kind, Vec<u8>)>, rules: &Rules) -> Vec<Change> {
    let judged = list.into_iter().map(|(kind, path)| {
        let candidates = rules.in_directory(overlay::parent(&path));
        let rule = judge::Facts::of_name(&path, kind).judge(&candidates);
        judge::change(path, Some(kind), None, Reasons::default(), rule)
    });
    let mut changes: Vec<Change> = judged.collect();
    changes.sort_by(|a, b| ancestors::tree_order(&a.path, &b.path));
    for index in 1..changes.len() {
        let (before, after) = changes.split_at_mut(index);
        let (dir, next) = (&mut before[index - 1], &after[0]);
        // Listed because of what is in it.
        if dir.compatible == Some(Kind::Changed) && overlay::parent(&next.path) == dir.path {
            dir.severity = Severity::Info;
            dir.finding = None;
        }
    }
    changes
}

/// What reads bytes from outside, for fuzzing; nothing else uses it.
#[doc(hidden)]
pub mod fuzzing {
    use crate::{FileCapability, Glob, RulesError, origin, rules};

    /// A file of rules.
    pub fn rules(text: &str) -> Result<(), RulesError> {
        rules::check(text)
    }

    /// The values of extended attributes that are decoded.
    pub fn attributes(value: &[u8]) {
        if let Some(capability) = FileCapability::decode(value) {
            drop(capability.to_string());
        }
        drop(origin::decode(value));
    }

    /// A pattern for paths against a path.
    pub fn glob(pattern: &str, path: &[u8]) -> bool {
        Glob::parse(pattern).is_ok_and(|glob| glob.fits(path))
    }
}
