//! The content-addressed files of the store, written by a few threads at once.
//!
//! An object is named by its fs-verity digest (SHA-256, 4 KiB blocks), so that the kernel can
//! check it on every read where the file system supports that.

use std::io::Read;
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::JoinHandle;

use composefs::fsverity::{Algorithm, Sha256HashValue};
use composefs::repository::{Repository, RepositoryConfig};
use rustix::fs::CWD;

use crate::error::{ImageError, Result};

/// Names one object.
pub(crate) type ObjectId = Sha256HashValue;
/// The objects of a store.
pub(crate) type Objects = Arc<Repository<ObjectId>>;

/// Opens the object store at `path`, made when missing.
pub(crate) fn open(path: &Path) -> Result<Objects> {
    // Checked by `image fsck` and at import; the kernel's own check (fs-verity) is used for
    // mounts where it exists, so the store itself must not insist on it.
    let config = RepositoryConfig::new(Algorithm::SHA256).set_insecure();
    let (mut repository, _is_new) =
        Repository::init_path(CWD, path, config).map_err(ImageError::store("open it"))?;
    repository.set_insecure();
    Ok(Arc::new(repository))
}

/// Files up to this size are handed to the writing threads; larger ones are written while read.
pub(crate) const LARGEST_QUEUED: u64 = 1 << 20;
/// Files waiting for a thread: at most this many times [`LARGEST_QUEUED`] bytes of memory.
const QUEUE: usize = 32;

/// An object being written; its id once that is done.
#[derive(Debug, Clone)]
pub(crate) struct Pending(Arc<OnceLock<std::result::Result<ObjectId, String>>>);

impl Pending {
    fn done(id: ObjectId) -> Self {
        Self(Arc::new(OnceLock::from(Ok(id))))
    }

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

struct Job {
    data: Vec<u8>,
    slot: Pending,
}

/// Writes objects on several threads, so that hashing them overlaps with reading the archive.
pub(crate) struct ObjectWriter {
    objects: Objects,
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
            objects: Arc::clone(objects),
            queue: Some(queue),
            threads,
        }
    }

    /// Stores bytes that are in memory.
    pub(crate) fn write(&self, data: Vec<u8>) -> Pending {
        let slot = Pending(Arc::default());
        let job = Job {
            data,
            slot: slot.clone(),
        };
        if let Some(queue) = &self.queue {
            queue.send(job).expect("the threads live as long as self");
        }
        slot
    }

    /// Stores exactly `size` bytes from `source`, never holding all of them in memory.
    pub(crate) fn copy(&self, source: impl Read, size: u64) -> Result<Pending> {
        let mut source = source.take(size);
        let id = self
            .objects
            .ensure_object_from_reader(&mut source, size)
            .map_err(ImageError::store("write an object"))?;
        if source.limit() > 0 {
            return Err(ImageError::malformed("archive", "it ends inside a file"));
        }
        Ok(Pending::done(id))
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
        let Ok(Job { data, slot }) = next else { return };
        let written = objects.ensure_object(&data);
        let result = written.map_err(|error| format!("{error:#}"));
        drop(slot.0.set(result));
    }
}
