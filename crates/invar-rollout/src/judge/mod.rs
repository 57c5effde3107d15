//! Is the new revision worse? Pure: numbers in, a verdict and its numbers out.
//!
//! ```text
//!  counts of canary and fresh baseline ──▶ Judge::look (each stretch between two looks)
//!        errors: anytime-valid e-value · latency: e-value of stochastic order · bound on the harm
//!                     └──▶ Judge::verdict ──▶ worse → back · well → on · not enough → wait
//! ```
//!
//! Looking often costs nothing: an identical revision is called worse with probability at most
//! [`FALSE_ROLLBACKS`] over a whole rollout, however long it takes. What the next step can do to all
//! clients is bounded before it is taken. docs/rollout-judge.md has the method and its numbers.

mod bound;
mod errors;
mod latency;
#[cfg(test)]
mod simulation;
mod tally;

use serde::{Deserialize, Serialize};

pub use tally::Tally;

use crate::compose::Gate;
use tally::float;

/// Probability that an identical revision is ever called worse.
pub const FALSE_ROLLBACKS: f64 = ERRORS_ALPHA + LATENCY_ALPHA;
const ERRORS_ALPHA: f64 = 0.04;
const LATENCY_ALPHA: f64 = 0.01;
/// Requests of each side before latency alone lets a trial go on.
const FEWEST_FOR_LATENCY: u64 = 100;

/// What the judge has seen of one rollout.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Judge {
    canary: Tally,
    baseline: Tally,
    errors: errors::ErrorTest,
    latency: latency::LatencyTest,
}

/// What must hold before the next step.
#[derive(Debug, Clone, PartialEq)]
pub struct Rules<'a> {
    /// What is judged.
    pub gates: &'a [Gate],
    /// How much worse the error rate over all traffic may become, as a share.
    pub margin: f64,
    /// The share of the traffic the new revision gets with the next step.
    pub next_share: f64,
}

/// One of three.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The next step may be taken.
    Well,
    /// The new revision is worse.
    Worse,
    /// Too few requests to say either.
    NotEnough,
}

/// A verdict, the numbers it stands on, and the sentence that says it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Judgement {
    /// One of three.
    pub verdict: Verdict,
    /// In one sentence.
    pub why: String,
    /// What it stands on.
    pub numbers: Numbers,
}

/// What a verdict stands on.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Numbers {
    /// Answers of the new revision.
    pub canary_requests: u64,
    /// Errors among them.
    pub canary_errors: u64,
    /// Answers of the fresh baseline.
    pub baseline_requests: u64,
    /// Errors among them.
    pub baseline_errors: u64,
    /// E-value of the errors; it decides at 25.
    pub errors_evidence: f64,
    /// E-value of the latency; it decides at 100.
    pub latency_evidence: f64,
    /// The new revision's error rate is at most so much above the baseline's.
    pub excess_bound: f64,
    /// 95 % of the new revision's answers came within so many microseconds.
    pub canary_p95_us: Option<u64>,
    /// Likewise of the baseline.
    pub baseline_p95_us: Option<u64>,
}

impl Judge {
    /// Takes what both sides answered since the last look.
    pub fn look(&mut self, canary: &Tally, baseline: &Tally) {
        self.canary.add(canary);
        self.baseline.add(baseline);
        self.errors.look(canary, baseline);
        self.latency.look(canary, baseline);
    }

    /// The numbers of this moment.
    pub fn numbers(&self) -> Numbers {
        Numbers {
            canary_requests: self.canary.requests,
            canary_errors: self.canary.errors,
            baseline_requests: self.baseline.requests,
            baseline_errors: self.baseline.errors,
            errors_evidence: self.errors.evidence().min(f64::MAX),
            latency_evidence: self.latency.evidence().min(f64::MAX),
            excess_bound: bound::excess(&self.canary, &self.baseline),
            canary_p95_us: self.canary.quantile(0.95),
            baseline_p95_us: self.baseline.quantile(0.95),
        }
    }

