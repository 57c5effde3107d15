//! Verification of the store: every byte of every image against its digest.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::io;

use composefs::fsverity::FsVerityHashValue;
use composefs::tree::{Directory, FileSystem, Inode, LeafContent, RegularFile};
use rayon::prelude::*;
use rustix::fs::FlockOperation;
use serde::Serialize;

use crate::digest::{Digest, HashingReader};
use crate::error::{ImageError, Result};
use crate::layer::recipe;
use crate::objects::{ObjectId, Objects, digest};
use crate::plain;
use crate::store::{Image, ImageStore};
use crate::view::{self, KernelCheck};

/// One part of an image that is not what it was when it came in.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Damage {
    /// Name of the image, or its id when it has none.
    pub image: String,
    /// The file inside the image, escaped, or the part of the store.
    pub part: String,
    /// What is wrong.
    pub reason: String,
}

/// How many images the kernel checks whenever they are read; see [`KernelCheck`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct KernelChecks {
    /// Names and content.
    pub everything: u64,
    /// Content alone.
    pub content: u64,
    /// Nothing.
    pub nothing: u64,
}

/// What a check found.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Checked {
    /// Images checked.
    pub images: u64,
    /// Files of the content store checked.
    pub objects: u64,
    /// Images of which the kernel checks all, or the content, whenever it is read.
    pub checked_by_kernel: KernelChecks,
    /// Everything that is wrong, sorted.
    pub damage: Vec<Damage>,
}

impl ImageStore {
    /// Checks every image. An error means that the check itself could not be made.
    pub fn fsck(&self) -> Result<Checked> {
        let _lock = self.lock(FlockOperation::LockShared)?;
        let images = self.list()?;
        let mut known: HashMap<ObjectId, Option<String>> = HashMap::new();
        let mut damage = BTreeSet::new();
        let mut checked_by_kernel = KernelChecks::default();
        for image in &images {
            damage.extend(self.check_image(image, &mut known)?);
            match self.kernel_check(&image.id)? {
                KernelCheck::Everything => checked_by_kernel.everything += 1,
                KernelCheck::Content => checked_by_kernel.content += 1,
                KernelCheck::Nothing => checked_by_kernel.nothing += 1,
            }
        }
        Ok(Checked {
            images: images.len() as u64,
            objects: known.len() as u64,
            checked_by_kernel,
            damage: damage.into_iter().collect(),
        })
    }

    /// Writes every plain view anew that is not what its image says, as long as the content store
    /// is; the names of their images. What was there stays until a prune, for containers that use it.
    pub fn repair(&self) -> Result<Vec<String>> {
        let _lock = self.lock(FlockOperation::LockExclusive)?;
        let mut known = HashMap::new();
        let mut repaired = Vec::new();
        for image in self.list()? {
            let (view, ..) = self.parts(&image.id)?;
            let plain = view::plain_path(&self.directory(), &view);
            if !plain.exists() {
                continue;
            }
            let mut needed = HashSet::from([view.clone()]);
            verify_all(&self.objects, needed.clone(), &mut known);
            if known[&view].is_some() {
                // What it names cannot be trusted.
                continue;
            }
            needed.extend(view::references(&self.objects, &view)?);
            verify_all(&self.objects, needed.clone(), &mut known);
            if needed.iter().any(|object| known[object].is_some()) {
                continue;
            }
            let tree = view::read(&self.objects, &view)?;
            let wrong = plain::check(&tree, &plain).map_err(ImageError::io("check", &plain))?;
            if !wrong.is_empty() {
                plain::rewrite(&self.objects, &tree, &plain)?;
                let name = image.names.first().cloned();
                repaired.push(name.unwrap_or_else(|| image.id.to_string()));
            }
        }
        Ok(repaired)
    }

