//! The attack as `invar diff` sees it: complete, nothing else, and more than `docker diff` shows.

use std::os::fd::AsFd as _;

use anyhow::Context as _;
use invar_drift::{Change, Kind, Options, Severity};

use super::attack::{CRON, IN_TMP, PROGRAM, SETUID};
use super::report::Step;
use super::site::Site;
use super::target::Target;
use crate::commands::diff;

/// A change that must be found: where, what, and how bad at least.
struct Expected<'a> {
    path: &'a str,
    kind: Kind,
    severity: Severity,
}

fn expected(target: &Target) -> [Expected<'_>; 6] {
    let change = |path, kind, severity| Expected {
        path,
        kind,
        severity,
    };
    [
        change(PROGRAM, Kind::Added, Severity::High),
        change(IN_TMP, Kind::Added, Severity::High),
        change(target.page(), Kind::Changed, Severity::Critical),
        change(target.deleted(), Kind::Deleted, Severity::Info),
        change(SETUID, Kind::Added, Severity::Critical),
        change(CRON, Kind::Added, Severity::High),
    ]
}

/// Compares the attacked container with its image and checks what is said.
pub(super) fn check(target: &Target, site: &Site<'_>, step: &mut Step) -> anyhow::Result<()> {
    let changes = changes(target, site)?;
    let expected = expected(target);
    let finds = |expected: &&Expected<'_>| {
        changes.iter().any(|change| {
            change.path == expected.path.as_bytes()
                && change.actual == Some(expected.kind)
                && change.severity >= expected.severity
        })
    };
    // A directory on the way to a change is neither the attacker's doing nor a surprise.
    for change in changes
        .iter()
        .filter(|change| !is_on_the_way(change, &expected))
    {
        if let Some(kind) = change.actual {
            step.show(&diff::row(kind, change));
        }
    }
    let found = expected.iter().filter(finds).count();
    step.claim(
        found == expected.len(),
        format!(
            "{found} of {} changes are found, each as bad as it is",
            expected.len()
        ),
    );
    let others = changes
        .iter()
        .filter(|change| !is_one_of(change, &expected) && !is_on_the_way(change, &expected))
        .count();
    step.claim(others == 0, "nothing else is reported");
    let page = changes
        .iter()
        .find(|change| change.path == target.page().as_bytes());
    step.claim(
        page.is_some_and(|page| page.compatible.is_none()),
        "docker diff would not show the edited page",
    );
    Ok(())
}

/// What differs by content. The place where the drill comes in is a change, as with Docker, and
/// not the attacker's.
pub(super) fn changes(target: &Target, site: &Site) -> anyhow::Result<Vec<Change>> {
    let root = site.engine().open_root(site.id())?;
    let upper = root
        .upper
        .context("a writable container has an upper directory")?;
    let options = Options {
        content: true,
        ..Options::default()
    };
    let mut changes = invar_drift::changes(root.lower.as_fd(), upper.dir.as_fd(), &options)?;
    let own = target.mount_point().map(str::as_bytes);
    changes.retain(|change| own != Some(change.path.as_slice()));
    Ok(changes)
}

fn is_one_of(change: &Change, expected: &[Expected<'_>]) -> bool {
    expected
        .iter()
        .any(|expected| change.path == expected.path.as_bytes())
}

/// Whether a change is a directory that leads to one of the attacker's.
fn is_on_the_way(change: &Change, expected: &[Expected<'_>]) -> bool {
    expected.iter().any(|expected| {
        expected
            .path
            .as_bytes()
            .strip_prefix(change.path.as_slice())
            .is_some_and(|rest| rest.starts_with(b"/"))
    })
}
