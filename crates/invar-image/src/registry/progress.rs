//! How far a transfer is, for whoever shows it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::digest::Digest;

/// What a pull or push tells while it works.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Event {
    /// One more blob is to be transferred; the counter tells how far it is.
    Blob {
        /// Which one.
        digest: Digest,
        /// Its bytes.
        size: u64,
        /// How many of them are there.
        counter: Counter,
    },
    /// One more blob need not be transferred.
    Skipped {
        /// Which one.
        digest: Digest,
        /// Why.
        reason: &'static str,
    },
    /// A request failed and is tried again.
    Retry {
        /// What failed and why.
        reason: String,
    },
    /// Something the user should know.
    Note {
        /// What.
        text: String,
    },
}

/// Takes the events of one transfer; called from several threads.
pub type Listener = Arc<dyn Fn(Event) + Send + Sync>;

/// Bytes transferred so far.
#[derive(Debug, Clone, Default)]
pub struct Counter(Arc<AtomicU64>);

impl Counter {
    /// How many.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    pub(crate) fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }
}
