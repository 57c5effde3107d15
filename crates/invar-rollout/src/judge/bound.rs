//! How much worse can the canary's error rate be? Bounds that hold at every look at once.
//!
//! For one rate: the mixture of binomial likelihoods over a beta prior, divided by the likelihood
//! of `p`, is a martingale if `p` is the rate (Robbins 1970). The rates for which it is below `1/α`
//! are a confidence sequence. The bound on the difference is the canary's upper end minus the
//! baseline's lower end; both miss with probability `UPPER + LOWER` together.

use super::tally::{Tally, float};

/// The beta prior: most services fail rarely.
const PRIOR: (f64, f64) = (0.5, 20.0);
/// Probability that the canary's rate is ever above its upper end.
const UPPER: f64 = 0.04;
/// Probability that the baseline's rate is ever below its lower end.
const LOWER: f64 = 0.01;

/// The canary's error rate is at most the baseline's plus this; at all looks together with
/// probability 95 %.
pub(super) fn excess(canary: &Tally, baseline: &Tally) -> f64 {
    upper(canary) - lower(baseline)
}

fn upper(tally: &Tally) -> f64 {
    let (errors, requests) = (float(tally.errors), float(tally.requests));
    let seen = if requests > 0.0 {
        errors / requests
    } else {
        return 1.0;
    };
    bisect(seen, 1.0, |p| log_ratio(errors, requests, p) <= -UPPER.ln())
}

fn lower(tally: &Tally) -> f64 {
    let (errors, requests) = (float(tally.errors), float(tally.requests));
    if errors == 0.0 {
        return 0.0;
    }
    bisect(errors / requests, 0.0, |p| {
        log_ratio(errors, requests, p) <= -LOWER.ln()
    })
}

/// The value between `inside` and `outside` where `holds` ends.
fn bisect(mut inside: f64, mut outside: f64, holds: impl Fn(f64) -> bool) -> f64 {
    for _ in 0..50 {
        let middle = f64::midpoint(inside, outside);
        if holds(middle) {
            inside = middle;
        } else {
            outside = middle;
        }
    }
    outside
}

/// Logarithm of the mixture's likelihood over that of `p`.
fn log_ratio(errors: f64, requests: f64, p: f64) -> f64 {
    let (a, b) = PRIOR;
    let good = requests - errors;
    let mixture = ln_beta(a + errors, b + good) - ln_beta(a, b);
    let times_ln = |count: f64, rate: f64| if count == 0.0 { 0.0 } else { count * rate.ln() };
    mixture - times_ln(errors, p) - times_ln(good, 1.0 - p)
}

fn ln_beta(a: f64, b: f64) -> f64 {
    ln_gamma(a) + ln_gamma(b) - ln_gamma(a + b)
}

/// Stirling's series for large arguments; small ones are moved up by the recurrence. Good to 1e-10.
fn ln_gamma(x: f64) -> f64 {
    let mut shift = 0.0;
    let mut x = x;
    while x < 10.0 {
        shift += x.ln();
        x += 1.0;
    }
    let square = 1.0 / (x * x);
    let series =
        (1.0 / 12.0 - square * (1.0 / 360.0 - square * (1.0 / 1260.0 - square / 1680.0))) / x;
    (x - 0.5) * x.ln() - x + 0.5 * std::f64::consts::TAU.ln() + series - shift
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_logarithm_of_gamma_is_right() {
        for (x, expected) in [
            (0.5, 0.572_364_942_924_7),
            (1.0, 0.0),
            (5.0, 3.178_053_830_347_9),
            (100.5, 361.435_540_467_8),
        ] {
            assert!(
                (ln_gamma(x) - expected).abs() < 1e-8,
                "{x}: {}",
                ln_gamma(x)
            );
        }
    }

    #[test]
    fn bounds_close_in_on_the_rate() {
        let tally = |errors, requests| Tally {
            requests,
            errors,
            ..Tally::default()
        };
        let none = tally(0, 0);
        assert!((excess(&none, &none) - 1.0).abs() < 1e-9);
        // Zero of 500 means below 1 %; zero of 60 below 8 %.
        assert!(upper(&tally(0, 500)) < 0.010);
        assert!(upper(&tally(0, 60)) < 0.08);
        assert!(upper(&tally(0, 400)) > 0.010);
        let many = tally(500, 100_000);
        assert!(upper(&many) < 0.006 && lower(&many) > 0.004);
        assert!(lower(&tally(30, 1_000)) > 0.01);
    }
}
