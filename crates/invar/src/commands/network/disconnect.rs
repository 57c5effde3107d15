//! `invar network disconnect`

use std::process::ExitCode;

use invar_engine::embedded::EmbeddedEngine;

use crate::cli::Cli;

/// Take a container out of a network, also while it runs
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Accepted for scripts written for Docker; a container that runs is always taken out
    #[arg(short, long)]
    force: bool,

    /// Name or id of the network
    network: String,

    /// Name or id of the container
    container: String,
}

pub(crate) fn run(cli: &Cli, args: &Args) -> anyhow::Result<ExitCode> {
    let id = super::embedded(cli, &args.container)?;
    EmbeddedEngine::open(cli.root())?.disconnect_network(&id, &args.network)?;
    Ok(ExitCode::SUCCESS)
}
