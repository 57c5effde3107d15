//! How to make a layer's exact bytes again: headers inline, file content by object
//! (a composefs split stream).

use std::collections::VecDeque;
use std::io::Write;
use std::sync::Arc;

use composefs::splitstream::{SplitStreamReader, SplitStreamWriter};

use crate::error::{ImageError, Result};
use crate::objects::{ObjectId, Objects, Pending, discard, open_verified, put};

/// Content type of a tar layer in a split stream's header: "invartar".
const CONTENT_TYPE: u64 = u64::from_le_bytes(*b"invartar");

/// A longer run of bytes between two objects becomes an object itself: writing and reading a
/// recipe must not need memory for all headers of a layer.
const LONGEST_RUN: usize = 1 << 20;

enum Segment {
    Inline(Vec<u8>),
    Object(Pending, u64),
}

/// Writes a recipe in order, while objects become ready out of order.
pub(super) struct RecipeWriter {
    objects: Objects,
    stream: SplitStreamWriter<ObjectId>,
    pending: VecDeque<Segment>,
    run: Vec<u8>,
}

impl RecipeWriter {
    pub(super) fn new(objects: &Objects) -> Result<Self> {
        let stream = objects.create_stream(CONTENT_TYPE).map_err(failed())?;
        Ok(Self {
            objects: Arc::clone(objects),
            stream,
            pending: VecDeque::new(),
            run: Vec::new(),
        })
    }

    pub(super) fn inline(&mut self, bytes: Vec<u8>) -> Result<()> {
        if !bytes.is_empty() {
            self.pending.push_back(Segment::Inline(bytes));
        }
        self.flush(false)
    }

    pub(super) fn object(&mut self, object: Pending, size: u64) -> Result<()> {
        self.pending.push_back(Segment::Object(object, size));
        self.flush(false)
    }

    /// Stores the recipe itself.
    pub(super) fn finish(mut self) -> Result<ObjectId> {
        self.flush(true)?;
        self.stream.write_inline(&self.run);
        let recipe = self.stream.done().map_err(failed())?;
        // One that was there already may have been damaged since.
        if let Err(error) = open_verified(&self.objects, &recipe) {
            discard(&self.objects, &recipe).map_err(|error| failed()(error.into()))?;
            return Err(ImageError::Store {
                action: "record a layer",
                reason: format!("{error}; the damaged file is removed, try again"),
            });
        }
        Ok(recipe)
    }

    fn flush(&mut self, wait: bool) -> Result<()> {
        while let Some(segment) = self.pending.pop_front() {
            match segment {
                Segment::Inline(bytes) => {
                    self.run.extend_from_slice(&bytes);
                    if self.run.len() > LONGEST_RUN {
                        let run = std::mem::take(&mut self.run);
                        let id = put(&self.objects, &run).map_err(|e| failed()(e.into()))?;
                        self.reference(id, run.len() as u64)?;
                    }
                }
                Segment::Object(object, size) if wait || object.is_done() => {
                    self.reference(object.wait()?, size)?;
                }
                waiting @ Segment::Object(..) => {
                    self.pending.push_front(waiting);
                    break;
                }
            }
        }
        Ok(())
    }

    fn reference(&mut self, object: ObjectId, size: u64) -> Result<()> {
        if !self.run.is_empty() {
            self.stream.write_inline(&self.run);
            self.run.clear();
        }
        self.stream.add_external_size(size);
        self.stream.write_reference(object).map_err(failed())
    }
}

fn failed() -> impl FnOnce(anyhow::Error) -> ImageError {
    ImageError::store("record a layer")
}

/// Reads a recipe.
pub(crate) fn open(objects: &Objects, id: &ObjectId) -> Result<SplitStreamReader<ObjectId>> {
    let file = open_verified(objects, id)?;
    SplitStreamReader::new(file, Some(CONTENT_TYPE)).map_err(ImageError::store("read a layer"))
}

/// Writes the layer's exact bytes.
pub(crate) fn write_layer(objects: &Objects, id: &ObjectId, output: &mut impl Write) -> Result<()> {
    let mut stream = open(objects, id)?;
    stream
        .cat(objects, output)
        .map_err(ImageError::store("read a layer"))
}

/// Every object a recipe needs, itself not among them.
pub(crate) fn references(objects: &Objects, id: &ObjectId) -> Result<Vec<ObjectId>> {
    let mut all = Vec::new();
    open(objects, id)?
        .get_object_refs(|object| all.push(object.clone()))
        .map_err(ImageError::store("read a layer"))?;
    Ok(all)
}
