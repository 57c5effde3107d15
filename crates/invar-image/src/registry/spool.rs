//! A blob that is read while it is still being downloaded.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::parts;
use super::progress::Counter;
use crate::digest::Digest;
use crate::error::{ImageError, Result};

/// One blob: a file, how much of it is there, and how it ended.
#[derive(Debug)]
pub(crate) struct Spool {
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    pub(crate) counter: Counter,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    file: Option<Arc<File>>,
    length: u64,
    resumed: u64,
    /// Whether nothing comes after it: a registry may send more than it said.
    has_ended: bool,
    /// Why the rest does not come.
    error: Option<ImageError>,
    has_failed: bool,
}

impl Spool {
    pub(crate) fn new(digest: Digest, size: u64) -> Arc<Self> {
        Arc::new(Self {
            digest,
            size,
            counter: Counter::default(),
            state: Mutex::default(),
            changed: Condvar::new(),
        })
    }

    /// Opens its file; how much of the blob is there.
    pub(crate) fn open(&self, store: &Path) -> Result<u64> {
        let failed = || ImageError::io("open a download below", store);
        let file = parts::open_part(store, &self.digest)?;
        let mut length = file.metadata().map_err(failed())?.len();
        if length > self.size {
            file.set_len(0).map_err(failed())?;
            length = 0;
        }
        let mut state = self.state();
        state.file = Some(Arc::new(file));
        state.length = length;
        state.resumed = length;
        self.counter.set(length);
        self.changed.notify_all();
        Ok(length)
    }

    pub(crate) fn length(&self) -> u64 {
        self.state().length
    }

    /// Bytes that were there from an earlier pull.
    pub(crate) fn resumed(&self) -> u64 {
        self.state().resumed
    }

    pub(crate) fn is_complete(&self) -> bool {
        self.length() == self.size
    }

    /// Adds what came.
    pub(crate) fn append(&self, bytes: &[u8]) -> io::Result<()> {
        let (file, length) = {
            let state = self.state();
            (state.file.clone(), state.length)
        };
        let file = file.ok_or(io::ErrorKind::NotFound)?;
        file.write_all_at(bytes, length)?;
        let mut state = self.state();
        state.length += bytes.len() as u64;
        self.counter.set(state.length);
        self.changed.notify_all();
        Ok(())
    }

    /// Says that it is complete and that nothing came after it.
    pub(crate) fn end(&self) {
        self.state().has_ended = true;
        self.changed.notify_all();
    }

    /// Says that no more comes, and why.
    pub(crate) fn fail(&self, error: ImageError) {
        let mut state = self.state();
        state.error = Some(error);
        state.has_failed = true;
        self.changed.notify_all();
    }

    /// Lets its readers end: nobody wants the rest.
    pub(crate) fn abandon(&self) {
        self.state().has_failed = true;
        self.changed.notify_all();
    }

    /// Why no more came, once.
    pub(crate) fn take_error(&self) -> Option<ImageError> {
        self.state().error.take()
    }

    /// Lets go of the file.
    pub(crate) fn close(&self) {
        self.state().file = None;
    }

    /// Reads it from its start, waiting for what is still to come.
    pub(crate) fn reader(self: &Arc<Self>) -> SpoolReader {
        SpoolReader {
            spool: Arc::clone(self),
            position: 0,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Follows a download.
pub(crate) struct SpoolReader {
    spool: Arc<Spool>,
    position: u64,
}

impl Read for SpoolReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        let is_whole = self.position == self.spool.size;
        let mut state = self.spool.state();
        while state.length <= self.position {
            if is_whole && state.has_ended {
                return Ok(0);
            }
            if state.has_failed {
                return Err(io::Error::other("the download broke off"));
            }
            let waited = self.spool.changed.wait(state);
            state = waited.unwrap_or_else(PoisonError::into_inner);
        }
        let there = state.length - self.position;
        let file = state.file.clone().ok_or(io::ErrorKind::NotFound)?;
        drop(state);
        let length = usize::try_from(there).map_or(buffer.len(), |there| there.min(buffer.len()));
        let read = file.read_at(&mut buffer[..length], self.position)?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.position += read as u64;
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_gets_everything_in_order_while_it_comes() {
        let store = tempfile::tempdir().unwrap();
        parts::prepare(store.path()).unwrap();
        let content: Vec<u8> = (0..100_000_u32).flat_map(u32::to_le_bytes).collect();
        let spool = Spool::new(Digest::of(&content), content.len() as u64);
        let reading = std::thread::spawn({
            let mut reader = spool.reader();
            move || {
                let mut all = Vec::new();
                reader.read_to_end(&mut all).map(|_| all)
            }
        });
        assert_eq!(spool.open(store.path()).unwrap(), 0);
        for piece in content.chunks(7777) {
            spool.append(piece).unwrap();
        }
        assert!(!reading.is_finished(), "more may follow");
        spool.end();
        assert!(reading.join().unwrap().unwrap() == content);

        // A second download of the same blob at once does not touch the first one's file.
        let second = Spool::new(spool.digest.clone(), spool.size);
        assert_eq!(second.open(store.path()).unwrap(), 0);
        spool.close();
        let third = Spool::new(spool.digest.clone(), spool.size);
        assert_eq!(third.open(store.path()).unwrap(), spool.size);
    }

    #[test]
    fn a_download_that_breaks_off_ends_its_reader() {
        let store = tempfile::tempdir().unwrap();
        parts::prepare(store.path()).unwrap();
        let spool = Spool::new(Digest::of(b"x"), 10);
        spool.open(store.path()).unwrap();
        spool.append(b"half").unwrap();
        spool.fail(ImageError::malformed("blob", "gone"));
        let mut all = Vec::new();
        assert!(spool.reader().read_to_end(&mut all).is_err());
        assert_eq!(all, b"half");
        assert!(spool.take_error().is_some());
    }
}
