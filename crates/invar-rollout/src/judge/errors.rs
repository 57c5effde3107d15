//! Does the canary fail more often than the baseline beside it? A test that may be looked at after
//! every request (Lindon & Malek, "Anytime-valid inference for multinomial count data", 2022).
//!
//! Given that a request failed, it hit the canary with a probability that is the canary's share of
//! the requests, if both are equally good. A canary that fails `r` times as often gets the share
//! `θ(r) = n·r / (n·r + m)` of the failures. The likelihood ratio of the two, averaged over a few
//! `r`, is a martingale when both are equal: it exceeds `1/α` once, ever, with probability `α`.
//!
//! Requests come in stretches between two looks. Given how many failed in a stretch, the canary's
//! part is hypergeometric; the ratio is convex in it, so its mean is at most the binomial's, which
//! is one (Hoeffding 1963, theorem 4). Hence no assumption on the error rate or its drift in time.

use serde::{Deserialize, Serialize};

use super::tally::{Tally, float};

/// How many times as often a bad canary fails, and how much weight each guess has.
const ALTERNATIVES: [(f64, f64); 3] = [(2.0, 0.4), (8.0, 0.3), (200.0, 0.3)];

/// Evidence so far.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct ErrorTest {
    /// Logarithm of the likelihood ratio of each alternative.
    logs: [f64; ALTERNATIVES.len()],
}

impl ErrorTest {
    /// Takes what both answered since the last look.
    pub(super) fn look(&mut self, canary: &Tally, baseline: &Tally) {
        let failed = canary.errors + baseline.errors;
        // Without the other side a failure says nothing about the difference.
        if canary.requests == 0 || baseline.requests == 0 || failed == 0 {
            return;
        }
        let (n, m) = (float(canary.requests), float(baseline.requests));
        let share = n / (n + m);
        for (log, (ratio, _)) in self.logs.iter_mut().zip(ALTERNATIVES) {
            let theta = n * ratio / (n * ratio + m);
            *log += float(canary.errors) * (theta / share).ln()
                + float(baseline.errors) * ((1.0 - theta) / (1.0 - share)).ln();
        }
    }

    /// How much more likely what was seen is if the canary is worse: an e-value.
    pub(super) fn evidence(&self) -> f64 {
        let terms = self.logs.iter().zip(ALTERNATIVES);
        terms.map(|(log, (_, weight))| weight * log.exp()).sum()
    }
}
