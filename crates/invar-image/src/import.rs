//! A root file system's tar becomes an image of one layer.

use std::io::Read;

use jiff::Timestamp;
use oci_spec::image::{
    Config, Descriptor, ImageConfigurationBuilder, ImageManifestBuilder, MediaType, RootFsBuilder,
    SCHEMA_VERSION,
};

use crate::digest::Digest;
use crate::error::{ImageError, Result};
use crate::layer::tree::Tree;
use crate::layer::{self, Budget, StoredLayer};
use crate::platform::Platform;
use crate::reference::Reference;
use crate::store::{Image, ImageStore, NewImage};
use crate::view;

/// What the tar itself cannot say.
#[derive(Debug, Clone, Default)]
pub struct ImportOptions {
    /// How to run it.
    pub config: Config,
    /// For which machines; this host's when `None`.
    pub platform: Option<Platform>,
}

impl ImageStore {
    /// Makes an image from a root file system's tar, plain or compressed with gzip or zstd.
    pub fn import(
        &self,
        name: &Reference,
        archive: impl Read,
        options: &ImportOptions,
    ) -> Result<Image> {
        self.bring_in(|| {
            let mut tree = layer::tree::empty();
            let mut budget = Budget::new(self.limits);
            let layer = layer::read(&self.objects, archive, "archive", &mut tree, &mut budget)?;
            let config = configuration(&layer.diff_id, options)?;
            self.publish_layers(config, None, vec![layer], tree, std::slice::from_ref(name))
        })
    }

    /// Stores the view of complete layers and makes the image visible. Without a manifest from
    /// outside, one is written.
    pub(crate) fn publish_layers(
        &self,
        config: Vec<u8>,
        manifest: Option<Vec<u8>>,
        layers: Vec<StoredLayer>,
        tree: Tree,
        names: &[Reference],
    ) -> Result<Image> {
        let manifest = match manifest {
            Some(manifest) => manifest,
            None => manifest_for(&config, &layers)?,
        };
        let new = NewImage {
            manifest_digest: Digest::of(&manifest),
            manifest,
            config,
            layers,
            view: view::build(&self.objects, tree)?,
        };
        self.publish(&new, names)
    }
}

fn configuration(diff_id: &Digest, options: &ImportOptions) -> Result<Vec<u8>> {
    let platform = options.platform.clone().unwrap_or_else(Platform::host);
    let rootfs = RootFsBuilder::default()
        .typ("layers")
        .diff_ids(vec![diff_id.to_string()])
        .build();
    let configuration = rootfs.and_then(|rootfs| {
        let mut builder = ImageConfigurationBuilder::default();
        if let Some(variant) = platform.variant {
            builder = builder.variant(variant);
        }
        builder
            .created(Timestamp::now().to_string())
            .os(platform.os.as_str())
            .architecture(platform.architecture.as_str())
            .config(options.config.clone())
            .rootfs(rootfs)
            .build()
    });
    to_json("image configuration", configuration)
}

/// A manifest of uncompressed layers.
pub(crate) fn manifest_for(config: &[u8], layers: &[StoredLayer]) -> Result<Vec<u8>> {
    let layers: Result<_> = layers
        .iter()
        .map(|layer| descriptor(MediaType::ImageLayer, layer.size, &layer.diff_id))
        .collect();
    manifest_of(config, layers?)
}

/// A manifest of layers in any form.
pub(crate) fn manifest_of(config: &[u8], layers: Vec<Descriptor>) -> Result<Vec<u8>> {
    let digest = Digest::of(config);
    let config = descriptor(MediaType::ImageConfig, config.len() as u64, &digest)?;
    let manifest = ImageManifestBuilder::default()
        .schema_version(SCHEMA_VERSION)
        .media_type(MediaType::ImageManifest)
        .config(config)
        .layers(layers)
        .build();
    to_json("image manifest", manifest)
}

fn descriptor(kind: MediaType, size: u64, digest: &Digest) -> Result<Descriptor> {
    let digest: std::result::Result<oci_spec::image::Digest, _> = digest.as_str().parse();
    let digest = digest.map_err(|error| ImageError::malformed("digest", error))?;
    Ok(Descriptor::new(kind, size, digest))
}

fn to_json<T: serde::Serialize, E: std::fmt::Display>(
    what: &str,
    value: std::result::Result<T, E>,
) -> Result<Vec<u8>> {
    let value = value.map_err(|error| ImageError::malformed(what, error))?;
    serde_json::to_vec(&value).map_err(|error| ImageError::malformed(what, error))
}
