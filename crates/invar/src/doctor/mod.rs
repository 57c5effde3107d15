//! What this host can do for containers, found by trying, and how to get what is missing.
//!
//! ```text
//!  checks (kernel · storage · limits · confinement · observation · programs) ─▶ Finding
//!                                                         └─▶ level L0–L3 ─▶ table or JSON
//! ```
//!
//! Each check does the thing and undoes it; nothing is read from a version or a list alone where
//! it can be tried. Nothing of the host is changed.

mod confinement;
mod kernel;
mod level;
mod limits;
mod observation;
mod programs;
mod storage;

use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;

use anyhow::Context as _;
use serde::Serialize;

pub(crate) use level::Level;

/// Whether a capability is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Verdict {
    /// It was done, or is there.
    Works,
    /// It is not there, and Invar does without.
    Missing,
    /// It is not there, and containers cannot run without it.
    Needed,
}

/// One capability of the host.
#[derive(Debug, Serialize)]
pub(crate) struct Finding {
    /// What part of the host it belongs to.
    pub(crate) group: &'static str,
    /// Its name; stable.
    pub(crate) name: &'static str,
    /// Whether it is there.
    pub(crate) verdict: Verdict,
    /// What was found, or what the kernel answered.
    pub(crate) found: String,
    /// What is lost without it and how to get it; only when it is missing.
    pub(crate) how_to_get_it: Option<&'static str>,
}

/// What one host can do.
#[derive(Debug, Serialize)]
pub(crate) struct Diagnosis {
    /// How well a container's root is protected here.
    pub(crate) level: Level,
    /// Whether containers can run.
    pub(crate) can_run_containers: bool,
    /// Every capability, in a stable order.
    pub(crate) findings: Vec<Finding>,
}

/// Examines this host; `root` is the state root, whose file system is the one that matters.
pub(crate) fn examine(root: &Path) -> anyhow::Result<Diagnosis> {
    // The state root is made by the first command that needs it; this may be that one.
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(root)
        .with_context(|| format!("could not make the state root {}", root.display()))?;
    let mut findings = Vec::new();
    kernel::check(&mut findings);
    storage::check(root, &mut findings);
    limits::check(&mut findings);
    confinement::check(&mut findings);
    observation::check(root, &mut findings);
    programs::check(&mut findings);
    Ok(Diagnosis {
        level: level::of(&findings),
        can_run_containers: findings.iter().all(|f| f.verdict != Verdict::Needed),
        findings,
    })
}

impl Diagnosis {
    /// Whether the capability of this name works.
    #[cfg(test)]
    fn works(&self, name: &str) -> bool {
        works(&self.findings, name)
    }
}

fn works(findings: &[Finding], name: &str) -> bool {
    findings
        .iter()
        .any(|finding| finding.name == name && finding.verdict == Verdict::Works)
}

/// Collects the findings of one group.
struct Group<'a> {
    name: &'static str,
    findings: &'a mut Vec<Finding>,
}

impl Group<'_> {
    /// Adds what trying came to; without it, Invar does something else.
    fn tried(
        &mut self,
        name: &'static str,
        outcome: Result<impl Into<String>, impl std::fmt::Display>,
        how_to_get_it: &'static str,
    ) {
        self.add(name, outcome, Verdict::Missing, how_to_get_it);
    }

    /// Adds what trying came to; without it, no container runs.
    fn needed(
        &mut self,
        name: &'static str,
        outcome: Result<impl Into<String>, impl std::fmt::Display>,
        how_to_get_it: &'static str,
    ) {
        self.add(name, outcome, Verdict::Needed, how_to_get_it);
    }

    fn add(
        &mut self,
        name: &'static str,
        outcome: Result<impl Into<String>, impl std::fmt::Display>,
        otherwise: Verdict,
        how_to_get_it: &'static str,
    ) {
        let (verdict, found, how) = match outcome {
            Ok(found) => (Verdict::Works, found.into(), None),
            Err(error) => (otherwise, error.to_string(), Some(how_to_get_it)),
        };
        self.findings.push(Finding {
            group: self.name,
            name,
            verdict,
            found,
            how_to_get_it: how,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn examining_leaves_nothing_in_the_state_root_and_finds_what_the_tests_need() {
        let root = tempfile::tempdir_in("/var/tmp").unwrap();
        let diagnosis = examine(root.path()).unwrap();
        assert!(diagnosis.can_run_containers, "{diagnosis:?}");
        for name in ["overlay", "seccomp", "cgroups"] {
            assert!(diagnosis.works(name), "{name}: {diagnosis:?}");
        }
        assert_eq!(fs_err::read_dir(root.path()).unwrap().count(), 0);
    }

    #[test]
    fn every_capability_has_its_own_name_and_a_way_to_get_it() {
        let root = tempfile::tempdir_in("/var/tmp").unwrap();
        let findings = examine(root.path()).unwrap().findings;
        let names: std::collections::BTreeSet<_> = findings.iter().map(|f| f.name).collect();
        assert_eq!(names.len(), findings.len());
        for finding in findings {
            let has_way = finding.how_to_get_it.is_some_and(|text| !text.is_empty());
            assert_eq!(has_way, finding.verdict != Verdict::Works, "{finding:?}");
        }
    }
}
