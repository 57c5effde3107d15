//! The parts of a report.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::Deserialize;

use super::html::Page;
use crate::capture::processes::Process;
use crate::capture::{changes as record, timeline as times};
use crate::error::Result;
use crate::header::Header;
use crate::lines::Lines;
use crate::store::{Evidence, State};
use crate::tree::take::Method;

/// Changes shown; the rest is in the evidence.
const MOST_CHANGES: usize = 5000;
/// Events shown, the last ones.
const MOST_EVENTS: usize = 2000;
/// Deepest process tree drawn; what is deeper is drawn at this depth.
const DEEPEST: usize = 64;
const SEVERITIES: [&str; 5] = ["critical", "high", "medium", "low", "info"];

/// What it is, and what was found in numbers.
pub(super) fn overview(page: &mut Page, evidence: &Evidence, header: &Header) {
    let container = &header.container;
    page.markup("<table class=\"facts\">");
    let mut fact = |name: &str, value: String| page.row("fact", &[name, &value]);
    fact(
        "container",
        format!("{}:{}", container.engine, container.name),
    );
    fact("container id", container.id.to_string());
    fact(
        "image",
        format!("{} ({})", container.image_name, container.image),
    );
    fact("revision", container.revision.clone());
    fact("host", format!("{}, Linux {}", header.host, header.kernel));
    fact(
        "captured",
        format!("{} by {}", header.begun_at, header.tool),
    );
    match (&header.summary, evidence.state) {
        (Some(summary), State::Sealed) => {
            fact("sealed", summary.sealed_at.to_string());
            if !summary.is_complete {
                fact("complete", "no: the capture broke off".to_owned());
            }
            if let Some(frozen) = summary.frozen_ms {
                fact("frozen", format!("{frozen} ms"));
            }
            if let Some(upper) = &summary.upper {
                let how = match upper.method {
                    Method::Renamed => "moved into the evidence, no byte copied",
                    Method::Linked => "linked, then the container was removed",
                    Method::Copied => "copied while frozen",
                };
                fact("upper directory", how.to_owned());
            }
        }
        _ => fact("sealed", "no: the capture broke off".to_owned()),
    }
    page.markup("</table>");
}

