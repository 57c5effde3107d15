//! `invar logout`

use std::process::ExitCode;

use invar_image::registry;

use super::login::registry_name;
use crate::cli::Cli;
use crate::printer;

/// Forget the credentials for a registry
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// HOST[:PORT] (default: Docker Hub)
    registry: Option<String>,
}

pub(crate) fn run(_cli: &Cli, args: &Args) -> anyhow::Result<ExitCode> {
    let registry = registry_name(args.registry.as_deref())?;
    if registry::forget(&registry)? {
        printer::line(format!("Logged out of {registry}"))?;
    } else {
        printer::note(format!("There were no credentials for {registry}"));
    }
    Ok(ExitCode::SUCCESS)
}
