//! A limit for everything a stranger can make the gateway hold or wait for.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Sizes, counts and times that hold for the whole gateway. Each says what it stops.
///
/// Times are in milliseconds. What a service may set for itself is in
/// [`ServiceConfig`](crate::config::ServiceConfig).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Connections open at once; further ones wait in the kernel's queue. Stops descriptor exhaustion.
    pub connections: usize,
    /// Bytes of a request's or a response's head. Stops memory growth by endless headers.
    pub head_bytes: usize,
    /// Header fields of one message. Stops hash and loop costs.
    pub headers: usize,
    /// Until a begun request head must be complete. Stops slow-header attacks.
    pub head_ms: u64,
    /// Between two reads of a request body. Stops slow-body attacks.
    pub body_idle_ms: u64,
    /// Between two writes that a client takes; four times as long over HTTP/2. Stops readers that
    /// never read.
    pub write_idle_ms: u64,
    /// A kept-alive connection without a request. Stops idle connections from piling up.
    pub keep_alive_ms: u64,
    /// Until a TLS handshake must be done.
    pub tls_handshake_ms: u64,
    /// Streams at once on one HTTP/2 connection.
    pub streams: u32,
    /// Streams of one HTTP/2 connection reset before they were handled. Stops rapid reset.
    pub pending_resets: usize,
    /// Idle connections kept to one endpoint by each worker.
    pub idle_upstream: usize,
    /// How long such a connection is kept.
    pub idle_upstream_ms: u64,
    /// Bytes of a request body that are copied for a mirror; longer requests are not mirrored.
    pub mirror_bytes: usize,
    /// Mirrored requests at once in each worker; further ones are not mirrored.
    pub mirrors: usize,
    /// Requests that wait for one paused service; further ones get 503.
    pub queued: usize,
    /// How long a connection without a request stays open once the gateway drains.
    pub drain_idle_ms: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 20_000,
            head_bytes: 32 * 1024,
            headers: 100,
            head_ms: 10_000,
            body_idle_ms: 30_000,
            write_idle_ms: 30_000,
            keep_alive_ms: 75_000,
            tls_handshake_ms: 10_000,
            streams: 128,
            pending_resets: 20,
            idle_upstream: 256,
            idle_upstream_ms: 30_000,
            mirror_bytes: 64 * 1024,
            mirrors: 64,
            queued: 1024,
            drain_idle_ms: 5_000,
        }
    }
}

/// Milliseconds as written in the configuration.
pub(crate) const fn ms(value: u64) -> Duration {
    Duration::from_millis(value)
}
