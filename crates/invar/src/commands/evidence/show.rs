//! `invar evidence show`

use std::process::ExitCode;

use invar_evidence::{EvidenceStore, Header, State, Summary};
use serde::Serialize;

use crate::cli::Cli;
use crate::printer::{self, Format};

/// Show what a piece of evidence holds, and what it does not
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Id of the evidence, or its beginning or end
    id: String,

    /// How to write it
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
}

#[derive(Serialize)]
struct Document<'a> {
    id: &'a str,
    state: State,
    path: String,
    evidence: Option<&'a Header>,
}

pub(crate) fn run(cli: &Cli, args: &Args) -> anyhow::Result<ExitCode> {
    let store = EvidenceStore::open(cli.root())?;
    let evidence = super::find(cli, &store, &args.id)?;
    let document = Document {
        id: evidence.id.as_str(),
        state: evidence.state,
        path: evidence.dir.display().to_string(),
        evidence: evidence.header.as_ref(),
    };
    match args.format {
        Format::Table => printer::lines(lines(&document).into_iter())?,
        Format::Json => printer::json(&document)?,
        Format::Jsonl => printer::jsonl([&document])?,
    }
    Ok(ExitCode::SUCCESS)
}

fn lines(document: &Document<'_>) -> Vec<String> {
    let mut lines = Vec::new();
    let mut add = |name: &str, value: &str| {
        lines.push(format!("{name:<12}{}", printer::escape(value.as_bytes())));
    };
    add("evidence", document.id);
    add("state", state(document.state));
    add("kept in", &document.path);
    let Some(header) = document.evidence else {
        return lines;
    };
    let container = &header.container;
    add(
        "container",
        &format!(
            "{}:{} ({})",
            container.engine,
            container.name,
            container.id.short()
        ),
    );
    add(
        "image",
        &format!("{} ({})", container.image_name, container.image),
    );
    add("host", &format!("{}, Linux {}", header.host, header.kernel));
    add("begun", &header.begun_at.to_string());
    if let Some(summary) = &header.summary {
        found(summary, &mut add);
        lines.push(String::new());
        lines.push("not captured:".to_owned());
        let gap = |gap: &invar_evidence::Gap| {
            let text = format!("{}: {}", gap.what, gap.reason);
            format!("  {}", printer::escape(text.as_bytes()))
        };
        lines.extend(summary.not_captured.iter().map(gap));
    }
    lines
}

fn found(summary: &Summary, add: &mut impl FnMut(&str, &str)) {
    add("sealed", &summary.sealed_at.to_string());
    if !summary.is_complete {
        add("complete", "no: the capture broke off");
    }
    if let Some(frozen) = summary.frozen_ms {
        add("frozen", &format!("{frozen} ms"));
    }
    add("processes", &summary.processes.to_string());
    if let Some(upper) = &summary.upper {
        let how = match upper.method {
            invar_evidence::Method::Renamed => "moved",
            invar_evidence::Method::Linked => "linked",
            invar_evidence::Method::Copied => "copied",
        };
        let mut text = format!("{how}, {} copied", printer::size(upper.copied));
        if upper.taken_live > 0 {
            text.push_str(", most of it after it went on");
        }
        if upper.changed_meanwhile > 0 {
            let more = format!("; {} entries changed meanwhile", upper.changed_meanwhile);
            text.push_str(&more);
        }
        add("upper", &text);
    }
    let changes: Vec<String> = SEVERITIES
        .iter()
        .filter_map(|name| Some(format!("{} {name}", summary.changes.get(*name)?)))
        .collect();
    let changes = if changes.is_empty() {
        "none".to_owned()
    } else {
        changes.join(", ")
    };
    add("changes", &changes);
}

/// Worst first.
const SEVERITIES: &[&str] = &["critical", "high", "medium", "low", "info"];

/// The worst severity found.
pub(super) fn worst(summary: &Summary) -> &'static str {
    SEVERITIES
        .iter()
        .find(|name| summary.changes.contains_key(**name))
        .unwrap_or(&"-")
}

/// A state in one word.
pub(super) fn state(state: State) -> &'static str {
    match state {
        State::Capturing => "capturing",
        State::Sealing => "sealing",
        State::Incomplete => "incomplete",
        State::Sealed => "sealed",
    }
}
