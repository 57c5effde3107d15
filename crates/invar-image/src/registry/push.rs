//! An image of the store to a registry.
//!
//! An image that came from a registry goes back with the manifest it had, when the registry has
//! its blobs or can take them from another of its repositories. Otherwise the layers that are
//! missing are compressed anew, and the manifest, and with it the digest, is another one.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use flate2::write::GzEncoder;
use oci_spec::image::{Descriptor, ImageManifest, MediaType};
use rustix::fs::FlockOperation;
use sha2::{Digest as _, Sha256};

use super::client::{Client, Session};
use super::error::RegistryError;
use super::manifest::{OCI_MANIFEST, media_type};
use super::progress::Event;
use super::upload::Content;
use super::{RegistryOptions, parts};
use crate::digest::Digest;
use crate::error::{ImageError, Result};
use crate::layer::{StoredLayer, recipe};
use crate::reference::Reference;
use crate::store::{Image, ImageStore};

/// Layers that are compressed and sent at once.
const AT_ONCE: usize = 4;

/// What a push did.
#[derive(Debug, Clone)]
pub struct Pushed {
    /// The digest of the manifest in the registry.
    pub digest: Digest,
    /// Bytes of that manifest.
    pub size: u64,
    /// Whether the manifest is the one the image came with.
    pub is_as_it_came: bool,
    /// Bytes of layers that had to be sent.
    pub uploaded: u64,
}

/// Where a push goes.
struct Target {
    client: Arc<Client>,
    scopes: Vec<String>,
    /// Other repositories of the registry that may have the blobs.
    mounts: Vec<String>,
}

impl ImageStore {
    /// Pushes an image to the repository and tag of a reference.
    pub fn push(
        &self,
        image: &Image,
        reference: &Reference,
        options: &RegistryOptions,
    ) -> Result<Pushed> {
        // Nothing that is being sent may be pruned.
        let _lock = self.lock(FlockOperation::LockShared)?;
        parts::prepare(&self.directory())?;
        let target = self.target(image, reference, options)?;
        let (_view, config, manifest) = self.parts(&image.id)?;
        let layers = self.layers(&image.id)?;
        let original: ImageManifest = serde_json::from_slice(&manifest)
            .map_err(|error| ImageError::malformed("image manifest", error))?;
        let sent = self.send_layers(&target, &original, &layers)?;
        let mut session = Session::new(&target.client)?;
        let is_as_it_came = sent.iter().all(|layer| !layer.is_new_form);
        let (bytes, kind) = if is_as_it_came {
            let kind = media_type(None, &manifest)?;
            (manifest, kind)
        } else {
            let descriptors = sent.iter().map(|layer| layer.descriptor.clone()).collect();
            (new_manifest(&config, descriptors)?, OCI_MANIFEST.to_owned())
        };
        if !session.has_blob(&image.id, &target.scopes)? {
            session.upload(&image.id, &Content::Bytes(config), &target.scopes)?;
        }
        session.put_manifest(reference.tag(), &kind, &bytes, &target.scopes)?;
        let digest = Digest::of(&bytes);
        self.add_source(&image.id, reference.name(), &[&digest])?;
        Ok(Pushed {
            digest,
            size: bytes.len() as u64,
            is_as_it_came,
            uploaded: sent.iter().map(|layer| layer.uploaded).sum(),
        })
    }

    fn target(
        &self,
        image: &Image,
        reference: &Reference,
        options: &RegistryOptions,
    ) -> Result<Target> {
        if reference.digest().is_some() {
            return Err(ImageError::InvalidReference {
                text: reference.to_string(),
                reason: "an image is pushed to a tag; leave the digest out",
            });
        }
        let client = super::connect(reference, options)?;
        let mut scopes = vec![client.push_scope()];
        let mut mounts = Vec::new();
        for name in self.sources(&image.id)? {
            let source = Reference::parse(&name)?;
            if source.registry() == reference.registry() && source.path() != reference.path() {
                scopes.push(format!("repository:{}:pull", source.path()));
                mounts.push(source.path());
            }
        }
        Ok(Target {
            client,
            scopes,
            mounts,
        })
    }

