//! `invar history`

use std::path::PathBuf;
use std::process::ExitCode;

use invar_rollout::driver::Store;
use invar_rollout::history::{self, Told};
use jiff::Timestamp;

use crate::cli::Cli;
use crate::deploying::advise;
use crate::deploying::show::escape;
use crate::printer::{self, Format};
use crate::privilege;

/// Show every decision of a service's rollouts, with the numbers it stood on
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The service: its name, or PROJECT.NAME
    #[arg(value_name = "SERVICE")]
    service: String,

    /// Write a page with charts instead: one file, nothing loaded from elsewhere
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,

    /// Show the numbers of every look, not only of decisions
    #[arg(long)]
    all: bool,

    /// How the list is written
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
}

pub(crate) fn run(cli: &Cli, args: &Args) -> anyhow::Result<ExitCode> {
    privilege::require_root()?;
    let store = Store::open(cli.root())?;
    let service = store.find(&args.service).map_err(advise)?;
    let mut told = history::read(&store, &service).map_err(advise)?;
    if let Some(path) = &args.html {
        fs_err::write(path, history::html(&service, &told))?;
        printer::note(format!("written to {}", path.display()));
        return Ok(ExitCode::SUCCESS);
    }
    if !args.all {
        for one in &mut told {
            one.decisions.retain(|decision| decision.kind != "look");
        }
    }
    match args.format {
        Format::Table => printer::lines(told.iter().flat_map(lines))?,
        Format::Json => printer::json(&told)?,
        Format::Jsonl => printer::jsonl(&told)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn lines(told: &Told) -> Vec<String> {
    let from = told.stable.as_deref().unwrap_or("nothing");
    let mut lines = vec![format!("rollout {}: {from} → {}", told.number, told.target)];
    for decision in &told.decisions {
        let at = i64::try_from(decision.at_ms).unwrap_or(i64::MAX);
        let at = Timestamp::from_millisecond(at).unwrap_or(Timestamp::UNIX_EPOCH);
        lines.push(format!(
            "  {}  {:<11} {:>6.2} %  {}",
            at.strftime("%Y-%m-%d %H:%M:%S"),
            decision.kind,
            f64::from(decision.weight) / 100.0,
            escape(&decision.text)
        ));
        if let Some(numbers) = &decision.numbers {
            lines.push(format!(
                "      new {} of {} failed · before {} of {} · evidence errors {:.2} (25), latency {:.2} \
                 (100) · excess at most {:.2} %",
                numbers.canary_errors,
                numbers.canary_requests,
                numbers.baseline_errors,
                numbers.baseline_requests,
                numbers.errors_evidence,
                numbers.latency_evidence,
                numbers.excess_bound * 100.0
            ));
        }
    }
    lines
}
