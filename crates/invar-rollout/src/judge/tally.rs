//! What a revision answered, in numbers that only grow.

use invar_gateway::{LATENCY_BOUNDS, RevisionCounts};
use serde::{Deserialize, Serialize};

/// Buckets of latency: one for each bound, one above the last.
pub(super) const BUCKETS: usize = LATENCY_BOUNDS.len() + 1;

/// Answers of one revision, since it began or over a stretch of time.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// Answers.
    pub requests: u64,
    /// Those with a code of 500 and above, and those that broke off.
    pub errors: u64,
    /// Answers in each bucket of [`LATENCY_BOUNDS`], and those above the last.
    pub latency: Vec<u64>,
}

impl Tally {
    /// What the gateway counted for a revision.
    pub fn of(counts: &RevisionCounts) -> Self {
        let requests = counts.codes.values().sum();
        let failed: u64 = counts.codes.range(500..).map(|(_, count)| count).sum();
        Self {
            requests,
            // What broke off had a code before, perhaps a good one.
            errors: (failed + counts.broken).min(requests),
            latency: counts.latency.clone(),
        }
    }

    /// What came since `before`. A gateway that was started again counts from nothing: then
    /// everything there is came since.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        if self.requests < before.requests || self.errors < before.errors {
            return self.clone();
        }
        let earlier = |bucket: usize| before.latency.get(bucket).copied().unwrap_or(0);
        Self {
            requests: self.requests - before.requests,
            errors: self.errors - before.errors,
            latency: self
                .latency
                .iter()
                .enumerate()
                .map(|(bucket, count)| count.saturating_sub(earlier(bucket)))
                .collect(),
        }
    }

    /// Both together.
    pub fn add(&mut self, other: &Self) {
        self.requests += other.requests;
        self.errors += other.errors;
        self.latency
            .resize(self.latency.len().max(other.latency.len()), 0);
        for (sum, count) in self.latency.iter_mut().zip(&other.latency) {
            *sum += count;
        }
    }

    /// Answers slower than the bound of this bucket.
    pub(super) fn slower_than(&self, bucket: usize) -> u64 {
        self.latency.iter().skip(bucket + 1).sum()
    }

    /// The bound below which this share of the answers came, in microseconds; `None` without
    /// answers or above the last bound.
    pub fn quantile(&self, share: f64) -> Option<u64> {
        let total: u64 = self.latency.iter().sum();
        let wanted = (float(total) * share).ceil();
        let mut below = 0;
        for (bound, count) in LATENCY_BOUNDS.iter().zip(&self.latency) {
            below += count;
            if total > 0 && float(below) >= wanted {
                return Some(*bound);
            }
        }
        None
    }
}

/// Counts are far below 2^53, where every whole number is exact.
#[allow(
    clippy::cast_precision_loss,
    reason = "counts of requests stay below 2^53"
)]
pub(super) fn float(count: u64) -> f64 {
    count as f64
}
