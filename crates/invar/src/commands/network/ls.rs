//! `invar network ls`

use std::process::ExitCode;

use invar_engine::embedded::{EmbeddedEngine, NetworkInfo};

use crate::cli::Cli;
use crate::printer::{self, Format};

/// List networks, the default one once a container was in it
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only the ids
    #[arg(short, long)]
    quiet: bool,

    /// How to write it
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
}

pub(crate) fn run(cli: &Cli, args: &Args) -> anyhow::Result<ExitCode> {
    let networks = EmbeddedEngine::open(cli.root())?.networks()?;
    if args.quiet {
        printer::lines(networks.iter().map(|network| short(network).to_owned()))?;
        return Ok(ExitCode::SUCCESS);
    }
    match args.format {
        Format::Table => printer::table(
            [
                "NETWORK ID",
                "NAME",
                "SUBNET",
                "SUBNET6",
                "BRIDGE",
                "CONTAINERS",
            ],
            networks.iter().map(row),
        )?,
        Format::Json => printer::json(&networks)?,
        Format::Jsonl => printer::jsonl(&networks)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn short(network: &NetworkInfo) -> &str {
    network.id.get(..12).unwrap_or(&network.id)
}

fn row(network: &NetworkInfo) -> [String; 6] {
    [
        short(network).to_owned(),
        network.name.clone(),
        network.subnet.clone(),
        network.subnet6.clone().unwrap_or_else(|| "-".to_owned()),
        network.bridge.clone(),
        network.containers.len().to_string(),
    ]
}
