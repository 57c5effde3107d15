//! Single values: texts, numbers, booleans, times, sizes and shares.

use std::time::Duration;

use super::error::Result;
use super::fields::{Fields, join};
use super::words;
use super::yaml::{Node, Value};

/// Weights are parts of this many, as in the gateway: 100 is one per cent.
pub(super) const WHOLE: u32 = 10_000;

/// The text of a single value.
pub(super) fn text<'a>(node: &'a Node, path: &str) -> Result<&'a str> {
    match &node.value {
        Value::Scalar { text, .. } => Ok(text),
        _ => Err(wrong(node, path, "a single value")),
    }
}

/// An owned text.
pub(super) fn string(node: &Node, path: &str) -> Result<String> {
    text(node, path).map(str::to_owned)
}

/// `true` or `false`, in the words YAML 1.2 has and in those that interpolated values have.
pub(super) fn boolean(node: &Node, path: &str) -> Result<bool> {
    match text(node, path)?.to_ascii_lowercase().as_str() {
        "true" | "yes" | "on" | "1" => Ok(true),
        "false" | "no" | "off" | "0" => Ok(false),
        _ => Err(wrong(node, path, "true or false")),
    }
}

/// A whole number.
pub(super) fn integer<T: std::str::FromStr>(node: &Node, path: &str) -> Result<T> {
    let text = text(node, path)?;
    text.parse()
        .ok()
        .ok_or_else(|| wrong(node, path, "a whole number in its range"))
}

/// A list of single values; one value alone counts as a list of one.
pub(super) fn strings(node: &Node, path: &str) -> Result<Vec<String>> {
    match &node.value {
        Value::List(items) => items.iter().map(|item| string(item, path)).collect(),
        _ => Ok(vec![string(node, path)?]),
    }
}

/// A command: a list as it is, a text split as a shell splits words.
pub(super) fn command(node: &Node, path: &str) -> Result<Vec<String>> {
    match &node.value {
        Value::List(_) => strings(node, path),
        _ => words::split(text(node, path)?)
            .map_err(|reason| node.at.error(format!("{path}: {reason}"))),
    }
}

/// A mapping of names to texts, or a list of `NAME=text`; a name alone has none.
pub(super) fn settings(node: &Node, path: &str) -> Result<Vec<(String, Option<String>)>> {
    if let Value::List(items) = &node.value {
        return items
            .iter()
            .map(|item| {
                let text = text(item, path)?;
                let (name, value) = match text.split_once('=') {
                    Some((name, value)) => (name, Some(value.to_owned())),
                    None => (text, None),
                };
                if name.is_empty() {
                    return Err(item.at.error(format!("{path}: {text:?} has no name")));
                }
                Ok((name.to_owned(), value))
            })
            .collect();
    }
    let mut fields = Fields::of(node, path)?;
    fields
        .take_rest()
        .into_iter()
        .map(|entry| {
            let value = match &entry.value.value {
                Value::Null => None,
                _ => Some(string(&entry.value, &join(path, &entry.key))?),
            };
            Ok((entry.key.clone(), value))
        })
        .collect()
}

/// `1h30m`, `2s`, `500ms`: numbers with units, largest first or not.
pub(super) fn duration(node: &Node, path: &str) -> Result<Duration> {
    parse_duration(text(node, path)?)
        .ok_or_else(|| wrong(node, path, "a time such as 500ms, 2s or 1h30m"))
}

fn parse_duration(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let mut rest = text;
    let mut total: u64 = 0;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !(c.is_ascii_digit() || c == '.'))?;
        let (number, after) = rest.split_at(end);
        let unit_end = after
            .find(|c: char| c.is_ascii_digit())
            .unwrap_or(after.len());
        let (unit, next) = after.split_at(unit_end);
        let micros: u64 = match unit {
            "us" | "µs" => 1,
            "ms" => 1_000,
            "s" => 1_000_000,
            "m" => 60_000_000,
            "h" => 3_600_000_000,
            "d" => 86_400_000_000,
            _ => return None,
        };
        total = total.checked_add(decimal(number, micros)?)?;
        rest = next;
    }
    // A year is longer than any wait that is meant.
    (!text.is_empty() && total <= 366 * 86_400_000_000).then(|| Duration::from_micros(total))
}

/// A decimal number times `unit`, without floating point.
fn decimal(text: &str, unit: u64) -> Option<u64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if whole.is_empty() || fraction.contains('.') || fraction.len() > 9 {
        return None;
    }
    let mut total = whole.parse::<u64>().ok()?.checked_mul(unit)?;
    if !fraction.is_empty() {
        let scale = 10_u64.pow(u32::try_from(fraction.len()).ok()?);
        total = total.checked_add(fraction.parse::<u64>().ok()?.checked_mul(unit)? / scale)?;
    }
    Some(total)
}

/// `10%`, `0.5%` in parts of [`WHOLE`].
pub(super) fn share(node: &Node, path: &str) -> Result<u32> {
    let parts = text(node, path)?
        .strip_suffix('%')
        .and_then(|number| decimal(number.trim_end(), 100))
        .and_then(|parts| u32::try_from(parts).ok())
        .filter(|parts| *parts <= WHOLE);
    parts.ok_or_else(|| wrong(node, path, "a share such as 10%"))
}

/// An error that says what would be right.
pub(super) fn wrong(node: &Node, path: &str, wanted: &str) -> super::error::ComposeError {
    let found = match &node.value {
        Value::Scalar { text, .. } => format!("{text:?}"),
        _ => node.kind().to_owned(),
    };
    node.at.error(format!("{path} is {wanted}, not {found}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_units() {
        for (text, expected) in [
            ("500ms", Some(500_000)),
            ("2s", Some(2_000_000)),
            ("1m30s", Some(90_000_000)),
            ("1.5h", Some(5_400_000_000)),
            ("10us", Some(10)),
            ("0", Some(0)),
            ("", None),
            ("5", None),
            ("s", None),
            ("-1s", None),
            ("1.2.3s", None),
            ("99999d", None),
            ("9999999999999999999999s", None),
        ] {
            let micros = parse_duration(text).map(|time| time.as_micros());
            assert_eq!(micros, expected, "{text}");
        }
    }
}
