//! Images from archives: `docker save`, `podman save`, `skopeo copy`, and OCI layouts.

use std::io::Read;
use std::path::Path;

use oci_spec::image::{Descriptor, ImageIndex, ImageManifest, MediaType};
use serde::Deserialize;

use crate::archive::Archive;
use crate::digest::{Digest, HashingReader};
use crate::error::{ImageError, Result};
use crate::layer::{self, Budget};
use crate::platform::Platform;
use crate::reference::Reference;
use crate::store::{Image, ImageStore, parse_config};

/// Most indexes inside indexes.
const DEEPEST_INDEX: usize = 4;
/// Most images in one archive.
const MOST_IMAGES: usize = 100;

/// The annotations that carry a name in `index.json`: the one `docker` and `podman` write, and
/// the specified one, which is often only a tag.
const NAME_ANNOTATIONS: [&str; 2] = [
    "io.containerd.image.name",
    "org.opencontainers.image.ref.name",
];

/// One image of a docker-archive's `manifest.json`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerManifest {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

/// An image found in an archive, not yet unpacked.
struct Found {
    config: Vec<u8>,
    manifest: Option<Vec<u8>>,
    layers: Vec<Blob>,
    names: Vec<Reference>,
}

struct Blob {
    name: String,
    digest: Option<Digest>,
}

impl ImageStore {
    /// Loads every image of an archive: a docker-archive or an OCI archive, plain or compressed.
    ///
    /// `platform` chooses from an index, and allows an image that is not for this host.
    pub fn load(&self, archive: impl Read, platform: Option<&Platform>) -> Result<Vec<Image>> {
        self.bring_in(|| {
            let archive = Archive::stream(archive, &self.directory(), &self.limits)?;
            self.load_from(&archive, platform)
        })
    }

    /// Loads every image of an archive file, or of an OCI layout directory.
    pub fn load_path(&self, path: &Path, platform: Option<&Platform>) -> Result<Vec<Image>> {
        self.bring_in(|| {
            let archive = if path.is_dir() {
                Archive::directory(path)?
            } else {
                Archive::path(path, &self.directory(), &self.limits)?
            };
            self.load_from(&archive, platform)
        })
    }

    fn load_from(&self, archive: &Archive, platform: Option<&Platform>) -> Result<Vec<Image>> {
        let found = if archive.has("manifest.json") {
            self.docker_images(archive)?
        } else if archive.has("index.json") {
            self.oci_images(archive, platform)?
        } else {
            return Err(ImageError::Unsupported {
                what: "an archive without manifest.json and index.json".to_owned(),
                reason: "give a docker-archive or an OCI layout; a root file system is imported \
                         with `invar import`"
                    .to_owned(),
            });
        };
        if found.len() > MOST_IMAGES {
            return Err(ImageError::TooLarge {
                what: "the number of images in the archive".to_owned(),
                limit: MOST_IMAGES.to_string(),
            });
        }
        for image in &found {
            check_platform(&image.config, platform)?;
        }
        found
            .into_iter()
            .map(|image| self.unpack(archive, image))
            .collect()
    }

    fn docker_images(&self, archive: &Archive) -> Result<Vec<Found>> {
        let bytes = archive.read("manifest.json", self.limits.metadata)?;
        let manifests: Vec<DockerManifest> = serde_json::from_slice(&bytes)
            .map_err(|error| ImageError::malformed("manifest.json", error))?;
        manifests
            .into_iter()
            .map(|manifest| {
                let names = manifest.repo_tags.unwrap_or_default();
                let names: Result<_> = names.iter().map(|name| Reference::parse(name)).collect();
                let blob = |name| Blob { name, digest: None };
                Ok(Found {
                    config: archive.read(&manifest.config, self.limits.metadata)?,
                    manifest: None,
                    layers: manifest.layers.into_iter().map(blob).collect(),
                    names: names?,
                })
            })
            .collect()
    }

    fn oci_images(&self, archive: &Archive, platform: Option<&Platform>) -> Result<Vec<Found>> {
        let bytes = archive.read("index.json", self.limits.metadata)?;
        let index = parse_index("index.json", &bytes)?;
        let mut found = Vec::new();
        for entry in index.manifests() {
            // An index.json may list one image for each platform itself.
            if !is_for(entry, platform) && index.manifests().len() > 1 {
                continue;
            }
            let names = name_of(entry)?;
            let (manifest, bytes) = self.manifest(archive, entry, platform, 0)?;
            found.push(self.oci_image(archive, &manifest, bytes, names)?);
        }
        if found.is_empty() {
            return Err(no_platform(index.manifests(), platform));
        }
        Ok(found)
    }

