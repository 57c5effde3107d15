//! Anything that is not an image to run: evidence, signatures, lists of packages. A manifest with a
//! type of its own, and content of any type.

use std::collections::BTreeMap;
use std::fs::File;
use std::sync::Arc;

use oci_spec::image::Descriptor;
use serde_json::{Value, json};

use super::client::Session;
use super::manifest::OCI_MANIFEST;
use super::upload::Content;
use super::{RegistryOptions, connect};
use crate::digest::{Digest, HashingReader};
use crate::error::{ImageError, Result};
use crate::reference::Reference;

/// The configuration of an artifact that has none (image specification 1.1).
const EMPTY: &[u8] = b"{}";
const EMPTY_TYPE: &str = "application/vnd.oci.empty.v1+json";

/// One file of an artifact.
#[derive(Debug)]
pub struct ArtifactLayer {
    /// What it is.
    pub media_type: String,
    /// Its content.
    pub content: File,
    /// For example `org.opencontainers.image.title`, its name.
    pub annotations: BTreeMap<String, String>,
}

/// Something to keep in a registry.
#[derive(Debug)]
pub struct Artifact {
    /// What it is, as a media type.
    pub artifact_type: String,
    /// Its files.
    pub layers: Vec<ArtifactLayer>,
    /// What is to be known of it.
    pub annotations: BTreeMap<String, String>,
    /// The manifest it belongs to, with its media type and size.
    pub subject: Option<Descriptor>,
}

/// Pushes an artifact to the tag of a reference; the digest of its manifest.
pub fn push_artifact(
    artifact: Artifact,
    reference: &Reference,
    options: &RegistryOptions,
) -> Result<Digest> {
    let client = connect(reference, options)?;
    let scopes = [client.push_scope()];
    let mut session = Session::new(&client)?;
    let empty = Digest::of(EMPTY);
    if !session.has_blob(&empty, &scopes)? {
        session.upload(&empty, &Content::Bytes(EMPTY.to_vec()), &scopes)?;
    }
    let mut layers = Vec::new();
    for layer in artifact.layers {
        layers.push(send(&mut session, layer, &scopes)?);
    }
    let mut manifest = json!({
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "artifactType": artifact.artifact_type,
        "config": {"mediaType": EMPTY_TYPE, "digest": empty.as_str(), "size": EMPTY.len()},
        "layers": layers,
        "annotations": artifact.annotations,
    });
    if let Some(subject) = &artifact.subject {
        manifest["subject"] = json!(subject);
    }
    let bytes = manifest.to_string().into_bytes();
    let digest = Digest::of(&bytes);
    let answer = session.put_manifest(reference.tag(), OCI_MANIFEST, &bytes, &scopes)?;
    let is_listed = answer.headers.contains_key("oci-subject");
    drop(answer);
    if let Some(subject) = artifact.subject.filter(|_| !is_listed) {
        let subject = Digest::parse(subject.digest().as_ref())?;
        let entry = json!({
            "mediaType": OCI_MANIFEST,
            "digest": digest.as_str(),
            "size": bytes.len(),
            "artifactType": artifact.artifact_type,
            "annotations": artifact.annotations,
        });
        session.add_to_fallback(&subject, &entry, &scopes)?;
    }
    Ok(digest)
}

/// The manifests that refer to one of a repository, by its API or by the list under a tag.
pub fn referrers(
    repository: &Reference,
    subject: &Digest,
    options: &RegistryOptions,
) -> Result<Vec<Descriptor>> {
    let client = connect(repository, options)?;
    Session::new(&client)?.referrers(subject)
}

fn send(session: &mut Session, layer: ArtifactLayer, scopes: &[String]) -> Result<Value> {
    use std::io::Seek as _;
    let wrong = |error: std::io::Error| ImageError::malformed("file of the artifact", error);
    let mut file = layer.content;
    file.rewind().map_err(wrong)?;
    let size = file.metadata().map_err(wrong)?.len();
    let digest = HashingReader::new(&mut file).finish().map_err(wrong)?;
    if !session.has_blob(&digest, scopes)? {
        let content = Content::File {
            file: Arc::new(file),
            offset: 0,
            size,
        };
        session.upload(&digest, &content, scopes)?;
    }
    Ok(json!({
        "mediaType": layer.media_type,
        "digest": digest.as_str(),
        "size": size,
        "annotations": layer.annotations,
    }))
}
