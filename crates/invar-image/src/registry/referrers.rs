//! What refers to a manifest: signatures, SBOMs, evidence. Registries without the referrers API
//! keep the list under the tag `sha256-HEX` (distribution specification 1.1, "Referrers Tag
//! Schema").

use http::Method;
use http::header::{ACCEPT, HeaderValue};
use oci_spec::image::{Descriptor, ImageIndex};
use serde_json::{Value, json};

use super::client::{Call, Session};
use super::error::RegistryError;
use super::manifest::OCI_INDEX;
use crate::digest::Digest;
use crate::error::{ImageError, Result};

/// Longest list that is read.
const LONGEST: u64 = 4 << 20;
/// How often the list is written again when another writer was faster.
const ATTEMPTS: u32 = 5;

impl Session {
    /// The manifests that refer to one.
    pub(crate) fn referrers(&mut self, subject: &Digest) -> Result<Vec<Descriptor>> {
        let what = format!("referrers of {subject}");
        let scopes = [self.client.pull_scope()];
        let url = self.client.url(&format!("referrers/{subject}"));
        let mut call = Call::new(&what, Method::GET, url, &scopes);
        call.headers
            .insert(ACCEPT, HeaderValue::from_static(OCI_INDEX));
        // Old registries know no such address, and say so in different ways.
        call.expected = &[400, 404, 405];
        let (answer, bytes) = self.call_small(&call, LONGEST)?;
        if answer.status.is_success() {
            let index: ImageIndex = serde_json::from_slice(&bytes)
                .map_err(|error| ImageError::malformed(&what, error))?;
            return Ok(index.manifests().clone());
        }
        let list = self.fallback(subject)?;
        let entries = list["manifests"].as_array().cloned().unwrap_or_default();
        let entries: std::result::Result<_, _> =
            entries.into_iter().map(serde_json::from_value).collect();
        entries.map_err(|error| ImageError::malformed(&what, error))
    }

    /// Adds an entry to the list under the tag. The registry has no compare-and-swap: the list is
    /// read again, and written again when another writer's list is there.
    pub(crate) fn add_to_fallback(
        &mut self,
        subject: &Digest,
        entry: &Value,
        scopes: &[String],
    ) -> Result<()> {
        for _ in 0..ATTEMPTS {
            let mut list = self.fallback(subject)?;
            let Some(entries) = list["manifests"].as_array_mut() else {
                return Err(ImageError::malformed("list of referrers", "it is no index"));
            };
            if entries
                .iter()
                .any(|other| other["digest"] == entry["digest"])
            {
                return Ok(());
            }
            entries.push(entry.clone());
            let bytes = list.to_string().into_bytes();
            self.put_manifest(&tag(subject), OCI_INDEX, &bytes, scopes)?;
        }
        let reason = "others write the list all the time";
        Err(RegistryError::protocol(format!("referrers of {subject}"), reason).into())
    }

    fn fallback(&mut self, subject: &Digest) -> Result<Value> {
        match self.manifest(&tag(subject), None, LONGEST) {
            Ok(fetched) => serde_json::from_slice(&fetched.bytes)
                .map_err(|error| ImageError::malformed("list of referrers", error)),
            Err(ImageError::Registry(error))
                if matches!(*error, RegistryError::NotFound { .. }) =>
            {
                Ok(json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []}))
            }
            Err(error) => Err(error),
        }
    }
}

fn tag(subject: &Digest) -> String {
    format!("sha256-{}", subject.hex())
}
