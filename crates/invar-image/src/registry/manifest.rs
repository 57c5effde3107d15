//! Manifests and indexes: fetched whole, checked against their digest and their own words, and
//! the one for the platform chosen.

use http::header::{ACCEPT, CONTENT_TYPE};
use http::{HeaderValue, Method};
use oci_spec::image::{Descriptor, ImageManifest, MediaType};
use serde::Deserialize;

use super::client::{Call, Session};
use super::error::RegistryError;
use crate::digest::Digest;
use crate::error::{ImageError, Result};
use crate::load;
use crate::platform::Platform;
use crate::reference::Reference;

pub(crate) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";

/// What is asked for, all in one header: some registries read only the first.
const WANTED: &str = "application/vnd.oci.image.index.v1+json, \
    application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, \
    application/vnd.docker.distribution.manifest.v2+json";

/// A manifest or index as the registry gave it.
#[derive(Debug, Clone)]
pub(crate) struct Fetched {
    pub(crate) digest: Digest,
    pub(crate) media_type: String,
    pub(crate) bytes: Vec<u8>,
}

/// An image of a registry: what its name stands for, and what is for this platform.
#[derive(Debug)]
pub(crate) struct Resolved {
    /// What the tag or digest names: an index or a manifest.
    pub(crate) named: Digest,
    pub(crate) manifest: ImageManifest,
    pub(crate) manifest_digest: Digest,
    pub(crate) manifest_bytes: Vec<u8>,
}

/// The parts that tell a manifest from an index.
#[derive(Deserialize)]
struct Shape {
    #[serde(rename = "mediaType")]
    media_type: Option<String>,
    #[serde(rename = "schemaVersion")]
    schema_version: Option<u64>,
    manifests: Option<serde::de::IgnoredAny>,
    layers: Option<serde::de::IgnoredAny>,
    config: Option<serde::de::IgnoredAny>,
}

/// The media type of a manifest or index: what the registry says and what is in it must agree, or
/// two programs could see two images in one digest (CVE-2021-41190).
pub(crate) fn media_type(header: Option<&str>, bytes: &[u8]) -> Result<String> {
    let what = "manifest";
    let shape: Shape =
        serde_json::from_slice(bytes).map_err(|error| ImageError::malformed(what, error))?;
    if shape.schema_version == Some(1) {
        return Err(ImageError::Unsupported {
            what: "a manifest of schema version 1".to_owned(),
            reason: "it cannot be verified; push the image again with a newer docker".to_owned(),
        });
    }
    let is_index = shape.manifests.is_some();
    if is_index && (shape.layers.is_some() || shape.config.is_some()) {
        return Err(ImageError::malformed(
            what,
            "it is a manifest and an index at once",
        ));
    }
    let header = header
        .map(|header| header.split(';').next().unwrap_or(header).trim())
        .filter(|header| known(header).is_some());
    let kind = match (header, shape.media_type.as_deref()) {
        (Some(header), Some(own)) if header != own => {
            let reason = format!("it is sent as {header:?} and calls itself {own:?}");
            return Err(ImageError::malformed(what, reason));
        }
        (Some(kind), _) | (None, Some(kind)) => kind,
        (None, None) if is_index => OCI_INDEX,
        (None, None) => OCI_MANIFEST,
    };
    match known(kind) {
        Some(says_index) if says_index == is_index => Ok(kind.to_owned()),
        Some(_) => {
            let reason = format!("it is called {kind:?} and is not one");
            Err(ImageError::malformed(what, reason))
        }
        None => Err(ImageError::Unsupported {
            what: format!("media type {kind:?}"),
            reason: "expected an image manifest or index".to_owned(),
        }),
    }
}

/// Whether a known media type is that of an index.
fn known(media_type: &str) -> Option<bool> {
    match media_type {
        OCI_INDEX | DOCKER_LIST => Some(true),
        OCI_MANIFEST | DOCKER_MANIFEST => Some(false),
        _ => None,
    }
}

impl Session {
    /// Fetches what a tag or digest names. `expected` is the digest it must have.
    pub(crate) fn manifest(
        &mut self,
        reference: &str,
        expected: Option<&Digest>,
        limit: u64,
    ) -> Result<Fetched> {
        let scopes = [self.client.pull_scope()];
        let what = match expected {
            Some(digest) => format!("{}@{digest}", self.client.path),
            None => format!("{}:{reference}", self.client.path),
        };
        let url = self.client.url(&format!("manifests/{reference}"));
        let mut call = Call::new(&what, Method::GET, url, &scopes);
        call.headers
            .insert(ACCEPT, HeaderValue::from_static(WANTED));
        let (answer, bytes) = self.call_small(&call, limit)?;
        let digest = Digest::of(&bytes);
        if let Some(expected) = expected {
            expected.expect(&format!("manifest of {what}"), &digest)?;
        }
        let said = answer.header("docker-content-digest");
        let said = said.and_then(|said| Digest::parse(said).ok());
        if let Some(said) = said.filter(|said| *said != digest) {
            let reason = format!("the registry says its digest is {said}, but it is {digest}");
            return Err(RegistryError::protocol(format!("manifest of {what}"), reason).into());
        }
        Ok(Fetched {
            media_type: media_type(answer.header(CONTENT_TYPE), &bytes)?,
            digest,
            bytes,
        })
    }

