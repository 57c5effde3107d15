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
mod change;
mod compare;
mod dir;
mod entries;
mod error;
mod judge;
mod overlay;
mod rules;
mod walk;

use std::os::fd::BorrowedFd;

pub use change::{Change, Kind, Reason, Reasons, Severity};
pub use dir::{Attribute, attributes, open_beneath};
pub use error::{DriftError, Result};
pub use judge::Finding;
pub use overlay::Namespace;

/// What to look at.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Options {
    /// Compare the content of files whose size is the same; without it, no file is read.
    pub content: bool,
    /// Which extended attributes the overlay keeps its marks in.
    pub namespace: Namespace,
}

/// What a comparison found.
#[derive(Debug, Default)]
pub struct Comparison {
    /// Every path with a verdict, each directory before what is in it.
    pub changes: Vec<Change>,
    /// Files copied up with the size and times they have in the image, whose content was not
    /// compared: an edit that restored the time would be among them.
    pub unread: u64,
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
    walk::Walk::new(lower, upper, *options).run()
}
