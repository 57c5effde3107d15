//! An image of a registry into the store.
//!
//! ```text
//! tag ─▶ index ─▶ manifest ─▶ configuration      each whole, checked against its digest
//!                     └─▶ blobs ─▶ downloads/ ─▶ hash, decompress ─▶ tar ─▶ objects
//!                                    (four at once)       (in order, while they come)
//! ```
//!
//! The row that makes the image visible is written last, when every digest has matched.

use std::collections::HashMap;
use std::sync::Arc;

use oci_spec::image::Descriptor;

use super::client::{Call, Client, Session};
use super::download::Downloads;
use super::endpoint;
use super::error::RegistryError;
use super::manifest::Resolved;
use super::progress::Event;
use super::settings::Settings;
use super::spool::Spool;
use super::{RegistryOptions, parts, unpack};
use crate::digest::Digest;
use crate::error::{ImageError, Result};
use crate::layer::{self, Budget, StoredLayer};
use crate::load::{check_config_type, check_platform, layer_digest};
use crate::platform::Platform;
use crate::reference::Reference;
use crate::store::{Image, ImageStore};

/// What a pull did.
#[derive(Debug, Clone)]
pub struct Pulled {
    /// The image.
    pub image: Image,
    /// The digest that the name stands for in the registry: of an index or a manifest.
    pub digest: Digest,
    /// Whether anything had to be downloaded.
    pub is_new: bool,
    /// Bytes of layers that were downloaded.
    pub downloaded: u64,
    /// Bytes that an earlier pull had downloaded before it broke off.
    pub resumed: u64,
}

/// One of an image's layers: here already, or a blob to fetch.
enum Part {
    Stored(StoredLayer),
    Blob(usize),
}

/// Whether to build on what earlier commands left.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Leftovers {
    Use,
    Ignore,
}

impl ImageStore {
    /// Pulls the image a reference names, for a platform (this host's when `None`), and gives it
    /// that name.
    pub fn pull(
        &self,
        reference: &Reference,
        platform: Option<&Platform>,
        options: &RegistryOptions,
    ) -> Result<Pulled> {
        let settings = Settings::read()?;
        let registry = reference.registry();
        let protection = options.protection();
        let mut endpoints = endpoint::mirrors(registry, &settings, &protection)?;
        endpoints.push(endpoint::of(registry, &settings, &protection)?);
        let mut left = endpoints.len();
        for endpoint in endpoints {
            left -= 1;
            let host = endpoint.origin.authority();
            let given = (left == 0).then(|| options.credentials.clone()).flatten();
            let listener = Arc::clone(&options.listener);
            let client = Client::new(endpoint, reference.path(), given, options.backoff, listener);
            let pulled = client
                .map_err(ImageError::from)
                .and_then(|client| self.pull_from(&client, reference, platform));
            match pulled {
                Err(ImageError::Registry(error)) if left > 0 => {
                    (options.listener)(Event::Note {
                        text: format!("mirror {host}: {error}"),
                    });
                }
                other => return other,
            }
        }
        Err(ImageError::NotFound {
            name: reference.to_string(),
        })
    }

    fn pull_from(
        &self,
        client: &Arc<Client>,
        reference: &Reference,
        platform: Option<&Platform>,
    ) -> Result<Pulled> {
        let mut session = Session::new(client)?;
        let resolved = session.resolve(reference, platform, self.limits.metadata)?;
        check_config_type(&resolved.manifest)?;
        let layers = resolved.manifest.layers().len();
        if layers > self.limits.layers {
            return Err(ImageError::TooLarge {
                what: format!("the number of layers of {reference}, {layers},"),
                limit: self.limits.layers.to_string(),
            });
        }
        let config = self.config(&mut session, resolved.manifest.config())?;
        check_platform(&config, platform)?;
        let diff_ids = self.diff_ids(&config, layers)?;
        drop(session);
        let names = if reference.is_digest_only() {
            vec![]
        } else {
            vec![reference.clone()]
        };
        let id = Digest::of(&config);
        let mut pulled = match self.get(&id) {
            Ok(image) => {
                for name in &names {
                    self.tag(&id, name)?;
                }
                Pulled {
                    image,
                    digest: resolved.named.clone(),
                    is_new: false,
                    downloaded: 0,
                    resumed: 0,
                }
            }
            Err(_not_here) => self.fetch(client, &resolved, &config, &diff_ids, &names)?,
        };
        let digests = [&resolved.named, &resolved.manifest_digest];
        self.add_source(&id, reference.name(), &digests)?;
        pulled.image = self.get(&id)?;
        Ok(pulled)
    }

    /// Reads a small blob whole.
    fn config(&self, session: &mut Session, descriptor: &Descriptor) -> Result<Vec<u8>> {
        let digest = Digest::parse(descriptor.digest().as_ref())?;
        let limit = self.limits.metadata;
        if descriptor.size() > limit {
            return Err(ImageError::TooLarge {
                what: format!("configuration {digest}"),
                limit: format!("{limit} bytes"),
            });
        }
        let what = format!("configuration {digest}");
        let scopes = [session.client.pull_scope()];
        let url = session.client.url(&format!("blobs/{digest}"));
        let call = Call::new(&what, http::Method::GET, url, &scopes);
        let (_answer, bytes) = session.call_small(&call, descriptor.size())?;
        digest.expect(&what, &Digest::of(&bytes))?;
        Ok(bytes)
    }

