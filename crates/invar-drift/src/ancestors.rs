//! Docker lists every directory on the way to a change as changed. They are put in afterwards,
//! from the sorted list, so that the walk needs no order.

use std::cmp::Ordering;
use std::collections::HashSet;

use rayon::slice::ParallelSliceMut as _;

use crate::change::{Change, Kind, Reasons, Severity};
use crate::overlay::parent;

/// Sorts each directory before what is in it and puts in the missing ancestors.
pub(crate) fn complete(mut changes: Vec<Change>) -> Vec<Change> {
    // Finds the pieces that are sorted already.
    changes.par_sort_by(|a, b| tree_order(&a.path, &b.path));
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
        changes.par_sort_by(|a, b| tree_order(&a.path, &b.path));
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
    let common = common_length(a, b);
    let key = |path: &[u8]| {
        path.get(common)
            .map(|byte| if *byte == b'/' { 0 } else { *byte })
    };
    key(a).cmp(&key(b))
}

/// How many bytes both begin with. Paths that are sorted share most of theirs, so eight are
/// compared at a time.
fn common_length(a: &[u8], b: &[u8]) -> usize {
    const STEP: usize = 8;
    let whole = a.chunks_exact(STEP).zip(b.chunks_exact(STEP));
    let start = STEP * whole.take_while(|(a, b)| a == b).count();
    let rest = a[start..].iter().zip(&b[start..]);
    start + rest.take_while(|(a, b)| a == b).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_comes_right_before_what_is_in_it() {
        let sorted = [
            "/a",
            "/a/b",
            "/a/long-name-of-a-file/1",
            "/a/long-name-of-a-file/2",
            "/a-b",
            "/a.b",
            "/ab",
        ];
        for (index, first) in sorted.iter().enumerate() {
            for second in &sorted[index + 1..] {
                assert_eq!(
                    tree_order(first.as_bytes(), second.as_bytes()),
                    Ordering::Less
                );
                assert_eq!(
                    tree_order(second.as_bytes(), first.as_bytes()),
                    Ordering::Greater
                );
            }
            assert_eq!(
                tree_order(first.as_bytes(), first.as_bytes()),
                Ordering::Equal
            );
        }
    }
}
