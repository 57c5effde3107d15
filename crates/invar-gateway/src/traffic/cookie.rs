//! Cookies that keep a visitor on one side of a split, and end with it.
//!
//! The sticky cookie holds `<epoch>.<bucket>`: the bucket, not the revision, is remembered. A canary
//! owns the highest buckets, so a growing weight moves visitors one way only, a shrinking one moves
//! them back, and weight 0 moves everybody. A rollback begins a new epoch: old cookies mean nothing.

use http::HeaderMap;
use http::header::COOKIE;

use crate::config::WHOLE;
use crate::random;

/// A value from 0 to [`WHOLE`] − 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bucket(pub(crate) u32);

impl Bucket {
    pub(crate) fn at_random() -> Self {
        Self(u32::try_from(random::below(u64::from(WHOLE))).unwrap_or(0))
    }

    /// The bucket in a cookie of this epoch.
    pub(crate) fn read(headers: &HeaderMap, cookie: &str, epoch: u64) -> Option<Self> {
        let (written, bucket) = value(headers, cookie)?.split_once('.')?;
        let bucket: u32 = plain_number(bucket)?;
        (plain_number::<u64>(written)? == epoch && bucket < WHOLE).then_some(Self(bucket))
    }

    /// The header value that makes a browser keep it.
    pub(crate) fn set_cookie(self, cookie: &str, epoch: u64) -> String {
        format!(
            "{cookie}={epoch}.{}; Path=/; HttpOnly; SameSite=Lax",
            self.0
        )
    }
}

/// The first value of a cookie of this name, over all `Cookie` fields (HTTP/2 splits them).
pub(crate) fn value<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers
        .get_all(COOKIE)
        .iter()
        .filter_map(|field| field.to_str().ok())
        .flat_map(|field| field.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .find_map(|(key, value)| (key == name).then_some(value))
}

/// Digits only: `parse` alone would take `+1`.
fn plain_number<T: std::str::FromStr>(text: &str) -> Option<T> {
    let is_plain = text.len() <= 20 && text.bytes().all(|byte| byte.is_ascii_digit());
    is_plain.then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_is_read_only_in_its_epoch_and_form() {
        for (cookies, expected) in [
            (&["invar=7.123"][..], Some(123)),
            (&["a=b; invar=7.9999; c=d"], Some(9999)),
            (&["a=b", "invar=7.0"], Some(0)),
            (&["invar=6.123"], None),
            (&["invar=7.10000"], None),
            (&["invar=7.+1"], None),
            (&["invar=7"], None),
            (&["xinvar=7.1"], None),
            (&["invar="], None),
            (&[], None),
        ] {
            let mut headers = HeaderMap::new();
            for cookie in cookies {
                headers.append(COOKIE, cookie.parse().unwrap());
            }
            let read = Bucket::read(&headers, "invar", 7).map(|bucket| bucket.0);
            assert_eq!(read, expected, "{cookies:?}");
        }
    }
}
