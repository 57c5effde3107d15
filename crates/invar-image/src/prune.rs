//! Removal of content that no image needs: what `rmi` left, and what a crash left behind.

use std::collections::HashSet;
use std::path::Path;

use composefs::fsverity::FsVerityHashValue;
use fs_err as fs;
use rustix::fs::FlockOperation;

use crate::error::{ImageError, Result};
use crate::layer::recipe;
use crate::objects::ObjectId;
use crate::registry::parts;
use crate::state;
use crate::store::ImageStore;
use crate::view;

/// What was removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Files of the content store, and downloads that broke off.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl ImageStore {
    /// Removes all content that no image needs. Waits for imports that are under way.
    pub fn prune(&self) -> Result<Pruned> {
        let _lock = self.lock(FlockOperation::LockExclusive)?;
        let downloads = parts::remove_all(&self.directory())?;
        let mut pruned = self.remove_unneeded()?;
        pruned.objects += downloads.objects;
        pruned.bytes += downloads.bytes;
        Ok(pruned)
    }

    /// Does `work`, which writes content that no image refers to yet. When it fails, what it wrote
    /// is removed, unless other work is under way: then [`ImageStore::prune`] does it later.
    pub(crate) fn bring_in<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let lock = self.lock(FlockOperation::LockShared)?;
        let result = work();
        drop(lock);
        if result.is_err()
            && let Ok(_lock) = self.lock(FlockOperation::NonBlockingLockExclusive)
        {
            // Why the work failed matters more than what could not be removed after it.
            self.remove_unneeded().ok();
        }
        result
    }

    fn remove_unneeded(&self) -> Result<Pruned> {
        self.forget_unused_layers()?;
        let mut needed = HashSet::new();
        let mut views = HashSet::new();
        for image in self.list()? {
            let objects = self.objects_of(&image.id).map_err(|error| {
                let name = image.names.first();
                let name = name.map_or(image.id.as_str(), String::as_str);
                ImageError::Store {
                    action: "tell what is needed",
                    reason: format!("image {name}: {error}; import it again or remove it"),
                }
            })?;
            needed.extend(objects);
            views.insert(self.parts(&image.id)?.0.to_hex());
        }
        // A crash of the machine must not bring back an image whose content is gone.
        state::sync(self.root())?;
        remove_plain(&self.directory().join("plain"), &views)?;
        self.sweep(&needed)
    }

    /// Every object of an image: its view, its layers' recipes, and what they name.
    pub(crate) fn objects_of(&self, id: &crate::ImageId) -> Result<HashSet<ObjectId>> {
        let (view, _config, _manifest) = self.parts(id)?;
        let mut all: HashSet<_> = view::references(&self.objects, &view)?
            .into_iter()
            .collect();
        all.insert(view);
        for layer in self.layers(id)? {
            all.extend(recipe::references(&self.objects, &layer.recipe)?);
            all.insert(layer.recipe);
        }
        Ok(all)
    }

    fn sweep(&self, needed: &HashSet<ObjectId>) -> Result<Pruned> {
        let mut pruned = Pruned::default();
        let objects = self.directory().join("objects");
        for directory in entries(&objects)? {
            let prefix = directory.file_name().to_string_lossy().into_owned();
            for file in entries(&directory.path())? {
                let path = file.path();
                let hex = format!("{prefix}{}", file.file_name().to_string_lossy());
                if ObjectId::from_hex(&hex).is_ok_and(|id| needed.contains(&id)) {
                    continue;
                }
                let bytes = fs::symlink_metadata(&path).map_or(0, |metadata| metadata.len());
                fs::remove_file(&path).map_err(ImageError::io("remove", &path))?;
                pruned.objects += 1;
                pruned.bytes += bytes;
            }
        }
        Ok(pruned)
    }
}

fn remove_plain(directory: &Path, views: &HashSet<String>) -> Result<()> {
    for tree in entries(directory)? {
        if !views.contains(&*tree.file_name().to_string_lossy()) {
            let path = tree.path();
            invar_sys::tree::remove(&path).map_err(ImageError::io("remove", &path))?;
        }
    }
    Ok(())
}

fn entries(directory: &Path) -> Result<Vec<fs::DirEntry>> {
    if !directory.exists() {
        return Ok(Vec::new());
    }
    fs::read_dir(directory)
        .and_then(Iterator::collect)
        .map_err(ImageError::io("read", directory))
}
