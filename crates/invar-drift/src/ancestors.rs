//! Puts what the jobs found in order, each directory before what is in it, with the directories on
//! the way to a change, which Docker lists as changed. So the walk needs no order.

use std::cmp::Ordering;
use std::collections::{HashMap, HashSet};
use std::vec::IntoIter;

use rayon::slice::ParallelSliceMut as _;

use crate::change::{Change, Kind, Reasons, Severity};
use crate::overlay::parent;

/// Changes of entries of one directory, in the order of their names.
#[derive(Debug)]
pub(crate) struct Run {
    dir: Vec<u8>,
    changes: Vec<Change>,
}

impl Run {
    /// Sorts the changes of entries of `dir`.
    pub(crate) fn new(dir: Vec<u8>, mut changes: Vec<Change>) -> Self {
        let name = dir.len();
        changes.sort_unstable_by(|a, b| a.path.get(name..).cmp(&b.path.get(name..)));
        Self { dir, changes }
    }

    pub(crate) fn into_changes(self) -> Vec<Change> {
        self.changes
    }
}

impl From<Change> for Run {
    fn from(change: Change) -> Self {
        Self {
            dir: parent(&change.path).to_vec(),
            changes: vec![change],
        }
    }
}

/// Each directory before what is in it, and with the missing ancestors. A run is moved as a whole
/// where nothing lies between its entries: of many files in few directories hardly any is compared.
pub(crate) fn complete(mut runs: Vec<Run>) -> Vec<Change> {
    let missing = mark_ancestors(&mut runs);
    runs.extend(missing);
    runs.sort_by(|a, b| tree_order(&a.dir, &b.dir));
    let mut changes = Vec::with_capacity(runs.iter().map(|run| run.changes.len()).sum());
    // The directories that the next run is in, each with the entries that come after it.
    let mut open: Vec<(Vec<u8>, IntoIter<Change>)> = Vec::new();
    for run in joined(runs) {
        while let Some((dir, _)) = open.last()
            && !is_below(&run.dir, dir)
        {
            changes.extend(open.pop().into_iter().flat_map(|(_, rest)| rest));
        }
        if let Some((_, rest)) = open.last_mut() {
            let before = rest
                .as_slice()
                .partition_point(|change| tree_order(&change.path, &run.dir) != Ordering::Greater);
            changes.extend(rest.by_ref().take(before));
        }
        open.push((run.dir, run.changes.into_iter()));
    }
    while let Some((_, rest)) = open.pop() {
        changes.extend(rest);
    }
    changes
}

/// Sorted runs, of each directory one.
fn joined(runs: Vec<Run>) -> Vec<Run> {
    let mut joined: Vec<Run> = Vec::with_capacity(runs.len());
    let mut of_several = HashSet::new();
    for mut run in runs {
        match joined.last_mut() {
            Some(last) if last.dir == run.dir => {
                last.changes.append(&mut run.changes);
                of_several.insert(joined.len() - 1);
            }
            _ => joined.push(run),
        }
    }
    for index in of_several {
        // Finds the pieces that are sorted already.
        joined[index]
            .changes
            .par_sort_by(|a, b| tree_order(&a.path, &b.path));
    }
    joined
}

fn is_below(dir: &[u8], top: &[u8]) -> bool {
    top == b"/"
        || dir
            .strip_prefix(top)
            .is_some_and(|rest| rest.first() == Some(&b'/'))
}

/// Gives the directories above every change that Docker would list a verdict of their own; those
/// that have no change yet are returned.
fn mark_ancestors(runs: &mut [Run]) -> Vec<Run> {
    let mut ancestors: HashSet<Vec<u8>> = HashSet::new();
    let is_compatible = |change: &Change| change.compatible.is_some();
    for run in runs
        .iter()
        .filter(|run| run.changes.iter().any(is_compatible))
    {
        let mut dir = run.dir.as_slice();
        while dir != b"/" && !ancestors.contains(dir) {
            ancestors.insert(dir.to_vec());
            dir = parent(dir);
        }
    }
    let mut of_dir: HashMap<Vec<u8>, Vec<usize>> = HashMap::new();
    for (index, run) in runs.iter().enumerate() {
        of_dir.entry(run.dir.clone()).or_default().push(index);
    }
    let mut missing = Vec::new();
    for path in ancestors {
        let runs_of_dir = of_dir.get(parent(&path)).map_or(&[][..], Vec::as_slice);
        let known = runs_of_dir.iter().find_map(|index| {
            let changes = &runs[*index].changes;
            let at = changes.binary_search_by(|change| tree_order(&change.path, &path));
            at.ok().map(|at| (*index, at))
        });
        match known {
            Some((run, at)) => {
                runs[run].changes[at]
                    .compatible
                    .get_or_insert(Kind::Changed);
            }
            None => missing.push(Run::from(ancestor(path))),
        }
    }
    missing
}

fn ancestor(path: Vec<u8>) -> Change {
    Change {
        path,
        compatible: Some(Kind::Changed),
        actual: None,
        reasons: Reasons::default(),
        severity: Severity::Info,
        finding: None,
        detail: None,
        patch: None,
    }
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

    fn added(path: &str) -> Change {
        Change {
            compatible: Some(Kind::Added),
            ..ancestor(path.as_bytes().to_vec())
        }
    }

    #[test]
    fn runs_in_any_order_become_one_list_in_tree_order() {
        let paths = [
            "/a", "/a/b", "/a/b/c", "/a/z", "/a-b", "/b", "/b/d", "/b/d/e", "/b/d/f", "/b/g", "/c",
        ];
        let mut of_dir: HashMap<Vec<u8>, Vec<Change>> = HashMap::new();
        for path in paths.into_iter().rev() {
            of_dir
                .entry(parent(path.as_bytes()).to_vec())
                .or_default()
                .push(added(path));
        }
        let runs: Vec<Run> = of_dir
            .into_iter()
            .map(|(dir, changes)| Run::new(dir, changes))
            .collect();
        let sorted: Vec<String> = complete(runs)
            .into_iter()
            .map(|change| String::from_utf8(change.path).unwrap())
            .collect();
        assert_eq!(sorted, paths);
        // Single changes of one directory are joined.
        let runs = paths
            .into_iter()
            .rev()
            .map(|path| Run::from(added(path)))
            .collect();
        assert!(
            complete(runs)
                .iter()
                .map(|change| change.path.as_slice())
                .eq(paths.map(str::as_bytes))
        );
    }

    #[test]
    fn directories_on_the_way_are_put_in_where_they_are_missing() {
        let changes = complete(vec![Run::from(added("/x/y/z")), Run::from(added("/a"))]);
        let lines: Vec<_> = changes
            .iter()
            .map(|change| (change.compatible.unwrap().letter(), change.path.as_slice()))
            .collect();
        let expected: [(char, &[u8]); 4] =
            [('A', b"/a"), ('C', b"/x"), ('C', b"/x/y"), ('A', b"/x/y/z")];
        assert_eq!(lines, expected);
    }

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
