//! Blobs, several at a time, each going on where it broke off.

use std::io::Read as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use http::header::{CONTENT_RANGE, RANGE};
use http::{HeaderValue, Method};

use super::client::{Call, Client, Session};
use super::error::RegistryError;
use super::progress::Event;
use super::spool::Spool;
use crate::error::{ImageError, Result};

/// Blobs that are downloaded at once.
const AT_ONCE: usize = 4;
/// Blobs that may be complete and not yet unpacked: each has an open file.
const AHEAD: usize = 32;
/// Bytes are handed on in pieces of this size.
const PIECE: usize = 256 << 10;

/// The blobs of one pull, in the order in which they are needed.
pub(crate) struct Downloads<'a> {
    client: &'a Arc<Client>,
    store: &'a Path,
    spools: &'a [Arc<Spool>],
    next: AtomicUsize,
    is_stopped: AtomicBool,
    unpacked: Mutex<usize>,
    changed: Condvar,
}

impl<'a> Downloads<'a> {
    pub(crate) fn new(client: &'a Arc<Client>, store: &'a Path, spools: &'a [Arc<Spool>]) -> Self {
        Self {
            client,
            store,
            spools,
            next: AtomicUsize::new(0),
            is_stopped: AtomicBool::new(false),
            unpacked: Mutex::new(0),
            changed: Condvar::new(),
        }
    }

    /// Starts the threads, which end with the scope.
    pub(crate) fn start<'scope>(&'scope self, scope: &'scope std::thread::Scope<'scope, '_>) {
        for _ in 0..AT_ONCE.min(self.spools.len()) {
            scope.spawn(|| self.work());
        }
    }

    /// The first blobs, this many, need no file any more.
    pub(crate) fn unpacked(&self, count: usize) {
        let mut unpacked = self.unpacked.lock().unwrap_or_else(PoisonError::into_inner);
        *unpacked = count.max(*unpacked);
        self.changed.notify_all();
    }

    /// Ends the threads as soon as they can.
    pub(crate) fn stop(&self) {
        self.is_stopped.store(true, Ordering::Relaxed);
        self.unpacked(usize::MAX);
    }

    fn is_stopped(&self) -> bool {
        self.is_stopped.load(Ordering::Relaxed)
    }

    fn work(&self) {
        let session = Session::new(self.client);
        let mut session = match session {
            Ok(session) => session,
            Err(error) => {
                if let Some(spool) = self.spools.get(self.next.fetch_add(1, Ordering::Relaxed)) {
                    spool.fail(error.into());
                }
                return;
            }
        };
        loop {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            let Some(spool) = self.spools.get(number) else {
                return;
            };
            let mut unpacked = self.unpacked.lock().unwrap_or_else(PoisonError::into_inner);
            while number >= unpacked.saturating_add(AHEAD) {
                let waited = self.changed.wait(unpacked);
                unpacked = waited.unwrap_or_else(PoisonError::into_inner);
            }
            drop(unpacked);
            if self.is_stopped() {
                return;
            }
            match self.fetch(&mut session, spool) {
                Ok(()) => spool.end(),
                Err(error) => spool.fail(error),
            }
        }
    }

    fn fetch(&self, session: &mut Session, spool: &Spool) -> Result<()> {
        spool.open(self.store)?;
        (self.client.listener)(Event::Blob {
            digest: spool.digest.clone(),
            size: spool.size,
            counter: spool.counter.clone(),
        });
        let mut failures = 0;
        while !spool.is_complete() {
            let before = spool.length();
            let error = match self.attempt(session, spool) {
                Ok(()) => return Ok(()),
                Err(ImageError::Registry(error)) if error.is_transient() => error,
                Err(error) => return Err(error),
            };
            if self.is_stopped() {
                return Err((*error).into());
            }
            // A connection that breaks now and then is no reason to give up.
            failures = if spool.length() > before {
                1
            } else {
                failures + 1
            };
            session.wait(failures, None, *error)?;
        }
        Ok(())
    }

    fn attempt(&self, session: &mut Session, spool: &Spool) -> Result<()> {
        let start = spool.length();
        let what = format!("blob {}", spool.digest);
        let wrong = |reason: String| RegistryError::protocol(&what, reason);
        let scopes = [self.client.pull_scope()];
        let url = self.client.url(&format!("blobs/{}", spool.digest));
        let mut call = Call::new(&what, Method::GET, url, &scopes);
        if start > 0 {
            let range = HeaderValue::from_str(&format!("bytes={start}-"));
            call.headers
                .insert(RANGE, range.map_err(|error| wrong(error.to_string()))?);
        }
        let mut answer = session.call(&call)?;
        let mut to_skip = start;
        if answer.status.as_u16() == 206 {
            let range = answer.header(CONTENT_RANGE).unwrap_or_default();
            if !range.starts_with(&format!("bytes {start}-")) {
                return Err(wrong(format!("asked for bytes from {start}, got {range:?}")).into());
            }
            to_skip = 0;
        }
        let expected = spool.size - start + to_skip;
        if let Some(length) = answer.length().filter(|length| *length != expected) {
            let size = length + start - to_skip;
            let reason = format!("it has {size} bytes, the manifest says {}", spool.size);
            return Err(wrong(reason).into());
        }
        let mut buffer = vec![0; PIECE];
        loop {
            let length = answer
                .read(&mut buffer)
                .map_err(|error| RegistryError::unreachable(&answer.host(), error))?;
            if length == 0 {
                break;
            }
            if self.is_stopped() {
                return Err(wrong("no longer wanted".to_owned()).into());
            }
            let skipped = usize::try_from(to_skip).map_or(length, |skip| skip.min(length));
            to_skip -= skipped as u64;
            let piece = &buffer[skipped..length];
            if spool.length() + piece.len() as u64 > spool.size {
                let reason = format!("it has more than the {} bytes of the manifest", spool.size);
                return Err(wrong(reason).into());
            }
            spool
                .append(piece)
                .map_err(ImageError::io("write a download below", self.store))?;
        }
        if spool.is_complete() {
            return Ok(());
        }
        let reason = format!("it ended after {} of {} bytes", spool.length(), spool.size);
        Err(RegistryError::unreachable(&answer.host(), reason).into())
    }
}
