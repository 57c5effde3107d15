//! Extended records: `length key=value\n`, where the length counts itself and the newline. A value
//! may hold any byte.

use std::collections::BTreeMap;

use super::header::sparse_from_records;
use super::sparse::SparseForm;

/// What the records of one extended header say.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Records {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<u64>,
    pub(super) gid: Option<u64>,
    pub(super) mtime: Option<(i64, u32)>,
    pub(super) sparse: Option<SparseForm>,
    pub(super) attributes: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// `GNU.sparse` records, in any of the three versions.
#[derive(Default)]
struct Sparse {
    is_there: bool,
    name: Option<Vec<u8>>,
    major: u64,
    minor: u64,
    size: Option<u64>,
    segments: Vec<(u64, u64)>,
    offset: Option<u64>,
}

impl Records {
    /// Reads them all; the reason when one is not as specified.
    pub(super) fn parse(mut bytes: &[u8]) -> Result<Self, String> {
        let mut all = Self::default();
        let mut sparse = Sparse::default();
        while !bytes.is_empty() {
            let (key, value, rest) = record(bytes).ok_or("a record is malformed")?;
            bytes = rest;
            if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                all.attributes.insert(name.to_owned(), value.to_owned());
            } else if let Some(name) = key.strip_prefix(b"GNU.sparse.") {
                sparse.record(name, value)?;
            } else if !value.is_empty() {
                // An empty value means that the header's own is right.
                all.record(key, value)?;
            }
        }
        if sparse.is_there {
            if sparse.name.is_some() {
                all.path = sparse.name;
            }
            let version = (sparse.major, sparse.minor);
            all.sparse = Some(sparse_from_records(version, sparse.segments, sparse.size)?);
        }
        Ok(all)
    }

    fn record(&mut self, key: &[u8], value: &[u8]) -> Result<(), String> {
        match key {
            b"path" => self.path = Some(value.to_owned()),
            b"linkpath" => self.link = Some(value.to_owned()),
            b"size" => self.size = Some(decimal(value)?),
            b"uid" => self.uid = Some(decimal(value)?),
            b"gid" => self.gid = Some(decimal(value)?),
            b"mtime" => self.mtime = Some(time(value).ok_or("a time is not a number")?),
            // Access times, names of users, remarks.
            _ => {}
        }
        Ok(())
    }
}

impl Sparse {
    fn record(&mut self, name: &[u8], value: &[u8]) -> Result<(), String> {
        self.is_there = true;
        match name {
            b"name" => self.name = Some(value.to_owned()),
            b"major" => self.major = decimal(value)?,
            b"minor" => self.minor = decimal(value)?,
            b"size" | b"realsize" => self.size = Some(decimal(value)?),
            b"offset" => self.offset = Some(decimal(value)?),
            b"numbytes" => {
                let offset = self
                    .offset
                    .take()
                    .ok_or("a sparse segment without its place")?;
                self.segments.push((offset, decimal(value)?));
            }
            b"map" => {
                let numbers = value.split(|byte| *byte == b',').map(decimal);
                let numbers: Vec<_> = numbers.collect::<Result<_, _>>()?;
                if numbers.len() % 2 != 0 {
                    return Err("the map of a sparse file is malformed".to_owned());
                }
                self.segments = numbers
                    .chunks_exact(2)
                    .map(|pair| (pair[0], pair[1]))
                    .collect();
            }
            // The number of segments, which are counted instead.
            b"numblocks" => {}
            _ => return Err("a sparse file of an unknown form".to_owned()),
        }
        Ok(())
    }
}

/// The first record's key and value, and what follows it.
fn record(bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = bytes.iter().take(20).position(|byte| *byte == b' ')?;
    let length = usize::try_from(decimal(&bytes[..space]).ok()?).ok()?;
    if length <= space + 1 || length > bytes.len() {
        return None;
    }
    let (record, rest) = bytes.split_at(length);
    let body = record[space + 1..].strip_suffix(b"\n")?;
    let equals = body.iter().position(|byte| *byte == b'=')?;
    let (key, value) = (&body[..equals], &body[equals + 1..]);
    (!key.is_empty()).then_some((key, value, rest))
}

/// Decimal digits alone.
pub(super) fn decimal(digits: &[u8]) -> Result<u64, String> {
    let text = std::str::from_utf8(digits).ok();
    text.filter(|text| text.bytes().all(|b| b.is_ascii_digit()))
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| format!("{:?} is not a number", digits.escape_ascii().to_string()))
}

/// `seconds[.fraction]`, possibly negative.
fn time(value: &[u8]) -> Option<(i64, u32)> {
    let text = std::str::from_utf8(value).ok()?;
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    let whole: i64 = seconds.parse().ok()?;
    if !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let digits: String = fraction
        .chars()
        .chain("000000000".chars())
        .take(9)
        .collect();
    let nanoseconds: u32 = digits.parse().ok()?;
    if seconds.starts_with('-') && nanoseconds > 0 {
        return Some((whole.checked_sub(1)?, 1_000_000_000 - nanoseconds));
    }
    Some((whole, nanoseconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_nanoseconds_and_may_be_before_1970() {
        let table: [(&str, Option<(i64, u32)>); 6] = [
            ("1700000000", Some((1_700_000_000, 0))),
            ("1700000000.5", Some((1_700_000_000, 500_000_000))),
            ("1.0123456789", Some((1, 12_345_678))),
            ("-1.25", Some((-2, 750_000_000))),
            ("", None),
            ("1.x", None),
        ];
        for (text, expected) in table {
            assert_eq!(time(text.as_bytes()), expected, "{text}");
        }
    }

    #[test]
    fn a_value_may_hold_newlines_and_what_looks_like_a_record() {
        let value = b"\n\n11 path=x\n\0\n";
        let key = b"SCHILY.xattr.user.a=";
        let mut bytes = format!("{} ", 3 + key.len() + value.len() + 1).into_bytes();
        bytes.extend_from_slice(key);
        bytes.extend_from_slice(value);
        bytes.push(b'\n');
        let records = Records::parse(&bytes).unwrap();
        assert_eq!(records.attributes[&b"user.a"[..]], value);
        assert_eq!(records.path, None);
    }

    #[test]
    fn malformed_records_are_refused() {
        for text in [
            "5 a=b\n",
            "7 a=b\n",
            "6 a=b",
            "x a=b\n",
            "0 a=b\n",
            "6 abc\n",
            "5 =b\n",
            " 6 a=b\n",
            "99999999999999999999 a=b\n",
            "+6 a=b\n",
            "12 size=-1\n\n",
        ] {
            assert!(Records::parse(text.as_bytes()).is_err(), "{text:?}");
        }
    }
}
