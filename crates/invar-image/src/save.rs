//! An image as an archive that every engine opens: an OCI layout with a docker-archive's
//! `manifest.json` beside it. Layers are given back byte for byte, uncompressed.

use std::collections::HashMap;
use std::io::{self, Write};

use oci_spec::image::{Descriptor, ImageIndexBuilder, MediaType, SCHEMA_VERSION};
use serde_json::json;

use crate::digest::Digest;
use crate::error::{ImageError, Result};
use crate::import::manifest_for;
use crate::layer::recipe;
use crate::store::{Image, ImageStore};

impl ImageStore {
    /// Writes an image, under all its names.
    pub fn save(&self, image: &Image, output: impl Write) -> Result<()> {
        let (_view, config, _manifest) = self.parts(&image.id)?;
        let layers = self.layers(&image.id)?;
        let manifest = manifest_for(&config, &layers)?;
        let mut archive = tar::Builder::new(output);
        archive.mode(tar::HeaderMode::Deterministic);

        file(
            &mut archive,
            "oci-layout",
            br#"{"imageLayoutVersion":"1.0.0"}"#,
        )?;
        let blob = |digest: &Digest| format!("blobs/sha256/{}", digest.hex());
        file(&mut archive, &blob(&Digest::of(&manifest)), &manifest)?;
        file(&mut archive, &blob(&Digest::of(&config)), &config)?;
        let mut written: Vec<&Digest> = Vec::new();
        for layer in &layers {
            if written.contains(&&layer.diff_id) {
                continue;
            }
            written.push(&layer.diff_id);
            let mut header = header(layer.size);
            let name = blob(&layer.diff_id);
            header.set_path(&name).map_err(failed)?;
            header.set_cksum();
            let target = archive.get_mut();
            target.write_all(header.as_bytes()).map_err(failed)?;
            recipe::write_layer(&self.objects, &layer.recipe, target)?;
            let padding = (512 - layer.size % 512) % 512;
            io::copy(&mut io::Read::take(io::repeat(0), padding), target).map_err(failed)?;
        }
        file(&mut archive, "index.json", &index(&image.names, &manifest)?)?;
        let docker = json!([{
            "Config": blob(&image.id),
            "RepoTags": image.names,
            "Layers": layers.iter().map(|layer| blob(&layer.diff_id)).collect::<Vec<_>>(),
        }]);
        file(&mut archive, "manifest.json", docker.to_string().as_bytes())?;
        archive
            .into_inner()
            .and_then(|mut output| output.flush())
            .map_err(failed)
    }
}

/// One entry for each name, all for the same manifest.
fn index(names: &[String], manifest: &[u8]) -> Result<Vec<u8>> {
    let digest: oci_spec::image::Digest = Digest::of(manifest)
        .as_str()
        .parse()
        .map_err(|error| ImageError::malformed("image manifest", error))?;
    let descriptor = || {
        Descriptor::new(
            MediaType::ImageManifest,
            manifest.len() as u64,
            digest.clone(),
        )
    };
    let tagged = names.iter().map(|name| {
        let mut descriptor = descriptor();
        let key = "io.containerd.image.name".to_owned();
        descriptor.set_annotations(Some(HashMap::from([(key, name.clone())])));
        descriptor
    });
    let mut entries: Vec<_> = tagged.collect();
    if entries.is_empty() {
        entries.push(descriptor());
    }
    let index = ImageIndexBuilder::default()
        .schema_version(SCHEMA_VERSION)
        .media_type(MediaType::ImageIndex)
        .manifests(entries)
        .build()
        .map_err(|error| ImageError::malformed("image index", error))?;
    serde_json::to_vec(&index).map_err(|error| ImageError::malformed("image index", error))
}

fn file(archive: &mut tar::Builder<impl Write>, name: &str, content: &[u8]) -> Result<()> {
    archive
        .append_data(&mut header(content.len() as u64), name, content)
        .map_err(failed)
}

fn header(size: u64) -> tar::Header {
    let mut header = tar::Header::new_ustar();
    header.set_mode(0o644);
    header.set_size(size);
    header.set_mtime(0);
    header.set_entry_type(tar::EntryType::Regular);
    header
}

fn failed(error: io::Error) -> ImageError {
    ImageError::malformed("archive being written", error)
}
