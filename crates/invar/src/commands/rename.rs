//! `invar rename`

use std::process::ExitCode;

use invar_engine::ContainerName;

use crate::cli::Cli;
use crate::{engines, privilege};

/// Give a container another name
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Name or id
    container: String,

    /// The new name, which must be free
    name: String,
}

pub(crate) fn run(cli: &Cli, args: &Args) -> anyhow::Result<ExitCode> {
    privilege::require_root()?;
    let name = ContainerName::parse(&args.name)?;
    let found = engines::find(cli.root(), &args.container)?;
    found.engine.rename(&found.container.id, &name)?;
    Ok(ExitCode::SUCCESS)
}