    /// Finds the image a reference names, for a platform.
    pub(crate) fn resolve(
        &mut self,
        reference: &Reference,
        platform: Option<&Platform>,
        limit: u64,
    ) -> Result<Resolved> {
        let named = if reference.is_digest_only() {
            let digest = reference.digest().cloned();
            let text = digest.as_ref().map_or("", Digest::as_str).to_owned();
            self.manifest(&text, digest.as_ref(), limit)?
        } else {
            self.manifest(reference.tag(), None, limit)?
        };
        let mut chosen = named.clone();
        if known(&named.media_type) == Some(true) {
            let entry = load::choose_platform(&named.bytes, platform)?;
            let digest = Digest::parse(entry.digest().as_ref())?;
            chosen = self.manifest(digest.as_str(), Some(&digest), limit)?;
            check_entry(&entry, &chosen)?;
        }
        // The digest may be that of the index, or of the image for this platform.
        if let Some(expected) = reference.digest()
            && *expected != named.digest
            && *expected != chosen.digest
        {
            return Err(RegistryError::Disagree {
                name: reference.name_and_tag(),
                expected: expected.to_string(),
                actual: named.digest.to_string(),
            }
            .into());
        }
        let manifest = serde_json::from_slice(&chosen.bytes)
            .map_err(|error| ImageError::malformed("image manifest", error))?;
        Ok(Resolved {
            named: named.digest,
            manifest,
            manifest_digest: chosen.digest,
            manifest_bytes: chosen.bytes,
        })
    }
}

fn check_entry(entry: &Descriptor, chosen: &Fetched) -> Result<()> {
    if known(&chosen.media_type) == Some(true) {
        return Err(ImageError::malformed("image index", "an index in an index"));
    }
    let length = chosen.bytes.len() as u64;
    if entry.size() != length {
        let reason = format!("it has {length} bytes, the index says {}", entry.size());
        return Err(ImageError::malformed("image manifest", reason));
    }
    let kind: &MediaType = entry.media_type();
    if kind.as_ref() != chosen.media_type {
        let reason = format!(
            "it is {:?}, the index says {:?}",
            chosen.media_type,
            kind.as_ref()
        );
        return Err(ImageError::malformed("image manifest", reason));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_manifest_is_called_must_be_what_it_is() {
        let manifest = r#"{"schemaVersion":2,"config":{},"layers":[]}"#;
        let index = r#"{"schemaVersion":2,"manifests":[]}"#;
        let both = r#"{"schemaVersion":2,"manifests":[],"layers":[]}"#;
        let docker = format!(r#"{{"mediaType":"{DOCKER_MANIFEST}","layers":[]}}"#);
        let old = r#"{"schemaVersion":1,"fsLayers":[]}"#;
        let strange = r#"{"mediaType":"text/plain"}"#;
        let typed = format!("{OCI_MANIFEST}; charset=utf-8");
        for (header, body, expected) in [
            (None, manifest, Ok(OCI_MANIFEST)),
            (Some("application/json"), manifest, Ok(OCI_MANIFEST)),
            (Some(typed.as_str()), manifest, Ok(OCI_MANIFEST)),
            (None, index, Ok(OCI_INDEX)),
            (Some(OCI_INDEX), index, Ok(OCI_INDEX)),
            (None, &docker, Ok(DOCKER_MANIFEST)),
            (Some(OCI_MANIFEST), &docker, Err("calls itself")),
            (Some(OCI_INDEX), manifest, Err("is not one")),
            (None, both, Err("at once")),
            (None, old, Err("schema version 1")),
            (None, strange, Err("is not supported")),
            (None, "[]", Err("manifest")),
        ] {
            let found = media_type(header, body.as_bytes()).map_err(|error| error.to_string());
            match (&found, expected) {
                (Ok(found), Ok(expected)) => assert_eq!(found, expected),
                (Err(error), Err(part)) => assert!(error.contains(part), "{error}"),
                _ => panic!("{header:?} {body}: {found:?}"),
            }
        }
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_the_reader_panic(text in "\\PC{0,80}", header in "\\PC{0,20}") {
            drop(media_type(Some(&header), text.as_bytes()));
        }
    }
}