    /// Follows a descriptor to the manifest for the platform.
    fn manifest(
        &self,
        archive: &Archive,
        descriptor: &Descriptor,
        platform: Option<&Platform>,
        depth: usize,
    ) -> Result<(ImageManifest, Vec<u8>)> {
        let bytes = self.blob(archive, descriptor)?;
        match descriptor.media_type() {
            MediaType::ImageManifest => {}
            MediaType::Other(other) if other.ends_with("distribution.manifest.v2+json") => {}
            MediaType::ImageIndex => return self.choose(archive, &bytes, platform, depth),
            MediaType::Other(other) if other.ends_with("manifest.list.v2+json") => {
                return self.choose(archive, &bytes, platform, depth);
            }
            other => return Err(unknown_type(other, "an image manifest or index")),
        }
        let manifest = serde_json::from_slice(&bytes)
            .map_err(|error| ImageError::malformed("image manifest", error))?;
        Ok((manifest, bytes))
    }

    fn choose(
        &self,
        archive: &Archive,
        bytes: &[u8],
        platform: Option<&Platform>,
        depth: usize,
    ) -> Result<(ImageManifest, Vec<u8>)> {
        if depth == DEEPEST_INDEX {
            return Err(ImageError::malformed(
                "image index",
                "indexes inside indexes",
            ));
        }
        let chosen = choose_platform(bytes, platform)?;
        self.manifest(archive, &chosen, platform, depth + 1)
    }

    fn oci_image(
        &self,
        archive: &Archive,
        manifest: &ImageManifest,
        bytes: Vec<u8>,
        names: Vec<Reference>,
    ) -> Result<Found> {
        check_config_type(manifest)?;
        let layers: Result<_> = manifest.layers().iter().map(layer_blob).collect();
        Ok(Found {
            config: self.blob(archive, manifest.config())?,
            manifest: Some(bytes),
            layers: layers?,
            names,
        })
    }

    /// Reads a small blob and checks its size and digest.
    fn blob(&self, archive: &Archive, descriptor: &Descriptor) -> Result<Vec<u8>> {
        let digest = Digest::parse(descriptor.digest().as_ref())?;
        let name = blob_name(&digest);
        let bytes = archive.read(&name, self.limits.metadata)?;
        digest.expect(&name, &Digest::of(&bytes))?;
        if bytes.len() as u64 != descriptor.size() {
            let reason = format!("it has {} bytes, not {}", bytes.len(), descriptor.size());
            return Err(ImageError::malformed(name, reason));
        }
        Ok(bytes)
    }

    /// The `DiffID`s of a configuration, one for each of the manifest's layers.
    pub(crate) fn diff_ids(&self, config: &[u8], layers: usize) -> Result<Vec<Digest>> {
        let config = parse_config(config)?;
        let diff_ids = config.rootfs().diff_ids();
        if diff_ids.len() != layers || layers > self.limits.layers {
            return Err(ImageError::malformed(
                "image configuration",
                format!(
                    "it names {} layers, the manifest has {layers}, at most {} are allowed",
                    diff_ids.len(),
                    self.limits.layers
                ),
            ));
        }
        diff_ids.iter().map(|text| Digest::parse(text)).collect()
    }

    fn unpack(&self, archive: &Archive, image: Found) -> Result<Image> {
        let diff_ids = self.diff_ids(&image.config, image.layers.len())?;
        let mut tree = layer::tree::empty();
        let mut budget = Budget::new(self.limits);
        let mut layers = Vec::new();
        for (blob, diff_id) in image.layers.iter().zip(diff_ids) {
            let mut reader = HashingReader::new(archive.open(&blob.name)?);
            let stored = layer::read(
                &self.objects,
                &mut reader,
                &blob.name,
                &mut tree,
                &mut budget,
            )?;
            if let Some(digest) = &blob.digest {
                let actual = reader
                    .finish()
                    .map_err(|error| ImageError::malformed(&blob.name, error))?;
                digest.expect(&blob.name, &actual)?;
            }
            diff_id.expect(&format!("DiffID of {}", blob.name), &stored.diff_id)?;
            layers.push(stored);
        }
        self.publish_layers(image.config, image.manifest, layers, tree, &image.names)
    }
}

