//! Docker lists every directory on the way to a change as changed. They are put in afterwards,
//! from the sorted list, so that the walk needs no order.

use std::cmp::Ordering;
use std::collections::HashSet;

use rayon::slice::ParallelSliceMut as _;

use crate::change::{Change, Kind, Reasons, Severity};
use crate::overlay::parent;

/// Sorts each directory before what is in it and puts in the missing ancestors.
pub(crate) fn complete(mut changes: Vec<Change>) -> Vec<Change> {
    changes.par_sort_unstable_by(|a, b| tree_order(&a.path, &b.path));
    let ancestors = ancestors(&changes);
    let mut missing: Vec<Vec<u8>> = Vec::new();
    let mut unmarked: Vec<usize> = Vec::new();
    for path in ancestors {
        match changes.binary_search_by(|change| tree_order(&change.path, path)) {
            Ok(index) if changes[index].compatible.is_none() => unmarked.push(index),
            Ok(_) => {}
            Err(_) => missing.push(path.to_vec()),
        }
    }
    for index in unmarked {
        changes[index].compatible = Some(Kind::Changed);
    }
    if !missing.is_empty() {
        changes.extend(missing.into_iter().map(|path| Change {
            path,
            compatible: Some(Kind::Changed),
            actual: None,
            reasons: Reasons::default(),
            severity: Severity::Info,
            finding: None,
            detail: None,
            patch: None,
        }));
        changes.par_sort_unstable_by(|a, b| tree_order(&a.path, &b.path));
    }
    changes
}

/// The directories above every change Docker would list, the root left out.
fn ancestors(changes: &[Change]) -> HashSet<&[u8]> {
    let mut seen: HashSet<&[u8]> = HashSet::new();
    let mut last: &[u8] = b"/";
    for change in changes.iter().filter(|change| change.compatible.is_some()) {
        let mut dir = parent(&change.path);
        if dir == last {
            continue;
        }
        last = dir;
        while dir != b"/" && seen.insert(dir) {
            dir = parent(dir);
        }
    }
    seen
}

/// Compares component by component: `/a/b` comes before `/a-b`.
pub(crate) fn tree_order(a: &[u8], b: &[u8]) -> Ordering {
    let common = a.iter().zip(b).take_while(|(a, b)| a == b).count();
    let key = |path: &[u8]| {
        path.get(common)
            .map(|byte| if *byte == b'/' { 0 } else { *byte })
    };
    key(a).cmp(&key(b))
}
