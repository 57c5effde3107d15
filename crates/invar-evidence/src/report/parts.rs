//! What a report opens with, and what it must not leave unsaid.

use std::collections::BTreeMap;

use super::found::{Changes, SEVERITIES};
use super::html::Page;
use super::tree::Tree;
use crate::capture::memory::{self, Core};
use crate::capture::mounted;
use crate::error::Result;
use crate::header::Header;
use crate::lines::Lines;
use crate::store::{Evidence, State};
use crate::tree::take::{Method, Taken};

/// Findings named at the top.
const MOST_FINDINGS: usize = 12;
/// Cores counted.
const MOST_CORES: usize = 100_000;
/// Things named for one reason.
const MOST_NAMED: usize = 50;

/// The state of the capture in one line, when a reader must know it first.
pub(super) fn warning(page: &mut Page, evidence: &Evidence, header: &Header) {
    let is_complete = header.summary.as_ref().map(|summary| summary.is_complete);
    let text = match (evidence.state, is_complete) {
        (State::Sealed, Some(true)) => return,
        (State::Sealed, _) => {
            "The capture broke off and was finished later: see what was not captured."
        }
        _ => "The capture broke off: nothing here is sealed, and much may be missing.",
    };
    page.classed("p", "alarm", text);
}

/// What was found, in numbers and in the worst findings.
pub(super) fn outline(page: &mut Page, header: &Header, changes: &Changes, tree: &Tree<'_>) {
    page.markup("<div class=\"tiles\">");
    for (rank, severity) in SEVERITIES.iter().enumerate() {
        let count = changes.counts[rank];
        let class = if count == 0 { "none" } else { severity };
        page.tile(class, &count.to_string(), severity);
    }
    let unusual = tree.unusual();
    let class = if unusual.is_empty() { "plain" } else { "high" };
    let label = format!("of {} processes unusual", tree.count());
    page.tile(class, &unusual.len().to_string(), &label);
    let gaps = header.summary.as_ref().map_or(0, |summary| summary.gaps);
    page.tile("plain", &gaps.to_string(), "not captured");
    page.markup("</div>");
    if changes.counts[..3].iter().all(|count| *count == 0) && unusual.is_empty() {
        page.classed(
            "p",
            "calm",
            "Nothing stands out: no critical, high or medium change.",
        );
        return;
    }
    page.markup("<ul class=\"findings\">");
    for (process, reasons) in unusual.iter().take(MOST_FINDINGS) {
        let text = format!(
            "process {} {}: {}",
            process.pid,
            process.name,
            reasons.join("; ")
        );
        page.classed("li", "high", &text);
    }
    for change in changes.worst().take(MOST_FINDINGS) {
        let class = SEVERITIES[change.rank()];
        let text = format!("{}: {}", change.path, change.meaning());
        page.classed("li", class, &text);
    }
    let more = (changes.counts[0] + changes.counts[1]).saturating_sub(MOST_FINDINGS);
    if more > 0 {
        page.classed(
            "li",
            "high",
            &format!("{more} more, critical or high, below"),
        );
    }
    for (meaning, count, first) in changes.medium().iter().take(MOST_FINDINGS) {
        let text = match count {
            1 => format!("{first}: {meaning}"),
            count => format!("{first} and {} more: {meaning}", count - 1),
        };
        page.classed("li", "medium", &text);
    }
    page.markup("</ul>");
}

/// What it is.
pub(super) fn facts(page: &mut Page, evidence: &Evidence, header: &Header) -> Result<()> {
    let container = &header.container;
    page.element("h2", "What was captured, and how");
    page.markup("<table class=\"facts\">");
    let mut fact = |name: &str, value: String| page.row("fact", &[name, &value]);
    fact(
        "container",
        format!("{}:{} ({})", container.engine, container.name, container.id),
    );
    fact(
        "image",
        format!("{} ({})", container.image_name, container.image),
    );
    fact("revision", container.revision.clone());
    fact("created", container.created_at.to_string());
    if let Some(started) = container.started_at {
        fact("started", started.to_string());
    }
    fact("host", format!("{}, Linux {}", header.host, header.kernel));
    fact(
        "captured",
        format!("{} by {}", header.begun_at, header.tool),
    );
    match (&header.summary, evidence.state) {
        (Some(summary), State::Sealed) => {
            fact("sealed", summary.sealed_at.to_string());
            if let Some(frozen) = summary.frozen_ms {
                let after = if header.plan.stop {
                    ", then killed without running again"
                } else {
                    ", then it went on"
                };
                fact("frozen", format!("for {frozen} ms{after}"));
            }
            if let Some(upper) = &summary.upper {
                fact("changed files", how(upper));
            }
        }
        _ => fact("sealed", "no: the capture broke off".to_owned()),
    }
    for mount in mounted::read(&evidence.dir)? {
        let text = format!(
            "{}, as {}: {}",
            mount.mounted_at,
            mount.tree,
            how(&mount.taken)
        );
        fact(mount.kind.name(), text);
    }
    let cores = Lines::<Core>::open(&evidence.dir.join(memory::NAME))?;
    let cores: Vec<Core> = cores.take(MOST_CORES).collect::<Result<_>>()?;
    if !cores.is_empty() {
        let bytes: u64 = cores.iter().map(|core| core.bytes).sum();
        let text = format!("of {} processes, {bytes} bytes, in memory/", cores.len());
        fact("memory", text);
    }
    page.markup("</table>");
    Ok(())
}

fn how(taken: &Taken) -> String {
    let mut text = match taken.method {
        Method::Renamed => "moved into the evidence, no byte copied".to_owned(),
        Method::Linked => "linked, then the container was removed".to_owned(),
        Method::Copied => format!("{} entries, {} bytes copied", taken.entries, taken.copied),
    };
    if taken.taken_live > 0 {
        let more = format!(
            ", {} of them after the container went on; {} of these may have changed",
            taken.taken_live, taken.changed_meanwhile
        );
        text.push_str(&more);
    }
    text
}

/// What a reader must not conclude from its absence; what shares a reason together.
pub(super) fn gaps(page: &mut Page, header: &Header) {
    page.element("h2", "Not captured");
    let Some(summary) = &header.summary else {
        page.element("p", "The capture broke off: see the capture log.");
        return;
    };
    let mut by_reason: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for gap in &summary.not_captured {
        by_reason.entry(&gap.reason).or_default().push(&gap.what);
    }
    page.markup("<table class=\"gaps\"><tr><th>why<th>what</tr>");
    for (reason, names) in by_reason {
        let more = format!("and {} more", names.len().saturating_sub(MOST_NAMED));
        let mut shown: Vec<&str> = names.iter().copied().take(MOST_NAMED).collect();
        if names.len() > MOST_NAMED {
            shown.push(&more);
        }
        page.row("gap", &[reason, &shown.join("\n")]);
    }
    page.markup("</table>");
    let more = summary
        .gaps
        .saturating_sub(summary.not_captured.len() as u64);
    if more > 0 {
        page.element("p", &format!("{more} more are in the capture log."));
    }
}
