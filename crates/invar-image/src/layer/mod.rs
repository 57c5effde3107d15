//! Layers: a tar from outside becomes objects, a recipe for its exact bytes, and changes to the
//! image's file tree.
//!
//! ```text
//! archive ─▶ decompress ─▶ Recorder (DiffID) ─▶ tar parser ─▶ entries ─▶ LayerTree ─▶ Tree
//!                              │                                 │
//!                              └── headers ─▶ RecipeWriter ◀── content ─▶ ObjectWriter
//! ```
//!
//! The `tar` crate only parses; nothing is ever unpacked to a path that an entry names.

mod entry;
pub(crate) mod recipe;
mod record;
pub(crate) mod tree;

use std::cell::Cell;
use std::io::Read;
use std::rc::Rc;

use crate::compression::decompress;
use crate::digest::Digest;
use crate::error::{ImageError, Result};
use crate::limits::Limits;
use crate::objects::{LARGEST_QUEUED, ObjectId, ObjectWriter, Objects, Pending};
use entry::Entry;
use recipe::{RecipeWriter, read_exactly};
use record::{Mode, Recorder};
use tree::{Content, LayerTree, Tree};

/// A layer in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StoredLayer {
    /// Digest of the uncompressed tar.
    pub(crate) diff_id: Digest,
    /// Bytes of the uncompressed tar.
    pub(crate) size: u64,
    /// The object that holds the recipe for it.
    pub(crate) recipe: ObjectId,
}

/// What the layers of one image have used up of its limits.
#[derive(Debug)]
pub(crate) struct Budget {
    limits: Limits,
    content: u64,
    entries: u64,
    archive: Rc<Cell<u64>>,
}

impl Budget {
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            limits,
            content: 0,
            entries: 0,
            archive: Rc::default(),
        }
    }

    /// Counts the bytes of an archive before they are decompressed.
    pub(crate) fn counted<R>(&self, inner: R) -> CountedReader<R> {
        CountedReader {
            inner,
            count: Rc::clone(&self.archive),
        }
    }

    /// Accounts for one entry with so much content, before any of it is read.
    fn take(&mut self, content: u64) -> Result<()> {
        self.entries += 1;
        self.content = self.content.saturating_add(content);
        let limits = &self.limits;
        if self.entries > limits.entries {
            return Err(ImageError::TooLarge {
                what: "the number of entries".to_owned(),
                limit: limits.entries.to_string(),
            });
        }
        if self.content > limits.unpacked {
            return Err(ImageError::TooLarge {
                what: "the unpacked image".to_owned(),
                limit: format!("{} bytes", limits.unpacked),
            });
        }
        let by_ratio = self.archive.get().saturating_mul(limits.ratio);
        if self.content > limits.ratio_from && self.content > by_ratio {
            return Err(ImageError::TooLarge {
                what: "the unpacked image".to_owned(),
                limit: format!("{} times its archive", limits.ratio),
            });
        }
        Ok(())
    }
}

/// Counts what is read through it.
pub(crate) struct CountedReader<R> {
    inner: R,
    count: Rc<Cell<u64>>,
}

impl<R: Read> Read for CountedReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let length = self.inner.read(buffer)?;
        self.count.set(self.count.get() + length as u64);
        Ok(length)
    }
}

/// Reads one layer, compressed or not, into the store and applies it to `tree`.
///
/// Nothing it stored can be seen until an image refers to it. `name` is what errors call it.
pub(crate) fn read(
    objects: &Objects,
    archive: impl Read,
    name: &str,
    tree: &mut Tree,
    budget: &mut Budget,
) -> Result<StoredLayer> {
    let unreadable = |error| ImageError::malformed(name, error);
    let plain = decompress(budget.counted(archive)).map_err(unreadable)?;
    let recorder = Recorder::new(plain, &budget.limits);
    let mut layer = LayerReader {
        recorder: recorder.clone(),
        recipe: RecipeWriter::new(objects)?,
        writer: ObjectWriter::new(objects),
        budget,
    };
    let mut parser = tar::Archive::new(recorder.clone());
    let mut changes = LayerTree::new(tree);
    for next in parser.entries().map_err(unreadable)? {
        layer.entry(next.map_err(unreadable)?, &mut changes)?;
    }
    drop(parser);
    let LayerReader {
        mut recipe,
        recorder: own,
        writer,
        ..
    } = layer;
    drop(own);
    // What follows the end marker is padding, but belongs to the layer's bytes.
    recorder.switch(Mode::Inline);
    let mut rest = recorder.clone();
    loop {
        let mut block = vec![0; 1 << 16];
        let length = rest.read(&mut block).map_err(unreadable)?;
        if length == 0 {
            break;
        }
        recipe.inline(recorder.taken())?;
    }
    drop(rest);
    recipe.inline(recorder.taken())?;
    let size = recorder.position();
    let recipe = recipe.finish()?;
    drop(writer);
    Ok(StoredLayer {
        diff_id: recorder.finish()?,
        size,
        recipe,
    })
}

struct LayerReader<'a, R> {
    recorder: Recorder<R>,
    recipe: RecipeWriter,
    writer: ObjectWriter,
    budget: &'a mut Budget,
}

impl<R: Read> LayerReader<'_, R> {
    fn entry(
        &mut self,
        mut raw: tar::Entry<'_, Recorder<R>>,
        changes: &mut LayerTree<'_>,
    ) -> Result<()> {
        let shown = raw.path_bytes().escape_ascii().to_string();
        let refused = |reason| ImageError::Entry {
            entry: shown.clone(),
            reason,
        };
        let entry = Entry::read(&mut raw).map_err(refused)?;
        self.budget.take(entry.content_size().unwrap_or(0))?;
        let content = match entry.content_size() {
            Some(size) => Some(self.content(&mut raw, size, entry.is_sparse()).map_err(
                |error| match error {
                    ImageError::Malformed { reason, .. } => refused(reason),
                    other => other,
                },
            )?),
            None => None,
        };
        self.recorder.switch(Mode::Headers);
        // Long before a layer of tiny entries could fill the memory with headers.
        if self.recorder.recorded() > 1 << 16 {
            self.recipe.inline(self.recorder.taken())?;
        }
        entry.apply(content, changes).map_err(refused)
    }

    /// Stores the content of a regular file.
    fn content(&mut self, raw: &mut impl Read, size: u64, sparse: bool) -> Result<Content> {
        let inline = size <= composefs::INLINE_CONTENT_MAX_V0 as u64;
        if inline || sparse {
            // The archive holds a sparse file without its holes, so its bytes in the archive and
            // its content differ.
            self.recorder.switch(Mode::Inline);
            if inline {
                let bytes = read_exactly(raw, size).map_err(truncated)?;
                return Ok(Content::Inline(bytes.into()));
            }
            let object = self.writer.copy(raw, size)?;
            self.recipe.inline(self.recorder.taken())?;
            return Ok(Content::Object(object, size));
        }
        self.recipe.inline(self.recorder.taken())?;
        self.recorder.switch(Mode::External);
        let object: Pending = if size <= LARGEST_QUEUED {
            self.writer
                .write(read_exactly(raw, size).map_err(truncated)?)
        } else {
            self.writer.copy(raw, size)?
        };
        self.recipe.object(object.clone(), size)?;
        Ok(Content::Object(object, size))
    }
}

fn truncated(error: std::io::Error) -> ImageError {
    ImageError::malformed("archive", error)
}
