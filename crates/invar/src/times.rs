//! Points in time as people write them.

use jiff::{SignedDuration, Timestamp};

/// `2026-11-24T10:00:00Z`, `2026-11-24T10:00:00+01:00`, `2026-11-24` (UTC), seconds since 1970
/// with or without a fraction, or how long ago: `10m`, `1h30m`.
pub(crate) fn parse(text: &str) -> Result<Timestamp, String> {
    parse_at(text, Timestamp::now())
}

fn parse_at(text: &str, now: Timestamp) -> Result<Timestamp, String> {
    let unclear = || {
        format!("{text:?} is not a time: write for example 10m, 2026-11-24T10:00:00Z or 1764000000")
    };
    if let Ok(time) = text.parse::<Timestamp>() {
        return Ok(time);
    }
    if let Ok(date) = text.parse::<jiff::civil::Date>() {
        return date
            .to_zoned(jiff::tz::TimeZone::UTC)
            .map(|time| time.timestamp())
            .map_err(|_outside| unclear());
    }
    if text.starts_with(|c: char| c.is_ascii_digit()) {
        if let Some(time) = since_epoch(text) {
            return Ok(time);
        }
        if let Ok(ago) = text.parse::<SignedDuration>() {
            return now.checked_sub(ago).map_err(|_outside| unclear());
        }
    }
    Err(unclear())
}

/// `1764000000` or `1764000000.25`.
fn since_epoch(text: &str) -> Option<Timestamp> {
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    if fraction.len() > 9 || !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let nanoseconds = format!("{fraction:0<9}").parse().ok()?;
    Timestamp::new(seconds.parse().ok()?, nanoseconds).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_in_every_form_docker_takes() {
        let now: Timestamp = "2026-11-24T10:00:00Z".parse().unwrap();
        for (text, expected) in [
            ("2026-11-24T09:00:00Z", "2026-11-24T09:00:00Z"),
            ("2026-11-24T09:00:00.5+01:00", "2026-11-24T08:00:00.5Z"),
            ("2026-11-24", "2026-11-24T00:00:00Z"),
            ("10m", "2026-11-24T09:50:00Z"),
            ("1h30m", "2026-11-24T08:30:00Z"),
            ("0", "1970-01-01T00:00:00Z"),
            ("1764000000.25", "2025-11-24T16:00:00.25Z"),
        ] {
            let expected: Timestamp = expected.parse().unwrap();
            assert_eq!(parse_at(text, now), Ok(expected), "{text}");
        }
        for text in ["", "yesterday", "-10m", "1.x", "10 parsecs"] {
            assert!(parse_at(text, now).is_err(), "{text}");
        }
    }
}
