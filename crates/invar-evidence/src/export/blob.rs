//! Blobs of an archive: hashed in a first pass, written in a second one, never held in memory.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::layer::{self, Form, failed};
use super::pax::Pax;
use crate::digest;
use crate::error::{EvidenceError, Result};
use crate::header::{Gap, Marks};
use crate::seal::sums;
use crate::tree::open_regular;

/// What a blob is made from.
pub(super) enum Source {
    Bytes(Vec<u8>),
    /// A file of the evidence.
    File(PathBuf),
    /// A part of a file.
    Part {
        file: File,
        offset: u64,
        size: u64,
    },
    /// A tree of the evidence at this path.
    Tree(PathBuf, String, Form, Marks),
    /// Files of the evidence at this path, as a tar.
    Files(PathBuf, Vec<String>),
    /// The same for files that may have holes.
    SparseFiles(PathBuf, Vec<String>),
}

/// A blob whose digest is known.
pub(super) struct Blob {
    pub(super) media_type: &'static str,
    /// Annotation `org.opencontainers.image.title`.
    pub(super) title: Option<String>,
    pub(super) sha256: String,
    pub(super) size: u64,
    source: Source,
}

impl Blob {
    /// Hashes a blob.
    pub(super) fn new(
        media_type: &'static str,
        title: Option<&str>,
        source: Source,
        gap: &mut dyn FnMut(Gap),
    ) -> Result<Self> {
        let mut sink = Hashing::default();
        source.write(&mut sink, gap)?;
        Ok(Self {
            media_type,
            title: title.map(str::to_owned),
            sha256: digest::hex(&sink.hash.finalize()),
            size: sink.size,
            source,
        })
    }

    /// As a manifest names it.
    pub(super) fn descriptor(&self) -> Value {
        let mut descriptor = json!({
            "mediaType": self.media_type,
            "digest": format!("sha256:{}", self.sha256),
            "size": self.size,
        });
        if let Some(title) = &self.title {
            descriptor["annotations"] = json!({ "org.opencontainers.image.title": title });
        }
        descriptor
    }

    /// Its name in the archive.
    pub(super) fn name(&self) -> String {
        format!("blobs/sha256/{}", self.sha256)
    }

    /// Writes it a second time, which must give the same bytes.
    pub(super) fn write(&self, tar: &mut Pax<'_>) -> Result<()> {
        tar.file(&self.name(), self.size).map_err(failed)?;
        let mut out = Counting::new(tar.out());
        self.source.write(&mut out, &mut |_| {})?;
        let Hashing { hash, size } = out.hashing;
        if size != self.size || digest::hex(&hash.finalize()) != self.sha256 {
            return Err(EvidenceError::malformed(
                self.title.clone().unwrap_or_else(|| self.name()),
                "it changed while it was exported",
            ));
        }
        tar.pad(size).map_err(failed)
    }
}

impl Source {
    fn write(&self, out: &mut dyn Write, gap: &mut dyn FnMut(Gap)) -> Result<()> {
        match self {
            Self::Bytes(bytes) => out.write_all(bytes).map_err(failed),
            Self::File(path) => {
                let mut file = File::from(open_regular(path)?);
                io::copy(&mut file, out).map(drop).map_err(failed)
            }
            Self::Part { file, offset, size } => {
                let copied = file.try_clone().and_then(|mut file| {
                    file.seek(SeekFrom::Start(*offset))?;
                    io::copy(&mut file.take(*size), out)
                });
                copied.map(drop).map_err(failed)
            }
            Self::Tree(dir, tree, form, marks) => layer::write(dir, tree, *form, *marks, out, gap),
            Self::Files(dir, names) => files(dir, names, out),
            Self::SparseFiles(dir, names) => layer::sparse_files(dir, names, out),
        }
    }
}

/// A tar of files of the evidence.
fn files(dir: &Path, names: &[String], out: &mut dyn Write) -> Result<()> {
    let mut tar = Pax::new(out);
    for name in names {
        let path = dir.join(name);
        let mut file = File::from(open_regular(&path)?);
        let metadata = file.metadata().map_err(EvidenceError::io("read", &path))?;
        tar.file(name, metadata.len()).map_err(failed)?;
        tar.content(&mut file, metadata.len()).map_err(failed)?;
    }
    tar.finish().map_err(failed)
}

/// The files of a directory of the evidence, at any depth.
pub(super) fn below(dir: &Path, name: &str) -> Result<Vec<String>> {
    let prefix = format!("{name}/");
    let names = sums::list(dir)?.into_iter();
    Ok(names.filter(|name| name.starts_with(&prefix)).collect())
}

#[derive(Default)]
struct Hashing {
    hash: Sha256,
    size: u64,
}

impl Write for Hashing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.hash.update(bytes);
        self.size += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

pub(super) struct Counting<'a> {
    hashing: Hashing,
    out: &'a mut dyn Write,
}

impl<'a> Counting<'a> {
    pub(super) fn new(out: &'a mut dyn Write) -> Self {
        Self {
            hashing: Hashing::default(),
            out,
        }
    }

    /// SHA-256 of all that was written.
    pub(super) fn sha256(self) -> String {
        digest::hex(&self.hashing.hash.finalize())
    }
}

impl Write for Counting<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let length = self.out.write(bytes)?;
        self.hashing.write_all(&bytes[..length])?;
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
