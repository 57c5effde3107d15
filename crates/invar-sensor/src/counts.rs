//! What happened, in numbers; above all what was lost.

use std::sync::atomic::{AtomicU64, Ordering};

/// Numbers since the sensor began.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Counts {
    /// Events handed out.
    pub events: u64,
    /// Programs and openings refused.
    pub blocked: u64,
    /// The same again, within a second of being told, by the same process.
    pub repeated: u64,
    /// Times the kernel's queue was full; each is followed by a walk.
    pub overflows: u64,
    /// Events that the reader did not take in time.
    pub dropped: u64,
    /// Changes that only a walk has found.
    pub missed: u64,
}

/// The same, written by several threads.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) events: AtomicU64,
    pub(crate) blocked: AtomicU64,
    pub(crate) repeated: AtomicU64,
    pub(crate) overflows: AtomicU64,
    pub(crate) dropped: AtomicU64,
    pub(crate) missed: AtomicU64,
}

impl Tally {
    pub(crate) fn now(&self) -> Counts {
        let of = |number: &AtomicU64| number.load(Ordering::Relaxed);
        Counts {
            events: of(&self.events),
            blocked: of(&self.blocked),
            repeated: of(&self.repeated),
            overflows: of(&self.overflows),
            dropped: of(&self.dropped),
            missed: of(&self.missed),
        }
    }
}

/// Counts one more, or several.
pub(crate) fn add(number: &AtomicU64, more: u64) {
    number.fetch_add(more, Ordering::Relaxed);
}
