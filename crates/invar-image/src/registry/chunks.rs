//! A large blob in chunks: one that breaks off costs what is left of it, not the whole blob
//! (distribution specification 1.1, "Pushing a blob in chunks").

use std::fs::File;
use std::sync::Arc;

use http::header::{CONTENT_RANGE, CONTENT_TYPE, LOCATION, RANGE};
use http::{HeaderValue, Method};

use super::body::Payload;
use super::client::{Call, Session};
use super::error::RegistryError;
use super::http::Answer;
use super::progress::Counter;
use super::upload::location;
use super::url::Url;
use crate::digest::Digest;

/// Bytes of a chunk; what is smaller is sent whole.
pub(super) const CHUNK: u64 = 16 << 20;
/// A registry that wants larger ones gets the blob whole.
const LARGEST: u64 = 1 << 30;

/// A part of a file that is a blob.
pub(super) struct Blob<'a> {
    pub(super) digest: &'a Digest,
    pub(super) file: &'a Arc<File>,
    pub(super) offset: u64,
    pub(super) size: u64,
    pub(super) counter: &'a Counter,
}

/// How an upload in chunks ended.
pub(super) enum Chunked {
    Done,
    /// The registry takes no chunks; nothing is left of the attempt that anybody would see.
    Refused,
}

impl Session {
    /// Sends a blob in chunks.
    pub(super) fn upload_chunks(
        &mut self,
        blob: &Blob<'_>,
        scopes: &[String],
    ) -> Result<Chunked, RegistryError> {
        let what = format!("upload of blob {}", blob.digest);
        let (mut url, chunk) = self.begin(&what, scopes)?;
        if chunk > LARGEST {
            return Ok(Chunked::Refused);
        }
        let (mut sent, mut failures) = (0, 0);
        while sent < blob.size {
            let length = chunk.min(blob.size - sent);
            match self.send_chunk(&what, &url, blob, (sent, length), scopes) {
                Ok(next) => {
                    url = next;
                    sent += length;
                }
                Err(error) if error.is_transient() => {
                    failures += 1;
                    self.wait(failures, None, error)?;
                    (url, sent) = match self.uploaded(&what, &url, scopes) {
                        Ok((next, had)) if had <= blob.size => (next, had),
                        // It forgot the upload, or has what nobody sent.
                        _ => (self.begin(&what, scopes)?.0, 0),
                    };
                }
                Err(_) if sent == 0 => return Ok(Chunked::Refused),
                Err(error) => return Err(error),
            }
            blob.counter.set(sent);
        }
        let url = url.with_query("digest", blob.digest.as_str());
        let mut answer = self.call(&Call::new(&what, Method::PUT, url, scopes))?;
        answer.small(&what, super::http::ERROR_ANSWER)?;
        Ok(Chunked::Done)
    }

    /// Begins an upload: where its first chunk goes, and how large chunks are to be.
    fn begin(&mut self, what: &str, scopes: &[String]) -> Result<(Url, u64), RegistryError> {
        let url = self.client.url("blobs/uploads/");
        let answer = self.call(&Call::new(what, Method::POST, url, scopes))?;
        let url = location(what, &answer.url, answer.header(LOCATION))?;
        let least = answer.header("oci-chunk-min-length");
        let least = least.and_then(|text| text.parse().ok()).unwrap_or(0);
        Ok((url, CHUNK.max(least)))
    }

    /// Sends one chunk; where the next one goes.
    fn send_chunk(
        &mut self,
        what: &str,
        url: &Url,
        blob: &Blob<'_>,
        (sent, length): (u64, u64),
        scopes: &[String],
    ) -> Result<Url, RegistryError> {
        let mut call = Call::new(what, Method::PATCH, url.clone(), scopes);
        let kind = HeaderValue::from_static("application/octet-stream");
        call.headers.insert(CONTENT_TYPE, kind);
        let range = format!("{sent}-{}", sent + length - 1);
        let range = HeaderValue::from_str(&range)
            .map_err(|error| RegistryError::protocol(what, error.to_string()))?;
        call.headers.insert(CONTENT_RANGE, range);
        call.payload = Payload::File {
            file: Arc::clone(blob.file),
            offset: blob.offset + sent,
            length,
            // Of this chunk alone; the blob's is set when the registry has it.
            counter: Counter::default(),
        };
        let mut answer = self.call_once(&call)?;
        answer.small(what, super::http::ERROR_ANSWER)?;
        next(what, &answer, url)
    }

    /// Where an upload that broke off goes on, and how many bytes the registry has of it.
    fn uploaded(
        &mut self,
        what: &str,
        url: &Url,
        scopes: &[String],
    ) -> Result<(Url, u64), RegistryError> {
        let mut answer = self.call(&Call::new(what, Method::GET, url.clone(), scopes))?;
        answer.small(what, super::http::ERROR_ANSWER)?;
        let next = next(what, &answer, url)?;
        Ok((next, had(answer.header(RANGE).unwrap_or_default())))
    }
}

fn next(what: &str, answer: &Answer, url: &Url) -> Result<Url, RegistryError> {
    match answer.header(LOCATION) {
        None => Ok(url.clone()),
        given => location(what, &answer.url, given),
    }
}

/// `0-N`: the registry has N + 1 bytes, or none, which some write as `0-0` too.
fn had(range: &str) -> u64 {
    let range = range.trim().trim_start_matches("bytes=");
    match range.split_once('-') {
        Some(("0", last)) => match last.parse::<u64>() {
            Ok(0) | Err(_) => 0,
            Ok(last) => last.saturating_add(1),
        },
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_registry_has_is_read_from_its_range() {
        for (range, expected) in [
            ("0-99", 100),
            ("bytes=0-99", 100),
            ("0-0", 0),
            ("", 0),
            ("5-99", 0),
            ("0--1", 0),
            ("0-18446744073709551615", u64::MAX),
        ] {
            assert_eq!(had(range), expected, "{range}");
        }
    }
}
