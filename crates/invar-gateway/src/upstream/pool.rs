//! Idle connections of one worker, by endpoint.

use std::cell::RefCell;
use std::collections::HashMap;
use std::time::{Duration, Instant};

use hyper::client::conn::http2::SendRequest;

use super::http1::Wire;
use crate::http::body::Body;

/// Connections that can be used again.
#[derive(Debug, Default)]
pub(crate) struct Pool {
    idle: RefCell<HashMap<u64, Vec<Idle>>>,
    http2: RefCell<HashMap<u64, SendRequest<Body>>>,
}

#[derive(Debug)]
struct Idle {
    wire: Wire,
    until: Instant,
}

impl Pool {
    /// The connection used last, if it is alive: nothing was received on it, not even its end.
    pub(crate) fn take(&self, endpoint: u64) -> Option<Wire> {
        let mut idle = self.idle.borrow_mut();
        let connections = idle.get_mut(&endpoint)?;
        while let Some(Idle { wire, until }) = connections.pop() {
            if wire.is_quiet() && Instant::now() < until {
                return Some(wire);
            }
        }
        None
    }

    /// Keeps a connection whose last answer is whole.
    pub(crate) fn put(&self, endpoint: u64, wire: Wire, most: usize, keep: Duration) {
        let mut idle = self.idle.borrow_mut();
        let connections = idle.entry(endpoint).or_default();
        if connections.len() < most {
            let until = Instant::now() + wire.keep_at_most(keep);
            connections.push(Idle { wire, until });
        }
    }

    pub(crate) fn http2(&self, endpoint: u64) -> Option<SendRequest<Body>> {
        let mut senders = self.http2.borrow_mut();
        let sender = senders.get(&endpoint)?;
        if sender.is_closed() {
            senders.remove(&endpoint);
            return None;
        }
        Some(sender.clone())
    }

    pub(crate) fn put_http2(&self, endpoint: u64, sender: SendRequest<Body>) {
        self.http2.borrow_mut().insert(endpoint, sender);
    }

    pub(crate) fn forget_http2(&self, endpoint: u64) {
        self.http2.borrow_mut().remove(&endpoint);
    }

    /// Closes what is too old or dead, and what belongs to endpoints that are no more.
    pub(crate) fn sweep(&self, exists: impl Fn(u64) -> bool) {
        let now = Instant::now();
        self.idle.borrow_mut().retain(|endpoint, connections| {
            connections.retain(|idle| now < idle.until && idle.wire.is_quiet());
            !connections.is_empty() && exists(*endpoint)
        });
        let mut senders = self.http2.borrow_mut();
        senders.retain(|endpoint, sender| !sender.is_closed() && exists(*endpoint));
    }
}
