//! Which paths were told of, so that a walk tells only what was missed.

use std::collections::HashSet;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash as _, Hasher as _};

/// Paths remembered a container; a walk tells what does not fit a second time.
const MOST: usize = 1 << 20;

/// Hashes of paths.
#[derive(Debug, Default)]
pub(crate) struct Known {
    paths: HashSet<u64>,
}

impl Known {
    /// Whether it was new.
    pub(crate) fn add(&mut self, path: &[u8]) -> bool {
        let key = key(path);
        if self.paths.len() >= MOST {
            return !self.paths.contains(&key);
        }
        self.paths.insert(key)
    }

    /// The next walk tells of these again.
    pub(crate) fn forget(&mut self, of: &Self) {
        self.paths.retain(|key| !of.paths.contains(key));
    }
}

fn key(path: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    path.hash(&mut hasher);
    hasher.finish()
}
