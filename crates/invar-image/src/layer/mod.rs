//! Layers: a tar from outside becomes objects, a recipe for its exact bytes, and changes to the
//! image's file tree.
//!
//! ```text
//! archive ─▶ decompress ─▶ Recorder (DiffID) ─▶ Tar ─▶ entries ─▶ LayerTree ─▶ Tree
//!                              │                            │
//!                              └── headers ─▶ RecipeWriter ◀── content ─▶ ObjectWriter
//! ```
//!
//! Nothing is ever unpacked to a path that an entry names.

mod attributes;
mod budget;
mod entry;
#[cfg(test)]
mod model;
mod own;
pub(crate) mod recipe;
mod record;
pub(crate) mod tree;

use std::io::{self, BufReader, Read};

use crate::compression::decompress;
use crate::digest::Digest;
use crate::error::{ImageError, Result};
use crate::objects::{ObjectId, ObjectWriter, Objects, open_verified};
use crate::tar::sparse::SparseForm;
use crate::tar::{Member, Tar};
pub(crate) use budget::{Budget, CountedReader};
use entry::Entry;
use recipe::RecipeWriter;
use record::Recorder;
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

/// Recorded headers are handed on in pieces of about this size.
const RECORDED: usize = 1 << 16;

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
    let plain = decompress(budget.counted(archive));
    let plain = plain.map_err(|error| ImageError::malformed(name, error))?;
    read_plain(objects, plain, name, tree, budget)
}

/// The same for a layer that is decompressed already; the caller counts what it had to read for
/// that with [`Budget::counted`].
pub(crate) fn read_plain(
    objects: &Objects,
    plain: impl Read,
    name: &str,
    tree: &mut Tree,
    budget: &mut Budget,
) -> Result<StoredLayer> {
    let mut layer = LayerReader {
        name,
        objects,
        tar: Tar::new(Recorder::new(plain), name, budget.limits.entry_headers),
        recipe: RecipeWriter::new(objects)?,
        writer: ObjectWriter::new(objects),
        tree: LayerTree::new(tree, budget),
    };
    while let Some(member) = layer.tar.next()? {
        layer.member(member)?;
    }
    layer.finish()
}

struct LayerReader<'a, R> {
    name: &'a str,
    objects: &'a Objects,
    tar: Tar<Recorder<R>>,
    recipe: RecipeWriter,
    writer: ObjectWriter,
    tree: LayerTree<'a>,
}

impl<R: Read> LayerReader<'_, R> {
    fn member(&mut self, mut member: Member) -> Result<()> {
        let shown = member.path.escape_ascii().to_string();
        let refused = |reason| ImageError::Entry {
            entry: shown.clone(),
            reason,
        };
        let (archived, sparse) = (member.size, member.sparse.take());
        let entry = Entry::new(member).map_err(refused)?;
        let size = sparse.as_ref().map_or(archived, SparseForm::size);
        self.tree.budget.content(size).map_err(refused)?;
        let content = if entry.is_regular() {
            let content = match sparse {
                Some(map) => self.sparse(map, archived),
                None => self.content(archived),
            };
            // What is wrong with the content is wrong with this entry.
            Some(content.map_err(|error| match error {
                ImageError::Malformed { reason, .. } => refused(reason),
                other => other,
            })?)
        } else {
            None
        };
        if self.tar.source().recorded() > RECORDED {
            self.recipe.inline(self.tar.source().taken())?;
        }
        entry.apply(content, &mut self.tree).map_err(refused)
    }

    /// Stores the content of a regular file.
    fn content(&mut self, size: u64) -> Result<Content> {
        if size <= composefs::INLINE_CONTENT_MAX_V0 as u64 {
            let mut bytes = Vec::new();
            let read = self.tar.content().read_to_end(&mut bytes);
            read.map_err(|error| ImageError::malformed("archive", error))?;
            return Ok(Content::Inline(bytes.into()));
        }
        self.recipe.inline(self.tar.source().taken())?;
        self.tar.source().record(false);
        let object = self.writer.store(self.tar.content(), size)?;
        self.tar.source().record(true);
        self.recipe.object(object.clone(), size)?;
        Ok(Content::Object(object, size))
    }

    /// Stores a sparse file twice: as the archive has it, for the layer's exact bytes, and as it
    /// reads in a container.
    fn sparse(&mut self, map: SparseForm, archived: u64) -> Result<Content> {
        let wrong = |reason: String| ImageError::malformed("archive", reason);
        let size = map.size();
        let most_map = self.tree.budget.limits.entry_headers;
        let content = self.content(archived)?;
        let stored: Box<dyn Read> = match &content {
            Content::Inline(bytes) => Box::new(io::Cursor::new(bytes.clone())),
            Content::Object(object, _) => Box::new(open_verified(self.objects, &object.wait()?)?),
        };
        let whole = map.expand(BufReader::new(stored), archived, most_map);
        let mut whole = whole.map_err(wrong)?;
        if size <= composefs::INLINE_CONTENT_MAX_V0 as u64 {
            let mut bytes = Vec::new();
            let read = whole.read_to_end(&mut bytes);
            read.map_err(|error| wrong(error.to_string()))?;
            return Ok(Content::Inline(bytes.into()));
        }
        let object = self.writer.store(whole, size)?;
        Ok(Content::Object(object, size))
    }

    /// Reads what follows the end marker: padding, but part of the layer's bytes.
    fn finish(mut self) -> Result<StoredLayer> {
        let unreadable = |error: io::Error| ImageError::malformed(self.name, error);
        let mut block = vec![0; RECORDED];
        let mut recorder = self.tar.into_source();
        loop {
            self.recipe.inline(recorder.taken())?;
            let length = recorder.read(&mut block).map_err(unreadable)?;
            if length == 0 {
                break;
            }
            let counted = self.tree.budget.content(length as u64);
            counted.map_err(|reason| ImageError::malformed(self.name, reason))?;
        }
        let size = recorder.position();
        let recipe = self.recipe.finish()?;
        Ok(StoredLayer {
            diff_id: recorder.finish().map_err(unreadable)?,
            size,
            recipe,
        })
    }
}