    /// In what the canary is worse, of what is judged.
    fn worse_in(&self, gates: &[Gate]) -> Option<Gate> {
        if gates.contains(&Gate::Errors) && self.errors.evidence() >= 1.0 / ERRORS_ALPHA {
            return Some(Gate::Errors);
        }
        let is_slower = self.latency.evidence() >= 1.0 / LATENCY_ALPHA;
        (gates.contains(&Gate::Latency) && is_slower).then_some(Gate::Latency)
    }

    /// The verdict of this moment.
    pub fn verdict(&self, rules: &Rules<'_>) -> Judgement {
        let numbers = self.numbers();
        let worse = self.worse_in(rules.gates);
        let (verdict, why) = if worse == Some(Gate::Errors) {
            (Verdict::Worse, numbers.more_errors())
        } else if worse == Some(Gate::Latency) {
            (Verdict::Worse, numbers.slower())
        } else if let Some(why) = numbers.not_enough(rules) {
            (Verdict::NotEnough, why)
        } else {
            (Verdict::Well, numbers.well(rules))
        };
        Judgement {
            verdict,
            why,
            numbers,
        }
    }
}

impl Numbers {
    fn more_errors(&self) -> String {
        format!(
            "it failed {} of {} requests ({}), the revision before {} of {} ({}): chance alone does \
             that less than once in {:.0} rollouts",
            self.canary_errors,
            self.canary_requests,
            percent(self.canary_errors, self.canary_requests),
            self.baseline_errors,
            self.baseline_requests,
            percent(self.baseline_errors, self.baseline_requests),
            self.errors_evidence.min(1e9),
        )
    }

    fn slower(&self) -> String {
        format!(
            "it is slower: 95 % of its {} answers came within {}, of the {} of the revision before \
             within {}; chance alone does that less than once in {:.0} rollouts",
            self.canary_requests,
            time(self.canary_p95_us),
            self.baseline_requests,
            time(self.baseline_p95_us),
            self.latency_evidence.min(1e9),
        )
    }

    fn not_enough(&self, rules: &Rules<'_>) -> Option<String> {
        if rules.gates.contains(&Gate::Errors) {
            let harm = self.excess_bound * rules.next_share;
            return (harm > rules.margin).then(|| {
                format!(
                    "{} requests are too few: with {} of the traffic it could fail {} more of all \
                     requests, {} is allowed",
                    self.canary_requests,
                    share(rules.next_share),
                    share(harm),
                    share(rules.margin)
                )
            });
        }
        let fewest = self.canary_requests.min(self.baseline_requests);
        let is_judged = rules.gates.contains(&Gate::Latency);
        (is_judged && fewest < FEWEST_FOR_LATENCY).then(|| {
            format!("{fewest} requests are too few: {FEWEST_FOR_LATENCY} on each side are needed")
        })
    }

    fn well(&self, rules: &Rules<'_>) -> String {
        if !rules.gates.contains(&Gate::Errors) {
            return format!(
                "nothing spoke against it in {} requests",
                self.canary_requests
            );
        }
        format!(
            "it failed {} of {} requests, the revision before {} of {}: at most {} more of all \
             requests fail with the next step, {} is allowed",
            self.canary_errors,
            self.canary_requests,
            self.baseline_errors,
            self.baseline_requests,
            share((self.excess_bound * rules.next_share).max(0.0)),
            share(rules.margin)
        )
    }
}

fn percent(part: u64, whole: u64) -> String {
    if whole == 0 {
        return "none".to_owned();
    }
    share(float(part) / float(whole))
}

fn share(share: f64) -> String {
    format!("{:.2} %", share * 100.0)
}

fn time(micros: Option<u64>) -> String {
    match micros {
        None => "no known time".to_owned(),
        Some(micros) if micros < 1_000 => format!("{micros} µs"),
        Some(micros) => format!("{} ms", micros / 1_000),
    }
}
