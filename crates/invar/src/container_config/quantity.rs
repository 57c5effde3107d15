//! Sizes and processor shares as people write them, without floating point.

use anyhow::{Context as _, bail};

/// Decimal places of a billionth.
const NANO_DIGITS: usize = 9;
/// The least share the kernel's scheduler can keep.
const LEAST_NANO_CPUS: u64 = 10_000_000;

/// A size in bytes: digits, perhaps a fraction, and b, k, m, g or t (also `kb`, `KiB`); all are
/// powers of 1024, as with Docker.
pub(crate) fn size(text: &str) -> anyhow::Result<u64> {
    let lower = text.trim().to_ascii_lowercase();
    let digits = lower.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match &lower[digits.len()..] {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        _ => bail!("{text:?} is not a size: write for example 512m or 2g"),
    };
    let (whole, nanos) = decimal(digits.trim_end())
        .with_context(|| format!("{text:?} is not a size: write for example 512m or 2g"))?;
    let bytes = (u128::from(whole) << shift) + ((u128::from(nanos) << shift) / 1_000_000_000);
    match u64::try_from(bytes) {
        Ok(bytes) if i64::try_from(bytes).is_ok() => Ok(bytes),
        _ => bail!("{text:?} is larger than any memory"),
    }
}

/// Processors in billionths: `1.5`; `0` is no limit.
pub(super) fn nano_cpus(text: &str, processors: usize) -> anyhow::Result<Option<u64>> {
    let (whole, nanos) =
        decimal(text).with_context(|| format!("{text:?} is not a number of processors"))?;
    let most = u64::try_from(processors)?.saturating_mul(1_000_000_000);
    match whole
        .checked_mul(1_000_000_000)
        .and_then(|n| n.checked_add(nanos))
    {
        Some(0) => Ok(None),
        Some(cpus) if (LEAST_NANO_CPUS..=most).contains(&cpus) => Ok(Some(cpus)),
        _ => bail!("choose between 0.01 and {processors}: this machine has {processors}"),
    }
}

/// A decimal number as its whole part and billionths.
fn decimal(text: &str) -> Option<(u64, u64)> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    if !digits(whole) || !digits(fraction) || (whole.is_empty() && fraction.is_empty()) {
        return None;
    }
    let nanos: String = fraction
        .chars()
        .chain(std::iter::repeat('0'))
        .take(NANO_DIGITS)
        .collect();
    let whole = if whole.is_empty() {
        0
    } else {
        whole.parse().ok()?
    };
    Some((whole, nanos.parse().ok()?))
}
