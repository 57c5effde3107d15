//! The original image, from a docker-archive that its engine wrote.
//!
//! Only what the configuration's digests vouch for is used.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};

use serde::Deserialize;
use serde_json::Value;

use crate::digest;
use crate::error::{EvidenceError, Result};

/// Entries of an archive that are looked at.
const MOST_ENTRIES: usize = 100_000;
/// Longest configuration or list.
const LONGEST: u64 = 4 << 20;
/// Links followed from one layer's name to another's.
const MOST_LINKS: usize = 4;

/// An image that can be read again and again.
pub(super) struct Image {
    pub(super) file: File,
    /// The configuration's exact bytes.
    pub(super) config: Vec<u8>,
    pub(super) layers: Vec<Layer>,
}

/// Where a layer lies in the archive.
pub(super) struct Layer {
    /// SHA-256 of its uncompressed bytes.
    pub(super) diff_id: String,
    pub(super) offset: u64,
    pub(super) size: u64,
}

#[derive(Deserialize)]
struct Listed {
    #[serde(rename = "Config")]
    config: String,
    #[serde(rename = "Layers")]
    layers: Vec<String>,
}

enum Found {
    At(u64, u64),
    Link(String),
}

impl Image {
    /// Reads an archive; `id` is the digest the configuration must have.
    pub(super) fn read(mut file: File, id: &str) -> Result<Self> {
        let entries = entries(&mut file)?;
        let list = part(&mut file, &entries, "manifest.json")?;
        let list: Vec<Listed> = serde_json::from_slice(&list).map_err(malformed)?;
        let [listed] = list.as_slice() else {
            return Err(malformed(format!(
                "it has {} images and not one",
                list.len()
            )));
        };
        let config = part(&mut file, &entries, &listed.config)?;
        if format!("sha256:{}", digest::sha256(&config)) != id {
            return Err(malformed(format!("its image is not {id}")));
        }
        let parsed: Value = serde_json::from_slice(&config).map_err(malformed)?;
        let diff_ids = parsed.pointer("/rootfs/diff_ids").and_then(Value::as_array);
        let diff_ids = diff_ids.map_or(&[][..], Vec::as_slice);
        if diff_ids.len() != listed.layers.len() {
            return Err(malformed("it lists other layers than its configuration"));
        }
        let mut layers = Vec::new();
        for (name, diff_id) in listed.layers.iter().zip(diff_ids) {
            let diff_id = diff_id.as_str().and_then(|id| id.strip_prefix("sha256:"));
            let diff_id = diff_id.filter(|id| digest::is_sha256(id));
            let (offset, size) = find(&entries, name)?;
            let layer = Layer {
                diff_id: diff_id
                    .ok_or_else(|| malformed("a layer's digest is not one"))?
                    .to_owned(),
                offset,
                size,
            };
            file.seek(SeekFrom::Start(offset)).map_err(unreadable)?;
            let (actual, _) = digest::sha256_reader((&mut file).take(size)).map_err(unreadable)?;
            if actual != layer.diff_id {
                return Err(malformed(format!(
                    "layer {name:?} is not {}",
                    layer.diff_id
                )));
            }
            layers.push(layer);
        }
        Ok(Self {
            file,
            config,
            layers,
        })
    }
}

fn entries(file: &mut File) -> Result<HashMap<String, Found>> {
    file.rewind().map_err(unreadable)?;
    let mut archive = tar::Archive::new(file);
    let mut found = HashMap::new();
    let iterator = archive.entries().map_err(unreadable)?;
    for entry in iterator.take(MOST_ENTRIES) {
        let entry = entry.map_err(unreadable)?;
        let Ok(name) = String::from_utf8(entry.path_bytes().into_owned()) else {
            continue;
        };
        let what = match entry.header().entry_type() {
            tar::EntryType::Regular => Found::At(entry.raw_file_position(), entry.size()),
            // `docker save` gives a layer that is used twice a second name.
            tar::EntryType::Symlink => {
                let target = entry.link_name_bytes().map(std::borrow::Cow::into_owned);
                match target.and_then(|target| String::from_utf8(target).ok()) {
                    Some(target) => Found::Link(target.trim_start_matches("../").to_owned()),
                    None => continue,
                }
            }
            _ => continue,
        };
        found.insert(name, what);
    }
    Ok(found)
}

fn find(entries: &HashMap<String, Found>, name: &str) -> Result<(u64, u64)> {
    let mut name = name;
    for _ in 0..MOST_LINKS {
        match entries.get(name) {
            Some(Found::At(offset, size)) => return Ok((*offset, *size)),
            Some(Found::Link(target)) => name = target,
            None => break,
        }
    }
    Err(malformed(format!("it has no {name:?}")))
}

fn part(file: &mut File, entries: &HashMap<String, Found>, name: &str) -> Result<Vec<u8>> {
    let (offset, size) = find(entries, name)?;
    if size > LONGEST {
        return Err(malformed(format!(
            "{name:?} is longer than {LONGEST} bytes"
        )));
    }
    file.seek(SeekFrom::Start(offset)).map_err(unreadable)?;
    let mut bytes = Vec::new();
    let mut source = file.take(size);
    source.read_to_end(&mut bytes).map_err(unreadable)?;
    Ok(bytes)
}

#[allow(
    clippy::needless_pass_by_value,
    reason = "an error or a text, whichever the caller has"
)]
fn malformed(reason: impl ToString) -> EvidenceError {
    EvidenceError::malformed("the image's archive", reason.to_string())
}

fn unreadable(error: std::io::Error) -> EvidenceError {
    EvidenceError::io("read", "the image's archive")(error)
}
