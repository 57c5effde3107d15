//! Time as one number that atomics can hold, and as people read it.

use std::sync::LazyLock;
use std::time::{Instant, SystemTime};

static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Nanoseconds since the process first asked, never 0 so that 0 can mean "never".
pub(crate) fn now() -> u64 {
    at(Instant::now())
}

/// The same for a known instant.
pub(crate) fn at(instant: Instant) -> u64 {
    let since = instant.saturating_duration_since(*START).as_nanos();
    u64::try_from(since).unwrap_or(u64::MAX).saturating_add(1)
}

/// Microseconds since 1970 of a value of [`now`], by the wall clock of this moment.
pub(crate) fn unix_micros(value: u64) -> u64 {
    let ago = now().saturating_sub(value) / 1000;
    let wall = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.as_micros());
    u64::try_from(wall).unwrap_or(u64::MAX).saturating_sub(ago)
}
