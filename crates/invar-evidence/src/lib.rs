//! Evidence of a container: captured, sealed, verified; and the container replaced by a fresh one.
//!
//! ```text
//!  Engine ──▶ capture ──▶ draft (.incomplete-ID) ──▶ seal ──▶ evidence ID ──▶ verify · show · export
//!               │ freeze · processes · upper directory · kill or go on
//!               └────────────── replace: fresh container first, then this, then the name
//! ```
//!
//! Invariants: nothing is executed inside the container; it never stays frozen because something
//! failed; what was taken is never lost, also when Invar is killed; what was not captured is named
//! with the reason; sealed evidence does not change. Nothing a container wrote is followed,
//! executed, or read without a bound.
//!
//! This crate knows no engine by name: it needs a lower and an upper directory, the processes, and
//! a way to freeze them. It does not decide when a container is captured or replaced.
#![forbid(unsafe_code)]

mod archive;
mod capture;
mod custody;
mod digest;
mod error;
mod export;
mod failpoint;
mod files;
#[cfg(any(fuzzing, test))]
pub mod fuzzing;
mod header;
mod id;
mod limits;
mod lines;
mod open;
#[cfg(test)]
mod outside;
mod replace;
mod report;
mod seal;
mod store;
mod text;
mod tree;
mod verify;

use invar_engine::{Container, Engine};

pub use archive::{LONGEST_SIGNATURE, verify_archive};
pub use capture::Kept;
pub use capture::log::{Record, Step, What};
pub use capture::processes::{LostFile, Process};
pub use custody::Action;
pub use digest::ContentDigest;
pub use error::{EvidenceError, Result};
pub use export::{Exported, export, redact};
pub use header::{Features, Gap, Header, Marks, Plan, Subject, Summary, Volumes, Wanted};
pub use id::EvidenceId;
pub use limits::Limits;
pub use open::open;
pub use replace::{Order, ReplaceOptions, Replacement, Traffic, recover, replace, unfinished};
pub use report::report;
pub use seal::key::PublicKey;
pub use seal::record;
pub use store::{Evidence, EvidenceStore, State, Witness};
pub use tree::entry::{Entry, EntryKind, Instant};
pub use tree::take::{Method, Taken};
pub use verify::{Problem, Verification, verify};

/// Captures a container and seals what was found. `kept` hears when nothing that matters can
/// change or vanish any more, and only comparing, hashing and signing is left.
pub fn capture(
    store: &EvidenceStore,
    engine: &dyn Engine,
    container: &Container,
    plan: Plan,
    limits: Limits,
    kept: &mut dyn FnMut(&Kept<'_>),
) -> Result<Evidence> {
    let mut capture = capture::Capture::begin(store, engine, container, plan, limits)?;
    capture.take()?;
    kept(&capture.keep()?);
    seal::seal(store, capture.complete()?)
}

/// Goes on with a capture that broke off, as far as the container allows, and seals it.
pub fn finish(
    store: &EvidenceStore,
    evidence: &Evidence,
    engine: &dyn Engine,
    limits: Limits,
) -> Result<Evidence> {
    seal::seal(store, capture::take_up(store, evidence, engine, limits)?)
}
