//! Which paths a layer brought itself: a whiteout removes only what lower layers have.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::path::Path;

/// The names below one directory, as a tree: each name is kept once, however long its path.
#[derive(Debug, Default)]
pub(super) struct Own {
    children: HashMap<OsString, Own>,
}

impl Own {
    /// Adds a path with its parents.
    pub(super) fn insert(&mut self, path: &Path) {
        let mut place = self;
        for name in path {
            if !place.children.contains_key(name) {
                place.children.insert(name.to_owned(), Self::default());
            }
            place = place.children.get_mut(name).expect("it was just added");
        }
    }

    /// What is below a path, if it was added.
    pub(super) fn find(&self, path: &Path) -> Option<&Self> {
        path.iter().try_fold(self, |place, name| place.child(name))
    }

    pub(super) fn child(&self, name: &OsStr) -> Option<&Self> {
        self.children.get(name)
    }
}
