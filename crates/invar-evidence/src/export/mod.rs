//! Evidence as one archive that every engine loads and no tool of ours is needed for.
//!
//! ```text
//!  index.json ─┬─▶ rootfs: layers of the image + what changed; Entrypoint and Cmd cleared
//!              └─▶ evidence (artifactType, subject = rootfs): changes.jsonl, upper.tar, proc.tar, …
//!  manifest.json ─▶ rootfs again, for `docker load` and `podman load`
//!  SHA256SUMS, SHA256SUMS.dsse.json
//! ```
//!
//! Everything is read twice, first to hash it, then to write it, so no copy is made on disk and
//! the memory does not grow with the evidence.

mod blob;
mod image;
mod layer;
pub(crate) mod pax;
mod redact;

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fs::File;
use std::io::Write;
use std::path::Path;

use serde_json::{Value, json};

use self::blob::{Blob, Counting, Source};
use self::image::Image;
use self::layer::{Form, failed};
use self::pax::Pax;
use crate::archive;
use crate::capture::{below, changes, log, memory, mounted, timeline};
use crate::custody::{self, Action};
use crate::digest;
use crate::error::{EvidenceError, Result};
use crate::header::{self, Gap, Header, Marks};
use crate::id::EvidenceId;
use crate::seal::dsse::{self, Sealed};
use crate::seal::key::PrivateKey;
use crate::seal::sums;
use crate::store::{Evidence, EvidenceStore, State};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
const EMPTY: &str = "application/vnd.oci.empty.v1+json";
const TAR: &str = "application/x-tar";
const JSON: &str = "application/json";
const TEXT: &str = "text/plain";
/// Media type of the evidence, whole or redacted.
const ARTIFACT: &str = "application/vnd.invar.evidence.v1";
const REDACTED: &str = "application/vnd.invar.evidence.redacted.v1";
/// Directories of the evidence, each a tar of its own.
const DIRECTORIES: &[&str] = &["proc", "net", "files", "logs"];

/// What was written.
#[derive(Debug, serde::Serialize)]
pub struct Exported {
    /// The evidence.
    pub id: EvidenceId,
    /// Name of the image that engines load.
    pub image: Option<String>,
    /// Whether the layers of the original image are in it.
    pub has_base: bool,
    /// What the image of what changed cannot hold; it is in `upper.tar`.
    pub not_in_image: Vec<Gap>,
    /// SHA-256 of the archive.
    pub sha256: String,
    /// A signed statement about the archive, to be kept beside it: a DSSE envelope.
    #[serde(skip)]
    pub signature: Vec<u8>,
}

/// Writes sealed evidence as an archive. `image` is a docker-archive of the container's image;
/// without it, the image in the archive has the changes only.
pub fn export(
    store: &EvidenceStore,
    evidence: &Evidence,
    image: Option<File>,
    out: &mut dyn Write,
) -> Result<Exported> {
    let header = sealed_header(evidence)?;
    let image = match image {
        Some(file) => Some(Image::read(file, &header.container.image)?),
        None => None,
    };
    let has_base = image.is_some();
    let mut archive = Archive::default();
    let mut gaps = Vec::new();
    let tag = format!("invar-evidence:{}", evidence.id);
    let rootfs = archive.rootfs(evidence, header, image, &tag, &mut gaps)?;
    archive.evidence(evidence, Some(&rootfs))?;
    let (sha256, signature) = archive.write(store, evidence, out)?;
    crate::seal::record(store, evidence, Action::Exported)?;
    Ok(Exported {
        id: evidence.id.clone(),
        image: Some(tag),
        has_base,
        not_in_image: gaps,
        sha256,
        signature,
    })
}

/// Writes a copy of sealed evidence without environments, arguments, output and the bytes of
/// files. It names what it was derived from.
pub fn redact(store: &EvidenceStore, evidence: &Evidence, out: &mut dyn Write) -> Result<Exported> {
    sealed_header(evidence)?;
    let mut archive = Archive::default();
    archive.redacted(evidence)?;
    let (sha256, signature) = archive.write(store, evidence, out)?;
    crate::seal::record(store, evidence, Action::Redacted)?;
    Ok(Exported {
        id: evidence.id.clone(),
        image: None,
        has_base: false,
        not_in_image: Vec::new(),
        sha256,
        signature,
    })
}

