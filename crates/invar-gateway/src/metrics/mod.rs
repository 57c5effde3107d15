//! Counters of what went through, for each revision, written without a lock.

mod exposition;

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use serde::Serialize;

/// Upper bounds of the latency buckets in microseconds; one more bucket holds the rest.
pub const LATENCY_BOUNDS: [u64; 28] = [
    100, 200, 300, 500, 750, 1_000, 1_500, 2_000, 3_000, 5_000, 7_500, 10_000, 15_000, 20_000,
    30_000, 50_000, 75_000, 100_000, 150_000, 200_000, 300_000, 500_000, 750_000, 1_000_000,
    2_000_000, 5_000_000, 10_000_000, 30_000_000,
];

const CODES: usize = 500;

/// What one revision did.
pub(crate) struct RevisionMetrics {
    /// Answers by status, from 100.
    codes: Box<[AtomicU64; CODES]>,
    latency: [AtomicU64; LATENCY_BOUNDS.len() + 1],
    latency_sum: AtomicU64,
    pub(crate) received: AtomicU64,
    pub(crate) sent: AtomicU64,
    /// Connections to endpoints that failed, before or after bytes were sent.
    pub(crate) upstream_errors: AtomicU64,
    pub(crate) retries: AtomicU64,
    /// Requests that the client gave up.
    pub(crate) client_gone: AtomicU64,
    /// Answers that broke off after they had begun.
    pub(crate) broken: AtomicU64,
    pub(crate) mirrored: AtomicU64,
    pub(crate) mirror_skipped: AtomicU64,
    pub(crate) mirror_failed: AtomicU64,
    pub(crate) tunnels: AtomicU64,
}

impl Default for RevisionMetrics {
    fn default() -> Self {
        Self {
            codes: Box::new([const { AtomicU64::new(0) }; CODES]),
            latency: [const { AtomicU64::new(0) }; LATENCY_BOUNDS.len() + 1],
            latency_sum: AtomicU64::new(0),
            received: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            upstream_errors: AtomicU64::new(0),
            retries: AtomicU64::new(0),
            client_gone: AtomicU64::new(0),
            broken: AtomicU64::new(0),
            mirrored: AtomicU64::new(0),
            mirror_skipped: AtomicU64::new(0),
            mirror_failed: AtomicU64::new(0),
            tunnels: AtomicU64::new(0),
        }
    }
}

impl std::fmt::Debug for RevisionMetrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RevisionMetrics").finish_non_exhaustive()
    }
}

/// The counters of a revision at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, serde::Deserialize)]
pub struct RevisionCounts {
    /// Answers by status code; those the gateway gave because the revision failed are among them.
    pub codes: std::collections::BTreeMap<u16, u64>,
    /// Answers in each bucket of [`LATENCY_BOUNDS`], and those above the last.
    pub latency: Vec<u64>,
    /// Sum of all latencies.
    pub latency_sum_us: u64,
    /// Body bytes from clients.
    pub received: u64,
    /// Body bytes to clients.
    pub sent: u64,
    /// Failed connections to endpoints.
    pub upstream_errors: u64,
    /// Requests tried again.
    pub retries: u64,
    /// Requests that the client gave up.
    pub client_gone: u64,
    /// Answers that broke off after they had begun.
    pub broken: u64,
    /// Copies sent to this revision as a mirror.
    pub mirrored: u64,
    /// Copies not sent because of a limit.
    pub mirror_skipped: u64,
    /// Copies answered with 5xx or not at all.
    pub mirror_failed: u64,
    /// WebSocket and TCP connections so far.
    pub tunnels: u64,
}

impl RevisionMetrics {
    pub(crate) fn answered(&self, status: u16, took: Duration) {
        if let Some(counter) = self.codes.get(usize::from(status.saturating_sub(100))) {
            counter.fetch_add(1, Relaxed);
        }
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let bucket = LATENCY_BOUNDS.partition_point(|bound| *bound < micros);
        self.latency[bucket].fetch_add(1, Relaxed);
        self.latency_sum.fetch_add(micros, Relaxed);
    }

    pub(crate) fn counts(&self) -> RevisionCounts {
        let of = |counter: &AtomicU64| counter.load(Relaxed);
        RevisionCounts {
            codes: (100_u16..)
                .zip(self.codes.iter().map(of))
                .filter(|(_, count)| *count > 0)
                .collect(),
            latency: self.latency.iter().map(of).collect(),
            latency_sum_us: of(&self.latency_sum),
            received: of(&self.received),
            sent: of(&self.sent),
            upstream_errors: of(&self.upstream_errors),
            retries: of(&self.retries),
            client_gone: of(&self.client_gone),
            broken: of(&self.broken),
            mirrored: of(&self.mirrored),
            mirror_skipped: of(&self.mirror_skipped),
            mirror_failed: of(&self.mirror_failed),
            tunnels: of(&self.tunnels),
        }
    }
}

/// Counters of the whole gateway.
#[derive(Debug, Default)]
pub(crate) struct GatewayMetrics {
    pub(crate) connections: AtomicU64,
    pub(crate) open_connections: AtomicU64,
    /// Requests refused before they had a service: bad syntax, no route, too large.
    pub(crate) refused: AtomicU64,
    pub(crate) tls_failures: AtomicU64,
    pub(crate) timeouts: AtomicU64,
    pub(crate) log_lines_dropped: AtomicU64,
    pub(crate) leases_expired: AtomicU64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_lands_in_its_code_and_bucket() {
        let metrics = RevisionMetrics::default();
        metrics.answered(200, Duration::from_micros(100));
        metrics.answered(200, Duration::from_micros(101));
        metrics.answered(503, Duration::from_mins(1));
        metrics.answered(999, Duration::ZERO);
        let counts = metrics.counts();
        assert_eq!(counts.codes, [(200, 2), (503, 1)].into());
        assert_eq!(counts.latency[0], 2);
        assert_eq!(counts.latency[1], 1);
        assert_eq!(counts.latency[LATENCY_BOUNDS.len()], 1);
    }
}
