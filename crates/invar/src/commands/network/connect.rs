//! `invar network connect`

use std::net::Ipv4Addr;
use std::process::ExitCode;

use invar_engine::Membership;
use invar_engine::embedded::EmbeddedEngine;

use crate::cli::Cli;
use crate::container_config;

/// Put a container into one more network, also while it runs
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Find it by this name too; may be repeated
    #[arg(long, value_name = "NAME")]
    alias: Vec<String>,

    /// The address it must have there
    #[arg(long, value_name = "ADDRESS")]
    ip: Option<Ipv4Addr>,

    /// Name or id of the network
    network: String,

    /// Name or id of the container
    container: String,
}

pub(crate) fn run(cli: &Cli, args: &Args) -> anyhow::Result<ExitCode> {
    let id = super::embedded(cli, &args.container)?;
    let aliases = args.alias.iter();
    let membership = Membership {
        network: args.network.clone(),
        aliases: aliases
            .map(|alias| container_config::host_name(alias))
            .collect::<anyhow::Result<_>>()?,
        address: args.ip,
    };
    EmbeddedEngine::open(cli.root())?.connect_network(&id, &membership)?;
    Ok(ExitCode::SUCCESS)
}