#[derive(Deserialize)]
struct Change {
    path: String,
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

/// Changed paths, the worst first.
pub(super) fn changes(page: &mut Page, dir: &Path) -> Result<()> {
    let mut by_severity: BTreeMap<usize, Vec<Change>> = BTreeMap::new();
    let mut total = 0_usize;
    for change in Lines::<Change>::open(&dir.join(record::NAME))? {
        let change = change?;
        total += 1;
        let rank = SEVERITIES
            .iter()
            .position(|name| *name == change.severity)
            .unwrap_or(SEVERITIES.len() - 1);
        let rank = by_severity.entry(rank).or_default();
        if rank.len() < MOST_CHANGES {
            rank.push(change);
        }
    }
    page.element("h2", &format!("Changes: {total}"));
    if total == 0 {
        page.element("p", "The container is as its image was built.");
        return Ok(());
    }
    page.markup("<table class=\"paths\"><tr><th>severity<th></th><th>path<th>what it means</tr>");
    let mut shown = 0;
    for (rank, changes) in &by_severity {
        for change in changes.iter().take(MOST_CHANGES - shown) {
            shown += 1;
            let letter = change.actual.or(change.compatible).unwrap_or(' ');
            let meaning = meaning(change);
            let cells = [
                SEVERITIES[*rank],
                &letter.to_string(),
                &change.path,
                &meaning,
            ];
            page.row(SEVERITIES[*rank], &cells);
        }
    }
    page.markup("</table>");
    if shown < total {
        let text = format!("{} more are in {}.", total - shown, record::NAME);
        page.element("p", &text);
    }
    Ok(())
}

fn meaning(change: &Change) -> String {
    let mut parts = Vec::new();
    if let Some(finding) = &change.finding {
        parts.push(match &finding.technique {
            Some(technique) => format!("{} ({technique})", finding.text),
            None => finding.text.clone(),
        });
    }
    if !change.reasons.is_empty() {
        parts.push(format!("changed: {}", change.reasons.join(", ")));
    }
    if change.compatible.is_none() {
        parts.push("docker diff does not show it".to_owned());
    }
    parts.join("; ")
}

/// The process tree.
pub(super) fn processes(page: &mut Page, dir: &Path) -> Result<()> {
    let processes = times::read_processes(dir)?;
    page.element("h2", &format!("Processes: {}", processes.len()));
    if processes.is_empty() {
        return Ok(());
    }
    page.markup(
        "<table class=\"tree\"><tr><th>process<th>user<th>started<th>program<th>what is unusual</tr>",
    );
    let pids: BTreeSet<u32> = processes.iter().map(|process| process.pid).collect();
    let mut children: BTreeMap<u32, Vec<&Process>> = BTreeMap::new();
    let mut pending: Vec<(&Process, usize)> = Vec::new();
    for process in processes.iter().rev() {
        // A process that names itself as its parent would never be drawn.
        if pids.contains(&process.parent) && process.parent != process.pid {
            children.entry(process.parent).or_default().push(process);
        } else {
            pending.push((process, 0));
        }
    }
    while let Some((process, depth)) = pending.pop() {
        row(page, process, depth);
        let below = children.remove(&process.pid).unwrap_or_default();
        let deeper = (depth + 1).min(DEEPEST);
        pending.extend(below.into_iter().map(|child| (child, deeper)));
    }
    page.markup("</table>");
    Ok(())
}

fn row(page: &mut Page, process: &Process, depth: usize) {
    let mut unusual = Vec::new();
    if process
        .exe
        .as_deref()
        .is_some_and(|exe| exe.ends_with(" (deleted)"))
    {
        unusual.push("its program was deleted".to_owned());
    }
    if let Some(kept) = &process.exe_kept {
        unusual.push(format!("program kept as files/{kept}"));
    }
    for file in &process.lost_files {
        let text = format!(
            "holds {} ({} bytes), kept as files/{}",
            file.path, file.size, file.kept
        );
        unusual.push(text);
    }
    let started = process
        .started_at
        .map_or_else(String::new, |at| at.to_string());
    let cells = [
        &format!("{}{} {}", "  ".repeat(depth), process.pid, process.name),
        &process.uid.to_string(),
        &started,
        &format!(
            "{} [{}]",
            process.exe.as_deref().unwrap_or("?"),
            process.args.join(" ")
        ),
        &unusual.join("; "),
    ];
    let class = if unusual.is_empty() { "info" } else { "high" };
    page.row(class, &cells.map(String::as_str));
}

#[derive(Deserialize)]
struct Event {
    datetime: String,
    timestamp_desc: String,
    message: String,
}

/// What happened when.
pub(super) fn timeline(page: &mut Page, dir: &Path) -> Result<()> {
    let mut events = std::collections::VecDeque::new();
    let mut total = 0_usize;
    for event in Lines::<Event>::open(&dir.join(times::NAME))? {
        total += 1;
        events.push_back(event?);
        if events.len() > MOST_EVENTS {
            events.pop_front();
        }
    }
    page.element("h2", &format!("Timeline: {total} events"));
    if events.len() < total {
        let text = format!("The last {MOST_EVENTS}; all are in {}.", times::NAME);
        page.element("p", &text);
    }
    page.markup("<table class=\"times\"><tr><th>time<th>event<th>kind of time</tr>");
    for event in &events {
        let cells = [&event.datetime, &event.message, &event.timestamp_desc];
        page.row("info", &cells.map(String::as_str));
    }
    page.markup("</table>");
    Ok(())
}

/// What a reader must not conclude from its absence.
pub(super) fn gaps(page: &mut Page, header: &Header) {
    page.element("h2", "Not captured");
    let Some(summary) = &header.summary else {
        page.element("p", "The capture broke off: see the capture log.");
        return;
    };
    page.markup("<table class=\"paths\"><tr><th>what<th>why</tr>");
    for gap in &summary.not_captured {
        page.row("info", &[&gap.what, &gap.reason]);
    }
    page.markup("</table>");
    let more = summary
        .gaps
        .saturating_sub(summary.not_captured.len() as u64);
    if more > 0 {
        page.element("p", &format!("{more} more are in the capture log."));
    }
}
