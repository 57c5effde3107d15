//! `invar doctor`

use std::process::ExitCode;

use owo_colors::{OwoColorize as _, Stream};

use crate::cli::Cli;
use crate::doctor::{self, Diagnosis, Finding, Verdict};
use crate::exit::FAILED;
use crate::printer::{self, Format};
use crate::privilege;

/// Say what this host can do for containers, by trying, and how to get what is missing
///
/// Ends with 0 when containers can run here, also without everything; with 1 when something they
/// need is missing. Changes nothing.
///
/// The level is how well a container's files are protected here: L0 a read-only root; L1 and a
/// store whose files can be made unchangeable; L2 and every read checked by the kernel (fs-verity);
/// L3 and signed images only (dm-verity, IPE).
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// How to write it
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
}

pub(crate) fn run(cli: &Cli, args: &Args) -> anyhow::Result<ExitCode> {
    privilege::require_root()?;
    let diagnosis = doctor::examine(cli.root())?;
    match args.format {
        Format::Table => show(&diagnosis)?,
        Format::Json => printer::json(&diagnosis)?,
        Format::Jsonl => printer::jsonl(&diagnosis.findings)?,
    }
    Ok(if diagnosis.can_run_containers {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(FAILED)
    })
}

fn show(diagnosis: &Diagnosis) -> anyhow::Result<()> {
    printer::line(format!(
        "Level {:?}: {}",
        diagnosis.level,
        diagnosis.level.meaning()
    ))?;
    let mut group = "";
    for finding in &diagnosis.findings {
        if finding.group != group {
            group = finding.group;
            printer::line(format!("\n{group}"))?;
        }
        printer::line(format!(
            "  {} {:<20} {}",
            mark(finding),
            finding.name.replace('_', " "),
            printer::escape(finding.found.as_bytes())
        ))?;
        if let Some(how) = finding.how_to_get_it {
            printer::line(format!("    {:<20} → {how}", ""))?;
        }
    }
    let missing = diagnosis
        .findings
        .iter()
        .filter(|f| f.verdict != Verdict::Works);
    let verdict = if diagnosis.can_run_containers {
        "Containers can run here"
    } else {
        "Containers cannot run here"
    };
    Ok(printer::line(format!(
        "\n{verdict}; {} not there.",
        missing.count()
    ))?)
}

fn mark(finding: &Finding) -> String {
    match finding.verdict {
        Verdict::Works => "✓"
            .if_supports_color(Stream::Stdout, |m| m.green())
            .to_string(),
        Verdict::Missing => "–"
            .if_supports_color(Stream::Stdout, |m| m.yellow())
            .to_string(),
        Verdict::Needed => "✗"
            .if_supports_color(Stream::Stdout, |m| m.red())
            .to_string(),
    }
}
