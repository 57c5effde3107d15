//! How long to wait before a request is tried again.

use std::time::Duration;

use jiff::Timestamp;

/// Waits that double, with some chance in them, so that many clients do not come back at once.
#[derive(Debug, Clone, Copy)]
pub struct Backoff {
    /// How often a request is tried before it has failed.
    pub attempts: u32,
    /// The wait after the first failure.
    pub first: Duration,
    /// No wait is longer, and a registry that asks for a longer one is given up.
    pub longest: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self {
            attempts: 5,
            first: Duration::from_millis(500),
            longest: Duration::from_secs(30),
        }
    }
}

impl Backoff {
    /// The wait after this many failures, from a half to the whole of the doubled time.
    pub(crate) fn delay(&self, failures: u32) -> Duration {
        let doubled = self
            .first
            .saturating_mul(1 << failures.saturating_sub(1).min(16));
        let whole = doubled.min(self.longest);
        whole.mul_f64(0.5 + 0.5 * f64::from(rand::random::<u16>()) / f64::from(u16::MAX))
    }
}

/// `Retry-After`: seconds, or a date (RFC 9110, section 10.2.3).
pub(crate) fn retry_after(header: &str, now: Timestamp) -> Option<Duration> {
    let header = header.trim();
    if let Ok(seconds) = header.parse::<u32>() {
        return Some(Duration::from_secs(seconds.into()));
    }
    let date = jiff::fmt::rfc2822::parse(header).ok()?.timestamp();
    let wait = date.duration_since(now);
    Some(wait.try_into().unwrap_or(Duration::ZERO))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_and_stay_below_the_longest() {
        let backoff = Backoff::default();
        for failures in 1..40 {
            let delay = backoff.delay(failures);
            let whole = Duration::from_millis(500) * 2_u32.pow((failures - 1).min(6));
            let whole = whole.min(backoff.longest);
            assert!(
                delay >= whole / 2 && delay <= whole,
                "{failures}: {delay:?}"
            );
        }
    }

    #[test]
    fn a_registry_names_seconds_or_a_date() {
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        for (header, expected) in [
            ("7", Some(7)),
            ("Thu, 01 Jan 2026 00:01:00 GMT", Some(60)),
            ("Thu, 01 Jan 2015 00:01:00 GMT", Some(0)),
            ("-3", None),
            ("soon", None),
        ] {
            let expected = expected.map(Duration::from_secs);
            assert_eq!(retry_after(header, now), expected, "{header}");
        }
    }
}
