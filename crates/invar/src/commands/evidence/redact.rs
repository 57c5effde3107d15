//! `invar evidence redact`

use std::path::PathBuf;
use std::process::ExitCode;

use invar_evidence::EvidenceStore;

use super::export;
use crate::cli::Cli;

/// Write a copy for others: without environments, arguments, output and the content of files
///
/// The copy names the sealed evidence it was derived from, which stays as it is.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Id of the evidence, or its beginning or end
    id: String,

    /// File to write, which appears when it is complete; `-` for standard output
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
}

pub(crate) fn run(cli: &Cli, args: &Args) -> anyhow::Result<ExitCode> {
    let store = EvidenceStore::open(cli.root())?;
    let evidence = super::find(cli, &store, &args.id)?;
    let mut redacted = None;
    export::write(&args.output, &mut |out| {
        redacted = Some(invar_evidence::redact(&store, &evidence, out)?);
        Ok(())
    })?;
    if let Some(redacted) = &redacted {
        export::sign(&args.output, None, redacted)?;
    }
    Ok(ExitCode::SUCCESS)
}
