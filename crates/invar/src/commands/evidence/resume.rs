//! `invar evidence resume`

use std::process::ExitCode;

use anyhow::Context as _;
use invar_evidence::{Evidence, EvidenceStore, Limits};

use crate::cli::Cli;
use crate::commands::capture;
use crate::engines;
use crate::printer::Format;

/// Finish a capture that broke off, and seal it
///
/// A container that is still frozen is captured to the end, and then killed or let go on as was
/// asked for. What can no longer be had is recorded in the evidence.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Id of the evidence, or its beginning or end
    id: String,

    /// How to write it
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
}

pub(crate) fn run(cli: &Cli, args: &Args) -> anyhow::Result<ExitCode> {
    let store = EvidenceStore::open(cli.root())?;
    let evidence = store.find(&args.id)?;
    let sealed = finish(cli, &store, &evidence)?;
    capture::print(&sealed, args.format)?;
    Ok(ExitCode::SUCCESS)
}

/// Goes on where the capture broke off.
pub(super) fn finish(
    cli: &Cli,
    store: &EvidenceStore,
    evidence: &Evidence,
) -> anyhow::Result<Evidence> {
    let header = evidence.header.as_ref().with_context(|| {
        format!(
            "evidence {} does not say which container it is of: nothing was taken yet",
            evidence.id
        )
    })?;
    let engine = engines::open(cli.root(), &header.container.engine)?;
    let limits = Limits::default();
    Ok(invar_evidence::finish(
        store,
        evidence,
        engine.as_ref(),
        limits,
    )?)
}
