//! Entry points for the fuzz targets in `/fuzz`, compiled for them alone.
//!
//! Digests are not compared while fuzzing: a fuzzer cannot invent content for a digest, and
//! would never get past the first one.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use tempfile::TempDir;

use crate::layer::{self, Budget, recipe};
use crate::limits::Limits;
use crate::objects::Objects;
use crate::store::ImageStore;
use crate::view;

/// Small enough for a fuzzer to reach them.
const LIMITS: Limits = Limits {
    unpacked: 1 << 22,
    ratio: 200,
    ratio_from: 1 << 20,
    entries: 2000,
    memory: 1 << 20,
    entry_headers: 1 << 16,
    layers: 8,
    metadata: 1 << 16,
};

/// Runs between two prunes.
const PRUNE: u32 = 500;

/// One store for the whole run, emptied now and then.
fn store() -> &'static ImageStore {
    static STORE: OnceLock<(TempDir, ImageStore)> = OnceLock::new();
    static RUNS: AtomicU32 = AtomicU32::new(0);
    let (_root, store) = STORE.get_or_init(|| {
        let root = tempfile::tempdir().expect("a temporary directory");
        let store = ImageStore::open(root.path()).expect("a new store");
        (root, store.with_limits(LIMITS))
    });
    if RUNS.fetch_add(1, Ordering::Relaxed) % PRUNE == PRUNE - 1 {
        for image in store.list().expect("a list of images") {
            store
                .remove(image.id.as_str(), false)
                .expect("an image to remove");
        }
        store.prune().expect("a prune");
    }
    store
}

/// Reads bytes as a layer. What is accepted must be given back byte for byte, its view must be
/// readable, and reading the layer again on top of itself must be accepted too.
pub fn layer(bytes: &[u8]) {
    let store = store();
    let objects: &Objects = &store.objects;
    let mut tree = layer::tree::empty();
    let mut budget = Budget::new(LIMITS);
    let read = layer::read(objects, bytes, "layer", &mut tree, &mut budget);
    let Ok(stored) = read else {
        return;
    };
    let mut again = Vec::new();
    recipe::write_layer(objects, &stored.recipe, &mut again).expect("a recipe was just written");
    assert_eq!(again.len() as u64, stored.size);
    assert_eq!(crate::Digest::of(&again), stored.diff_id);
    let image = view::build(objects, tree).expect("an accepted tree has a view");
    view::read(objects, &image).expect("a view was just written");
}

/// Reads bytes as an image archive, and everything in it.
pub fn archive(bytes: &[u8]) {
    let store = store();
    drop(store.load(bytes, None));
}

/// Reads bytes as what a registry answers: manifests, tokens, errors, challenges, addresses.
pub fn registry_answer(bytes: &[u8]) {
    crate::registry::fuzzing::answer(bytes);
}

/// Reads bytes as docker's `config.json`.
pub fn docker_config(bytes: &[u8]) {
    crate::registry::fuzzing::config(bytes);
}