    fn send_layers(
        &self,
        target: &Target,
        original: &ImageManifest,
        layers: &[StoredLayer],
    ) -> Result<Vec<Sent>> {
        let next = AtomicUsize::new(0);
        let results: Vec<Mutex<Option<Result<Sent>>>> =
            layers.iter().map(|_| Mutex::new(None)).collect();
        let work = || {
            let mut session = Session::new(&target.client);
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                let Some(layer) = layers.get(number) else {
                    return;
                };
                // The same layer may be there twice: the first one is sent.
                let first = layers
                    .iter()
                    .position(|other| other.diff_id == layer.diff_id);
                if first != Some(number) {
                    continue;
                }
                let sent = match &mut session {
                    Ok(session) => {
                        self.send_layer(session, target, original.layers().get(number), layer)
                    }
                    Err(error) => Err(RegistryError::unreachable("this host", &*error).into()),
                };
                if sent.is_err() {
                    next.store(layers.len(), Ordering::Relaxed);
                }
                let mut result = results[number]
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner);
                *result = Some(sent);
            }
        };
        std::thread::scope(|scope| {
            for _ in 0..AT_ONCE.min(layers.len()) {
                scope.spawn(work);
            }
        });
        let mut sent: Vec<Option<Sent>> = Vec::new();
        for result in results {
            let result = result.into_inner().unwrap_or_else(PoisonError::into_inner);
            sent.push(result.transpose()?);
        }
        let repeated = |number: usize| {
            let first = layers
                .iter()
                .position(|other| other.diff_id == layers[number].diff_id);
            let first = sent.get(first?)?.as_ref()?;
            Some(Sent {
                uploaded: 0,
                ..first.clone()
            })
        };
        (0..layers.len())
            .map(|number| sent[number].clone().or_else(|| repeated(number)))
            .collect::<Option<_>>()
            .ok_or_else(|| RegistryError::protocol("push", "not every layer was sent").into())
    }

    /// Makes sure that the registry has a layer, in the form it came in or compressed anew.
    fn send_layer(
        &self,
        session: &mut Session,
        target: &Target,
        original: Option<&Descriptor>,
        layer: &StoredLayer,
    ) -> Result<Sent> {
        if let Some(descriptor) = original {
            let digest = Digest::parse(descriptor.digest().as_ref())?;
            if is_there(session, target, &digest)? {
                return Ok(Sent {
                    descriptor: descriptor.clone(),
                    is_new_form: false,
                    uploaded: 0,
                });
            }
        }
        if let Some((digest, size)) = self.blob_of(&layer.diff_id)?
            && is_there(session, target, &digest)?
        {
            return Sent::new_form(&digest, size, 0);
        }
        let (file, digest, size) = self.compress(layer)?;
        self.add_blob(&layer.diff_id, &digest, size)?;
        if is_there(session, target, &digest)? {
            return Sent::new_form(&digest, size, 0);
        }
        let content = Content::File {
            file,
            offset: 0,
            size,
        };
        session.upload(&digest, &content, &target.scopes)?;
        Sent::new_form(&digest, size, size)
    }

    /// A layer as gzip, in a file without a name; the same layer gives the same bytes.
    fn compress(&self, layer: &StoredLayer) -> Result<(Arc<std::fs::File>, Digest, u64)> {
        let directory = parts::directory(&self.directory());
        let failed = || ImageError::io("write a file in", &directory);
        let file = tempfile::tempfile_in(&directory).map_err(failed())?;
        let output = HashingWriter {
            inner: io::BufWriter::with_capacity(1 << 18, file),
            hash: Sha256::new(),
            written: 0,
        };
        let mut encoder = GzEncoder::new(output, flate2::Compression::default());
        recipe::write_layer(&self.objects, &layer.recipe, &mut encoder)?;
        let output = encoder.finish().map_err(failed())?;
        let digest = Digest::from_hash(output.hash.finalize().into());
        let file = output.inner.into_inner();
        let file = file.map_err(|error| failed()(error.into_error()))?;
        Ok((Arc::new(file), digest, output.written))
    }
}

/// Whether the registry has a blob, or takes it from another of its repositories.
fn is_there(session: &mut Session, target: &Target, digest: &Digest) -> Result<bool> {
    if session.has_blob(digest, &target.scopes)? {
        (target.client.listener)(Event::Skipped {
            digest: digest.clone(),
            reason: "already in the registry",
        });
        return Ok(true);
    }
    for from in &target.mounts {
        if session.mount(digest, from, &target.scopes)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// A layer that the registry has.
#[derive(Clone)]
struct Sent {
    descriptor: Descriptor,
    is_new_form: bool,
    uploaded: u64,
}

impl Sent {
    fn new_form(digest: &Digest, size: u64, uploaded: u64) -> Result<Self> {
        let digest: std::result::Result<oci_spec::image::Digest, _> = digest.as_str().parse();
        let digest = digest.map_err(|error| ImageError::malformed("digest", error))?;
        Ok(Self {
            descriptor: Descriptor::new(MediaType::ImageLayerGzip, size, digest),
            is_new_form: true,
            uploaded,
        })
    }
}

/// A manifest in OCI's form; the layers that stay keep their bytes and get OCI's names.
fn new_manifest(config: &[u8], layers: Vec<Descriptor>) -> Result<Vec<u8>> {
    let layers = layers
        .into_iter()
        .map(|mut layer| {
            let kind = layer.media_type().to_string();
            let oci = match kind.strip_prefix("application/vnd.docker.image.rootfs.") {
                Some("diff.tar.gzip" | "foreign.diff.tar.gzip") => MediaType::ImageLayerGzip,
                Some("diff.tar" | "foreign.diff.tar") => MediaType::ImageLayer,
                _ => layer.media_type().clone(),
            };
            layer.set_media_type(oci);
            layer
        })
        .collect();
    crate::import::manifest_of(config, layers)
}

struct HashingWriter<W> {
    inner: W,
    hash: Sha256,
    written: u64,
}

impl<W: io::Write> io::Write for HashingWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let length = self.inner.write(bytes)?;
        self.hash.update(&bytes[..length]);
        self.written += length as u64;
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
