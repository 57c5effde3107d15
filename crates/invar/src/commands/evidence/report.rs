//! `invar evidence report`

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use invar_evidence::EvidenceStore;

use crate::cli::Cli;

/// Write a report for people: one HTML file that needs nothing else
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Id of the evidence, or its beginning or end
    id: String,

    /// File to write, which appears when it is complete (default: standard output)
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

pub(crate) fn run(cli: &Cli, args: &Args) -> anyhow::Result<ExitCode> {
    let store = EvidenceStore::open(cli.root())?;
    let evidence = super::find(cli, &store, &args.id)?;
    let Some(path) = &args.output else {
        let mut out = io::stdout().lock();
        invar_evidence::report(&evidence, &mut out)?;
        out.flush()?;
        return Ok(ExitCode::SUCCESS);
    };
    super::write_whole(path, |file| Ok(invar_evidence::report(&evidence, file)?))
        .with_context(|| format!("could not write {}", path.display()))?;
    Ok(ExitCode::SUCCESS)
}
