//! An OCI layout in a tar to a registry: whatever is in it, images and artifacts alike.

use std::collections::HashSet;
use std::fs::File;
use std::sync::Arc;

use serde_json::Value;

use super::client::Session;
use super::upload::Content;
use super::{RegistryOptions, connect};
use crate::archive::Archive;
use crate::digest::Digest;
use crate::error::{ImageError, Result};
use crate::limits::Limits;
use crate::reference::Reference;

/// Most manifests of one layout.
const MOST: usize = 100;
const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// A manifest that was pushed.
#[derive(Debug, Clone)]
pub struct PushedManifest {
    /// Its digest.
    pub digest: Digest,
    /// The name it has in the registry.
    pub name: String,
}

/// Pushes every manifest of an uncompressed layout, in its order, so that each comes after what it
/// refers to. The last one gets the reference's tag; the others get the tag with `-` and the name
/// they have in the layout, or none.
pub fn push_layout(
    layout: File,
    reference: &Reference,
    options: &RegistryOptions,
) -> Result<Vec<PushedManifest>> {
    let limits = Limits::default();
    let archive = Archive::file(fs_err::File::from_parts(layout, "layout"), &limits)?;
    let index = archive.read("index.json", limits.metadata)?;
    let index: Value = serde_json::from_slice(&index)
        .map_err(|error| ImageError::malformed("index.json", error))?;
    let entries = index["manifests"].as_array().map_or(&[][..], Vec::as_slice);
    if entries.len() > MOST {
        return Err(ImageError::TooLarge {
            what: "the number of manifests in the layout".to_owned(),
            limit: MOST.to_string(),
        });
    }
    let client = connect(reference, options)?;
    let mut pushing = Pushing {
        session: Session::new(&client)?,
        scopes: vec![client.push_scope()],
        archive: &archive,
        sent: HashSet::new(),
    };
    let mut pushed = Vec::new();
    for (number, entry) in entries.iter().enumerate() {
        let name = entry["annotations"][REF_NAME].as_str();
        let tag = match name {
            _ if number + 1 == entries.len() => Some(reference.tag().to_owned()),
            Some(name) => Some(format!("{}-{name}", reference.tag())),
            None => None,
        };
        let digest = pushing.manifest(entry, tag.as_deref(), limits.metadata)?;
        let name = match tag {
            Some(tag) => format!("{}:{tag}", reference.name()),
            None => format!("{}@{digest}", reference.name()),
        };
        pushed.push(PushedManifest { digest, name });
    }
    Ok(pushed)
}

struct Pushing<'a> {
    session: Session,
    scopes: Vec<String>,
    archive: &'a Archive,
    sent: HashSet<Digest>,
}

impl Pushing<'_> {
    fn manifest(&mut self, entry: &Value, tag: Option<&str>, limit: u64) -> Result<Digest> {
        let digest = digest_of(entry)?;
        let name = format!("blobs/sha256/{}", digest.hex());
        let bytes = self.archive.read(&name, limit)?;
        digest.expect(&name, &Digest::of(&bytes))?;
        let manifest: Value =
            serde_json::from_slice(&bytes).map_err(|error| ImageError::malformed(&name, error))?;
        let layers = manifest["layers"].as_array().map_or(&[][..], Vec::as_slice);
        for descriptor in std::iter::once(&manifest["config"]).chain(layers) {
            self.blob(&digest_of(descriptor)?)?;
        }
        let kind = entry["mediaType"].as_str().unwrap_or_default();
        let reference = tag.unwrap_or(digest.as_str());
        let answer = self
            .session
            .put_manifest(reference, kind, &bytes, &self.scopes)?;
        let is_listed = answer.headers.contains_key("oci-subject");
        drop(answer);
        if let (Some(subject), false) = (manifest.get("subject"), is_listed) {
            let subject = digest_of(subject)?;
            self.session
                .add_to_fallback(&subject, entry, &self.scopes)?;
        }
        Ok(digest)
    }

    fn blob(&mut self, digest: &Digest) -> Result<()> {
        if !self.sent.insert(digest.clone()) || self.session.has_blob(digest, &self.scopes)? {
            return Ok(());
        }
        let name = format!("blobs/sha256/{}", digest.hex());
        let (file, offset, size) = self.archive.part(&name)?;
        let content = Content::File {
            file: Arc::new(file),
            offset,
            size,
        };
        Ok(self.session.upload(digest, &content, &self.scopes)?)
    }
}

fn digest_of(descriptor: &Value) -> Result<Digest> {
    Digest::parse(descriptor["digest"].as_str().unwrap_or_default())
}