fn blob_name(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

/// Refuses a manifest that is not of an image.
pub(crate) fn check_config_type(manifest: &ImageManifest) -> Result<()> {
    let config_type = manifest.config().media_type();
    let is_config = matches!(config_type, MediaType::ImageConfig)
        || config_type
            .to_string()
            .ends_with("docker.container.image.v1+json");
    if is_config {
        Ok(())
    } else {
        Err(unknown_type(config_type, "an image configuration"))
    }
}

/// The entry of an index that is for a platform.
pub(crate) fn choose_platform(index: &[u8], platform: Option<&Platform>) -> Result<Descriptor> {
    let index = parse_index("image index", index)?;
    let chosen = index
        .manifests()
        .iter()
        .find(|entry| is_for(entry, platform));
    chosen
        .cloned()
        .ok_or_else(|| no_platform(index.manifests(), platform))
}

fn layer_blob(descriptor: &Descriptor) -> Result<Blob> {
    let digest = layer_digest(descriptor)?;
    Ok(Blob {
        name: blob_name(&digest),
        digest: Some(digest),
    })
}

/// The digest of a layer's blob; refuses what is not a layer.
pub(crate) fn layer_digest(descriptor: &Descriptor) -> Result<Digest> {
    let media_type = descriptor.media_type();
    let is_layer = match media_type {
        MediaType::ImageLayer
        | MediaType::ImageLayerGzip
        | MediaType::ImageLayerZstd
        | MediaType::ImageLayerNonDistributable
        | MediaType::ImageLayerNonDistributableGzip
        | MediaType::ImageLayerNonDistributableZstd => true,
        other => {
            let kind: &str = other.as_ref();
            let kind = kind.strip_prefix("application/vnd.docker.image.rootfs.");
            matches!(
                kind,
                Some("diff.tar" | "diff.tar.gzip" | "foreign.diff.tar" | "foreign.diff.tar.gzip")
            )
        }
    };
    if !is_layer {
        return Err(unknown_type(media_type, "a tar layer, plain, gzip or zstd"));
    }
    Digest::parse(descriptor.digest().as_ref())
}

fn parse_index(what: &str, bytes: &[u8]) -> Result<ImageIndex> {
    serde_json::from_slice(bytes).map_err(|error| ImageError::malformed(what, error))
}

fn unknown_type(found: &MediaType, wanted: &str) -> ImageError {
    ImageError::Unsupported {
        what: format!("media type {:?}", found.as_ref()),
        reason: format!("expected {wanted}"),
    }
}

fn name_of(descriptor: &Descriptor) -> Result<Vec<Reference>> {
    let annotations = descriptor.annotations().as_ref();
    let name = NAME_ANNOTATIONS
        .iter()
        .find_map(|key| annotations.and_then(|all| all.get(*key)));
    // A bare tag names nothing here; the image is then found by its id.
    match name {
        Some(name) if name.contains(['/', ':']) => Ok(vec![Reference::parse(name)?]),
        _ => Ok(Vec::new()),
    }
}

fn platform_of(descriptor: &Descriptor) -> Option<Platform> {
    descriptor.platform().as_ref().map(|platform| Platform {
        os: platform.os().to_string(),
        architecture: platform.architecture().to_string(),
        variant: platform.variant().clone(),
    })
}

/// An entry that does not say its platform is decided by its configuration.
fn is_for(descriptor: &Descriptor, platform: Option<&Platform>) -> bool {
    let wanted = platform.cloned().unwrap_or_else(Platform::host);
    platform_of(descriptor).is_none_or(|found| wanted.accepts(&found))
}

fn no_platform(entries: &[Descriptor], platform: Option<&Platform>) -> ImageError {
    let mut found: Vec<_> = entries
        .iter()
        .filter_map(platform_of)
        .map(|found| format!("{:?}", found.to_string()))
        .collect();
    found.sort();
    found.dedup();
    ImageError::Platform {
        wanted: platform.cloned().unwrap_or_else(Platform::host).to_string(),
        found: if found.is_empty() {
            "none".to_owned()
        } else {
            found.join(", ")
        },
    }
}

pub(crate) fn check_platform(config: &[u8], platform: Option<&Platform>) -> Result<()> {
    let config = parse_config(config)?;
    let found = Platform {
        os: config.os().to_string(),
        architecture: config.architecture().to_string(),
        variant: config.variant().clone(),
    };
    let wanted = platform.cloned().unwrap_or_else(Platform::host);
    if wanted.accepts(&found) {
        return Ok(());
    }
    Err(ImageError::Platform {
        wanted: wanted.to_string(),
        found: format!("{:?}", found.to_string()),
    })
}
