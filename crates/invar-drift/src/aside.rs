//! A comparison whose result is put aside while it is made, in memory that does not grow with it.
//!
//! What a directory on the way to a change needs is known only with the last change below it: each
//! change brings its ancestors along, and when all is sorted those of one path become one.

use std::cmp::Ordering;
use std::collections::{HashMap, HashSet};
use std::io;
use std::iter::Peekable;
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::ancestors::tree_order;
use crate::change::{Change, Kind, Reasons, Severity};
use crate::overlay::parent;
use crate::rules::Finding;
use crate::sorter::{Sorted, Sorter};

/// Ancestors remembered as told; those of a tree wider than that are told again.
const REMEMBERED: usize = 10_000;

/// What a comparison found, in tree order.
#[derive(Debug)]
pub struct Aside {
    /// As of [`crate::Comparison`].
    pub unread: u64,
    /// As of [`crate::Comparison`].
    pub unstable: u64,
    pub(crate) changes: Changes,
}

impl Iterator for Aside {
    type Item = io::Result<Change>;

    fn next(&mut self) -> Option<Self::Item> {
        self.changes.next()
    }
}

/// A change as it is put aside: without the details, which only a listing shows.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Line {
    path: Vec<u8>,
    compatible: Option<Kind>,
    actual: Option<Kind>,
    reasons: u16,
    severity: Severity,
    /// Number in the table of findings.
    finding: Option<usize>,
}

impl Line {
    fn is_ancestor(&self) -> bool {
        self.actual.is_none() && self.finding.is_none() && self.reasons == 0
    }
}

impl PartialOrd for Line {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Line {
    fn cmp(&self, other: &Self) -> Ordering {
        tree_order(&self.path, &other.path)
    }
}

/// Takes changes as they are found.
#[derive(Debug)]
pub(crate) struct Collector {
    sorter: Sorter<Line>,
    findings: Vec<Arc<Finding>>,
    numbers: HashMap<String, usize>,
    told: HashSet<Vec<u8>>,
}

impl Collector {
    pub(crate) fn new(scratch: &Path) -> Self {
        Self {
            sorter: Sorter::new(scratch),
            findings: Vec::new(),
            numbers: HashMap::new(),
            told: HashSet::new(),
        }
    }

    pub(crate) fn scratch(&self) -> &Path {
        self.sorter.scratch()
    }

    pub(crate) fn add(&mut self, change: Change) -> io::Result<()> {
        if change.compatible.is_some() {
            self.tell_ancestors(&change.path)?;
        }
        let finding = change.finding.map(|finding| self.number(finding));
        self.push(Line {
            path: change.path,
            compatible: change.compatible,
            actual: change.actual,
            reasons: change.reasons.bits(),
            severity: change.severity,
            finding,
        })
    }

    fn tell_ancestors(&mut self, path: &[u8]) -> io::Result<()> {
        let mut dir = parent(path);
        while dir != b"/" && !self.told.contains(dir) {
            if self.told.len() >= REMEMBERED {
                self.told.clear();
            }
            self.told.insert(dir.to_vec());
            self.push(Line {
                path: dir.to_vec(),
                compatible: Some(Kind::Changed),
                actual: None,
                reasons: 0,
                severity: Severity::Info,
                finding: None,
            })?;
            dir = parent(dir);
        }
        Ok(())
    }

    fn number(&mut self, finding: Arc<Finding>) -> usize {
        if let Some(number) = self.numbers.get(&finding.rule) {
            return *number;
        }
        let number = self.findings.len();
        self.numbers.insert(finding.rule.clone(), number);
        self.findings.push(finding);
        number
    }

    fn push(&mut self, line: Line) -> io::Result<()> {
        let bytes = line.path.len();
        self.sorter.push(line, bytes)
    }

    pub(crate) fn finish(self) -> io::Result<Changes> {
        Ok(Changes {
            lines: self.sorter.finish()?.peekable(),
            findings: self.findings,
        })
    }
}

/// Changes in tree order, each path once.
#[derive(Debug)]
pub(crate) struct Changes {
    lines: Peekable<Sorted<Line>>,
    findings: Vec<Arc<Finding>>,
}

impl Iterator for Changes {
    type Item = io::Result<Change>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut line = match self.lines.next()? {
            Ok(line) => line,
            Err(error) => return Some(Err(error)),
        };
        let is_same = |next: &io::Result<Line>| next.as_ref().is_ok_and(|n| n.path == line.path);
        let mut same = Vec::new();
        while let Some(Ok(next)) = self.lines.next_if(is_same) {
            same.push(next);
        }
        for next in same {
            line = one_of(line, next);
        }
        Some(Ok(Change {
            path: line.path,
            compatible: line.compatible,
            actual: line.actual,
            reasons: Reasons::from_bits(line.reasons),
            severity: line.severity,
            finding: line
                .finding
                .and_then(|number| self.findings.get(number).cloned()),
            detail: None,
            patch: None,
        }))
    }
}

/// A path that is on the way to a change has a verdict of Docker's, whatever else it has.
fn one_of(first: Line, second: Line) -> Line {
    let (mut change, other) = if first.is_ancestor() {
        (second, first)
    } else {
        (first, second)
    };
    change.compatible = change.compatible.or(other.compatible);
    change
}
