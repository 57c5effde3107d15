//! One revision of a service: its endpoints, what is in flight, and when it may be stopped.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed, Ordering::SeqCst};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, watch};

use super::endpoint::{self, Endpoint};
use crate::clock;
use crate::metrics::RevisionMetrics;

/// Since when a revision gets no traffic, and how long its tunnels may stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Retirement {
    pub(crate) since: Instant,
    pub(crate) lease: Duration,
    /// Tunnels end one after the other over this last part of the lease.
    pub(crate) spread: Duration,
    /// How long requests may take before the revision counts as drained all the same.
    pub(crate) limit: Duration,
}

/// What still holds a revision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DrainState {
    /// It gets traffic.
    Active,
    /// It gets none; some is still in flight.
    Draining,
    /// Nothing is in flight.
    Drained,
    /// Something is in flight after the limit.
    LimitReached,
}

/// One revision of a service.
#[derive(Debug)]
pub(crate) struct Revision {
    pub(crate) name: Arc<str>,
    pub(crate) endpoints: Vec<Arc<Endpoint>>,
    pub(crate) metrics: RevisionMetrics,
    /// Requests and tunnels.
    in_flight: AtomicU64,
    tunnels: AtomicU64,
    /// When the last request was claimed ([`clock::now`]).
    last_claim: AtomicU64,
    retired: watch::Sender<Option<Retirement>>,
    emptied: Notify,
}

impl Revision {
    pub(crate) fn new(name: &str, addresses: &[SocketAddr]) -> Self {
        Self {
            name: name.into(),
            endpoints: addresses
                .iter()
                .map(|address| Arc::new(Endpoint::new(*address)))
                .collect(),
            metrics: RevisionMetrics::default(),
            in_flight: AtomicU64::new(0),
            tunnels: AtomicU64::new(0),
            last_claim: AtomicU64::new(0),
            retired: watch::Sender::new(None),
            emptied: Notify::new(),
        }
    }

    pub(crate) fn has_addresses(&self, addresses: &[SocketAddr]) -> bool {
        self.endpoints.len() == addresses.len()
            && self
                .endpoints
                .iter()
                .zip(addresses)
                .all(|(endpoint, address)| endpoint.address == *address)
    }

    /// Whether some endpoint is thought to answer.
    pub(crate) fn is_usable(&self) -> bool {
        endpoint::choose(&self.endpoints, &[]).is_some_and(|endpoint| !endpoint.is_ejected())
    }

    pub(crate) fn in_flight(&self) -> u64 {
        self.in_flight.load(SeqCst)
    }

    pub(crate) fn tunnels(&self) -> u64 {
        self.tunnels.load(Relaxed)
    }

    /// When the last request was claimed, 0 for never.
    pub(crate) fn last_claim(&self) -> u64 {
        self.last_claim.load(SeqCst)
    }

    /// Says whether traffic can still reach the revision; tunnels hear of it.
    pub(crate) fn retire(&self, retirement: Option<Retirement>) {
        self.retired.send_if_modified(|current| {
            // The first retirement counts: later changes of traffic do not prolong it.
            if current.is_some() == retirement.is_some() {
                return false;
            }
            *current = retirement;
            true
        });
    }

    pub(crate) fn retirement(&self) -> Option<Retirement> {
        *self.retired.borrow()
    }

    /// Changes when the revision loses or gets back its traffic.
    pub(crate) fn retirements(&self) -> watch::Receiver<Option<Retirement>> {
        self.retired.subscribe()
    }

    pub(crate) fn drain_state(&self) -> DrainState {
        match self.retirement() {
            None => DrainState::Active,
            Some(_) if self.in_flight() == 0 => DrainState::Drained,
            Some(retirement) if retirement.since.elapsed() >= retirement.limit => {
                DrainState::LimitReached
            }
            Some(_) => DrainState::Draining,
        }
    }

    /// Waits until nothing is in flight.
    pub(crate) async fn wait_until_empty(&self) {
        loop {
            let emptied = self.emptied.notified();
            tokio::pin!(emptied);
            // Registered before the look, so that no wake-up is lost.
            emptied.as_mut().enable();
            if self.in_flight() == 0 {
                return;
            }
            emptied.await;
        }
    }
}

/// One request or tunnel of a revision, counted from before it is sent until it is over.
#[derive(Debug)]
pub(crate) struct Claim {
    revision: Arc<Revision>,
    is_tunnel: bool,
}

impl Claim {
    /// Counts itself in. Valid only once the service's generation was looked at again.
    pub(crate) fn tentative(revision: Arc<Revision>) -> Self {
        revision.in_flight.fetch_add(1, SeqCst);
        revision.last_claim.store(clock::now(), SeqCst);
        Self {
            revision,
            is_tunnel: false,
        }
    }

    pub(crate) fn revision(&self) -> &Arc<Revision> {
        &self.revision
    }

    /// The request became a WebSocket or is a TCP connection.
    pub(crate) fn becomes_tunnel(&mut self) {
        if !self.is_tunnel {
            self.is_tunnel = true;
            self.revision.tunnels.fetch_add(1, Relaxed);
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if self.is_tunnel {
            self.revision.tunnels.fetch_sub(1, Relaxed);
        }
        if self.revision.in_flight.fetch_sub(1, SeqCst) == 1
            && self.revision.retired.borrow().is_some()
        {
            self.revision.emptied.notify_waiters();
        }
    }
}
