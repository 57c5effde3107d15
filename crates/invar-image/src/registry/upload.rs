//! Blobs and manifests to a registry: what is there is not sent again, and what another of its
//! repositories has is mounted.

use std::fs::File;
use std::sync::Arc;

use http::header::{CONTENT_TYPE, LOCATION};
use http::{HeaderValue, Method};

use super::body::Payload;
use super::chunks::{Blob, CHUNK, Chunked};
use super::client::{Call, Session};
use super::error::RegistryError;
use super::progress::{Counter, Event};
use super::url::Url;
use crate::digest::Digest;

/// A blob to send.
#[derive(Debug, Clone)]
pub(crate) enum Content {
    Bytes(Vec<u8>),
    File {
        file: Arc<File>,
        offset: u64,
        size: u64,
    },
}

impl Content {
    pub(crate) fn size(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::File { size, .. } => *size,
        }
    }

    fn payload(&self, counter: &Counter) -> Payload {
        match self {
            Self::Bytes(bytes) => Payload::Bytes(bytes.clone().into()),
            Self::File { file, offset, size } => Payload::File {
                file: Arc::clone(file),
                offset: *offset,
                length: *size,
                counter: counter.clone(),
            },
        }
    }
}

impl Session {
    /// Whether the repository has a blob.
    pub(crate) fn has_blob(
        &mut self,
        digest: &Digest,
        scopes: &[String],
    ) -> Result<bool, RegistryError> {
        let what = format!("blob {digest}");
        let url = self.client.url(&format!("blobs/{digest}"));
        let mut call = Call::new(&what, Method::HEAD, url, scopes);
        call.expected = &[404];
        Ok(self.call(&call)?.status.is_success())
    }

    /// Asks to take a blob from another repository of the registry; whether it did.
    pub(crate) fn mount(
        &mut self,
        digest: &Digest,
        from: &str,
        scopes: &[String],
    ) -> Result<bool, RegistryError> {
        let what = format!("blob {digest} of {from}");
        let url = self.client.url("blobs/uploads/");
        let url = url.with_query("mount", digest.as_str());
        let url = url.with_query("from", from);
        let call = Call::new(&what, Method::POST, url, scopes);
        let mut answer = self.call(&call)?;
        if answer.status.as_u16() == 201 {
            (self.client.listener)(Event::Skipped {
                digest: digest.clone(),
                reason: "mounted from another repository",
            });
            return Ok(true);
        }
        // It has begun an upload instead, which nobody wants.
        if let Some(location) = answer.header(LOCATION)
            && let Ok(url) = answer.url.join(location)
        {
            answer.small(&what, super::http::ERROR_ANSWER).ok();
            self.call(&Call::new(&what, Method::DELETE, url, scopes))
                .ok();
        }
        Ok(false)
    }

    /// Sends a blob: a large one in chunks, which goes on where it broke off; a small one whole, and
    /// anew when it broke off.
    pub(crate) fn upload(
        &mut self,
        digest: &Digest,
        content: &Content,
        scopes: &[String],
    ) -> Result<(), RegistryError> {
        let counter = Counter::default();
        (self.client.listener)(Event::Blob {
            digest: digest.clone(),
            size: content.size(),
            counter: counter.clone(),
        });
        if let Content::File { file, offset, size } = content
            && *size > CHUNK
        {
            let blob = Blob {
                digest,
                file,
                offset: *offset,
                size: *size,
                counter: &counter,
            };
            if let Chunked::Done = self.upload_chunks(&blob, scopes)? {
                return Ok(());
            }
        }
        let mut failures = 0;
        loop {
            match self.upload_once(digest, content, &counter, scopes) {
                Ok(()) => {
                    counter.set(content.size());
                    return Ok(());
                }
                Err(error) if error.is_transient() => {
                    failures += 1;
                    self.wait(failures, None, error)?;
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn upload_once(
        &mut self,
        digest: &Digest,
        content: &Content,
        counter: &Counter,
        scopes: &[String],
    ) -> Result<(), RegistryError> {
        let what = format!("upload of blob {digest}");
        let url = self.client.url("blobs/uploads/");
        let answer = self.call(&Call::new(&what, Method::POST, url, scopes))?;
        let url = location(&what, &answer.url, answer.header(LOCATION))?;
        drop(answer);
        let url = url.with_query("digest", digest.as_str());
        let mut call = Call::new(&what, Method::PUT, url, scopes);
        let kind = HeaderValue::from_static("application/octet-stream");
        call.headers.insert(CONTENT_TYPE, kind);
        call.payload = content.payload(counter);
        let mut answer = self.call_once(&call)?;
        answer.small(&what, super::http::ERROR_ANSWER)?;
        Ok(())
    }

    /// Stores a manifest under a tag or its digest; the answer tells what the registry made of it.
    pub(crate) fn put_manifest(
        &mut self,
        reference: &str,
        media_type: &str,
        bytes: &[u8],
        scopes: &[String],
    ) -> Result<super::http::Answer, RegistryError> {
        let what = format!("manifest {}:{reference}", self.client.path);
        let url = self.client.url(&format!("manifests/{reference}"));
        let mut call = Call::new(&what, Method::PUT, url, scopes);
        let kind = HeaderValue::from_str(media_type)
            .map_err(|error| RegistryError::protocol(&what, error.to_string()))?;
        call.headers.insert(CONTENT_TYPE, kind);
        call.payload = Payload::Bytes(bytes.to_vec().into());
        let answer = self.call(&call)?;
        let said = answer.header("docker-content-digest");
        let said = said.and_then(|said| Digest::parse(said).ok());
        let digest = Digest::of(bytes);
        match said {
            Some(said) if said != digest => {
                let reason = format!("the registry stored {said}, not {digest}");
                Err(RegistryError::protocol(&what, reason))
            }
            _ => Ok(answer),
        }
    }
}

pub(super) fn location(what: &str, from: &Url, header: Option<&str>) -> Result<Url, RegistryError> {
    let header = header.ok_or_else(|| RegistryError::protocol(what, "no address to send it to"))?;
    from.join(header)
        .map_err(|reason| RegistryError::protocol(what, format!("address to send it to: {reason}")))
}
