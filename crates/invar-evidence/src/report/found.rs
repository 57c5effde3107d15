//! Changed paths, by how bad they look.

use std::collections::HashMap;
use std::path::Path;

use serde::Deserialize;

use super::html::Page;
use crate::capture::changes as record;
use crate::error::Result;
use crate::lines::Lines;

/// Worst first.
pub(super) const SEVERITIES: [&str; 5] = ["critical", "high", "medium", "low", "info"];
/// So many of medium severity are shown unfolded.
const FEW: usize = 25;
/// Changes shown of each severity; the rest is in the evidence.
const MOST: usize = 2000;

/// One changed path.
#[derive(Deserialize)]
pub(super) struct Change {
    pub(super) path: String,
    compatible: Option<char>,
    actual: Option<char>,
    #[serde(default)]
    reasons: Vec<String>,
    severity: String,
    finding: Option<Finding>,
}

#[derive(Deserialize)]
struct Finding {
    text: String,
    technique: Option<String>,
}

impl Change {
    pub(super) fn rank(&self) -> usize {
        let rank = SEVERITIES.iter().position(|name| *name == self.severity);
        rank.unwrap_or(SEVERITIES.len() - 1)
    }

    fn letter(&self) -> char {
        self.actual.or(self.compatible).unwrap_or(' ')
    }

    pub(super) fn meaning(&self) -> String {
        let mut parts = Vec::new();
        if let Some(finding) = &self.finding {
            parts.push(match &finding.technique {
                Some(technique) => format!("{} ({technique})", finding.text),
                None => finding.text.clone(),
            });
        }
        if !self.reasons.is_empty() {
            parts.push(format!("changed: {}", self.reasons.join(", ")));
        }
        if self.compatible.is_none() {
            parts.push("docker diff does not show it".to_owned());
        }
        parts.join("; ")
    }
}

/// All of them, as far as they are shown.
#[derive(Default)]
pub(super) struct Changes {
    by_severity: [Vec<Change>; 5],
    /// How many there are of each severity.
    pub(super) counts: [usize; 5],
    /// Letter and severity by path.
    known: HashMap<String, (char, &'static str)>,
}

impl Changes {
    pub(super) fn read(dir: &Path) -> Result<Self> {
        let mut changes = Self::default();
        for change in Lines::<Change>::open(&dir.join(record::NAME))? {
            let change = change?;
            let rank = change.rank();
            changes.counts[rank] += 1;
            if changes.by_severity[rank].len() < MOST {
                let known = (change.letter(), SEVERITIES[rank]);
                changes.known.insert(change.path.clone(), known);
                changes.by_severity[rank].push(change);
            }
        }
        Ok(changes)
    }

    /// The critical and high ones.
    pub(super) fn worst(&self) -> impl Iterator<Item = &Change> {
        self.by_severity[..2].iter().flatten()
    }

    /// What the medium ones mean: how often, and the first path each.
    pub(super) fn medium(&self) -> Vec<(String, usize, &str)> {
        let mut found: Vec<(String, usize, &str)> = Vec::new();
        for change in &self.by_severity[2] {
            let meaning = match &change.finding {
                Some(finding) => finding.text.clone(),
                None => change.meaning(),
            };
            match found.iter_mut().find(|(known, ..)| *known == meaning) {
                Some((_, count, _)) => *count += 1,
                None => found.push((meaning, 1, &change.path)),
            }
        }
        found
    }

    /// What was done to a path (`A`, `C`, `D`), and its severity.
    pub(super) fn of(&self, path: &str) -> Option<(char, &'static str)> {
        self.known.get(path).copied()
    }

    /// The section; what is not bad is folded.
    pub(super) fn write(&self, page: &mut Page) {
        let total: usize = self.counts.iter().sum();
        page.element("h2", &format!("Changes to the image: {total}"));
        if total == 0 {
            page.element("p", "The container is as its image was built.");
        }
        for (rank, changes) in self.by_severity.iter().enumerate() {
            if changes.is_empty() {
                continue;
            }
            let title = format!("{}: {}", SEVERITIES[rank], self.counts[rank]);
            page.fold(
                SEVERITIES[rank],
                &title,
                rank < 2 || (rank == 2 && changes.len() <= FEW),
            );
            page.markup("<table class=\"paths\"><tr><th></th><th>path<th>what it means</tr>");
            for change in changes {
                let letter = match change.letter() {
                    'A' => "added",
                    'C' => "changed",
                    'D' => "deleted",
                    _ => "",
                };
                page.row("path", &[letter, &change.path, &change.meaning()]);
            }
            page.markup("</table>");
            let more = self.counts[rank] - changes.len();
            if more > 0 {
                page.element("p", &format!("{more} more are in {}.", record::NAME));
            }
            page.markup("</details>");
        }
    }
}
