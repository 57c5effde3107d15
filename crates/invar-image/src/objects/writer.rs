//! Objects written on a few threads, so that hashing and writing overlap with reading the archive.

use std::io::Read;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::JoinHandle;

use composefs::repository::Repository;

use super::{ObjectId, Objects, put};
use crate::error::{ImageError, Result};

/// Content is handed to the threads in pieces of at most this size.
const CHUNK: u64 = 1 << 20;
/// Most bytes of small files waiting for a thread are this times [`CHUNK`].
const QUEUE: usize = 32;
/// Most pieces of one large file waiting for its thread.
const CHUNKS: usize = 4;

/// An object being written; its id once that is done.
#[derive(Debug, Clone)]
pub(crate) struct Pending(Arc<OnceLock<std::result::Result<ObjectId, String>>>);

impl Pending {
    /// Whether [`Pending::wait`] would not block.
    pub(crate) fn is_done(&self) -> bool {
        self.0.get().is_some()
    }

    /// The object's id, once it is in the store.
    pub(crate) fn wait(&self) -> Result<ObjectId> {
        self.0.wait().clone().map_err(|reason| ImageError::Store {
            action: "write an object",
            reason,
        })
    }
}

enum Content {
    Whole(Vec<u8>),
    Chunks(Receiver<Vec<u8>>, u64),
}

struct Job {
    content: Content,
    slot: Pending,
}

/// The writing threads; dropping it waits for them.
pub(crate) struct ObjectWriter {
    queue: Option<SyncSender<Job>>,
    threads: Vec<JoinHandle<()>>,
}

impl ObjectWriter {
    pub(crate) fn new(objects: &Objects) -> Self {
        let (queue, jobs) = sync_channel::<Job>(QUEUE);
        let jobs = Arc::new(Mutex::new(jobs));
        let count = std::thread::available_parallelism().map_or(1, |n| n.get().min(8));
        let threads = (0..count)
            .map(|_| {
                let (objects, jobs) = (Arc::clone(objects), Arc::clone(&jobs));
                std::thread::spawn(move || write_all(&objects, &jobs))
            })
            .collect();
        Self {
            queue: Some(queue),
            threads,
        }
    }

    /// Stores exactly `size` bytes from `source`, of which few are in memory at once.
    pub(crate) fn store(&self, source: impl Read, size: u64) -> Result<Pending> {
        if size <= CHUNK {
            return Ok(self.send(Content::Whole(read_exactly(source, size)?)));
        }
        let mut source = source.take(size);
        let (chunks, received) = sync_channel(CHUNKS);
        let pending = self.send(Content::Chunks(received, size));
        let mut left = size;
        while left > 0 {
            let chunk = read_exactly(&mut source, left.min(CHUNK))?;
            left -= chunk.len() as u64;
            if chunks.send(chunk).is_err() {
                // Its thread gave up; the reason is in the slot.
                break;
            }
        }
        drop(chunks);
        if left > 0 {
            pending.wait()?;
        }
        Ok(pending)
    }

    fn send(&self, content: Content) -> Pending {
        let slot = Pending(Arc::default());
        let job = Job {
            content,
            slot: slot.clone(),
        };
        if let Some(queue) = &self.queue {
            queue.send(job).expect("the threads live as long as self");
        }
        slot
    }
}

impl Drop for ObjectWriter {
    fn drop(&mut self) {
        self.queue = None;
        for thread in self.threads.drain(..) {
            // A thread that panicked left its slot empty; nobody waits for it any more.
            drop(thread.join());
        }
    }
}

fn write_all(objects: &Repository<ObjectId>, jobs: &Mutex<Receiver<Job>>) {
    loop {
        let next = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(Job { content, slot }) = next else {
            return;
        };
        let written = match content {
            Content::Whole(data) => put::put(objects, &data),
            Content::Chunks(chunks, size) => put::put_chunks(objects, chunks.into_iter(), size),
        };
        drop(slot.0.set(written.map_err(|error| error.to_string())));
    }
}

/// Reads exactly `length` bytes, in memory.
fn read_exactly(source: impl Read, length: u64) -> Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(usize::try_from(length).unwrap_or(0));
    let read = source.take(length).read_to_end(&mut bytes);
    match read {
        Ok(read) if read as u64 == length => Ok(bytes),
        Ok(_) => Err(ImageError::malformed("archive", "it ends inside a file")),
        Err(error) => Err(ImageError::malformed("archive", error)),
    }
}