    fn fetch(
        &self,
        client: &Arc<Client>,
        resolved: &Resolved,
        config: &[u8],
        diff_ids: &[Digest],
        names: &[Reference],
    ) -> Result<Pulled> {
        let store = self.directory();
        let fetched = self.bring_in(|| {
            parts::prepare(&store)?;
            let attempt =
                |leftovers| self.attempt(client, resolved, config, diff_ids, names, leftovers);
            match attempt(Leftovers::Use) {
                // What was there already may be to blame: a crash of the machine leaves anything.
                Err((error, true)) if !matches!(error, ImageError::Registry(_)) => {
                    parts::remove(&store, blobs(resolved)?.iter().map(|(digest, _)| digest));
                    attempt(Leftovers::Ignore).map_err(|(error, _)| error)
                }
                other => other.map_err(|(error, _)| error),
            }
        });
        // A broken connection is worth going on from; a wrong image is not.
        let is_kept = match &fetched {
            Err(ImageError::Registry(error)) => !matches!(**error, RegistryError::Protocol { .. }),
            _ => false,
        };
        if !is_kept {
            parts::remove(&store, blobs(resolved)?.iter().map(|(digest, _)| digest));
        }
        fetched
    }

    /// Tries once; with an error, whether it used anything that was there before.
    fn attempt(
        &self,
        client: &Arc<Client>,
        resolved: &Resolved,
        config: &[u8],
        diff_ids: &[Digest],
        names: &[Reference],
        leftovers: Leftovers,
    ) -> std::result::Result<Pulled, (ImageError, bool)> {
        let plan = self.plan(client, resolved, diff_ids, leftovers);
        let (parts, spools) = plan.map_err(|error| (error, false))?;
        let stored = parts.iter().any(|part| matches!(part, Part::Stored(_)));
        let store = self.directory();
        let downloads = Downloads::new(client, &store, &spools);
        let unpacked = std::thread::scope(|scope| {
            downloads.start(scope);
            let unpacked = self.unpack_parts(&parts, diff_ids, &spools, &downloads);
            downloads.stop();
            unpacked
        });
        let resumed: u64 = spools.iter().map(|spool| spool.resumed()).sum();
        let published = unpacked.and_then(|(tree, layers)| {
            let manifest = Some(resolved.manifest_bytes.clone());
            self.publish_layers(config.to_vec(), manifest, layers, tree, names)
        });
        let image = published.map_err(|error| (error, stored || resumed > 0))?;
        let size: u64 = spools.iter().map(|spool| spool.size).sum();
        Ok(Pulled {
            image,
            digest: resolved.named.clone(),
            is_new: true,
            downloaded: size - resumed,
            resumed,
        })
    }

    /// What of the layers is here and what is to be fetched; each blob once.
    fn plan(
        &self,
        client: &Client,
        resolved: &Resolved,
        diff_ids: &[Digest],
        leftovers: Leftovers,
    ) -> Result<(Vec<Part>, Vec<Arc<Spool>>)> {
        let mut parts = Vec::new();
        let mut spools = Vec::new();
        let mut known: HashMap<Digest, usize> = HashMap::new();
        for ((digest, size), diff_id) in blobs(resolved)?.into_iter().zip(diff_ids) {
            if leftovers == Leftovers::Use
                && let Some(layer) = self.layer(diff_id)?
            {
                (client.listener)(Event::Skipped {
                    digest,
                    reason: "already here",
                });
                parts.push(Part::Stored(layer));
                continue;
            }
            let number = *known.entry(digest.clone()).or_insert_with(|| {
                spools.push(Spool::new(digest, size));
                spools.len() - 1
            });
            parts.push(Part::Blob(number));
        }
        let total: u64 = spools
            .iter()
            .fold(0, |sum, spool| sum.saturating_add(spool.size));
        if total > self.limits.unpacked {
            return Err(ImageError::TooLarge {
                what: format!("the image's layers, {total} bytes,"),
                limit: format!("{} bytes", self.limits.unpacked),
            });
        }
        Ok((parts, spools))
    }

    fn unpack_parts(
        &self,
        parts: &[Part],
        diff_ids: &[Digest],
        spools: &[Arc<Spool>],
        downloads: &Downloads<'_>,
    ) -> Result<(layer::tree::Tree, Vec<StoredLayer>)> {
        let mut tree = layer::tree::empty();
        let mut budget = Budget::new(self.limits);
        let mut layers = Vec::new();
        for (position, (part, diff_id)) in parts.iter().zip(diff_ids).enumerate() {
            let layer = match part {
                Part::Stored(layer) => {
                    unpack::stored(&self.objects, layer, &mut tree, &mut budget)?
                }
                Part::Blob(number) => {
                    let spool = &spools[*number];
                    let read = unpack::blob(&self.objects, spool, diff_id, &mut tree, &mut budget)?;
                    let rest = &parts[position + 1..];
                    let is_last = !rest
                        .iter()
                        .any(|p| matches!(p, Part::Blob(n) if n == number));
                    if is_last {
                        spool.close();
                    }
                    downloads.unpacked(number + 1);
                    read
                }
            };
            layers.push(layer);
        }
        Ok((tree, layers))
    }
}

/// Digest and size of each layer's blob.
fn blobs(resolved: &Resolved) -> Result<Vec<(Digest, u64)>> {
    let layers = resolved.manifest.layers().iter();
    layers
        .map(|layer| {
            if layer.size() == 0 {
                return Err(RegistryError::protocol("image manifest", "a layer of 0 bytes").into());
            }
            Ok((layer_digest(layer)?, layer.size()))
        })
        .collect()
}
