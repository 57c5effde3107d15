//! `invar unpause`

use std::process::ExitCode;

use crate::cli::Cli;
use crate::{engines, printer, privilege, several};

/// Let frozen containers go on
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Names or ids
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

pub(crate) fn run(cli: &Cli, args: &Args) -> anyhow::Result<ExitCode> {
    privilege::require_root()?;
    Ok(several::each(&args.containers, |name| {
        let found = engines::find(cli.root(), name)?;
        found.engine.resume(&found.container.id)?;
        Ok(printer::line(name)?)
    }))
}
