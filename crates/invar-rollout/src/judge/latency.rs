//! Is the canary slower? A test of stochastic order that may be looked at at any time.
//!
//! For each latency bound `t` it is asked whether more of the canary's requests took longer than
//! *the next bound* than of the baseline's took longer than `t`. So a canary counts as slower only
//! when it is slower by a whole bucket, 1.3 to 2.5 times: less is not worth a rollback.
//!
//! Each question compares two Bernoulli streams with the e-variable of Turner, Ly & Grünwald ("Safe
//! testing of two-sample Bernoulli", 2021): for guesses `c ≥ b` of the two rates, fixed before the
//! stretch is seen, the ratio of their likelihood to that of the common rate
//! `(n·c + m·b) / (n + m)` has a mean of at most one whenever the canary's rate is at most the
//! baseline's. Guesses are the rate seen so far, with its odds moved up and down by a few factors.
//! The average over all bounds and factors is an e-value again.

use serde::{Deserialize, Serialize};

use super::tally::{BUCKETS, Tally, float};

/// How far the guessed odds of the two sides are apart.
const RATIOS: [f64; 4] = [1.5, 3.0, 10.0, 100.0];
/// Questions: every bound but the last has a next one.
const QUESTIONS: usize = BUCKETS - 2;
/// Requests before rates can be guessed.
const FEWEST: u64 = 20;

/// Evidence so far.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct LatencyTest {
    /// Logarithms of the e-values, by bound and ratio.
    logs: Vec<[f64; RATIOS.len()]>,
    canary: Tally,
    baseline: Tally,
}

impl Default for LatencyTest {
    fn default() -> Self {
        Self {
            logs: vec![[0.0; RATIOS.len()]; QUESTIONS],
            canary: Tally::default(),
            baseline: Tally::default(),
        }
    }
}

impl LatencyTest {
    /// Takes what both answered since the last look.
    pub(super) fn look(&mut self, canary: &Tally, baseline: &Tally) {
        // Guesses come from before this stretch: they must not know what is in it.
        let seen = all(&self.canary) + all(&self.baseline);
        if seen >= FEWEST && has_times(canary) && has_times(baseline) {
            for bucket in 0..QUESTIONS {
                let slow = self.canary.slower_than(bucket + 1) + self.baseline.slower_than(bucket);
                let rate = (float(slow) + 0.5) / (float(seen) + 1.0);
                for (log, ratio) in self.logs[bucket].iter_mut().zip(RATIOS) {
                    *log += step(canary, baseline, bucket, rate, ratio);
                }
            }
        }
        self.canary.add(canary);
        self.baseline.add(baseline);
    }

    /// An e-value: how much more likely what was seen is if the canary is slower.
    pub(super) fn evidence(&self) -> f64 {
        let logs = self.logs.iter().flatten();
        let sum: f64 = logs.map(|log| log.exp()).sum();
        sum / float((QUESTIONS * RATIOS.len()) as u64)
    }
}

/// Answers whose time is known.
fn all(tally: &Tally) -> u64 {
    tally.latency.iter().sum()
}

fn has_times(tally: &Tally) -> bool {
    all(tally) > 0
}

/// Logarithm of the e-variable of one stretch.
fn step(canary: &Tally, baseline: &Tally, bucket: usize, rate: f64, ratio: f64) -> f64 {
    let odds = rate / (1.0 - rate);
    let of_odds = |odds: f64| odds / (1.0 + odds);
    let (c, b) = (of_odds(odds * ratio.sqrt()), of_odds(odds / ratio.sqrt()));
    let (n, m) = (float(all(canary)), float(all(baseline)));
    let common = (n * c + m * b) / (n + m);
    let side = |slow: f64, all: f64, rate: f64| {
        slow * (rate / common).ln() + (all - slow) * ((1.0 - rate) / (1.0 - common)).ln()
    };
    side(float(canary.slower_than(bucket + 1)), n, c)
        + side(float(baseline.slower_than(bucket)), m, b)
}