fn sealed_header(evidence: &Evidence) -> Result<&Header> {
    let header = evidence.header.as_ref();
    let header = header.filter(|_| evidence.state == State::Sealed);
    header.ok_or_else(|| EvidenceError::NotSealed {
        id: evidence.id.to_string(),
    })
}

#[derive(Default)]
struct Archive {
    blobs: Vec<Blob>,
    /// Descriptors for `index.json`.
    manifests: Vec<Value>,
    docker: Option<Value>,
    /// The original configuration of the image.
    image_config: Option<Value>,
}

impl Archive {
    /// The image that engines load; its descriptor.
    fn rootfs(
        &mut self,
        evidence: &Evidence,
        header: &Header,
        image: Option<Image>,
        tag: &str,
        gaps: &mut Vec<Gap>,
    ) -> Result<Value> {
        let dir = evidence.dir.clone();
        let upper = Source::Tree(dir, "upper".to_owned(), Form::Layer, header.marks);
        let changed = Blob::new(LAYER, None, upper, &mut |gap| gaps.push(gap))?;
        let (original, layers) = match image {
            Some(image) => {
                let layers = image.layers.into_iter().map(|layer| {
                    let file = image.file.try_clone().map_err(failed)?;
                    let source = Source::Part {
                        file,
                        offset: layer.offset,
                        size: layer.size,
                    };
                    Blob::new(LAYER, None, source, &mut |_| {})
                });
                (Some(image.config), layers.collect::<Result<Vec<_>>>()?)
            }
            None => (None, Vec::new()),
        };
        let config = config(original.as_deref(), header, &changed.sha256)?;
        let config = self.bytes(CONFIG, None, config)?;
        if let Some(original) = original {
            let original = self.bytes(CONFIG, Some("image-config.json"), original)?;
            self.image_config = Some(original);
        }
        let layers: Vec<Blob> = layers.into_iter().chain([changed]).collect();
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": config,
            "layers": layers.iter().map(Blob::descriptor).collect::<Vec<_>>(),
            "annotations": { "dev.invar.evidence.id": evidence.id },
        });
        self.docker = Some(json!([{
            "Config": blob_name(&config),
            "RepoTags": [tag],
            "Layers": layers.iter().map(Blob::name).collect::<Vec<_>>(),
        }]));
        self.blobs.extend(layers);
        let descriptor = self.manifest(&manifest)?;
        let mut listed = descriptor.clone();
        listed["annotations"] = json!({
            "io.containerd.image.name": tag,
            "org.opencontainers.image.ref.name": "rootfs",
        });
        self.manifests.push(listed);
        Ok(descriptor)
    }

    /// The evidence itself.
    fn evidence(&mut self, evidence: &Evidence, subject: Option<&Value>) -> Result<()> {
        let dir = &evidence.dir;
        let mut layers = Vec::new();
        for name in sums::list(dir)?.iter().filter(|name| !name.contains('/')) {
            layers.push(self.file(dir, name)?);
        }
        for name in [sums::NAME, dsse::NAME, custody::NAME] {
            layers.push(self.file(dir, name)?);
        }
        for name in DIRECTORIES {
            let names = blob::below(dir, name)?;
            if !names.is_empty() {
                layers.push(self.add(
                    TAR,
                    Some(&format!("{name}.tar")),
                    Source::Files(dir.clone(), names),
                )?);
            }
        }
        let cores = blob::below(dir, memory::DIR)?;
        if !cores.is_empty() {
            let source = Source::SparseFiles(dir.clone(), cores);
            layers.push(self.add(TAR, Some("memory.tar"), source)?);
        }
        let marks = evidence
            .header
            .as_ref()
            .map_or_else(Marks::default, |header| header.marks);
        let mounts = mounted::read(dir)?.into_iter().map(|line| line.tree);
        let trees = mounts.filter(|tree| mounted::is_tree(tree));
        for tree in std::iter::once("upper".to_owned()).chain(trees) {
            let title = format!("{tree}.tar");
            let source = Source::Tree(dir.clone(), tree, Form::Raw, marks);
            layers.push(self.add(TAR, Some(&title), source)?);
        }
        layers.extend(self.image_config.take());
        self.artifact(ARTIFACT, &evidence.id, &layers, subject, None)
    }

    /// The evidence without what may be secret.
    fn redacted(&mut self, evidence: &Evidence) -> Result<()> {
        let dir = &evidence.dir;
        let mut layers = Vec::new();
        let kept = [
            header::NAME,
            changes::NAME,
            timeline::NAME,
            log::NAME,
            below::NAME,
            "upper.jsonl",
            mounted::NAME,
        ];
        for name in kept.into_iter().filter(|name| dir.join(name).exists()) {
            // A timeline names the arguments of processes.
            if name != timeline::NAME {
                layers.push(self.file(dir, name)?);
            }
        }
        for name in redact::CLEANED {
            let path = dir.join(name);
            if path.exists() {
                layers.push(self.bytes(JSON, Some(name), redact::clean(&path)?)?);
            }
        }
        for name in DIRECTORIES
            .iter()
            .filter(|name| !redact::LEFT_OUT.contains(name))
        {
            let mut names = blob::below(dir, name)?;
            names.retain(|name| {
                let file = name.rsplit('/').next().unwrap_or_default();
                !redact::LEFT_OUT_OF_PROCESS.contains(&file)
            });
            if !names.is_empty() {
                let title = format!("{name}.tar");
                let source = Source::Files(dir.clone(), names);
                layers.push(self.add(TAR, Some(&title), source)?);
            }
        }
        let origin = sums::hash(&dir.join(sums::NAME))?;
        self.artifact(REDACTED, &evidence.id, &layers, None, Some(&origin))
    }

    fn artifact(
        &mut self,
        kind: &str,
        id: &EvidenceId,
        layers: &[Value],
        subject: Option<&Value>,
        derived_from: Option<&str>,
    ) -> Result<()> {
        let config = self.bytes(EMPTY, None, b"{}".to_vec())?;
        let mut manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "artifactType": kind,
            "config": config,
            "layers": layers,
            "annotations": { "dev.invar.evidence.id": id },
        });
        if let Some(subject) = subject {
            manifest["subject"] = subject.clone();
        }
        if let Some(origin) = derived_from {
            manifest["annotations"]["dev.invar.evidence.derived-from"] =
                json!(format!("sha256:{origin}"));
        }
        let mut listed = self.manifest(&manifest)?;
        listed["artifactType"] = json!(kind);
        listed["annotations"] = json!({ "org.opencontainers.image.ref.name": "evidence" });
        self.manifests.push(listed);
        Ok(())
    }

    fn file(&mut self, dir: &Path, name: &str) -> Result<Value> {
        let ending = name.rsplit('.').next();
        let kind = if matches!(ending, Some("json" | "jsonl")) {
            JSON
        } else {
            TEXT
        };
        self.add(kind, Some(name), Source::File(dir.join(name)))
    }

    fn bytes(&mut self, kind: &'static str, title: Option<&str>, bytes: Vec<u8>) -> Result<Value> {
        self.add(kind, title, Source::Bytes(bytes))
    }

    fn manifest(&mut self, manifest: &Value) -> Result<Value> {
        self.bytes(MANIFEST, None, manifest.to_string().into_bytes())
    }

    fn add(&mut self, kind: &'static str, title: Option<&str>, source: Source) -> Result<Value> {
        let blob = Blob::new(kind, title, source, &mut |_| {})?;
        let descriptor = blob.descriptor();
        self.blobs.push(blob);
        Ok(descriptor)
    }

    /// Writes the archive; its SHA-256 and the signed statement about it.
    fn write(
        self,
        store: &EvidenceStore,
        evidence: &Evidence,
        out: &mut dyn Write,
    ) -> Result<(String, Vec<u8>)> {
        let mut written: BTreeMap<String, String> = BTreeMap::new();
        let mut out = Counting::new(out);
        let mut tar = Pax::new(&mut out);
        let layout = br#"{"imageLayoutVersion":"1.0.0"}"#.as_slice();
        own(&mut tar, &mut written, "oci-layout", layout)?;
        let index = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": self.manifests,
        })
        .to_string();
        for blob in &self.blobs {
            if let Entry::Vacant(vacant) = written.entry(blob.name()) {
                blob.write(&mut tar)?;
                vacant.insert(blob.sha256.clone());
            }
        }
        own(&mut tar, &mut written, "index.json", index.as_bytes())?;
        if let Some(docker) = &self.docker {
            let list = docker.to_string();
            own(&mut tar, &mut written, "manifest.json", list.as_bytes())?;
        }
        let list = sums::format(&written);
        let sealed = Sealed {
            subjects: vec![
                ("SHA256SUMS".to_owned(), digest::sha256(&list)),
                ("index.json".to_owned(), digest::sha256(index.as_bytes())),
            ],
            predicate: json!({ "id": evidence.id, "exported": true }),
        };
        let key = PrivateKey::load_or_create(&store.trust())?;
        own(&mut tar, &mut written, "SHA256SUMS", &list)?;
        let signature = dsse::sign(&key, &sealed);
        own(&mut tar, &mut written, archive::SIGNATURE, &signature)?;
        tar.finish().map_err(failed)?;
        let sha256 = out.sha256();
        let sealed = Sealed {
            subjects: vec![(format!("evidence-{}.tar", evidence.id), sha256.clone())],
            predicate: json!({ "id": evidence.id, "archive": true }),
        };
        Ok((sha256, dsse::sign(&key, &sealed)))
    }
}

