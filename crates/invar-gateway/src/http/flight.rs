//! One request from its claim to the last byte of its answer, and what is written down about it.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use crate::access_log::Entry;
use crate::traffic::endpoint::{Endpoint, Use};
use crate::traffic::revision::{Claim, Revision};
use crate::traffic::service::Traffic;
use crate::worker::Worker;

/// The status in logs of a request that the client gave up.
const CLIENT_GONE: u16 = 499;

/// Holds a revision while a request is in flight; dropping it ends the request.
#[derive(Debug)]
pub(crate) struct Flight {
    worker: Rc<Worker>,
    claim: Claim,
    pub(crate) traffic: Arc<Traffic>,
    endpoint: Option<Use>,
    started: Instant,
    /// Status and time of the answer's head.
    answered: Option<(u16, Duration)>,
    completed: bool,
    /// Body bytes to the client.
    pub(crate) sent: u64,
    pub(crate) retries: u32,
    pub(crate) entry: Option<Box<Entry>>,
}

impl Flight {
    pub(crate) fn new(
        worker: &Rc<Worker>,
        claim: Claim,
        traffic: Arc<Traffic>,
        started: Instant,
    ) -> Self {
        Self {
            worker: Rc::clone(worker),
            claim,
            traffic,
            endpoint: None,
            started,
            answered: None,
            completed: false,
            sent: 0,
            retries: 0,
            entry: None,
        }
    }

    pub(crate) fn revision(&self) -> &Arc<Revision> {
        self.claim.revision()
    }

    pub(crate) fn worker(&self) -> &Rc<Worker> {
        &self.worker
    }

    /// The request goes to this endpoint; the one before is left.
    pub(crate) fn goes_to(&mut self, endpoint: Arc<Endpoint>) {
        self.endpoint = Some(Use::of(endpoint));
    }

    pub(crate) fn endpoint(&self) -> Option<&Arc<Endpoint>> {
        self.endpoint.as_ref().map(Use::endpoint)
    }

    /// The head of the answer is there.
    pub(crate) fn answered(&mut self, status: u16) {
        self.answered = Some((status, self.started.elapsed()));
    }

    /// The answer is whole.
    pub(crate) fn completed(&mut self) {
        self.completed = true;
    }

    pub(crate) fn becomes_tunnel(&mut self) {
        self.claim.becomes_tunnel();
        self.revision().metrics.tunnels.fetch_add(1, Relaxed);
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        let metrics = &self.claim.revision().metrics;
        let (status, head) = if let Some((status, took)) = self.answered {
            metrics.answered(status, took);
            let broken = u64::from(!self.completed);
            metrics.broken.fetch_add(broken, Relaxed);
            (status, took)
        } else {
            metrics.client_gone.fetch_add(1, Relaxed);
            (CLIENT_GONE, self.started.elapsed())
        };
        metrics.sent.fetch_add(self.sent, Relaxed);
        metrics.retries.fetch_add(u64::from(self.retries), Relaxed);
        if let Some(mut entry) = self.entry.take() {
            entry.status = status;
            entry.head_us = head.as_micros();
            entry.total_us = self.started.elapsed().as_micros();
            entry.sent = self.sent;
            entry.retries = self.retries;
            entry.complete = self.completed;
            entry.revision = Some(self.claim.revision().name.to_string());
            entry.endpoint = self.endpoint().map(|endpoint| endpoint.address);
            self.worker.log(&entry);
        }
    }
}
