//! What the layers of one image have used up of its limits.

use std::cell::Cell;
use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::limits::Limits;

/// Most lookups of a name for each entry of [`Limits::entries`], on average: paths through long
/// chains of symbolic links could otherwise take hours.
const LOOKUPS: u64 = 500;

/// Counts down from an image's [`Limits`].
#[derive(Debug)]
pub(crate) struct Budget {
    pub(super) limits: Limits,
    content: u64,
    entries: u64,
    memory: u64,
    lookups: Cell<u64>,
    archive: Arc<AtomicU64>,
}

impl Budget {
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            limits,
            content: 0,
            entries: 0,
            memory: 0,
            lookups: Cell::new(0),
            archive: Arc::default(),
        }
    }

    /// Counts the bytes of an archive before they are decompressed.
    pub(crate) fn counted<R>(&self, inner: R) -> CountedReader<R> {
        CountedReader {
            inner,
            count: Arc::clone(&self.archive),
        }
    }

    /// Accounts for one file or directory, and what the tree keeps of it in memory. The reason
    /// when that is too much.
    pub(super) fn entry(&mut self, memory: usize) -> Result<(), String> {
        self.entries += 1;
        self.memory += memory as u64;
        let limits = &self.limits;
        if self.entries > limits.entries {
            return Err(format!(
                "the image has more than {} entries",
                limits.entries
            ));
        }
        if self.memory > limits.memory {
            return Err(format!(
                "the image's names, link targets and extended attributes have more than {} bytes",
                limits.memory
            ));
        }
        Ok(())
    }

    /// Accounts for content, before any of it is read.
    pub(crate) fn content(&mut self, bytes: u64) -> Result<(), String> {
        self.content = self.content.saturating_add(bytes);
        let limits = &self.limits;
        if self.content > limits.unpacked {
            return Err(format!(
                "the unpacked image is larger than {} bytes",
                limits.unpacked
            ));
        }
        let by_ratio = self
            .archive
            .load(Ordering::Relaxed)
            .saturating_mul(limits.ratio);
        if self.content > limits.ratio_from && self.content > by_ratio {
            return Err(format!(
                "the unpacked image is larger than {} times its archive",
                limits.ratio
            ));
        }
        Ok(())
    }

    /// Accounts for one name looked up.
    pub(super) fn lookup(&self) -> Result<(), String> {
        self.lookups.set(self.lookups.get() + 1);
        if self.lookups.get() > self.limits.entries.saturating_mul(LOOKUPS) {
            return Err("the image's paths take too long to follow".to_owned());
        }
        Ok(())
    }
}

/// Counts what is read through it.
pub(crate) struct CountedReader<R> {
    inner: R,
    count: Arc<AtomicU64>,
}

impl<R> CountedReader<R> {
    pub(crate) fn into_inner(self) -> R {
        self.inner
    }
}

impl<R: Read> Read for CountedReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let length = self.inner.read(buffer)?;
        self.count.fetch_add(length as u64, Ordering::Relaxed);
        Ok(length)
    }
}