    fn check_image(
        &self,
        image: &Image,
        known: &mut HashMap<ObjectId, Option<String>>,
    ) -> Result<Vec<Damage>> {
        let name = image.names.first().cloned();
        let name = name.unwrap_or_else(|| image.id.to_string());
        let damage = |part: &str, reason: &str| Damage {
            image: name.clone(),
            part: part.to_owned(),
            reason: reason.to_owned(),
        };
        let (view, config, _manifest) = self.parts(&image.id)?;
        let mut found = Vec::new();
        if Digest::of(&config) != image.id {
            found.push(damage(
                "image configuration",
                "it does not match the image's id",
            ));
        }
        let layers = self.layers(&image.id)?;
        let metadata = std::iter::once(("view".to_owned(), view.clone())).chain(
            layers
                .iter()
                .map(|l| (format!("layer {}", l.diff_id), l.recipe.clone())),
        );
        for (part, object) in metadata {
            verify_all(&self.objects, [object.clone()].into(), known);
            if let Some(reason) = &known[&object] {
                found.push(damage(&part, reason));
            }
        }
        if !found.is_empty() {
            // What they name cannot be trusted.
            return Ok(found);
        }
        verify_all(&self.objects, self.objects_of(&image.id)?, known);
        let tree = view::read(&self.objects, &view)?;
        for (path, object) in files(&tree) {
            if let Some(Some(reason)) = known.get(&object) {
                found.push(damage(&path, reason));
            }
        }
        for layer in &layers {
            let part = format!("layer {}", layer.diff_id);
            match layer_digest(&self.objects, &layer.recipe) {
                Ok(digest) if digest == layer.diff_id => {}
                // The files that are to blame were named above, unless they are hidden by
                // another layer.
                _ if !found.is_empty() => {}
                _ => found.push(damage(&part, "its content does not match its DiffID")),
            }
        }
        let plain = view::plain_path(&self.directory(), &view);
        if plain.exists() {
            let wrong = plain::check(&tree, &plain).map_err(ImageError::io("check", &plain))?;
            found.extend(wrong.iter().map(|(path, reason)| damage(path, reason)));
        }
        Ok(found)
    }
}

/// Checks the objects not yet checked; why each is wrong, if it is.
fn verify_all(
    objects: &Objects,
    wanted: HashSet<ObjectId>,
    known: &mut HashMap<ObjectId, Option<String>>,
) {
    let new: Vec<_> = wanted
        .into_iter()
        .filter(|id| !known.contains_key(id))
        .collect();
    let checked: Vec<_> = new
        .into_par_iter()
        .map(|id| {
            let reason = verify(objects, &id);
            (id, reason)
        })
        .collect();
    known.extend(checked);
}

fn verify(objects: &Objects, id: &ObjectId) -> Option<String> {
    let Ok(file) = objects.open_object(id) else {
        return Some("its content is missing from the store".to_owned());
    };
    match digest(&mut std::fs::File::from(file)) {
        Err(error) => Some(format!("its content cannot be read: {error}")),
        Ok(actual) if actual == *id => None,
        Ok(actual) => Some(format!(
            "its content changed in the store: object {} has digest {}",
            id.to_hex(),
            actual.to_hex()
        )),
    }
}

fn layer_digest(objects: &Objects, id: &ObjectId) -> Result<Digest> {
    let (reader, mut writer) = io::pipe().map_err(|e| ImageError::malformed("pipe", e))?;
    std::thread::scope(|scope| {
        let hashing = scope.spawn(move || HashingReader::new(reader).finish());
        let written = recipe::write_layer(objects, id, &mut writer);
        drop(writer);
        written?;
        let hashed = hashing.join().expect("hashing does not panic");
        hashed.map_err(|error| ImageError::malformed("layer", error))
    })
}

/// Every file with an object of its own, by its escaped path.
fn files(tree: &FileSystem<ObjectId>) -> Vec<(String, ObjectId)> {
    let mut all = Vec::new();
    collect(tree, &tree.root, "", &mut all);
    all
}

fn collect(
    tree: &FileSystem<ObjectId>,
    directory: &Directory<ObjectId>,
    path: &str,
    all: &mut Vec<(String, ObjectId)>,
) {
    for (name, inode) in directory.entries() {
        let path = format!("{path}/{}", name.as_encoded_bytes().escape_ascii());
        match inode {
            Inode::Directory(child) => collect(tree, child, &path, all),
            Inode::Leaf(id, _) => {
                if let LeafContent::Regular(RegularFile::External(object, _)) =
                    &tree.leaves[id.0].content
                {
                    all.push((path, object.clone()));
                }
            }
        }
    }
}
