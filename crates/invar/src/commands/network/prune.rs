//! `invar network prune`

use std::process::ExitCode;

use invar_engine::embedded::{DEFAULT_NETWORK, EmbeddedEngine};
use invar_engine::{Engine as _, EngineError, Network};

use crate::cli::Cli;
use crate::printer;

/// Remove every network that no container asks for, running or not
///
/// The default network goes too, and comes back with the next container that needs it.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Accepted for scripts written for Docker; nothing is asked
    #[arg(short, long)]
    force: bool,
}

pub(crate) fn run(cli: &Cli, _args: &Args) -> anyhow::Result<ExitCode> {
    let engine = EmbeddedEngine::open(cli.root())?;
    let containers = engine.list()?;
    for network in engine.networks()? {
        let is_default = network.name == DEFAULT_NETWORK;
        let is_wanted = containers.iter().any(|container| {
            let first = match &container.config.network {
                Network::Named(first) => Some(first),
                _ => None,
            };
            let further = container.config.networking.further.iter();
            let mut asked = first.into_iter().chain(further.map(|other| &other.network));
            asked.any(|name| *name == network.name || network.id.starts_with(name.as_str()))
                && (!is_default || container.init_pid.is_some())
        });
        if is_wanted {
            continue;
        }
        match engine.remove_network(&network.id) {
            Ok(name) => printer::line(name)?,
            // A container was started in it, or another command removed it.
            Err(EngineError::NetworkInUse { .. } | EngineError::NetworkNotFound { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(ExitCode::SUCCESS)
}