/// Writes a file of the archive's own.
fn own(
    tar: &mut Pax<'_>,
    written: &mut BTreeMap<String, String>,
    name: &str,
    mut bytes: &[u8],
) -> Result<()> {
    written.insert(name.to_owned(), digest::sha256(bytes));
    let size = bytes.len() as u64;
    tar.file(name, size)
        .and_then(|()| tar.content(&mut bytes, size))
        .map_err(failed)
}

/// The image's configuration with one more layer, and nothing that would run by itself.
fn config(original: Option<&[u8]>, header: &Header, changed: &str) -> Result<Vec<u8>> {
    let malformed = |reason: &str| EvidenceError::malformed("the image's configuration", reason);
    let mut config: Value = match original {
        Some(bytes) => serde_json::from_slice(bytes)
            .map_err(|error| EvidenceError::malformed("the image's configuration", error))?,
        None => json!({
            "architecture": match std::env::consts::ARCH {
                "x86_64" => "amd64",
                "aarch64" => "arm64",
                other => other,
            },
            "os": "linux",
            "config": {},
            "rootfs": { "type": "layers", "diff_ids": [] },
        }),
    };
    let settings = config
        .as_object_mut()
        .ok_or_else(|| malformed("it is no object"))?;
    // Docker's own settings of the container the image was committed from.
    settings.remove("container_config");
    if let Some(program) = settings.get_mut("config").and_then(Value::as_object_mut) {
        for name in ["Entrypoint", "Cmd", "Healthcheck", "OnBuild"] {
            program.remove(name);
        }
    }
    let diff_ids = config
        .pointer_mut("/rootfs/diff_ids")
        .and_then(Value::as_array_mut);
    diff_ids
        .ok_or_else(|| malformed("it lists no layers"))?
        .push(json!(format!("sha256:{changed}")));
    let history = json!({
        "created": header.begun_at,
        "created_by": format!("invar capture {}", header.container.name),
        "comment": format!("evidence {}", header.id),
    });
    match config.get_mut("history").and_then(Value::as_array_mut) {
        Some(list) => list.push(history),
        None if original.is_none() => config["history"] = json!([history]),
        // Without a history of the other layers, one entry would be about the wrong layer.
        None => {}
    }
    Ok(config.to_string().into_bytes())
}

fn blob_name(descriptor: &Value) -> String {
    let digest = descriptor["digest"].as_str().unwrap_or_default();
    format!("blobs/{}", digest.replacen(':', "/", 1))
}
